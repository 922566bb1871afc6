"""Directories of the host that a guest has as its own: written by one, seen by the other, at once.

The guest's kernel speaks FUSE, as it would over virtio-fs, but through a serial port of virtio: so nothing of the guest's memory
is shared with anybody, and machines start from templates, are kept warm and are adopted as those without volumes are.
At the other end is a program of 20 KB (`native/share`), one for each machine that needs it, in a jail of its own.

    <machine>/shares      where it is told of directories: a descriptor each
    <machine>/share.json  which process it is

A share is known in the guest by its number, in the order of their adding: /run/share/<number>.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import socket
import struct
import subprocess
from pathlib import Path

from sampan.runtime import files, kernel
from sampan.runtime.microvm import jail, sockets
from sampan.runtime.microvm.errors import MissingPiece, VMMError
from sampan.runtime.microvm.presence import AGENTS, BUILD_AGENT
from sampan.runtime.microvm.vmm import Machine
from sampan.runtime.processes import Watched, ended

GUEST = "/run/share"
SOCKET, RECORD = "shares", "share.json"
ANSWER_LIMIT = 10.0


class Shares:
    def __init__(self, machine: Machine, uid: int) -> None:
        self._machine = machine
        self._uid = uid
        self._child: subprocess.Popen[bytes] | None = None
        self._watched: Watched | None = None

    @property
    def running(self) -> bool:
        return self._watched is not None

    @property
    def pid(self) -> int:
        return self._watched.pid if self._watched is not None else 0

    async def start(self) -> None:
        """The server runs and is at the guest's port. Raises VMMError, MissingPiece, OSError."""
        directory = self._machine.directory
        program = program_file()
        owned = [os.open(program, os.O_RDONLY | os.O_CLOEXEC)]
        listener = stream = None
        try:
            log = os.open(
                directory / "share.log",
                os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC,
                0o600,
            )
            owned.append(log)
            listener = sockets.listen(directory / SOCKET)
            stream = await self._machine.dial_files()
            place = directory / "share-root"
            place.mkdir(exist_ok=True)
            argv = [
                f"/proc/self/fd/{owned[0]}",
                *(str(number) for number in (stream.fileno(), listener.fileno(), self._uid)),
            ]
            passed = [owned[0], stream.fileno(), listener.fileno()]
            self._child = await jail.start(argv, passed, log, place, self._uid, bare=True)
            self._watched = Watched(self._child.pid)
        finally:
            for each in (listener, stream):
                if each is not None:
                    each.close()
            for descriptor in owned:
                os.close(descriptor)
        record = {"pid": self._child.pid, "ticks": kernel.start_ticks(self._child.pid)}
        files.replace(directory / RECORD, json.dumps(record))

    def adopt(self) -> bool:
        """Whether the server of a former runtime is still there."""
        pid = recorded(self._machine.directory)
        if pid:
            self._watched = Watched(pid)
        return bool(pid)

    async def add(self, source: Path, readonly: bool) -> int:
        """The share's number. Raises OSError, VMMError."""
        descriptor = os.open(source, os.O_PATH | os.O_CLOEXEC)
        try:
            async with asyncio.timeout(ANSWER_LIMIT):
                return await asyncio.to_thread(self._tell, descriptor, readonly)
        finally:
            os.close(descriptor)

    def _tell(self, descriptor: int, readonly: bool) -> int:
        with sockets.connect(self._machine.directory / SOCKET) as connection:
            connection.settimeout(ANSWER_LIMIT)
            socket.send_fds(connection, [bytes([readonly])], [descriptor])
            answer = connection.recv(4)
        number = struct.unpack("<i", answer)[0] if len(answer) == 4 else -1
        if number < 0:
            raise VMMError(f"the file server: {os.strerror(-number) if answer else 'it has ended'}")
        return int(number)

    async def wait(self) -> None:
        """Return when the server has ended."""
        if self._watched is not None:
            await self._watched.wait()

    async def stop(self) -> None:
        """It has ended on return. Idempotent."""
        if self._watched is None:
            return
        self._watched.signal(9)
        if self._child is not None:
            await ended(self._child, spare=True)
        await self._watched.wait()
        self.close()

    def close(self) -> None:
        """Let go of one that goes on."""
        if self._watched is not None:
            self._watched.close()
            self._watched = None


def program_file() -> Path:
    path = AGENTS / f"share-{platform.machine()}.bin"
    if not path.exists():
        raise MissingPiece(f"the file server was not built ({path.name})", BUILD_AGENT)
    return path


def recorded(directory: Path) -> int:
    """The server's pid, when it still runs; else 0."""
    try:
        record = json.loads((directory / RECORD).read_bytes())
        pid, ticks = int(record["pid"]), int(record["ticks"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return pid if ticks and kernel.start_ticks(pid) == ticks else 0
