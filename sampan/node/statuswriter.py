"""Pod statuses on their way to the API: the newest one wins, one request at a time per pod, few requests per pod.

A pod that starts quickly passes through several statuses within milliseconds. What nobody waits for is held back for a
moment, so that such a pod costs one write, Running and Ready; readiness and ends go out at once. A write is a strategic
merge patch of what differs, bound to the pod's uid, so conditions written by others are neither lost nor overwritten.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from sampan.client.client import Client
from sampan.client.resources import PODS
from sampan.kube import objects
from sampan.kube.errors import ApiError
from sampan.node.podspec import Object
from sampan.node.status import changes, is_urgent

log = logging.getLogger(__name__)

HOLD_BACK = 0.05  # seconds, for what nobody waits for
HOLD_BACK_BUSY = 1.0  # while the pod is on its way to its next state
CROWD = 10  # pods on their way at once that lengthen this by as much again: each takes longer then
PARALLEL = 4  # requests at once: more would only open more connections
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0


@dataclass(slots=True)
class _Entry:
    known: Object  # the newest pod that the API showed
    wanted: Object | None = None  # status to be written
    timer: asyncio.TimerHandle | None = None
    task: asyncio.Task[None] | None = None
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    gone: bool = False


class Statuses(Protocol):
    """Where a worker's pod gets its status: the API's pod, or the mirror of a static one."""

    def latest(self, pod: Object) -> Object: ...
    def is_writing(self, uid: str) -> bool: ...
    def submit(self, pod: Object, status: Object, *, busy: bool = False) -> None: ...
    def forget(self, uid: str) -> None: ...
    async def flush(self, uid: str) -> None: ...


class StatusWriter:
    """`answered(pod, expected)` is called with what the API made of a write, and whether that is what was wanted."""

    def __init__(
        self,
        client: Client | None,
        group: asyncio.TaskGroup,
        answered: Callable[[Object, bool], None],
    ) -> None:
        self._client = client
        self._group = group
        self._answered = answered
        self._slots = asyncio.Semaphore(PARALLEL)
        self._entries: dict[str, _Entry] = {}
        self._coming: set[str] = set()  # uids of pods on their way

    def latest(self, pod: Object) -> Object:
        """The pod with the newest status that is known or on its way."""
        entry = self._entries.get(pod["metadata"]["uid"])
        if entry is None or entry.wanted is None:
            return pod
        return {**pod, "status": {**(pod.get("status") or {}), **entry.wanted}}

    def is_writing(self, uid: str) -> bool:
        """A write is on its way; `answered` will tell."""
        entry = self._entries.get(uid)
        return entry is not None and entry.task is not None

    def submit(self, pod: Object, status: Object, *, busy: bool = False) -> None:
        """`status` is what the API shall show. `busy`: another one is expected within moments."""
        uid = pod["metadata"]["uid"]
        entry = self._entries.get(uid)
        if entry is None:
            entry = self._entries[uid] = _Entry(pod)
            entry.idle.set()
        elif newer(pod, entry.known):
            entry.known = pod
        (self._coming.add if busy else self._coming.discard)(uid)
        current = entry.known.get("status") or {}
        if entry.task is None and not changes(current, status):
            self._settle(entry)
            return
        entry.wanted = status
        if self._client is None:
            return
        entry.idle.clear()
        if entry.task is not None:
            return
        if busy:
            self._send_within(self._patience(), entry, uid)
        elif is_urgent(current, status):
            self._send(entry)
        else:
            self._send_within(HOLD_BACK, entry, uid)

    def _patience(self) -> float:
        return HOLD_BACK_BUSY * (1 + len(self._coming) // CROWD)

    def _send_within(self, seconds: float, entry: _Entry, uid: str) -> None:
        loop = asyncio.get_running_loop()
        if entry.timer is not None:
            if entry.timer.when() <= loop.time() + seconds:
                return
            entry.timer.cancel()
        entry.timer = loop.call_later(seconds, self._due, entry, uid, loop.time())

    def _due(self, entry: _Entry, uid: str, since: float) -> None:
        """Send, unless the pod is still on its way in a crowd that has grown meanwhile."""
        loop = asyncio.get_running_loop()
        left = since + self._patience() - loop.time() if uid in self._coming else 0.0
        if left > HOLD_BACK:
            entry.timer = loop.call_later(left, self._due, entry, uid, since)
        else:
            self._send(entry)

    async def flush(self, uid: str) -> None:
        """Return when what was submitted is written, or the pod is gone."""
        entry = self._entries.get(uid)
        if entry is None or entry.idle.is_set() or self._client is None:
            return
        if entry.task is None:
            self._send(entry)
        await entry.idle.wait()

    def forget(self, uid: str) -> None:
        entry = self._entries.pop(uid, None)
        self._coming.discard(uid)
        if entry is None:
            return
        entry.gone = True
        if entry.timer:
            entry.timer.cancel()
        if entry.task:
            entry.task.cancel()
        entry.idle.set()

    def _send(self, entry: _Entry) -> None:
        if entry.timer:
            entry.timer.cancel()
            entry.timer = None
        if entry.task is None and not entry.gone:
            entry.task = self._group.create_task(self._write(entry), name="pod status")

    def _settle(self, entry: _Entry) -> None:
        entry.wanted = None
        if entry.timer:
            entry.timer.cancel()
            entry.timer = None
        entry.idle.set()

    async def _write(self, entry: _Entry) -> None:
        assert self._client is not None
        pause = FIRST_PAUSE
        try:
            while entry.wanted is not None and not entry.gone:
                meta = entry.known["metadata"]
                try:
                    async with self._slots:
                        wanted = entry.wanted  # the newest, after the wait
                        patch = changes(entry.known.get("status") or {}, wanted)
                        if not patch:
                            break
                        answer = await self._patch(meta, patch)
                except ApiError as error:
                    if error.code in (404, 409):
                        break  # gone, or another pod of that name
                    log.warning(
                        "status of %s/%s: %s", meta["namespace"], meta["name"], error.message
                    )
                except (OSError, TimeoutError) as error:
                    log.info("status of %s/%s: %s", meta["namespace"], meta["name"], error)
                else:
                    pause = FIRST_PAUSE
                    if newer(answer, entry.known):
                        entry.known = answer
                    if entry.wanted is wanted:
                        entry.wanted = None
                    self._answered(answer, not changes(answer.get("status") or {}, wanted))
                    continue
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
        except Exception:
            # Root of this task: one pod's status is not worth the node. The next submit tries again.
            meta = entry.known["metadata"]
            log.exception("status of %s/%s", meta["namespace"], meta["name"])
        finally:
            entry.task = None
            self._settle(entry)

    async def _patch(self, meta: Object, status: Object) -> Object:
        assert self._client is not None
        body = {"metadata": {"uid": meta["uid"]}, "status": status}
        name, namespace = meta["name"], meta["namespace"]
        return await self._client.patch(
            PODS, name, body, namespace, kind="strategic", subresource="status"
        )


def newer(new: Object, old: Object) -> bool:
    """Of two states of one object. Versions are compared as numbers, which they are wherever we run (KEP-5504)."""
    try:
        return int(objects.resource_version(new)) >= int(objects.resource_version(old))
    except ValueError:
        return True
