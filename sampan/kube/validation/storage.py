"""Volumes, claims, and storage.k8s.io."""

from __future__ import annotations

from typing import Final

from sampan.kube import names
from sampan.kube.errors import forbidden_field, invalid_value, not_supported, required
from sampan.kube.validation import placement, rules
from sampan.kube.validation.rules import Causes, Object, Rules

GROUP: Final = "storage.k8s.io"
ACCESS_MODES: Final = frozenset(
    ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
)
_VOLUME_MODES: Final = frozenset(("Block", "Filesystem"))
_RECLAIM: Final = frozenset(("Delete", "Recycle", "Retain"))
_BINDING: Final = frozenset(("Immediate", "WaitForFirstConsumer"))
_FS_GROUP: Final = frozenset(("File", "None", "ReadWriteOnceWithFSType"))
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


def _access_modes(modes: list[str] | None, causes: Causes, path: str, detail: str) -> None:
    if not modes:
        causes.append(required(path, detail))
        return
    for mode in modes:
        if mode not in ACCESS_MODES:
            causes.append(not_supported(path, mode, sorted(ACCESS_MODES)))
    if "ReadWriteOncePod" in modes and len(modes) > 1:
        text = "may not use ReadWriteOncePod with other access modes"
        causes.append(forbidden_field(path, text))


def volume(found: Object, causes: Causes) -> None:
    from sampan.kube.validation.volumes import host_path  # a cycle: ephemeral volumes hold claims

    spec = found.get("spec") or {}
    _access_modes(spec.get("accessModes"), causes, "spec.accessModes", "")
    capacity = spec.get("capacity") or {}
    if not capacity:
        causes.append(required("spec.capacity"))
    elif "storage" not in capacity or len(capacity) > 1:
        causes.append(not_supported("spec.capacity", capacity, ["storage"]))
    for name, value in capacity.items():
        path = f"spec.capacity[{name}]"
        if rules.parsed(value).nanos() <= 0:
            causes.append(invalid_value(path, str(value), "must be greater than zero"))
    policy = spec.get("persistentVolumeReclaimPolicy")
    rules.optional_choice(causes, "spec.persistentVolumeReclaimPolicy", policy, _RECLAIM)
    if (affinity := spec.get("nodeAffinity")) is not None:
        if affinity.get("required") is None:
            text = "must specify required node constraints"
            causes.append(required("spec.nodeAffinity.required", text))
        else:
            path = "spec.nodeAffinity.required"
            placement.node_selector(affinity["required"], causes, path)
    sources = [field for field in spec if field not in _NOT_SOURCES and spec[field] is not None]
    if not sources:
        causes.append(required("spec", "must specify a volume type"))
    for extra in sources[1:]:
        text = "may not specify more than 1 volume type"
        causes.append(forbidden_field(f"spec.{extra}", text))
    if "hostPath" in sources:
        host_path(spec["hostPath"], causes, "spec.hostPath")
        if spec["hostPath"].get("path") == "/" and policy == "Recycle":
            text = "may not be 'recycle' for a hostPath mount of '/'"
            causes.append(forbidden_field("spec.persistentVolumeReclaimPolicy", text))
    if "local" in sources:
        if not spec["local"].get("path"):
            causes.append(required("spec.local.path"))
        if spec.get("nodeAffinity") is None:
            text = "Local volume requires node affinity"
            causes.append(required("spec.nodeAffinity", text))
    _class_and_mode(spec, causes, "spec")


def _class_and_mode(spec: Object, causes: Causes, path: str) -> None:
    if name := spec.get("storageClassName"):
        rules.name(causes, f"{path}.storageClassName", name, names.dns1123_subdomain)
    mode = spec.get("volumeMode")
    rules.optional_choice(causes, f"{path}.volumeMode", mode, _VOLUME_MODES)


def volume_update(new: Object, old: Object, causes: Causes) -> None:
    before, after = old.get("spec") or {}, new.get("spec") or {}
    fields = {field for field in (*before, *after) if field not in _NOT_SOURCES}
    if any(before.get(field) != after.get(field) for field in fields):
        text = "spec.persistentvolumesource is immutable after creation"
        causes.append(forbidden_field("spec.persistentvolumesource", text))
    rules.immutable(causes, "spec.volumeMode", after.get("volumeMode"), before.get("volumeMode"))
    if before.get("nodeAffinity") is not None:
        path = "spec.nodeAffinity"
        rules.immutable(causes, path, after.get("nodeAffinity"), before["nodeAffinity"])


def claim(found: Object, causes: Causes) -> None:
    claim_spec(found.get("spec") or {}, causes, "spec")


def claim_spec(spec: Object, causes: Causes, path: str) -> None:
    detail = "at least 1 access mode is required"
    _access_modes(spec.get("accessModes"), causes, f"{path}.accessModes", detail)
    rules.label_selector(causes, f"{path}.selector", spec.get("selector"))
    requests = (spec.get("resources") or {}).get("requests") or {}
    where = f"{path}.resources[storage]"
    if "storage" not in requests:
        causes.append(required(where))
    elif rules.parsed(requests["storage"]).nanos() <= 0:
        text = "must be greater than zero"
        causes.append(invalid_value(where, str(requests["storage"]), text))
    _class_and_mode(spec, causes, path)
    source = spec.get("dataSource")
    for field in ("kind", "name"):
        if source is not None and not source.get(field):
            causes.append(required(f"{path}.dataSource.{field}"))


