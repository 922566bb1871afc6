"""Watches: each committed batch goes to those whose prefix it touches, with bounded memory per watcher.

A watcher is *live* (the hub hands it committed changes) or *behind* (it reads the log, a page at a time). It starts behind,
becomes live in the same step of the event loop in which it has read up to the last durable revision, and falls behind
again when its reader lets too much pile up. Both are decided by one number, `position`: every change up to it has been
delivered. So there is no gap and no repeat, whatever the moment of the hand-over.

Finding the watchers of a key costs one dictionary look-up per distinct prefix length, however many watchers there are.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable

from sampan.store import Change, Closed

BUFFERED_CHANGES = 1024  # a live watcher that has more than this waiting falls behind
BUFFERED_BYTES = 1 << 20


class Watch:
    """The iterator given out by `Store.watch`. One reader at a time."""

    def __init__(self, hub: Hub, prefix: str, since: int) -> None:
        self.hub = hub
        self.prefix = prefix
        self.position = since
        self.live = False
        self.failure: BaseException | None = None
        self._batches: list[list[Change]] = []
        self._changes = 0
        self._bytes = 0
        self._waiter: asyncio.Future[None] | None = None

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> list[Change]:
        while True:
            if self._batches:
                return self._take()
            if self.failure is not None:
                raise self.failure
            if not self.hub.is_registered(self):
                raise StopAsyncIteration
            if not self.live:
                if changes := self._catch_up():
                    return changes
                if not self.live:
                    await asyncio.sleep(0)  # a long log without a match: let the others run
                continue
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    async def aclose(self) -> None:
        """Free what the watch holds. Idempotent; a reader that waits sees the end."""
        self.hub.remove(self)
        self._drop()
        self.wake()

    def _take(self) -> list[Change]:
        batches, self._batches = self._batches, []
        self._changes = self._bytes = 0
        # Batches are shared between watchers, so each reader gets a list of its own.
        changes = list(batches[0]) if len(batches) == 1 else [c for b in batches for c in b]
        self.position = changes[-1].revision
        return changes

    def _catch_up(self) -> list[Change]:
        """Read the next page of the log; become live when that was the last."""
        try:
            changes, reached, at_end = self.hub.read_log(self.prefix, self.position)
        except BaseException as error:
            self.hub.remove(self)
            self.failure = error
            raise
        self.position = reached
        self.live = at_end
        return changes

    def offer(self, changes: list[Change], size: int) -> None:
        """Take a committed batch (shared, never changed), or fall behind when too much waits already."""
        if not self.live:
            return
        if self._changes + len(changes) > BUFFERED_CHANGES or self._bytes + size > BUFFERED_BYTES:
            # Also a single batch above the limit: the log gives it back in pages.
            self.fall_behind()
            return
        if changes[0].revision <= self.position:  # watched from a revision not yet dispatched
            changes = [change for change in changes if change.revision > self.position]
            if not changes:
                return
        self._batches.append(changes)
        self._changes += len(changes)
        self._bytes += size
        self.wake()

    def fall_behind(self) -> None:
        """Forget what waits and go on from `position` in the log."""
        self._drop()
        self.live = False
        self.wake()

    def fail(self, error: BaseException) -> None:
        self.failure = error
        self.wake()

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _drop(self) -> None:
        self._batches = []
        self._changes = self._bytes = 0


class Hub:
    """All watches of a store, indexed by prefix.

    `read_log(prefix, since)` returns (changes, the revision that was read up to, whether that is the last durable one).
    """

    def __init__(self, read_log: Callable[[str, int], tuple[list[Change], int, bool]]) -> None:
        self.read_log = read_log
        self._by_prefix: dict[str, set[Watch]] = {}
        self._lengths: Counter[int] = Counter()  # distinct prefixes by length
        self._closed = False

    def add(self, prefix: str, since: int) -> Watch:
        watch = Watch(self, prefix, since)
        if self._closed:
            watch.failure = Closed("the store is closed")
            return watch
        watches = self._by_prefix.get(prefix)
        if watches is None:
            watches = self._by_prefix[prefix] = set()
            self._lengths[len(prefix)] += 1
        watches.add(watch)
        return watch

    def remove(self, watch: Watch) -> None:
        watches = self._by_prefix.get(watch.prefix)
        if watches is None or watch not in watches:
            return
        watches.discard(watch)
        if not watches:
            del self._by_prefix[watch.prefix]
            self._lengths[len(watch.prefix)] -= 1
            if not self._lengths[len(watch.prefix)]:
                del self._lengths[len(watch.prefix)]

    def is_registered(self, watch: Watch) -> bool:
        return watch in self._by_prefix.get(watch.prefix, ())

    def wants(self, key: str) -> bool:
        lengths, size = self._lengths, len(key)
        return any(length <= size and key[:length] in self._by_prefix for length in lengths)

    def publish(self, changes: Iterable[Change]) -> None:
        """Give committed changes, in revision order, to every watch that they touch."""
        touched: dict[str, list[Change]] = {}
        for change in changes:
            key = change.key
            for length in self._lengths:
                prefix = key[:length]
                if length <= len(key) and prefix in self._by_prefix:
                    touched.setdefault(prefix, []).append(change)
        for prefix, matching in touched.items():
            size = sum(len(c.value or b"") + len(c.previous or b"") for c in matching)
            for watch in self._by_prefix[prefix]:
                watch.offer(matching, size)

    def interrupt(self) -> None:
        """Every watch goes on from the log: a batch could not be published."""
        for watches in self._by_prefix.values():
            for watch in watches:
                watch.fall_behind()

    def close(self) -> None:
        """End every watch with Closed, after what it has buffered."""
        self._closed = True
        for watches in self._by_prefix.values():
            for watch in watches:
                watch.fail(Closed("the store is closed"))
        self._by_prefix.clear()
        self._lengths.clear()
