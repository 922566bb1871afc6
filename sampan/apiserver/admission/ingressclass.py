"""DefaultIngressClass: an Ingress that names no class gets the default one."""

from __future__ import annotations

from sampan.apiserver.admission.plugin import Object, Plugin
from sampan.apiserver.admission.storage import is_default, newest
from sampan.apiserver.call import Call

DEFAULT_CLASS = ("ingressclass.kubernetes.io/is-default-class",)
LEGACY_CLASS = "kubernetes.io/ingress.class"


class DefaultIngressClass(Plugin):
    storages = ("networking.k8s.io/ingresses",)

    async def create(self, call: Call, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        annotations = obj["metadata"].get("annotations") or {}
        if spec.get("ingressClassName") is not None or LEGACY_CLASS in annotations:
            return
        marked = await self.lookup.all(
            "networking.k8s.io", "v1", "ingressclasses", having=b"is-default-class"
        )
        defaults = [each for each in marked if is_default(each, DEFAULT_CLASS)]
        if defaults:
            spec["ingressClassName"] = newest(defaults)
