"""A unix socket whose server is made when the first caller comes: until then it costs a file descriptor.

gRPC can neither take over an accepted connection nor a listening socket, so callers are tunnelled to the server's own
socket. What is asked here (registrations, a monitoring agent's lists) is small and rare.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

CHUNK = 64 * 1024
LONGEST_PATH = 107  # bytes, of a unix socket's address (unix(7))


class Server(Protocol):
    async def close(self) -> None: ...


class LazySocket:
    """`start(path)` makes the server on a socket of its own; it is called once."""

    def __init__(self, path: Path, own: Path, start: Callable[[Path], Awaitable[Server]]) -> None:
        self._path, self._own = path, own
        self._start = start
        self._listener: asyncio.Server | None = None
        self._server: Server | None = None
        self._making = asyncio.Lock()

    async def open(self) -> None:
        """Callers are taken on return. What lay there is replaced, which plug-ins see and register again."""
        if len(os.fsencode(self._path)) > LONGEST_PATH:
            raise OSError(f"{self._path}: longer than a socket's path may be")
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        self._path.unlink(missing_ok=True)
        mask = os.umask(0o177)
        try:
            self._listener = await asyncio.start_unix_server(self._tunnel, self._path)
        finally:
            os.umask(mask)

    async def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._path.unlink(missing_ok=True)
        if self._server is not None:
            await self._server.close()

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with self._making:
                if self._server is None:
                    self._server = await self._start(self._own)
            inner, outer = await asyncio.open_unix_connection(self._own)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(_pump(reader, outer))
                    group.create_task(_pump(inner, writer))
            finally:
                outer.close()
        finally:
            writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError, RuntimeError):
        writer.write_eof()
