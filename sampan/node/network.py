"""Feeds the service proxy and the DNS server with Services and EndpointSlices, as they change.

A single change is applied at once; those that come within the next moment, or while an `apply` runs, are applied together:
a rollout of a hundred pods costs a few rule sets. Nothing is polled; a failed `apply` is tried again after a pause, with
what is true by then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol

from sampan.client.client import Client
from sampan.client.informer import Informer
from sampan.client.resources import ENDPOINTSLICES
from sampan.network.errors import NetworkError
from sampan.node.podspec import Object

log = logging.getLogger(__name__)

SPACING = 0.15  # seconds from one `apply` to the next (kube-proxy's default is one second)
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0


class Consumer(Protocol):
    """The service proxy, the DNS server, or anything that wants both lists."""

    async def apply(self, services: list[Object], slices: list[Object]) -> None: ...

    async def close(self) -> None: ...


class NetworkFeed:
    """`make` gives one consumer or a list of them; a consumer with a `start()` is started first."""

    def __init__(self, client: Client, make: Callable[[], Any], services: Informer) -> None:
        self._make = make
        self._services = services
        self._slices = Informer(client, ENDPOINTSLICES)
        self._changed = asyncio.Event()

    async def run(self) -> None:
        made = self._make()
        consumers: list[Consumer] = list(made) if isinstance(made, (list, tuple)) else [made]
        try:
            for consumer in consumers:
                start = getattr(consumer, "start", None)
                if start is not None:
                    await start()
            async with asyncio.TaskGroup() as group:
                self._slices.start(group)
                for informer in (self._services, self._slices):
                    informer.add_handler(self._on_change)
                await self._services.synced()
                await self._slices.synced()
                for consumer in consumers:
                    group.create_task(self._follow(consumer))
        finally:
            for consumer in consumers:
                await consumer.close()

    def _on_change(self, _type: str, _old: Object | None, _new: Object | None) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _follow(self, consumer: Consumer) -> None:
        pause = FIRST_PAUSE
        loop = asyncio.get_running_loop()
        last = -SPACING
        while True:
            await asyncio.sleep(max(0.0, last + SPACING - loop.time()))
            last = loop.time()
            changed = self._changed
            try:
                await consumer.apply(self._services.list(), self._slices.list())
                pause = FIRST_PAUSE
            except (NetworkError, OSError) as error:
                log.warning("%s: %s", type(consumer).__name__, error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
                continue
            await changed.wait()
