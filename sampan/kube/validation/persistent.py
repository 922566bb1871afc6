"""Persistent volumes and claims."""

from __future__ import annotations

import posixpath
from typing import Any, Final

from sampan.kube import names
from sampan.kube.errors import (
    forbidden_field,
    invalid_value,
    not_supported,
    required,
)
from sampan.kube.objects import clone
from sampan.kube.validation import placement, resources, rules
from sampan.kube.validation.ratchet import anything
from sampan.kube.validation.rules import Causes, Object

ACCESS_MODES: Final = ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
_RECLAIM: Final = ("Delete", "Recycle", "Retain")
_VOLUME_MODES: Final = ("Block", "Filesystem")
_NOT_SOURCES: Final = frozenset(
    (
        "accessModes",
        "capacity",
        "claimRef",
        "mountOptions",
        "nodeAffinity",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "volumeAttributesClassName",
        "volumeMode",
    )
)
_ORDER: Final = (
    "hostPath", "gcePersistentDisk", "awsElasticBlockStore", "glusterfs", "flocker", "nfs", "rbd", "quobyte", "cephfs",
    "iscsi", "cinder", "fc", "flexVolume", "azureFile", "vsphereVolume", "photonPersistentDisk", "portworxVolume", "azureDisk",
    "scaleIO", "local", "storageos", "csi",
)  # fmt: skip
_MANY: Final = "may not specify more than 1 volume type"
_CSI_SECRETS: Final = (
    "controllerPublishSecretRef",
    "controllerExpandSecretRef",
    "nodePublishSecretRef",
    "nodeExpandSecretRef",
)
_CLASS_ANNOTATION: Final = "volume.beta.kubernetes.io/storage-class"

KEPT_OF_VOLUMES: Final = (
    anything(r"spec\.nodeAffinity\.required\.nodeSelectorTerms\[\d+\]\.match\w+\[\d+\]\.values"),
)
KEPT_OF_CLAIMS: Final = (
    anything(r"spec\.dataSource(Ref)?\.apiGroup$"),
    anything(r"spec\.selector\."),
)


def access_modes(modes: list[str] | None, causes: Causes, path: str, detail: str) -> None:
    if not modes:
        causes.append(required(path, detail))
        return
    for mode in modes:
        if mode not in ACCESS_MODES:
            causes.append(not_supported(path, mode, ACCESS_MODES))
    if "ReadWriteOncePod" in modes and any(
        mode in ACCESS_MODES and mode != "ReadWriteOncePod" for mode in modes
    ):
        text = "may not use ReadWriteOncePod with other access modes"
        causes.append(forbidden_field(path, text))


def volume(found: Object, causes: Causes) -> None:
    _volume_spec(found.get("spec") or {}, causes, "spec")


