"""Another process in a running container: `crun exec` or `runc exec`, as a child of the runtime.

An exec session ends with the runtime, as its client's connection does. The engine's own process joins the container's
cgroup first, so that what it starts is counted there. With a terminal, the engine gets our pty and makes one inside the
container: that is how both engines do it in the foreground, where they report the exit code.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import tempfile
import termios
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from sampan.cri.streams import Streams, Writer
from sampan.runtime.container.engine import ENVIRONMENT, Engine
from sampan.runtime.processes import ended, spawn
from sampan.runtime.sandbox import ContainerSpec, ExecRequest

Work = list[Coroutine[Any, Any, None]]

CHUNK = 32768
PIDFD_GETFD = 438  # system call, the same on every architecture; Python 3.11 has no name for it
# After the process has ended, what a child that it left behind still writes is waited for only so long.
DRAIN = 1.0


async def execute(
    engine: Engine,
    container: ContainerSpec,
    joined: tuple[Path, ...],
    request: ExecRequest,
    streams: Streams,
) -> int:
    """The exit code. Raises TimeoutError after `request.timeout`; then, and when cancelled, the process is killed."""
    with tempfile.TemporaryDirectory(prefix="exec-", dir=engine.root) as directory:
        pid_file = Path(directory, "pid")
        async with engine.view() as view:
            process = Path(directory, "process.json")
            process.write_text(json.dumps(process_of(container, request)))
            verb = ("exec", "--pid-file", str(pid_file), "--process", str(process), container.id)
            argv = ["/bin/sh", "-c", engine.script(view, joined, verb), "exec"]
            session = Terminal(argv) if request.tty else Pipes(argv, streams)
            try:
                async with asyncio.timeout(request.timeout or None):
                    return await session.run(streams)
            finally:
                session.close()
                if session.child.returncode is None:
                    kill(pid_file)
                    await asyncio.shield(reap(session.child))


def process_of(container: ContainerSpec, request: ExecRequest) -> dict[str, Any]:
    """The container's own process (user, capabilities, environment, directory) with another command."""
    configuration = json.loads((container.directory / "config.json").read_bytes())
    process: dict[str, Any] = configuration["process"]
    process["args"] = list(request.args)
    process["terminal"] = request.tty
    if request.tty and not any(item.startswith("TERM=") for item in process["env"]):
        process["env"].append("TERM=xterm")
    return process


async def reap(child: subprocess.Popen[bytes]) -> None:
    """Let the engine see its process end, so that no zombie holds up the end of the container; then end it too."""
    try:
        async with asyncio.timeout(DRAIN):
            await ended(child, spare=True)
    except TimeoutError:
        child.kill()
        child.wait()


def kill(pid_file: Path) -> None:
    try:
        os.kill(int(pid_file.read_text()), signal.SIGKILL)
    except (OSError, ValueError):
        return


class Session:
    child: subprocess.Popen[bytes]

    async def run(self, streams: Streams) -> int:
        async with asyncio.TaskGroup() as group:
            helpers = [group.create_task(work) for work in self.inputs(streams)]
            outputs = [group.create_task(work) for work in self.outputs(streams)]
            code = await ended(self.child, spare=True)
            if outputs:
                _, late = await asyncio.wait(outputs, timeout=DRAIN)
                for task in late:
                    task.cancel()
            for task in helpers:
                task.cancel()
        return code if code >= 0 else 128 - code

    def inputs(self, streams: Streams) -> Work:
        raise NotImplementedError

    def outputs(self, streams: Streams) -> Work:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class Pipes(Session):
    def __init__(self, argv: list[str], streams: Streams) -> None:
        self._stdin = -1
        self._readers: list[tuple[int, Writer]] = []
        child_ends = []
        try:
            if streams.stdin is not None:
                stdin, self._stdin = os.pipe2(os.O_CLOEXEC)
                child_ends.append(stdin)
            else:
                stdin = subprocess.DEVNULL
            ends = []
            for writer in (streams.stdout, streams.stderr):
                if writer is None:
                    ends.append(subprocess.DEVNULL)
                    continue
                reading, writing = os.pipe2(os.O_CLOEXEC)
                self._readers.append((reading, writer))
                child_ends.append(writing)
                ends.append(writing)
            self.child = spawn(
                argv,
                env=ENVIRONMENT,
                stdin=stdin,
                stdout=ends[0],
                stderr=ends[1],
                start_new_session=True,
            )
        except BaseException:
            self.close()
            raise
        finally:
            for descriptor in child_ends:
                os.close(descriptor)

    def inputs(self, streams: Streams) -> Work:
        return [feed(self._take_stdin(), streams.stdin)] if streams.stdin is not None else []

    def _take_stdin(self) -> int:
        descriptor, self._stdin = self._stdin, -1
        return descriptor

    def outputs(self, streams: Streams) -> Work:
        readers, self._readers = self._readers, []
        return [copy(descriptor, writer) for descriptor, writer in readers]

    def close(self) -> None:
        for descriptor in (self._stdin, *(reader for reader, _ in self._readers)):
            if descriptor >= 0:
                os.close(descriptor)
        self._stdin, self._readers = -1, []


