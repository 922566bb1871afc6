"""The audit log: JSON lines in a file of its owner's (0600), written in batches by a thread, rotated by size.

`write` only puts bytes into a queue; one task has all of it written at once, so that under load many events share one write.
When the disk is slower than the requests, those that are audited wait, as kube-apiserver's blocking mode has it: an event
is never dropped for want of room. Rotated files are named as lumberjack names them, `audit-2026-01-31T12-00-00.000.log`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

log = logging.getLogger(__name__)

MEGABYTE = 1024 * 1024
WAITING = 4 * MEGABYTE  # bytes that may wait for the disk before requests do
DAY = 86400.0
STAMP = "%Y-%m-%dT%H-%M-%S"


class AuditLog:
    """`max_age` in days, `max_size` in megabytes; 0 keeps all."""

    def __init__(
        self,
        path: str,
        *,
        max_age: int = 0,
        max_backups: int = 0,
        max_size: int = 100,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = None if path == "-" else Path(path)
        self.max_age = max_age
        self.max_backups = max_backups
        self.limit = max_size * MEGABYTE
        self.clock = clock
        self._pending: deque[bytes] = deque()  # put in by the loop, taken out by whoever writes
        self._bytes = 0
        self._more = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._lock = threading.Lock()  # of the file, and of the order of what is in it
        self._file: int = -1
        self._size = 0

    async def write(self, line: bytes) -> None:
        """Take one event, without its newline. Waits only when the disk does not keep up."""
        self._pending.append(line)
        self._bytes += len(line) + 1
        self._more.set()
        if self._bytes > WAITING:
            self._room.clear()
            await self._room.wait()

    async def run(self) -> None:
        """Write until cancelled, then what is left. One task of the server."""
        try:
            while True:
                await self._more.wait()
                self._more.clear()
                self._written(await asyncio.shield(asyncio.to_thread(self._store)))
        finally:
            self.flush()

    def flush(self) -> None:
        """Everything taken so far is in the file on return; the file is closed."""
        self._written(self._store(close=True))

    def _written(self, size: int) -> None:
        self._bytes = max(0, self._bytes - size)
        self._room.set()

    # In a thread

    def _store(self, close: bool = False) -> int:
        """Write what waits; its size."""
        with self._lock:
            lines = []
            with contextlib.suppress(IndexError):
                while True:
                    lines.append(self._pending.popleft())
            data = b"".join(line + b"\n" for line in lines)
            try:
                if data:
                    self._append(data)
            except OSError as error:
                log.error("audit log %s: %s; events are lost", self.path, error)
            if close and self._file >= 0:
                if self.path is not None:
                    os.close(self._file)
                self._file = -1
            return len(data)

    def _append(self, data: bytes) -> None:
        if self._file < 0:
            self._open()
        if self.limit and self._size and self._size + len(data) > self.limit:
            self._rotate()
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]
        self._size += len(data)

    def _open(self) -> None:
        if self.path is None:
            self._file = sys.stdout.fileno()
            return
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(self.path, flags, 0o600)
        os.fchmod(self._file, 0o600)
        self._size = os.fstat(self._file).st_size

    def _rotate(self) -> None:
        if self.path is None:
            self._size = 0
            return
        moment = self.clock()
        stamp = datetime.fromtimestamp(moment, UTC).strftime(STAMP)
        backup = self.path.with_name(
            f"{self.path.stem}-{stamp}.{int(moment * 1000) % 1000:03}{self.path.suffix}"
        )
        os.close(self._file)
        self._file = -1
        self.path.rename(backup)
        self._open()
        self._prune(moment)

    def _prune(self, moment: float) -> None:
        assert self.path is not None
        backups = sorted(self.path.parent.glob(f"{self.path.stem}-*{self.path.suffix}"))
        surplus = len(backups) - self.max_backups if self.max_backups else 0
        for index, backup in enumerate(backups):
            old = self.max_age and moment - backup.stat().st_mtime > self.max_age * DAY
            if index < surplus or old:
                backup.unlink(missing_ok=True)
