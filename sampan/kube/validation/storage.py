"""storage.k8s.io: classes, drivers, attachments. Volumes and claims themselves: `persistent`."""

from __future__ import annotations

from typing import Final

from sampan.kube import names
from sampan.kube.errors import (
    duplicate,
    forbidden_field,
    invalid_value,
    not_supported,
    required,
    too_long,
)
from sampan.kube.validation import rules
from sampan.kube.validation.persistent import access_modes, csi
from sampan.kube.validation.rules import Causes, Object, Rules
from sampan.kube.validation.volumes import driver_name

GROUP: Final = "storage.k8s.io"
_INLINE: Final = "may not be specified in the context of inline volumes"
_BINDING: Final = ("Immediate", "WaitForFirstConsumer")
_FS_GROUP: Final = ("File", "None", "ReadWriteOnceWithFSType")
_MAX_PARAMETERS: Final = 512
_MAX_PARAMETERS_SIZE: Final = 256 * 1024


def _parameters(found: Object, causes: Causes, *, needed: bool) -> None:
    parameters = found.get("parameters") or {}
    if needed and not parameters:
        text = "must contain at least one key/value pair"
        causes.append(required("parameters", text))
    if len(parameters) > _MAX_PARAMETERS:
        causes.append(too_long("parameters", "", _MAX_PARAMETERS))
        return
    size = 0
    for key, value in parameters.items():
        if not key:
            causes.append(invalid_value("parameters", key, "field can not be empty."))
        size += len(key) + len(value)
    if size > _MAX_PARAMETERS_SIZE:
        causes.append(too_long("parameters", "", _MAX_PARAMETERS_SIZE))


def _driver(found: Object, causes: Causes, field: str) -> None:
    name = found.get(field) or ""
    if not name:
        causes.append(required(field, name))
    else:
        rules.name(causes, field, name.lower(), names.qualified_name)


def _storage_class(found: Object, causes: Causes) -> None:
    _driver(found, causes, "provisioner")
    _parameters(found, causes, needed=False)
    policy = found.get("reclaimPolicy")
    rules.optional_choice(causes, "reclaimPolicy", policy, ("Delete", "Retain"))
    mode = found.get("volumeBindingMode")
    rules.choice(causes, "volumeBindingMode", mode, _BINDING)
    topologies = found.get("allowedTopologies") or []
    seen: list[Object] = [{}] * len(topologies)  # an empty one counts as a repeat of each
    for index, topology in enumerate(topologies):
        path = f"allowedTopologies[{index}]"
        keys: dict[str, set[str]] = {}
        for at, item in enumerate(topology.get("matchLabelExpressions") or ()):
            where, key = f"{path}.matchLabelExpressions[{at}]", item.get("key") or ""
            values = item.get("values") or []
            if not values:
                causes.append(required(f"{where}.values"))
            rules.unique(causes, f"{where}.values", values)
            rules.name(causes, f"{where}.key", key, names.label_key)
            if key in keys:
                causes.append(duplicate(f"{where}.key", key))
            keys[key] = set(values)
        again = duplicate(f"{path}.matchLabelExpressions", "")
        causes += [again] * seen.count(keys)
        seen.append(keys)


def _storage_class_update(new: Object, old: Object, causes: Causes) -> None:
    for field, empty in (("parameters", {}), ("provisioner", ""), ("reclaimPolicy", "")):
        if (new.get(field) or empty) != (old.get(field) or empty):
            causes.append(forbidden_field(field, f"updates to {field} are forbidden."))
    mode = new.get("volumeBindingMode")
    rules.immutable(causes, "volumeBindingMode", mode, old.get("volumeBindingMode"))


