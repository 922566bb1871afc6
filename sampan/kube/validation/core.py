"""The core group: pods' rules come from `pods`, the rest is here."""

from __future__ import annotations

import binascii
import ipaddress
from base64 import b64decode
from typing import Any, Final

import orjson

from sampan.kube import names
from sampan.kube.errors import (
    duplicate,
    forbidden_field,
    invalid_value,
    not_supported,
    required,
    too_long,
)
from sampan.kube.objects import metadata
from sampan.kube.validation import placement, pod_updates, pods, resources, rules, services, storage
from sampan.kube.validation.containers import PROTOCOLS
from sampan.kube.validation.rules import Causes, Object, Rules

DATA_MAX: Final = 1024 * 1024
_DATA_IMMUTABLE: Final = "field is immutable when `immutable` is set"


# --- ConfigMap and Secret ---------------------------------------------------------------------------


def _config_map(config_map: Object, causes: Causes) -> None:
    data, binary = config_map.get("data") or {}, config_map.get("binaryData") or {}
    size = 0
    for key, value in data.items():
        size += rules.utf8_size(value)
        if reasons := names.config_key(key):
            causes.extend(invalid_value(f"data[{key}]", key, reason) for reason in reasons)
        if key in binary:
            text = "duplicate of key present in binaryData"
            causes.append(invalid_value(f"data[{key}]", key, text))
    for key, value in binary.items():
        size += _decoded_size(value)
        if reasons := names.config_key(key):
            causes.extend(invalid_value(f"binaryData[{key}]", key, reason) for reason in reasons)
    if size > DATA_MAX:
        causes.append(too_long("[]", "", DATA_MAX))


def _decoded_size(text: str) -> int:
    return len(text) * 3 // 4 - text.count("=", -2)


def _keeps_immutable(new: Object, old: Object, causes: Causes, *fields: str) -> None:
    if not old.get("immutable"):
        return
    if not new.get("immutable"):
        causes.append(forbidden_field("immutable", _DATA_IMMUTABLE))
    for field in fields:
        if (new.get(field) or {}) != (old.get(field) or {}):
            causes.append(forbidden_field(field, _DATA_IMMUTABLE))


def _config_map_update(new: Object, old: Object, causes: Causes) -> None:
    _keeps_immutable(new, old, causes, "data", "binaryData")


# A Secret of a well-known type must hold these keys.
_SECRET_KEYS: Final[dict[str, tuple[str, ...]]] = {
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
}
_JSON_KEYS: Final = frozenset((".dockercfg", ".dockerconfigjson"))
_ACCOUNT_NAME: Final = "kubernetes.io/service-account.name"


def _secret(secret: Object, causes: Causes) -> None:
    data = secret.get("data") or {}
    size = 0
    for key, value in data.items():
        size += _decoded_size(value)
        if reasons := names.config_key(key):
            causes.extend(invalid_value(f"data[{key}]", key, reason) for reason in reasons)
    if size > DATA_MAX:
        causes.append(too_long("data", "", DATA_MAX))
    kind = secret.get("type") or ""
    for key in _SECRET_KEYS.get(kind, ()):
        if key not in data:
            causes.append(required(f"data[{key}]"))
        elif key in _JSON_KEYS and not _is_json(data[key]):
            text = "invalid character in secret data: must be valid JSON"
            causes.append(invalid_value(f"data[{key}]", "<secret contents redacted>", text))
    if kind == "kubernetes.io/basic-auth" and not ("username" in data or "password" in data):
        causes.append(required("data[username]"))
        causes.append(required("data[password]"))
    if kind == "kubernetes.io/service-account-token":
        annotations = metadata(secret).get("annotations") or {}
        if not annotations.get(_ACCOUNT_NAME):
            causes.append(required(f"metadata.annotations[{_ACCOUNT_NAME}]"))


def _is_json(encoded: str) -> bool:
    try:
        orjson.loads(b64decode(encoded))
    except (orjson.JSONDecodeError, binascii.Error):
        return False
    return True


def _secret_update(new: Object, old: Object, causes: Causes) -> None:
    rules.immutable(causes, "type", new.get("type"), old.get("type"))
    _keeps_immutable(new, old, causes, "data")


# --- Namespace, ServiceAccount, Node ----------------------------------------------------------------


def _namespace(namespace: Object, causes: Causes) -> None:
    for finalizer in (namespace.get("spec") or {}).get("finalizers") or ():
        rules.name(causes, "spec.finalizers", finalizer, names.qualified_name)


