"""/scale of a custom resource: an autoscaling/v1 Scale over the paths that its definition names."""

from __future__ import annotations

from typing import Any

from sampan.kube import errors
from sampan.kube.structural.resource import WrongType, nested

Object = dict[str, Any]

_KEPT = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")


class CustomScale:
    """Has the functions of `apiserver.scale`, for one version of a definition."""

    def __init__(self, paths: Object) -> None:
        self.spec = paths["specReplicasPath"]
        self.status = paths["statusReplicasPath"]
        self.selector = paths.get("labelSelectorPath") or ""

    def of(self, obj: Object) -> Object:
        """The Scale that shows the object. Raises ApiError 500 when it says no number of replicas."""
        metadata = obj["metadata"]
        try:
            replicas = nested(obj, self.spec, int)
            shown: Object = {"replicas": nested(obj, self.status, int) or 0}
            selector = nested(obj, self.selector, str) if self.selector else ""
        except WrongType as error:
            raise errors.internal(str(error)) from error
        if replicas is None:
            raise errors.internal(f'the spec replicas field "{self.spec}" does not exist')
        if selector:
            shown["selector"] = selector
        return {
            "kind": "Scale",
            "apiVersion": "autoscaling/v1",
            "metadata": {key: metadata[key] for key in _KEPT if key in metadata},
            "spec": {"replicas": replicas} if replicas else {},
            "status": shown,
        }

    def apply(self, obj: Object, scale: Object) -> Object:
        """The object with the replicas of a Scale, in place; the Scale's resourceVersion is the precondition."""
        replicas = (scale.get("spec") or {}).get("replicas") or 0
        *parents, last = self.spec.removeprefix(".").split(".")
        holder = obj
        for key in parents:
            holder = holder.setdefault(key, {})
        holder[last] = replicas
        revision = scale["metadata"].get("resourceVersion")
        if revision:
            obj["metadata"]["resourceVersion"] = revision
        return obj

    def managed(self, obj: Object, entries: list[Object] | None) -> Object:
        """The object with these managers (`metadata.managedFields`), in place."""
        if entries:
            obj["metadata"]["managedFields"] = entries
        else:
            obj["metadata"].pop("managedFields", None)
        return obj
