"""Hands an upgraded connection on: the request head is sent again to the runtime's streaming URL, then bytes go both ways.

Whatever protocol the two ends speak (SPDY/3.1, WebSocket with any subprotocol) passes untouched.
"""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from sampan.node.http import Request

BLOCK = 64 * 1024
# What belongs to one hop or says who the caller was; the streaming URL is its own permission.
_DROPPED = {"host", "authorization", "x-forwarded-for", "content-length", "transfer-encoding"}


async def hand_over(request: Request, url: str) -> None:
    """Return when both directions have ended. Raises OSError when the runtime cannot be reached."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        lines = [f"{request.method} {target} HTTP/1.1", f"Host: {parts.netloc}"]
        lines += [f"{k}: {v}" for k, v in request.headers if k.lower() not in _DROPPED]
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        await writer.drain()
        await join(request.take_over(), (reader, writer))
    finally:
        writer.close()


End = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def join(client: End, server: End) -> None:
    """Copy until the server's side ends; the client's end is passed on and does not end what it still may read."""
    upstream = asyncio.ensure_future(_copy(client[0], server[1]))
    try:
        await _copy(server[0], client[1])
    finally:
        upstream.cancel()
        await asyncio.gather(upstream, return_exceptions=True)


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(BLOCK):
            sink.write(data)
            await sink.drain()
        if sink.can_write_eof():
            sink.write_eof()
    except (ConnectionError, asyncio.IncompleteReadError):
        return
