"""The node's own copy of what its pods need, in SQLite: a reboot without the API server starts them again.

Pods, ConfigMaps, Secrets, RuntimeClasses, Services and tokens are kept as they were last seen. It is a cache: what the
API says replaces it, and losing the last moments of it loses nothing. Writes are gathered and made in a thread, so
nobody waits for the disk. The file is 0600, because Secrets are in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import threading
from pathlib import Path
from typing import Any

import orjson

log = logging.getLogger(__name__)

Object = dict[str, Any]
Key = tuple[str, str, str]  # kind, namespace, name

GATHER = 0.02  # seconds in which changes come together into one transaction
SPACING = 0.5  # from one transaction to the next, when nothing is there for the first time
PAUSE = 5.0  # after a write that failed

SCHEMA = """
CREATE TABLE IF NOT EXISTS objects (
    kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (kind, namespace, name)
) WITHOUT ROWID;
"""


class ObjectCache:
    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        self._path = path
        self._pending: dict[Key, Object | None] = {}
        self._wake = asyncio.Event()
        self._first = asyncio.Event()  # something was put that had not been kept yet
        self._kept: set[Key] = set()
        self._written = asyncio.Event()
        self._written.set()
        # A cancelled `run` leaves its thread writing; `close` must wait for it.
        self._writing = threading.Lock()
        try:
            self._database = self._open()
        except sqlite3.DatabaseError:
            # Torn by a power loss: it is only a cache.
            log.warning("%s is damaged and is made anew", path)
            for suffix in ("", "-wal", "-shm"):
                Path(f"{path}{suffix}").unlink(missing_ok=True)
            path.touch(mode=0o600)
            self._database = self._open()

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
        database.executescript(SCHEMA)
        return database

    def load(self, kind: str) -> list[Object]:
        """What was kept of that kind when the cache was opened, and written since."""
        rows = self._database.execute("SELECT body FROM objects WHERE kind = ?", (kind,))
        return [orjson.loads(body) for (body,) in rows]

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        key = (kind, namespace, name)
        if key in self._pending:
            return self._pending[key]
        row = self._database.execute(
            "SELECT body FROM objects WHERE kind = ? AND namespace = ? AND name = ?", key
        ).fetchone()
        return None if row is None else orjson.loads(row[0])

    def put(self, kind: str, namespace: str, name: str, obj: Object | None) -> None:
        """Keep (None: forget) an object, which is not changed any more. Encoded and written soon."""
        key = (kind, namespace, name)
        self._pending[key] = obj
        if obj is None:
            self._kept.discard(key)
        elif key not in self._kept:
            self._kept.add(key)
            self._first.set()
        self._written.clear()
        self._wake.set()

    async def run(self) -> None:
        """Write what is put, for ever. A disk that is full or fails is tried again; nobody else notices."""
        loop = asyncio.get_running_loop()
        last = -SPACING
        while True:
            await self._wake.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(last + SPACING):
                    await self._first.wait()
            await asyncio.sleep(GATHER)
            last = loop.time()
            self._wake.clear()
            self._first.clear()
            batch = dict(self._pending)
            try:
                await asyncio.to_thread(self._write, batch)
            except sqlite3.Error as error:
                log.warning("%s: %s", self._path, error)
                self._wake.set()
                await asyncio.sleep(PAUSE)
                continue
            for key, obj in batch.items():
                # What was put meanwhile stays for the next round.
                if key in self._pending and self._pending[key] is obj:
                    del self._pending[key]
            if not self._pending:
                self._written.set()

    async def flush(self) -> None:
        """Return when all that was put is written. Needs `run` to be running."""
        await self._written.wait()

    def _write(self, batch: dict[Key, Object | None]) -> None:
        with self._writing:
            self._database.execute("BEGIN")
            try:
                self._write_all(batch)
                self._database.execute("COMMIT")
            except BaseException:
                self._database.execute("ROLLBACK")
                raise

    def _write_all(self, batch: dict[Key, Object | None]) -> None:
        for key, obj in batch.items():
            if obj is None:
                self._database.execute(
                    "DELETE FROM objects WHERE kind = ? AND namespace = ? AND name = ?", key
                )
            else:
                self._database.execute(
                    "REPLACE INTO objects VALUES (?, ?, ?, ?)", (*key, orjson.dumps(obj))
                )

    def close(self) -> None:
        """Write what is left and release the file."""
        if self._pending:
            self._write(self._pending)
        self._database.close()
