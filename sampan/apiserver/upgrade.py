"""The hook for connections that stop being HTTP: exec, attach, port-forward.

A handler that answers with `Upgrade` gets the raw connection after the request: it writes everything from the status
line on, and the HTTP server never speaks on it again. `Tunnel` is the connection as two plain byte directions.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

from sampan.client.transport import Response

CHUNK = 64 * 1024


class Tunnel(Protocol):
    """What is left of a connection after its Upgrade request."""

    async def read(self) -> bytes:
        """Some bytes from the client; b"" when it has closed its side."""
        ...

    def write(self, data: bytes) -> None:
        """Send to the client. Bytes go out in order; nothing happens when it is gone."""
        ...

    async def drain(self) -> None:
        """Wait while the client reads too slowly. Raises ConnectionError when it is gone."""
        ...

    def close(self) -> None:
        """Flush and close. Idempotent."""
        ...


class StreamTunnel:
    """A tunnel over asyncio's streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def read(self) -> bytes:
        return await self.reader.read(CHUNK)

    def write(self, data: bytes) -> None:
        if not self.writer.is_closing():
            self.writer.write(data)

    async def drain(self) -> None:
        await self.writer.drain()

    def close(self) -> None:
        self.writer.close()


class Upgrade(Response):
    """An answer that is the raw connection: `run(tunnel)` owns it until it returns, then it is closed.

    When `run` is cancelled, the client went away or the server stops. Callers in the same process have no connection to
    give and see status 101 with an empty body.
    """

    def __init__(self, run: Callable[[Tunnel], Awaitable[None]]) -> None:
        body: bytes | AsyncIterator[bytes] = b""
        super().__init__(101, {}, body)
        self.run = run
