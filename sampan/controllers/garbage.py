"""Garbage collector: an object goes when all its owners are gone, and an owner waits for or lets go of its dependents.

It watches every resource that can be deleted, and keeps only what matters: objects with owners, and owners that wait
(finalizers `foregroundDeletion` and `orphan`). Whether an owner still exists is asked of the API server, by uid, so a watch
that lags can never make it delete what is still owned.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

from sampan.client.client import Client
from sampan.client.workqueue import WorkQueue
from sampan.controllers.base import Context, Object
from sampan.controllers.discovery import Resource, discover
from sampan.kube.errors import ApiError
from sampan.kube.types import GVR

log = logging.getLogger(__name__)

FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"
ABSENT_KEPT = 4096  # uids remembered as gone
REDISCOVER = 30.0  # seconds between looks for new resources, when no watch tells of them
SETTLE = 0.1  # seconds that a burst of new definitions is given
DEFINITIONS = "customresourcedefinitions"


@dataclass(slots=True)
class Node:
    resource: Resource
    namespace: str
    name: str
    uid: str
    owners: tuple[Object, ...]
    finalizers: frozenset[str]
    deleting: bool
    version: str

    @property
    def waits(self) -> bool:
        return self.deleting and bool(self.finalizers & {FOREGROUND, ORPHAN})


class Graph:
    """Objects that have owners or wait for dependents, by uid; and who depends on whom."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.dependents: dict[str, set[str]] = {}

    def put(self, node: Node) -> None:
        self.remove(node.uid)
        self.nodes[node.uid] = node
        for owner in node.owners:
            self.dependents.setdefault(owner["uid"], set()).add(node.uid)

    def remove(self, uid: str) -> Node | None:
        node = self.nodes.pop(uid, None)
        for owner in node.owners if node else ():
            siblings = self.dependents.get(owner["uid"])
            if siblings is not None:
                siblings.discard(uid)
                if not siblings:
                    del self.dependents[owner["uid"]]
        return node

    def children(self, uid: str) -> list[Node]:
        return [self.nodes[child] for child in self.dependents.get(uid, ())]