def _volume_spec(spec: Object, causes: Causes, path: str) -> None:
    access_modes(spec.get("accessModes"), causes, f"{path}.accessModes", "")
    capacity = spec.get("capacity") or {}
    if not capacity:
        causes.append(required(f"{path}.capacity"))
    if "storage" not in capacity or len(capacity) > 1:
        causes.append(not_supported(f"{path}.capacity", capacity, ["storage"]))
    for name, value in capacity.items():
        where, parsed = f"{path}.capacity[{name}]", rules.parsed(value)
        if parsed.nanos() < 0:
            text = "must be a valid resource quantity"
            causes.append(invalid_value(where, parsed.nanos() // 10**9, text))
        if parsed.nanos() <= 0:
            causes.append(invalid_value(where, str(parsed), "must be greater than zero"))
    policy = spec.get("persistentVolumeReclaimPolicy")
    rules.optional_choice(causes, f"{path}.persistentVolumeReclaimPolicy", policy, _RECLAIM)
    if (affinity := spec.get("nodeAffinity")) is not None:
        where = f"{path}.nodeAffinity.required"
        if affinity.get("required") is None:
            causes.append(required(where, "must specify required node constraints"))
        else:
            placement.node_selector(affinity["required"], causes, where)
    _source(spec, causes, path, policy)
    if name := spec.get("storageClassName"):
        rules.name(causes, f"{path}.storageClassName", name, names.dns1123_subdomain)
    mode = spec.get("volumeMode")
    if mode is not None and mode not in _VOLUME_MODES:
        causes.append(not_supported(f"{path}.volumeMode", mode, _VOLUME_MODES))
    if (name := spec.get("volumeAttributesClassName")) is not None:
        where = f"{path}.volumeAttributesClassName"
        text = "an empty string is disallowed"
        rules.required_name(causes, where, name, names.dns1123_subdomain, text)
        if spec.get("csi") is None:
            text = "has to be specified when using volumeAttributesClassName"
            causes.append(required(f"{path}.csi", text))


def _source(spec: Object, causes: Causes, path: str, policy: str | None) -> None:
    from sampan.kube.validation import volumes  # a cycle: ephemeral volumes hold claims

    sources = [field for field in spec if field not in _NOT_SOURCES and spec[field] is not None]
    if len(sources) > 1:  # the first in the order of the API's type is the one that counts
        sources.sort(key=lambda field: _ORDER.index(field) if field in _ORDER else len(_ORDER))
    if not sources:
        causes.append(required(path, "must specify a volume type"))
        return
    for extra in sources[1:]:
        causes.append(forbidden_field(f"{path}.{extra}", _MANY))
    field = sources[0]
    source, where = spec[field], f"{path}.{field}"
    if field == "csi":
        csi(source, causes, where)
    elif field == "local":
        if not source.get("path"):
            causes.append(required(f"{where}.path"))
        else:
            volumes.no_parent(causes, f"{where}.path", source["path"])
        if spec.get("nodeAffinity") is None:
            text = "Local volume requires node affinity"
            causes.append(required(f"{path}.nodeAffinity", text))
    elif (check := volumes.SOURCES.get(field)) is not None:
        check(source, causes, where)
    if field == "hostPath" and policy == "Recycle":
        if posixpath.normpath(source.get("path") or "") == "/":
            text = "may not be 'recycle' for a hostPath mount of '/'"
            causes.append(forbidden_field(f"{path}.persistentVolumeReclaimPolicy", text))


def csi(source: Object, causes: Causes, path: str) -> None:
    from sampan.kube.validation.volumes import driver_name

    driver_name(causes, f"{path}.driver", source.get("driver") or "")
    if not source.get("volumeHandle"):
        causes.append(required(f"{path}.volumeHandle"))
    for field in _CSI_SECRETS:
        if (secret := source.get(field)) is not None:
            where = f"{path}.{field}"
            name, namespace = secret.get("name"), secret.get("namespace")
            rules.required_name(causes, f"{where}.name", name, names.dns1123_subdomain)
            rules.required_name(causes, f"{where}.namespace", namespace, names.dns1123_label)


def volume_update(new: Object, old: Object, causes: Causes) -> None:
    before, after = old.get("spec") or {}, new.get("spec") or {}
    fields = {field for field in (*before, *after) if field not in _NOT_SOURCES}
    for field in fields:
        one, other = after.get(field), before.get(field)
        if field == "csi" and one and other and other.get("controllerExpandSecretRef") is None:
            one = {key: each for key, each in one.items() if key != "controllerExpandSecretRef"}
        if one != other:
            text = "spec.persistentvolumesource is immutable after creation"
            causes.append(forbidden_field("spec.persistentvolumesource", text))
            break
    rules.immutable(causes, "volumeMode", after.get("volumeMode"), before.get("volumeMode"))
    if before.get("nodeAffinity") is not None:
        if _stable_labels(after.get("nodeAffinity"), before["nodeAffinity"]):
            text = f"{rules.IMMUTABLE}, except for updating from beta label to GA"
            causes.append(invalid_value("nodeAffinity", after.get("nodeAffinity"), text))
    if before.get("volumeAttributesClassName") is not None:
        if after.get("volumeAttributesClassName") is None:
            text = "update from non-nil value to nil is forbidden"
            causes.append(forbidden_field("spec.volumeAttributesClassName", text))


_STABLE: Final = {
    "failure-domain.beta.kubernetes.io/zone": "topology.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region": "topology.kubernetes.io/region",
    "beta.kubernetes.io/os": "kubernetes.io/os",
    "beta.kubernetes.io/arch": "kubernetes.io/arch",
    "beta.kubernetes.io/instance-type": "node.kubernetes.io/instance-type",
}


def _stable_labels(new: Object | None, old: Object) -> bool:
    """Do they differ by more than old labels of nodes having become new ones?"""
    if new is None:
        return True
    now, was = clone(new), clone(old)
    for one, other in zip(_terms(now), _terms(was), strict=False):
        pairs = zip(one.get("matchExpressions") or (), other.get("matchExpressions") or ())  # noqa: B905
        for after, before in pairs:
            key = after.get("key")
            if key and _STABLE.get(before.get("key") or "") == key:
                before["key"] = key
    return bool(now != was)


def _terms(affinity: Object) -> list[Object]:
    return (affinity.get("required") or {}).get("nodeSelectorTerms") or []


# --- claims -----------------------------------------------------------------------------------------


def claim(found: Object, causes: Causes) -> None:
    claim_spec(found.get("spec") or {}, causes, "spec")


def claim_spec(spec: Object, causes: Causes, path: str) -> None:
    detail = "at least 1 access mode is required"
    access_modes(spec.get("accessModes"), causes, f"{path}.accessModes", detail)
    rules.label_selector(causes, f"{path}.selector", spec.get("selector"))
    requests = (spec.get("resources") or {}).get("requests") or {}
    where = f"{path}.resources[storage]"
    if "storage" not in requests:
        causes.append(required(where))
    elif (asked := rules.parsed(requests["storage"])).nanos() <= 0:
        causes.append(invalid_value(where, str(asked), "must be greater than zero"))
    for field in ("storageClassName", "volumeAttributesClassName"):
        if name := spec.get(field):
            rules.name(causes, f"{path}.{field}", name, names.dns1123_subdomain)
    mode = spec.get("volumeMode")
    if mode is not None and mode not in _VOLUME_MODES:
        causes.append(not_supported(f"{path}.volumeMode", mode, _VOLUME_MODES))
    _data_sources(spec, causes, path)


def _data_sources(spec: Object, causes: Causes, path: str) -> None:
    source, ref = spec.get("dataSource"), spec.get("dataSourceRef")
    for field, found in (("dataSource", source), ("dataSourceRef", ref)):
        if found is None:
            continue
        where, group, kind = f"{path}.{field}", found.get("apiGroup") or "", found.get("kind") or ""
        for needed in ("name", "kind"):
            if not found.get(needed):
                causes.append(required(f"{where}.{needed}"))
        if not group and kind != "PersistentVolumeClaim":
            text = "must be 'PersistentVolumeClaim' when referencing the default apiGroup"
            causes.append(invalid_value(where, kind, text))
        if group:
            rules.name(causes, f"{where}.apiGroup", group, names.dns1123_subdomain)
        if namespace := found.get("namespace"):
            rules.name(causes, f"{where}.namespace", namespace, names.dns1123_label)
    if source is None or ref is None:
        return
    shown = f"{path}.dataSource"
    if ref.get("namespace"):
        text = "may not be specified when dataSourceRef.namespace is specified"
        causes.append(invalid_value(path, shown, text))
    elif any(source.get(key) != ref.get(key) for key in ("apiGroup", "kind", "name")):
        causes.append(invalid_value(path, shown, "must match dataSourceRef"))


_CLAIM_TEXT: Final = (
    "spec is immutable after creation except resources.requests and volumeAttributesClassName for "
    "bound claims"
)


def _annotation(found: Object) -> Any:
    return ((found.get("metadata") or {}).get("annotations") or {}).get(_CLASS_ANNOTATION)


def claim_update(new: Object, old: Object, causes: Causes) -> None:
    before, after = old.get("spec") or {}, new.get("spec") or {}
    bound = (new.get("status") or {}).get("phase") == "Bound"
    changed = {field for field in {*before, *after} if before.get(field) != after.get(field)}
    if not before.get("volumeName"):
        changed.discard("volumeName")
    was, now = _annotation(old), _annotation(new)
    chosen = after.get("storageClassName")
    if before.get("storageClassName") is None and chosen is not None and was in (None, chosen):
        # Retroactive default class (KEP-3333), or the annotation became the field.
        changed.discard("storageClassName")
    became_field = before.get("storageClassName") is None and was is not None and was == chosen
    if was != now and not (became_field and now is None):
        path = f"metadata.annotations.{_CLASS_ANNOTATION}"
        causes.append(invalid_value(path, now or "", rules.IMMUTABLE))
    if bound:
        changed.discard("volumeAttributesClassName")
        if _but_size(before) == _but_size(after):
            changed.discard("resources")
    if changed:
        shown = "\n".join(f"  spec.{field}" for field in sorted(changed))
        causes.append(forbidden_field("spec", f"{_CLAIM_TEXT}\n{shown}"))
    asked, had = rules.parsed(_storage(after)), rules.parsed(_storage(before))
    capacity = ((old.get("status") or {}).get("capacity") or {}).get("storage") or "0"
    if asked < had and asked <= rules.parsed(capacity):
        text = "field can not be less than status.capacity"
        causes.append(forbidden_field("spec.resources.requests.storage", text))
    rules.immutable(causes, "volumeMode", after.get("volumeMode"), before.get("volumeMode"))
    name, applied = after.get("volumeAttributesClassName"), "currentVolumeAttributesClassName"
    changes = name != before.get("volumeAttributesClassName")
    if changes and not name and (old.get("status") or {}).get(applied) is not None:
        what = "nil" if name is None else "empty string"
        text = f"update to {what} is forbidden when status.{applied} is not nil"
        causes.append(forbidden_field("spec.volumeAttributesClassName", text))


def _but_size(spec: Object) -> Object:
    found = clone(spec.get("resources") or {})
    (found.get("requests") or {}).pop("storage", None)
    return {key: value for key, value in found.items() if value}


def _storage(spec: Object) -> str:
    return ((spec.get("resources") or {}).get("requests") or {}).get("storage") or "0"


_RESIZES: Final = (
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
    "NodeResizePending",
)


def claim_status(new: Object, old: Object, causes: Causes) -> None:
    status = new.get("status") or {}
    for name, value in (status.get("capacity") or {}).items():
        resources.amount(causes, f"status.capacity[{name}]", name, value)
    for name, state in (status.get("allocatedResourceStatuses") or {}).items():
        _claim_resource(name, causes, "status.allocatedResourceStatuses")
        if state not in _RESIZES:
            causes.append(not_supported("status.allocatedResourceStatuses", name, _RESIZES))
    for name, value in (status.get("allocatedResources") or {}).items():
        _claim_resource(name, causes, "status.allocatedResources")
        resources.amount(causes, f"status.allocatedResources[{name}]", name, value)


def _claim_resource(name: str, causes: Causes, path: str) -> None:
    rules.name(causes, path, name, names.qualified_name)
    if resources.is_native(name) and name != "storage":
        causes.append(not_supported(path, name, ["storage"]))