def _node(node: Object, causes: Causes) -> None:
    spec = node.get("spec") or {}
    if found := spec.get("taints"):
        placement.taints(found, causes, "spec.taints")
    cidrs = spec.get("podCIDRs") or []
    for index, cidr in enumerate(cidrs):
        rules.name(causes, f"spec.podCIDRs[{index}]", cidr, names.cidr)
    if len(cidrs) > 2:
        text = "may specify no more than one CIDR for each IP family"
        causes.append(invalid_value("spec.podCIDRs", cidrs, text))


def _node_update(new: Object, old: Object, causes: Causes) -> None:
    before, after = old.get("spec") or {}, new.get("spec") or {}
    if before.get("podCIDRs") and after.get("podCIDRs") != before["podCIDRs"]:
        text = 'node updates may not change podCIDR except from "" to valid'
        causes.append(forbidden_field("spec.podCIDRs", text))
    if before.get("providerID") and after.get("providerID") != before["providerID"]:
        text = 'node updates may not change providerID except from "" to valid'
        causes.append(forbidden_field("spec.providerID", text))


# --- Endpoints, ResourceQuota, LimitRange, Event ----------------------------------------------------


def _endpoints(endpoints: Object, causes: Causes) -> None:
    for index, subset in enumerate(endpoints.get("subsets") or ()):
        path = f"subsets[{index}]"
        ready, waiting = subset.get("addresses") or [], subset.get("notReadyAddresses") or []
        if not ready and not waiting:
            causes.append(required(path, "must specify `addresses` or `notReadyAddresses`"))
        for field, found in (("addresses", ready), ("notReadyAddresses", waiting)):
            for at, address in enumerate(found):
                endpoint_ip(address.get("ip") or "", causes, f"{path}.{field}[{at}].ip")
        ports = subset.get("ports") or []
        for at, port in enumerate(ports):
            where = f"{path}.ports[{at}]"
            if port.get("name"):
                rules.name(causes, f"{where}.name", port["name"], names.dns1123_label)
            elif len(ports) > 1:
                causes.append(required(f"{where}.name"))
            rules.name(causes, f"{where}.port", port.get("port") or 0, names.port_number)
            rules.choice(causes, f"{where}.protocol", port.get("protocol"), PROTOCOLS)


