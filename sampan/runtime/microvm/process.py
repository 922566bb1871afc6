"""One container in a guest, as the runtime sees it: its log, its end, and those who are attached to it."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from sampan.cri.streams import Streams
from sampan.runtime import files, kernel
from sampan.runtime.microvm import inits, protocol
from sampan.runtime.microvm.errors import ChannelLost, MicroVMError
from sampan.runtime.microvm.log import Log
from sampan.runtime.microvm.protocol import STDERR, STDOUT, Key, Type
from sampan.runtime.microvm.session import Session
from sampan.runtime.sandbox import ContainerSpec, Exit, Gone

if TYPE_CHECKING:
    from sampan.runtime.microvm.channel import Channel

LOG = logging.getLogger(__name__)
EXIT = "exit.json"
POSITIONS = "streams"
BEHIND = 256  # pieces that an attached client may be behind before it is let go
YOUTH = 2_000_000_000  # ns in which a program is expected to have set its signal handlers; an emulated one is slow
LAST_WORDS = 2.0  # seconds for the output of an ended container whose pipe somebody still holds


class MicroProcess:
    """A listener of its channel; `finish` is awaited between the container's end and its being known."""

    def __init__(
        self,
        spec: ContainerSpec,
        channel_number: int,
        pid: int,
        started_at: int,
        finish: Callable[[MicroProcess], Awaitable[None]],
        init: str = "",
    ) -> None:
        self.spec = spec
        self.number = channel_number
        self.pid = pid
        self.started_at = started_at
        self._init = init
        self.stdin = Session(channel_number)  # what is sent to the container's standard input
        self.guest_pid = 0  # process 1 of a namespace of its own, when it is known
        self._finish = finish
        self._channel: Channel | None = None
        self._log = Log(spec.log_path, spec.directory / POSITIONS)
        self._exit: Exit | None = read_exit(spec.directory)
        self._ended = asyncio.Event()
        self._open = {STDOUT} if spec.tty else {STDOUT, STDERR}
        self._quiet = asyncio.Event()
        self._attached: set[asyncio.Queue[tuple[int, bytes]]] = set()
        self._task: asyncio.Task[None] | None = None
        if self._exit is not None:
            self._ended.set()

    @property
    def running(self) -> bool:
        return self._exit is None and self._task is None

    @property
    def seen(self) -> tuple[int, int]:
        out, error = self._log.seen
        return out, error

    def connect(self, channel: Channel) -> None:
        """Hear of it through this connection from now on."""
        self._channel = channel
        self.stdin.channel = channel
        channel.listeners[self.number] = self

    # Listener

    def data(self, which: int, data: bytes) -> None:
        position = self._log.write(which - STDOUT, data)
        for queue in list(self._attached):
            try:
                queue.put_nowait((which, data))
            except asyncio.QueueFull:
                self._attached.discard(queue)
        if self._channel is not None:
            with suppress(ChannelLost):
                self._channel.acknowledge(self.number, which, position)

    def end(self, which: int) -> None:
        self._open.discard(which)
        if not self._open:
            self._quiet.set()

    def acknowledged(self, position: int) -> None:
        self.stdin.acknowledged(position)

    def exited(self, code: int, oom: bool, finished_at: int) -> None:
        reason = "OOMKilled" if oom and code else "Completed" if code == 0 else "Error"
        self.ends(Exit(code, finished_at or time.time_ns(), reason))

    def lost(self) -> None:
        self._channel = None
        self.stdin.channel = None

    # its end

    def ends(self, exit_: Exit, *, silent: bool = False) -> None:
        """It has ended so. `silent`: no more output can come. The first word counts."""
        if self._task is not None or self._exit is not None:
            return
        if silent:
            self._quiet.set()
        self._task = asyncio.create_task(self._end(exit_), name=f"end of {self.spec.id[:12]}")

    async def _end(self, exit_: Exit) -> None:
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS):
                    await self._quiet.wait()
            await self._finish(self)
        except Exception:
            LOG.exception("end of container %s", self.spec.id)
        finally:
            self._log.flush()
            write_exit(self.spec.directory, exit_)
            self._exit = exit_
            self._ended.set()
            self.stdin.stop()

    # Process

    async def wait(self) -> Exit:
        await self._ended.wait()
        assert self._exit is not None
        return self._exit

    async def signal(self, number: int) -> None:
        """To process 1, for which the kernel drops what it does not catch: one so young that it may not have come to
        set its handler is told again when it has.
        """
        number = inits.stop_signal(self._init, number)
        waits = self._young and number != signal.SIGKILL
        caught = not waits or await self._catches(number)
        self._send((Key.NUMBER, number))
        while not caught and self._young and self.running:
            await asyncio.sleep(0.01)
            if caught := await self._catches(number):
                self._send((Key.NUMBER, number))

    async def terminate(self) -> None:
        """By its stop signal; it has ended on return, however long that takes."""
        await self.signal(getattr(signal, self.spec.stop_signal, signal.SIGTERM))
        await self.wait()

    @property
    def _young(self) -> bool:
        return self.guest_pid > 0 and time.time_ns() - self.started_at < YOUTH

    async def _catches(self, number: int) -> bool:
        if self._channel is None:
            return True
        try:
            answer = await self._channel.call(
                Type.GET, [(Key.PATH, f"/proc/{self.guest_pid}/status")]
            )
        except MicroVMError:
            return True  # it has ended, or will never say
        content = protocol.decode(answer).get(Key.CONTENT, b"")
        return kernel.handles(content.decode("ascii", "replace"), number)

    async def kill(self) -> None:
        self._send((Key.ALL, 1))

    def _send(self, what: tuple[int, int]) -> None:
        if self._channel is not None and self._exit is None:
            with suppress(ChannelLost):
                self._channel.send(Type.SIGNAL, self.number, [what])

    async def remove(self) -> None:
        await self.kill()
        await self.wait()
        if self._channel is not None:
            self._channel.listeners.pop(self.number, None)
            with suppress(ChannelLost):
                await self._channel.call(Type.REMOVE, [(Key.TARGET, self.number)])
            self._channel = None
        self._log.close()

    async def attach(self, streams: Streams) -> None:
        if not self.running or self._channel is None:
            raise Gone(f"container {self.spec.id} is not running")
        queue: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue(BEHIND)
        self._attached.add(queue)
        try:
            async with asyncio.TaskGroup() as group:
                helpers = []
                if streams.stdin is not None and self.spec.stdin:
                    helpers.append(group.create_task(self._feed(streams.stdin)))
                if streams.resize is not None and self.spec.tty:
                    helpers.append(group.create_task(self.stdin.resize(streams.resize)))
                await self._show(queue, streams)
                for helper in helpers:
                    helper.cancel()
        finally:
            self._attached.discard(queue)

    async def _feed(self, stdin: asyncio.StreamReader) -> None:
        await self.stdin.feed(stdin)
        if self.spec.stdin_once:
            self.stdin.finish()

    async def _show(self, queue: asyncio.Queue[tuple[int, bytes]], streams: Streams) -> None:
        """Until the container has ended and all of it is shown, or the client was too slow."""
        ended = asyncio.ensure_future(self._ended.wait())
        try:
            while queue in self._attached or not queue.empty():
                if queue.empty():
                    following = asyncio.ensure_future(queue.get())
                    await asyncio.wait((ended, following), return_when=asyncio.FIRST_COMPLETED)
                    if not following.done():
                        following.cancel()
                        return
                    which, data = following.result()
                else:
                    which, data = queue.get_nowait()
                writer = streams.stdout if which == STDOUT else streams.stderr
                if writer is not None:
                    writer.write(data)
                    await writer.drain()
        finally:
            ended.cancel()

    async def reopen_log(self) -> None:
        self._log.reopen()

    async def close(self) -> None:
        """Let go of a container that goes on, or whose end is being noted."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._log.close()


def read_exit(directory: Path) -> Exit | None:
    try:
        return Exit(**json.loads((directory / EXIT).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def write_exit(directory: Path, exit_: Exit) -> None:
    with suppress(OSError):
        files.replace(directory / EXIT, json.dumps(asdict(exit_)))
