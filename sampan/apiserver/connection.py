"""One client connection: a protocol object on uvloop's transport.

Requests of one connection are answered in order. What the cache can answer at once is written before `data_received`
returns; anything else runs as one task, which the connection owns and cancels when the client goes. Only a write goes on
without its client: it is owned by the server, which waits for it at the end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from sampan.apiserver.answers import (
    CONTINUE,
    ONE_PIECE,
    compressed,
    head_of,
    short_answer,
    wants_gzip,
)
from sampan.apiserver.auth import user_of_certificate
from sampan.apiserver.http1 import Malformed, Message, Reader
from sampan.apiserver.present import respond_error
from sampan.apiserver.tunnels import RawTunnel
from sampan.apiserver.upgrade import Upgrade
from sampan.client.transport import Request, Response, User
from sampan.kube import errors
from sampan.kube.errors import ApiError

if TYPE_CHECKING:
    from sampan.apiserver.http import HTTPServer

log = logging.getLogger(__name__)

IDLE = 90.0  # seconds that a connection may stay without a request
LINGER = 2.0  # seconds in which the rest of a refused body is read: the client shall see the answer
PIPELINED = 256 * 1024  # bytes taken in ahead while a request is being answered
QUERY_FIELDS = 512


class Connection(asyncio.Protocol):
    """One client connection."""

    def __init__(self, server: HTTPServer) -> None:
        self.server = server
        self.loop = server.loop
        self.transport: asyncio.Transport | None = None
        self.user: User | None = None
        self.remote = ""
        self.reader = Reader(server.blocks, server.api.config.body_limit)
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
        self.reader.close()
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
            # The other direction may go on, which TLS cannot do: asyncio would warn and close.
            return self.transport is not None and not self.transport.get_extra_info("ssl_object")
        return False

    def data_received(self, data: bytes) -> None:
        if self.tunnel is not None:
            self.tunnel.feed(data)
            return
        if self.closing:
            return
        self.last = self.loop.time()
        self.reader.feed(data)
        if self.task is None:
            self._advance()
        elif len(self.reader.rest) > PIPELINED and self.transport is not None:
            self.transport.pause_reading()

    def _advance(self) -> None:
        """Answer each request that is whole; what comes behind one that has to wait is left to the reader."""
        try:
            while not self.closing:
                message = self.reader.take()
                if message is None:
                    break
                self._answer(message)
                if self.task is not None:
                    return
        except Malformed as error:
            if error.code == 413:
                self._refuse(errors.too_large(str(error)))
            else:
                self._refuse(ApiError(error.code, "BadRequest", str(error)))
            return
        if self.reader.waits and not self.closing:
            self.reader.waits = False
            self.write(CONTINUE)

    # Answering

    def _answer(self, message: Message) -> None:
        """Answer now when the cache can, else begin the task that will."""
        path, mark, text = message.target.partition("?")
        query: list[tuple[str, str]] = []
        if mark:
            try:
                query = parse_qsl(text, keep_blank_values=True, max_num_fields=QUERY_FIELDS)
            except ValueError:
                raise Malformed("the query is malformed") from None
        if not path.startswith("/"):
            raise Malformed("the request target is malformed")
        headers, body, close = dict(message.headers), message.body, message.close
        request = Request(message.method, path, query, headers, body, self.user, remote=self.remote)
        if body:
            encoding = headers.get("content-encoding", "identity")
            if encoding not in ("identity", ""):
                text = f"content encoding {encoding} is not supported for requests"
                refused = respond_error(errors.unsupported_media_type(text))
                self.task = self.loop.create_task(self._run(request, close, refused))
                return
        elif not self.full:
            response = self.server.api.immediate(request)
            if response is not None:
                if not close and self._write_short(request, response):
                    return
                self.task = self.loop.create_task(self._run(request, close, response))
                return
        self.task = self.loop.create_task(self._run(request, close))

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
            if len(self.reader.rest) > PIPELINED:
                self.transport.resume_reading()
            self._advance()

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
        answer = None if self.full else short_answer(request, response)
        if answer is None:
            return False
        head, body = answer
        if len(body) < ONE_PIECE:
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
        if self.reader.rest:
            self.tunnel.feed(self.reader.rest)
        self.reader.close()
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
        self.reader.close()
        if self.transport is None:
            return
        if error.code == 413:  # it is still sending, and would see a reset in place of the answer
            self.loop.call_later(LINGER, self.transport.close)
        else:
            self.transport.close()

    def shut(self) -> None:
        """Close now when nothing is being answered, else after the answer."""
        if self.task is None:
            self._close()
