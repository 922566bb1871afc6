"""Answers as bytes, out of heads that are bytes already. What is the same in every answer is made once.

aiohttp's own Response builds a header map and serializes it for each answer, and adds a Server line; the head of nearly
every answer here differs from the last one in its length alone.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING

from sampan.client.transport import Request, Response

if TYPE_CHECKING:
    from aiohttp.http_writer import StreamWriter

COMPRESS_FROM = 128 * 1024  # as Kubernetes: smaller answers are not worth the time
COMPRESS_IN_THREAD = 1 << 20
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_STATUS = {
    each.value: b"HTTP/1.1 %d %b\r\n" % (each.value, each.phrase.encode()) for each in HTTPStatus
}
_COMMON = b"Cache-Control: no-cache, private\r\n"
REMEMBERED = 256  # header blocks
_OWN = ("Audit-Id", "Warning")  # headers that hardly come twice


@dataclass(slots=True)
class Answer:
    """An answer as bytes; an empty head: it has been sent. After `close`, the connection ends."""

    status: int
    head: bytes
    body: bytes = b""
    close: bool = False


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


_blocks: dict[tuple[tuple[str, str], ...], bytes] = {}


def _block(headers: dict[str, str]) -> bytes:
    """Headers as lines. Most answers have the same ones."""
    key = tuple(headers.items())
    block = _blocks.get(key)
    if block is None:
        lines = [b"" if "Cache-Control" in headers else _COMMON]
        for name, value in key:
            lines += [
                f"{name}: {line}\r\n".encode("utf-8", "replace") for line in value.split("\n")
            ]
        block = b"".join(lines)
        if not any(name in headers for name in _OWN):
            if len(_blocks) >= REMEMBERED:
                _blocks.clear()
            _blocks[key] = block
    return block


def head_of(response: Response, close: bool) -> bytes:
    """Status line and headers, without the blank line."""
    return b"%bDate: %b\r\n%b%b" % (
        _STATUS.get(response.status) or b"HTTP/1.1 %d \r\n" % response.status,
        _Date.now(),
        _block(response.headers),
        b"Connection: close\r\n" if close else b"",
    )


def whole(response: Response, *, close: bool, head_only: bool = False) -> Answer:
    """Any answer whose body is bytes. `head_only`: to HEAD."""
    head, body = head_of(response, close), response.body
    assert isinstance(body, bytes)
    if response.status in (204, 304):
        return Answer(response.status, head + b"\r\n", close=close)
    head += b"Content-Length: %d\r\n\r\n" % len(body)
    return Answer(response.status, head, b"" if head_only else body, close=close)


def wants_gzip(request: Request, response: Response, body: bytes) -> bool:
    return (
        len(body) >= COMPRESS_FROM
        and request.method == "GET"
        and "gzip" in request.headers.get("accept-encoding", "")
        and "Content-Encoding" not in response.headers
    )


async def send_packed(response: Response, body: bytes, close: bool) -> Answer:
    """An answer with gzip at its fastest, in a thread when it takes long."""

    def work() -> bytes:
        packer = zlib.compressobj(1, zlib.DEFLATED, 31)
        return packer.compress(body) + packer.flush()

    packed = await asyncio.to_thread(work) if len(body) > COMPRESS_IN_THREAD else work()
    headers = response.headers | {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
    return whole(Response(response.status, headers, packed), close=close)


async def stream(
    writer: StreamWriter,
    response: Response,
    body: AsyncIterator[bytes],
    *,
    chunked: bool,
    close: bool,
    head_only: bool,
) -> Answer:
    """Send an answer while it comes, each piece as a chunk of its own; not `chunked`, it ends with the connection."""
    close = close or not chunked
    try:
        head = head_of(response, close)
        await writer.write(head + (b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"\r\n"))
        if not head_only:
            if chunked:
                writer.enable_chunking()
            async for part in body:
                if part:
                    await writer.write(part)
            await writer.write_eof()
    finally:
        await response.aclose()
    return Answer(response.status, b"", close=close)
