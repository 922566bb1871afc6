"""HTTP/2 (RFC 9113), the server's side of one connection, as far as gRPC needs it.

Whole requests come out of it (`Stream.headers`, `Stream.body`), and answers go in as blocks of headers and as data, which is
held back while the peer's windows are shut. No push, no priorities, no CONNECT. A peer that breaks the protocol is sent away
(GOAWAY); one that floods it is bounded: streams at once, a header block, a body, and answers that it does not read.

grpcio's server passes each call through three threads and fifteen turns of the loop, 0.7 ms of processor; here it is one turn.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable
from typing import cast

from sampan.cri.hpack import Decoder, HPACKError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME = 16384  # bytes: the largest that anybody has to take, and the largest that we do
BLOCK_LIMIT = 64 * 1024  # of a header block, with its continuations
STREAMS = 1000  # at once
WINDOW = 65535  # of the connection and of each stream, at first
MOST_WINDOW = (1 << 31) - 1
CREDIT = 1 << 20  # bytes of the connection's window that are given back at a time
UNREAD_LIMIT = 1000  # answers to pings and settings that a peer may leave unread

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE = 0, 1, 2, 3, 4, 5
PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITIZED = 1, 1, 4, 8, 0x20
NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED = 0, 1, 3, 5
FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 6, 7, 8, 9, 11
MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 3, 4, 5
_SETTING = struct.Struct(">HI")


class Fault(Exception):
    """The peer broke the protocol; the connection ends."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")
    return head + payload


def _number(code: int) -> bytes:
    return code.to_bytes(4, "big")


