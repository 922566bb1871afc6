"""HTTPS around the pipeline: aiohttp's HTTP parser (llhttp), our own protocol on uvloop's transport.

aiohttp's server objects (request, response, payload writer) cost more than a whole GET from the watch cache, so a
connection here parses with aiohttp, hands the pipeline plain dataclasses, and writes status line, headers and body as bytes.
Requests of one connection are answered in order; a task exists only while one is being answered.

A client sends the same header block with every request. A block that llhttp has parsed once is remembered whole, so that the
next plain GET with these very bytes costs one dictionary look-up (`_shortcut`); anything else goes through the parser.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import time
import zlib
from collections import deque
from collections.abc import AsyncIterator
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser, RawRequestMessage
from aiohttp.streams import StreamReader

from sampan.apiserver.auth import user_of_certificate
from sampan.apiserver.present import respond_error
from sampan.apiserver.upgrade import Upgrade
from sampan.client.transport import Request, Response, User
from sampan.kube import errors

if TYPE_CHECKING:
    from sampan.apiserver.pki import PKIPaths
    from sampan.apiserver.server import APIServer

log = logging.getLogger(__name__)

IDLE = 90.0  # seconds that a connection may stay without a request
SHUTDOWN = 5.0  # seconds that requests get to finish when the server stops
HEAD_LIMIT = 65536
COMPRESS_FROM = 128 * 1024  # as Kubernetes: smaller answers are not worth the time
COMPRESS_IN_THREAD = 1 << 20
REMEMBERED_BLOCKS = 1024
_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
_STATUS = {code: b"HTTP/1.1 %d %b\r\n" % (code, phrase) for code, phrase in _REASONS.items()}
_COMMON = b"Cache-Control: no-cache, private\r\n"
_JSON_OK = (
    _STATUS[200]
    + _COMMON
    + b"Content-Type: application/json\r\nDate: %b\r\nContent-Length: %d\r\n\r\n"
)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_JSON = {"Content-Type": "application/json"}
_JOINED_BY_LINES = ("impersonate-",)


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


class Connection(BaseProtocol):
    """One client connection."""

    def __init__(self, server: HTTPServer) -> None:
        super().__init__(server.loop)
        self.server = server
        self.user: User | None = None
        self.remote = ""
        self.queue: deque[tuple[RawRequestMessage, StreamReader]] = deque()
        self.task: asyncio.Task[None] | None = None
        self.clean = True  # the parser stands between two requests
        self.closing = False
        self.tunnel: _Tunnel | None = None
        self.last = 0.0
        self.timer: asyncio.TimerHandle | None = None
        self.parser = self._parser = self._new_parser()

    def _new_parser(self) -> Any:
        return HttpRequestParser(
            self,
            self._loop,
            2**16,
            max_line_size=HEAD_LIMIT,
            max_field_size=HEAD_LIMIT,
            payload_exception=ConnectionError,
            auto_decompress=False,
        )

    # The transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.server.connections.add(self)
        certificate = transport.get_extra_info("peercert")
        self.user = user_of_certificate(certificate)
        peer = transport.get_extra_info("peername")
        self.remote = peer[0] if isinstance(peer, tuple) else ""
        self.last = self._loop.time()
        self.timer = self._loop.call_later(IDLE, self._check_idle)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self.server.connections.discard(self)
        if self.timer is not None:
            self.timer.cancel()
        if self.tunnel is not None:
            self.tunnel.feed_eof()
        if self.task is not None:
            self.task.cancel()
        for _, payload in self.queue:
            payload.set_exception(ConnectionError("the client closed the connection"))
        self.queue.clear()
        with contextlib.suppress(Exception):
            self.parser.feed_eof()

    def _check_idle(self) -> None:
        if self.transport is None:
            return
        left = self.last + IDLE - self._loop.time()
        if self.task is not None:
            left = IDLE
        elif left <= 0:
            self.transport.close()
            return
        self.timer = self._loop.call_later(left, self._check_idle)

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
        self.last = self._loop.time()
        idle = self.clean and self.task is None
        plain = data.startswith(b"GET ") and data.endswith(b"\r\n\r\n")
        if idle and plain and self._shortcut(data):
            return
        self.clean = False
        try:
            messages, upgraded, tail = self.parser.feed_data(data)
        except HttpProcessingError as error:
            self._refuse(str(error.message or "malformed request"))
            return
        except Exception as error:  # the parser's own errors have no common root
            log.debug("malformed request from %s: %r", self.remote, error)
            self._refuse("malformed request")
            return
        if len(messages) == 1 and not self.queue:
            message, payload = messages[0]
            if plain and idle and message.method == "GET" and not message.upgrade:
                # One whole request and nothing after it, when the blank line is the only one.
                if data.index(b"\r\n\r\n") == len(data) - 4 and not message.should_close:
                    self.clean = True
                    self.server.remember(data, message)
            elif payload.is_eof() and not message.upgrade:
                self.clean = _ends_here(data, message) and idle
        self.queue.extend(messages)
        if upgraded and tail:
            self.early = tail
        if self.queue and self.task is None:
            self.task = self._loop.create_task(self._serve())

    early = b""  # bytes that came right behind an Upgrade request

    def _shortcut(self, data: bytes) -> bool:
        """Answer a plain GET whose header block is known, at once when the cache can. False: not ours to answer."""
        line, _, block = data.partition(b"\r\n")
        headers = self.server.blocks.get(block)
        if headers is None or not line.endswith(b" HTTP/1.1"):
            return False
        target = line[4:-9]
        if not target.startswith(b"/") or b" " in target or not target.isascii():
            return False
        request = self._request("GET", target.decode("ascii"), headers)
        if request is None:
            return False
        response = self.server.api.immediate(request)
        if response is not None and self._write_short(request, response):
            return True
        self.task = self._loop.create_task(self._serve_one(request))
        return True

    def _request(self, method: str, target: str, headers: dict[str, str]) -> Request | None:
        path, mark, text = target.partition("?")
        if "#" in path or any(char < "!" or char == "\x7f" for char in path):
            return None
        query: list[tuple[str, str]] = []
        if mark:
            try:
                query = parse_qsl(
                    text.partition("#")[0], keep_blank_values=True, max_num_fields=512
                )
            except ValueError:
                return None
        return Request(
            method, path, query, headers, b"", self._certified(headers), remote=self.remote
        )

    def _certified(self, headers: dict[str, str]) -> User | None:
        """The certificate's user. Impersonation is left to the pipeline, which asks this user's rights."""
        return self.user

    # Answering

    async def _serve(self) -> None:
        try:
            while self.queue and not self.closing:
                message, payload = self.queue.popleft()
                await self._one(message, payload)
        except asyncio.CancelledError:
            if self.transport is not None:
                self.transport.abort()
            raise
        except Exception:
            log.exception("connection of %s", self.remote)
            if self.transport is not None:
                self.transport.abort()
        finally:
            self.task = None
            self.last = self._loop.time()

    async def _serve_one(self, request: Request) -> None:
        """A request that came by the shortcut and has to wait for something."""
        try:
            await self._respond(request, False)
        except asyncio.CancelledError:
            if self.transport is not None:
                self.transport.abort()
            raise
        except Exception:
            log.exception("%s %s", request.method, request.path)
            if self.transport is not None:
                self.transport.abort()
        finally:
            self.task = None
            self.last = self._loop.time()
        if self.queue and not self.closing and self.transport is not None:
            self.task = self._loop.create_task(self._serve())

    async def _one(self, message: RawRequestMessage, payload: StreamReader) -> None:
        headers = plain_headers(message)
        request = self._request(message.method, message.path, headers)
        close = message.should_close
        if request is None:
            self._refuse("the request target is malformed")
            return
        limit = self.server.api.config.body_limit
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > limit:
            await self._too_large(request, payload, limit)
            return
        if not payload.is_eof() or payload.total_bytes:
            if headers.get("expect", "").lower() == "100-continue" and not payload.is_eof():
                self._write(_CONTINUE)
            body = await read_body(payload, limit)
            if body is None:
                await self._too_large(request, payload, limit)
                return
            encoding = headers.get("content-encoding", "")
            if encoding and encoding != "identity":
                error = errors.unsupported_media_type(
                    f"content encoding {encoding} is not supported for requests"
                )
                await self._send(request, respond_error(error), close)
                return
            request.body = body
        await self._respond(request, close)

    async def _too_large(self, request: Request, payload: StreamReader, limit: int) -> None:
        error = errors.too_large(f"limit is {limit}")
        await self._send(request, respond_error(error), True)
        # The client is still sending: take in a little more, or it sees a reset in place of the answer.
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(2.0):
                while not payload.is_eof():
                    await payload.readany()
        if self.transport is not None:
            self.transport.close()

    async def _respond(self, request: Request, close: bool) -> None:
        response = self.server.api.immediate(request)
        if response is None:
            # The client may go at any time; what a write began is finished all the same.
            if request.method in ("GET", "HEAD"):
                response = await self._timed(request)
            else:
                response = await asyncio.shield(self.server.begin(self._timed(request)))
        await self._send(request, response, close)

    async def _timed(self, request: Request) -> Response:
        timeout = self.server.api.config.request_timeout
        try:
            async with asyncio.timeout(timeout):
                return await self.server.api.handle(request)
        except TimeoutError:
            error = errors.timeout(
                f"request did not complete within requested timeout - context deadline exceeded ({timeout:g}s)"
            )
            return respond_error(error)

    async def _send(self, request: Request, response: Response, close: bool) -> None:
        if self.transport is None:
            await response.aclose()
            return
        if isinstance(response, Upgrade):
            await self._tunnel(response)
            return
        close = close or self.server.closing
        if isinstance(response.body, bytes):
            if not close and self._write_short(request, response):
                return
            body = response.body
            extra = b""
            if wants_gzip(request, response):
                body = await compressed(body)
                extra = b"Content-Encoding: gzip\r\nVary: Accept-Encoding\r\n"
            head = self._head(response, close) + extra + b"Content-Length: %d\r\n\r\n" % len(body)
            if request.method == "HEAD" or response.status in (204, 304):
                body = b""
            self._write(head + body if len(body) < 65536 else head)
            if len(body) >= 65536:
                self._write(body)
            await self._drain_helper()
        else:
            await self._stream(request, response, response.body)
        if close:
            self.closing = True
            if self.transport is not None:
                self.transport.close()

    def _write_short(self, request: Request, response: Response) -> bool:
        """Write an ordinary JSON answer in one piece; False when it is not one."""
        body = response.body
        if response.status != 200 or response.headers != _JSON or not isinstance(body, bytes):
            return False
        if len(body) >= COMPRESS_FROM and "accept-encoding" in request.headers:
            return False
        if request.method == "HEAD" or self._paused:
            return False
        head = _JSON_OK % (_Date.now(), len(body))
        if len(body) < 65536:
            self._write(head + body)
        else:
            self._write(head)
            self._write(body)
        return True

    def _head(self, response: Response, close: bool) -> bytes:
        """Status line and headers, without the blank line."""
        status = _STATUS.get(response.status) or b"HTTP/1.1 %d \r\n" % response.status
        parts = [status, b"Date: ", _Date.now(), b"\r\n"]
        headers = response.headers
        if "Cache-Control" not in headers:
            parts.append(_COMMON)
        for name, value in headers.items():
            for line in value.split("\n") if "\n" in value else (value,):
                text = f"{name}: {line}\r\n"
                parts.append(text.encode("latin-1", "replace"))
        if close:
            parts.append(b"Connection: close\r\n")
        return b"".join(parts)

    async def _stream(
        self, request: Request, response: Response, body: AsyncIterator[bytes]
    ) -> None:
        self._write(self._head(response, False) + b"Transfer-Encoding: chunked\r\n\r\n")
        try:
            if request.method != "HEAD":
                async for part in body:
                    if part:
                        self._write(b"%x\r\n%b\r\n" % (len(part), part))
                        await self._drain_helper()
            self._write(b"0\r\n\r\n")
        except ConnectionError:
            return
        finally:
            await response.aclose()

    async def _tunnel(self, response: Upgrade) -> None:
        self.tunnel = _Tunnel(self)
        if self.early:
            self.tunnel.feed(self.early)
            self.early = b""
        try:
            await response.run(self.tunnel)
        except (ConnectionError, TimeoutError) as error:
            log.debug("tunnel of %s: %s", self.remote, error)
        finally:
            self.closing = True
            self.tunnel.close()

    def _write(self, data: bytes) -> None:
        transport = self.transport
        if transport is not None and not transport.is_closing():
            transport.write(data)

    def _refuse(self, why: str) -> None:
        """What is no HTTP gets a 400 and the end of the connection."""
        response = respond_error(errors.bad_request(why))
        body = response.body if isinstance(response.body, bytes) else b""
        self._write(self._head(response, True) + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self.closing = True
        if self.transport is not None:
            self.transport.close()

    def shut(self) -> None:
        """Close now when nothing is being answered, else after the answer."""
        if self.task is None and self.transport is not None:
            self.transport.close()


class _Tunnel:
    """See `upgrade.Tunnel`."""

    LIMIT = 256 * 1024

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.parts: deque[bytes] = deque()
        self.size = 0
        self.ended = False
        self.waiter: asyncio.Future[None] | None = None
        self.held = False

    def feed(self, data: bytes) -> None:
        self.parts.append(data)
        self.size += len(data)
        if self.size > self.LIMIT and not self.held and self.connection.transport is not None:
            self.held = True
            self.connection.transport.pause_reading()
        self._wake()

    def feed_eof(self) -> None:
        self.ended = True
        self._wake()

    def _wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    async def read(self) -> bytes:
        while not self.parts:
            if self.ended:
                return b""
            self.waiter = asyncio.get_running_loop().create_future()
            try:
                await self.waiter
            finally:
                self.waiter = None
        data = self.parts.popleft()
        self.size -= len(data)
        if self.held and self.size < self.LIMIT // 2 and self.connection.transport is not None:
            self.held = False
            self.connection.transport.resume_reading()
        return data

    def write(self, data: bytes) -> None:
        self.connection._write(data)

    async def drain(self) -> None:
        await self.connection._drain_helper()

    def close(self) -> None:
        if self.connection.transport is not None:
            self.connection.transport.close()


def plain_headers(message: RawRequestMessage) -> dict[str, str]:
    """Header names in lower case; repeats joined by a comma (RFC 9110 §5.3), impersonation's by newlines."""
    found: dict[str, str] = {}
    for raw_name, raw_value in message.raw_headers:
        name = raw_name.decode("latin-1").lower()
        value = raw_value.decode("utf-8", "replace")
        if name in found:
            glue = "\n" if name.startswith(_JOINED_BY_LINES) else ", "
            found[name] += glue + value
        else:
            found[name] = value
    return found


