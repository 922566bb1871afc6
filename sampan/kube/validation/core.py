"""The core group: pods' rules come from `pods`, the rest is here."""

from __future__ import annotations

import binascii
from base64 import b64decode
from typing import Any, Final

from sampan.kube import gojson, names
from sampan.kube.errors import (
    duplicate,
    forbidden_field,
    invalid_value,
    not_supported,
    required,
    too_long,
)
from sampan.kube.objects import metadata
from sampan.kube.validation import (
    nodes,
    persistent,
    pod_status,
    pod_updates,
    pods,
    quotas,
    resources,
    rules,
    services,
    workloads,
)
from sampan.kube.validation.containers import PROTOCOLS
from sampan.kube.validation.metadata import finalizer_name
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
        causes.append(too_long(rules.NO_FIELD, "", DATA_MAX))


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
        elif key in _JSON_KEYS and (text := gojson.object_error(_decoded(data[key]))):
            causes.append(invalid_value(f"data[{key}]", "<secret contents redacted>", text))
    if kind == "kubernetes.io/ssh-auth" and data.get("ssh-privatekey") == "":
        causes.append(required("data[ssh-privatekey]"))
    if kind == "kubernetes.io/basic-auth" and not ("username" in data or "password" in data):
        causes.append(required("data[username]"))
        causes.append(required("data[password]"))
    if kind == "kubernetes.io/service-account-token":
        annotations = metadata(secret).get("annotations") or {}
        if not annotations.get(_ACCOUNT_NAME):
            causes.append(required(f"metadata.annotations[{_ACCOUNT_NAME}]"))


def _decoded(encoded: str) -> bytes:
    try:
        return b64decode(encoded)
    except binascii.Error:
        return b""


def _secret_update(new: Object, old: Object, causes: Causes) -> None:
    rules.immutable(causes, "type", new.get("type"), old.get("type"))
    _keeps_immutable(new, old, causes, "data")


# --- Namespace, ServiceAccount ----------------------------------------------------------------------


def _namespace(namespace: Object, causes: Causes) -> None:
    for finalizer in (namespace.get("spec") or {}).get("finalizers") or ():
        finalizer_name(finalizer, causes, "spec.finalizers", "spec.finalizers")


def _namespace_update(new: Object, old: Object, causes: Causes) -> None:
    """Its finalizers change through `/finalize`, which names an index."""
    for index, finalizer in enumerate((new.get("spec") or {}).get("finalizers") or ()):
        path = f"spec.finalizers[{index}]"
        finalizer_name(finalizer, causes, path, path)


def _namespace_status(new: Object, old: Object, causes: Causes) -> None:
    phase = (new.get("status") or {}).get("phase") or ""
    deleting = "deletionTimestamp" in metadata(new)
    wanted = "Terminating" if deleting else "Active"
    if phase != wanted:
        text = f"may only be '{wanted}' if `deletionTimestamp` is {'not ' if deleting else ''}empty"
        causes.append(invalid_value("status.Phase", phase, text))


# --- Endpoints, ResourceQuota, LimitRange -----------------------------------------------------------


def _endpoints(endpoints: Object, causes: Causes) -> None:
    for index, subset in enumerate(endpoints.get("subsets") or ()):
        path = f"subsets[{index}]"
        ready, waiting = subset.get("addresses") or [], subset.get("notReadyAddresses") or []
        if not ready and not waiting:
            causes.append(required(path, "must specify `addresses` or `notReadyAddresses`"))
        for field, found in (("addresses", ready), ("notReadyAddresses", waiting)):
            for at, address in enumerate(found):
                where = f"{path}.{field}[{at}]"
                endpoint_ip(address.get("ip") or "", causes, f"{where}.ip")
                if hostname := address.get("hostname"):
                    rules.name(causes, f"{where}.hostname", hostname, names.dns1123_label)
                if (node := address.get("nodeName")) is not None:
                    rules.name(causes, f"{where}.nodeName", node, names.dns1123_subdomain)
        ports = subset.get("ports") or []
        for at, port in enumerate(ports):
            where = f"{path}.ports[{at}]"
            if port.get("name"):
                rules.name(causes, f"{where}.name", port["name"], names.dns1123_label)
            elif len(ports) > 1:
                causes.append(required(f"{where}.name"))
            rules.name(causes, f"{where}.port", port.get("port") or 0, names.port_number)
            rules.choice(causes, f"{where}.protocol", port.get("protocol"), PROTOCOLS)
            if (protocol := port.get("appProtocol")) is not None:
                rules.name(causes, f"{where}.appProtocol", protocol, names.qualified_name)


