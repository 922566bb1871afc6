"""Informer: a local picture of a collection, kept by one watch, with indexes and handlers.

It begins with a streamed list (WatchList, KEP-3157) where the server can, else with a list in pages, and then watches. A
watch that ends is resumed from the last resourceVersion seen, bookmarks included; when the server no longer knows that
(410), the collection is read again and compared, so that handlers see what happened meanwhile, deletions too. While the
server is away the picture stays readable.

Handlers are called on the event loop, in order, after the picture has changed: `handler(type, old, new)` with type
ADDED (old is None), MODIFIED, or DELETED (new is None, old is the last state). They put keys into queues and return.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Any

from sampan.client.backoff import Backoff
from sampan.client.cache import CacheKey, IndexFunction, ObjectCache, key_of
from sampan.client.client import Client, WatchEvent
from sampan.kube.errors import ApiError
from sampan.kube.types import GVR

log = logging.getLogger(__name__)

Object = dict[str, Any]
Objects = list[Object]
Handler = Callable[[str, Object | None, Object | None], None]

PAGE = 500  # objects per request of a list
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 30.0  # seconds between attempts
STEADY = 5.0  # a watch that held this long was no failure
INITIAL_SILENCE = (
    15.0  # seconds without an event after which a streamed list counts as not supported
)
INITIAL_END = "k8s.io/initial-events-end"


class Informer:
    def __init__(
        self,
        client: Client,
        gvr: GVR,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        indexes: Mapping[str, IndexFunction] | None = None,
        *,
        transform: Callable[[Object], Object] | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        """`transform` may return a smaller object; it keeps metadata's name, namespace, uid and resourceVersion."""
        self.client = client
        self.gvr = gvr
        self.namespace = namespace
        self.label_selector = label_selector
        self.field_selector = field_selector
        self.resource_version = ""  # up to which the picture is complete
        self._cache = ObjectCache(indexes or {})
        self._transform = transform
        self._handlers: list[Handler] = []
        self._synced = asyncio.Event()
        self._streamed_list = True  # until the server refuses
        self._backoff = backoff or Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        self._task: asyncio.Task[None] | None = None

    # Reading. What is returned is shared: copy before changing.

    def get(self, namespace: str, name: str) -> Object | None:
        return self._cache.get((namespace, name))

    def list(self, namespace: str | None = None) -> Objects:
        """All objects, or those of one namespace ("" are those without one)."""
        return self._cache.in_namespace(namespace)

    def by_index(self, name: str, value: str) -> Objects:
        return self._cache.by_index(name, value)

    def owned_by(self, uid: str) -> Objects:
        """Objects with an owner reference to that uid, controlling or not."""
        return self._cache.owned_by(uid)

    def add_index(self, name: str, values_of: IndexFunction) -> None:
        self._cache.add_index(name, values_of)

    def __len__(self) -> int:
        return len(self._cache)

    @property
    def has_synced(self) -> bool:
        return self._synced.is_set()

    async def synced(self) -> None:
        """Return when the picture has been complete once."""
        await self._synced.wait()

    def add_handler(self, handler: Handler) -> None:
        """Call `handler` for every change; first, at once, with ADDED for every object known already."""
        self._handlers.append(handler)
        for obj in list(self._cache):
            self._call(handler, "ADDED", None, obj)

    # Running

    def start(self, group: asyncio.TaskGroup) -> asyncio.Task[None]:
        """Run inside the group until it is cancelled. Once only; a second call gives the same task."""
        if self._task is None:
            self._task = group.create_task(self.run(), name=f"informer {self.gvr.resource}")
        return self._task

    async def run(self) -> None:
        while True:
            began = time.monotonic()
            try:
                await self._session()
            except ApiError as error:
                if error.code == 410:
                    log.info("%s: %s; reading it again", self.gvr.resource, error.message)
                    self.resource_version = ""
                else:
                    log.warning("cannot watch %s: %s", self.gvr.resource, error.message)
            except (OSError, TimeoutError) as error:
                log.warning("cannot watch %s: %s", self.gvr.resource, error)
            if time.monotonic() - began >= STEADY:
                self._backoff.reset()
            await asyncio.sleep(self._backoff.next())

    async def _session(self) -> None:
        """From where the picture stands to the end of one watch."""
        if not self.resource_version:
            if self._streamed_list:
                try:
                    await self._watch(initial=True)
                    return
                except _NotStreamed as refusal:
                    log.debug("%s: listing in pages: %s", self.gvr.resource, refusal)
                    self._streamed_list = False
            await self._read_pages()
        await self._watch(initial=False)

    async def _read_pages(self) -> None:
        found: dict[CacheKey, Object] = {}
        continue_, version = "", ""
        while True:
            page = await self.client.list(
                self.gvr,
                self.namespace,
                label_selector=self.label_selector,
                field_selector=self.field_selector,
                limit=PAGE,
                continue_=continue_,
            )
            for obj in page.items:
                self._keep(found, obj)
            version, continue_ = page.resource_version, page.continue_
            if not continue_:
                break
        self._replace(found, version)

    async def _watch(self, *, initial: bool) -> None:
        """Follow one watch to its end; with `initial`, it begins with the whole collection."""
        events = self.client.watch(
            self.gvr,
            self.namespace,
            resource_version=self.resource_version,
            label_selector=self.label_selector,
            field_selector=self.field_selector,
            send_initial_events=initial,
        )
        async with aclosing(events):  # type: ignore[type-var]
            if initial:
                await self._read_initial(events.__anext__)
            async for event in events:
                self._apply(event)

    async def _read_initial(self, read: Callable[[], Any]) -> None:
        """The streamed list, up to the bookmark that ends it. Raises _NotStreamed when the server does not know it."""
        found: dict[CacheKey, Object] = {}
        while True:
            try:
                async with asyncio.timeout(INITIAL_SILENCE):
                    event: WatchEvent = await read()
            except StopAsyncIteration:
                raise ConnectionError("the watch ended before the list was complete") from None
            except TimeoutError:
                # Servers older than the option ignore it: the objects come, the bookmark does not.
                raise _NotStreamed("the end of the list was not announced") from None
            except ApiError as error:
                if error.code in (400, 422):
                    raise _NotStreamed(error.message) from error
                raise
            metadata = event.object["metadata"]
            if event.type == "BOOKMARK":
                if (metadata.get("annotations") or {}).get(INITIAL_END) == "true":
                    self._replace(found, metadata["resourceVersion"])
                    return
            elif event.type == "DELETED":
                found.pop(key_of(event.object), None)
            else:
                self._keep(found, event.object)

    # Changing the picture

    def _keep(self, found: dict[CacheKey, Object], obj: Object) -> None:
        """Collect an object of a list; the same version of a known one is not kept twice in memory."""
        key = key_of(obj)
        known = self._cache.get(key)
        if known is not None and _version(known) == _version(obj):
            found[key] = known
        else:
            found[key] = self._trim(obj)

    def _replace(self, found: dict[CacheKey, Object], version: str) -> None:
        """The collection is `found` as of `version`: tell handlers the difference."""
        for key in self._cache.absent_from(found):
            self._remove(key)
        for key, obj in found.items():
            if self._cache.get(key) is not obj:
                self._put(key, obj)
        self.resource_version = version
        self._synced.set()

    def _apply(self, event: WatchEvent) -> None:
        obj = event.object
        version = _version(obj)
        if event.type == "DELETED":
            self._remove(key_of(obj), self._trim(obj))
        elif event.type != "BOOKMARK":
            self._put(key_of(obj), self._trim(obj))
        if version:
            self.resource_version = version

    def _put(self, key: CacheKey, obj: Object) -> None:
        old = self._cache.get(key)
        if old is not None and old["metadata"].get("uid") != obj["metadata"].get("uid"):
            self._remove(key)  # deleted and made again while nobody looked
            old = None
        self._cache.put(key, obj)
        self._tell("ADDED" if old is None else "MODIFIED", old, obj)

    def _remove(self, key: CacheKey, last: Object | None = None) -> None:
        old = self._cache.put(key, None)
        if old is not None:
            self._tell("DELETED", last or old, None)

    def _trim(self, obj: Object) -> Object:
        obj["metadata"].pop("managedFields", None)
        return self._transform(obj) if self._transform else obj

    def _tell(self, kind: str, old: Object | None, new: Object | None) -> None:
        for handler in self._handlers:
            self._call(handler, kind, old, new)

    def _call(self, handler: Handler, kind: str, old: Object | None, new: Object | None) -> None:
        try:
            handler(kind, old, new)
        except Exception:
            # One handler's bug must not stop the picture for the others.
            obj = new or old
            name = "/".join(key_of(obj)) if obj else ""
            log.exception("%s %s: a handler failed on %s", self.gvr.resource, name, kind)


class _NotStreamed(Exception):
    """The server does not do streamed lists."""


def _version(obj: Object) -> str:
    return obj["metadata"].get("resourceVersion") or ""
