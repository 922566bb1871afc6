"""A request that a guest makes: HTTP/1.1 over a connection of its own, plain or TLS, in steps that do not wait.

`ready` and `room` drive it: name, connection, handshake, head, body, answer. The guest waits for it with whatever else it waits for.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
import time

from sampan.runtime.wasm import wire
from sampan.runtime.wasm.component.framing import Chunked, Lengthed, chunk, last_chunk
from sampan.runtime.wasm.component.guest import NEVER
from sampan.runtime.wasm.component.names import Lookup, Names
from sampan.runtime.wasm.component.streams import PERMIT
from sampan.runtime.wasm.component.tls import Authorities, shake
from sampan.runtime.wasm.component.types import CodedError, IncomingResponse

TYPE_CHECKING = False
if TYPE_CHECKING:
    Pairs = list[tuple[bytes, bytes]]

_READ = 65536
CONNECT_TIMEOUT = 30.0  # s
LOOKUP, CONNECT, SECURE, ANSWER, DONE, FAILED = range(6)
_LATER = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Call:
    """One request and its answer; a types.Sink for the one's body and a types.Source for the other's."""

    def __init__(
        self,
        names: Names,
        host: str,
        port: int,
        head: bytes,
        *,
        framing: int | None,
        bodiless: bool,
        timeouts: tuple[float, float, float],
        authorities: Authorities | None = None,
    ) -> None:
        """`framing`: the body's declared length, None: chunked. `bodiless`: the answer has no body, whatever it says.
        `authorities`: of TLS, None: plain HTTP.
        `timeouts`: to connect, for the first byte, between bytes, in s."""
        self.host, self.port = host, port
        self.out = head
        self.length, self.bodiless = framing, bodiless
        self.timeouts = timeouts
        self.authorities = authorities
        self.wanted = select.POLLOUT  # by the handshake
        self.until = time.monotonic() + min(timeouts[0], CONNECT_TIMEOUT)
        self.state = LOOKUP
        self.error: OSError | None = None
        self.response: IncomingResponse | None = None
        self.sent = False  # the request's body is whole
        self.data = bytearray()
        self.buffer = b""
        self.decoder: Chunked | Lengthed = Lengthed(0)
        self.socket: socket.socket | None = None
        self.lookup: Lookup | None = None
        if not self._connect(host):
            self.lookup = Lookup(names, host)

    # -- driving --------------------------------------------------------------------------------------------------

    def ready(self) -> bool:
        """The answer's head, or the body's next piece, is there; or it has failed."""
        self.advance()
        if self.state == DONE:
            return bool(self.buffer) or self.decoder.done or self.error is not None
        return self.state == FAILED

    def event(self) -> tuple[int, int, float]:
        if self.state == LOOKUP and self.lookup is not None:
            fd, mask, when = self.lookup.event()
            return fd, mask, min(when, self.until)
        if self.socket is None:
            return -1, 0, 0.0
        mask = {CONNECT: select.POLLOUT, SECURE: self.wanted}.get(self.state, select.POLLIN)
        if self.out and self.state >= ANSWER:
            mask |= select.POLLOUT
        return self.socket.fileno(), mask, self.until

    def advance(self) -> None:
        """Do all that can be done without waiting."""
        if self.state == FAILED or self.error is not None:
            return
        try:
            if self.state == LOOKUP:
                self._resolve()
            if self.state == CONNECT:
                self._connected()
            if self.state == SECURE:
                self._secure()
            if self.state >= ANSWER:
                self._send()
            if self.state == ANSWER:
                self._head()
            if self.state == DONE:
                self._body()
            if time.monotonic() > self.until:
                names = {LOOKUP: "DNS-timeout"} | dict.fromkeys(
                    (CONNECT, SECURE), "connection-timeout"
                )
                raise CodedError(names.get(self.state, "connection-read-timeout"))
        except OSError as error:
            self.error = error.with_traceback(None)
            if self.state != DONE:
                self.state = FAILED
            self.release()

    def release(self) -> None:
        """No more use for it."""
        if self.lookup is not None:
            self.lookup.close()
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    def _resolve(self) -> None:
        assert self.lookup is not None
        if not self.lookup.ready():
            return
        if self.lookup.error is not None:
            raise self.lookup.error
        self._connect(self.lookup.address)

    def _connect(self, address: str) -> bool:
        """Begin to connect; False when `address` is a name."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            socket.inet_pton(family, address)
        except OSError:
            return False
        kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self.socket = socket.socket(family, kind)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        result = self.socket.connect_ex((address, self.port))
        if result not in (0, errno.EINPROGRESS):
            self.error, self.state = OSError(result, os.strerror(result)), FAILED
            if result == errno.ECONNREFUSED:
                self.error = ConnectionRefusedError(result, os.strerror(result))
            return True
        self.state = CONNECT
        return True

    def _connected(self) -> None:
        assert self.socket is not None
        poll = select.poll()
        poll.register(self.socket.fileno(), select.POLLOUT)
        if not poll.poll(0):
            return
        result = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if result == errno.ECONNREFUSED:
            raise ConnectionRefusedError(result, os.strerror(result))
        if result in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.EPERM):
            raise CodedError("destination-IP-unroutable")
        if result:
            raise OSError(result, os.strerror(result))
        if self.authorities is not None:
            self.socket = self.authorities.wrap(self.socket, self.host.rstrip("."))
            self.state = SECURE
            return
        self._answer()

    def _secure(self) -> None:
        assert isinstance(self.socket, ssl.SSLSocket)
        self.wanted = shake(self.socket)
        if not self.wanted:
            self._answer()

    def _answer(self) -> None:
        self.state = ANSWER
        self.until = time.monotonic() + self.timeouts[1]

    def _receive(self) -> bool:
        """More bytes in `data`; False when there are none yet. The end raises, unless it ends the body."""
        assert self.socket is not None
        try:
            got = self.socket.recv(_READ)
        except _LATER:
            return False
        if not got:
            if self.state == ANSWER:
                raise CodedError("HTTP-response-incomplete")
            self.decoder.end()
            return False
        self.until = time.monotonic() + self.timeouts[2]
        self.data += got
        return True

    # -- the answer -----------------------------------------------------------------------------------------------

    def _head(self) -> None:
        while True:
            end = self.data.find(b"\r\n\r\n", 0, wire.HEAD_LIMIT)
            if end < 0:
                if len(self.data) >= wire.HEAD_LIMIT:
                    raise CodedError("HTTP-response-header-section-size", wire.HEAD_LIMIT)
                if not self._receive():
                    return
                continue
            line, _, section = bytes(self.data[:end]).partition(b"\r\n")
            del self.data[: end + 4]
            parts = line.split(b" ", 2)
            if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or not parts[1].isdigit():
                raise CodedError("HTTP-protocol-error")
            status = int(parts[1])
            if status == 101:
                raise CodedError("HTTP-upgrade-failed")
            if status >= 200:
                break
        try:
            headers = wire.parse_fields(section) if section else []
        except wire.Malformed as error:
            raise CodedError("HTTP-protocol-error") from error
        self.decoder = self._framing(status, headers)
        kept = [pair for pair in headers if pair[0] not in _CONNECTION_FIELDS]
        self.response = IncomingResponse(status, kept, self)
        self.state = DONE

    def _framing(self, status: int, headers: Pairs) -> Chunked | Lengthed:
        """RFC 9112 section 6.3."""
        if self.bodiless or status in (204, 304):
            return Lengthed(0)
        codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
        if codings:
            if codings != [b"chunked"]:
                raise CodedError("HTTP-response-transfer-coding", codings[0].decode("latin-1"))
            return Chunked(None)
        lengths = {value for name, value in headers if name == b"content-length"}
        if not lengths:
            return Lengthed(None)
        if len(lengths) > 1 or not (text := lengths.pop()).isdigit() or len(text) > 18:
            raise CodedError("HTTP-protocol-error")
        return Lengthed(int(text))

    def _body(self) -> None:
        while not self.buffer and not self.decoder.done:
            self.buffer = self.decoder.take(self.data, PERMIT)
            if not self.buffer and not self.decoder.done and not self._receive():
                break
        if self.decoder.done and not self.buffer:
            self.until = NEVER

    @property
    def trailers(self) -> Pairs:
        return self.decoder.trailers

    def read(self, size: int) -> bytes | None:
        self.advance()
        if self.buffer:
            taken, self.buffer = self.buffer[:size], self.buffer[size:]
            return taken
        if self.error is not None:
            raise self.error
        return None if self.decoder.done else b""

    # -- the request's body ---------------------------------------------------------------------------------------

    def room(self) -> int:
        self.advance()
        if self.error is not None:
            raise BrokenPipeError
        return max(0, PERMIT - len(self.out))

    def write(self, data: bytes) -> None:
        if self.length is not None:
            self.length -= len(data)
            if self.length < 0:
                raise CodedError("HTTP-request-body-size", None)
            self.out += data
        elif data:
            self.out += chunk(data)

    def flush(self) -> None:
        self.advance()

    def finish(self, trailers: Pairs) -> None:
        if self.length:
            self.abandon()
            raise CodedError("HTTP-request-body-size", None)
        if self.length is None:
            self.out += last_chunk(trailers)
        self.sent = True
        self.advance()

    def abandon(self) -> None:
        self.error = self.error or CodedError("internal-error", "the request's body was given up")
        if self.state != DONE:
            self.state = FAILED
        self.release()

    def _send(self) -> None:
        if not self.out or self.socket is None:
            return
        try:
            sent = self.socket.send(self.out)
        except _LATER:
            return
        except (BrokenPipeError, ConnectionResetError):
            self.out = b""  # an answer may have come before: reading tells
            return
        self.out = self.out[sent:]


class Upload:
    """A call as the sink of its request's body: ready when it takes more."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.room, self.write, self.flush = call.room, call.write, call.flush
        self.finish, self.abandon = call.finish, call.abandon

    def ready(self) -> bool:
        self.call.advance()
        return len(self.call.out) < PERMIT or self.call.error is not None

    def event(self) -> tuple[int, int, float]:
        return self.call.event()


_CONNECTION_FIELDS = frozenset(
    (b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"proxy-connection", b"te")
)