def _csi_driver(found: Object, causes: Causes) -> None:
    spec = found.get("spec") or {}
    for field in ("attachRequired", "podInfoOnMount", "storageCapacity"):
        if spec.get(field) is None:
            causes.append(required(f"spec.{field}"))
    policy = spec.get("fsGroupPolicy")
    rules.optional_choice(causes, "spec.fsGroupPolicy", policy, _FS_GROUP)
    seen: set[str] = set()
    for index, request in enumerate(spec.get("tokenRequests") or ()):
        audience, path = request.get("audience") or "", f"spec.tokenRequests[{index}]"
        if audience in seen:
            causes.append(duplicate(f"{path}.audience", audience))
        seen.add(audience)
        seconds = request.get("expirationSeconds")
        if seconds is not None and seconds < 600:
            text = "may not specify a duration less than 10 minutes"
            causes.append(invalid_value(f"{path}.expirationSeconds", seconds, text))
        if seconds is not None and seconds > 2**32:
            text = "may not specify a duration larger than 2^32 seconds"
            causes.append(invalid_value(f"{path}.expirationSeconds", seconds, text))
    for mode in spec.get("volumeLifecycleModes") or ():
        if mode not in ("Ephemeral", "Persistent"):
            path = "spec.volumeLifecycleModes"
            causes.append(not_supported(path, mode, ["Persistent", "Ephemeral"]))
    _tokens_in_secrets(spec, causes)
    period = spec.get("nodeAllocatableUpdatePeriodSeconds")
    if period is not None and period < 10:
        path, text = (
            "spec.nodeAllocatableUpdatePeriodSeconds",
            "must be greater than or equal to 10 seconds",
        )
        causes.append(invalid_value(path, period, text))


def _tokens_in_secrets(spec: Object, causes: Causes) -> None:
    if spec.get("serviceAccountTokenInSecrets") is not None and not spec.get("tokenRequests"):
        text = "serviceAccountTokenInSecrets is set but no tokenRequests are specified"
        where = "spec.serviceAccountTokenInSecrets"
        causes.append(invalid_value(where, spec["serviceAccountTokenInSecrets"], text))


def _csi_driver_update(new: Object, old: Object, causes: Causes) -> None:
    before, after = old.get("spec") or {}, new.get("spec") or {}
    for field in ("attachRequired", "volumeLifecycleModes"):
        if after.get(field) != before.get(field):
            path = "spec.attachedRequired" if field == "attachRequired" else f"spec.{field}"
            causes.append(invalid_value(path, after.get(field), rules.IMMUTABLE))


def _csi_node(found: Object, causes: Causes) -> None:
    seen: set[str] = set()
    for index, driver in enumerate((found.get("spec") or {}).get("drivers") or ()):
        path = f"spec.drivers[{index}]"
        name, node = driver.get("name") or "", driver.get("nodeID") or ""
        driver_name(causes, f"{path}.name", name)
        if not node:
            causes.append(required(f"{path}.nodeID", node))
        elif len(node) > 192:
            text = "must be 192 characters or less"
            causes.append(invalid_value(f"{path}.nodeID", node, text))
        count = (driver.get("allocatable") or {}).get("count")
        rules.not_negative(causes, f"{path}.allocatable.count", count)
        keys: set[str] = set()
        for key in driver.get("topologyKeys") or ():
            if not key:
                causes.append(required(path))
            if key in keys:
                causes.append(duplicate(path, key))
            keys.add(key)
            rules.name(causes, path, key, names.qualified_name)
        if name in seen:
            causes.append(duplicate(f"{path}.name", name))
        seen.add(name)


def _csi_node_update(new: Object, old: Object, causes: Causes) -> None:
    """A driver may come and go; one that stays stays as it is, but for how much it can take."""
    before = {each.get("name"): each for each in (old.get("spec") or {}).get("drivers") or ()}
    for driver in (new.get("spec") or {}).get("drivers") or ():
        was = before.get(driver.get("name"))
        if was is not None and _fixed(was) != _fixed(driver):
            text = rules.IMMUTABLE
            causes.append(invalid_value("spec.drivers", driver, text))


