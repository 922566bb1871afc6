"""What every controller is made of: a queue of keys, informers that fill it, and `reconcile(key)`.

A controller declares what it watches; the runner turns changes into keys, never runs one key twice at once, and runs a
key again with growing pauses when it failed. `reconcile` is level-triggered: it looks at the informers, does what is
missing and returns; it keeps nothing between calls but `Expectations` about writes that the informers do not show yet.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar, NamedTuple

from sampan.client.client import Client
from sampan.client.events import EventRecorder
from sampan.client.informer import Informer
from sampan.client.resources import (
    ENDPOINTSLICES,
    PERSISTENTVOLUMECLAIMS,
    PERSISTENTVOLUMES,
    PODS,
    REPLICASETS,
    REPLICATIONCONTROLLERS,
    SERVICES,
)
from sampan.client.workqueue import WorkQueue
from sampan.controllers.autoscaling.settings import Settings
from sampan.kube import persistent
from sampan.kube.errors import ApiError
from sampan.kube.objects import controller_of, is_deleting
from sampan.kube.types import GVR

log = logging.getLogger(__name__)

Object = dict[str, Any]


class Key(NamedTuple):
    namespace: str  # "" for cluster-scoped objects
    name: str


@dataclass(frozen=True, slots=True)
class Requeue:
    """Reconcile this key again after so many seconds, unless something changes before."""

    after: float


@dataclass(frozen=True, slots=True)
class Watch:
    """Changes of `gvr` put keys into the queue.

    `owner` names the kind of the controlling owner whose key is wanted; `keys` maps an object to keys; with neither, the
    object's own key is used. `fields` is a field selector that narrows what is watched and kept; `matters` drops updates that
    change nothing of interest, before any key is computed.
    """

    gvr: GVR
    owner: str = ""
    fields: str = ""
    keys: Callable[[Any, Object], Iterable[Key]] | None = None
    # (old, new) → False for an update that makes no difference to this controller
    matters: Callable[[Object, Object], bool] | None = None


def orphan_namespace(obj: Object) -> list[str]:
    """Index of objects that no controller manages, by namespace: candidates for adoption."""
    return [] if controller_of(obj) else [obj["metadata"].get("namespace", "")]


def slice_service(obj: Object) -> list[str]:
    """Index of EndpointSlices by `namespace/service`."""
    metadata = obj["metadata"]
    name = (metadata.get("labels") or {}).get("kubernetes.io/service-name")
    return [f"{metadata['namespace']}/{name}"] if name else []


def service_selector(obj: Object) -> list[str]:
    """Index by one pair of a selector that is a plain map: a pod's labels lead to the few that may select it."""
    selector = obj["spec"].get("selector")
    if not selector:
        return []
    key, value = min(selector.items())
    return [f"{obj['metadata']['namespace']}/{key}={value}"]


def workload_selector(obj: Object) -> list[str]:
    """The same for a workload's label selector; all those without a plain pair share one value."""
    namespace = obj["metadata"]["namespace"]
    pairs = obj["spec"]["selector"].get("matchLabels")
    if not pairs:
        return [f"{namespace}/"]
    key, value = min(pairs.items())
    return [f"{namespace}/{key}={value}"]


# Indexes beyond the informer's own (namespace, owner), by resource.
INDEXES: dict[GVR, dict[str, Callable[[Object], list[str]]]] = {
    ENDPOINTSLICES: {"service": slice_service},
    PERSISTENTVOLUMECLAIMS: {
        "waiting": persistent.waiting_class,
        "volume": persistent.named_volume,
    },
    PERSISTENTVOLUMES: {"available": persistent.available_class, "claim": persistent.claimed_by},
    SERVICES: {"selector": service_selector},
    REPLICATIONCONTROLLERS: {"selector": service_selector},
    REPLICASETS: {"orphans": orphan_namespace, "selector": workload_selector},
    PODS: {
        "orphans": orphan_namespace,
        "node": lambda pod: [pod["spec"].get("nodeName", "")],
    },
}


def no_tokens(account: Object, secret: str) -> str:
    raise RuntimeError("this process holds no key to sign service account tokens with")


def no_authority(request: str, usages: list[str], seconds: int | None) -> str:
    raise RuntimeError("this process holds no authority to sign certificates with")


@dataclass
class Context:
    """What controllers share: one client, one informer a resource, and the clock."""

    client: Client
    recorder: Callable[[str], EventRecorder]
    root_ca: str = ""  # PEM, what pods trust the API server by
    legacy_token: Callable[[Object, str], str] = no_tokens  # service account, Secret's name
    # spec.request, usages, seconds of life → status.certificate
    sign: Callable[[str, list[str], int | None], str] = no_authority
    autoscaling: Settings = field(default_factory=Settings)
    clock: Callable[[], float] = time.time  # seconds since the epoch
    monotonic: Callable[[], float] = time.monotonic  # seconds, for durations
    informers: dict[tuple[GVR, str], Informer] = field(default_factory=dict)

    def informer(self, gvr: GVR, fields: str = "") -> Informer:
        found = self.informers.get((gvr, fields))
        if found is None:
            indexes = INDEXES.get(gvr, {})
            found = Informer(self.client, gvr, field_selector=fields, indexes=indexes)
            self.informers[gvr, fields] = found
        return found


