"""Storage protection: a claim or volume that is being deleted stays until nothing uses it, then loses its finalizer.

Admission gives every claim, volume and attributes class the finalizer when it is made. A claim is in use while a pod that
is on a node and has not ended names it; a volume while it is bound to a claim; a class while a claim or volume names it.
"""

from __future__ import annotations

from sampan.client.resources import PERSISTENTVOLUMECLAIMS, PERSISTENTVOLUMES, PODS
from sampan.controllers.base import Context, Controller, Key, Object, Requeue, Watch
from sampan.kube.objects import is_deleting
from sampan.kube.persistent import claims_of
from sampan.kube.types import GVR

VOLUMEATTRIBUTESCLASSES = GVR("storage.k8s.io", "v1", "volumeattributesclasses")
ENDED = ("Succeeded", "Failed")


class Protection(Controller):
    """What the three have in common: `in_use` decides, the finalizer goes."""

    gvr: GVR
    finalizer: str

    async def reconcile(self, key: Key) -> Requeue | None:
        obj = self.informer(self.gvr).get(*key)
        if obj is None or not is_deleting(obj) or self.in_use(obj):
            return None
        finalizers = obj["metadata"].get("finalizers") or []
        if self.finalizer in finalizers:
            kept = [each for each in finalizers if each != self.finalizer]
            metadata = {**obj["metadata"], "finalizers": kept}
            await self.client.update(self.gvr, {**obj, "metadata": metadata})
        return None

    def in_use(self, obj: Object) -> bool:
        raise NotImplementedError


class ClaimProtectionController(Protection):
    name = "pvc-protection-controller"
    gvr = PERSISTENTVOLUMECLAIMS
    finalizer = "kubernetes.io/pvc-protection"
    watches = (
        Watch(PERSISTENTVOLUMECLAIMS),
        Watch(
            PODS,
            keys=lambda self, pod: (
                Key(pod["metadata"]["namespace"], name) for name in claims_of(pod)
            ),
            matters=lambda old, new: ended(new) and not ended(old),
        ),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.pods = self.informer(PODS)

    def in_use(self, obj: Object) -> bool:
        metadata = obj["metadata"]
        return any(
            pod["spec"].get("nodeName") and not ended(pod) and metadata["name"] in claims_of(pod)
            for pod in self.pods.list(metadata["namespace"])
            if pod["spec"].get("volumes")
        )


class VolumeProtectionController(Protection):
    name = "pv-protection-controller"
    gvr = PERSISTENTVOLUMES
    finalizer = "kubernetes.io/pv-protection"
    watches = (Watch(PERSISTENTVOLUMES),)

    def in_use(self, obj: Object) -> bool:
        return (obj.get("status") or {}).get("phase") == "Bound"


class AttributesClassProtectionController(Protection):
    name = "vac-protection-controller"
    gvr = VOLUMEATTRIBUTESCLASSES
    finalizer = "kubernetes.io/vac-protection"
    watches = (
        Watch(VOLUMEATTRIBUTESCLASSES),
        Watch(PERSISTENTVOLUMECLAIMS, keys=lambda self, obj: self.classes_of(obj)),
        Watch(PERSISTENTVOLUMES, keys=lambda self, obj: self.classes_of(obj)),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.users = [self.informer(PERSISTENTVOLUMECLAIMS), self.informer(PERSISTENTVOLUMES)]

    def classes_of(self, obj: Object) -> list[Key]:
        return [Key("", name) for name in named(obj)]

    def in_use(self, obj: Object) -> bool:
        name = obj["metadata"]["name"]
        return any(name in named(user) for informer in self.users for user in informer.list())


def named(obj: Object) -> set[str]:
    """Attributes classes that a claim or volume asks for or has."""
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    found = {
        spec.get("volumeAttributesClassName"),
        status.get("currentVolumeAttributesClassName"),
    }
    return {name for name in found if name}


def ended(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") in ENDED
