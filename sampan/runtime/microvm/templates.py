"""Templates: a machine that was booted once and stopped when its agent was ready, from which pods' machines start.

    <templates>/<key>/{ram, state, template.json}

The key is made of everything that a snapshot depends on (VMM, kernel, agent, command line, processor, memory), so another
QEMU finds no template and makes its own. `template.json` comes last and holds the digest of the other two: a template
that is not what was written is made anew. In use, memory is a write-sealed memory file, shared by all clones as long as
they only read; state is a file that each clone reads for itself.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import logging
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sampan.linux import trees
from sampan.runtime.microvm import attendant, boot, channel, guestneeds, jail, session
from sampan.runtime.microvm.boot import BootFiles
from sampan.runtime.microvm.errors import BadArtifact, ChannelLost, VMMError
from sampan.runtime.microvm.rehearsal import Rehearsal
from sampan.runtime.microvm.vmm import Driver, Machine, MachineSpec

LOG = logging.getLogger(__name__)
RECORD = "template.json"
BOOT_LIMIT = {
    "kvm": 2.0,
    "tcg": 60.0,
}  # seconds; a /dev/kvm that opens and runs nothing is found out by this
# Seconds for the guest to note that its host has hung up, and to do what it has put off for a second: each clone would.
SETTLE = 1.1
PIECE = 1 << 20
F_ADD_SEALS, SEALS = 1033, 0x1 | 0x2 | 0x4 | 0x8  # of sealing itself, shrinking, growing, writing


@dataclass(slots=True)
class Template:
    """Loaded: descriptors that clones are started with."""

    key: str
    memory: int
    cpus: int
    ram: int
    directory: Path
    boot_seconds: float

    def open_state(self) -> int:
        return os.open(self.directory / "state", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        if self.ram >= 0:
            os.close(self.ram)
            self.ram = -1


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("flags", "Features")):
            return hashlib.sha256(line.encode()).hexdigest()
    return ""


class Templates:
    def __init__(self, directory: Path, run_directory: Path, rehearse: Rehearsal) -> None:
        self.directory = directory
        self.run_directory = run_directory
        self._rehearse = rehearse
        self._loaded: dict[str, Template] = {}
        self._lock = asyncio.Lock()

    async def get(self, driver: Driver, files: BootFiles, memory: int, cpus: int) -> Template:
        """From memory, else from disk, else made. Raises VMMError, ChannelLost."""
        line = boot.command_line(driver.accelerator, driver.name)
        facts = [driver.edition(), files.edition, line, processor(), memory, cpus]
        key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]
        async with self._lock:
            if key not in self._loaded:
                self._loaded[key] = await self._load(key, driver, files, memory, cpus, line)
            return self._loaded[key]

    async def _load(
        self, key: str, driver: Driver, files: BootFiles, memory: int, cpus: int, line: str
    ) -> Template:
        directory = self.directory / key
        if (directory / RECORD).exists():
            try:
                return await asyncio.to_thread(load, directory, memory, cpus)
            except BadArtifact as error:
                LOG.warning("%s: it is made anew", error)
        began = time.monotonic()
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        trees.remove_quietly(directory)
        fresh = self.directory / f".{key}.{secrets.token_hex(4)}"
        fresh.mkdir(mode=0o700)
        try:
            ram, seconds = await self._boot(fresh, driver, files, memory, cpus, line)
            template = Template(key, memory, cpus, ram, directory, seconds)
            await asyncio.to_thread(save, fresh, ram, memory, seconds)
            fresh.rename(directory)
        except BaseException:
            trees.remove_quietly(fresh)
            raise
        LOG.info("made a template of %d MiB in %.1f s", memory, time.monotonic() - began)
        return template

    async def _boot(
        self, directory: Path, driver: Driver, files: BootFiles, memory: int, cpus: int, line: str
    ) -> tuple[int, float]:
        """Boot to the agent's readiness and take the snapshot: memory's descriptor, and how long the boot took."""
        await asyncio.to_thread(guestneeds.verify, files.kernel, driver.name)
        name = secrets.token_hex(32)
        place = self.run_directory / f"template-{name[:12]}"
        place.mkdir(parents=True, mode=0o700)
        ram = os.memfd_create("template", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        machine: Machine | None = None
        try:
            os.ftruncate(ram, memory << 20)
            (place / "initial").write_bytes(files.initial_files(driver.bus))
            uid = jail.uid_of(name) if os.geteuid() == 0 else 0
            began = time.monotonic()
            machine = await driver.start(
                MachineSpec(
                    name, place, memory, cpus, kernel=files.kernel.image, initial_files=place / "initial",
                    command_line=line, ram=ram, ram_shared=True, uid=uid,
                )
            )  # fmt: skip
            seconds = await self._meet(machine, BOOT_LIMIT[driver.accelerator], began)
            await asyncio.sleep(SETTLE)
            state = os.open(
                directory / "state", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600
            )
            try:
                await machine.snapshot(state)
            finally:
                os.close(state)
            await machine.stop()
            fcntl.fcntl(ram, F_ADD_SEALS, SEALS)
            return ram, seconds
        except BaseException:
            os.close(ram)
            raise
        finally:
            if machine is not None:
                await asyncio.shield(machine.stop())
            trees.remove_quietly(place)

    async def _meet(self, machine: Machine, limit: float, began: float) -> float:
        """Seconds until the agent was ready; it has rehearsed on return. Raises ChannelLost with what the guest printed."""
        link = await channel.connect(await machine.dial(), "template")
        try:
            async with asyncio.timeout(limit):
                await session.any_of(link.ready.wait(), machine.halted.wait())
            if machine.halted.is_set():
                why = attendant.telling(await machine.console())
                raise VMMError(f"the guest ended while it booted: {why}")
            if not link.connected:
                raise VMMError("the VMM ended while it booted")
            seconds = time.monotonic() - began
            await link.hello()
            await self._rehearse(machine, link)
            return seconds
        except TimeoutError:
            printed = (await machine.console()).strip()[-400:]
            raise ChannelLost(
                f"no guest agent after {limit:g} s of booting. {printed}".strip()
            ) from None
        finally:
            link.close()
            await link.closed.wait()

    def collect(self, keep: int = 8) -> None:
        """Remove what a crash left half-made, and templates that were not used for longest beyond `keep`."""
        if not self.directory.is_dir():
            return
        whole = []
        for path in self.directory.iterdir():
            record = path / RECORD
            if path.name.startswith(".") or not record.exists():
                trees.remove_quietly(path)
            else:
                whole.append((record.stat().st_mtime, path))
        for _, path in sorted(whole)[: max(0, len(whole) - keep)]:
            trees.remove_quietly(path)

    def close(self) -> None:
        for template in self._loaded.values():
            template.close()
        self._loaded.clear()


# On disk


def save(directory: Path, ram: int, memory: int, seconds: float) -> None:
    """Memory with its holes, then the record."""
    path = directory / "ram"
    with path.open("wb") as file:
        os.truncate(path, memory << 20)
        for offset, data in pieces(ram):
            os.pwrite(file.fileno(), data, offset)
    record = {"digest": digest(directory), "memory": memory, "boot": round(seconds, 3)}
    (directory / RECORD).write_text(json.dumps(record))


def load(directory: Path, memory: int, cpus: int) -> Template:
    """Raises BadArtifact unless both files are what was written."""
    try:
        record = json.loads((directory / RECORD).read_bytes())
        whole = record["digest"] == digest(directory) and record["memory"] == memory
        seconds = float(record["boot"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadArtifact(directory, f"not a template: {error}") from error
    if not whole:
        raise BadArtifact(directory, "the template has changed on disk")
    ram = os.memfd_create("template", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(ram, memory << 20)
        with (directory / "ram").open("rb") as file:
            for offset, data in pieces(file.fileno()):
                os.pwrite(ram, data, offset)
        fcntl.fcntl(ram, F_ADD_SEALS, SEALS)
    except OSError as error:
        os.close(ram)
        raise BadArtifact(directory, str(error)) from error
    os.utime(directory / RECORD)
    return Template(directory.name, memory, cpus, ram, directory, seconds)


def digest(directory: Path) -> str:
    whole = hashlib.sha256((directory / "state").read_bytes())
    with (directory / "ram").open("rb") as file:
        for offset, data in pieces(file.fileno()):
            whole.update(offset.to_bytes(8, "little"))
            whole.update(data)
    return whole.hexdigest()


def pieces(descriptor: int) -> Iterator[tuple[int, bytes]]:
    """(offset, data) of what is not zero. By content and not by holes, which differ between file systems."""
    size = os.fstat(descriptor).st_size
    at = 0
    zeros = bytes(PIECE)
    while at < size:
        try:
            at = os.lseek(descriptor, at, os.SEEK_DATA) // PIECE * PIECE
        except OSError:
            return
        data = os.pread(descriptor, PIECE, at)
        if data != zeros[: len(data)]:
            yield at, data
        at += PIECE
