"""Feed: one who is told of each change of a kind as the watch cache applies it, before the write that made it is answered.

It stands among the cache's watchers, but keeps nothing and wakes nobody. What is derived so (the RBAC index, the pods of each
node) is therefore never older than the last acknowledged write.
"""

from __future__ import annotations

from collections.abc import Callable

from sampan.apiserver.entries import Entry, Event
from sampan.apiserver.watchcache import ResourceCache

Apply = Callable[[Entry | None, Entry | None], None]  # (the entry now, the one before)


class Feed:
    revision = 0

    def __init__(self, cache: ResourceCache, apply: Apply, ended: Callable[[], None]) -> None:
        """Every entry is applied at once. `ended` is called when the cache is reset or the server stops."""
        self.apply = apply
        self.ended = ended
        for entry in cache.entries.values():
            apply(entry, None)
        cache.watchers[self] = None  # type: ignore[index]  # it is offered events as a Watcher is

    def offer(self, event: Event) -> None:
        self.apply(event.entry, event.previous)

    def end(self) -> None:
        self.ended()
