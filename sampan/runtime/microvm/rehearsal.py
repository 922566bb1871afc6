"""A container that does nothing, run once before there is a pod: so that the first real one meets no first time.

In a template it fills the guest's own caches, which all clones then share. In a warm machine it makes an emulator
translate the code that a start runs through, which is most of what a start under emulation costs.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import platform
import secrets
import socket
import tempfile
import time
from pathlib import Path

from sampan.runtime.container.capabilities import DEFAULT, NAMES
from sampan.runtime.container.oci import MASKED, READONLY
from sampan.runtime.microvm import erofs, presence, requests, seccomp
from sampan.runtime.microvm.channel import Channel
from sampan.runtime.microvm.images import PLACES, whole
from sampan.runtime.microvm.protocol import Change, Field, Key, Type
from sampan.runtime.microvm.vmm import SLOTS, Machine

SLOT = SLOTS - 1  # the last drive is kept for this
LIMIT = 30.0
PROGRAM, LINK = "rehearse", "rehearsal"  # found by its name, and behind a link, as shells are
ENVIRONMENT = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root")
LIMITS = ("cpu.weight=100", "memory.max=max", "pids.max=max")
WEIGHT = 1 << 20  # bytes behind the program, which it maps; native/rehearse/rehearse.c


class Rehearsal:
    """`directory` holds its drive, which is made when first needed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def __call__(self, machine: Machine, channel: Channel) -> None:
        """Run it to its end on a machine without a pod. Raises MicroVMError, OSError."""
        program = presence.agent_file("rehearsal").read_bytes()
        path = self._directory / f"rehearsal-{hashlib.sha256(program).hexdigest()[:12]}.erofs"
        if not whole(path):
            await asyncio.to_thread(make, path, program)
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            await machine.attach_drive(SLOT, file)
        finally:
            os.close(file)
        # Everything in it is said again when there is a pod, entropy before all else.
        name: list[Field] = [
            (Key.ENTROPY, os.urandom(64)),
            (Key.TIME, time.time_ns()),
            (Key.HOSTNAME, "rehearsal"),
            (Key.MAC, bytes((2, 0, 0, 0, 0, 3))),
            # One of RFC 5737's, which are nobody's, and another each time: to change it is rehearsed, too.
            (Key.ADDRESS, bytes((192, 0, 2, secrets.randbelow(200) + 2))),
            (Key.NETMASK, b"\xff\xff\xff\0"),
            (Key.MTU, 1500),
            (Key.GATEWAY, socket.inet_aton("192.0.2.1")),
            (Key.SYSCTL, "net/ipv4/conf/all/route_localnet=0"),
        ]
        await channel.call(Type.SETUP, name)
        await channel.call(Type.IMAGE, [(Key.SLOT, SLOT)])
        for source in requests.POD_FILES.values():
            await channel.call(
                Type.PUT, [(Key.OP, Change.WHOLE), (Key.PATH, source), (Key.CONTENT, b"\n")]
            )
        await channel.call(Type.STAGE, stage())
        number = channel.number()
        end = Ending()
        channel.listeners[number] = end
        await channel.call(Type.START, message(), channel=number)
        async with asyncio.timeout(LIMIT):
            await end.came.wait()
        await channel.call(Type.REMOVE, [(Key.TARGET, number), (Key.SLOT, SLOT)])
        await channel.call(Type.STATS)
        await channel.call(Type.STAGE, stage())


class Ending:
    """A listener that waits for the end and for nothing else."""

    def __init__(self) -> None:
        self.came = asyncio.Event()

    def data(self, which: int, data: bytes) -> None:
        return

    def end(self, which: int) -> None:
        return

    def acknowledged(self, position: int) -> None:
        return

    def exited(self, code: int, oom: bool, finished_at: int) -> None:
        self.came.set()

    def lost(self) -> None:
        self.came.set()


def stage() -> list[Field]:
    """What the pod's first container will find made, if it is as most are."""
    return requests.hidden(MASKED, READONLY)


def message() -> list[Field]:
    granted = tuple(f"CAP_{name}" for name in NAMES if name in DEFAULT)
    return [
        (Key.ID, "rehearsal"),
        (Key.SLOT, SLOT),
        (Key.ARG, LINK),
        *((Key.ENV, each) for each in ENVIRONMENT),
        *((Key.CGROUP, each) for each in LIMITS),
        (Key.CWD, "/"),
        (Key.UMASK, 0o022),
        (Key.GROUP, 0),
        requests.OPEN_FILES_LIMIT,
        (Key.CAPS_BOUNDING, requests.mask(granted)),
        (Key.CAPS_PERMITTED, requests.mask(granted)),
        (Key.SECCOMP, seccomp.default(granted, platform.machine())),
        *stage(),
        *(
            (Key.MOUNT, requests.mount(source, place, False))
            for place, source in requests.POD_FILES.items()
        ),
    ]


def make(path: Path, content: bytes) -> None:
    """A drive with one program."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(prefix=".rehearsal-", dir=path.parent) as root:
        program = Path(root, "bin", PROGRAM)
        program.parent.mkdir()
        program.write_bytes(content + bytes(WEIGHT))
        program.chmod(0o755)
        program.with_name(LINK).symlink_to(f"/bin/{PROGRAM}")
        erofs.build([Path(root)], path, PLACES)
