"""Drives that a guest may write to: block devices of the host, and the disk that a machine's files stay on.

A template has a few writable drives that are empty; what a pod has is put into them, as images are into theirs. A container
that is given a device finds it at its place. A container with a *disk* has its writable layer there and not in memory: an
ext4 file system in one file, in a volume of the pod's, which therefore lives as long as the volume does.

    sampan.dev/vm-disk       annotation of a pod: the mount path of the volume that is to hold the disk
    sampan.dev/vm-disk-size  of what size it is made, a quantity
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path

from sampan.runtime.microvm.channel import Channel
from sampan.runtime.microvm.errors import MissingPiece, VMMError
from sampan.runtime.microvm.facts import Facts
from sampan.runtime.microvm.protocol import Key, Type
from sampan.runtime.microvm.vmm import DISKS, SLOTS, Machine
from sampan.runtime.sandbox import CannotStart, ContainerSpec, SandboxSpec

PLACE, SIZE = "sampan.dev/vm-disk", "sampan.dev/vm-disk-size"
FILE = "disk.ext4"
LEAST = 32 << 20
INSTALL = "apt-get install e2fsprogs"


class Disks:
    def __init__(
        self, spec: SandboxSpec, facts: Facts, machine: Machine, channel: Channel | None
    ) -> None:
        self._annotations = spec.annotations
        self._facts = facts
        self._machine = machine
        self._channel = channel

    async def devices(self, container: ContainerSpec) -> list[tuple[str, str]]:
        """Block devices of the container: the guest's name and the place. Raises CannotStart, VMMError, OSError."""
        found = []
        for device in container.devices:
            try:
                block = stat.S_ISBLK(os.stat(device.source).st_mode)
            except OSError as error:
                raise CannotStart(f"device {device.source}: {error.strerror}") from error
            if not block:
                raise CannotStart(
                    f"device {device.source}: a microVM has block devices of the host, and no others"
                )
            slot = await self.attach(Path(device.source))
            found.append((f"/dev/vd{chr(ord('a') + slot)}", device.target))
        return found

    async def layer(self, container: ContainerSpec) -> int:
        """The drive that the container's writable layer is to be on, mounted; 0: it has none."""
        path = path_in(self._annotations, container)
        if path is None:
            return 0
        if not path.exists():
            await asyncio.to_thread(make, path, wanted_size(self._annotations.get(SIZE, "")))
        slot = await self.attach(path)
        assert self._channel is not None
        await self._channel.call(Type.IMAGE, [(Key.SLOT, slot), (Key.UPPER, slot)])
        return slot

    async def attach(self, path: Path) -> int:
        """The drive that it is in, for as long as the machine runs. Raises CannotStart, VMMError, OSError."""
        name = str(path)
        if name in self._facts.disks:
            return SLOTS + self._facts.disks.index(name)
        if len(self._facts.disks) == DISKS:
            raise CannotStart(
                f"{path}: a microVM has {DISKS} writable drives, and this pod has used them"
            )
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            # Held by the VMM for as long as it has the descriptor, whoever else goes.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            slot = SLOTS + len(self._facts.disks)
            await self._machine.attach_disk(slot, descriptor)
        except BlockingIOError as error:
            raise CannotStart(f"{path}: another machine uses this disk") from error
        finally:
            os.close(descriptor)
        self._facts.disks.append(name)
        return slot


def path_in(annotations: Mapping[str, str], container: ContainerSpec) -> Path | None:
    """Where the container's disk is kept, when it is to have one."""
    target = annotations.get(PLACE)
    mount = next((each for each in container.mounts if target and each.target == target), None)
    return mount.source / FILE if mount is not None else None


def wanted_size(text: str) -> int:
    from sampan.kube.quantity import parse

    try:
        size = parse(text).value()
    except ValueError as error:
        raise CannotStart(f"annotation {SIZE}: {error}") from error
    if size < LEAST:
        raise CannotStart(f"annotation {SIZE}: {text} is less than {LEAST >> 20}Mi")
    return size


def make(path: Path, size: int) -> None:
    """An empty file system, whole or not there. Raises MissingPiece, VMMError, OSError."""
    program = shutil.which("mkfs.ext4", path="/usr/local/sbin:/usr/sbin:/sbin")
    if program is None:
        raise MissingPiece(
            f"mkfs.ext4 is not installed, and {path} is to be made; to have it: {INSTALL}"
        )
    beside = path.with_name(f".{path.name}.part")
    try:
        with beside.open("wb") as file:
            os.truncate(file.fileno(), size)
        beside.chmod(0o600)
        done = subprocess.run(
            [program, "-q", "-F", "-m", "0", str(beside)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise VMMError(f"mkfs.ext4: {done.stderr.strip()}")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
