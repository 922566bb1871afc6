"""The runtime's side of the zygote: find it, start it, ask it for workers, hear of their ends.

The listening socket is made here and inherited by the zygote, so that connecting never waits for it to come up: what is
sent before it is ready waits in the socket. The socket's name says which code and which wasmtime it runs: after an upgrade
a new zygote is started, and the old one goes when its last worker has.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sampan.runtime.sandbox import CannotStart, SandboxError
from sampan.runtime.wasm import capi, launch
from sampan.runtime.wasm.python import python

logger = logging.getLogger("sampan.runtime.wasm")
START_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Started:
    pid: int
    started_at: int  # ns since the epoch
    pidfd: int
    status: socket.socket  # an exec's exit code arrives here; closing it ends an exec


class Link:
    """One connection to the zygote, made when it is first needed and again when it is lost."""

    def __init__(self, run_directory: Path, log: Path) -> None:
        self._directory = run_directory
        self._log = log
        self._path = run_directory / f"zygote-{_edition()}.sock"
        self._connection: socket.socket | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._ends: dict[int, asyncio.Event] = {}
        self._lock = asyncio.Lock()

    async def start(
        self,
        what: dict[str, object],
        stdio: Sequence[int] = (),
        meanwhile: Callable[[], None] = lambda: None,
    ) -> Started:
        """A worker, past everything that can fail before its guest runs; `meanwhile` is done while it gets there.

        Raises CannotStart.
        """
        started = await self._try(what, stdio, meanwhile)
        if started is None and not self._alive():  # the zygote was killed with it in its socket
            started = await self._try(what, stdio, meanwhile)
        if started is None:
            raise CannotStart("the worker died before it was ready; see zygote.log")
        return started

    async def _try(
        self, what: dict[str, object], stdio: Sequence[int], meanwhile: Callable[[], None]
    ) -> Started | None:
        """None: nobody holds the other end of the status socket any more, so there is no worker."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        sealed = launch.seal(what)
        try:
            try:
                await self._send([sealed, theirs.fileno(), *stdio])
            finally:
                theirs.close()
                os.close(sealed)
            meanwhile()
            async with asyncio.timeout(START_TIMEOUT):
                await readable(ours.fileno())
            return _started(ours)
        except TimeoutError:
            _give_up(ours)
            raise CannotStart(f"the worker was not ready after {START_TIMEOUT:.0f} s") from None
        except BaseException:
            _give_up(ours)
            raise

    def _alive(self) -> bool:
        """Whether the zygote is still connected, by what has arrived until now."""
        if self._connection is not None:
            self._receive()
        return self._connection is not None

    def watch(self, pid: int) -> asyncio.Event:
        """Set when the zygote has recorded the end of `pid`, or when it is lost and will not."""
        event = self._ends.setdefault(pid, asyncio.Event())
        if self._connection is None:
            event.set()
        return event

    def forget(self, pid: int) -> None:
        self._ends.pop(pid, None)

    async def connect(self) -> None:
        """Be connected on return; starts a zygote when there is none. Raises SandboxError."""
        async with self._lock:
            if self._connection is not None:
                return
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                self._find(connection)
            except OSError as error:
                connection.close()
                raise SandboxError(f"cannot start the wasm zygote: {error}") from error
            connection.setblocking(False)
            self._connection = connection
            asyncio.get_running_loop().add_reader(connection.fileno(), self._receive)

    def close(self) -> None:
        """Let go of the connection; the zygote stays as long as it has workers. Idempotent."""
        self._lost()

    async def _send(self, descriptors: list[int]) -> None:
        for attempt in (1, 2):
            await self.connect()
            assert self._connection is not None
            try:
                while True:
                    try:
                        socket.send_fds(self._connection, [b"start"], descriptors)
                        return
                    except BlockingIOError:
                        await writable(self._connection.fileno())
            except OSError as error:
                self._lost()
                if attempt == 2:
                    raise SandboxError(f"the wasm zygote does not answer: {error}") from error

    def _find(self, connection: socket.socket) -> None:
        """Connect to the zygote that runs, else start one; the lock keeps two runtimes from starting two."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        directory = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        lock = os.open(
            self._directory / "zygote.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        address = f"/proc/self/fd/{directory}/{self._path.name}"  # the real path may be too long for a socket
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                connection.connect(address)
                return
            except (FileNotFoundError, ConnectionRefusedError):
                self._path.unlink(missing_ok=True)
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
                listener.bind(address)
                self._path.chmod(0o600)
                listener.listen(8)
                self._spawn(listener)
            connection.connect(address)
        finally:
            os.close(lock)
            os.close(directory)

    def _spawn(self, listener: socket.socket) -> None:
        self._log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        code = "from sampan.runtime.wasm.zygote import main; main(sys.argv[1], int(sys.argv[2]))"
        with self._log.open("ab") as log:
            self._child = subprocess.Popen(
                [*python(code), capi.library_path(), str(listener.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[listener.fileno()],
                start_new_session=True,
                cwd="/",
                # Symbols are resolved now, once, and not again in every worker; a heap for each of a worker's threads,
                # of which one runs at a time, would be memory for nothing.
                env={
                    "PATH": "/usr/bin:/bin",
                    "LANG": "C.UTF-8",
                    "LD_BIND_NOW": "1",
                    "MALLOC_ARENA_MAX": "1",
                },
            )

    def _receive(self) -> None:
        assert self._connection is not None
        try:
            data = self._connection.recv(64)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            logger.warning("the wasm zygote has gone; the next start makes a new one")
            self._lost()
        elif data.startswith(b"exit"):
            event = self._ends.pop(int(data[4:]), None)
            if event is not None:
                event.set()

    def _lost(self) -> None:
        if self._connection is not None:
            asyncio.get_running_loop().remove_reader(self._connection.fileno())
            self._connection.close()
            self._connection = None
        for event in self._ends.values():
            event.set()
        self._ends.clear()
        if self._child is not None and self._child.poll() is not None:
            self._child = None


def _edition() -> str:
    """Differs whenever the zygote's code or what it stands on differs."""
    here = Path(__file__).parent
    facts = [launch.PROTOCOL, sys.version, capi.version(), str(here)]
    facts += [(file.name, file.stat().st_mtime_ns) for file in sorted(here.glob("*.py"))]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:12]


def _started(status: socket.socket) -> Started | None:
    data, descriptors, _, _ = socket.recv_fds(status, 8192, 1)
    if data.startswith(b"ready") and descriptors:
        pid, started_at = data[5:].split()
        return Started(int(pid), int(started_at), descriptors[0], status)
    if data.startswith(b"error"):
        raise CannotStart(data[5:].decode("utf-8", "replace"))
    status.close()
    return None


def _give_up(status: socket.socket) -> None:
    """No worker may be left of a start that was not waited for: it fails to report, or is killed if it just has."""
    try:
        status.shutdown(socket.SHUT_RD)
        _, descriptors, _, _ = socket.recv_fds(status, 8192, 1)
        for pidfd in descriptors:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
    except OSError:
        pass
    status.close()


async def readable(fd: int) -> None:
    """Return when `fd` can be read (for a pidfd: when the process has ended)."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, _resolve, ready)
    try:
        await ready
    finally:
        loop.remove_reader(fd)


async def writable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_writer(fd, _resolve, ready)
    try:
        await ready
    finally:
        loop.remove_writer(fd)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