_RANGES: Final = (
    ("is_unspecified", "may not be unspecified ({})"),
    ("is_loopback", "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
    ("is_link_local", "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
    ("is_multicast", "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
)
# Rootless pods live on 127/8 (docs/architecture.md), so the loopback range is an endpoint like any other here.
_ALLOWED_RANGES: Final = frozenset(("is_loopback",))


def endpoint_ip(text: str, causes: Causes, path: str) -> None:
    if reasons := names.ip(text):
        causes.extend(invalid_value(path, text, reason) for reason in reasons)
        return
    address: Any = ipaddress.ip_address(text)
    for attribute, reason in _RANGES:
        if attribute not in _ALLOWED_RANGES and getattr(address, attribute, False):
            causes.append(invalid_value(path, text, reason.format(text)))


_SCOPES: Final = frozenset(
    (
        "BestEffort",
        "CrossNamespacePodAffinity",
        "NotBestEffort",
        "NotTerminating",
        "PriorityClass",
        "Terminating",
        "VolumeAttributesClass",
    )
)


def _quota(quota: Object, causes: Causes) -> None:
    spec = quota.get("spec") or {}
    for name, value in (spec.get("hard") or {}).items():
        resources.quota_resource(causes, f"spec.hard[{name}]", name)
        resources.amount(causes, f"spec.hard[{name}]", name, value)
    for scope in spec.get("scopes") or ():
        if scope not in _SCOPES:
            causes.append(invalid_value("spec.scopes", spec["scopes"], "unsupported scope"))


def _quota_update(new: Object, old: Object, causes: Causes) -> None:
    before, after = (old.get("spec") or {}), (new.get("spec") or {})
    if sorted(before.get("scopes") or ()) != sorted(after.get("scopes") or ()):
        causes.append(invalid_value("spec.scopes", after.get("scopes"), rules.IMMUTABLE))


_LIMIT_TYPES: Final = ("Container", "PersistentVolumeClaim", "Pod")


def _limit_range(limit_range: Object, causes: Causes) -> None:
    seen: set[str] = set()
    for index, item in enumerate((limit_range.get("spec") or {}).get("limits") or ()):
        path = f"spec.limits[{index}]"
        kind = item.get("type") or ""
        if kind not in _LIMIT_TYPES and "/" not in kind:
            text = "must be a standard limit type or fully qualified"
            causes.append(invalid_value(f"{path}.type", kind, text))
        if kind in seen:
            causes.append(duplicate(f"{path}.type", kind))
        seen.add(kind)
        if kind == "Pod":
            for field in ("default", "defaultRequest"):
                if item.get(field):
                    text = "may not be specified when `type` is 'Pod'"
                    causes.append(forbidden_field(f"{path}.{field}", text))
        _limit_order(item, causes, path)


# Each pair: the first must not be above the second.
_ORDER: Final = (
    ("min", "max"),
    ("min", "defaultRequest"),
    ("min", "default"),
    ("defaultRequest", "max"),
    ("defaultRequest", "default"),
    ("default", "max"),
)


def _limit_order(item: Object, causes: Causes, path: str) -> None:
    for low, high in _ORDER:
        floor, ceiling = item.get(low) or {}, item.get(high) or {}
        for name, value in floor.items():
            if name in ceiling and rules.parsed(value) > rules.parsed(ceiling[name]):
                text = f"{_words(low)} value {value} is greater than {_words(high)} value {ceiling[name]}"
                causes.append(invalid_value(f"{path}.{low}[{name}]", value, text))


def _words(field: str) -> str:
    return "default request" if field == "defaultRequest" else field


def _event(event: Object, causes: Causes) -> None:
    """An event belongs to its object's namespace; one about a cluster-wide object to default or kube-system."""
    namespace = metadata(event).get("namespace") or ""
    about = (event.get("involvedObject") or {}).get("namespace") or ""
    if about:
        if namespace != about:
            text = "does not match event.namespace"
            causes.append(invalid_value("involvedObject.namespace", about, text))
    elif namespace not in ("default", "kube-system", ""):
        text = "does not match event.namespace"
        causes.append(invalid_value("involvedObject.namespace", about, text))


def _binding(binding: Object, causes: Causes) -> None:
    target = binding.get("target") or {}
    kind = target.get("kind") or ""
    if kind not in ("", "Node"):
        causes.append(not_supported("target.kind", kind, ["Node", "<empty>"]))
    if not target.get("name"):
        causes.append(required("target.name"))


def _replication_controller(controller: Object, causes: Causes) -> None:
    spec = controller.get("spec") or {}
    rules.not_negative(causes, "spec.minReadySeconds", spec.get("minReadySeconds"))
    rules.not_negative(causes, "spec.replicas", spec.get("replicas"))
    selector, template = spec.get("selector") or {}, spec.get("template")
    if not selector:
        causes.append(required("spec.selector"))
    if template is None:
        causes.append(required("spec.template"))
        return
    labels = (template.get("metadata") or {}).get("labels") or {}
    if any(labels.get(key) != value for key, value in selector.items()):
        text = "`selector` does not match template `labels`"
        causes.append(invalid_value("spec.template.metadata.labels", labels, text))
    pods.pod_template(template, causes, "spec.template")
    policy = (template.get("spec") or {}).get("restartPolicy")
    if policy and policy != "Always":
        where = "spec.template.spec.restartPolicy"
        causes.append(not_supported(where, policy, ["Always"]))


def _pod_template(template: Object, causes: Causes) -> None:
    pods.pod_template(template.get("template"), causes, "template")


RULES = {
    ("", "Pod"): Rules(
        pods.validate_pod, pod_updates.validate_pod_update, status=pod_updates.validate_status
    ),
    ("", "PodTemplate"): Rules(_pod_template),
    ("", "ReplicationController"): Rules(_replication_controller),
    ("", "Service"): Rules(services.validate, services.validate_update, names.dns1035_label),
    ("", "ConfigMap"): Rules(_config_map, _config_map_update),
    ("", "Secret"): Rules(_secret, _secret_update),
    ("", "Namespace"): Rules(_namespace, name=names.dns1123_label, namespaced=False),
    ("", "ServiceAccount"): Rules(),
    ("", "Node"): Rules(_node, _node_update, namespaced=False),
    ("", "Endpoints"): Rules(_endpoints),
    ("", "ResourceQuota"): Rules(_quota, _quota_update),
    ("", "LimitRange"): Rules(_limit_range),
    ("", "Event"): Rules(_event),
    ("", "Binding"): Rules(_binding),
    ("", "PersistentVolume"): Rules(storage.volume, storage.volume_update, namespaced=False),
    ("", "PersistentVolumeClaim"): Rules(storage.claim, storage.claim_update),
    ("", "ComponentStatus"): Rules(namespaced=False),
}
