"""References into the pod itself: the downward API of environment variables and of volumes."""

from __future__ import annotations

import re
from typing import Final

from sampan.kube import names
from sampan.kube.errors import invalid_value, not_supported, required
from sampan.kube.validation import rules
from sampan.kube.validation.rules import Causes, Object

ENV_FIELDS: Final = frozenset(
    (
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.nodeName",
        "spec.serviceAccountName",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
    )
)
FILE_FIELDS: Final = frozenset(
    (
        "metadata.annotations",
        "metadata.labels",
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
    )
)
# What there is to refer to at all; the rest cannot even be converted to the internal version.
_KNOWN: Final = (
    ENV_FIELDS | FILE_FIELDS | {"spec.restartPolicy", "spec.schedulerName", "status.phase"}
)
_SUBSCRIPT: Final = re.compile(r"([^\[]*)\['(.*)'\]")
_RESOURCES: Final = (
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
)
_HUGE_PAGES: Final = ("limits.hugepages-", "requests.hugepages-")
_BYTES: Final = ("1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei")
# Resource without its side → divisors, and how messages name it.
_DIVISORS: Final = {
    "cpu": (("1m", "1"), "cpu"),
    "memory": (_BYTES, "memory"),
    "ephemeral-storage": (_BYTES, "local ephemeral storage"),
}


def field_ref(ref: Object, causes: Causes, path: str, allowed: frozenset[str]) -> None:
    """One of `allowed`, or one label or annotation."""
    version, field = ref.get("apiVersion") or "", ref.get("fieldPath") or ""
    if not version:
        causes.append(required(f"{path}.apiVersion"))
        return
    if not field:
        causes.append(required(f"{path}.fieldPath"))
        return
    if field in allowed and version == "v1":
        return
    match = _SUBSCRIPT.fullmatch(field)
    known = match[1] in ("metadata.labels", "metadata.annotations") if match else field in _KNOWN
    if version != "v1" or not known:
        why = (
            f"unsupported pod version: {version}"
            if version != "v1"
            else f"field label does not support subscript: {field}"
            if match
            else f"field label not supported: {field}"
        )
        text = f"error converting fieldPath: {why}"
        causes.append(invalid_value(f"{path}.fieldPath", field, text))
    elif match:
        key = match[2].lower() if match[1] == "metadata.annotations" else match[2]
        rules.name(causes, path, key, names.qualified_name)
    else:
        causes.append(not_supported(f"{path}.fieldPath", field, sorted(allowed)))


def resource_field_ref(ref: Object, causes: Causes, path: str, *, container_needed: bool) -> None:
    resource = ref.get("resource") or ""
    if container_needed and not ref.get("containerName"):
        causes.append(required(f"{path}.containerName"))
    elif not resource:
        causes.append(required(f"{path}.resource"))
    elif resource not in _RESOURCES and not resource.startswith(_HUGE_PAGES):
        causes.append(not_supported(f"{path}.resource", resource, _RESOURCES))
    divisor = ref.get("divisor")
    if divisor is None or not rules.parsed(divisor):
        return
    kind = resource.partition(".")[2]
    allowed, shown = _DIVISORS.get(kind, (_BYTES, "hugepages"))
    if kind not in _DIVISORS and not resource.startswith(_HUGE_PAGES):
        return
    if str(rules.parsed(divisor)) not in allowed:
        listed = "1m and 1" if kind == "cpu" else ", ".join(_BYTES)
        text = f"only divisor's values {listed} are supported with the {shown} resource"
        causes.append(invalid_value(f"{path}.divisor", resource, text))
