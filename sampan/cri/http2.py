"""HTTP/2 (RFC 9113) as far as gRPC uses it: frames, streams, flow control; one class for both ends of a connection.

A call between node agent and runtime costs 0.3 ms this way and 2–4 ms by grpcio, whose threads hand it to each other; and
nothing wakes while nobody calls. What gRPC makes of it is in server.py and client.py.

Windows: what we receive is bounded by the size of a message, so a stream's window holds the largest and is opened again as
messages are consumed; the connection's is as large as it can be. What we send waits in its stream for the peer's windows
and for the socket.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from typing import cast

from sampan.cri import hpack
from sampan.cri.errors import CRIError
from sampan.cri.methods import MESSAGE_LIMIT

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
(
    DATA,
    HEADERS,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    PUSH_PROMISE,
    PING,
    GOAWAY,
    WINDOW_UPDATE,
    CONTINUATION,
) = range(10)
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, WITH_PRIORITY = 0x4, 0x8, 0x20
SETTING_WINDOW, SETTING_FRAME = 4, 5
NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED, CANCEL = (
    0,
    1,
    3,
    5,
    6,
    7,
    8,
)
COMPRESSION_ERROR = 9

LARGEST_WINDOW = (1 << 31) - 1
FIRST_WINDOW = 65535
OUR_WINDOW = 2 * MESSAGE_LIMIT
OUR_FRAME = 1 << 18
LEAST_FRAME = 1 << 14
HEADER_LIMIT = 1 << 16
PREFIX = 5  # of a gRPC message: compressed or not, and its length

_PREFIX = struct.Struct("!BI")
_SETTING = struct.Struct("!HI")


class ProtocolError(CRIError):
    """The peer does not speak HTTP/2 as it should: the connection ends."""

    code = "INTERNAL"

    def __init__(self, message: str, code: int = PROTOCOL_ERROR) -> None:
        super().__init__(message)
        self.http2_code = code


class Stream:
    """One call. `messages` holds what has come and was not taken yet."""

    def __init__(self, connection: Connection, number: int, window: int) -> None:
        self.connection = connection
        self.number = number
        self.messages: deque[bytes] = deque()
        self.ended = False  # the peer has said all
        self.closed = False  # nothing may be sent any more
        self.window = window  # the peer's, for what we send
        self._received = bytearray()
        self._consumed = 0
        self._waiting = bytearray()
        self._last = b""  # frame that ends the stream, after what waits
        self._sent: asyncio.Future[None] | None = None

    # receiving

    def receive(self, data: memoryview) -> None:
        """Raises ProtocolError for a message that is too large or compressed."""
        self._received += data
        while len(self._received) >= PREFIX:
            compressed, size = _PREFIX.unpack_from(self._received)
            if compressed or size > MESSAGE_LIMIT:
                raise ProtocolError(
                    "a compressed message" if compressed else f"a message of {size} bytes"
                )
            if len(self._received) < PREFIX + size:
                return
            self.messages.append(bytes(memoryview(self._received)[PREFIX : PREFIX + size]))
            del self._received[: PREFIX + size]

    def take(self) -> bytes:
        """The next message; raises IndexError when there is none. The peer may send as much again."""
        message = self.messages.popleft()
        self._consumed += PREFIX + len(message)
        if self._consumed > OUR_WINDOW // 2 and not self.ended:
            self.connection.send(WINDOW_UPDATE, 0, self.number, struct.pack("!I", self._consumed))
            self._consumed = 0
        return message

    # sending

    def message(self, body: bytes) -> None:
        self._waiting += _PREFIX.pack(0, len(body))
        self._waiting += body
        self.flush()

    def finish(self, block: bytes | None) -> None:
        """Nothing more is sent: `block` are the trailers, None when there are none."""
        if block is None:
            self._last = frame(DATA, END_STREAM, self.number, b"")
        else:
            self._last = frame(HEADERS, END_STREAM | END_HEADERS, self.number, block)
        self.flush()

    def flush(self) -> None:
        connection, at = self.connection, 0
        while at < len(self._waiting) and not connection.paused:
            size = min(
                len(self._waiting) - at, self.window, connection.window, connection.frame_size
            )
            if size <= 0:
                break
            data = bytes(memoryview(self._waiting)[at : at + size])
            connection.send(DATA, 0, self.number, data)
            at += size
            self.window -= size
            connection.window -= size
        del self._waiting[:at]
        if self._waiting or self.closed:
            return
        if self._last:
            connection.write(self._last)
            self.closed = True
            connection.forget(self)
        self._settle()

    async def drained(self) -> None:
        """Everything is sent, or nothing can be any more: a slow reader holds up its writer."""
        if self._waiting and not self.closed:
            self._sent = self._sent or asyncio.get_running_loop().create_future()
            await asyncio.shield(self._sent)

    def _settle(self) -> None:
        if self._sent is not None and not self._sent.done():
            self._sent.set_result(None)
        self._sent = None

    def abandon(self) -> None:
        """It was reset, or the connection is lost."""
        self.closed = self.ended = True
        self._waiting.clear()
        self._settle()

    def reset(self, code: int) -> None:
        """Tell the peer that we want no more of it. Idempotent."""
        if not (self.closed and self.ended) and self.number in self.connection.streams:
            self.connection.send(RST_STREAM, 0, self.number, struct.pack("!I", code))
        self.abandon()
        self.connection.forget(self)


class Connection(asyncio.Protocol):
    """Subclasses answer the hooks at the end; `client` says which end this is."""

    client = False

    def __init__(self) -> None:
        self.streams: dict[int, Stream] = {}
        self.window = FIRST_WINDOW  # the peer's, for all that we send
        self.frame_size = LEAST_FRAME
        self.paused = False
        self.leaving = False  # one of both has said that no new call may begin
        self._transport: asyncio.Transport | None = None
        self._out = bytearray()  # frames of this turn of the loop, written together
        self._buffer = bytearray()
        self._greeted = self.client
        self._decoder = hpack.Decoder()
        self._first_window = FIRST_WINDOW
        self._received = 0
        self._highest = 0
        self._block = bytearray()  # of headers that go on in the next frame
        self._block_of = (0, False)

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        settings = _SETTING.pack(SETTING_WINDOW, OUR_WINDOW) + _SETTING.pack(
            SETTING_FRAME, OUR_FRAME
        )
        self.write(
            (PREFACE if self.client else b"")
            + frame(SETTINGS, 0, 0, settings)
            + frame(WINDOW_UPDATE, 0, 0, struct.pack("!I", LARGEST_WINDOW - FIRST_WINDOW))
        )

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            self._read()
        except CRIError as error:
            self.leave(getattr(error, "http2_code", COMPRESSION_ERROR), str(error))
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.leaving, self._transport = True, None
        for stream in list(self.streams.values()):
            stream.abandon()
            self.on_reset(stream, REFUSED)
        self.streams.clear()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self._flush_all()

    # sending

    @property
    def alive(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def write(self, data: bytes) -> None:
        if not self.alive:
            return
        if not self._out:
            asyncio.get_running_loop().call_soon(self._write_out)
        self._out += data

    def _write_out(self) -> None:
        if self._out and self._transport is not None:
            data, self._out = self._out, bytearray()
            self._transport.write(data)

    def send(self, kind: int, flags: int, number: int, body: bytes) -> None:
        self.write(frame(kind, flags, number, body))

    def open(self, number: int) -> Stream:
        stream = self.streams[number] = Stream(self, number, self._first_window)
        return stream

    def forget(self, stream: Stream) -> None:
        """A stream that both have ended, or that was reset."""
        if stream.closed and stream.ended:
            self.streams.pop(stream.number, None)

    def leave(self, code: int = NO_ERROR, why: str = "") -> None:
        """Tell the peer to begin no more calls here; those that run go on."""
        if not self.leaving or code:
            self.leaving = True
            self.send(GOAWAY, 0, 0, struct.pack("!II", self._highest, code) + why.encode())

    def close(self) -> None:
        if self._transport is not None:
            self._write_out()
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _flush_all(self) -> None:
        for stream in list(self.streams.values()):
            stream.flush()

    # receiving

    def _read(self) -> None:
        buffer, at = self._buffer, 0
        if not self._greeted:
            if not PREFACE.startswith(buffer[: len(PREFACE)]):
                raise ProtocolError("this is not HTTP/2")
            if len(buffer) < len(PREFACE):
                return
            self._greeted, at = True, len(PREFACE)
        view = memoryview(buffer)
        try:
            while at + 9 <= len(buffer):
                size = int.from_bytes(view[at : at + 3], "big")
                if size > OUR_FRAME:
                    raise ProtocolError("a frame larger than agreed", FRAME_SIZE_ERROR)
                if at + 9 + size > len(buffer):
                    break
                number = int.from_bytes(view[at + 5 : at + 9], "big") & LARGEST_WINDOW
                self._frame(buffer[at + 3], buffer[at + 4], number, view[at + 9 : at + 9 + size])
                at += 9 + size
        except struct.error:
            raise ProtocolError("a frame shorter than its kind is", FRAME_SIZE_ERROR) from None
        finally:
            view.release()
        del buffer[:at]

    def _frame(self, kind: int, flags: int, number: int, body: memoryview) -> None:
        if self._block_of[0] and (kind != CONTINUATION or number != self._block_of[0]):
            raise ProtocolError("a header block that is not continued")
        if kind == DATA:
            self._data(flags, number, body)
        elif kind == HEADERS:
            body = unpadded(flags, body)
            if flags & WITH_PRIORITY:
                body = body[5:]
            self._headers(flags, number, bool(flags & END_STREAM), body)
        elif kind == CONTINUATION:
            if not self._block_of[0]:
                raise ProtocolError("a continuation of nothing")
            self._headers(flags, number, self._block_of[1], body)
        elif kind == WINDOW_UPDATE:
            self._window_update(number, struct.unpack("!I", body)[0] & LARGEST_WINDOW)
        elif kind == RST_STREAM:
            (code,) = struct.unpack("!I", body)
            if (stream := self.streams.pop(number, None)) is not None:
                stream.abandon()
                self.on_reset(stream, code)
        elif kind == SETTINGS:
            if not flags & ACK:
                self._settings(body)
        elif kind == PING:
            if not flags & ACK:
                self.send(PING, ACK, 0, bytes(body))
        elif kind == GOAWAY:
            self._goaway(struct.unpack_from("!I", body)[0] & LARGEST_WINDOW)
        elif kind == PUSH_PROMISE:
            raise ProtocolError("a pushed stream")

    def _data(self, flags: int, number: int, body: memoryview) -> None:
        self._received += len(body)
        if self._received > LARGEST_WINDOW // 2:
            self.send(WINDOW_UPDATE, 0, 0, struct.pack("!I", self._received))
            self._received = 0
        stream = self.streams.get(number)
        if stream is None or stream.ended:
            if number > self._highest or not number:
                raise ProtocolError("data of a stream that was not opened")
            return  # of one that was reset
        try:
            stream.receive(unpadded(flags, body))
        except ProtocolError as error:
            self.on_broken(stream, str(error))
            return
        stream.ended = bool(flags & END_STREAM)
        self.on_data(stream)
        self.forget(stream)

    def _headers(self, flags: int, number: int, ended: bool, part: memoryview) -> None:
        self._block += part
        if len(self._block) > HEADER_LIMIT:
            raise ProtocolError("headers that are too large")
        if not flags & END_HEADERS:
            self._block_of = number, ended
            return
        headers = dict(self._decoder.read(bytes(self._block)))
        self._block.clear()
        self._block_of = 0, False
        stream = self.streams.get(number)
        if stream is None and not self.client and number % 2 and number > self._highest:
            self._highest = number
            stream = self.open(number)
        if stream is None:
            if number > self._highest or not number:
                raise ProtocolError("headers of a stream that was not opened")
            return
        stream.ended = ended
        self.on_headers(stream, headers)
        self.forget(stream)

    def _window_update(self, number: int, more: int) -> None:
        if not number:
            self.window += more
            self._flush_all()
        elif (stream := self.streams.get(number)) is not None:
            stream.window += more
            stream.flush()

    def _settings(self, body: memoryview) -> None:
        for name, value in _SETTING.iter_unpack(body):
            if name == SETTING_WINDOW:
                if value > LARGEST_WINDOW:
                    raise ProtocolError("a window that is too large", FLOW_CONTROL_ERROR)
                for stream in self.streams.values():
                    stream.window += value - self._first_window
                self._first_window = value
            elif name == SETTING_FRAME:
                self.frame_size = min(max(value, LEAST_FRAME), OUR_FRAME)
        # Before any data that needs the new windows: the peer counts by the old ones until it reads this.
        self.send(SETTINGS, ACK, 0, b"")
        self._flush_all()

    def _goaway(self, last: int) -> None:
        self.leaving = True
        for number in [number for number in self.streams if number > last]:
            stream = self.streams.pop(number)
            stream.abandon()
            self.on_reset(stream, REFUSED)

    # hooks

    def on_headers(self, stream: Stream, headers: dict[str, str]) -> None:
        """Headers or trailers have come."""
        raise NotImplementedError

    def on_data(self, stream: Stream) -> None:
        """Messages may have come, or the end."""
        raise NotImplementedError

    def on_reset(self, stream: Stream, code: int) -> None:
        """The peer wants no more of it, or is gone (REFUSED)."""
        raise NotImplementedError

    def on_broken(self, stream: Stream, why: str) -> None:
        """What came on it is no message of ours."""
        raise NotImplementedError


def frame(kind: int, flags: int, number: int, body: bytes) -> bytes:
    size = len(body)
    return struct.pack("!BHBBI", size >> 16, size & 0xFFFF, kind, flags, number) + body


def unpadded(flags: int, body: memoryview) -> memoryview:
    if not flags & PADDED:
        return body
    if not body or body[0] >= len(body):
        raise ProtocolError("padding longer than its frame")
    return body[1 : len(body) - body[0]]
