"""Clones of a template: one that runs and whose agent has answered; and a live template, made and proven.

A live template stands in the directory `template-live-…`, so that a runtime which finds one of a former runtime ends it;
a file `ready` in it says that a copy has answered, and pods are copied from it.
Where a template could not be copied (another QEMU, another C library), a file beside it says so and why, and it is not
tried again with the same library before the host is booted again.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from sampan.linux import trees
from sampan.runtime.microvm import channel, jail, live, presence
from sampan.runtime.microvm.channel import Channel
from sampan.runtime.microvm.drivers import boot_id
from sampan.runtime.microvm.errors import MicroVMError
from sampan.runtime.microvm.rehearsal import Rehearsal
from sampan.runtime.microvm.templates import Template
from sampan.runtime.microvm.vmm import Driver, Live, Machine, MachineSpec

LOG = logging.getLogger(__name__)
REFUSED, READY = "not-copied", "ready"
PREFIX = "template-live-"
# Of rehearsing: interrupts and ticks come at other moments each time, and lead through other code.
ROUNDS = 3
# Seconds for the guest to note that its host has hung up. What it puts off for a second (templates.SETTLE) is not waited
# for: pods that come meanwhile start slowly, and rehearsing again and again has run that code already.
NOTING = 0.4


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
        trees.remove_quietly(self.directory)


async def clone(
    make: Callable[[MachineSpec], Awaitable[Machine]],
    template: Template,
    place: Path,
    ports: dict[tuple[str, int, int], str] | None = None,
    *,
    held: bool = False,
    reach: tuple[str, ...] = (),
) -> Started:
    """A machine of its own from the template: it runs and its agent has answered; or it is held, and was not asked.

    `make`: how, by a driver or as a copy.
    """
    name = secrets.token_hex(32)
    directory = place / name[:32]
    directory.mkdir(parents=True, mode=0o700)
    spec = describe(name, directory, template)
    spec.ports, spec.held, spec.reach = ports or {}, held, reach
    try:
        machine = await make(spec)
        try:
            link = Channel(name[:12]) if held else await greet(machine, name[:12])
        except BaseException:
            await asyncio.shield(machine.stop())
            raise
        return Started(name, directory, machine, link, template.memory, template.cpus)
    except BaseException as error:
        trees.remove_quietly(directory)
        if isinstance(error, OSError):
            raise MicroVMError(f"cannot start a machine: {error}") from error
        raise
    finally:
        let_go(spec)


def describe(name: str, directory: Path, template: Template) -> MachineSpec:
    """With descriptors that are the caller's to close, by `let_go`."""
    root = os.geteuid() == 0
    return MachineSpec(
        name, directory, template.memory, template.cpus, ram=template.ram, state=template.open_state(),
        tap=os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC) if root else -1,
        uid=jail.uid_of(name) if root else 0,
    )  # fmt: skip


def let_go(spec: MachineSpec) -> None:
    for descriptor in (spec.state, spec.tap):
        if descriptor >= 0:
            os.close(descriptor)


async def greet(machine: Machine, name: str) -> Channel:
    link = await channel.connect(await machine.dial(), name)
    try:
        await link.hello()
    except BaseException:
        link.close()
        raise
    return link


async def quicken(
    driver: Driver,
    template: Template,
    machines: Path,
    rehearse: Rehearsal,
    reach: tuple[str, ...] = (),
) -> Live | None:
    """A live template of which a copy has answered; None where there can be none."""
    start = driver.start_live
    if start is None or refused(template):
        return None
    name = secrets.token_hex(32)
    directory = machines.parent / f"{PREFIX}{name[:12]}"
    directory.mkdir(parents=True, mode=0o700)
    spec = describe(name, directory, template)
    spec.copied, spec.reach = True, reach
    made: Live | None = None
    try:
        made = await start(spec)
        link = await greet(made.machine, name[:12])
        try:
            for _ in range(ROUNDS):
                await rehearse(made.machine, link)
        finally:
            link.close()
            await link.closed.wait()
        await asyncio.sleep(NOTING)
        await made.still()
        proof = await clone(made.copy, template, machines, reach=reach)
        await proof.stop()
        (directory / READY).touch()
        return made
    except (MicroVMError, OSError, TimeoutError) as error:
        LOG.warning("machines of %d MiB are not copied: %s", template.memory, error)
        (template.directory / REFUSED).write_text(f"{edition()}\n{error}\n")
        if made is not None:
            await made.stop()
        made = None
        return None
    except BaseException:
        if made is not None:
            await asyncio.shield(made.stop())
        made = None
        raise
    finally:
        let_go(spec)
        if made is None:
            trees.remove_quietly(directory)


def refused(template: Template) -> bool:
    try:
        return (template.directory / REFUSED).read_text().startswith(edition())
    except FileNotFoundError:
        return False


def edition() -> str:
    """What was tried: this library, on the host as it is booted now."""
    library = presence.agent_file(live.LIBRARY).read_bytes()
    return f"{hashlib.sha256(library).hexdigest()} {boot_id()}"
