"""Snapshots: a store at one revision as one file, which is itself a SQLite store (`files.py`), whatever engine it came from.

So a backup can be opened, looked into with `sqlite3`, and used in place. What is restored never takes a client back in time:
the store goes on above the highest revision that either side has had, and all history before that is gone, so a watch that
resumes from an older revision is told to list again (410). etcd's own tools do the same with `--bump-revision
--mark-compacted` (https://etcd.io/docs/v3.6/op-guide/recovery/).

`take` reads a live store; `install` puts a snapshot in the place of a SQLite file that nobody has open; `pour` writes one into
a live store, owners before what they own, so that no garbage collector sees an orphan that is none.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

from sampan.store import Conflict, Record, Store, StoreError
from sampan.store.files import connect, explain, lock_file, open_file

Progress = Callable[[str, int, int], None]  # what is done, how many, of how many (0: not known)

PAGE = 500
WRITERS = 32  # writes under way at once
COPY_PAGES = 256  # of the file, copied at a time
BUMP = "/registry/-/marks/revision"  # written to make revisions pass; no kind is stored there
CACHE = 4096  # KiB
LEASES = "/registry/coordination.k8s.io/leases/"
FIRST = ("/registry/core/namespaces/", "/registry/apiextensions.k8s.io/customresourcedefinitions/")


def quiet(what: str, done: int, total: int) -> None:
    """Progress that nobody looks at."""


# Taking


async def take(store: Store, target: Path, progress: Progress = quiet) -> int:
    """Write every record of `store`, as of one revision, into a new file 0600. The revision."""
    scratch = fresh(target)
    try:
        file = open_file(scratch, cache=CACHE)
        try:
            revision = await _fill(file, store, progress)
            _seal(file, revision)
        finally:
            file.close()
        settle(scratch, target)
    except sqlite3.Error as error:
        raise explain(target, error) from error
    finally:
        _remove(scratch)
    return revision


async def _fill(file: sqlite3.Connection, store: Store, progress: Progress) -> int:
    await store.current()
    after, revision, count = "", 0, 0
    file.execute("BEGIN")
    while True:
        page = await store.range("", after=after, limit=PAGE, revision=revision)
        revision = page.revision
        for record in page.records:
            if not record.key.startswith(BUMP):
                _insert(file, record)
                count += 1
        progress("records read", count, 0)
        if not page.more:
            file.execute("COMMIT")
            return revision
        after = page.records[-1].key


def _insert(file: sqlite3.Connection, record: Record) -> None:
    file.execute(
        "INSERT INTO log VALUES (?, ?, ?, 0, ?)",
        (record.revision, record.key, record.created, record.value),
    )
    file.execute("INSERT INTO live VALUES (?, ?, ?)", (record.key, record.revision, record.created))


def _seal(file: sqlite3.Connection, revision: int) -> None:
    """The file is at `revision` and knows nothing older; it is one file, without a log beside it."""
    file.execute("BEGIN")
    (last,) = file.execute("SELECT coalesce(max(revision), 0) FROM log").fetchone()
    if last < revision:  # the highest revision is found again as the highest row
        file.execute("INSERT INTO log VALUES (?, ?, ?, 0, NULL)", (revision, BUMP, revision))
    file.execute("UPDATE meta SET value = ?", (revision,))
    file.execute("DELETE FROM log WHERE revision NOT IN (SELECT revision FROM live) AND revision < ?",
                 (revision,))  # fmt: skip
    file.execute("UPDATE log SET previous = 0 WHERE previous > 0")
    file.execute("COMMIT")
    file.execute("PRAGMA journal_mode = DELETE").fetchone()


def copy(source: Path, target: Path, progress: Progress = quiet) -> int:
    """The SQLite store in `source` as a new file 0600, while another process writes to it. The revision.

    One read transaction spans the copy, so what is written meanwhile neither shows nor makes SQLite begin anew.
    """
    scratch = fresh(target)
    try:
        if not source.exists():
            raise StoreError(f"{source}: there is no store here")
        reader = connect(source, cache=CACHE, readonly=True)
        writer = connect(scratch, cache=CACHE)
        try:
            reader.execute("BEGIN")
            (revision,) = reader.execute("SELECT coalesce(max(revision), 0) FROM log").fetchone()
            reader.backup(
                writer,
                pages=COPY_PAGES,
                progress=lambda _, left, total: progress("pages copied", total - left, total),
            )
            writer.execute("PRAGMA journal_mode = DELETE").fetchone()
        finally:
            writer.close()
            reader.close()
        settle(scratch, target)
    except sqlite3.Error as error:
        raise explain(source, error) from error
    finally:
        _remove(scratch)
    return int(revision)


def fresh(target: Path) -> Path:
    """A new file beside `target` that only its owner can read."""
    scratch = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        os.close(os.open(scratch, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StoreError(f"{target}: {error.strerror}") from error
    return scratch


def settle(scratch: Path, target: Path) -> None:
    """`scratch` is on disk under its name on return."""
    with open(scratch, "rb") as file:
        os.fsync(file.fileno())
    scratch.replace(target)
    directory = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _remove(scratch: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        scratch.with_name(scratch.name + suffix).unlink(missing_ok=True)


# Looking into one


def examine(path: Path) -> tuple[int, int]:
    """(revision, records) of a snapshot. Raises StoreError for what is none, or is damaged."""
    if not path.is_file():
        raise StoreError(f"{path}: there is no such file")
    file = _open(path)
    try:
        (revision,) = file.execute("SELECT coalesce(max(revision), 0) FROM log").fetchone()
        (count,) = file.execute("SELECT count(*) FROM live").fetchone()
        (verdict,) = file.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise StoreError(f"{path}: the file is damaged: {verdict}")
        return revision, count
    except sqlite3.Error as error:
        raise explain(path, error) from error
    finally:
        file.close()


def _open(path: Path) -> sqlite3.Connection:
    try:
        return connect(path, cache=CACHE, readonly=True)
    except sqlite3.Error as error:
        raise explain(path, error) from error


def records(path: Path) -> Iterator[Record]:
    """What lives in a snapshot, in key order."""
    file = _open(path)
    try:
        for row in file.execute(
            "SELECT live.key, log.value, live.created, live.revision FROM live JOIN log"
            " ON log.revision = live.revision ORDER BY live.key"
        ):
            if not row[0].startswith(BUMP):
                yield Record(*row)
    except sqlite3.Error as error:
        raise explain(path, error) from error
    finally:
        file.close()


# Putting back


def install(snapshot: Path, target: Path) -> int:
    """`snapshot` takes the place of the SQLite store in `target`, which nobody may have open. The revision to go on from.

    Any moment of it may be the last: before the rename the old store is whole, after it the new one.
    """
    lock = lock_file(target)
    try:
        floor = 0
        if target.exists():
            old = open_file(target, cache=CACHE)
            (floor,) = old.execute("SELECT coalesce(max(revision), 0) FROM log").fetchone()
            # The old log must not be found beside the new file.
            old.execute("PRAGMA journal_mode = DELETE").fetchone()
            old.close()
        examine(snapshot)
        copy(snapshot, staged := target.with_name(target.name + ".new"))
        new = open_file(staged, cache=CACHE)
        (last,) = new.execute("SELECT coalesce(max(revision), 0) FROM log").fetchone()
        revision = max(floor, last) + 1
        _seal(new, revision)
        new.close()
        settle(staged, target)
        return revision
    except sqlite3.Error as error:
        raise explain(target, error) from error
    finally:
        os.close(lock)


async def pour(
    snapshot: Path, store: Store, progress: Progress = quiet, *, forget: bool = False
) -> int:
    """Make a live store hold what the snapshot holds, and no more. The revision that it is at then, above the snapshot's.

    Leases stay as they are: they tell who is alive now. `forget` ends all history before: the clients are to be those of
    another store, whose revisions mean nothing here.
    """
    revision, total = examine(snapshot)
    await bump(store, revision, progress)  # first, so that no object seems older than it did
    present: dict[str, tuple[int, int]] = {}  # key → revision, hash of the value
    after, more = "", True
    while more:
        page = await store.range("", after=after, limit=PAGE)
        present |= {each.key: (each.revision, hash(each.value)) for each in page.records}
        after, more = (page.records[-1].key if page.records else ""), page.more
    present = {key: found for key, found in present.items() if not key.startswith(BUMP)}
    done = 0
    known: set[str] = set()
    for rank in _ranks(snapshot):
        batch: list[Record] = []
        for record in records(snapshot):
            if record.key not in rank:
                continue
            done += 1
            known.add(record.key)
            revision_now, digest = present.get(record.key, (0, 0))
            if revision_now and (digest == hash(record.value) or record.key.startswith(LEASES)):
                continue
            batch.append(record)
            if len(batch) == PAGE:
                await _put_all(store, batch, present)
                batch.clear()
                progress("records", done, total)
        await _put_all(store, batch, present)
        progress("records", done, total)
    extra = [key for key in present if key not in known and not key.startswith(LEASES)]
    extra.sort(key=_is_first)  # namespaces last
    for start in range(0, len(extra), PAGE):
        await _gather([_delete(store, key) for key in extra[start : start + PAGE]])
    if forget:
        await store.compact(await store.current())
    return await store.current()


def _ranks(snapshot: Path) -> list[set[str]]:
    """Keys in the order in which they can be written: namespaces and definitions, then by how long their chain of owners is."""
    owners: dict[str, set[str]] = {}
    uids: dict[str, str] = {}
    keys: list[str] = []
    for record in records(snapshot):
        keys.append(record.key)
        try:  # a sealed value tells nothing, and owns nothing that matters
            metadata = json.loads(record.value)["metadata"]
            uids[metadata["uid"]] = record.key
            owners[record.key] = {each["uid"] for each in metadata.get("ownerReferences", ())}
        except (ValueError, KeyError, TypeError):
            continue
    left = {key for key in keys if not _is_first(key)}
    ranks = [{key for key in keys if _is_first(key)}]
    while left:
        ready = {
            key for key in left if not any(uids.get(uid) in left for uid in owners.get(key, ()))
        }
        ready = ready or left  # owners in a circle
        ranks.append(ready)
        left -= ready
    return ranks


def _is_first(key: str) -> bool:
    return key.startswith(FIRST)


async def _put_all(store: Store, batch: list[Record], present: dict[str, tuple[int, int]]) -> None:
    await _gather([_put(store, each, present.get(each.key, (0, 0))[0]) for each in batch])


async def _put(store: Store, record: Record, expect: int) -> None:
    while True:
        try:
            await store.put(record.key, record.value, expect=expect)
            return
        except Conflict as conflict:
            expect = conflict.current.revision if conflict.current else 0


async def _delete(store: Store, key: str) -> None:
    try:
        await store.delete(key, expect=None)
    except Conflict:
        return  # gone already


async def _gather(work: Sequence[Coroutine[Any, Any, object]]) -> None:
    limit = asyncio.Semaphore(WRITERS)

    async def one(each: Coroutine[Any, Any, object]) -> None:
        async with limit:
            await each

    async with asyncio.TaskGroup() as group:
        for each in work:
            group.create_task(one(each))


async def bump(store: Store, above: int, progress: Progress = quiet) -> None:
    """Write until the store's revision is greater than `above`."""
    start = revision = await store.current()
    while revision <= above:
        count = min(above + 1 - revision, PAGE)
        await _gather([store.put(f"{BUMP}/{n % WRITERS}", b"", expect=None) for n in range(count)])
        revision = await store.current()
        progress("revisions passed", revision - start, above + 1 - start)
    if revision > start:
        await _gather([_delete(store, f"{BUMP}/{n}") for n in range(WRITERS)])
