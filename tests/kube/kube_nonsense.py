"""Objects that fit their schema and mean nothing, for any kind: what a validator must survive.

They are written from one random number, so a failure is repeated with it; field by field drawing from hypothesis would
be a hundred times slower, and the search here is for crashes on odd but well-typed values, not for the smallest of them.
"""

from __future__ import annotations

from random import Random
from typing import Any

from sampan.kube import schema

TEXTS = (
    "", "a", "x.y", "example.com/a", "example.com/", "/", "//", "/a/../b", "..", ".", "%2F", "*", "*.a.b", "a" * 64, "a" * 254,
    "A_b", "-a", "a-", "é", "\u0000", "\n", "0", "1", "-1", "100%", "101%", "1Gi", "250m", "1e3", "-5", "10.0.0.1",
    "10.43.0.7", "010.0.0.1", "::1", "fd00::1", "::ffff:1.2.3.4", "10.0.0.0/8", "10.0.0.1/8", "fd00::/64", "::/0", "a/24",
    "* * * * *", "@hourly", "TZ=UTC * * * * *", "*/0 61 - , ?", "Europe/Paris", "UTC", "Local", "2030-01-01T00:00:00Z",
    "1h", "-1s", "request.user", "true ==", "self.x", "$(A)", "$(", "{{", "[", "a in (b)", "a=b", "cpu", "memory", "pods",
    "nvidia.com/gpu", "hugepages-2Mi", "requests.storage", "kubernetes.io/hostname", "kubernetes.io/arch", "TCP", "SCTP", "http",
    "default", "Always", "Never", "OnFailure", "In", "NotIn", "Exists", "DoesNotExist", "Gt", "Equal", "ClusterIP", "NodePort",
    "LoadBalancer", "ExternalName", "None", "IPv4", "IPv6", "Prefix", "Exact", "Resource", "Pods", "Object", "External",
    "Utilization", "AverageValue", "Value", "Percent", "Limited", "Exempt", "Queue", "User", "Group", "ServiceAccount",
    "RollingUpdate", "Recreate", "OnDelete", "Indexed", "NonIndexed", "Block", "Filesystem", "ReadWriteOnce", "Delete", "Retain",
    "Guaranteed", "Localhost", "RuntimeDefault", "windows", "linux", "Service", "v1", "metadata.name", "metadata.labels['a']",
    "limits.cpu", "system:masters", "rbac.authorization.k8s.io", "ClusterRole", "kube-root-ca.crt", "Container", "Pod",
)  # fmt: skip
NUMBERS = (
    0,
    1,
    -1,
    2,
    5,
    79,
    80,
    443,
    3600,
    30000,
    65535,
    65536,
    1 << 31,
    -(1 << 31),
    (1 << 63) - 1,
)
AMOUNTS = ("0", "1", "100m", "1Gi", "-1", "1.5", "2e3", 3, 1 << 40, "1n", "999999999999999999999")
KEYS = (
    "a",
    "cpu",
    "memory",
    "example.com/a",
    "",
    "A b",
    "kubernetes.io/os",
    "..",
    "x" * 64,
    "storage",
)
TIMES = ("2030-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "2024-02-29T23:59:59Z")


class Writer:
    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.fullness = self.random.choice((0.15, 0.3, 0.5, 0.8))

    def object(self, api_version: str, kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.value({"$ref": name}, 0)
        metadata = found.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        metadata["name"] = self.random.choice(("a", "b", "x.y", *TEXTS[:20]))
        for key in ("managedFields", "deletionTimestamp", "deletionGracePeriodSeconds"):
            metadata.pop(key, None)
        return {**found, "apiVersion": api_version, "kind": kind, "metadata": metadata}

    def changed(self, obj: dict[str, Any], name: str) -> dict[str, Any]:
        """The same object with parts of another."""
        other = self.value({"$ref": name}, 0)
        return {
            key: self._mixed(each, other.get(key)) if key in ("spec", "status") else each
            for key, each in {**other, **obj}.items()
        }

    def _mixed(self, one: Any, other: Any) -> Any:
        if isinstance(one, dict) and isinstance(other, dict):
            both = {**one, **other}
            return {
                key: self._mixed(one[key], each)
                if key in one and self.random.random() < 0.7
                else each
                for key, each in both.items()
                if self.random.random() < 0.95
            }
        return one if self.random.random() < 0.7 else other

    def value(self, node: schema.Node, depth: int) -> Any:
        random = self.random
        if depth and random.random() < 0.02:
            return None
        name = node.get("$ref")
        if name == schema.QUANTITY or schema.is_quantity(node):
            return random.choice(AMOUNTS)
        if name == schema.INT_OR_STRING or schema.is_int_or_string(node):
            return random.choice(NUMBERS[:8]) if random.random() < 0.5 else random.choice(TEXTS)
        if name in (schema.TIME, schema.MICRO_TIME):
            return random.choice(TIMES)
        if name in schema.OPAQUE:
            return random.choice(({}, {"a": [1, {"b": None}]}, {"apiVersion": "v1", "kind": "Pod"}))
        node = schema.resolve(node)
        kind = node.get("type")
        if "properties" in node:
            must = node.get("required") or ()
            share = self.fullness if depth < 7 else 0.05
            return {
                key: self.value(child, depth + 1)
                for key, child in node["properties"].items()
                if random.random() < (0.95 if key in must else share)
            }
        if kind == "array":
            return [
                self.value(node["items"], depth + 1) for _ in range(random.choice((0, 1, 1, 2, 3)))
            ]
        if kind == "object":
            child = node.get("additionalProperties") or {"type": "string"}
            return {
                random.choice(KEYS): self.value(child, depth + 1)
                for _ in range(random.choice((0, 1, 2)))
            }
        if kind == "integer":
            return random.choice(NUMBERS[:12] if node.get("format") == "int32" else NUMBERS)
        if kind == "number":
            return random.choice((0.0, -1.5, 1e300))
        if kind == "boolean":
            return random.random() < 0.5
        if node.get("format") == "byte":
            return random.choice(("", "YQ==", "LS0tLS1CRUdJTg=="))
        if node.get("format") == "date-time":
            return random.choice(TIMES)
        enum = node.get("enum")
        return random.choice(enum) if enum and random.random() < 0.8 else random.choice(TEXTS)
