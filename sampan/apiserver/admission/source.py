"""The configurations of one kind (webhooks, policies, bindings), compiled and kept current by the watch cache.

Read at the first request that asks, then told of each change before the write that made it is answered. `changed` is called
whenever there is something new, so that the chain can leave out hooks that nobody needs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from sampan.apiserver.admission.matching import GROUP
from sampan.apiserver.admission.plugin import Lookup
from sampan.apiserver.entries import Entry
from sampan.apiserver.feed import Feed

Object = dict[str, Any]
T = TypeVar("T")


class Source(Generic[T]):
    def __init__(self, lookup: Lookup, plural: str, build: Callable[[Object], T]) -> None:
        self.lookup = lookup
        self.plural = plural
        self.build = build
        self.items: dict[str, T] = {}
        self.loaded = False
        self._loading = asyncio.Lock()

    async def load(self) -> dict[str, T]:
        """All of them by name. Idempotent."""
        if not self.loaded:
            async with self._loading:
                if not self.loaded:
                    await self._fill()
        return self.items

    async def _fill(self) -> None:
        row = self.lookup.table.lookup(GROUP, "v1", self.plural)
        assert row is not None
        cache = await self.lookup.caches.get(row)
        self.items.clear()
        self.loaded = True
        Feed(cache, self._apply, self._outdated)
        self.lookup.changed()

    def _apply(self, entry: Entry | None, previous: Entry | None) -> None:
        if entry is not None:
            self.items[entry.name] = self.build(entry.object())
        elif previous is not None:
            self.items.pop(previous.name, None)
        self.lookup.changed()

    def _outdated(self) -> None:
        self.loaded = False
        self.lookup.changed()

    @property
    def idle(self) -> bool:
        """Is it known that there are none?"""
        return self.loaded and not self.items

    def in_order(self) -> list[T]:
        """By name, which is the order in which configurations are asked."""
        return [self.items[name] for name in sorted(self.items)]
