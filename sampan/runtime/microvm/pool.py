"""Machines: made from a template when a pod asks, and a few kept ready for the next.

A machine is copied from the live template of its size, or where there is none started from the template's files. A warm
machine runs and has met nobody: no entropy, no name, no network. Demand fills the pool: after a pod took a machine, a
live template and warm machines of its size are made in the background, and given up when nobody came for a while.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from sampan.runtime.microvm.clones import Started, clone, quicken
from sampan.runtime.microvm.errors import MicroVMError
from sampan.runtime.microvm.rehearsal import Rehearsal
from sampan.runtime.microvm.templates import Template
from sampan.runtime.microvm.vmm import Driver, Live

LOG = logging.getLogger(__name__)
# Seconds without demand before a live template is made, and before warm machines are: a pod that starts needs the
# processor more. While there is no live template every further pod starts slowly, so that does not wait for long.
LULL, QUIET = 0.4, 1.0
PATIENCE = 1.0  # seconds of demand without a lull
IDLE = 300.0  # seconds after which a machine that nobody took is given up

Size = tuple[int, int]  # MiB, processors
Ports = dict[tuple[str, int, int], str]
FindTemplate = Callable[[int, int], Awaitable[tuple[Driver, Template]]]


class Pool:
    """`wanted` warm machines of each size that is in use; `live`: machines may be copied.

    `reach` is that of this node's pods without a network namespace, by the first of them.
    """

    def __init__(
        self, place: Path, wanted: int, find: FindTemplate, rehearse: Rehearsal, *, live: bool
    ) -> None:
        self.place = place
        self.wanted = wanted
        self._rehearse = rehearse
        self._find = find
        self._copies = live
        self.reach: tuple[str, ...] = ()
        self._live: dict[Size, Live] = {}
        self._ready: dict[Size, list[Started]] = {}
        self._filling: dict[Size, asyncio.Task[None]] = {}
        self._timers: dict[Size, asyncio.TimerHandle] = {}
        self._taken: dict[Size, float] = {}  # when the last one was, by the loop's clock
        self._closed = False

    async def take(self, memory: int, cpus: int, ports: Ports | None = None) -> Started:
        """A machine that nobody else has; its keep is the caller's now.

        With `ports`, which QEMU's own network is told when it is made, none can be ready beforehand.
        """
        size = (memory, cpus)
        ready = self._ready.get(size, []) if ports is None else []
        while ready:
            started = ready.pop(0)
            if started.channel.connected:
                self._fill(size)
                return started
            await started.stop()
        started = await self._another(size, ports)
        self._fill(size)
        return started

    async def _another(self, size: Size, ports: Ports | None = None) -> Started:
        driver, template = await self._find(*size)
        live = self._live.get(size)
        if live is not None:
            try:
                return await clone(live.copy, template, self.place, ports, reach=self.reach)
            except MicroVMError as error:
                LOG.warning("a machine is started from the template's files: %s", error)
                if self._live.get(size) is live:
                    del self._live[size]
                await live.stop()
        return await clone(driver.start, template, self.place, ports, reach=self.reach)

    def _fill(self, size: Size) -> None:
        if self._closed or not (self.wanted or self._copies):
            return
        if timer := self._timers.pop(size, None):
            timer.cancel()
        loop = asyncio.get_running_loop()
        self._taken[size] = loop.time()
        self._timers[size] = loop.call_later(IDLE, self._give_up, size)
        if size not in self._filling:
            self._filling[size] = asyncio.create_task(self._refill(size), name="microVM pool")

    async def _refill(self, size: Size) -> None:
        try:
            ready = self._ready.setdefault(size, [])
            while True:
                driver, template = await self._find(*size)
                if size not in self._live and self._copies:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(PATIENCE):
                            await self._quiet(size, LULL)
                    live = await quicken(driver, template, self.place, self._rehearse, self.reach)
                    if live is not None:
                        self._live[size] = live
                if len(ready) >= self.wanted:
                    break
                await self._quiet(size, QUIET)
                ready.append(await self._warm(size, driver))
        except Exception:
            LOG.exception("filling the pool of machines with %d MiB", size[0])
        finally:
            self._filling.pop(size, None)

    async def _quiet(self, size: Size, lasting: float) -> None:
        loop = asyncio.get_running_loop()
        while (left := self._taken.get(size, 0.0) + lasting - loop.time()) > 0:
            await asyncio.sleep(left)

    async def _warm(self, size: Size, driver: Driver) -> Started:
        started = await self._another(size)
        try:
            # A copy has it all translated, but has yet to get the memory of its own that a start writes to.
            if driver.accelerator == "tcg":
                await self._rehearse(started.machine, started.channel)
        except BaseException:
            await asyncio.shield(started.stop())
            raise
        return started

    def _give_up(self, size: Size) -> None:
        self._timers.pop(size, None)
        if size not in self._filling:
            self._filling[size] = asyncio.create_task(self._stop(size), name="microVM pool")

    async def _stop(self, size: Size) -> None:
        try:
            for started in self._ready.pop(size, []):
                await started.stop()
            if live := self._live.pop(size, None):
                await live.stop()
        finally:
            self._filling.pop(size, None)

    async def close(self) -> None:
        """No warm machine and no live template is left. Idempotent."""
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        filling = list(self._filling.values())
        for task in filling:
            task.cancel()
        await asyncio.gather(*filling, return_exceptions=True)
        for size in {*self._ready, *self._live}:
            await self._stop(size)
