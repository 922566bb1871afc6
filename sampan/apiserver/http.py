"""HTTPS around the pipeline: one protocol object per connection, on uvloop's transport.

Requests of one connection are answered in order. What the cache can answer at once is written before `data_received`
returns; anything else runs as one task, which the connection owns and cancels when the client goes. Only a write goes on
without its client: it is owned by the server, which waits for it at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import time
import zlib
from collections.abc import AsyncIterator, Coroutine
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from sampan.apiserver.auth import user_of_certificate
from sampan.apiserver.http1 import HEAD_LIMIT, Chunks, Head, Heads, Malformed
from sampan.apiserver.present import respond_error
from sampan.apiserver.tunnels import RawTunnel
from sampan.apiserver.upgrade import Upgrade
from sampan.client.transport import Request, Response, User
from sampan.kube import errors
from sampan.kube.errors import ApiError

if TYPE_CHECKING:
    from sampan.apiserver.pki import PKIPaths
    from sampan.apiserver.server import APIServer

log = logging.getLogger(__name__)

IDLE = 90.0  # seconds that a connection may stay without a request
SHUTDOWN = 5.0  # seconds that requests get to finish when the server stops
LINGER = (
    2.0  # seconds in which the rest of a refused body is read, so that the client sees the answer
)
PIPELINED = 256 * 1024  # bytes taken in ahead while a request is being answered
ONE_PIECE = 64 * 1024  # bodies up to this size are written together with their head
COMPRESS_FROM = 128 * 1024  # as Kubernetes: smaller answers are not worth the time
COMPRESS_IN_THREAD = 1 << 20
QUERY_FIELDS = 512

_STATUS = {
    each.value: b"HTTP/1.1 %d %b\r\n" % (each.value, each.phrase.encode()) for each in HTTPStatus
}
_COMMON = b"Cache-Control: no-cache, private\r\n"
_JSON_OK = (
    _STATUS[200]
    + _COMMON
    + b"Content-Type: application/json\r\nDate: %b\r\nContent-Length: %d\r\n\r\n"
)
_JSON_CREATED = _JSON_OK.replace(_STATUS[200], _STATUS[201])
_JSON = {"Content-Type": "application/json"}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class _Date:
    """The Date header's value, made once per second."""

    second = 0
    value = b""

    @classmethod
    def now(cls) -> bytes:
        second = int(time.time())
        if second != cls.second:
            cls.second, cls.value = second, formatdate(second, usegmt=True).encode()
        return cls.value


