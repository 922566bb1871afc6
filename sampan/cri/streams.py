"""The far end of exec, attach and port-forward, as the runtime sees it: plain byte streams, whatever the wire protocol."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol


class Writer(Protocol):
    """The part of StreamWriter that is used: `write` then `await drain()` for back-pressure; `write_eof` ends it."""

    def write(self, data: bytes) -> None: ...
    async def drain(self) -> None: ...
    def write_eof(self) -> None: ...


@dataclass(slots=True)
class Streams:
    """What is None is not wanted by the client."""

    stdin: asyncio.StreamReader | None = None
    stdout: Writer | None = None
    stderr: Writer | None = None
    resize: asyncio.Queue[tuple[int, int]] | None = None  # (columns, rows)
