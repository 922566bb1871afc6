"""A connection of aiohttp's server, taken over after an Upgrade request: from then on it is two plain streams.

The reader takes the place that aiohttp gives to a WebSocket's (`RequestHandler.set_parser`): it is fed every byte that comes,
and the end of the connection. Both the API server's port and the node's hand connections over in this way.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from aiohttp.web_protocol import RequestHandler

LIMIT = 128 * 1024  # bytes; twice as much is taken in ahead of the reader

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def take_over(connection: RequestHandler) -> Streams:
    """The connection, whose present request gets no answer but what is written here. Raises ConnectionError."""
    transport = connection.transport
    if transport is None:
        raise ConnectionResetError("the client closed the connection")
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=LIMIT, loop=loop)
    reader.set_transport(transport)
    writer = asyncio.StreamWriter(transport, connection, reader, loop)
    connection.set_parser(cast(Any, _Feeder(reader)))
    return reader, writer


class _Feeder:
    """What aiohttp calls."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self.reader = reader

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.reader.feed_data(data)
        return False, b""

    def feed_eof(self) -> None:
        self.reader.feed_eof()
