"""Where a session's incoming bytes wait for their consumer, which may be slower than the client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

WINDOW = 64 << 10  # bytes that may wait; SPDY's default window


class Inbox(asyncio.StreamReader):
    """What arrived on a stream; tells when the consumer took some of it."""

    def __init__(self) -> None:
        super().__init__(limit=WINDOW)
        self.pending = 0
        self.at_end = False
        self.taken: Callable[[int], None] | None = None
        self.space = asyncio.Event()
        self.space.set()

    def push(self, data: bytes) -> None:
        if self.at_end or not data:
            return
        self.pending += len(data)
        if self.pending >= WINDOW:
            self.space.clear()
        self.feed_data(data)

    async def read(self, n: int = -1) -> bytes:
        if n < 0:
            return await super().read(n)  # which comes back here piece by piece
        data = await super().read(n)
        self.pending -= len(data)
        if self.pending < WINDOW:
            self.space.set()
        if data and self.taken is not None:
            self.taken(len(data))
        return data

    def close(self) -> None:
        """No more comes."""
        self.at_end = True
        self.feed_eof()

    def discard(self) -> None:
        """Nobody reads any more: what still comes is dropped."""
        self.close()
        self.space.set()
