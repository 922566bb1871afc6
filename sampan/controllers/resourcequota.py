"""ResourceQuota controller: counts what each quota limits, and shows it in the quota's status.

Admission adds to `status.used` before an object is made; this controller counts anew, so that what is deleted frees its
room, and what a failed write left counted is put right. It watches the kinds that some quota names, and no other: a kind's
informer starts when the first quota names it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from sampan.client.informer import Informer
from sampan.client.resources import RESOURCEQUOTAS
from sampan.controllers.base import Context, Controller, Key, Object, Requeue, Watch
from sampan.controllers.discovery import discover
from sampan.kube import podresources, quota
from sampan.kube.types import GVR

RECOUNT = 300.0  # seconds after which a quota is counted again though nothing seems to have changed
# Room is taken before the object is there to be counted. Until this long after, in seconds, nothing is counted: a quota
# that is lowered too early could be exceeded.
SETTLED = 1.0
ENDED = ("Succeeded", "Failed")


def settled(old: Object, new: Object) -> bool:
    """Nothing else is wished, and nobody else wrote limits into the status."""
    limits = (new.get("status") or {}).get("hard") or {}
    return old["spec"] == new["spec"] and limits == (new["spec"].get("hard") or {})


class ResourceQuotaController(Controller):
    name = "resourcequota-controller"
    watches = (Watch(RESOURCEQUOTAS, matters=lambda old, new: not settled(old, new)),)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.quotas = self.informer(RESOURCEQUOTAS)
        self.counted: dict[tuple[str, str], Informer] = {}  # by (group, plural)
        self.taken: dict[Key, float] = {}  # when admission last took room
        self.quotas.add_handler(self.changed)
        self._starting = asyncio.Lock()
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            for _ in range(self.workers):
                group.create_task(self.work())

    async def reconcile(self, key: Key) -> Requeue | None:
        item = self.quotas.get(*key)
        if item is None:
            self.taken.pop(key, None)
            return None
        left = self.taken.get(key, -SETTLED) + SETTLED - self.monotonic()
        if left > 0:
            return Requeue(left)
        hard = podresources.amounts(item["spec"].get("hard"))
        objects: list[tuple[str, str, Object]] = []
        for group, plural in sorted(quota.kinds_of(hard)):
            informer = await self.informer_of(group, plural)
            if informer is not None:
                objects += ((group, plural, obj) for obj in informer.list(key.namespace))
        used = quota.total(item, objects, hard)
        status = {
            "hard": dict(item["spec"].get("hard") or {}),
            "used": {name: str(amount) for name, amount in used.items()},
        }
        if status != item.get("status"):
            await self.client.update(RESOURCEQUOTAS, {**item, "status": status}, "status")
        return Requeue(RECOUNT)

    def changed(self, kind: str, old: Object | None, new: Object | None) -> None:
        if old is None or new is None or not rose(old, new):
            return
        self.taken[Key(new["metadata"]["namespace"], new["metadata"]["name"])] = self.monotonic()

    async def informer_of(self, group: str, plural: str) -> Informer | None:
        """The kind's informer, synced; None for a kind that is not served."""
        async with self._starting:
            found = self.counted.get((group, plural))
            if found is None:
                gvr = await self.served(group, plural)
                if gvr is None:
                    return None
                shared = self.context.informers.get((gvr, ""))
                found = shared if shared is not None else Informer(self.client, gvr)
                found.add_handler(self.replenished)
                self.counted[group, plural] = found
                if shared is None:
                    assert self._group is not None
                    found.start(self._group)
        await found.synced()
        return found

    async def served(self, group: str, plural: str) -> GVR | None:
        for each in await discover(self.client):
            if (each.gvr.group, each.gvr.resource) == (group, plural) and each.namespaced:
                return each.gvr if {"list", "watch"} <= each.verbs else None
        return None

    def replenished(self, kind: str, old: Object | None, new: Object | None) -> None:
        """Something counted went away or shrank: the quotas of its namespace are counted again."""
        del kind
        if old is None or (new is not None and not shrank(old, new)):
            return
        for key in self.quotas_of(old["metadata"].get("namespace", "")):
            self.queue.add(key)

    def quotas_of(self, namespace: str) -> Iterable[Key]:
        return [Key(namespace, item["metadata"]["name"]) for item in self.quotas.list(namespace)]


def rose(old: Object, new: Object) -> bool:
    before, after = quota.used_of(old), quota.used_of(new)
    return any(name in before and amount > before[name] for name, amount in after.items())


def shrank(old: Object, new: Object) -> bool:
    """Can the object use less than before? A pod that ended does; a Service or claim may when its spec changed."""
    phase = (new.get("status") or {}).get("phase")
    if phase in ENDED and (old.get("status") or {}).get("phase") not in ENDED:
        return True
    return new.get("kind") in ("Pod", "Service", "PersistentVolumeClaim") and new.get(
        "spec"
    ) != old.get("spec")