_CLAIM_TEXT: Final = (
    "spec is immutable after creation except resources.requests and volumeAttributesClassName for "
    "bound claims"
)
_CLAIM_MUTABLE: Final = frozenset(("resources", "volumeAttributesClassName", "volumeName"))


def claim_update(new: Object, old: Object, causes: Causes) -> None:
    before, after = old.get("spec") or {}, new.get("spec") or {}
    bound = (old.get("status") or {}).get("phase") == "Bound"
    changed = {field for field in {*before, *after} if before.get(field) != after.get(field)}
    if before.get("storageClassName") is None and not before.get("volumeName"):
        # Retroactive default class (KEP-3333): filled in while the claim waits.
        changed.discard("storageClassName")
    if (
        (before.get("volumeName") and "volumeName" in changed)
        or changed - _CLAIM_MUTABLE
        or ("resources" in changed and not bound)
    ):
        causes.append(forbidden_field("spec", _CLAIM_TEXT))
    elif "resources" in changed:
        asked, was = _storage(after), _storage(before)
        if rules.parsed(asked) < rules.parsed(was):
            text = "field can not be less than status.capacity"
            causes.append(forbidden_field("spec.resources.requests.storage", text))


def _storage(spec: Object) -> str:
    return ((spec.get("resources") or {}).get("requests") or {}).get("storage") or "0"


def _storage_class(found: Object, causes: Causes) -> None:
    rules.required_name(
        causes, "provisioner", (found.get("provisioner") or "").lower(), names.qualified_name
    )
    for key in found.get("parameters") or ():
        if not key:
            causes.append(invalid_value("parameters", key, "field can not be empty."))
    policy = found.get("reclaimPolicy")
    rules.optional_choice(causes, "reclaimPolicy", policy, ("Delete", "Retain"))
    mode = found.get("volumeBindingMode")
    rules.choice(causes, "volumeBindingMode", mode, _BINDING)


def _storage_class_update(new: Object, old: Object, causes: Causes) -> None:
    if (new.get("parameters") or {}) != (old.get("parameters") or {}):
        text = "updates to parameters are forbidden."
        causes.append(forbidden_field("parameters", text))
    if new.get("provisioner") != old.get("provisioner"):
        text = "updates to provisioner are forbidden."
        causes.append(forbidden_field("provisioner", text))
    if new.get("reclaimPolicy") != old.get("reclaimPolicy"):
        text = "updates to reclaimPolicy are forbidden."
        causes.append(forbidden_field("reclaimPolicy", text))
    mode = new.get("volumeBindingMode")
    rules.immutable(causes, "volumeBindingMode", mode, old.get("volumeBindingMode"))


def _csi_driver(found: Object, causes: Causes) -> None:
    spec = found.get("spec") or {}
    for field in ("attachRequired", "podInfoOnMount", "storageCapacity"):
        if spec.get(field) is None:
            causes.append(required(f"spec.{field}"))
    policy = spec.get("fsGroupPolicy")
    rules.optional_choice(causes, "spec.fsGroupPolicy", policy, _FS_GROUP)
    modes = spec.get("volumeLifecycleModes") or ()
    for mode in modes:
        if mode not in ("Ephemeral", "Persistent"):
            path = "spec.volumeLifecycleModes"
            causes.append(not_supported(path, mode, ["Ephemeral", "Persistent"]))


def _csi_node(found: Object, causes: Causes) -> None:
    seen: set[str] = set()
    for index, driver in enumerate((found.get("spec") or {}).get("drivers") or ()):
        path = f"spec.drivers[{index}]"
        name = driver.get("name") or ""
        rules.required_name(causes, f"{path}.name", name.lower(), names.dns1123_subdomain)
        if not driver.get("nodeID"):
            causes.append(required(f"{path}.nodeID"))
        seen.add(name)


def _attachment(found: Object, causes: Causes) -> None:
    spec = found.get("spec") or {}
    if not spec.get("attacher"):
        causes.append(required("spec.attacher"))
    if not spec.get("nodeName"):
        causes.append(required("spec.nodeName"))
    source = spec.get("source") or {}
    if not source.get("persistentVolumeName") and not source.get("inlineVolumeSpec"):
        text = "must specify exactly one of inlineVolumeSpec and persistentVolumeName"
        causes.append(required("spec.source", text))


def _attachment_update(new: Object, old: Object, causes: Causes) -> None:
    rules.immutable(causes, "spec", new.get("spec"), old.get("spec"))


RULES = {
    (GROUP, "StorageClass"): Rules(_storage_class, _storage_class_update, namespaced=False),
    (GROUP, "CSIDriver"): Rules(_csi_driver, namespaced=False),
    (GROUP, "CSINode"): Rules(_csi_node, namespaced=False),
    (GROUP, "CSIStorageCapacity"): Rules(),
    (GROUP, "VolumeAttachment"): Rules(_attachment, _attachment_update, namespaced=False),
    (GROUP, "VolumeAttributesClass"): Rules(namespaced=False),
}
