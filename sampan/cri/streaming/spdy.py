"""A SPDY/3.1 connection, server side: streams that the client opens, each a reader and a writer.

Flow control: a peer that announces a window, or updates one, is held to it in both directions. Kubernetes' own clients
(moby/spdystream) know no flow control: they neither grant nor heed windows, so for them TCP's back-pressure holds alone,
and we stop reading the connection while a stream's reader is behind.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol

from sampan.cri.streaming import frames
from sampan.cri.streaming.inbox import WINDOW, Inbox

CHUNK = 16 << 10  # of our data frames
STREAM_LIMIT = 256  # open at once on one connection


class Carrier(Protocol):
    """A byte stream: a socket, or a WebSocket's binary messages."""

    async def readexactly(self, count: int) -> bytes:
        """Raises asyncio.IncompleteReadError at the end."""
        ...

    def write(self, data: bytes) -> None: ...
    async def drain(self) -> None: ...


class Stream:
    """One stream: read from `inbox`; `write`, `drain`, `write_eof` as cri.streams.Writer has them."""

    def __init__(self, connection: Connection, number: int, headers: dict[str, str]) -> None:
        self.number = number
        self.headers = headers
        self.inbox = Inbox()
        self.inbox.taken = self._taken
        self._connection = connection
        self._window = connection.initial_window
        self._granted = asyncio.Event()
        self._unsent = bytearray()
        self._consumed = 0
        self.sent_fin = False
        self.received_fin = False

    def write(self, data: bytes) -> None:
        if not self.sent_fin:
            self._unsent += data
            self._flush()

    def _flush(self) -> None:
        while self._unsent:
            size = min(CHUNK, len(self._unsent))
            if self._connection.flow_control:
                size = min(size, self._window)
                if size <= 0:
                    self._granted.clear()
                    return
                self._window -= size
            self._connection.send(frames.data_frame(self.number, bytes(self._unsent[:size])))
            del self._unsent[:size]

    async def drain(self) -> None:
        """Raises ConnectionError when the stream or the connection has ended."""
        await self._connection.drain()
        while self._unsent:
            if self.sent_fin or self._connection.ended.is_set():
                raise ConnectionResetError("the stream was reset")
            await self._granted.wait()
            await self._connection.drain()

    def grant(self, delta: int) -> None:
        self._window += delta
        if self._window > 0:
            self._flush()
            self._granted.set()

    def write_eof(self) -> None:
        if not self.sent_fin:
            self.sent_fin = True
            rest = bytes(self._unsent)
            self._unsent.clear()
            self._connection.send(frames.data_frame(self.number, rest, frames.FIN))
            self._connection.settle(self)

    def reset(self, status: int = frames.CANCEL) -> None:
        if not (self.sent_fin and self.received_fin):
            self._connection.send(frames.rst_stream(self.number, status))
        self.abort()

    def abort(self) -> None:
        """The stream is over, whatever was on its way."""
        self.sent_fin = self.received_fin = True
        self._unsent.clear()
        self._granted.set()
        self.inbox.discard()
        self._connection.settle(self)

    def _taken(self, count: int) -> None:
        self._consumed += count
        if self._consumed >= WINDOW // 2 and not self.received_fin:
            self._connection.send(frames.window_update(self.number, self._consumed))
            self._consumed = 0


class Connection:
    def __init__(self, carrier: Carrier, on_stream: Callable[[Stream], bool]) -> None:
        """`on_stream`: a new stream, already answered; False refuses it."""
        self.ended = asyncio.Event()
        self.flow_control = False
        self.initial_window = WINDOW
        self._carrier = carrier
        self._on_stream = on_stream
        self._headers = frames.Headers()
        self._streams: dict[int, Stream] = {}
        self._last = 0
        self._leaving = False

    async def run(self) -> None:
        """Read frames until the connection ends, orderly or not."""
        try:
            while True:
                first = await self._carrier.readexactly(8)
                length = frames.head(first)
                payload = await self._carrier.readexactly(length) if length else b""
                await self._take(frames.parse(first, payload, self._headers))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except frames.SpdyError:
            self.send(frames.goaway(self._last, 1))
        finally:
            self.ended.set()
            for stream in list(self._streams.values()):
                stream.abort()

    async def _take(self, frame: frames.Frame) -> None:
        if frame.kind == 0:
            await self._data(frame)
        elif frame.kind == frames.SYN_STREAM:
            self._open(frame)
        elif frame.kind == frames.PING:
            # Ours would be even; what a client began (odd) is sent back (2.6.5).
            if frame.payload[3] & 1:
                self.send(frames.control(frames.PING, frame.payload[:4]))
                await self.drain()
        elif frame.kind == frames.RST_STREAM:
            if stream := self._streams.get(frame.stream):
                stream.abort()
        elif frame.kind == frames.WINDOW_UPDATE:
            self._grant(frame.stream, int.from_bytes(frame.payload[:4], "big") & 0x7FFFFFFF)
        elif frame.kind == frames.SETTINGS:
            window = frames.settings(frame.payload).get(frames.INITIAL_WINDOW_SIZE)
            if window is not None:
                self._resize_windows(min(window, 0x7FFFFFFF))
        elif frame.kind == frames.GOAWAY:
            self._leaving = True
        elif frame.kind == frames.HEADERS and frame.fin:
            if stream := self._streams.get(frame.stream):
                self._finish(stream)

    def _open(self, frame: frames.Frame) -> None:
        if frame.stream == 0 or frame.stream % 2 == 0 or frame.stream <= self._last:
            raise frames.SpdyError(f"stream id {frame.stream}")
        self._last = frame.stream
        stream = Stream(self, frame.stream, frame.headers)
        if self._leaving or len(self._streams) >= STREAM_LIMIT:
            self.send(frames.rst_stream(frame.stream, frames.REFUSED_STREAM))
            return
        self._streams[frame.stream] = stream
        if not self._on_stream(stream):
            stream.reset(frames.REFUSED_STREAM)
            return
        self.send(frames.syn_reply(frame.stream, self._headers.pack({})))
        if frame.fin:
            self._finish(stream)

    async def _data(self, frame: frames.Frame) -> None:
        stream = self._streams.get(frame.stream)
        if stream is None or stream.received_fin:
            if frame.stream > self._last:
                self.send(frames.rst_stream(frame.stream, frames.INVALID_STREAM))
            return
        if frame.payload:
            await stream.inbox.space.wait()
            if not stream.received_fin:
                stream.inbox.push(frame.payload)
        if frame.fin:
            self._finish(stream)

    def _finish(self, stream: Stream) -> None:
        stream.received_fin = True
        stream.inbox.close()
        self.settle(stream)

    def _grant(self, number: int, delta: int) -> None:
        self.flow_control = True
        if stream := self._streams.get(number):
            stream.grant(delta)

    def _resize_windows(self, window: int) -> None:
        self.flow_control = True
        change, self.initial_window = window - self.initial_window, window
        for stream in list(self._streams.values()):
            stream.grant(change)

    def settle(self, stream: Stream) -> None:
        if stream.sent_fin and stream.received_fin:
            self._streams.pop(stream.number, None)

    def send(self, data: bytes) -> None:
        if not self.ended.is_set():
            with contextlib.suppress(ConnectionError):
                self._carrier.write(data)

    async def drain(self) -> None:
        if self.ended.is_set():
            raise ConnectionResetError("the connection has ended")
        await self._carrier.drain()
