"""Mirror pods: what the API shows of this node's static pods. Created, written anew when somebody deletes one, deleted with
the file. The node's own picture is the truth; nothing of a mirror is ever run.

`Mirrors` also is the static pods' status writer: what a worker submits is kept here, and goes to the mirror when there is one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping

from sampan.client.client import Client
from sampan.client.resources import PODS
from sampan.kube import objects
from sampan.kube.errors import ApiError
from sampan.node.podspec import Object
from sampan.node.static.manifests import HASH, MIRROR, mirror_of
from sampan.node.statuswriter import StatusWriter

log = logging.getLogger(__name__)

Name = tuple[str, str]
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0


def name_of(pod: Object) -> Name:
    return objects.namespace(pod), objects.name(pod)


class Mirrors:
    """`pods()`: the static pods by name. `node()`: the Node as the API has it, None before it is registered."""

    def __init__(
        self,
        client: Client | None,
        pods: Callable[[], Mapping[Name, Object]],
        node: Callable[[], Object | None],
        statuses: StatusWriter,
    ) -> None:
        self._client = client
        self._pods = pods
        self._node = node
        self._statuses = statuses
        self._mirrors: dict[Name, Object] = {}
        self._status: dict[str, Object] = {}  # by the static pod's uid
        self._wake = asyncio.Event()

    # The API's news

    def seen(self, old: Object | None, new: Object | None) -> None:
        if new is None:
            assert old is not None
            self._statuses.forget(objects.uid(old))
            if objects.uid(self._mirrors.get(name_of(old)) or {}) == objects.uid(old):
                del self._mirrors[name_of(old)]
        else:
            self._mirrors[name_of(new)] = new
        self._wake.set()

    def look_again(self) -> None:
        """The static pods, or the Node, are others."""
        self._wake.set()

    # A status writer's verbs

    def latest(self, pod: Object) -> Object:
        status = self._status.get(objects.uid(pod))
        return pod if status is None else {**pod, "status": status}

    def is_writing(self, uid: str) -> bool:
        return False  # the API's answers go to the mirror

    def submit(self, pod: Object, status: Object, *, busy: bool = False) -> None:
        self._status[objects.uid(pod)] = status
        mirror = self._mirrors.get(name_of(pod))
        if mirror is not None and self._is_current(mirror, pod):
            self._statuses.submit(mirror, status, busy=busy)

    def forget(self, uid: str) -> None:
        self._status.pop(uid, None)

    async def flush(self, uid: str) -> None:
        return

    # Reconciling

    async def run(self) -> None:
        """Once the API's pods are known: keep the mirrors as they shall be, until cancelled."""
        pause = FIRST_PAUSE
        while True:
            self._wake.clear()
            try:
                await self._reconcile()
                pause = FIRST_PAUSE
                await self._wake.wait()
            except (ApiError, OSError, TimeoutError) as error:
                log.warning("mirror pods: %s", error)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
                pause = min(pause * 2, LONGEST_PAUSE)

    async def _reconcile(self) -> None:
        assert self._client is not None
        node, pods = self._node(), self._pods()
        for name, mirror in list(self._mirrors.items()):
            pod = pods.get(name)
            if pod is None or objects.is_deleting(mirror) or not self._is_current(mirror, pod):
                await self._delete(mirror)
        if node is None:
            return
        for name, pod in pods.items():
            known = self._mirrors.get(name)
            if known is None:
                with contextlib.suppress(_Taken):
                    known = self._mirrors[name] = await self._create(pod, node)
            status = self._status.get(objects.uid(pod))
            if known is not None and status is not None:
                self._statuses.submit(known, status)

    @staticmethod
    def _is_current(mirror: Object, pod: Object) -> bool:
        return objects.annotations(mirror).get(MIRROR) == objects.annotations(pod)[HASH]

    async def _delete(self, mirror: Object) -> None:
        assert self._client is not None
        namespace, name = name_of(mirror)
        self._statuses.forget(objects.uid(mirror))
        self._mirrors.pop((namespace, name), None)
        try:
            await self._client.delete(PODS, name, namespace, uid=objects.uid(mirror), grace=0)
        except ApiError as error:
            if error.code not in (404, 409):
                raise

    async def _create(self, pod: Object, node: Object) -> Object:
        assert self._client is not None
        namespace, name = name_of(pod)
        try:
            return await self._client.create(PODS, mirror_of(pod, node), namespace)
        except ApiError as error:
            if error.code != 409:
                raise
            # Somebody else's pod of that name, or a mirror that the informer has not shown yet.
            found = await self._client.get(PODS, name, namespace)
            if MIRROR not in objects.annotations(found):
                log.warning("pod %s/%s stands where a mirror pod belongs", namespace, name)
                raise _Taken from error
            return found


async def delete_all(client: Client, mirrors: Iterable[Object]) -> None:
    """Of a node that has no manifest directory any more: nothing stands behind them."""
    for mirror in mirrors:
        namespace, name = name_of(mirror)
        try:
            await client.delete(PODS, name, namespace, uid=objects.uid(mirror), grace=0)
        except (ApiError, OSError, TimeoutError) as error:
            log.warning("mirror pod %s/%s: %s", namespace, name, error)


class _Taken(Exception):
    """The mirror's name is in use."""
