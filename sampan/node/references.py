"""The ConfigMaps and Secrets that this node's pods refer to: each fetched once, watched while used, and cached on disk.

A pod holds what it names; the first holder fetches and starts a watch of that one object (by `metadata.name`), the last
one ends it. So a node sees no Secret that none of its pods uses. While the API is away the cached copy serves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sampan.client.client import Client
from sampan.client.informer import Informer
from sampan.client.resources import CONFIGMAPS, SECRETS
from sampan.kube.errors import ApiError
from sampan.kube.types import GVR
from sampan.node import podspec
from sampan.node.cache import ObjectCache
from sampan.node.podspec import Object

log = logging.getLogger(__name__)

KINDS: dict[str, GVR] = {"configmap": CONFIGMAPS, "secret": SECRETS}


class Ref(NamedTuple):
    kind: str  # configmap or secret
    namespace: str
    name: str


def of_pod(pod: Object) -> set[Ref]:
    """Every object that the pod's environment, volumes and pull secrets name."""
    namespace = pod["metadata"]["namespace"]
    found = set(_of_volumes(pod))
    for named in podspec.containers(pod):
        for source in named.container.get("envFrom") or ():
            found.add(("configmap", (source.get("configMapRef") or {}).get("name")))
            found.add(("secret", (source.get("secretRef") or {}).get("name")))
        for item in named.container.get("env") or ():
            origin = item.get("valueFrom") or {}
            found.add(("configmap", (origin.get("configMapKeyRef") or {}).get("name")))
            found.add(("secret", (origin.get("secretKeyRef") or {}).get("name")))
    for secret in pod["spec"].get("imagePullSecrets") or ():
        found.add(("secret", secret.get("name")))
    return {Ref(kind, namespace, name) for kind, name in found if name}


def _of_volumes(pod: Object) -> Iterator[tuple[str, Any]]:
    for volume in pod["spec"].get("volumes") or ():
        yield "configmap", (volume.get("configMap") or {}).get("name")
        yield "secret", (volume.get("secret") or {}).get("secretName")
        for part in (volume.get("projected") or {}).get("sources") or ():
            yield "configmap", (part.get("configMap") or {}).get("name")
            yield "secret", (part.get("secret") or {}).get("name")


@dataclass(slots=True)
class _Entry:
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    value: Object | None = None
    holders: set[str] = field(default_factory=set)  # pod uids
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class References:
    """`changed(uid)` is called for every holder of an object that became another one."""

    def __init__(
        self, client: Client | None, cache: ObjectCache, changed: Callable[[str], None]
    ) -> None:
        self._client = client
        self._cache = cache
        self._changed = changed
        self._entries: dict[Ref, _Entry] = {}
        self._held: dict[str, set[Ref]] = {}

    async def hold(self, uid: str, refs: set[Ref], group: asyncio.TaskGroup) -> None:
        """The pod holds exactly these; each has been asked for on return."""
        before = self._held.get(uid, set())
        self._held[uid] = refs
        for ref in before - refs:
            self._drop(uid, ref)
        for ref in refs - before:
            entry = self._entries.get(ref)
            if entry is None:
                entry = self._entries[ref] = _Entry()
                entry.tasks.append(group.create_task(self._fetch(ref, entry, group)))
            entry.holders.add(uid)
        for ref in refs:
            if found := self._entries.get(ref):
                await found.ready.wait()

    def release(self, uid: str) -> None:
        for ref in self._held.pop(uid, set()):
            self._drop(uid, ref)

    def get(self, ref: Ref) -> Object | None:
        entry = self._entries.get(ref)
        return entry.value if entry else None

    def _drop(self, uid: str, ref: Ref) -> None:
        entry = self._entries.get(ref)
        if entry is None:
            return
        entry.holders.discard(uid)
        if not entry.holders:
            for task in entry.tasks:
                task.cancel()
            del self._entries[ref]
            self._cache.put(*ref, None)

    async def _fetch(self, ref: Ref, entry: _Entry, group: asyncio.TaskGroup) -> None:
        """One GET, because a pod waits for it; then a watch."""
        entry.value = self._cache.get(*ref)
        if self._client is None:
            entry.ready.set()
            return
        try:
            self._store(
                ref, entry, await self._client.get(KINDS[ref.kind], ref.name, ref.namespace)
            )
        except ApiError as error:
            if error.code == 404:
                self._store(ref, entry, None)
            else:
                log.warning("%s %s/%s: %s", ref.kind, ref.namespace, ref.name, error.message)
        except (OSError, TimeoutError) as error:
            log.warning("%s %s/%s: %s", ref.kind, ref.namespace, ref.name, error)
        entry.ready.set()
        informer = Informer(
            self._client, KINDS[ref.kind], ref.namespace, field_selector=f"metadata.name={ref.name}"
        )
        informer.add_handler(lambda _type, _old, new: self._store(ref, entry, new))
        entry.tasks.append(informer.start(group))

    def _store(self, ref: Ref, entry: _Entry, value: Object | None) -> None:
        old, entry.value = entry.value, value
        if _content(old) == _content(value):
            return
        if self._entries.get(ref) is entry:
            self._cache.put(*ref, value)
        if entry.ready.is_set():
            for uid in list(entry.holders):
                self._changed(uid)


def _content(obj: Object | None) -> Any:
    return None if obj is None else (obj.get("data"), obj.get("binaryData"))


@dataclass(frozen=True, slots=True)
class NamespaceLookup:
    """What `environment` and `payload` read: objects of one namespace that the pod holds."""

    references: References
    namespace: str

    def configmap(self, name: str) -> Object | None:
        return self.references.get(Ref("configmap", self.namespace, name))

    def secret(self, name: str) -> Object | None:
        return self.references.get(Ref("secret", self.namespace, name))
