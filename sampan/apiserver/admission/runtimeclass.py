"""RuntimeClass: its overhead, node selector and tolerations reach the pod (KEP-688)."""

from __future__ import annotations

from sampan.apiserver.admission.plugin import Object, Plugin
from sampan.apiserver.call import Call


class RuntimeClass(Plugin):
    """The pod's runtime class brings its overhead and its constraints on nodes (KEP-688)."""

    storages = ("core/pods",)

    async def create(self, call: Call, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        name = spec.get("runtimeClassName")
        pod = obj["metadata"].get("name", "")
        if not name:
            if spec.get("overhead"):
                raise call.forbidden(
                    "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
                    pod,
                )
            return
        entry = await self.lookup.entry("node.k8s.io", "v1", "runtimeclasses", "", name)
        if entry is None:
            raise call.forbidden(f'pod rejected: RuntimeClass "{name}" not found', pod)
        runtime = entry.object()
        fixed = (runtime.get("overhead") or {}).get("podFixed")
        if fixed:
            if spec.get("overhead") and spec["overhead"] != fixed:
                raise call.forbidden(
                    "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
                    pod,
                )
            spec["overhead"] = dict(fixed)
        elif spec.get("overhead"):
            raise call.forbidden(
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
                pod,
            )
        scheduling = runtime.get("scheduling") or {}
        if scheduling.get("nodeSelector"):
            selector = dict(spec.get("nodeSelector") or {})
            for key, value in scheduling["nodeSelector"].items():
                if selector.setdefault(key, value) != value:
                    raise call.forbidden(
                        f"conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; "
                        f"pod.spec.nodeSelector[{key}] = {selector[key]}",
                        pod,
                    )
            spec["nodeSelector"] = selector
        for toleration in scheduling.get("tolerations") or ():
            if toleration not in (spec.get("tolerations") or ()):
                spec["tolerations"] = [*(spec.get("tolerations") or ()), toleration]