class Connection(asyncio.Protocol):
    """One client connection."""

    def __init__(self, server: HTTPServer) -> None:
        self.server = server
        self.loop = server.loop
        self.transport: asyncio.Transport | None = None
        self.user: User | None = None
        self.remote = ""
        self.buffer = b""  # taken in and not yet parsed
        self.head: Head | None = None  # parsed, its body is coming
        self.parts: list[bytes] = []
        self.missing = 0  # bytes of the body
        self.chunks: Chunks | None = None
        self.task: asyncio.Task[None] | None = None
        self.closing = False
        self.tunnel: RawTunnel | None = None
        self.last = 0.0
        self.timer: asyncio.TimerHandle | None = None
        self.full = False  # the transport wants us to wait
        self.drained: asyncio.Future[None] | None = None

    # The transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's is no asyncio.Transport
        self.server.connections.add(self)
        self.user = user_of_certificate(transport.get_extra_info("peercert"))
        peer = transport.get_extra_info("peername")
        self.remote = peer[0] if isinstance(peer, tuple) else ""
        self.last = self.loop.time()
        self.timer = self.loop.call_later(IDLE, self._check_idle)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.transport = None
        self.server.connections.discard(self)
        if self.timer is not None:
            self.timer.cancel()
        if self.tunnel is not None:
            self.tunnel.feed_eof()
        if self.task is not None:
            self.task.cancel()
        self.resume_writing()

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        if self.drained is not None and not self.drained.done():
            self.drained.set_result(None)

    async def drain(self) -> None:
        """Wait while the client reads too slowly. Raises ConnectionError when it is gone."""
        if self.full and self.transport is not None:
            if self.drained is None or self.drained.done():
                self.drained = self.loop.create_future()
            await self.drained
        if self.transport is None:
            raise ConnectionResetError("the client closed the connection")

    def _check_idle(self) -> None:
        if self.transport is None:
            return
        left = self.last + IDLE - self.loop.time()
        if self.task is not None:
            left = IDLE
        elif left <= 0:
            self.transport.close()
            return
        self.timer = self.loop.call_later(left, self._check_idle)

    def eof_received(self) -> bool:
        if self.tunnel is not None:
            self.tunnel.feed_eof()
            return True  # the other direction may go on
        return False

    def data_received(self, data: bytes) -> None:
        if self.tunnel is not None:
            self.tunnel.feed(data)
            return
        if self.closing:
            return
        self.last = self.loop.time()
        if self.buffer:
            data = self.buffer + data
            self.buffer = b""
        if self.task is None:
            self._advance(data)
        else:
            self._keep(data)

    def _keep(self, data: bytes) -> None:
        self.buffer = data
        if len(data) > PIPELINED and self.transport is not None:
            self.transport.pause_reading()

    def _advance(self, data: bytes) -> None:
        """Parse, and answer each request that is whole; what comes behind one that has to wait is kept."""
        try:
            while data and not self.closing:
                if self.head is None:
                    end = data.find(b"\r\n\r\n")
                    if end < 0:
                        if (
                            data[:2] == b"\r\n"
                        ):  # RFC 9112 §2.2: an empty line before a request is ignored
                            data = data[2:]
                            continue
                        if len(data) > HEAD_LIMIT:
                            raise Malformed("the request head is too large", 431)
                        self.buffer = data
                        return
                    if end > HEAD_LIMIT:
                        raise Malformed("the request head is too large", 431)
                    self.head = self.server.heads.parse(data[:end])
                    data = data[end + 4 :]
                    if self.head.block.length and not self._expect_body(self.head, data):
                        return
                if self.head.block.length:
                    data = self._take_body(data)
                    if self.missing or (self.chunks is not None and not self.chunks.done):
                        return
                head, self.head = self.head, None
                body = self._whole_body()
                self._answer(head, body)
                if self.task is not None:
                    if data:
                        self._keep(data)
                    return
        except Malformed as error:
            self._refuse(ApiError(error.code, "BadRequest", str(error)))

    def _expect_body(self, head: Head, behind: bytes) -> bool:
        """Prepare for a body; False when it is refused already."""
        length = head.block.length
        limit = self.server.api.config.body_limit
        if length > limit:
            self._refuse(errors.too_large(f"limit is {limit}"))
            return False
        self.chunks = Chunks() if length < 0 else None
        self.missing = max(length, 0)
        if head.block.waits and not behind:
            self.write(_CONTINUE)
        return True

    def _take_body(self, data: bytes) -> bytes:
        if self.chunks is not None:
            data = self.chunks.feed(data)
            limit = self.server.api.config.body_limit
            if self.chunks.size > limit:
                self._refuse(errors.too_large(f"limit is {limit}"))
            return data
        part = data[: self.missing]
        self.parts.append(part)
        self.missing -= len(part)
        return data[len(part) :]

    def _whole_body(self) -> bytes:
        parts = self.chunks.parts if self.chunks is not None else self.parts
        self.parts, self.chunks = [], None
        return parts[0] if len(parts) == 1 else b"".join(parts)

    # Answering

    def _answer(self, head: Head, body: bytes) -> None:
        """Answer now when the cache can, else begin the task that will."""
        path, mark, text = head.target.partition("?")
        query: list[tuple[str, str]] = []
        if mark:
            try:
                query = parse_qsl(text, keep_blank_values=True, max_num_fields=QUERY_FIELDS)
            except ValueError:
                raise Malformed("the query is malformed") from None
        if not path.startswith("/"):
            raise Malformed("the request target is malformed")
        headers = head.block.headers
        encoding = headers.get("content-encoding", "identity")
        request = Request(
            head.method, path, query, dict(headers), body, self.user, remote=self.remote
        )
        if body and encoding not in ("identity", ""):
            error = errors.unsupported_media_type(
                f"content encoding {encoding} is not supported for requests"
            )
            self.task = self.loop.create_task(self._run(request, head.close, respond_error(error)))
            return
        if not body and not self.full:
            response = self.server.api.immediate(request)
            if response is not None:
                if not head.close and self._write_short(request, response):
                    return
                self.task = self.loop.create_task(self._run(request, head.close, response))
                return
        self.task = self.loop.create_task(self._run(request, head.close))

    async def _run(self, request: Request, close: bool, response: Response | None = None) -> None:
        try:
            if response is None:
                if request.method in ("GET", "HEAD") or "upgrade" in request.headers:
                    response = await self._timed(request)
                else:
                    response = await asyncio.shield(self.server.begin(self._timed(request)))
            await self._send(request, response, close)
        except asyncio.CancelledError:
            self._abort()
            raise
        except ConnectionError:
            self._abort()
        except Exception:
            log.exception("%s %s from %s", request.method, request.path, self.remote)
            self._abort()
        finally:
            self.task = None
            self.last = self.loop.time()
        if self.transport is not None and not self.closing:
            data, self.buffer = self.buffer, b""
            if data:
                if len(data) > PIPELINED:
                    self.transport.resume_reading()
                self._advance(data)

    def _abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    async def _timed(self, request: Request) -> Response:
        """The pipeline's answer within the time that a request may take (a stream has begun by then).

        As `asyncio.timeout`, for a quarter of its cost: one timer, looked at only when it fires.
        """
        task = asyncio.current_task()
        assert task is not None
        timeout = self.server.api.config.request_timeout
        expired = False

        def expire() -> None:
            nonlocal expired
            expired = True
            task.cancel()

        timer = self.loop.call_later(timeout, expire)
        try:
            return await self.server.api.handle(request)
        except asyncio.CancelledError:
            if not expired or task.uncancel():
                raise
            text = f"request did not complete within requested timeout - context deadline exceeded ({timeout:g}s)"
            return respond_error(errors.timeout(text))
        finally:
            timer.cancel()

    async def _send(self, request: Request, response: Response, close: bool) -> None:
        if self.transport is None:
            await response.aclose()
            return
        if isinstance(response, Upgrade):
            await self._hand_over(response)
            return
        close = close or self.server.closing
        body = response.body
        if isinstance(body, bytes):
            if close or not self._write_short(request, response):
                await self._write_whole(request, response, body, close)
        else:
            await self._stream(request, response, body, close)
        if close:
            self._close()

    def _close(self) -> None:
        self.closing = True
        if self.transport is not None:
            self.transport.close()

    def _write_short(self, request: Request, response: Response) -> bool:
        """Write an ordinary JSON answer; False when it is not one."""
        body = response.body
        if (
            response.headers != _JSON
            or not isinstance(body, bytes)
            or request.method == "HEAD"
            or self.full
        ):
            return False
        if response.status == 200:
            head = _JSON_OK
        elif response.status == 201:
            head = _JSON_CREATED
        else:
            return False
        size = len(body)
        if size >= COMPRESS_FROM and "gzip" in request.headers.get("accept-encoding", ""):
            return False
        head = head % (_Date.now(), size)
        if size < ONE_PIECE:
            self.write(head + body)
        else:
            self.write(head)
            self.write(body)
        return True

    async def _write_whole(
        self, request: Request, response: Response, body: bytes, close: bool
    ) -> None:
        head = head_of(response, close)
        if wants_gzip(request, response, body):
            body = await compressed(body)
            head += b"Content-Encoding: gzip\r\nVary: Accept-Encoding\r\n"
        if response.status not in (204, 304):
            head += b"Content-Length: %d\r\n" % len(body)
        if request.method == "HEAD" or response.status in (204, 304):
            body = b""
        self.write(head + b"\r\n" + body)
        await self.drain()

    async def _stream(
        self, request: Request, response: Response, body: AsyncIterator[bytes], close: bool
    ) -> None:
        self.write(head_of(response, close) + b"Transfer-Encoding: chunked\r\n\r\n")
        try:
            if request.method != "HEAD":
                async for part in body:
                    if part:
                        self.write(b"%x\r\n%b\r\n" % (len(part), part))
                        await self.drain()
            self.write(b"0\r\n\r\n")
        finally:
            await response.aclose()

    async def _hand_over(self, response: Upgrade) -> None:
        self.tunnel = RawTunnel(self)
        if self.buffer:
            self.tunnel.feed(self.buffer)
            self.buffer = b""
        try:
            await response.run(self.tunnel)
        except (ConnectionError, TimeoutError) as error:
            log.debug("tunnel of %s: %s", self.remote, error)
        finally:
            self._close()

    def write(self, data: bytes) -> None:
        transport = self.transport
        if transport is not None and not transport.is_closing():
            transport.write(data)

    def _refuse(self, error: ApiError) -> None:
        """An answer to what cannot be read on: then the end of the connection, after a moment of reading."""
        response = respond_error(error)
        body = response.body if isinstance(response.body, bytes) else b""
        self.write(head_of(response, True) + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        self.closing = True
        self.buffer = b""
        if self.transport is None:
            return
        if (
            error.code == 413
        ):  # the client is still sending, and would see a reset in place of the answer
            self.loop.call_later(LINGER, self.transport.close)
        else:
            self.transport.close()

    def shut(self) -> None:
        """Close now when nothing is being answered, else after the answer."""
        if self.task is None:
            self._close()


def head_of(response: Response, close: bool) -> bytes:
    """Status line and headers, without the blank line."""
    parts = [
        _STATUS.get(response.status) or b"HTTP/1.1 %d \r\n" % response.status,
        b"Date: ",
        _Date.now(),
        b"\r\n",
    ]
    if "Cache-Control" not in response.headers:
        parts.append(_COMMON)
    for name, value in response.headers.items():
        parts += [f"{name}: {line}\r\n".encode("utf-8", "replace") for line in value.split("\n")]
    if close:
        parts.append(b"Connection: close\r\n")
    return b"".join(parts)


def wants_gzip(request: Request, response: Response, body: bytes) -> bool:
    return (
        len(body) >= COMPRESS_FROM
        and request.method == "GET"
        and "gzip" in request.headers.get("accept-encoding", "")
        and "Content-Encoding" not in response.headers
    )


async def compressed(body: bytes) -> bytes:
    """gzip at its fastest, in a thread when it takes long."""

    def work() -> bytes:
        packer = zlib.compressobj(1, zlib.DEFLATED, 31)
        return packer.compress(body) + packer.flush()

    return await asyncio.to_thread(work) if len(body) > COMPRESS_IN_THREAD else work()


class HTTPServer:
    """The listening side. `bind` takes the port, `accept` starts to answer, `close` ends all."""

    def __init__(self, api: APIServer) -> None:
        self.api = api
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.heads = Heads()
        self.connections: set[Connection] = set()
        self.closing = False
        self._writes: set[asyncio.Task[Response]] = set()
        self._socket: socket.socket | None = None
        self._listener: asyncio.Server | None = None

    def bind(self, address: str, port: int) -> int:
        """The port that will be served; connections wait in the kernel until `accept`."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.setblocking(False)
            listening.bind((address, port))
        except OSError:
            listening.close()
            raise
        self._socket = listening
        found: int = listening.getsockname()[1]
        return found

    async def accept(self, pki: PKIPaths) -> None:
        assert self._socket is not None
        self._listener = await self.loop.create_server(
            lambda: Connection(self), sock=self._socket, ssl=tls_context(pki), backlog=1024
        )

    def begin(self, work: Coroutine[Any, Any, Response]) -> asyncio.Task[Response]:
        """A write, which goes on when its client is gone. `close` waits for it."""
        task = self.loop.create_task(work)
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        return task

    async def close(self) -> None:
        self.closing = True
        if self._listener is not None:
            self._listener.close()
        elif self._socket is not None:
            self._socket.close()
        for connection in list(self.connections):
            connection.shut()
        busy = [connection.task for connection in self.connections if connection.task is not None]
        waiting: list[asyncio.Task[Any]] = [*busy, *self._writes]
        if waiting:
            await asyncio.wait(waiting, timeout=SHUTDOWN)
        for connection in list(self.connections):
            if connection.task is not None:
                connection.task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([connection.task])
            if connection.transport is not None:
                connection.transport.abort()


def tls_context(pki: PKIPaths) -> ssl.SSLContext:
    """TLS 1.2 and 1.3; a client certificate is welcome, and must then be of our authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(pki.apiserver.crt, pki.apiserver.key)
    context.load_verify_locations(pki.ca.crt)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_alpn_protocols(["http/1.1"])
    return context