class GarbageCollector:
    name = "garbage-collector-controller"
    workers = 4

    def __init__(self, context: Context) -> None:
        self.client: Client = context.client
        self.graph = Graph()
        self.queue: WorkQueue = WorkQueue(self.name)
        self.resources: dict[tuple[str, str], Resource] = {}  # by group and kind
        # Owners known to be gone: those seen to go by uid, those not found by the whole reference, as a reference may lie.
        self.absent: OrderedDict[Hashable, None] = OrderedDict()
        self.synced: set[GVR] = set()
        self.sighted = asyncio.Event()  # all there was at the start has been seen
        self.redefined = asyncio.Event()  # a custom resource came or went

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.begin(group))
            watched: dict[GVR, asyncio.Task[None]] = {}
            while True:
                found = [r for r in await discover(self.client) if collectable(r)]
                self.resources = {(r.gvr.group, r.kind): r for r in found}
                for gvr in watched.keys() - {r.gvr for r in found}:
                    watched.pop(gvr).cancel()
                for resource in found:
                    if resource.gvr not in watched:
                        watched[resource.gvr] = group.create_task(self.follow(resource))
                if self.synced >= watched.keys():
                    self.sighted.set()
                await self.look_again()

    async def look_again(self) -> None:
        """Return when other resources may be served than before."""
        try:
            async with asyncio.timeout(REDISCOVER):
                await self.redefined.wait()
                await asyncio.sleep(SETTLE)
        except TimeoutError:
            return
        finally:
            self.redefined.clear()

    async def begin(self, group: asyncio.TaskGroup) -> None:
        """Act only once everything was seen: a dependent not yet seen would be lost to its owner's orphaning."""
        await self.sighted.wait()
        for _ in range(self.workers):
            group.create_task(self.work())

    # Seeing

    async def follow(self, resource: Resource) -> None:
        """Keep the graph in step with one resource, for ever."""
        pause = 0.1
        while True:
            try:
                version = await self.relist(resource)
                pause = 0.1
                self.note_synced(resource.gvr)
                async for event in self.client.watch(resource.gvr, resource_version=version):
                    self.see(resource, event.type, event.object)
            except (ApiError, ConnectionError) as error:
                gone = isinstance(error, ApiError) and error.code in (404, 410)
                log.log(
                    logging.DEBUG if gone else logging.WARNING,
                    "%s %s: %s",
                    self.name,
                    resource.gvr,
                    error,
                )
                self.note_synced(resource.gvr)  # what cannot be seen must not hold up the rest
            await asyncio.sleep(pause)
            pause = min(30.0, pause * 2)

    def note_synced(self, gvr: GVR) -> None:
        self.synced.add(gvr)
        if self.synced >= {resource.gvr for resource in self.resources.values()}:
            self.sighted.set()

    async def relist(self, resource: Resource) -> str:
        listed = await self.client.list(resource.gvr)
        present = set()
        for obj in listed.items:
            present.add(obj["metadata"]["uid"])
            self.see(resource, "ADDED", obj)
        for node in list(self.graph.nodes.values()):
            if node.resource.gvr == resource.gvr and node.uid not in present:
                self.lost(node.uid)
        # An owner that went while nobody looked (a new kind's, above all) was no node unless it had owners itself.
        kind = (resource.gvr.group, resource.kind)
        for node in list(self.graph.nodes.values()):
            for owner in node.owners:
                group = owner["apiVersion"].rpartition("/")[0]
                if (group, owner["kind"]) == kind and owner["uid"] not in present:
                    self.queue.add(node.uid)
        return listed.resource_version

    def see(self, resource: Resource, kind: str, obj: Object) -> None:
        if kind == "BOOKMARK":
            return
        if resource.gvr.resource == DEFINITIONS:
            self.redefined.set()
        metadata = obj["metadata"]
        uid = metadata["uid"]
        if kind == "DELETED":
            self.lost(uid)
            return
        owners = tuple(metadata.get("ownerReferences") or ())
        finalizers = frozenset(metadata.get("finalizers") or ())
        deleting = "deletionTimestamp" in metadata
        before = self.graph.nodes.get(uid)
        if not owners and not (deleting and finalizers & {FOREGROUND, ORPHAN}):
            if before is not None:
                self.graph.remove(uid)
                self.wake_owners(before)
            return
        node = Node(
            resource,
            metadata.get("namespace", ""),
            metadata["name"],
            uid,
            owners,
            finalizers,
            deleting,
            metadata["resourceVersion"],
        )
        self.graph.put(node)
        if before is None or before.owners != owners or before.waits != node.waits:
            self.queue.add(uid)
            if before is not None:
                self.wake_owners(before)

    def lost(self, uid: str) -> None:
        self.note_absent(uid)
        node = self.graph.remove(uid)
        for child in self.graph.children(uid):
            self.queue.add(child.uid)
        if node is not None:
            self.wake_owners(node)

    def note_absent(self, mark: Hashable) -> None:
        self.absent[mark] = None
        if len(self.absent) > ABSENT_KEPT:
            self.absent.popitem(last=False)

    def wake_owners(self, node: Node) -> None:
        """Owners that wait for their dependents look again."""
        for owner in node.owners:
            parent = self.graph.nodes.get(owner["uid"])
            if parent is not None and parent.waits:
                self.queue.add(parent.uid)

    # Acting

    async def work(self) -> None:
        while True:
            uid = await self.queue.get()
            try:
                node = self.graph.nodes.get(uid)
                if node is not None:
                    await self.settle(node)
            except ApiError as error:
                level = logging.DEBUG if error.code in (404, 409) else logging.WARNING
                log.log(level, "%s %s: %s", self.name, uid, error.message)
                self.queue.add_rate_limited(uid)
            except Exception:
                log.exception("%s %s: cannot settle", self.name, uid)
                self.queue.add_rate_limited(uid)
            else:
                self.queue.forget(uid)
            finally:
                self.queue.done(uid)

    async def settle(self, node: Node) -> None:
        if node.waits and ORPHAN in node.finalizers:
            await self.orphan_dependents(node)
        elif node.waits:
            await self.delete_dependents(node)
        if node.owners and not node.deleting:
            await self.check_owners(node)

    async def check_owners(self, node: Node) -> None:
        owners: dict[str, list[Object]] = {"there": [], "waiting": [], "gone": []}
        for owner in node.owners:
            owners[await self.owner_state(node, owner)].append(owner)
        waiting = owners["waiting"]
        if owners["there"]:
            if stale := [*owners["gone"], *waiting]:
                await self.drop_owners(node, {owner["uid"] for owner in stale})
            return
        children = self.graph.children(node.uid)
        if waiting and children:
            policy = "Foreground"
            if any(child.deleting and FOREGROUND in child.finalizers for child in children):
                await self.unblock_owners(node)  # a circle: nobody in it may wait for all others
        elif ORPHAN in node.finalizers:
            policy = "Orphan"
        elif FOREGROUND in node.finalizers:
            policy = "Foreground"
        else:
            policy = "Background"
        await self.delete(node, policy)

    async def owner_state(self, node: Node, owner: Object) -> str:
        """`there`, `gone`, or `waiting` for its dependents to go first."""
        claimed = (owner["apiVersion"], owner["kind"], owner["name"], owner["uid"], node.namespace)
        if owner["uid"] in self.absent or claimed in self.absent:
            return "gone"
        group = owner["apiVersion"].rpartition("/")[0]
        resource = self.resources.get((group, owner["kind"]))
        if resource is None or (resource.namespaced and not node.namespace):
            return "there"  # a kind that we cannot see proves nothing
        try:
            obj = await self.client.get(
                resource.gvr, owner["name"], node.namespace if resource.namespaced else ""
            )
        except ApiError as error:
            if error.code == 404:
                self.note_absent(claimed)
                return "gone"
            raise
        metadata = obj["metadata"]
        if metadata["uid"] != owner["uid"]:
            self.note_absent(claimed)
            return "gone"
        foreground = FOREGROUND in (metadata.get("finalizers") or ())
        return "waiting" if "deletionTimestamp" in metadata and foreground else "there"

    async def delete_dependents(self, node: Node) -> None:
        """Foreground: dependents that block go first, each foreground in its turn; then the finalizer."""
        children = self.graph.children(node.uid)
        for child in children:
            if not child.deleting:
                await self.check_owners(child)
        blocking = [
            child
            for child in self.graph.children(node.uid)
            if any(o["uid"] == node.uid and o.get("blockOwnerDeletion") for o in child.owners)
        ]
        if not blocking:
            await self.drop_finalizer(node, FOREGROUND)

    async def orphan_dependents(self, node: Node) -> None:
        for child in self.graph.children(node.uid):
            await self.drop_owners(child, {node.uid})
        await self.drop_finalizer(node, ORPHAN)

    async def delete(self, node: Node, policy: str) -> None:
        try:
            await self.client.delete(
                node.resource.gvr,
                node.name,
                node.namespace,
                uid=node.uid,
                propagation=policy,
                resource_version=node.version,  # its owners as they were judged
            )
        except ApiError as error:
            if error.code == 404 or (
                error.code == 409 and "uid in precondition" in error.message.lower()
            ):
                self.lost(node.uid)  # gone, or replaced by another object of that name
                return
            raise

    async def drop_owners(self, node: Node, uids: set[str]) -> None:
        obj = await self.read(node)
        if obj is None:
            return
        kept = [o for o in obj["metadata"].get("ownerReferences") or () if o["uid"] not in uids]
        await self.patch(node, obj, {"ownerReferences": kept or None})

    async def unblock_owners(self, node: Node) -> None:
        obj = await self.read(node)
        owners = obj["metadata"].get("ownerReferences") or () if obj else ()
        if obj is None or not any(o.get("blockOwnerDeletion") for o in owners):
            return
        freed = [{**o, "blockOwnerDeletion": False} for o in owners]
        changed = await self.patch(node, obj, {"ownerReferences": freed})
        node.version = changed["metadata"]["resourceVersion"]

    async def drop_finalizer(self, node: Node, finalizer: str) -> None:
        obj = await self.read(node)
        if obj is None or finalizer not in (obj["metadata"].get("finalizers") or ()):
            return
        kept = [f for f in obj["metadata"]["finalizers"] if f != finalizer]
        await self.patch(node, obj, {"finalizers": kept or None})

    async def read(self, node: Node) -> Object | None:
        """The object as it is; None when it went away or was replaced under its name."""
        try:
            obj = await self.client.get(node.resource.gvr, node.name, node.namespace)
        except ApiError as error:
            if error.code == 404:
                return None
            raise
        return obj if obj["metadata"]["uid"] == node.uid else None

    async def patch(self, node: Node, obj: Object, metadata: Object) -> Object:
        guarded = {
            **metadata,
            "uid": node.uid,
            "resourceVersion": obj["metadata"]["resourceVersion"],
        }
        return await self.client.patch(
            node.resource.gvr, node.name, {"metadata": guarded}, node.namespace
        )


def collectable(resource: Resource) -> bool:
    """Events own nothing and are owned by nothing; all else that can be seen and deleted takes part."""
    return {"list", "watch", "delete"} <= resource.verbs and resource.gvr.resource != "events"
