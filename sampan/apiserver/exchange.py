"""One request over HTTP and its answer: what aiohttp's parser read made into a Request, the pipeline asked, its answer as bytes.

What the cache can answer at once is answered without waiting for anything. A read is cancelled when its client goes; a
write goes on without it, and the server waits for it at the end.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from aiohttp.http_writer import HttpVersion10, HttpVersion11

from sampan.apiserver.answers import CONTINUE, Answer, send_packed, stream, wants_gzip, whole
from sampan.apiserver.connection import Connection, malformed, refusal
from sampan.apiserver.present import respond_error
from sampan.apiserver.upgrade import StreamTunnel, Upgrade
from sampan.client.takeover import take_over
from sampan.client.transport import Request, Response
from sampan.kube import errors
from sampan.kube.errors import ApiError

if TYPE_CHECKING:
    from aiohttp.http_parser import RawRequestMessage
    from aiohttp.streams import StreamReader

    from sampan.apiserver.server import APIServer

RawHeaders = tuple[tuple[bytes, bytes], ...]

log = logging.getLogger(__name__)

QUERY_FIELDS = 512
REMEMBERED = 1024  # header blocks
_JOINED_BY_LINES = "impersonate-"  # whose values may hold commas
READS = ("GET", "HEAD")
# A request with one of these is the last of its connection. aiohttp 3.14 reads on behind an upgrade only when it was one to
# WebSocket, and takes the trailer behind a chunked body for a header of the next request.
LAST = frozenset(("upgrade", "transfer-encoding"))


class Exchange:
    def __init__(self, api: APIServer, loop: asyncio.AbstractEventLoop) -> None:
        self.api = api
        self.loop = loop
        # A Kubernetes client sends the same headers with every request, but for the length of its body.
        self._blocks: dict[RawHeaders, dict[str, str]] = {}
        self._running: dict[asyncio.Task[Any], float] = {}  # and when they began, oldest first
        self._expired: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def answer(
        self, connection: Connection, message: RawRequestMessage, content: StreamReader
    ) -> Answer:
        """The answer to one request, whose body is `content`."""
        try:
            request = self._request(connection, message)
            if content.is_eof():
                request.body = content.read_nowait()
            else:
                request.body = await self._body(connection, message, content)
            if request.body:
                self._check_body(request)
            else:
                response = self.api.immediate(request)
                if response is not None:
                    return await self._prepared(connection, message, request, response)
        except ApiError as error:
            return refusal(error)
        # A write goes on when its client has gone: what was begun may be durable already.
        connection.ends_with_client = request.method in READS or "upgrade" in request.headers
        response = await self._timed(request)
        return await self._prepared(connection, message, request, response)

    # The request

    def _request(self, connection: Connection, message: RawRequestMessage) -> Request:
        """Raises ApiError for what aiohttp's parser lets pass and this server does not."""
        target = message.path
        if not target.startswith("/") or not target.isascii():
            raise malformed("the request target")
        path, mark, text = target.partition("?")
        query: list[tuple[str, str]] = []
        if mark:
            try:
                query = parse_qsl(text, keep_blank_values=True, max_num_fields=QUERY_FIELDS)
            except ValueError:
                raise malformed("the query") from None
        raw = message.raw_headers
        length = message.headers.get("content-length")
        if length is not None:
            raw = tuple([pair for pair in raw if pair[0].lower() != b"content-length"])
        headers = self._blocks.get(raw)
        if headers is None:
            headers = self._headers(message, raw)
        headers = dict(headers)
        if length is not None:
            headers["content-length"] = length
        return Request(
            message.method,
            path,
            query,
            headers,
            b"",
            connection.user,
            False,
            connection.remote,
        )

    def _headers(self, message: RawRequestMessage, raw: RawHeaders) -> dict[str, str]:
        """Lower-case names, repeats joined; `raw` is all but Content-Length, of which the parser allows one."""
        found: dict[str, str] = {}
        for name, value in raw:
            key = name.decode("ascii").lower()
            text = value.decode("utf-8", "replace")
            if key in found:
                text = found[key] + ("\n" if key.startswith(_JOINED_BY_LINES) else ", ") + text
            found[key] = text
        version = message.version
        if version not in (HttpVersion11, HttpVersion10):
            raise malformed(f"HTTP/{version.major}.{version.minor} is not spoken here")
        coding = found.get("transfer-encoding")
        if coding is not None:
            # RFC 9112 §6.1: what is ambiguous is refused, not repaired. Request smuggling lives there.
            if version == HttpVersion10:
                raise malformed("HTTP/1.0 knows no transfer encoding")
            if coding.lower() != "chunked":
                raise malformed("the transfer encoding is not supported", 501)
        elif version == HttpVersion11:
            if len(self._blocks) >= REMEMBERED:
                self._blocks.clear()
            self._blocks[raw] = found
        return found

    async def _body(
        self, connection: Connection, message: RawRequestMessage, content: StreamReader
    ) -> bytes:
        """The body as it comes. Raises ApiError."""
        limit = self.api.config.body_limit
        if int(message.headers.get("content-length", "0")) > limit:
            raise errors.too_large(f"limit is {limit}")
        if message.headers.get("expect", "").lower() == "100-continue" and connection.transport:
            connection.transport.write(CONTINUE)
        parts, size = [], 0
        connection.reading = content
        try:
            async with asyncio.timeout(self.api.config.request_timeout):
                while part := await content.readany():
                    size += len(part)
                    if size > limit:
                        raise errors.too_large(f"limit is {limit}")
                    parts.append(part)
        except TimeoutError:
            raise errors.timeout("the body of the request did not come in time") from None
        finally:
            connection.reading = None
        return b"".join(parts)

    def _check_body(self, request: Request) -> None:
        limit = self.api.config.body_limit
        if len(request.body) > limit:
            raise errors.too_large(f"limit is {limit}")
        encoding = request.headers.get("content-encoding", "identity")
        if encoding not in ("identity", ""):
            text = f"content encoding {encoding} is not supported for requests"
            raise errors.unsupported_media_type(text)

    async def _timed(self, request: Request) -> Response:
        """The pipeline's answer within the time that a request may take (a stream has begun by then).

        As `asyncio.timeout`, for a tenth of its cost: one timer for all requests, set for the one that began first.
        """
        task = asyncio.current_task(self.loop)
        assert task is not None
        self._running[task] = self.loop.time()
        if self._timer is None:
            self._timer = self.loop.call_later(self.api.config.request_timeout, self._expire)
        try:
            return await self.api.handle(request)
        except asyncio.CancelledError:
            if task not in self._expired or task.uncancel():
                raise
            timeout = self.api.config.request_timeout
            text = f"request did not complete within requested timeout - context deadline exceeded ({timeout:g}s)"
            return respond_error(errors.timeout(text))
        finally:
            self._running.pop(task, None)
            self._expired.discard(task)

    def _expire(self) -> None:
        """Cancel what has run for too long; come back when the next will have."""
        self._timer = None
        now, timeout = self.loop.time(), self.api.config.request_timeout
        for task, began in list(self._running.items()):
            left = began + timeout - now
            if left > 0:
                self._timer = self.loop.call_later(left, self._expire)
                return
            del self._running[task]
            self._expired.add(task)
            task.cancel()

    def close(self) -> None:
        """Nothing runs any more."""
        if self._timer is not None:
            self._timer.cancel()

    # The answer

    async def _prepared(
        self,
        connection: Connection,
        message: RawRequestMessage,
        request: Request,
        response: Response,
    ) -> Answer:
        """Ready to be sent, or sent already when it is a stream."""
        if isinstance(response, Upgrade):
            return await _hand_over(connection, response)
        close = message.should_close or self.api.closing or not LAST.isdisjoint(request.headers)
        body = response.body
        head_only = request.method == "HEAD"
        if not isinstance(body, bytes):
            chunked = message.version == HttpVersion11
            return await stream(
                connection.writer(),
                response,
                body,
                chunked=chunked,
                close=close,
                head_only=head_only,
            )
        if wants_gzip(request, response, body):
            return await send_packed(response, body, close)
        return whole(response, close=close, head_only=head_only)


async def _hand_over(connection: Connection, response: Upgrade) -> Answer:
    """The connection stops being HTTP: what comes is the tunnel's, and the end of the tunnel is its end."""
    tunnel = StreamTunnel(*take_over(connection))
    try:
        await response.run(tunnel)
    except (ConnectionError, TimeoutError) as error:
        log.debug("tunnel of %s: %s", connection.remote, error)
    finally:
        tunnel.close()
    return Answer(101, b"", close=True)