class Stream:
    """One request and its answer."""

    __slots__ = ("_connection", "_drained", "_out", "body", "closed", "ended", "headers", "id",
                 "on_reset", "too_large", "window")  # fmt: skip

    def __init__(self, connection: Connection, number: int, headers: dict[bytes, bytes]) -> None:
        self._connection = connection
        self.id = number
        self.headers = headers
        self.body = bytearray()
        self.too_large = False  # the body is; what came of it is gone, what comes is passed over
        self.ended = False  # the request is whole
        self.closed = False  # by the end of the answer, a reset or the connection's end
        self.on_reset: Callable[[], object] | None = None  # the peer wants no answer any more
        self.window = connection.peer_window
        self._out: deque[tuple[int, int, bytes]] = deque()  # frames: kind, flags, payload
        self._drained: asyncio.Future[None] | None = None

    def send(self, *frames: tuple[int, int, bytes]) -> None:
        """HEADERS and DATA, (kind, flags, payload) each; the last has END_STREAM. Nothing when the stream is closed."""
        if self.closed:
            return
        self._out.extend(frames)
        self._connection.flush(self)

    async def drain(self) -> None:
        """Return when what was sent is on its way, or nobody wants it any more."""
        if (self._out or self._connection.paused) and not self.closed:
            self._drained = asyncio.get_running_loop().create_future()
            self._connection.waiting.add(self)
            await self._drained

    def take(self, room: int) -> tuple[list[bytes], int]:
        """Frames that may go now, with `room` in the connection's window, and how much of it they use."""
        frames: list[bytes] = []
        used = 0
        while self._out:
            kind, flags, payload = self._out[0]
            if kind == DATA and payload:
                size = min(len(payload), FRAME, room - used, self.window)
                if size <= 0:
                    break
                used += size
                self.window -= size
                if size < len(payload):
                    self._out[0] = kind, flags, payload[size:]
                    frames.append(frame(DATA, 0, self.id, payload[:size]))
                    continue
            self._out.popleft()
            frames.append(frame(kind, flags | END_HEADERS * (kind == HEADERS), self.id, payload))
            if flags & END_STREAM:
                self.closed = True
        return frames, used

    @property
    def waits(self) -> bool:
        return bool(self._out)

    def end(self, *, reset: bool) -> None:
        self.closed = True
        self._out.clear()
        self.wake()
        if reset and self.on_reset is not None:
            self.on_reset()

    def wake(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None


class Connection(asyncio.Protocol):
    """`serve` is called with each request that is whole. `body_limit` is for one request; of a larger one the stream says so."""

    def __init__(
        self, serve: Callable[[Stream], None], body_limit: int, all_of_them: set[Connection]
    ) -> None:
        self._serve = serve
        self._body_limit = body_limit
        self._all = all_of_them
        self._transport: asyncio.Transport
        self._rest = b""
        self._greeted = False
        self._decoder = Decoder()
        self._block: tuple[int, int, bytes] | None = None  # stream, flags, what came of its headers
        self._streams: dict[int, Stream] = {}
        self._last = 0  # the highest stream that the peer has opened
        self._leaving = False
        self._window = WINDOW  # what we may send
        self._received = 0  # since we last gave credit
        self.peer_window = WINDOW  # of a new stream
        self.paused = False  # the peer reads more slowly than we write
        self._unread = 0
        self.waiting: set[Stream] = set()

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._all.add(self)
        room = self._body_limit + CREDIT  # more than is taken: what is too large must be seen to be
        settings = _SETTING.pack(MAX_CONCURRENT_STREAMS, STREAMS)
        settings += _SETTING.pack(INITIAL_WINDOW_SIZE, room)
        self._transport.write(
            frame(SETTINGS, 0, 0, settings)
            + frame(WINDOW_UPDATE, 0, 0, _number(room + CREDIT - WINDOW))
        )

    def connection_lost(self, _: Exception | None) -> None:
        self._all.discard(self)
        for stream in list(self._streams.values()):
            stream.end(reset=True)
        self._streams.clear()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self._unread = 0
        self._flush_all()

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        at = 0
        try:
            if not self._greeted:
                if not data.startswith(PREFACE[: len(data)]):
                    raise Fault(PROTOCOL_ERROR, "this is not HTTP/2")
                if len(data) >= len(PREFACE):
                    self._greeted, at = True, len(PREFACE)
            while self._greeted and len(data) - at >= 9 and not self._transport.is_closing():
                length = int.from_bytes(data[at : at + 3], "big")
                if length > FRAME:
                    raise Fault(FRAME_SIZE_ERROR, f"a frame of {length} bytes")
                end = at + 9 + length
                if end > len(data):
                    break
                number = int.from_bytes(data[at + 5 : at + 9], "big") & MOST_WINDOW
                self._hear(data[at + 3], data[at + 4], number, data[at + 9 : end])
                at = end
        except HPACKError as error:
            self.leave(COMPRESSION_ERROR, str(error))
        except Fault as fault:
            self.leave(fault.code, str(fault))
        self._rest = data[at:]

    # Frames

    def _hear(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if self._block is not None and (kind != CONTINUATION or number != self._block[0]):
            raise Fault(PROTOCOL_ERROR, "a header block was interrupted")
        hear = _HEARD.get(kind)
        if hear is not None:  # one of an unknown kind is passed over, section 4.1
            hear(self, flags, number, payload)

    def _data(self, flags: int, number: int, payload: bytes) -> None:
        self._received += len(payload)
        if self._received >= CREDIT:
            self._transport.write(frame(WINDOW_UPDATE, 0, 0, _number(self._received)))
            self._received = 0
        if flags & PADDED:
            payload = _unpadded(payload)
        stream = self._streams.get(number)
        if stream is None:
            if not number or number > self._last:
                raise Fault(PROTOCOL_ERROR, "data of a stream that is not open")
            return  # it was reset, and this was under way
        if stream.ended:
            raise Fault(STREAM_CLOSED, "data after the end of a request")
        if len(stream.body) + len(payload) > self._body_limit:
            stream.too_large = True
            stream.body.clear()
            self._serve(stream)  # to be refused: the rest would find the stream's window shut
            return
        stream.body += payload
        if flags & END_STREAM:
            self._whole(stream)

    def _headers(self, flags: int, number: int, payload: bytes) -> None:
        if flags & PADDED:
            payload = _unpadded(payload)
        if flags & PRIORITIZED:
            payload = payload[5:]
        self._block = number, flags, payload
        if flags & END_HEADERS:
            self._block_is_whole()

    def _continuation(self, flags: int, number: int, payload: bytes) -> None:
        if self._block is None:
            raise Fault(PROTOCOL_ERROR, "nothing is there to be continued")
        block = self._block[2] + payload
        if len(block) > BLOCK_LIMIT or not payload:
            raise Fault(ENHANCE_YOUR_CALM, f"headers of more than {BLOCK_LIMIT} bytes, or of none")
        self._block = number, self._block[1], block
        if flags & END_HEADERS:
            self._block_is_whole()

    def _block_is_whole(self) -> None:
        assert self._block is not None
        number, flags, block = self._block
        self._block = None
        headers = self._decoder.decode(block)  # in any case: the table is the connection's
        stream = self._streams.get(number)
        if stream is not None:  # trailers, of which gRPC's clients have none
            if stream.ended or not flags & END_STREAM:
                raise Fault(PROTOCOL_ERROR, "a second block of headers")
        elif not number & 1:
            raise Fault(PROTOCOL_ERROR, "a client's streams have odd numbers")
        elif number <= self._last:
            raise Fault(STREAM_CLOSED, f"stream {number} was there before")
        else:
            self._last = number
            if self._leaving or len(self._streams) >= STREAMS:
                self._transport.write(frame(RST_STREAM, 0, number, _number(REFUSED_STREAM)))
                return
            stream = self._streams[number] = Stream(self, number, dict(headers))
        if flags & END_STREAM:
            self._whole(stream)

    def _whole(self, stream: Stream) -> None:
        stream.ended = True
        self._serve(stream)

    def _rst_stream(self, _: int, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Fault(FRAME_SIZE_ERROR, "a reset of another size")
        if not number or number > self._last:
            raise Fault(PROTOCOL_ERROR, "a reset of a stream that was never there")
        stream = self._streams.pop(number, None)
        if stream is not None:
            self.waiting.discard(stream)
            stream.end(reset=True)
            self._part()

    def _settings(self, flags: int, number: int, payload: bytes) -> None:
        if number or len(payload) % 6 or (flags & ACK and payload):
            raise Fault(FRAME_SIZE_ERROR, "settings of no size that they can have")
        if flags & ACK:
            return
        for name, value in _SETTING.iter_unpack(payload):
            if name == INITIAL_WINDOW_SIZE:
                if value > MOST_WINDOW:
                    raise Fault(FLOW_CONTROL_ERROR, f"a window of {value}")
                for stream in self._streams.values():
                    stream.window += value - self.peer_window
                self.peer_window = value
            elif name == MAX_FRAME_SIZE and not FRAME <= value < 1 << 24:
                raise Fault(PROTOCOL_ERROR, f"frames of {value} bytes")
        self._reply(frame(SETTINGS, ACK, 0))
        self._flush_all()

    def _ping(self, flags: int, number: int, payload: bytes) -> None:
        if number or len(payload) != 8:
            raise Fault(FRAME_SIZE_ERROR, "a ping of another size")
        if not flags & ACK:
            self._reply(frame(PING, ACK, 0, payload))

    def _window_update(self, _: int, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Fault(FRAME_SIZE_ERROR, "a window's change of another size")
        change = int.from_bytes(payload, "big") & MOST_WINDOW
        stream = self._streams.get(number)
        if not change:
            raise Fault(PROTOCOL_ERROR, "a window that opens by nothing")
        if number == 0:
            self._window += change
            self._flush_all()
        elif stream is not None:
            stream.window += change
            self.flush(stream)
        if max(self._window, stream.window if stream is not None else 0) > MOST_WINDOW:
            raise Fault(FLOW_CONTROL_ERROR, "a window of more than 2^31-1")

    def _ignored(self, _: int, number: int, payload: bytes) -> None:
        """Priorities, which RFC 9113 has given up, and a client's GOAWAY: it closes by itself."""

    def _push_promise(self, _: int, number: int, payload: bytes) -> None:
        raise Fault(PROTOCOL_ERROR, "clients do not push")

    def _reply(self, answer: bytes) -> None:
        """To what costs the peer nothing to ask."""
        self._unread += self.paused
        if self._unread > UNREAD_LIMIT:
            raise Fault(ENHANCE_YOUR_CALM, "pings whose answers are not read")
        self._transport.write(answer)

    # Answers

    def flush(self, stream: Stream) -> None:
        """Send of a stream what the windows allow."""
        frames, used = stream.take(self._window)
        self._window -= used
        if frames:
            self._transport.write(b"".join(frames))
        if stream.closed:
            self._streams.pop(stream.id, None)
            if not stream.ended:  # the rest of the request is not wanted, section 8.1
                self._transport.write(frame(RST_STREAM, 0, stream.id, _number(NO_ERROR)))
            self._part()
        if stream.waits:
            self.waiting.add(stream)
        elif not self.paused or stream.closed:
            self.waiting.discard(stream)
            stream.wake()

    def _flush_all(self) -> None:
        for stream in list(self.waiting):
            self.flush(stream)

    def leave(self, code: int = NO_ERROR, reason: str = "") -> None:
        """Take no more requests. At once for an error, else when those that are here have their answers. Idempotent."""
        if not self._leaving or code:
            self._leaving = True
            said = _number(self._last) + _number(code) + reason.encode()
            self._transport.write(frame(GOAWAY, 0, 0, said))
        if code:
            self._transport.close()
        self._part()

    def _part(self) -> None:
        if self._leaving and not self._streams:
            self._transport.close()

    def abort(self) -> None:
        self._transport.abort()


def _unpadded(payload: bytes) -> bytes:
    if not payload or payload[0] >= len(payload):
        raise Fault(PROTOCOL_ERROR, "more padding than there is")
    return payload[1 : len(payload) - payload[0]]


_HEARD: dict[int, Callable[[Connection, int, int, bytes], None]] = {
    DATA: Connection._data,
    HEADERS: Connection._headers,
    PRIORITY: Connection._ignored,
    RST_STREAM: Connection._rst_stream,
    SETTINGS: Connection._settings,
    PUSH_PROMISE: Connection._push_promise,
    PING: Connection._ping,
    GOAWAY: Connection._ignored,
    WINDOW_UPDATE: Connection._window_update,
    CONTINUATION: Connection._continuation,
}
