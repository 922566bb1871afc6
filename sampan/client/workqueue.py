"""WorkQueue: keys to reconcile, each at most once in the queue and never handled twice at once.

A key added while it is being handled waits until `done`, and comes again once. Failures come back through
`add_rate_limited`, whose delay doubles per key from 5 ms to 1000 s until `forget`. Delays are timers of the event loop;
nothing polls.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable
from typing import Any, Generic, TypeVar
from weakref import WeakSet

Key = TypeVar("Key", bound=Hashable)

FIRST_DELAY = 0.005  # seconds
LONGEST_DELAY = 1000.0


queues: WeakSet[WorkQueue[Any]] = WeakSet()  # of this process, for whoever tells how they are


class ShutDown(Exception):
    """The queue was shut down and is empty."""


class WorkQueue(Generic[Key]):
    def __init__(
        self,
        name: str = "",
        *,
        first_delay: float = FIRST_DELAY,
        longest_delay: float = LONGEST_DELAY,
    ) -> None:
        self.name = name
        self.adds = 0
        self.retries = 0
        self._first_delay = first_delay
        self._longest_delay = longest_delay
        self._ready: deque[Key] = deque()
        self._dirty: set[Key] = set()  # wanted: in `_ready`, or in `_handled` and to come again
        self._handled: set[Key] = set()
        self._failures: dict[Key, int] = {}
        # When, and by which timer. uvloop makes a plain Handle, which cannot say when, of a delay below half a millisecond.
        self._timers: dict[Key, tuple[float, asyncio.Handle]] = {}
        self._getters: deque[asyncio.Future[None]] = deque()
        self._shut = False
        queues.add(self)

    def __len__(self) -> int:
        """Keys ready to be handled."""
        return len(self._ready)

    def add(self, key: Key) -> None:
        if self._shut or key in self._dirty:
            return
        self._dirty.add(key)
        self.adds += 1
        if key not in self._handled:
            self._ready.append(key)
            self._wake_one()

    def add_after(self, key: Key, seconds: float) -> None:
        """Add the key when `seconds` have passed. Of several delays for one key the earliest counts."""
        if self._shut:
            return
        if seconds <= 0:
            self.add(key)
            return
        loop = asyncio.get_running_loop()
        when = loop.time() + seconds
        if (waiting := self._timers.get(key)) is not None:
            due, timer = waiting
            if due <= when:
                return
            timer.cancel()
        self._timers[key] = when, loop.call_at(when, self._due, key)

    def add_rate_limited(self, key: Key) -> None:
        """Add the key after a delay that doubles each time, until `forget`."""
        self.retries += 1
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        # 2**60 is far above any limit; larger exponents would overflow a float.
        self.add_after(key, min(self._first_delay * 2.0 ** min(failures, 60), self._longest_delay))

    def forget(self, key: Key) -> None:
        """The key went well: its next failure starts with the first delay again."""
        self._failures.pop(key, None)

    def failures(self, key: Key) -> int:
        """How often the key was added with a rate limit since `forget`."""
        return self._failures.get(key, 0)

    async def get(self) -> Key:
        """The next key, which is then being handled until `done`. Raises ShutDown when shut down and empty."""
        while not self._ready:
            if self._shut:
                raise ShutDown
            getter = asyncio.get_running_loop().create_future()
            self._getters.append(getter)
            try:
                await getter
            except asyncio.CancelledError:
                if not getter.cancelled():
                    self._wake_one()  # it was this one's turn: pass it on
                elif getter in self._getters:
                    self._getters.remove(getter)
                raise
        key = self._ready.popleft()
        self._dirty.discard(key)
        self._handled.add(key)
        return key

    def done(self, key: Key) -> None:
        """The key is no longer being handled; if it was added meanwhile, it is ready again."""
        self._handled.discard(key)
        if key in self._dirty and not self._shut:
            self._ready.append(key)
            self._wake_one()

    def shut_down(self) -> None:
        """Take no more keys; those that are ready are still given out. Idempotent."""
        self._shut = True
        for _, timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for getter in self._getters:
            if not getter.done():
                getter.set_result(None)
        self._getters.clear()

    def _due(self, key: Key) -> None:
        del self._timers[key]
        self.add(key)

    def _wake_one(self) -> None:
        while self._getters:
            getter = self._getters.popleft()
            if not getter.done():
                getter.set_result(None)
                return
