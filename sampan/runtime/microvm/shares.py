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
import os
import platform
import socket
import struct
from pathlib import Path

from sampan.runtime.microvm import attendant, jail, sockets
from sampan.runtime.microvm.attendant import Attendant
from sampan.runtime.microvm.errors import MissingPiece, VMMError
from sampan.runtime.microvm.presence import AGENTS, BUILD_AGENT
from sampan.runtime.microvm.vmm import Machine

GUEST = "/run/share"
SOCKET = "shares"
ANSWER_LIMIT = 10.0


class Server(Attendant):
    record_name, log_name = "share.json", "share.log"
    leaves = (SOCKET,)


class Shares:
    def __init__(self, machine: Machine, uid: int) -> None:
        self._machine = machine
        self._uid = uid
        self._server: Server | None = None

    @property
    def running(self) -> bool:
        return self._server is not None

    @property
    def pid(self) -> int:
        return self._server.pid if self._server is not None else 0

    async def start(self) -> None:
        """The server runs and is at the guest's port. Raises VMMError, MissingPiece, OSError."""
        directory = self._machine.directory
        program = program_file()
        owned = [os.open(program, os.O_RDONLY | os.O_CLOEXEC)]
        listener = stream = None
        try:
            log = attendant.open_log(directory / Server.log_name)
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
            child = await jail.start(argv, passed, log, place, self._uid, bare=True)
            self._server = Server(directory, child.pid, child)
        finally:
            for each in (listener, stream):
                if each is not None:
                    each.close()
            for descriptor in owned:
                os.close(descriptor)
        self._server.record()

    def adopt(self) -> bool:
        """Whether the server of a former runtime is still there."""
        directory = self._machine.directory
        if pid := attendant.recorded(directory / Server.record_name):
            self._server = Server(directory, pid)
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
        if self._server is not None:
            await self._server.wait()

    async def stop(self) -> None:
        """It has ended on return. Idempotent."""
        if self._server is not None:
            await self._server.stop()
            self._server = None

    def close(self) -> None:
        """Let go of one that goes on."""
        if self._server is not None:
            self._server.close()
            self._server = None


def program_file() -> Path:
    path = AGENTS / f"share-{platform.machine()}.bin"
    if not path.exists():
        raise MissingPiece(f"the file server was not built ({path.name})", BUILD_AGENT)
    return path
