"""Priority: the class name of a pod becomes its number."""

from __future__ import annotations

from sampan.apiserver.admission.plugin import Object, Plugin
from sampan.apiserver.call import Call


class Priority(Plugin):
    """priorityClassName becomes a number; without a name the cluster's default class counts."""

    storages = ("core/pods",)

    async def create(self, call: Call, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        name = spec.get("priorityClassName") or ""
        classes = ("scheduling.k8s.io", "v1", "priorityclasses")
        value, policy = 0, "PreemptLowerPriority"
        if name:
            entry = await self.lookup.entry(*classes, "", name)
            if entry is None:
                raise call.forbidden(
                    f"no PriorityClass with name {name} was found", obj["metadata"].get("name", "")
                )
            found = entry.object()
            value, policy = found.get("value", 0), found.get("preemptionPolicy") or policy
        else:
            marked = await self.lookup.all(*classes, having=b'"globalDefault":true')
            defaults = [each for each in marked if each.get("globalDefault")]
            if defaults:
                found = min(defaults, key=lambda each: each.get("value", 0))
                spec["priorityClassName"] = found["metadata"]["name"]
                value, policy = found.get("value", 0), found.get("preemptionPolicy") or policy
        given = spec.get("priority")
        if given is not None and given != value:
            raise call.forbidden(
                f"the integer value of priority ({given}) must not be provided in pod spec; "
                f"priority admission controller computed {value} from the given PriorityClass name",
                obj["metadata"].get("name", ""),
            )
        spec["priority"] = value
        asked = spec.get("preemptionPolicy")
        if asked is not None and asked != policy:
            raise call.forbidden(
                f"the string value of PreemptionPolicy ({asked}) must not be provided in pod spec; "
                f"priority admission controller computed {policy} from the given PriorityClass name",
                obj["metadata"].get("name", ""),
            )
        spec["preemptionPolicy"] = policy

    async def update(self, call: Call, new: Object, old: Object) -> None:
        """Whoever replaces a pod by the manifest that made it keeps what was made of the name then."""
        before, spec = old["spec"], new["spec"]
        for key in ("priority", "preemptionPolicy"):
            if spec.get(key) is None and before.get(key) is not None:
                spec[key] = before[key]
