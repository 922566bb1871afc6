"""Acts on definitions: writes the status that each should have, and empties the kind of one that is being deleted.

Every server of a cluster runs it; they come to the same conclusions, and a conflict means that another was quicker.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from sampan.apiserver.call import Call
from sampan.apiserver.crd import conditions
from sampan.apiserver.crd.definitions import Definitions
from sampan.apiserver.deletecollection import delete_all
from sampan.apiserver.entries import Entry
from sampan.apiserver.registry import DeleteOptions, Registry
from sampan.apiserver.resources import Resource
from sampan.apiserver.routes import RequestInfo
from sampan.apiserver.watchcache import ResourceCache
from sampan.client.transport import Request, User
from sampan.kube import objects
from sampan.kube.errors import ApiError
from sampan.kube.structural.definition import is_established
from sampan.store import StoreError

log = logging.getLogger(__name__)

Object = dict[str, Any]

SELF = User("system:apiserver", ("system:masters",))
RETRY = 5.0  # seconds until what failed is tried again
PATIENCE = 60.0  # seconds after which a deletion is looked at again, though no event came


class DefinitionController:
    def __init__(self, definitions: Definitions, registry: Registry) -> None:
        self.definitions = definitions
        self.registry = registry
        self._cleaning: set[str] = set()

    async def run(self) -> None:
        """Until cancelled. One task of the server's group."""
        definitions = self.definitions
        async with asyncio.TaskGroup() as group:
            while True:
                await definitions.wake.wait()
                definitions.wake.clear()
                if definitions.cache is None:
                    await definitions.start()
                names, definitions.changed = definitions.changed, set()
                for name in sorted(names):
                    try:
                        await self._look_at(name, group)
                    except (ApiError, StoreError) as error:
                        log.warning("definition %s: %s", name, error)
                        group.create_task(self._later(name))

    async def _later(self, name: str) -> None:
        await asyncio.sleep(RETRY)
        self.definitions.changed.add(name)
        self.definitions.wake.set()

    async def _look_at(self, name: str, group: asyncio.TaskGroup) -> None:
        crd = self._get(name)
        if crd is None:
            # Names were given back: another definition of the group may be waiting for them.
            wanted = name.partition(".")[2]
            for entry in self._group(wanted):
                other = entry.object()
                if other["spec"].get("group") == wanted and not conditions.settled(other):
                    await self._write_status(entry.name)
            return
        if conditions.must_clean(crd):
            if name not in self._cleaning:
                self._cleaning.add(name)
                group.create_task(self._clean(name))
            return
        if not conditions.settled(crd):
            await self._write_status(name)

    @property
    def _cache(self) -> ResourceCache:
        cache = self.definitions.cache
        if cache is None:
            raise StoreError("the cache of definitions was reset")
        return cache

    def _get(self, name: str) -> Object | None:
        entry = self._cache.entries.get(self.definitions.row.key("", name))
        return entry.object() if entry is not None else None

    def _group(self, group: str) -> list[Entry]:
        """The definitions of an API group; a definition's name ends with it."""
        end = f".{group}"
        return [entry for entry in self._cache.entries.values() if entry.name.endswith(end)]

    def _names(self, entry: Entry) -> Object:
        """The names that a definition holds."""
        served = self.definitions.served.get(entry.name)
        if served is not None:
            return served.accepted
        return (entry.object().get("status") or {}).get("acceptedNames") or {}

    async def _write_status(self, name: str) -> None:
        def change(crd: Object) -> Object:
            others = [
                self._names(entry)
                for entry in self._group(crd["spec"].get("group") or "")
                if entry.name != name
            ]
            return conditions.wanted(crd, others, objects.now())

        await self._update(name, change)

    async def _update(self, name: str, change: Any) -> None:
        call = system_call("update", self.definitions.row, "", name)
        try:
            await self.registry.update(call, change, status=True, prepare=as_is, validate=False)
        except ApiError as error:
            if error.code not in (404, 409):
                raise

    # Deletion

    async def _clean(self, name: str) -> None:
        """Delete every object of the definition, then let it go."""
        try:
            while True:
                try:
                    crd = self._get(name)
                    if crd is None or not conditions.must_clean(crd):
                        return
                    reason, message = "NeverEstablished", "resource was never established"
                    definition = self.definitions.served.get(name)
                    if definition is not None and definition.overlaps:
                        reason, message = conditions.OVERLAPPING
                    elif is_established(crd):
                        await self._mark(name, "True", *conditions.IN_PROGRESS)
                        await self._empty(name)
                        reason, message = conditions.COMPLETED
                    await self._mark(name, "False", reason, message, finish=True)
                    return
                except (ApiError, StoreError) as error:
                    log.warning("objects of %s cannot be deleted: %s", name, error)
                    text = f"could not issue all deletes: {error}"
                    await self._mark(name, "True", "InstanceDeletionFailed", text)
                    await asyncio.sleep(RETRY)
        finally:
            self._cleaning.discard(name)

    async def _mark(
        self, name: str, verdict: str, reason: str, message: str, *, finish: bool = False
    ) -> None:
        def change(crd: Object) -> Object:
            objects.set_condition(crd, "Terminating", verdict, reason, message)
            if finish:
                metadata = crd["metadata"]
                metadata["finalizers"] = [
                    each
                    for each in metadata.get("finalizers") or ()
                    if each != conditions.FINALIZER
                ]
            return crd

        await self._update(name, change)

    async def _empty(self, name: str) -> None:
        """Return when no object of the kind is left; those with finalizers are waited for."""
        definition = self.definitions.served.get(name)
        if definition is None:
            return
        while True:
            row = definition.storage_row
            cache = await self.registry.caches.get(row)
            call = system_call("deletecollection", row, "", "")
            entries = [cache.entries[key] for key in cache.keys(row.prefix)]
            await delete_all(self.registry, call, entries, DeleteOptions())
            cache = await self.registry.caches.get(row)
            watcher = cache.subscribe(row.prefix, None, self.registry.caches.current(cache))
            if not cache.keys(row.prefix):
                return
            if watcher is None:
                continue
            try:
                while cache.keys(row.prefix):
                    if not await watcher.next(PATIENCE):
                        break
                else:
                    return
            finally:
                watcher.close()


def as_is(call: Call, new: Object, old: Object) -> None:
    """The change was made by the server itself."""


def system_call(verb: str, row: Resource, namespace: str, name: str) -> Call:
    path = f"/apis/{row.group}/{row.version}/{row.name}"
    info = RequestInfo(verb, path, True, row.group, row.version, row.name, "", namespace, name)
    return Call(Request(verb, path, user=SELF), info, row, SELF)
