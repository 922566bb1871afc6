"""Storage: claims and volumes get a finalizer that keeps them while they are in use; claims grow only where that is possible."""

from __future__ import annotations

from sampan.apiserver.admission.plugin import Object, Plugin
from sampan.apiserver.call import Call
from sampan.kube import persistent

FINALIZERS = {
    "core/persistentvolumeclaims": "kubernetes.io/pvc-protection",
    "core/persistentvolumes": "kubernetes.io/pv-protection",
    "storage.k8s.io/volumeattributesclasses": "kubernetes.io/vac-protection",
}


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
