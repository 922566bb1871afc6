"""A started wasm container, seen from the runtime: a pidfd, an exit record, a control socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sampan.cri.streams import Streams, Writer
from sampan.runtime.sandbox import ContainerSpec, Exit, Gone, SandboxError
from sampan.runtime.wasm import exits
from sampan.runtime.wasm.cgroups import Cgroup
from sampan.runtime.wasm.link import Link, readable

PACKET = 32 * 1024
REAP_TIMEOUT = 0.5  # s
_RECORD_DELAYS = (0.0, 0.01, 0.05, 0.25, 1.0)  # s; only for a worker whose zygote is not ours


class WasmProcess:
    def __init__(
        self,
        spec: ContainerSpec,
        pid: int,
        started_at: int,
        pidfd: int,
        link: Link,
        control: Path,
        cgroup: Cgroup,
    ) -> None:
        self.spec = spec
        self.pid = pid
        self.started_at = started_at
        self.cgroup = cgroup
        self.execs: set[int] = set()  # pidfds of what was executed beside it and still runs
        self._pidfd = pidfd  # -1: ended
        self._link = link
        self._control = control
        self._recorded = link.watch(pid) if pidfd >= 0 else None
        self._exit: Exit | None = None
        self._waiting: asyncio.Future[Exit] | None = None

    @property
    def running(self) -> bool:
        return self._pidfd >= 0

    async def wait(self) -> Exit:
        if self._exit is not None:
            return self._exit
        if self._waiting is None:
            self._waiting = asyncio.ensure_future(self._end())
        return await asyncio.shield(self._waiting)

    async def _end(self) -> Exit:
        """One task for all callers of `wait`; ends with the process."""
        if self._pidfd >= 0:
            await readable(self._pidfd)
        self._kill_execs()
        record = exits.read(str(self.spec.directory))
        if record is None:
            await self._notice()
        for delay in _RECORD_DELAYS:
            record = record or exits.read(str(self.spec.directory))
            if record is not None:
                break
            await asyncio.sleep(delay)
        self._close_pidfd()
        if record is None:
            message = "the container was killed while nobody watched"
            code, finished_at, reason = 137, time.time_ns(), "Error"
        else:
            code, finished_at, reason, message = record
        self._exit = Exit(code, finished_at, reason, message)
        return self._exit

    async def signal(self, number: int) -> None:
        if self._pidfd >= 0:
            try:
                signal.pidfd_send_signal(self._pidfd, number)
            except ProcessLookupError:
                return

    async def kill(self) -> None:
        await self.signal(signal.SIGKILL)
        self._kill_execs()
        for pid in self.cgroup.processes() - {self.pid}:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def _kill_execs(self) -> None:
        for pidfd in self.execs:
            try:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            except ProcessLookupError:
                continue

    async def remove(self) -> None:
        await self.kill()
        await self.wait()
        await self._reaped()
        self._control.unlink(missing_ok=True)
        shutil.rmtree(f"{self._control}.d", ignore_errors=True)  # scratch of a service without root
        await remove_cgroup(self.cgroup)

    async def _reaped(self) -> None:
        """The zygote's notice comes after it has reaped; a worker of another parent is not waited for long."""
        if os.path.exists(f"/proc/{self.pid}"):
            await self._notice()
        self._link.forget(self.pid)

    async def _notice(self) -> None:
        """Wait for the zygote's word that the worker was reaped and its end recorded.

        Not for long: the child of a zygote that was killed too (the power failed) is nobody's to record, and stays a zombie
        until init looks.
        """
        if self._recorded is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REAP_TIMEOUT):
                    await self._recorded.wait()

    def release(self) -> None:
        """Forget the process without ending it: the runtime is going, the container stays."""
        if self._waiting is not None:
            self._waiting.cancel()
        self._close_pidfd()

    async def attach(self, streams: Streams) -> None:
        flags = b"A" + b"i" * (streams.stdin is not None)
        flags += b"o" * (streams.stdout is not None) + b"e" * (streams.stderr is not None)
        with self._connect() as connection:
            await asyncio.get_running_loop().sock_sendall(connection, flags)
            async with asyncio.TaskGroup() as group:
                reader = streams.stdin
                feeding = (
                    group.create_task(_feed(reader, connection)) if reader is not None else None
                )
                await _deliver(connection, {b"o": streams.stdout, b"e": streams.stderr})
                if feeding is not None:
                    feeding.cancel()

    async def reopen_log(self) -> None:
        path = self.spec.log_path
        if path is None or self._exit is not None:
            return
        with self._connect() as connection:
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
            try:
                socket.send_fds(connection, [b"L"], [fd])
            finally:
                os.close(fd)
            if await asyncio.get_running_loop().sock_recv(connection, 8) != b"L":
                raise SandboxError(f"the container did not open {path} again")

    async def allow(self, number: int) -> None:
        """Be so many processes at most, if it is a service. Nothing when it has ended."""
        with contextlib.suppress(Gone), self._connect() as connection:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(connection, b"P%d" % number)
            await loop.sock_recv(connection, 8)  # P, or the end of a container that ends just now

    @contextmanager
    def _connect(self) -> Iterator[socket.socket]:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        directory = os.open(self._control.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            connection.connect(f"/proc/self/fd/{directory}/{self._control.name}")
            connection.setblocking(False)
            yield connection
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise Gone(f"container {self.spec.name} has ended") from error
        finally:
            os.close(directory)
            connection.close()

    def _close_pidfd(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


async def remove_cgroup(cgroup: Cgroup) -> None:
    """A cgroup stays busy for a moment after its last process was reaped."""
    for delay in (0.0, 0.005, 0.02, 0.1, 0.5):
        await asyncio.sleep(delay)
        try:
            cgroup.remove()
        except OSError:
            continue
        return
    cgroup.remove()


async def _feed(reader: asyncio.StreamReader, connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    try:
        while data := await reader.read(PACKET):
            await loop.sock_sendall(connection, data)
        connection.shutdown(socket.SHUT_WR)
    except (BrokenPipeError, ConnectionResetError):
        return  # the container has ended, which the other direction says


async def _deliver(connection: socket.socket, writers: dict[bytes, Writer | None]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        try:
            packet = await loop.sock_recv(connection, PACKET + 1)
        except ConnectionResetError:
            return
        if not packet:
            return
        writer = writers[packet[:1]]
        if writer is not None:
            writer.write(packet[1:])
            await writer.drain()
