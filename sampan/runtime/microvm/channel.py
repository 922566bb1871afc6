"""The connection to one guest's agent: requests and their answers, streams and their acknowledgements.

A `Channel` is one connection; when it ends, every request that waits fails with ChannelLost. What must survive it (a
container's output) is kept by the agent until acknowledged, so a new connection goes on where the last one stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol, cast

from sampan.runtime.microvm import protocol
from sampan.runtime.microvm.errors import ChannelLost, MicroVMError
from sampan.runtime.microvm.protocol import Field, Frame, FrameReader, Key, Malformed, Type

LOG = logging.getLogger(__name__)
ANSWER_LIMIT = 30.0  # seconds; an agent answers within milliseconds unless its guest is lost


class GuestError(MicroVMError):
    """The agent could not do it: `number` is the errno, `where` the step."""

    def __init__(self, number: int, where: str) -> None:
        super().__init__(f"{where}: {os.strerror(number)}")
        self.number = number
        self.where = where


class Listener(Protocol):
    """What hears of one task: all are called by the connection, and must not block."""

    def data(self, which: int, data: bytes) -> None: ...
    def end(self, which: int) -> None: ...
    def acknowledged(self, position: int) -> None: ...
    def exited(self, code: int, oom: bool, finished_at: int) -> None: ...
    def lost(self) -> None: ...


class Channel(asyncio.Protocol):
    def __init__(self, name: str = "", on_lost: Callable[[], None] | None = None) -> None:
        self.name = name
        self.listeners: dict[int, Listener] = {}
        self.ready = asyncio.Event()  # the agent has said that it is there
        self.closed = asyncio.Event()
        self._on_lost = on_lost
        self._reader = FrameReader()
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._transport: asyncio.Transport | None = None
        self._numbers = 1
        self._hello = 0  # number of that request
        self._greeted = False

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own are not of that class

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._reader.feed(data):
                self._receive(frame)
        except Malformed as error:
            LOG.warning("microVM %s: its agent does not speak the protocol: %s", self.name, error)
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self.closed.set()
        self.ready.set()
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(ChannelLost("the connection to the guest was lost"))
        listeners, self.listeners = self.listeners, {}
        for listener in listeners.values():
            listener.lost()
        if self._on_lost is not None:
            self._on_lost()

    def _receive(self, frame: Frame) -> None:
        if frame.type == Type.READY:
            self.ready.set()
            return
        if frame.type == Type.REPLY:
            future = self._waiting.pop(frame.channel, None)
            if future is not None and not future.done():
                future.set_result(frame.payload)
            self._greeted |= frame.channel == self._hello
            return
        if (
            not self._greeted
        ):  # where a stream stands is known when the agent has heard how far we are
            return
        listener = self.listeners.get(frame.channel)
        if listener is None:
            return
        if frame.type == Type.DATA and frame.flags in (protocol.STDOUT, protocol.STDERR):
            listener.data(frame.flags, frame.payload)
        elif frame.type == Type.END:
            listener.end(frame.flags)
        elif frame.type == Type.ACK:
            listener.acknowledged(protocol.number(frame.payload))
        elif frame.type == Type.EXIT:
            found = protocol.decode(frame.payload)
            finished = protocol.number(found.get(Key.FINISHED))
            oom = protocol.number(found.get(Key.OOM)) > 0
            listener.exited(protocol.number(found.get(Key.CODE)) & 0xFF, oom, finished)

    # requests

    def number(self) -> int:
        """A channel number that was never used on this guest."""
        self._numbers += 1
        return self._numbers

    def used(self, number: int) -> None:
        self._numbers = max(self._numbers, number)

    def send(self, kind: int, channel: int, fields: Iterable[Field] = ()) -> None:
        self._write(protocol.frames(kind, channel, protocol.encode(fields)))

    def send_raw(self, kind: int, channel: int, flags: int = 0, payload: bytes = b"") -> None:
        self._write((Frame(kind, channel, flags, payload),))

    def acknowledge(self, channel: int, which: int, position: int) -> None:
        self.send_raw(Type.ACK, channel, which, position.to_bytes(8, "little"))

    def _write(self, frames: Iterable[Frame]) -> None:
        if self._transport is None:
            raise ChannelLost("the guest is not connected")
        self._transport.write(b"".join(frame.encode() for frame in frames))

    async def call(
        self,
        kind: int,
        fields: Iterable[Field] = (),
        *,
        channel: int = 0,
        limit: float = ANSWER_LIMIT,
    ) -> bytes:
        """The answer's fields, encoded. Raises GuestError, or ChannelLost when none comes within `limit` seconds."""
        number = channel or self.number()
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            self.send(kind, number, fields)
            async with asyncio.timeout(limit):
                answer = await future
        except TimeoutError:
            raise ChannelLost(f"the guest did not answer within {limit:g} s") from None
        except Malformed as error:
            raise MicroVMError(str(error)) from error
        finally:
            self._waiting.pop(number, None)
        try:
            found = protocol.decode(answer)
        except Malformed as error:
            self.close()
            raise ChannelLost(f"the guest's answer is malformed: {error}") from error
        if code := protocol.number(found.get(Key.ERROR)):
            raise GuestError(code, found.get(Key.WHERE, b"").decode("utf-8", "replace"))
        return answer

    async def hello(self, seen: Iterable[Field] = ()) -> bytes:
        """The first request of a connection. `seen`: how far each container's output has been heard, as in HELLO."""
        self._hello = self.number()
        fields = [(Key.VERSION, protocol.VERSION), *seen]
        return await self.call(Type.HELLO, fields, channel=self._hello)

    @property
    def connected(self) -> bool:
        return self._transport is not None

    def close(self) -> None:
        if self._transport is not None:
            with contextlib.suppress(OSError):
                self._transport.abort()


async def connect(
    connection: socket.socket, name: str = "", on_lost: Callable[[], None] | None = None
) -> Channel:
    """Over what a machine's `dial` has returned, which is the channel's from now on."""
    try:
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        _, channel = await loop.create_unix_connection(
            lambda: Channel(name, on_lost), sock=connection
        )
    except BaseException:
        connection.close()
        raise
    return channel


async def reconnect(
    dial: Callable[[], Awaitable[socket.socket]], name: str, *, pause: float = 0.0
) -> Channel:
    """To an agent that had another host before: begin only when it has noted the change, or half a frame could meet half
    of another. `pause`: seconds for a guest that hears of its host's going only now. Raises ChannelLost.
    """
    patience = 0.5
    for _ in range(5):
        # A host that goes and comes before the guest has looked was never gone: each time it has longer to look.
        await asyncio.sleep(pause)
        link = await connect(await dial(), name)
        try:
            async with asyncio.timeout(patience):
                await link.ready.wait()
            if link.connected:
                return link
        except TimeoutError:
            pass
        link.close()
        await link.closed.wait()
        pause, patience = max(0.05, 2 * pause), 2 * patience
    raise ChannelLost("the guest's agent does not answer")