# Rootless pods live on 127/8 (docs/architecture.md), so the loopback range is an endpoint like any other here.
_ALLOWED_RANGES: Final = frozenset(("is_loopback",))


def endpoint_ip(text: str, causes: Causes, path: str) -> None:
    services.non_special_ip(text, causes, path, _ALLOWED_RANGES)


_LIMIT_TYPES: Final = ("Container", "PersistentVolumeClaim", "Pod")
_LIMIT_FIELDS: Final = ("max", "min", "default", "defaultRequest", "maxLimitRequestRatio")


def _limit_range(limit_range: Object, causes: Causes) -> None:
    seen: set[str] = set()
    for index, item in enumerate((limit_range.get("spec") or {}).get("limits") or ()):
        path = f"spec.limits[{index}]"
        kind = item.get("type") or ""
        if reasons := names.qualified_name(kind):
            causes.extend(invalid_value(f"{path}.type", kind, reason) for reason in reasons)
        elif kind not in _LIMIT_TYPES and "/" not in kind:
            text = "must be a standard limit type or fully qualified"
            causes.append(invalid_value(f"{path}.type", kind, text))
        if kind in seen:
            causes.append(duplicate(f"{path}.type", kind))
        seen.add(kind)
        check: Any = (
            resources.container_resource
            if kind in ("Pod", "Container")
            else resources.resource_name
        )
        for field in _LIMIT_FIELDS:
            found = item.get(field) or {}
            if found and kind == "Pod" and field in ("default", "defaultRequest"):
                text = "may not be specified when `type` is 'Pod'"
                causes.append(forbidden_field(f"{path}.{field}", text))
                continue
            for name in found:
                check(causes, f"{path}.{field}[{name}]", name)
        if kind == "PersistentVolumeClaim":
            if not any("storage" in (item.get(field) or {}) for field in ("min", "max")):
                text = (
                    "either minimum or maximum storage value is required, but neither was provided"
                )
                causes.append(required(f"{path}.limits", text))
        _limit_order(item, causes, path, kind)


# (low, high, which of the two is to blame, how the two are called)
_ORDER: Final = (
    ("min", "max", "min", "min", "max"),
    ("min", "defaultRequest", "defaultRequest", "min", "default request"),
    ("defaultRequest", "max", "defaultRequest", "default request", "max"),
    ("defaultRequest", "default", "defaultRequest", "default request", "default limit"),
    ("min", "default", "default", "min", "default"),
    ("default", "max", "default", "default", "max"),
)