class Controller:
    name: ClassVar[str]
    watches: ClassVar[tuple[Watch, ...]]
    workers: ClassVar[int] = 4

    def __init__(self, context: Context) -> None:
        self.context = context
        self.client = context.client
        self.clock = context.clock
        self.monotonic = context.monotonic
        self.queue: WorkQueue = WorkQueue(self.name)
        for watch in self.watches:
            context.informer(watch.gvr, watch.fields).add_handler(self.handler(watch))

    def informer(self, gvr: GVR, fields: str = "") -> Informer:
        return self.context.informer(gvr, fields)

    def handler(self, watch: Watch) -> Callable[[str, Object | None, Object | None], None]:
        def enqueue(kind: str, old: Object | None, new: Object | None) -> None:
            if old is not None and new is not None:
                if watch.matters is not None and not watch.matters(old, new):
                    return
            for obj in (new, old):
                if obj is not None:
                    for key in self.keys_of(watch, obj):
                        self.queue.add(key)

        return enqueue

    def keys_of(self, watch: Watch, obj: Object) -> Iterable[Key]:
        if watch.keys is not None:
            return watch.keys(self, obj)
        metadata = obj["metadata"]
        namespace = metadata.get("namespace", "")
        if not watch.owner:
            return (Key(namespace, metadata["name"]),)
        owner = controller_of(obj)
        if owner is None or owner["kind"] != watch.owner:
            return ()
        return (Key(namespace, owner["name"]),)

    async def reconcile(self, key: Key) -> Requeue | None:
        raise NotImplementedError

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self.workers):
                group.create_task(self.work())

    async def work(self) -> None:
        while True:
            key = await self.queue.get()
            try:
                requeue = await self.reconcile(key)
            except ApiError as error:
                # A write that lost a race, or an object that went away: look again, which usually settles it.
                level = logging.DEBUG if error.code in (404, 409) else logging.WARNING
                log.log(level, "%s %s/%s: %s", self.name, *key, error.message)
                self.queue.add_rate_limited(key)
            except Exception:
                log.exception("%s %s/%s: cannot reconcile", self.name, *key)
                self.queue.add_rate_limited(key)
            else:
                self.queue.forget(key)
                if requeue is not None:
                    self.queue.add_after(key, requeue.after)
            finally:
                self.queue.done(key)


class Expectations:
    """Writes that were answered and are not yet seen by the informer, so that a slow watch never makes one act twice.

    `created` are kept until the informer shows them or has read past them (they may be gone again by then), `deleted` until
    it shows them deleting or gone. What is not met within `LIFETIME` expires: the informer is stuck, and acting on an old
    picture is the lesser evil.
    """

    LIFETIME = 300.0

    def __init__(self, informer: Informer, clock: Callable[[], float] = time.monotonic) -> None:
        self.informer = informer
        self.clock = clock
        self.created: dict[Key, dict[str, tuple[Object, float]]] = {}  # uid → metadata, expiry
        self.deleted: dict[Key, dict[str, tuple[Object, float]]] = {}

    def expect_created(self, key: Key, obj: Object) -> None:
        metadata = obj["metadata"]
        self.created.setdefault(key, {})[metadata["uid"]] = metadata, self.clock() + self.LIFETIME

    def expect_deleted(self, key: Key, obj: Object) -> None:
        metadata = obj["metadata"]
        self.deleted.setdefault(key, {})[metadata["uid"]] = metadata, self.clock() + self.LIFETIME

    def not_deleted(self, key: Key, obj: Object) -> None:
        """The deletion was refused: it is not to be waited for."""
        self.deleted.get(key, {}).pop(obj["metadata"]["uid"], None)

    def satisfied(self, key: Key) -> bool:
        now = self.clock()
        for pending, is_met in ((self.created, self.is_there), (self.deleted, self.is_leaving)):
            waiting = pending.get(key)
            if not waiting:
                continue
            for uid, (metadata, expires) in list(waiting.items()):
                if expires < now or is_met(metadata):
                    del waiting[uid]
            if waiting:
                return False
            del pending[key]
        return True

    def forget(self, key: Key) -> None:
        self.created.pop(key, None)
        self.deleted.pop(key, None)

    def shown(self, metadata: Object) -> Object | None:
        obj = self.informer.get(metadata.get("namespace", ""), metadata["name"])
        return obj if obj is not None and obj["metadata"]["uid"] == metadata["uid"] else None

    def is_there(self, metadata: Object) -> bool:
        read = self.informer.resource_version
        return self.shown(metadata) is not None or (
            bool(read) and int(read) >= int(metadata["resourceVersion"])
        )

    def is_leaving(self, metadata: Object) -> bool:
        obj = self.shown(metadata)
        return obj is None or "deletionTimestamp" in obj["metadata"]


def stamp(seconds: float) -> str:
    """A clock's reading as metav1.Time."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


async def may_adopt(client: Client, gvr: GVR, owner: Object) -> bool:
    """Asked of the server: the informer may still show an owner that is being deleted and orphans what it had."""
    metadata = owner["metadata"]
    try:
        present = await client.get(gvr, metadata["name"], metadata["namespace"])
    except ApiError as error:
        if error.code == 404:
            return False
        raise
    return present["metadata"]["uid"] == metadata["uid"] and not is_deleting(present)
