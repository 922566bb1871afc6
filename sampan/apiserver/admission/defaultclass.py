"""Default classes: a claim that names no StorageClass, and an Ingress that names no IngressClass, get the one that is marked so."""

from __future__ import annotations

from sampan.apiserver.admission.plugin import Object, Plugin
from sampan.apiserver.call import Call


class DefaultClass(Plugin):
    """Of several defaults, the newest."""

    group: str
    classes: str  # the plural of the kind that is a class
    marks: tuple[str, ...]  # annotations of a class, one of which makes it the default
    field: str  # of the spec
    legacy: str  # the annotation that named a class before the field did

    async def create(self, call: Call, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        annotations = obj["metadata"].get("annotations") or {}
        if spec.get(self.field) is not None or self.legacy in annotations:
            return
        marked = await self.lookup.all(self.group, "v1", self.classes, having=b"is-default-class")
        defaults = [each for each in marked if is_default(each, self.marks)]
        if defaults:
            spec[self.field] = newest(defaults)


class DefaultStorageClass(DefaultClass):
    storages = ("core/persistentvolumeclaims",)
    group, classes = "storage.k8s.io", "storageclasses"
    marks = (
        "storageclass.kubernetes.io/is-default-class",
        "storageclass.beta.kubernetes.io/is-default-class",
    )
    field = "storageClassName"
    legacy = "volume.beta.kubernetes.io/storage-class"


class DefaultIngressClass(DefaultClass):
    storages = ("networking.k8s.io/ingresses",)
    group, classes = "networking.k8s.io", "ingressclasses"
    marks = ("ingressclass.kubernetes.io/is-default-class",)
    field = "ingressClassName"
    legacy = "kubernetes.io/ingress.class"


def is_default(obj: Object, marks: tuple[str, ...]) -> bool:
    annotations = obj["metadata"].get("annotations") or {}
    return any(annotations.get(name) == "true" for name in marks)


def newest(objects: list[Object]) -> str:
    """The name of the youngest, the first by name among equals."""
    by_name = sorted(objects, key=lambda each: each["metadata"]["name"])
    return max(by_name, key=lambda each: each["metadata"].get("creationTimestamp") or "")[
        "metadata"
    ]["name"]