def _limit_order(item: Object, causes: Causes, path: str, kind: str) -> None:
    amounts = {
        field: {}
        if kind == "Pod" and field in ("default", "defaultRequest")
        else {name: rules.parsed(value) for name, value in (item.get(field) or {}).items()}
        for field in _LIMIT_FIELDS
    }
    for low, high, blamed, low_words, high_words in _ORDER:
        for name in sorted(amounts[low].keys() & amounts[high].keys()):
            floor, ceiling = amounts[low][name], amounts[high][name]
            if floor > ceiling:
                text = f"{low_words} value {floor} is greater than {high_words} value {ceiling}"
                shown = str(amounts[blamed][name])
                causes.append(invalid_value(f"{path}.{blamed}[{name}]", shown, text))
    for name, ratio in sorted(amounts["maxLimitRequestRatio"].items()):
        where = f"{path}.maxLimitRequestRatio[{name}]"
        if ratio < rules.parsed(1):
            text = f"ratio {ratio} is less than 1"
            causes.append(invalid_value(where, str(ratio), text))
        least, most = amounts["min"].get(name), amounts["max"].get(name)
        if least and most is not None and ratio.nanos() * least.nanos() > most.nanos() * 10**9:
            text = f"ratio {ratio} is greater than max/min = {most.nanos() / least.nanos():f}"
            causes.append(invalid_value(where, str(ratio), text))
    for name in sorted(amounts["default"].keys() & amounts["defaultRequest"].keys()):
        limit, asked = amounts["default"][name], amounts["defaultRequest"][name]
        if limit != asked and not resources.overcommits(name):
            text = f"default value {limit} must equal to defaultRequest value {asked} in {name}"
            causes.append(invalid_value(f"{path}.defaultRequest[{name}]", str(asked), text))


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
    selector, template = spec.get("selector") or {}, spec.get("template")
    if not selector:
        causes.append(required("spec.selector"))
    rules.not_negative(causes, "spec.replicas", spec.get("replicas"))
    if template is None:
        causes.append(required("spec.template"))
        return
    labels = (template.get("metadata") or {}).get("labels") or {}
    if any(labels.get(key) != value for key, value in selector.items()):
        text = "`selector` does not match template `labels`"
        causes.append(invalid_value("spec.template.metadata.labels", labels, text))
    pods.pod_template(template, causes, "spec.template")
    pod_spec = template.get("spec") or {}
    if (policy := pod_spec.get("restartPolicy") or "") != "Always":
        where = "spec.template.spec.restartPolicy"
        causes.append(not_supported(where, policy, ["Always"]))
    if pod_spec.get("activeDeadlineSeconds") is not None:
        where = "spec.template.spec.activeDeadlineSeconds"
        text = "activeDeadlineSeconds in ReplicationController is not Supported"
        causes.append(forbidden_field(where, text))


def _pod_template(template: Object, causes: Causes) -> None:
    pods.pod_template(template.get("template"), causes, "template")


RULES = {
    ("", "Pod"): Rules(
        pods.validate_pod,
        pod_updates.validate_pod_update,
        status=pod_status.validate_status,
        first=pods.validate_new_pod,
        kept=pods.KEPT,
    ),
    ("", "PodTemplate"): Rules(_pod_template),
    ("", "ReplicationController"): Rules(
        _replication_controller, status=workloads.status_of("ReplicationController")
    ),
    ("", "Service"): Rules(
        services.validate,
        services.validate_update,
        names.dns1123_label,  # KEP-5311
        status=services.validate_status,
        kept=services.KEPT,
    ),
    ("", "ConfigMap"): Rules(_config_map, _config_map_update),
    ("", "Secret"): Rules(_secret, _secret_update),
    ("", "Namespace"): Rules(
        first=_namespace,
        update=_namespace_update,
        name=names.dns1123_label,
        namespaced=False,
        status=_namespace_status,
    ),
    ("", "ServiceAccount"): Rules(),
    ("", "Node"): Rules(
        nodes.validate, nodes.validate_update, namespaced=False, status=nodes.validate_status
    ),
    ("", "Endpoints"): Rules(_endpoints),
    ("", "ResourceQuota"): Rules(quotas.validate, quotas.validate_update, status=quotas.status),
    ("", "LimitRange"): Rules(_limit_range),
    ("", "Binding"): Rules(_binding),
    ("", "PersistentVolume"): Rules(
        persistent.volume,
        persistent.volume_update,
        namespaced=False,
        kept=persistent.KEPT_OF_VOLUMES,
    ),
    ("", "PersistentVolumeClaim"): Rules(
        persistent.claim,
        persistent.claim_update,
        status=persistent.claim_status,
        kept=persistent.KEPT_OF_CLAIMS,
    ),
    ("", "ComponentStatus"): Rules(namespaced=False),
}
