"""LimitRanger: a namespace's LimitRanges give containers their default requests and limits, and bound what is asked.

Defaults are given while objects may still be changed, bounds are checked when they are final. Every bound that is broken
is told at once. Source: kubernetes.io/docs/concepts/policy/limit-range.
"""

from __future__ import annotations

from collections.abc import Iterator

from sampan.apiserver.admission.plugin import Object, Plugin
from sampan.apiserver.call import Call
from sampan.kube import podresources
from sampan.kube.errors import ApiError
from sampan.kube.podresources import Amounts
from sampan.kube.quantity import Quantity

ANNOTATION = "kubernetes.io/limit-ranger"
CLAIM = "PersistentVolumeClaim"


class LimitRanger(Plugin):
    storages = ("core/pods", "core/persistentvolumeclaims")
    subresources = ("", "resize")

    async def create(self, call: Call, obj: Object) -> None:
        if call.resource.storage != "core/pods":
            return
        given: list[str] = []
        for limits in await self.ranges(call):
            given += apply_defaults(limits, obj["spec"])
        if given:
            annotations = obj["metadata"].setdefault("annotations", {})
            annotations[ANNOTATION] = "LimitRanger plugin set: " + "; ".join(given)

    async def validate_create(self, call: Call, obj: Object) -> None:
        found: list[str] = []
        for limits in await self.ranges(call):
            found += broken(limits, call.resource.storage, obj)
        if found:
            raise refusal(call, obj, found)

    async def validate_update(self, call: Call, new: Object, old: Object) -> None:
        # A pod's requests only change by a resize; a claim's by an update.
        if call.resource.storage != "core/pods" or call.info.subresource == "resize":
            await self.validate_create(call, new)

    async def ranges(self, call: Call) -> list[Object]:
        """The `spec.limits` of every LimitRange of the namespace."""
        entries = await self.lookup.within("", "v1", "limitranges", call.info.namespace)
        return [
            item for entry in entries for item in entry.object().get("spec", {}).get("limits") or ()
        ]


def refusal(call: Call, obj: Object, found: list[str]) -> ApiError:
    text = found[0] if len(found) == 1 else f"[{', '.join(found)}]"
    return call.forbidden(text, obj["metadata"].get("name", ""))


def apply_defaults(limits: Object, spec: Object) -> list[str]:
    """Give containers what they do not state; what was given, in words, a phrase a container and side."""
    if limits.get("type") != "Container":
        return []
    told = []
    for group, label in (("containers", "container"), ("initContainers", "init container")):
        for container in spec.get(group) or ():
            for side, given in (
                ("requests", limits.get("defaultRequest") or {}),
                ("limits", limits.get("default") or {}),
            ):
                resources = container.get("resources") or {}
                stated = resources.get(side) or {}
                new = {name: text for name, text in given.items() if name not in stated}
                if new:
                    container["resources"] = {**resources, side: {**stated, **new}}
                    word = "request" if side == "requests" else "limit"
                    told.append(f"{', '.join(sorted(new))} {word} for {label} {container['name']}")
    return told


def broken(limits: Object, storage: str, obj: Object) -> list[str]:
    """The bounds of one item that the object breaks."""
    kind = limits.get("type")
    if storage == "core/persistentvolumeclaims":
        if kind != CLAIM:
            return []
        asked = podresources.amounts((obj["spec"].get("resources") or {}).get("requests"))
        return [*too_little(limits, kind, asked, {}), *too_much(limits, kind, asked, asked)]
    if kind == "Pod":
        pod = (
            podresources.of_pod(obj["spec"], "requests"),
            podresources.of_pod(obj["spec"], "limits"),
        )
        return list(bounds(limits, kind, *pod))
    if kind != "Container":
        return []
    found: list[str] = []
    for group in ("containers", "initContainers"):
        for container in obj["spec"].get(group) or ():
            resources = container.get("resources") or {}
            requests = podresources.amounts(resources.get("requests"))
            found += bounds(limits, kind, requests, podresources.amounts(resources.get("limits")))
    return found


def bounds(limits: Object, kind: str, requests: Amounts, most: Amounts) -> Iterator[str]:
    yield from too_little(limits, kind, requests, most)
    yield from too_much(limits, kind, requests, most)
    yield from too_far(limits, kind, requests, most)


def too_little(limits: Object, kind: str, requests: Amounts, most: Amounts) -> Iterator[str]:
    for name, least in podresources.amounts(limits.get("min")).items():
        bound = f"minimum {name} usage per {kind} is {least}"
        if name not in requests:
            yield f"{bound}.  No request is specified"
        elif requests[name] < least:
            yield f"{bound}, but request is {requests[name]}"
        if name in most and most[name] < least:
            yield f"{bound}, but limit is {most[name]}"


def too_much(limits: Object, kind: str, requests: Amounts, most: Amounts) -> Iterator[str]:
    for name, cap in podresources.amounts(limits.get("max")).items():
        bound = f"maximum {name} usage per {kind} is {cap}"
        if name not in most:
            yield f"{bound}.  No limit is specified"
        elif most[name] > cap and kind != CLAIM:
            yield f"{bound}, but limit is {most[name]}"
        if name in requests and requests[name] > cap:
            yield f"{bound}, but request is {requests[name]}"


def too_far(limits: Object, kind: str, requests: Amounts, most: Amounts) -> Iterator[str]:
    nothing = Quantity()
    for name, ratio in podresources.amounts(limits.get("maxLimitRequestRatio")).items():
        bound = f"{name} max limit to request ratio per {kind} is {ratio}"
        if not requests.get(name, nothing):
            yield f"{bound}, but no request is specified or request is 0"
        elif not most.get(name, nothing):
            yield f"{bound}, but no limit is specified or limit is 0"
        else:
            observed = most[name].nanos() / requests[name].nanos()
            if observed > ratio.nanos() / 10**9:
                yield f"{bound}, but provided ratio is {observed:f}"
