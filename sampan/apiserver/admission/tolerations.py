"""Tolerations and taints that every pod and every new node get."""

from __future__ import annotations

from sampan.apiserver.admission.plugin import Object, Plugin
from sampan.apiserver.call import Call

NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"


class DefaultTolerationSeconds(Plugin):
    """A pod stays 300 s on a node that is not ready or not reachable, unless it says otherwise."""

    storages = ("core/pods",)

    async def create(self, call: Call, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        tolerations = spec.get("tolerations") or []
        for key in (NOT_READY, UNREACHABLE):
            if not any(
                each.get("key") in (key, "", None) and each.get("effect") in ("NoExecute", "", None)
                for each in tolerations
            ):
                tolerations = [
                    *tolerations,
                    {
                        "key": key,
                        "operator": "Exists",
                        "effect": "NoExecute",
                        "tolerationSeconds": 300,
                    },
                ]
        spec["tolerations"] = tolerations

    async def update(self, call: Call, new: Object, old: Object) -> None:
        await self.create(call, new)


class TaintNodesByCondition(Plugin):
    """A new node is not ready until its conditions say so, and nothing lands on it before."""

    storages = ("core/nodes",)

    async def create(self, call: Call, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        taints = spec.get("taints") or []
        if not any(
            each.get("key") == NOT_READY and each.get("effect") == "NoSchedule" for each in taints
        ):
            spec["taints"] = [*taints, {"key": NOT_READY, "effect": "NoSchedule"}]
