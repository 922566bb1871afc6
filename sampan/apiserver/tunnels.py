"""The raw connection behind an Upgrade request: see `upgrade.Tunnel`, which this implements."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sampan.apiserver.connection import Connection

LIMIT = 256 * 1024  # bytes taken in ahead of the reader


class RawTunnel:
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
        transport = self.connection.transport
        if self.size > LIMIT and not self.held and transport is not None:
            self.held = True
            transport.pause_reading()
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
        transport = self.connection.transport
        if self.held and self.size < LIMIT // 2 and transport is not None:
            self.held = False
            transport.resume_reading()
        return data

    def write(self, data: bytes) -> None:
        self.connection.write(data)

    async def drain(self) -> None:
        await self.connection.drain()

    def close(self) -> None:
        if self.connection.transport is not None:
            self.connection.transport.close()
