"""Storage: claims get the default class, and claims and volumes a finalizer that keeps them while they are in use;
claims grow only where that is possible.
"""

from __future__ import annotations

from sampan.apiserver.admission.plugin import Object, Plugin
from sampan.apiserver.call import Call
from sampan.kube import persistent

DEFAULT_CLASS = (
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
)
LEGACY_CLASS = "volume.beta.kubernetes.io/storage-class"
FINALIZERS = {
    "core/persistentvolumeclaims": "kubernetes.io/pvc-protection",
    "core/persistentvolumes": "kubernetes.io/pv-protection",
    "storage.k8s.io/volumeattributesclasses": "kubernetes.io/vac-protection",
}


class DefaultStorageClass(Plugin):
    """A claim that names no class gets the default one: of several, the newest."""

    storages = ("core/persistentvolumeclaims",)

    async def create(self, call: Call, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        annotations = obj["metadata"].get("annotations") or {}
        if spec.get("storageClassName") is not None or LEGACY_CLASS in annotations:
            return
        marked = await self.lookup.all(
            "storage.k8s.io", "v1", "storageclasses", having=b"is-default-class"
        )
        defaults = [each for each in marked if is_default(each, DEFAULT_CLASS)]
        if defaults:
            spec["storageClassName"] = newest(defaults)


class PersistentVolumeClaimResize(Plugin):
    """A claim may ask for more only once it is bound, and if its class says that volumes can grow."""

    storages = ("core/persistentvolumeclaims",)

    async def validate_update(self, call: Call, new: Object, old: Object) -> None:
        if persistent.asked_by(new) <= persistent.asked_by(old):
            return
        if (old.get("status") or {}).get("phase") != "Bound":
            raise call.forbidden("Only bound persistent volume claims can be expanded")
        name = persistent.class_of(new)
        entry = None
        if name and name == persistent.class_of(old):
            entry = await self.lookup.entry("storage.k8s.io", "v1", "storageclasses", "", name)
        if entry is None or not entry.object().get("allowVolumeExpansion"):
            raise call.forbidden(
                "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc "
                "must support resize"
            )


class StorageObjectInUseProtection(Plugin):
    storages = tuple(FINALIZERS)

    async def create(self, call: Call, obj: Object) -> None:
        finalizer = FINALIZERS[call.resource.storage]
        present = obj["metadata"].get("finalizers") or []
        if finalizer not in present:
            obj["metadata"]["finalizers"] = [*present, finalizer]


def is_default(obj: Object, annotations: tuple[str, ...]) -> bool:
    marks = obj["metadata"].get("annotations") or {}
    return any(marks.get(name) == "true" for name in annotations)


def newest(objects: list[Object]) -> str:
    """The name of the youngest, the first by name among equals."""
    by_name = sorted(objects, key=lambda each: each["metadata"]["name"])
    return max(by_name, key=lambda each: each["metadata"].get("creationTimestamp") or "")[
        "metadata"
    ]["name"]
