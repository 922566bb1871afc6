"""Taking a snapshot of a pod's machine while it runs: pause it, write all of it down, let it go on.

Its container is frozen first, so that in a machine that goes on from here nothing runs before that one has entropy of its
own (kernels' random pools would be the same in both). What an emulated network or disk has under way is finished by the
VMM before it writes its state, and nothing reaches the disk while that is copied: memory and disk are of one moment.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from sampan.runtime.microvm import disks, drivers, snapshots, templates
from sampan.runtime.microvm.channel import Channel
from sampan.runtime.microvm.errors import ChannelLost
from sampan.runtime.microvm.facts import Facts
from sampan.runtime.microvm.process import MicroProcess
from sampan.runtime.microvm.protocol import Key, Type
from sampan.runtime.microvm.requests import FREEZE, THAW
from sampan.runtime.microvm.snapshots import Snapshot
from sampan.runtime.microvm.vmm import Machine
from sampan.runtime.sandbox import NotSupported, SandboxSpec

FILES = "files alone, of any: sampan vm snapshot --files"


def refuse(facts: Facts, containers: int) -> None:
    """Raises NotSupported for what could not be found again elsewhere."""
    driver = drivers.named(facts.driver)
    if not driver.keeps_memory:
        raise NotSupported(f"machines of {driver.name} are not snapshot while they run; {FILES}")
    if containers != 1 or len(facts.slots) != 1:
        raise NotSupported(
            f"a snapshot is of a pod with one container, of one image; this one has {containers} of {len(facts.slots)}"
        )
    if facts.shares:
        paths = ", ".join(str(path) for path, _ in facts.shares)
        raise NotSupported(
            f"directories of the host are mounted in this machine, and stay the host's: {paths}. A machine without --volume "
            f"can be snapshot, with its disk (--size); {FILES}"
        )
    if others := [path for path in facts.disks if Path(path).name != disks.FILE]:
        raise NotSupported(
            f"it has block devices of the host's, of which no copy is made: {', '.join(others)}. A machine without them can be "
            f"snapshot, with its disk; {FILES}"
        )


async def take(
    spec: SandboxSpec,
    facts: Facts,
    machine: Machine,
    link: Channel,
    process: MicroProcess,
    places: dict[str, str],
    location: Path,
) -> None:
    """The machine runs on return, whatever happened. Raises MicroVMError, OSError."""
    container = (Key.TARGET, process.number)
    with tempfile.TemporaryFile(dir=location.parent) as state:
        await link.call(Type.UPDATE, [container, FREEZE])
        try:
            try:
                await machine.snapshot(state.fileno())
                found = describe(spec, facts, link, process, places)
                await asyncio.to_thread(write, location, found, state.fileno(), facts.disks)
            finally:
                await asyncio.shield(machine.resume())
        finally:
            with suppress(ChannelLost):
                await asyncio.shield(link.call(Type.UPDATE, [container, THAW]))


def write(location: Path, found: Snapshot, state: int, attached: list[str]) -> None:
    disk = os.open(attached[0], os.O_RDONLY | os.O_CLOEXEC) if attached else -1
    try:
        snapshots.write(location, found, state, disk)
    finally:
        if disk >= 0:
            os.close(disk)


def describe(
    spec: SandboxSpec, facts: Facts, link: Channel, process: MicroProcess, places: dict[str, str]
) -> Snapshot:
    identifier = process.spec.id
    return Snapshot(
        edition=facts.edition,
        processor=templates.processor(),
        memory=facts.memory,
        cpus=facts.cpus,
        sharing=facts.sharing,
        image=facts.slots[0],
        number=process.number,
        numbers=link.number(),
        user=facts.users[identifier],
        init=facts.inits.get(identifier, ""),
        terminal=process.spec.tty,
        seen=list(process.seen),
        volumes=places,
        present=facts.present,
        pod=f"{spec.namespace}/{spec.name}",
        taken_at=time.time(),
    )
