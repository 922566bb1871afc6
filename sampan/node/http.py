"""HTTP for the node's endpoint: aiohttp's low-level server, without its router and application.

The endpoint has a dozen paths, and three of them hand the connection over to another protocol (SPDY, WebSocket) that this
process must not touch. A handler is given plain values and answers with them; bodies are only read where it asks for them.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote

from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response as Answer
from aiohttp.web_response import StreamResponse
from aiohttp.web_server import Server

from sampan.client.takeover import Streams, take_over

log = logging.getLogger(__name__)

IDLE_SECONDS = 120.0
LINE_LIMIT = 256 * 1024  # `kubectl exec` sends its command in the query


@dataclass(slots=True)
class Request:
    method: str
    path: str  # decoded
    target: str  # as sent
    query: list[tuple[str, str]]
    headers: list[tuple[str, str]]
    asked: BaseRequest

    def header(self, name: str) -> str:
        return self.asked.headers.get(name, "")

    def param(self, name: str, default: str = "") -> str:
        return next((value for key, value in self.query if key == name), default)

    def params(self, name: str) -> list[str]:
        return [value for key, value in self.query if key == name]

    def flag(self, *names: str) -> bool:
        return any(self.param(name).lower() in ("1", "true", "t", "yes") for name in names)

    def peer(self) -> list[tuple[str, str]]:
        """Subject of the verified client certificate, as (attribute, value); empty without one."""
        transport = self.asked.transport
        found = (transport.get_extra_info("peercert") if transport is not None else None) or {}
        return [pair for rdn in found.get("subject", ()) for pair in rdn]

    def take_over(self) -> Streams:
        """The raw connection; the handler then returns TakenOver. Raises ConnectionError."""
        return take_over(self.asked.protocol)


@dataclass(slots=True)
class Response:
    status: int = 200
    body: bytes | AsyncIterator[bytes] = b""
    content_type: str = "text/plain; charset=utf-8"


TakenOver = (
    None  # a handler that took the connection over returns this; the connection ends with it
)
Handler = Callable[[Request], Awaitable[Response | None]]


class Connection(RequestHandler):
    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> StreamResponse:
        """What is no request, or what a handler did not foresee: the next request may be luckier."""
        if isinstance(exc, ConnectionError):
            raise exc
        if status >= 500:
            log.error("%s %s", request.method, request.path, exc_info=exc)
            message = "internal error"
        if request.writer.output_size:
            raise ConnectionError("an answer broke off") from exc
        answer = Answer(status=status, text=(message or "").partition("\n")[0] + "\n")
        answer.force_close()
        return answer


class Door(Server):
    def __call__(self) -> Connection:
        return Connection(
            self,
            loop=self._loop,
            access_log=None,  # type: ignore[arg-type]  # aiohttp's own way to say none
            keepalive_timeout=IDLE_SECONDS,
            max_line_size=LINE_LIMIT,
            auto_decompress=False,
            logger=log,
        )


class HTTPServer:
    def __init__(self, handler: Handler, context: ssl.SSLContext | None) -> None:
        self._handler = handler
        self._context = context
        self._door: Door | None = None
        self._listener: asyncio.Server | None = None

    async def start(self, address: str, port: int) -> int:
        """Listen; the port in use."""
        self._door = Door(self._answer, handler_cancellation=True)
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._door, address, port, ssl=self._context)
        return int(self._listener.sockets[0].getsockname()[1])

    async def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        if self._door is not None:
            self._door.pre_shutdown()
            await self._door.shutdown(0)

    async def _answer(self, asked: BaseRequest) -> StreamResponse:
        path, _, text = asked.raw_path.partition("?")
        headers = [
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in asked.raw_headers
        ]
        query = parse_qsl(text, keep_blank_values=True)
        request = Request(asked.method, unquote(path), asked.raw_path, query, headers, asked)
        response = await self._handler(request)
        if response is TakenOver:
            return _Gone()
        assert response is not None
        fields = {"Content-Type": response.content_type}
        if isinstance(response.body, bytes):
            return Answer(status=response.status, headers=fields, body=response.body)
        return await _stream(asked, response.status, fields, response.body)


class _Gone(StreamResponse):
    """In place of an answer on a connection that was taken over: it says nothing, and ends the connection."""

    async def prepare(self, request: BaseRequest) -> None:
        self.force_close()

    async def write_eof(self, data: bytes = b"") -> None:
        return


async def _stream(
    asked: BaseRequest, status: int, fields: dict[str, str], body: AsyncIterator[bytes]
) -> StreamResponse:
    answer = StreamResponse(status=status, headers=fields)
    try:
        await answer.prepare(asked)
        async for piece in body:
            if piece:
                await answer.write(piece)
        await answer.write_eof()
    finally:
        close = getattr(body, "aclose", None)
        if close is not None:
            await close()
    return answer
