"""The watch cache: every object of a kind as the bytes that are sent, kept current by one watch on the whole store.

A kind's cache is filled at its first use, so start costs nothing and kinds that nobody reads cost nothing. After that,
each change is applied once: the bytes get their resourceVersion at a constant offset, the event is framed once per form,
and every watcher sends those same bytes. A read is as fresh as the last acknowledged write: it waits, when it must, until
the cache has seen the store's last durable revision. What other servers wrote to a shared store is asked for by `confirm`.

Invariant: changes are applied without awaiting, a whole batch at a time, so that whoever reads `revision` and then the
entries, without awaiting in between, sees one consistent snapshot.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator

import orjson

from sampan.apiserver.entries import ADDED, DELETED, MODIFIED, Entry, Event, encode, object_prefix
from sampan.apiserver.resources import Resource
from sampan.store import Change, Closed, Compacted, Record, Store, StoreError

log = logging.getLogger(__name__)

RING = 512  # recent events kept per kind for watches that resume; older ones come from the store's history
BACKLOG = 8192  # events that a watcher may lag behind before it is cut off
PAGE = 2000
FEED_AGAIN = 1.0  # seconds until a feed that the store refused is asked for again
FOREIGN_AFTER = (
    0.25  # seconds without the asked revision, after which it may be one that no watch here shows
)

Matcher = Callable[[Entry], bool]


class Watcher:
    """What one watch has yet to send. Made by `ResourceCache.subscribe`; `close` frees it.

    `next` returns (kind, event) pairs that the watch must send, in order; [] when the timeout passed; None at the end:
    the watcher lagged too far behind, or the cache was reset.
    """

    __slots__ = ("_cache", "_closed", "_match", "_prefix", "_queue", "_waiter", "revision")

    def __init__(
        self, cache: ResourceCache, prefix: str, match: Matcher | None, revision: int
    ) -> None:
        self._cache = cache
        self._prefix = prefix
        self._match = match
        self._queue: deque[tuple[str, Event]] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False
        self.revision = revision  # events up to here have been seen, sent or not

    def offer(self, event: Event) -> None:
        if event.revision <= self.revision or not event.key.startswith(self._prefix):
            return
        kind = transition(event, self._match)
        if kind:
            if len(self._queue) >= BACKLOG:
                self.end()
                return
            self._queue.append((kind, event))
            self._wake()

    def end(self) -> None:
        """No more events: the consumer sees None after what it already took."""
        self._closed = True
        self._queue.clear()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def take(self) -> list[tuple[str, Event]]:
        """What is queued now, without waiting."""
        found = list(self._queue)
        self._queue.clear()
        return found

    @property
    def ended(self) -> bool:
        return self._closed

    async def next(self, timeout: float) -> list[tuple[str, Event]] | None:
        if not self._queue and not self._closed:
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            timer = loop.call_later(timeout, self._wake)
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None
        return None if self._closed else self.take()

    def close(self) -> None:
        self._closed = True
        self._cache.watchers.pop(self, None)


def transition(event: Event, match: Matcher | None) -> str:
    """What a watcher with this selector sees of the event; "" when nothing."""
    if match is None:
        if event.entry is None:
            return DELETED
        return MODIFIED if event.previous is not None else ADDED
    before = event.previous is not None and match(event.previous)
    after = event.entry is not None and match(event.entry)
    if after:
        return MODIFIED if before else ADDED
    return DELETED if before else ""


class ResourceCache:
    """All objects of one kind."""

    def __init__(self, resource: Resource) -> None:
        self.resource = resource
        self.prefix = object_prefix(resource)
        self.entries: dict[str, Entry] = {}
        self.order: list[str] = []  # keys, sorted
        self.ring: deque[Event] = deque(maxlen=RING)
        self.ring_start = 0  # the ring holds every event of the kind after this revision
        self.filled_at = 0
        self.changed_at = 0  # revision of the last change of the kind
        self.pending: list[Change] | None = []  # changes that came while filling
        self.ready = asyncio.Event()
        self.watchers: dict[Watcher, None] = {}
        # Called with each event as it is applied; must not await, fail or write.
        self.listeners: list[Callable[[Event], None]] = []

    def splice(self, value: bytes, revision: int) -> bytes:
        """Stored bytes to sent bytes."""
        prefix = self.prefix
        if self.resource.custom is not None:
            value = self.resource.custom.definition.stored(value)
        if value.startswith(prefix):
            return b'%s"resourceVersion":"%d",%s' % (prefix, revision, value[len(prefix) :])
        obj = orjson.loads(value)
        value = encode(obj)
        start = value.index(b'"metadata":{') + 12
        return b'%s"resourceVersion":"%d",%s' % (value[:start], revision, value[start:])

    def install(self, records: list[Record]) -> None:
        for record in records:
            self.entries[record.key] = Entry(
                record.key, self.splice(record.value, record.revision), record.revision
            )

    def filled(self, revision: int) -> None:
        self.order = sorted(self.entries)
        self.filled_at = self.ring_start = revision
        self.changed_at = max((entry.revision for entry in self.entries.values()), default=0)
        pending, self.pending = self.pending or [], None
        for change in pending:
            self.apply(change)
        self.ready.set()

    def apply(self, change: Change) -> None:
        if self.pending is not None:
            self.pending.append(change)
            return
        if change.revision <= self.filled_at:
            return
        key = change.key
        previous = self.entries.get(key)
        entry = None
        if change.value is None:
            if previous is None:
                return
            del self.entries[key]
            del self.order[bisect_left(self.order, key)]
        else:
            entry = Entry(key, self.splice(change.value, change.revision), change.revision)
            if previous is None:
                insort(self.order, key)
            self.entries[key] = entry
        self.changed_at = change.revision
        event = Event(change.revision, entry, previous)
        if len(self.ring) == RING:
            self.ring_start = self.ring[0].revision
        self.ring.append(event)
        for listen in self.listeners:
            listen(event)
        if self.watchers:
            for watcher in list(self.watchers):
                watcher.offer(event)

    def keys(self, prefix: str, after: str = "") -> list[str]:
        """Sorted keys that start with `prefix` and are greater than `after`."""
        order = self.order
        low = bisect_left(order, prefix)
        if after:
            low = max(low, bisect_right(order, after))
        if low >= len(order) or not order[low].startswith(prefix):
            return []
        high = bisect_left(order, prefix + "\U0010ffff", lo=low)
        return order[low:high]

    def select(self, prefix: str, match: Matcher | None = None) -> Iterator[Entry]:
        entries = self.entries
        for key in self.keys(prefix):
            entry = entries[key]
            if match is None or match(entry):
                yield entry

    def subscribe(self, prefix: str, match: Matcher | None, since: int) -> Watcher | None:
        """A watcher that sees every event after `since`; None when the ring does not go back so far."""
        if since < self.ring_start:
            return None
        watcher = Watcher(self, prefix, match, since)
        for event in self.ring:
            if event.revision > since:
                watcher.offer(event)
        self.watchers[watcher] = None
        return watcher

    def end_watchers(self) -> None:
        for watcher in list(self.watchers):
            watcher.end()
        self.watchers.clear()


class WatchCache:
    """Caches by storage name, the one watch that feeds them, and the wait for freshness."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.caches: dict[str, ResourceCache] = {}
        self.revision = store.revision
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._marking = asyncio.Lock()
        self._feed = store.watch("/", self.revision)

    async def run(self) -> None:
        """Feed the caches until cancelled. One task of the server's group."""
        while True:
            try:
                async for changes in self._feed:
                    self.apply(changes)
            except Compacted:
                self.reset(await self.store.current())
                self._feed = self.store.watch("/", self.revision)
            except Closed:
                raise
            except StoreError as error:
                log.error("the store cannot be followed: %s", error)
                await asyncio.sleep(FEED_AGAIN)
                self._feed = self.store.watch("/", self.revision)

    def apply(self, changes: list[Change]) -> None:
        caches = self.caches
        for change in changes:
            _, _, group, plural, _ = change.key.split("/", 4)
            cache = caches.get(f"{group}/{plural}")
            if cache is not None:
                cache.apply(change)
        if changes:
            self._advance(changes[-1].revision)

    def _advance(self, revision: int) -> None:
        self.revision = max(self.revision, revision)
        if self._waiters:
            waiting = []
            for wanted, future in self._waiters:
                if wanted <= self.revision:
                    if not future.done():
                        future.set_result(None)
                elif not future.done():
                    waiting.append((wanted, future))
            self._waiters = waiting

    def reset(self, revision: int) -> None:
        """The feed fell behind what the store keeps: forget everything; watchers must list again."""
        for cache in self.caches.values():
            cache.end_watchers()
        self.caches = {}
        self._advance(revision)

    def drop(self, storage: str) -> None:
        """Forget a kind whose definition changed or went away: its watches end, its next reader fills it anew."""
        cache = self.caches.pop(storage, None)
        if cache is not None:
            cache.end_watchers()

    def ready(self, resource: Resource) -> ResourceCache | None:
        """The kind's cache when it can answer at once with everything that was acknowledged, else None."""
        cache = self.caches.get(resource.storage)
        if cache is None or cache.pending is not None or self.revision < self.store.revision:
            return None
        return cache

    async def get(self, resource: Resource) -> ResourceCache:
        """The kind's cache, filled, and as fresh as the last acknowledged write."""
        cache = self.caches.get(resource.storage)
        if cache is None:
            cache = await self._fill(resource)
        elif cache.pending is not None:
            await cache.ready.wait()
        wanted = self.store.revision
        if self.revision < wanted:
            await self.wait(wanted)
        # A reset while we waited leaves a cache that is no longer fed.
        return cache if self.caches.get(resource.storage) is cache else await self.get(resource)

    async def confirm(self) -> None:
        """Return when the caches show every write that was answered before this call, by whichever server.

        Costs a store of our own nothing; of a shared one, it asks a quorum for its revision.
        """
        if not self.store.shared:
            return
        wanted = await self.store.current()
        if self.revision < wanted and not await self.wait(wanted, FOREIGN_AFTER):
            async with self._marking:  # one mark serves all who wait for what came before it
                if self.revision < wanted:
                    await self.wait(await self.store.mark())

    async def _fill(self, resource: Resource) -> ResourceCache:
        cache = self.caches[resource.storage] = ResourceCache(resource)
        try:
            prefix, after, revision = resource.prefix, "", 0
            while True:
                page = await self.store.range(prefix, after=after, limit=PAGE, revision=revision)
                cache.install(page.records)
                revision = page.revision
                if not page.more:
                    break
                after = page.records[-1].key
            cache.filled(revision)
        except BaseException:
            # Whoever waits for this cache asks again, and then fills it itself.
            if self.caches.get(resource.storage) is cache:
                del self.caches[resource.storage]
            cache.pending = None
            cache.ready.set()
            raise
        return cache

    async def wait(self, revision: int, timeout: float | None = None) -> bool:
        """Return when the caches show `revision`; False when the timeout passed first."""
        if self.revision >= revision:
            return True
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((revision, future))
        try:
            await asyncio.wait_for(future, timeout)
        except TimeoutError:
            return False
        return True

    def current(self, cache: ResourceCache) -> int:
        """The revision that the cache shows now."""
        return max(self.revision, cache.filled_at)

    def close(self) -> None:
        for cache in self.caches.values():
            cache.end_watchers()

    async def history(self, cache: ResourceCache, since: int) -> AsyncIterator[list[Event]]:
        """Events of the kind after `since` out of the store's history, then live. Raises Compacted."""
        feed = self.store.watch(cache.resource.prefix, since)
        try:
            async for changes in feed:
                events = []
                for change in changes:
                    entry = previous = None
                    if change.value is not None:
                        entry = Entry(
                            change.key, cache.splice(change.value, change.revision), change.revision
                        )
                    if change.previous is not None:
                        data = cache.splice(change.previous, change.revision)
                        previous = Entry(change.key, data, change.revision)
                    events.append(Event(change.revision, entry, previous))
                yield events
        finally:
            close = getattr(feed, "aclose", None)
            if close is not None:
                await close()
