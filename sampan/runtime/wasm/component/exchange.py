"""One request and its answer on a connection: what a handler reads and writes, as HTTP/1.1.

While its guest runs, the connection belongs to the guest's thread, which reads the request's body when the guest asks for it
and sends what the guest has flushed; so a slow peer holds up the guest, never the host's memory. The head is sent with the
first bytes of the body: a body that is finished before it is flushed has a Content-Length, others are chunked.
"""

from __future__ import annotations

import select
import socket

from sampan.runtime.wasm import wire
from sampan.runtime.wasm.component.framing import (
    Chunked,
    Lengthed,
    TooLarge,
    chunk,
    last_chunk,
)
from sampan.runtime.wasm.component.guest import NEVER, Resource, Stop
from sampan.runtime.wasm.component.streams import PERMIT
from sampan.runtime.wasm.component.types import CodedError, OutgoingResponse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Pairs = list[tuple[bytes, bytes]]

_READ = 65536
_SEND = 16384  # what is written without a flush is sent from this size on
_BODILESS = (204, 304)
# wasi:http error codes that a handler may answer with, where they are not 500.
_STATUSES = {
    "HTTP-request-denied": 403, "HTTP-request-length-required": 411, "HTTP-request-body-size": 413,
    "HTTP-request-method-invalid": 405, "HTTP-request-URI-invalid": 400, "HTTP-request-URI-too-long": 414,
    "HTTP-request-header-section-size": 431, "HTTP-request-header-size": 431, "HTTP-response-timeout": 504,
    "destination-unavailable": 502, "connection-refused": 502, "connection-timeout": 504, "loop-detected": 508,
}  # fmt: skip


class RequestBody:
    """The body of a request as it arrives, a types.Source."""

    def __init__(
        self, connection: socket.socket, data: bytearray, request: wire.Request, limit: int
    ) -> None:
        self.socket, self.data = connection, data
        self.decoder = Chunked(limit) if request.chunked else Lengthed(request.length)
        self.expects = request.expects and not self.decoder.done
        self.buffer = b""
        self.too_large = False

    @property
    def trailers(self) -> Pairs:
        return self.decoder.trailers

    def pull(self) -> None:
        """Have something in `buffer`, or the end, if it is there without waiting. Raises OSError."""
        try:
            while not self.buffer and not self.decoder.done:
                self.buffer = self.decoder.take(self.data, PERMIT)
                if self.buffer or self.decoder.done:
                    return
                if self.expects:
                    self.expects = False
                    self.socket.send(b"HTTP/1.1 100 Continue\r\n\r\n")
                got = self.socket.recv(_READ)
                if not got:
                    self.decoder.end()
                self.data += got
        except BlockingIOError:
            return
        except TooLarge:
            self.too_large = True
            raise

    def ready(self) -> bool:
        try:
            self.pull()
        except OSError:
            return True  # which reading will say
        return bool(self.buffer) or self.decoder.done

    def event(self) -> tuple[int, int, float]:
        return self.socket.fileno(), select.POLLIN, NEVER

    def read(self, size: int) -> bytes | None:
        self.pull()
        if not self.buffer:
            return None if self.decoder.done else b""
        taken, self.buffer = self.buffer[:size], self.buffer[size:]
        return taken