def _ends_here(data: bytes, message: RawRequestMessage) -> bool:
    """Did this one segment hold exactly this request, body included?"""
    head = data.find(b"\r\n\r\n")
    length = message.headers.get("Content-Length", "")
    return head > 0 and length.isdigit() and head + 4 + int(length) == len(data)


async def read_body(payload: StreamReader, limit: int) -> bytes | None:
    """The whole body; None when it is larger than `limit`. Raises ConnectionError."""
    parts: list[bytes] = []
    size = 0
    while True:
        part = await payload.readany()
        if not part:
            return parts[0] if len(parts) == 1 else b"".join(parts)
        size += len(part)
        if size > limit:
            return None
        parts.append(part)


def wants_gzip(request: Request, response: Response) -> bool:
    return (
        len(response.body) >= COMPRESS_FROM  # type: ignore[arg-type]
        and "gzip" in request.headers.get("accept-encoding", "")
        and "Content-Encoding" not in response.headers
        and request.method == "GET"
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
        self.loop = asyncio.get_event_loop()
        self.connections: set[Connection] = set()
        self.blocks: dict[bytes, dict[str, str]] = {}
        self.closing = False
        self._writes: set[asyncio.Task[Response]] = set()
        self._socket: socket.socket | None = None
        self._listener: asyncio.Server | None = None

    async def bind(self, address: str, port: int) -> int:
        """The port that will be served; connections wait in the kernel until `accept`."""
        self.loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setblocking(False)
        try:
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

    def remember(self, data: bytes, message: RawRequestMessage) -> None:
        """Keep a header block that llhttp found to be one plain request."""
        if len(self.blocks) >= REMEMBERED_BLOCKS:
            self.blocks.clear()
        block = data.partition(b"\r\n")[2]
        headers = plain_headers(message)
        if (
            "expect" not in headers
            and "content-length" not in headers
            and "transfer-encoding" not in headers
        ):
            self.blocks[block] = headers

    def begin(self, work: Any) -> asyncio.Task[Response]:
        """A write, which goes on when its client is gone. `close` waits for it."""
        task: asyncio.Task[Response] = self.loop.create_task(work)
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
        waiting = [*busy, *self._writes]
        if waiting:
            await asyncio.wait(waiting, timeout=SHUTDOWN)
        tasks = []
        for connection in list(self.connections):
            if connection.task is not None:
                connection.task.cancel()
                tasks.append(connection.task)
            if connection.transport is not None:
                connection.transport.abort()
        await asyncio.gather(*tasks, return_exceptions=True)


def tls_context(pki: PKIPaths) -> ssl.SSLContext:
    """TLS 1.2 and 1.3; a client certificate is welcome, and must then be of our authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(pki.apiserver.crt, pki.apiserver.key)
    context.load_verify_locations(pki.ca.crt)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_alpn_protocols(["http/1.1"])
    return context