class Terminal(Session):
    def __init__(self, argv: list[str]) -> None:
        self._master, slave = pty.openpty()
        os.set_inheritable(self._master, False)
        try:
            self.child = spawn(
                argv,
                env={**ENVIRONMENT, "TERM": "xterm"},
                stdin=slave,
                stdout=slave,
                stderr=slave,
                start_new_session=True,
            )
        except BaseException:
            self.close()
            raise
        finally:
            os.close(slave)

    def inputs(self, streams: Streams) -> Work:
        work: Work = []
        if streams.stdin is not None:
            work.append(feed(os.dup(self._master), streams.stdin, hang_up=False))
        if streams.resize is not None:
            work.append(self._resize(streams.resize))
        return work

    def outputs(self, streams: Streams) -> Work:
        return [copy(os.dup(self._master), streams.stdout)] if streams.stdout is not None else []

    async def _resize(self, sizes: asyncio.Queue[tuple[int, int]]) -> None:
        while True:
            columns, rows = await sizes.get()
            size = struct.pack("HHHH", rows, columns, 0, 0)
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)
            # The engine has no controlling terminal, so the kernel does not tell it.
            self.child.send_signal(signal.SIGWINCH)
            # runc then passes the size on; crun before 1.9 leaves the container's terminal as it was.
            if (inner := terminal_within(self.child.pid)) is not None:
                with os.fdopen(inner, "rb", buffering=0) as terminal:
                    fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)

    def close(self) -> None:
        if self._master >= 0:
            os.close(self._master)
            self._master = -1


def terminal_within(pid: int) -> int | None:
    """A copy of the engine's own descriptor of the container's terminal; None while it has none."""
    try:
        names = {
            int(fd): os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")
        }
        number = next((fd for fd, name in names.items() if name.endswith("/ptmx")), None)
        if number is None:
            return None
        process = os.pidfd_open(pid)
    except OSError:
        return None
    try:
        copied = ctypes.CDLL(None).syscall(PIDFD_GETFD, process, number, 0)
        return copied if copied >= 0 else None
    finally:
        os.close(process)


async def feed(descriptor: int, stdin: asyncio.StreamReader, *, hang_up: bool = True) -> None:
    """Copy `stdin` into the descriptor, which is closed at the end. A terminal is not hung up but told ^D."""
    loop = asyncio.get_running_loop()
    os.set_blocking(descriptor, False)
    try:
        while data := await stdin.read(CHUNK):
            view = memoryview(data)
            while view:
                try:
                    view = view[os.write(descriptor, view) :]
                except BlockingIOError:
                    await writable(loop, descriptor)
        if not hang_up:
            os.write(descriptor, b"\x04")
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO, errno.EAGAIN):
            raise
    finally:
        os.close(descriptor)


async def writable(loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_writer(descriptor, settle, ready)
    try:
        await ready
    finally:
        loop.remove_writer(descriptor)


def settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def copy(descriptor: int, writer: Writer) -> None:
    """Copy the descriptor, which is closed at the end, to the writer; reads only as fast as the client takes it."""
    loop = asyncio.get_running_loop()
    os.set_blocking(descriptor, False)
    try:
        while True:
            try:
                data = os.read(descriptor, CHUNK)
            except BlockingIOError:
                await readable(loop, descriptor)
                continue
            except OSError as error:
                if error.errno == errno.EIO:  # the far end of a pty is closed
                    return
                raise
            if not data:
                return
            writer.write(data)
            await writer.drain()
    finally:
        os.close(descriptor)


async def readable(loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(descriptor, settle, ready)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)
