"""Events go after an hour: a wheel with a slot per minute, one timer for the next slot that holds anything.

An Event written again lives on from then. After a restart the wheel is filled from the store once, a while after start,
with the time of each Event's last write as the Event itself tells it.

Servers that share a store each keep a wheel of what went through them. What is due may have been written again through another
server, so the Event itself is asked before it is deleted; and the store is read once per life of an Event, so that those of a
server that died go too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import orjson

from sampan.kube.objects import parse_time
from sampan.store import Closed, Conflict, Store, StoreError

log = logging.getLogger(__name__)

SLOT = 60.0
PREFIX = "/registry/core/events/"
REFILL_AFTER = 60.0
PAGE = 500
AGAIN = 60.0  # seconds after which what the store refused is tried again


class EventExpiry:
    def __init__(self, store: Store, ttl: float, clock: Callable[[], float] = time.time) -> None:
        self.store = store
        self.ttl = ttl
        self.clock = clock
        self.due: dict[str, int] = {}  # key → its slot
        self.slots: dict[int, list[str]] = {}
        self._changed = asyncio.Event()

    def written(self, key: str, at: float | None = None) -> None:
        """The Event was written; its time starts anew."""
        slot = int(((self.clock() if at is None else at) + self.ttl) // SLOT) + 1
        if self.due.get(key) == slot:
            return
        self.due[key] = slot
        if slot not in self.slots:
            self.slots[slot] = []
            self._changed.set()
        self.slots[slot].append(key)

    async def run(self) -> None:
        """Delete what is due, for ever. One task of the server's group."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._refill())
            while True:
                self._changed.clear()
                wait = min(self.slots) * SLOT - self.clock() if self.slots else None
                if wait is None or wait > 0:
                    try:
                        await asyncio.wait_for(self._changed.wait(), wait)
                    except TimeoutError:
                        pass
                    continue
                await self._empty(min(self.slots))

    async def _empty(self, slot: int) -> None:
        for key in self.slots.pop(slot):
            if self.due.get(key) == slot:
                del self.due[key]
                try:
                    await self._delete(key)
                except Conflict:
                    continue  # somebody deleted or wrote it before
                except Closed:
                    return
                except StoreError as error:
                    log.warning("%s: cannot be deleted: %s", key, error)
                    self.written(key, self.clock() - self.ttl + AGAIN)

    async def _delete(self, key: str) -> None:
        if not self.store.shared:
            await self.store.delete(key, expect=None)
            return
        record = await self.store.get(key)
        if record is None:
            return
        written = last_written(record.value, self.clock())
        if written + self.ttl > self.clock():
            self.written(key, written)
        else:
            await self.store.delete(key, expect=record.revision)

    async def _refill(self) -> None:
        """Events of the run before this one; of a shared store, again and again."""
        await asyncio.sleep(min(REFILL_AFTER, self.ttl))
        while True:
            try:
                await self._read()
                if not self.store.shared:
                    return
                await asyncio.sleep(self.ttl)
            except Closed:
                return
            except StoreError as error:
                log.warning("events that are to expire cannot be read: %s", error)
                await asyncio.sleep(AGAIN)

    async def _read(self) -> None:
        after = ""
        while True:
            page = await self.store.range(PREFIX, after=after, limit=PAGE)
            for record in page.records:
                if record.key not in self.due:
                    self.written(record.key, last_written(record.value, self.clock()))
            if not page.more:
                return
            after = page.records[-1].key


def last_written(value: bytes, fallback: float) -> float:
    """Seconds since the epoch of the newest time that the Event tells."""
    event = orjson.loads(value)
    series = event.get("series") or {}
    times = [
        event["metadata"].get("creationTimestamp"),
        event.get("lastTimestamp"),
        event.get("eventTime"),
        series.get("lastObservedTime"),
    ]
    found = []
    for text in times:
        if text:
            try:
                found.append(parse_time(text).timestamp())
            except ValueError:
                continue
    return min(max(found), fallback) if found else fallback
