"""A small HTTP/1.1 server on asyncio streams, for the node's endpoint.

The endpoint has a dozen paths and three of them hand the connection over to another protocol (SPDY, WebSocket) that this
process must not touch. Here a handler gets the request head and the two streams, so handing over is nothing special,
and an edge node does without a web framework. Heads are limited, bodies are only read where a handler asks for them.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import parse_qsl, unquote, urlsplit

log = logging.getLogger(__name__)

HEAD_LIMIT = 64 * 1024
IDLE_SECONDS = 120.0


@dataclass(slots=True)
class Request:
    method: str
    path: str  # decoded
    target: str  # as sent
    query: list[tuple[str, str]]
    headers: list[tuple[str, str]]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def header(self, name: str) -> str:
        lower = name.lower()
        return next((value for key, value in self.headers if key.lower() == lower), "")

    def param(self, name: str, default: str = "") -> str:
        return next((value for key, value in self.query if key == name), default)

    def params(self, name: str) -> list[str]:
        return [value for key, value in self.query if key == name]

    def flag(self, *names: str) -> bool:
        return any(self.param(name).lower() in ("1", "true", "t", "yes") for name in names)

    def peer(self) -> list[tuple[str, str]]:
        """Subject of the verified client certificate, as (attribute, value); empty without one."""
        found = self.writer.get_extra_info("peercert") or {}
        return [pair for rdn in found.get("subject", ()) for pair in rdn]


@dataclass(slots=True)
class Response:
    status: int = 200
    body: bytes | AsyncIterator[bytes] = b""
    content_type: str = "text/plain; charset=utf-8"


TakenOver = None  # a handler that used the streams itself returns this; the connection ends with it
Handler = Callable[[Request], Awaitable[Response | None]]


class BadRequest(Exception):
    """The bytes are no HTTP request that this server takes."""


class HTTPServer:
    def __init__(self, handler: Handler, context: ssl.SSLContext | None) -> None:
        self._handler = handler
        self._context = context
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, address: str, port: int) -> int:
        """Listen; the port in use."""
        self._server = await asyncio.start_server(
            self._serve, address, port, ssl=self._context, limit=HEAD_LIMIT
        )
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while await self._serve_one(reader, writer):
                pass
        except (BadRequest, asyncio.LimitOverrunError) as error:
            await _answer(writer, Response(400, f"{error}\n".encode()), keep=False)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            log.debug("connection: %s", error)
        except Exception:
            # Root of the connection's task.
            log.exception("connection")
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """False when the connection shall end."""
        async with asyncio.timeout(IDLE_SECONDS):
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError as error:
                if error.partial:
                    raise BadRequest("incomplete request head") from error
                return False
        request = parse(head, reader, writer)
        try:
            response = await self._handler(request)
        except (OSError, asyncio.CancelledError):
            raise
        except Exception:
            # Root of one request: the next one may be luckier.
            log.exception("%s %s", request.method, request.path)
            response = Response(500, b"internal error\n")
        if response is TakenOver:
            return False
        assert response is not None
        # A body that no handler read would be taken for the next request.
        unread = request.header("content-length") not in ("", "0") or request.header(
            "transfer-encoding"
        )
        keep = not unread and request.header("connection").lower() != "close"
        await _answer(writer, response, keep=keep)
        return keep


def parse(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request:
    lines = head.decode("latin-1").split("\r\n")
    try:
        method, target, version = lines[0].split(" ")
    except ValueError:
        raise BadRequest("malformed request line") from None
    if version not in ("HTTP/1.1", "HTTP/1.0"):
        raise BadRequest(f"unsupported version {version[:16]!r}")
    headers = []
    for line in lines[1:]:
        if not line:
            continue
        name, colon, value = line.partition(":")
        if not colon or name != name.strip():
            raise BadRequest("malformed header")
        headers.append((name, value.strip()))
    parts = urlsplit(target)
    query = parse_qsl(parts.query, keep_blank_values=True)
    return Request(method, unquote(parts.path), target, query, headers, reader, writer)


async def _answer(writer: asyncio.StreamWriter, response: Response, *, keep: bool) -> None:
    phrase = HTTPStatus(response.status).phrase
    lines = [f"HTTP/1.1 {response.status} {phrase}", f"Content-Type: {response.content_type}"]
    if not keep:
        lines.append("Connection: close")
    if isinstance(response.body, bytes):
        lines.append(f"Content-Length: {len(response.body)}")
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + response.body)
        await writer.drain()
        return
    lines.append("Transfer-Encoding: chunked")
    writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
    await writer.drain()
    try:
        async for piece in response.body:
            if piece:
                writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()
    finally:
        close = getattr(response.body, "aclose", None)
        if close is not None:
            await close()
