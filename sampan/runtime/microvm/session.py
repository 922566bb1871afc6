"""Streams that live as long as their client: standard input with its window, executed processes, connections."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sampan.cri.streams import Streams, Writer
from sampan.runtime.microvm.errors import ChannelLost, MicroVMError
from sampan.runtime.microvm.protocol import FRAME_MAX, STDERR, STDIN, STDOUT, WINDOW, Key, Type
from sampan.runtime.sandbox import Gone

if TYPE_CHECKING:
    from sampan.runtime.microvm.channel import Channel

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]
DRAIN = 1.0  # seconds that children of an ended process have for their last words, when they keep its pipe


class Session:
    """The host's side of one channel's input: never more under way than the agent can hold."""

    def __init__(self, number: int, channel: Channel | None = None) -> None:
        self.number = number
        self.channel = channel
        self._sent = 0
        self._seen = 0
        self._moved = asyncio.Event()
        self._stopped = False

    def begin_at(self, position: int) -> None:
        """The agent has taken in this much already."""
        self._sent = self._seen = position

    def acknowledged(self, position: int) -> None:
        self._seen = max(self._seen, min(position, self._sent))
        self._moved.set()

    def stop(self) -> None:
        """Nobody reads it any more."""
        self._stopped = True
        self._moved.set()

    async def send(self, data: bytes) -> bool:
        """False when it can go nowhere."""
        view = memoryview(data)
        while view:
            while self._sent - self._seen >= WINDOW and not self._stopped:
                self._moved.clear()
                await self._moved.wait()
            if self._stopped or self.channel is None:
                return False
            part = view[: min(FRAME_MAX, WINDOW - (self._sent - self._seen))]
            self._sent += len(part)
            with suppress(ChannelLost):
                self.channel.send_raw(Type.DATA, self.number, STDIN, bytes(part))
            view = view[len(part) :]
        return True

    async def feed(self, stdin: asyncio.StreamReader) -> None:
        while data := await stdin.read(FRAME_MAX):
            if not await self.send(data):
                return

    def finish(self) -> None:
        """No more will come."""
        if self.channel is not None:
            with suppress(ChannelLost):
                self.channel.send_raw(Type.END, self.number, STDIN)

    async def resize(self, sizes: asyncio.Queue[tuple[int, int]]) -> None:
        while True:
            columns, rows = await sizes.get()
            if self.channel is not None:
                with suppress(ChannelLost):
                    self.channel.send(
                        Type.RESIZE, self.number, [(Key.ROWS, rows), (Key.COLUMNS, columns)]
                    )


class Execution(Session):
    """A process beside a container's first, with its client at the other end. A listener of its channel."""

    def __init__(self, number: int, channel: Channel) -> None:
        super().__init__(number, channel)
        self._queues: dict[int, asyncio.Queue[bytes | None]] = {
            STDOUT: asyncio.Queue(),
            STDERR: asyncio.Queue(),
        }
        self._said = {STDOUT: asyncio.Event(), STDERR: asyncio.Event()}  # all that it wrote itself
        self._positions = {STDOUT: 0, STDERR: 0}
        self._code: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._lost = False

    def data(self, which: int, data: bytes) -> None:
        self._queues[which].put_nowait(data)

    def end(self, which: int) -> None:
        self._queues[which].put_nowait(b"")

    def exited(self, code: int, oom: bool, finished_at: int) -> None:
        if not self._code.done():
            self._code.set_result(code)
        for queue in self._queues.values():
            queue.put_nowait(None)  # what follows is of its children

    def lost(self) -> None:
        self.stop()
        self._lost = not self._code.done()
        if self._lost:
            self._code.set_result(137)
        for queue in self._queues.values():
            queue.put_nowait(b"")

    async def run(self, streams: Streams, *, tty: bool) -> int:
        """Its exit code, once its output has been passed on, as slowly as the client takes it. Raises Gone when the
        guest has ended.
        """
        async with asyncio.TaskGroup() as group:
            helpers = []
            if streams.stdin is not None:
                helpers.append(group.create_task(self.feed_and_end(streams.stdin)))
            if streams.resize is not None and tty:
                helpers.append(group.create_task(self.resize(streams.resize)))
            outputs = {
                which: group.create_task(self.copy(which, writer))
                for which, writer in ((STDOUT, streams.stdout), (STDERR, streams.stderr))
                if which == STDOUT or not tty
            }
            try:
                code = await self._code
                for which in outputs:
                    await self._said[which].wait()
                _, late = await asyncio.wait(outputs.values(), timeout=DRAIN)
                for task in late:
                    task.cancel()
            finally:
                for task in helpers:
                    task.cancel()
        if self._lost:
            raise Gone("the microVM has ended")
        return code

    async def feed_and_end(self, stdin: asyncio.StreamReader) -> None:
        await self.feed(stdin)
        self.finish()

    async def copy(self, which: int, writer: Writer | None) -> None:
        """To the writer until the end; the agent sends only as fast as this acknowledges."""
        queue, said = self._queues[which], self._said[which]
        while (data := await queue.get()) != b"":
            if data is None:
                said.set()
                continue
            if writer is not None:
                writer.write(data)
                await writer.drain()
            self._positions[which] += len(data)
            if self.channel is not None:
                with suppress(ChannelLost):
                    self.channel.acknowledge(self.number, which, self._positions[which])
        said.set()


async def bridge(
    connection: Execution, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Copy both ways until the guest's end and the client's have said their last."""
    incoming = asyncio.ensure_future(connection.feed_and_end(reader))
    try:
        await connection.copy(STDOUT, writer)
    except ConnectionError:
        return
    finally:
        incoming.cancel()
        await asyncio.gather(incoming, return_exceptions=True)
        writer.close()


async def connect(link: Channel, port: int) -> tuple[Ends, Coroutine[Any, Any, None]]:
    """A connection to `port` on the guest's loopback, and what carries its data as long as it runs. Raises Gone."""
    number = link.number()
    connection = Execution(number, link)
    link.listeners[number] = connection
    try:
        await link.call(Type.CONNECT, [(Key.PORT, port)], channel=number)
    except MicroVMError as error:
        link.listeners.pop(number, None)
        raise Gone(f"failed to connect to localhost:{port} inside the pod: {error}") from error
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
    inner = await asyncio.open_connection(sock=ours)
    return await asyncio.open_connection(sock=theirs), carry(link, connection, *inner)


async def carry(
    link: Channel,
    connection: Execution,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    try:
        await bridge(connection, reader, writer)
    finally:
        link.listeners.pop(connection.number, None)
        with suppress(ChannelLost):
            link.send_raw(Type.CLOSE, connection.number)


async def any_of(*events: Coroutine[Any, Any, Any]) -> None:
    """Return when the first of them has come."""
    waits = [asyncio.ensure_future(each) for each in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waits:
            each.cancel()


async def in_order(*calls: Coroutine[Any, Any, Any]) -> None:
    """Begun at once, for a peer that does what it is sent one after the other. What the first that failed raises is
    raised when all have ended."""
    for result in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