def _fixed(driver: Object) -> Object:
    return {key: value for key, value in driver.items() if key != "allocatable"}


def _attachment(found: Object, causes: Causes) -> None:
    spec = found.get("spec") or {}
    source = spec.get("source") or {}
    driver_name(causes, "spec.attacher", spec.get("attacher") or "")
    rules.name(causes, "spec.nodeName", spec.get("nodeName") or "", names.dns1123_subdomain)
    inline, name = source.get("inlineVolumeSpec"), source.get("persistentVolumeName")
    if inline is None and name is None:
        text = "must specify exactly one of inlineVolumeSpec and persistentVolumeName"
        causes.append(required("spec.source", text))
    elif inline is not None and name is not None:
        text = "must specify exactly one of inlineVolumeSpec and persistentVolumeName"
        causes.append(forbidden_field("spec.source", text))
    elif name is not None:
        if not name:
            causes.append(
                required(
                    "spec.source.persistentVolumeName",
                    "must specify non empty persistentVolumeName",
                )
            )
        rules.name(causes, "spec.source.persistentVolumeName", name, names.dns1123_subdomain)
    elif inline is not None:
        _inline(inline, causes, "spec.source.inlineVolumeSpec")


def _inline(spec: Object, causes: Causes, path: str) -> None:
    for field in ("claimRef", "capacity", "nodeAffinity", "storageClassName"):
        if spec.get(field):
            causes.append(forbidden_field(f"{path}.{field}", _INLINE))
    if spec.get("csi") is None:
        text = "has to be specified in the context of inline volumes"
        causes.append(required(f"{path}.csi", text))
    else:
        csi(spec["csi"], causes, f"{path}.csi")
    access_modes(spec.get("accessModes"), causes, f"{path}.accessModes", "")


def _attachment_update(new: Object, old: Object, causes: Causes) -> None:
    if new.get("spec") != old.get("spec"):
        text = "field is immutable"
        causes.append(invalid_value("spec", new.get("spec"), text))


def _capacity(found: Object, causes: Causes) -> None:
    rules.label_selector(causes, "nodeTopology", found.get("nodeTopology"))
    name = found.get("storageClassName") or ""
    rules.name(causes, "storageClassName", name, names.dns1123_subdomain)
    for field in ("capacity", "maximumVolumeSize"):
        if (value := found.get(field)) is not None and rules.parsed(value).nanos() < 0:
            causes.append(invalid_value(field, str(rules.parsed(value)), rules.NOT_NEGATIVE))


def _capacity_update(new: Object, old: Object, causes: Causes) -> None:
    for field in ("nodeTopology", "storageClassName"):
        rules.immutable(causes, field, new.get(field), old.get(field))


def _attributes_class(found: Object, causes: Causes) -> None:
    _driver(found, causes, "driverName")
    _parameters(found, causes, needed=True)


def _attributes_class_update(new: Object, old: Object, causes: Causes) -> None:
    if new.get("driverName") != old.get("driverName"):
        causes.append(forbidden_field("driverName", "updates to driverName are forbidden."))
    if (new.get("parameters") or {}) != (old.get("parameters") or {}):
        causes.append(forbidden_field("parameters", "updates to parameters are forbidden."))


RULES = {
    (GROUP, "StorageClass"): Rules(_storage_class, _storage_class_update, namespaced=False),
    (GROUP, "CSIDriver"): Rules(_csi_driver, _csi_driver_update, namespaced=False),
    (GROUP, "CSINode"): Rules(_csi_node, _csi_node_update, namespaced=False),
    (GROUP, "CSIStorageCapacity"): Rules(_capacity, _capacity_update),
    (GROUP, "VolumeAttachment"): Rules(_attachment, _attachment_update, namespaced=False),
    (GROUP, "VolumeAttributesClass"): Rules(
        _attributes_class, _attributes_class_update, namespaced=False
    ),
}
