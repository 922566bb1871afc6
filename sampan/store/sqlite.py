"""SQLiteStore: the embedded store. Every acknowledged write is on disk; many waiting writes share one fsync.

Who does what was decided by measuring under a busy event loop. SQLite statements take microseconds, but each one that
runs in another thread must win the GIL back from the loop, which can take 5 ms. So the loop's thread runs the statements
of a batch, and its COMMIT too while the disk is quick (`pace.py` decides). Else the writer thread waits for the disk; the
GIL is free meanwhile, new writes gather, and they become the next batch. A result is given out only after its commit, a
Conflict too, since what it conflicts with may not be durable yet. Exactly one of the two threads uses the writing connection
at any time: the thread, while `_committing` is set; the loop otherwise.

Reads use connections of their own on the loop's thread (WAL: readers never wait for the writer, and see only what is
durable). A long range is read in slices out of one snapshot, so that the loop stays responsive.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from sampan.store import Change, Closed, Compacted, Conflict, Page, Record, StoreError
from sampan.store.batch import Batch, Pending, Write
from sampan.store.compaction import sweep, vacuum
from sampan.store.files import (
    check_text,
    checkpoint,
    connect,
    explain,
    lock_file,
    open_file,
    upper_bound,
)
from sampan.store.pace import Pace
from sampan.store.watches import Hub, Watch

log = logging.getLogger(__name__)

BARREN = 2  # steps of the loop without a write, after which nobody else is expected
BATCH_WRITES = 256  # most writes in one transaction
BATCH_BYTES = 4 << 20  # and most bytes, so that the statements never hold the loop for long
SLICE = 256  # records read at once before the loop gets its turn
WATCH_PAGE = 256  # changes read from the log at once
WATCH_PAGE_BYTES = 1 << 20
WATCH_WINDOW = 2000  # revisions looked through at once, for a watch that wants few of them
SWEEP = 1000  # revisions swept in one transaction of a compaction
WRITE_CACHE = 2048  # KiB of page cache
READ_CACHE = 1024
SNAPSHOTS = 2  # idle connections kept for long ranges

RECORD = """SELECT live.key, log.value, live.created, live.revision FROM live JOIN log
    ON log.revision = live.revision WHERE live.key = ?"""
NOW = """SELECT live.key, log.value, live.created, live.revision FROM live CROSS JOIN log
    ON log.revision = live.revision WHERE live.key {above} ? {below} ORDER BY live.key LIMIT ?"""
# The past is the present with the newer changes undone: what has not changed since, and for the rest the version that the
# first newer change replaced. So it costs what has changed since, whatever the size of the store.
PAST = """SELECT past.key, log.value, log.created, log.revision FROM (
    SELECT key, revision FROM live WHERE key {above} :low {below} AND revision <= :revision
    UNION ALL
    SELECT key, previous FROM (
        SELECT key, previous, min(revision) FROM log WHERE revision > :revision AND key {above} :low {below} GROUP BY key
    ) WHERE previous > 0 ORDER BY key LIMIT :limit
) AS past CROSS JOIN log ON log.revision = past.revision ORDER BY past.key"""
CHANGES = """SELECT log.key, log.value, log.revision, log.created, old.value FROM log LEFT JOIN log AS old
    ON old.revision = log.previous WHERE log.revision > ? AND log.revision <= ? AND log.key >= ? {below}
    ORDER BY log.revision LIMIT ?"""


class SQLiteStore:
    """See `sampan.store.Store`, whose contract this keeps. Made by `open`."""

    shared = False

    def __init__(self, path: Path, writer: sqlite3.Connection, lock: int) -> None:
        self.path = path
        self._lock = lock
        self._loop = asyncio.get_running_loop()
        self._writer = writer
        self._reader = connect(path, cache=READ_CACHE, readonly=True)
        self._snapshots: list[sqlite3.Connection] = []
        (self._revision,) = writer.execute("SELECT coalesce(max(revision), 0) FROM log").fetchone()
        self._shown = self._revision  # the last that a range has shown
        (self._floor,) = writer.execute("SELECT value FROM meta WHERE name = 'floor'").fetchone()
        (self._swept,) = writer.execute("SELECT value FROM meta WHERE name = 'swept'").fetchone()
        self._waiting: deque[Write] = deque()
        self._chores: deque[Batch] = deque()  # steps of a compaction
        self._pace = Pace()
        self._committing = False
        self._scheduled = False
        self._crowd = 0  # writes that may come: those answered last and those that waited then
        self._gathered = 0  # of those that wait, how many did when the loop was last looked at
        self._barren = 0  # steps of the loop that brought none
        self._closing = False
        self._idle: asyncio.Future[None] | None = None  # close() waits for it
        self._closed: asyncio.Future[None] | None = None
        self._compacting = asyncio.Lock()
        self._hub = Hub(self._read_log)
        self._batches: SimpleQueue[Batch | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._commit_loop, name="store-writer", daemon=True)
        self._thread.start()

    @classmethod
    async def open(cls, path: str | Path) -> SQLiteStore:
        """Open the store in `path` (made when missing; file 0600, directory 0700). Raises StoreError."""
        path = Path(path)
        lock = lock_file(path)
        writer: sqlite3.Connection | None = None
        try:
            writer = open_file(path, cache=WRITE_CACHE)
            return cls(path, writer, lock)
        except BaseException as error:
            if writer is not None:
                writer.close()
            os.close(lock)
            if isinstance(error, sqlite3.Error):
                raise explain(path, error) from error
            raise

    @property
    def size(self) -> int | None:
        found = 0
        for path in (self.path, f"{self.path}-wal"):
            with suppress(OSError):
                found += os.stat(path).st_size
        return found

    @property
    def revision(self) -> int:
        return self._revision

    async def current(self) -> int:
        return self._revision

    async def mark(self) -> int:
        return self._revision

    # Reading

    async def get(self, key: str) -> Record | None:
        self._check_open()
        try:
            row = self._reader.execute(RECORD, (key,)).fetchone()
        except sqlite3.Error as error:
            raise explain(self.path, error) from error
        return Record(*row) if row else None

    async def range(
        self, prefix: str, *, after: str = "", limit: int = 0, revision: int = 0
    ) -> Page:
        self._check_open()
        if revision:
            self._check_kept(revision)
        connection = self._snapshots.pop() if self._snapshots else None
        try:
            if connection is None:
                connection = connect(self.path, cache=READ_CACHE, readonly=True)
            return await self._read_range(connection, prefix, after, limit, revision)
        except sqlite3.Error as error:
            raise explain(self.path, error) from error
        finally:
            if connection is not None:
                if connection.in_transaction:
                    connection.rollback()
                if self._closing or len(self._snapshots) >= SNAPSHOTS:
                    connection.close()
                else:
                    self._snapshots.append(connection)

    async def _read_range(
        self, connection: sqlite3.Connection, prefix: str, after: str, limit: int, revision: int
    ) -> Page:
        connection.execute("BEGIN")
        (present,) = connection.execute("SELECT coalesce(max(revision), 0) FROM log").fetchone()
        # Durable, though the writer may not have told the loop yet: who was shown it may ask for it.
        self._shown = max(self._shown, present)
        records: list[Record] = []
        wanted = limit + 1 if limit else 0  # one more tells whether there are more
        past = 0 < revision < present
        while True:
            size = min(SLICE, wanted - len(records)) if wanted else SLICE
            rows = self._rows(connection, prefix, after, size, revision if past else 0)
            records += [Record(*row) for row in rows]
            if len(rows) < size or len(records) == wanted:
                break
            after = rows[-1][0]
            await asyncio.sleep(0)
            self._check_open()
        more = bool(limit) and len(records) > limit
        if more:
            records.pop()
        return Page(records, revision if past else present, more)

    @staticmethod
    def _rows(
        connection: sqlite3.Connection, prefix: str, after: str, limit: int, revision: int
    ) -> list[tuple[str, bytes, int, int]]:
        low, above = (after, ">") if after >= prefix and after else (prefix, ">=")
        high = upper_bound(prefix)
        if revision:
            below = "" if high is None else "AND key < :high"
            arguments = {"low": low, "high": high, "revision": revision, "limit": limit}
            return connection.execute(PAST.format(above=above, below=below), arguments).fetchall()
        below = "" if high is None else "AND live.key < ?"
        bounds = (low, limit) if high is None else (low, high, limit)
        return connection.execute(NOW.format(above=above, below=below), bounds).fetchall()

    # Writing

    async def put(self, key: str, value: bytes, *, expect: int | None) -> int:
        if not key.isascii():
            check_text(key)
        return await self._write(key, bytes(value), expect)

    async def delete(self, key: str, *, expect: int | None) -> int:
        return await self._write(key, None, expect)

    def _write(self, key: str, value: bytes | None, expect: int | None) -> asyncio.Future[int]:
        self._check_open()
        write = Write(key, value, expect, self._loop.create_future())
        self._waiting.append(write)
        self._schedule()
        return write.done

    def _schedule(self) -> None:
        if not self._committing and not self._scheduled:
            # At the end of this step of the loop, so that what others write in it shares the transaction.
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Run the statements of the next batch, and commit it or hand it to the thread."""
        self._scheduled = False
        if self._waiting:
            # Those who have just been answered are writing again: steps of the loop bring more of them. One transaction for
            # all costs less than one for the first and one for the others: of 16 writers, two crowds of 8 that take turns
            # would form, with 3,740 writes a second instead of 4,420. A single writer never waits.
            self._barren = 0 if len(self._waiting) > self._gathered else self._barren + 1
            if self._barren < BARREN and len(self._waiting) < self._crowd:
                self._gathered = len(self._waiting)
                self._schedule()
                return
            batch = self._take_batch()
            self._gathered = self._barren = 0
        elif self._chores:
            batch = self._chores.popleft()
        else:
            if self._idle is not None and not self._idle.done():
                self._idle.set_result(None)
            return
        self._committing = True
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            for write in batch.writes:
                self._apply(write, batch)
        except Exception as error:
            self._finish(batch, error)
            return
        batch.checkpoint = self._pace.add(len(batch.writes), batch.size)
        if batch.checkpoint or batch.work is not None or not self._pace.on_loop(batch.size):
            self._batches.put(batch)
        else:
            self._commit(batch)

    def _commit(self, batch: Batch) -> None:
        """On the loop, which waits."""
        failure: Exception | None = None
        began = time.perf_counter()
        try:
            self._writer.execute("COMMIT")
        except Exception as error:
            failure = error
        self._pace.took(time.perf_counter() - began)
        self._finish(batch, failure)

    def _take_batch(self) -> Batch:
        writes: list[Write] = []
        size = 0
        while self._waiting and len(writes) < BATCH_WRITES and size < BATCH_BYTES:
            write = self._waiting.popleft()
            if not write.done.done():  # else its caller was cancelled
                writes.append(write)
                size += len(write.value or b"")
        return Batch(writes, [], size)

    def _apply(self, write: Write, batch: Batch) -> None:
        execute = self._writer.execute
        if write.expect == 0 and write.value is not None:
            self._create(write, batch)
            return
        row = execute("SELECT revision, created FROM live WHERE key = ?", (write.key,)).fetchone()
        found, created = row or (0, 0)
        expect = write.expect
        if (expect is not None and expect != found) or (write.value is None and not found):
            current = execute(RECORD, (write.key,)).fetchone() if found else None
            write.outcome = Conflict(write.key, Record(*current) if current else None)
            return
        revision = self._revision + len(batch.changes) + 1
        created = created or revision
        execute(
            "INSERT INTO log VALUES (?, ?, ?, ?, ?)",
            (revision, write.key, created, found, write.value),
        )
        if write.value is None:
            execute("DELETE FROM live WHERE key = ?", (write.key,))
        elif found:
            execute("UPDATE live SET revision = ? WHERE key = ?", (revision, write.key))
        else:
            execute("INSERT INTO live VALUES (?, ?, ?)", (write.key, revision, revision))
        write.outcome = revision
        batch.changes.append(Pending(write.key, write.value, revision, created, found))

    def _create(self, write: Write, batch: Batch) -> None:
        """The key must be absent: writing it tells, without a look first."""
        execute = self._writer.execute
        revision = self._revision + len(batch.changes) + 1
        row = (write.key, revision, revision)
        if not execute("INSERT OR IGNORE INTO live VALUES (?, ?, ?)", row).rowcount:
            write.outcome = Conflict(write.key, Record(*execute(RECORD, (write.key,)).fetchone()))
            return
        log = (revision, write.key, revision, 0, write.value)
        execute("INSERT INTO log VALUES (?, ?, ?, ?, ?)", log)
        write.outcome = revision
        batch.changes.append(Pending(write.key, write.value, revision, revision, 0))

    def _commit_loop(self) -> None:
        """The writer thread: waits for the disk, and tells the loop once per batch."""
        while (batch := self._batches.get()) is not None:
            failure: Exception | None = None
            try:
                if batch.work is not None:
                    batch.work(self._writer)
                self._writer.execute("COMMIT")
                if batch.checkpoint:
                    checkpoint(self.path, self._writer)
            except Exception as error:
                failure = error
            try:
                self._loop.call_soon_threadsafe(self._finish, batch, failure)
            except RuntimeError:  # the loop was closed without close(): nobody waits any more
                return

    def _finish(self, batch: Batch, failure: Exception | None) -> None:
        """On the loop: the batch is durable, or all of it failed."""
        if failure is not None:
            self._roll_back(batch, failure)
        else:
            if batch.changes:
                self._revision = batch.changes[-1].revision
                self._publish(batch.changes)
            for write in batch.writes:
                if write.done.done():
                    continue
                if isinstance(write.outcome, int):
                    write.done.set_result(write.outcome)
                else:
                    assert write.outcome is not None
                    write.done.set_exception(write.outcome)
            if batch.done is not None and not batch.done.done():
                batch.done.set_result(None)
        self._committing = False
        self._crowd = max(len(batch.writes) + len(self._waiting), self._crowd // 2)
        if self._waiting or self._chores or self._idle is not None:
            self._schedule()

    def _roll_back(self, batch: Batch, failure: Exception) -> None:
        if isinstance(failure, sqlite3.Error):
            error = explain(self.path, failure)
        else:  # a bug must fail its batch and not stop the store
            log.error("%s: a batch of writes failed", self.path, exc_info=failure)
            error = StoreError(f"{self.path}: {failure}")
        try:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
        except sqlite3.Error as second:
            error = explain(self.path, second)
        for write in batch.writes:
            if not write.done.done():
                write.done.set_exception(StoreError(str(error)))
        if batch.done is not None and not batch.done.done():
            batch.done.set_exception(error)

    # Watching

    def watch(self, prefix: str, since: int) -> Watch:
        return self._hub.add(prefix, since)

    def _publish(self, changes: list[Pending]) -> None:
        try:
            self._hub.publish([self._change(p) for p in changes if self._hub.wants(p.key)])
        except sqlite3.Error:
            # The write is durable and must be answered; the watches read it from the log, or get the error there.
            self._hub.interrupt()

    def _change(self, pending: Pending) -> Change:
        previous = None
        if pending.previous:
            row = self._reader.execute(
                "SELECT value FROM log WHERE revision = ?", (pending.previous,)
            ).fetchone()
            previous = row[0] if row else None
        return Change(pending.key, pending.value, previous, pending.revision, pending.created)

    def _read_log(self, prefix: str, since: int) -> tuple[list[Change], int, bool]:
        """One page of the log for a watch that is behind. No await: what it says of the end holds on return."""
        if since < self._floor:
            raise Compacted(since, self._floor)
        end = min(self._revision, since + WATCH_WINDOW)
        high = upper_bound(prefix)
        below = "" if high is None else "AND log.key < ?"
        bounds = (since, end, prefix, *(() if high is None else (high,)), WATCH_PAGE)
        changes: list[Change] = []
        size = 0
        try:
            for key, value, revision, created, previous in self._reader.execute(
                CHANGES.format(below=below), bounds
            ):
                changes.append(Change(key, value, previous, revision, created))
                size += len(value or b"") + len(previous or b"")
                if len(changes) == WATCH_PAGE or size >= WATCH_PAGE_BYTES:
                    end = revision  # there may be more
                    break
        except sqlite3.Error as error:
            raise explain(self.path, error) from error
        # `since` may lie in the future: then there is nothing to read, and live is right.
        return changes, max(since, end), end >= self._revision

    # Compaction

    async def compact(self, before: int) -> None:
        self._check_open()
        async with self._compacting:
            before = min(before, self._revision)
            if before > self._floor:
                await self._chore(
                    lambda c: c.execute("UPDATE meta SET value = ? WHERE name = 'floor'", (before,))
                )
                self._floor = before
            while self._swept < self._floor:
                start, end = self._swept, min(self._swept + SWEEP, self._floor)
                await self._chore(partial(sweep, start=start, end=end))
                self._swept = end
            while await self._vacuum_due():
                await self._chore(vacuum)

    async def _vacuum_due(self) -> bool:
        """Free pages are used again by later writes, so a quarter of the file may be free before it shrinks."""
        (free,) = self._reader.execute("PRAGMA freelist_count").fetchone()
        (pages,) = self._reader.execute("PRAGMA page_count").fetchone()
        return free > max(256, pages // 4)

    async def _chore(self, work: Callable[[sqlite3.Connection], object]) -> None:
        """Run `work` in a transaction of its own, between batches of writes."""
        self._check_open()

        done: asyncio.Future[None] = self._loop.create_future()
        self._chores.append(Batch([], [], 0, work, done))
        self._schedule()
        await done

    # Ending

    def _check_open(self) -> None:
        if self._closing:
            raise Closed(f"{self.path}: the store is closed")

    def _check_kept(self, revision: int) -> None:
        if revision < self._floor:
            raise Compacted(revision, self._floor)
        if revision > max(self._revision, self._shown):
            raise StoreError(f"revision {revision} is in the future; the last is {self._revision}")

    async def close(self) -> None:
        if self._closed is not None:
            await asyncio.shield(self._closed)
            return
        self._closed = self._loop.create_future()
        self._closing = True
        if self._committing or self._scheduled or self._waiting or self._chores:
            self._idle = self._loop.create_future()
            await self._idle
        self._hub.close()
        self._batches.put(None)
        await self._loop.run_in_executor(None, self._release)
        self._closed.set_result(None)

    def _release(self) -> None:
        """In a thread: the last connection to close writes the WAL back into the file."""
        self._thread.join()
        for connection in (*self._snapshots, self._reader, self._writer):
            connection.close()
        self._snapshots.clear()
        os.close(self._lock)
