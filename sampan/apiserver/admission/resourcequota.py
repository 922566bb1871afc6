"""ResourceQuota: an object is only made when every quota of its namespace that counts it has room.

The room is taken before the object is written, by a compare-and-swap of the quota's status: two requests, also at two API
servers, never take the same room. A write that fails afterwards leaves too much counted until the quota controller has
counted again, never too little. The last plug-in of the chain, because the amounts must be final.
"""

from __future__ import annotations

from dataclasses import dataclass

from sampan.apiserver.admission.plugin import Object, Plugin
from sampan.apiserver.call import Call
from sampan.apiserver.resources import Resource
from sampan.kube import podresources, quota
from sampan.kube.podresources import Amounts
from sampan.kube.quantity import Quantity

TRIES = 16  # against other writers of the same quota
ZERO = Quantity()


@dataclass(slots=True)
class Demand:
    """What one request would add: to each quota in scope the object's amounts now less those it had."""

    row: Resource
    new: Object
    old: Object | None

    def on(self, item: Object, hard: Amounts) -> Amounts:
        """Changes by name, nothing for names that do not change."""
        group, plural = self.row.group, self.row.name
        if self.row.storage == "core/events":
            group, plural = "", "events"
        delta: Amounts = {}
        if quota.in_scope(item, group, plural, self.new):
            podresources.add(delta, quota.counted(hard, quota.usage(group, plural, self.new)))
        if self.old is not None and quota.in_scope(item, group, plural, self.old):
            had = quota.counted(hard, quota.usage(group, plural, self.old))
            podresources.add(delta, {name: -amount for name, amount in had.items()})
        return {name: amount for name, amount in delta.items() if amount}


class ResourceQuota(Plugin):
    subresources = ("", "resize")

    def concerns(self, row: Resource, subresource: str) -> bool:
        return row.namespaced and super().concerns(row, subresource)

    async def validate_create(self, call: Call, obj: Object) -> None:
        await self.charge(call, Demand(call.resource, obj, None))

    async def validate_update(self, call: Call, new: Object, old: Object) -> None:
        if call.resource.storage in ("core/services", "core/persistentvolumeclaims") or (
            call.resource.storage == "core/pods" and call.info.subresource == "resize"
        ):
            await self.charge(call, Demand(call.resource, new, old))

    async def charge(self, call: Call, demand: Demand) -> None:
        entries = await self.lookup.within("", "v1", "resourcequotas", call.info.namespace)
        if not entries:
            return
        wanted = [(entry, entry.object()) for entry in entries]
        for _, item in wanted:
            check(call, demand, item)
        if call.dry_run:
            return
        for entry, item in wanted:
            if room(demand, item)[0]:
                await self.take(call, demand, entry.key)

    async def take(self, call: Call, demand: Demand, key: str) -> None:
        """Count the request in one quota. Raises ApiError 403 when somebody else was quicker and nothing is left."""

        def counted(item: Object) -> Object | None:
            check(call, demand, item)
            delta, hard, used = room(demand, item)
            if not delta:
                return None
            for name, amount in delta.items():
                used[name] = used[name] + amount
            shown = {name: str(used.get(name, ZERO)) for name in hard}
            return {**item, "status": {**item["status"], "used": shown}}

        if not await self.lookup.swap("", "v1", "resourcequotas", key, counted, TRIES):
            raise call.conflict("the quota is being changed by too many others, try again")


def room(demand: Demand, item: Object) -> tuple[Amounts, Amounts, Amounts]:
    """(what would be added, the limits, what is used)."""
    hard = quota.hard_of(item)
    return demand.on(item, hard), hard, quota.used_of(item)


def check(call: Call, demand: Demand, item: Object) -> None:
    """Raises ApiError 403 when the quota counts the object and has no room for it, or cannot count it."""
    row, name = call.resource, demand.new["metadata"].get("name", "")
    title = item["metadata"]["name"]
    hard = quota.hard_of(item)
    if row.storage == "core/pods" and quota.in_scope(item, "", "pods", demand.new):
        unsaid = quota.missing(hard, demand.new)
        if unsaid:
            told = "; ".join(f"{each} for: {','.join(unsaid[each])}" for each in sorted(unsaid))
            raise call.forbidden(f"failed quota: {title}: must specify {told}", name)
    delta, hard, used = room(demand, item)
    unknown = sorted(each for each in delta if each not in used)
    if unknown:
        text = f"status unknown for quota: {title}, resources: {','.join(unknown)}"
        raise call.forbidden(text, name)
    over = {
        each: amount
        for each, amount in delta.items()
        if amount > ZERO and used.get(each, ZERO) + amount > hard[each]
    }
    if over:
        raise call.forbidden(
            f"exceeded quota: {title}, requested: {quota.told(over)}, "
            f"used: {quota.told({each: used.get(each, ZERO) for each in over})}, "
            f"limited: {quota.told({each: hard[each] for each in over})}",
            name,
        )