class Exchange:
    """The answer's side of it, a types.Sink; `settle` says how it went."""

    def __init__(
        self, connection: socket.socket, request: wire.Request, body: RequestBody, date: bytes
    ) -> None:
        self.socket, self.request, self.body, self.date = connection, request, body, date
        self.keep_alive = request.keep_alive
        self.response: OutgoingResponse | None = None
        self.refusal: int = 0  # the status that the handler asks for instead of an answer
        self.out = b""
        self.begun = False  # the head is made
        self.finished = False  # the body is whole
        self.broken = False  # it will never be
        self.length: int | None = None  # what is left of a body whose length was declared
        self.chunked = False
        self.bodiless = request.method == b"HEAD"

    def respond(self, ok: bool, payload: Any) -> None:
        """wasi:http's response-outparam.set."""
        if not ok:
            self.refusal = _STATUSES.get(payload[0], 500)
            return
        self.response = payload
        if payload.body is None:
            self.finish([])
        else:
            payload.body.bind(self)

    # -- the body -------------------------------------------------------------------------------------------------

    def room(self) -> int:
        if self.broken:
            raise BrokenPipeError
        if len(self.out) >= PERMIT:
            self.push()
        return max(0, PERMIT - len(self.out))

    def ready(self) -> bool:
        try:
            self.push()
        except OSError:
            return True  # which writing will say
        return len(self.out) < PERMIT

    def event(self) -> tuple[int, int, float]:
        return self.socket.fileno(), select.POLLOUT, NEVER

    def write(self, data: bytes) -> None:
        if not data:
            return
        if not self.begun:
            self._kept(data)
            return
        self._frame(data)
        if len(self.out) >= _SEND:
            self.push()

    def _kept(self, data: bytes) -> None:
        """Before the head is made its body is `out`."""
        self.out += data
        if len(self.out) >= _SEND:
            self.flush()

    def _frame(self, data: bytes) -> None:
        if self.length is not None:
            self.length -= len(data)
            if self.length < 0:
                self.broken = True
                raise CodedError("HTTP-response-body-size", None)
        if not self.bodiless:
            self.out += chunk(data) if self.chunked else data

    def flush(self) -> None:
        if not self.begun:
            self._begin(None, [])
        self.push()

    def finish(self, trailers: Pairs) -> None:
        if self.broken:
            raise CodedError("HTTP-response-incomplete")
        if not self.begun:
            self._begin(None if trailers else len(self.out), trailers)
        if self.length:
            self.broken = True
            raise CodedError("HTTP-response-body-size", None)
        if self.chunked:
            self.out += last_chunk(trailers)
        self.finished = True

    def abandon(self) -> None:
        self.broken = True

    def _begin(self, size: int | None, trailers: Pairs) -> None:
        """Make the head. `size`: of the whole body, where that is known."""
        assert self.response is not None
        status, body, self.out = self.response.status, self.out, b""
        lines = [b"HTTP/1.1 %d %s" % (status, wire.REASONS.get(status, b"Status"))]
        dated = False
        for name, value in self.response.headers.pairs:
            lowered = name.lower()
            if lowered == b"content-length":
                if self.length is None and value.isdigit() and len(value) < 19:
                    self.length = int(value)
                continue
            dated = dated or lowered == b"date"
            lines.append(b"%s: %s" % (name, value))
        if not dated:
            lines.append(b"date: " + self.date)
        if status in _BODILESS:
            self.bodiless, self.length = True, None
        elif self.length is not None or size is not None:
            if self.length is None and not (self.bodiless and not size):
                self.length = size
            if self.length is not None:
                lines.append(b"content-length: %d" % self.length)
            if self.bodiless:
                self.length = None
        elif self.request.version == b"HTTP/1.1":
            if not self.bodiless:
                self.chunked = True
                lines.append(b"transfer-encoding: chunked")
                if trailers:
                    lines.append(b"trailer: " + b", ".join({name for name, _ in trailers}))
        else:
            self.keep_alive = False
        if not self.keep_alive:
            lines.append(b"connection: close")
        lines.append(b"\r\n")
        self.out = b"\r\n".join(lines)
        self.begun = True
        if body:
            self._frame(body)

    def push(self) -> None:
        """Send what the peer takes without waiting. Raises BrokenPipeError when it has gone."""
        if not self.out or not self.begun:
            return
        try:
            sent = self.socket.send(self.out)
        except BlockingIOError:
            return
        except OSError as error:
            self.broken = True
            self.out = b""
            raise BrokenPipeError from error
        self.out = self.out[sent:]

    def before_waiting(self) -> None:
        try:
            self.push()
        except BrokenPipeError:
            return  # which the next write says

    # -- the end --------------------------------------------------------------------------------------------------

    def let_go(self) -> None:
        """The guest has ended: its answer and this exchange no longer hold each other."""
        if self.response is not None and self.response.body is not None:
            self.response.body.sink = None

    def settle(self) -> bool:
        """Whether the connection can serve another request when `out` has been sent."""
        if self.broken or not self.finished or not self.keep_alive:
            return False
        try:
            while not self.body.decoder.done:  # what has come and nobody read
                self.body.buffer = b""
                self.body.pull()
                if not self.body.buffer and not self.body.decoder.done:
                    return False
        except OSError:
            return False
        return True


class ResponseOutparam(Resource):
    kind = "response-outparam"
    __slots__ = ("exchange",)

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange


def respond(guest: Any, outparam: ResponseOutparam, response: tuple[bool, Any]) -> None:
    exchange = outparam.exchange
    if exchange.response is not None or exchange.refusal:
        raise Stop("there is an answer already")
    exchange.respond(*response)


INTERFACES = {"wasi:http/types": {"[static]response-outparam.set": respond}}
