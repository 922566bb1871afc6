"""WATCH: one async iterator of bytes per watcher.

A watch starts with what it must be told first (nothing, the present state, or the state followed by the bookmark that ends
a WatchList, KEP-3157), goes on with events from the cache's ring or from the store's history when its resourceVersion
is older than the ring, and ends at its timeout with a bookmark. Frames are shared: see `watchcache.Event`.
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Callable

import orjson

from sampan.apiserver.call import Call, revision_of
from sampan.apiserver.entries import ADDED, BOOKMARK, DELETED, ERROR, Entry, Event, frame
from sampan.apiserver.lists import fresh
from sampan.apiserver.metrics import Watching
from sampan.apiserver.selection import Selection
from sampan.apiserver.watchcache import ResourceCache, WatchCache, Watcher, transition
from sampan.kube import errors
from sampan.kube.errors import ApiError
from sampan.store import Compacted

INITIAL_END = "k8s.io/initial-events-end"
FIRST_CHUNK = 256  # objects of the initial state sent in one piece

Framer = Callable[[str, Entry], bytes]  # (event type, object) → one frame in the client's form


class Stream:
    """One watch. `body()` is the response; closing it frees the watcher."""

    def __init__(
        self,
        caches: WatchCache,
        call: Call,
        selection: Selection,
        watching: Watching,
        *,
        framer: Framer | None,
        framer_key: object,
        bookmark_interval: float,
        timeout_range: tuple[float, float],
    ) -> None:
        self.caches = caches
        self.call = call
        self.selection = selection
        self.watching = watching
        self.framer = framer
        self.framer_key = framer_key
        self.bookmark_interval = bookmark_interval
        timeout = selection.timeout
        self.deadline = time.monotonic() + (timeout if timeout else random.uniform(*timeout_range))
        self.watcher: Watcher | None = None
        self.initial: list[Entry] = []
        self.initial_end = False
        self.since = 0
        self.cache: ResourceCache | None = None
        # A selector on objects that must be converted first cannot be asked as events come in.
        custom = call.resource.custom
        self.late = custom is not None and custom.is_remote and selection.match is not None
        self.match = None if self.late else selection.match

    async def open(self) -> None:
        """Find the starting point. Raises ApiError for what must be an HTTP error rather than an event."""
        selection = self.selection
        version = selection.resource_version
        wants_state = selection.initial_events is True or (
            selection.initial_events is None and version in ("", "0")
        )
        if not version:
            await self.caches.confirm()
        if wants_state:
            if version not in ("", "0"):
                await fresh(self.caches, version)
            cache = await self.caches.get(self.call.resource)
            self.since = self.caches.current(cache)
            self.initial = list(cache.select(selection.prefix, self.match))
            self.initial_end = selection.initial_events is True
        else:
            cache = await self.caches.get(self.call.resource)
            self.since = revision_of(version) or self.caches.current(cache)
        self.cache = cache
        self.watcher = cache.subscribe(selection.prefix, self.match, self.since)

    async def body(self) -> AsyncIterator[bytes]:
        """Frames until the timeout, the end of the server, or the client's leaving."""
        self.watching.active += 1
        try:
            if self.initial or self.initial_end:
                entries, self.initial = self.initial, []
                for start in range(0, len(entries), FIRST_CHUNK):
                    chunk = entries[start : start + FIRST_CHUNK]
                    await self._prepare(chunk)
                    if self.late and self.selection.match is not None:
                        chunk = list(filter(self.selection.match, chunk))
                    self.watching.events += len(chunk)
                    yield b"".join([self._entry_frame(ADDED, entry) for entry in chunk])
                if self.initial_end and self.selection.bookmarks:
                    yield self._bookmark(self.since, {INITIAL_END: "true"})
            if self.watcher is None:
                async for chunk_bytes in self._history():
                    yield chunk_bytes
                if self.watcher is None:
                    return
            async for chunk_bytes in self._live():
                yield chunk_bytes
        except ApiError as error:  # a webhook does not convert
            yield error_frame(error)
        finally:
            if self.watcher is not None:
                self.watcher.close()
            self.watching.active -= 1

    async def _live(self) -> AsyncIterator[bytes]:
        watcher, cache = self.watcher, self.cache
        assert watcher is not None and cache is not None
        wants_bookmarks = self.selection.bookmarks
        next_bookmark = time.monotonic() + self.bookmark_interval
        while True:
            now = time.monotonic()
            until = self.deadline - now
            if until <= 0:
                if wants_bookmarks:
                    yield self._bookmark(max(self.caches.current(cache), self.since))
                return
            if wants_bookmarks:
                until = min(until, max(next_bookmark - now, 0.0))
            events = await watcher.next(until)
            if events is None:
                return
            if events:
                events = await self._judged(events)
                self.watching.events += len(events)
                yield b"".join([self._event_frame(kind, event) for kind, event in events])
            elif wants_bookmarks and time.monotonic() >= next_bookmark:
                next_bookmark = time.monotonic() + self.bookmark_interval
                # Only what every queued event precedes may be promised; the queue is empty here.
                yield self._bookmark(max(self.caches.current(cache), self.since))

    async def _history(self) -> AsyncIterator[bytes]:
        """Older than the ring: read the store's log until the ring takes over."""
        cache, selection = self.cache, self.selection
        assert cache is not None
        position = self.since
        feed = self.caches.history(cache, position)
        try:
            async for events in feed:
                position = events[-1].revision
                seen = [
                    (transition(event, self.match), event)
                    for event in events
                    if event.key.startswith(selection.prefix)
                ]
                told = await self._judged([(kind, event) for kind, event in seen if kind])
                frames = [self._event_frame(kind, event) for kind, event in told]
                self.since = position
                if frames:
                    self.watching.events += len(frames)
                    yield b"".join(frames)
                self.watcher = cache.subscribe(selection.prefix, self.match, position)
                if self.watcher is not None:
                    return
        except Compacted as error:
            yield error_frame(
                errors.expired(f"too old resource version: {position} ({error.oldest})")
            )
        finally:
            await feed.aclose()  # type: ignore[attr-defined]

    async def _prepare(self, entries: list[Entry]) -> None:
        """Custom objects in another version may have to be converted by a webhook first."""
        if self.framer is not None and self.call.resource.custom is not None:
            await self.call.resource.custom.prepare(entries)

    async def _judged(self, events: list[tuple[str, Event]]) -> list[tuple[str, Event]]:
        """The events that this watch is told of, ready to be framed."""
        if self.framer is None or self.call.resource.custom is None:
            return events
        if self.late:
            states = [state for _, event in events for state in (event.entry, event.previous)]
            await self._prepare([state for state in states if state is not None])
            judged = [(transition(event, self.selection.match), event) for _, event in events]
            events = [(kind, event) for kind, event in judged if kind]
        entries = [event.gone() if kind == DELETED else event.entry for kind, event in events]
        await self._prepare([entry for entry in entries if entry is not None])
        return events

    def _event_frame(self, kind: str, event: Event) -> bytes:
        if self.framer is None:
            return event.frame(kind)
        key = (kind, self.framer_key)
        found = event.frames.get(key)
        if found is None:
            entry = event.gone() if kind == DELETED else event.entry
            assert entry is not None
            found = event.frames[key] = self.framer(kind, entry)
        return found

    def _entry_frame(self, kind: str, entry: Entry) -> bytes:
        return frame(kind, entry.data) if self.framer is None else self.framer(kind, entry)

    def _bookmark(self, revision: int, annotations: dict[str, str] | None = None) -> bytes:
        """An object with nothing but its kind and the revision."""
        row = self.call.resource
        metadata: dict[str, object] = {"resourceVersion": str(revision), "creationTimestamp": None}
        if annotations:
            metadata["annotations"] = annotations
        obj = {"kind": row.kind, "apiVersion": row.api_version, "metadata": metadata}
        data = orjson.dumps(obj)
        if self.framer is None:
            return frame(BOOKMARK, data)
        return self.framer(BOOKMARK, Entry("", data, revision))


def error_frame(error: ApiError) -> bytes:
    """A watch that is already answered with 200 tells its error as an event."""
    return frame(ERROR, orjson.dumps(error.status()))
