"""Machines: started from a template when a pod asks, and a few kept ready for the next.

A warm machine is a clone that runs and has met nobody: no entropy, no name, no network. Demand fills the pool: after a
pod took a machine, others of its size are made in the background, and given up when nobody came for a while.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from sampan.runtime.microvm import channel, jail
from sampan.runtime.microvm.channel import Channel
from sampan.runtime.microvm.errors import MicroVMError
from sampan.runtime.microvm.protocol import VERSION, Key, Type
from sampan.runtime.microvm.rehearsal import Rehearsal
from sampan.runtime.microvm.templates import Template
from sampan.runtime.microvm.vmm import Driver, Machine, MachineSpec

LOG = logging.getLogger(__name__)
QUIET = 1.0  # seconds without demand before the pool is filled: a pod that starts needs the processor more
IDLE = 300.0  # seconds after which a machine that nobody took is given up

Size = tuple[int, int]  # MiB, processors
FindTemplate = Callable[[int, int], Awaitable[tuple[Driver, Template]]]


@dataclass(slots=True)
class Started:
    name: str
    directory: Path
    machine: Machine
    channel: Channel
    memory: int
    cpus: int

    async def stop(self) -> None:
        self.channel.close()
        await self.machine.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


async def clone(
    driver: Driver,
    template: Template,
    place: Path,
    ports: dict[tuple[str, int, int], str] | None = None,
    *,
    held: bool = False,
) -> Started:
    """A machine of its own from the template: it runs and its agent has answered; or it is held, and was not asked."""
    name = secrets.token_hex(32)
    directory = place / name[:32]
    directory.mkdir(parents=True, mode=0o700)
    root = os.geteuid() == 0
    tap = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC) if root else -1
    state = template.open_state()
    try:
        spec = MachineSpec(
            name, directory, template.memory, template.cpus, ram=template.ram, state=state, tap=tap,
            ports=ports or {}, uid=jail.uid_of(name) if root else 0, held=held,
        )  # fmt: skip
        machine = await driver.start(spec)
        try:
            if held:
                link = Channel(name[:12])
            else:
                link = await channel.connect(await machine.dial(), name[:12])
                await link.call(Type.HELLO, [(Key.VERSION, VERSION)])
        except BaseException:
            await asyncio.shield(machine.stop())
            raise
        return Started(name, directory, machine, link, template.memory, template.cpus)
    except BaseException as error:
        shutil.rmtree(directory, ignore_errors=True)
        if isinstance(error, OSError):
            raise MicroVMError(f"cannot start a machine: {error}") from error
        raise
    finally:
        os.close(state)
        if tap >= 0:
            os.close(tap)


class Pool:
    def __init__(self, place: Path, wanted: int, find: FindTemplate, rehearse: Rehearsal) -> None:
        self.place = place
        self._rehearse = rehearse
        self.wanted = wanted
        self._find = find
        self._ready: dict[Size, list[Started]] = {}
        self._filling: dict[Size, asyncio.Task[None]] = {}
        self._timers: dict[Size, asyncio.TimerHandle] = {}
        self._taken: dict[Size, float] = {}  # when the last one was, by the loop's clock
        self._closed = False

    async def take(self, memory: int, cpus: int) -> Started:
        """A machine that nobody else has; its keep is the caller's now."""
        size = (memory, cpus)
        ready = self._ready.get(size, [])
        while ready:
            started = ready.pop(0)
            if started.channel.connected:
                self._fill(size)
                return started
            await started.stop()
        driver, template = await self._find(memory, cpus)
        started = await clone(driver, template, self.place)
        self._fill(size)
        return started

    def _fill(self, size: Size) -> None:
        if self._closed or self.wanted == 0:
            return
        if timer := self._timers.pop(size, None):
            timer.cancel()
        loop = asyncio.get_running_loop()
        self._taken[size] = loop.time()
        self._timers[size] = loop.call_later(IDLE, self._give_up, size)
        if size not in self._filling:
            self._filling[size] = asyncio.create_task(self._refill(size), name="microVM pool")

    async def _refill(self, size: Size) -> None:
        loop = asyncio.get_running_loop()
        try:
            ready = self._ready.setdefault(size, [])
            while len(ready) < self.wanted:
                while (left := self._taken.get(size, 0.0) + QUIET - loop.time()) > 0:
                    await asyncio.sleep(left)
                driver, template = await self._find(*size)
                started = await clone(driver, template, self.place)
                try:
                    if driver.accelerator == "tcg":
                        await self._rehearse(started.machine, started.channel)
                except BaseException:
                    await asyncio.shield(started.stop())
                    raise
                ready.append(started)
        except Exception:
            LOG.exception("filling the pool of machines with %d MiB", size[0])
        finally:
            self._filling.pop(size, None)

    def _give_up(self, size: Size) -> None:
        self._timers.pop(size, None)
        idle = self._ready.pop(size, [])
        if idle and size not in self._filling:
            self._filling[size] = asyncio.create_task(self._stop(size, idle), name="microVM pool")

    async def _stop(self, size: Size, idle: list[Started]) -> None:
        try:
            for started in idle:
                await started.stop()
        finally:
            self._filling.pop(size, None)

    async def close(self) -> None:
        """No warm machine is left. Idempotent."""
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        filling = list(self._filling.values())
        for task in filling:
            task.cancel()
        await asyncio.gather(*filling, return_exceptions=True)
        for ready in self._ready.values():
            for started in ready:
                await started.stop()
        self._ready.clear()
