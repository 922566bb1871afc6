"""What only the SQLite store promises: its files, failures of the disk, group commit, shrinking, cheap watches."""

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sampan.store import StoreError
from sampan.store.files import upper_bound
from sampan.store.sqlite import SQLiteStore
from sampan.store.watches import Hub

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def path(tmp_path):
    return tmp_path / "store" / "state.db"


async def test_files_are_private(path):
    old = os.umask(0)
    try:
        store = await SQLiteStore.open(path)
        await store.put("/a", b"", expect=0)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in path.parent.iterdir()}
    assert {"state.db", "state.db-wal", "state.db.lock"} <= set(modes)
    assert set(modes.values()) == {0o600}
    await store.close()


async def test_commits_wait_for_the_disk(path):
    store = await SQLiteStore.open(path)
    assert store._writer.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert store._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._writer.execute("PRAGMA auto_vacuum").fetchone() == (2,)  # incremental
    await store.close()


async def test_concurrent_writes_share_transactions(path):
    store = await SQLiteStore.open(path)
    commits = []
    store._writer.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
    await asyncio.gather(*(store.put(f"/{n}", b"v", expect=0) for n in range(200)))
    assert store.revision == 200
    assert 1 <= len(commits) <= 3
    store._writer.set_trace_callback(None)
    await store.close()


async def test_a_second_opener_is_refused(path):
    store = await SQLiteStore.open(path)
    with pytest.raises(StoreError, match="another process has this store open"):
        await SQLiteStore.open(path)
    await store.close()
    again = await SQLiteStore.open(path)
    await again.close()


async def test_a_file_that_is_no_store(path):
    path.parent.mkdir()
    path.write_bytes(b"this is not a database, and long enough to be read as a header" * 100)
    with pytest.raises(StoreError, match="not a Sampan store; move the file away"):
        await SQLiteStore.open(path)
    path.unlink()
    other = sqlite3.connect(path)
    other.execute("PRAGMA application_id = 77")
    other.execute("CREATE TABLE t (a)")
    other.close()
    with pytest.raises(StoreError, match="made by another program"):
        await SQLiteStore.open(path)


async def test_a_damaged_file_says_what_to_do(path):
    store = await SQLiteStore.open(path)
    await asyncio.gather(*(store.put(f"/{n:03}", b"v" * 3000, expect=0) for n in range(200)))
    await store.close()
    with path.open("r+b") as file:
        for page in range(2, 30):
            file.seek(page * 4096)
            file.write(b"\xff" * 4096)
    with pytest.raises(StoreError, match=r"state\.db: .*damaged; stop Sampan"):
        store = await SQLiteStore.open(path)
        try:
            await store.range("")
        finally:
            await store.close()


async def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file: not a directory"):
        await SQLiteStore.open(tmp_path / "file" / "state.db")


FULL_DISK = """
import asyncio, os, sys
from sampan.store import StoreError
from sampan.store.sqlite import SQLiteStore

async def main(directory):
    ballast = os.path.join(directory, "ballast")
    with open(ballast, "wb") as file:
        file.write(bytes(1 << 20))
    store = await SQLiteStore.open(directory + "/store/state.db")
    good = 0
    failures = []
    for number in range(3000):
        try:
            revision = await store.put(f"/{number}", b"x" * 2000, expect=0)
            assert revision == store.revision == good + 1
            good += 1
        except StoreError as error:
            failures.append(str(error))
            if len(failures) == 3:
                break
    assert failures, "the disk never filled up"
    assert all("disk is full; free some space" in failure for failure in failures), failures
    assert store.revision == good
    assert len((await store.range("")).records) == good  # reading goes on
    os.unlink(ballast)
    assert await store.put("/again", b"y", expect=0) == good + 1  # and writing, once there is room
    await store.close()
    store = await SQLiteStore.open(directory + "/store/state.db")
    assert store.revision == good + 1
    assert len((await store.range("")).records) == good + 1
    await store.close()

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system: needs root")
async def test_a_full_disk_refuses_writes_and_recovers(tmp_path):
    command = 'mount -t tmpfs -o size=4m tmpfs "$1" && exec "$2" -c "$3" "$1"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", command, "sh", str(tmp_path), sys.executable, FULL_DISK],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


async def test_a_failed_batch_fails_whole_and_the_next_goes_on(path):
    store = await SQLiteStore.open(path)
    await store.put("/a", b"1", expect=0)
    pages = store._writer.execute("PRAGMA page_count").fetchone()[0]
    store._writer.execute(f"PRAGMA max_page_count = {pages + 20}")  # a disk of that size
    watch = store.watch("", 1)
    writes = [store.put(f"/{n}", b"x" * 2000, expect=0) for n in range(100)]
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {StoreError}
    assert "disk is full" in str(outcomes[0])
    assert store.revision == 1
    assert await store.put("/b", b"2", expect=0) == 2
    assert [change.key for change in await anext(watch)] == ["/b"]  # nothing of what failed
    await store.close()


async def test_compaction_shrinks_the_file(path):
    store = await SQLiteStore.open(path)
    for _ in range(40):
        await asyncio.gather(*(store.put(f"/{n}", b"x" * 2000, expect=None) for n in range(100)))
    await store.compact(store.revision)
    store._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    live = 100 * 2000
    assert path.stat().st_size < 3 * live + (1 << 20)  # 8 MB were written
    page = await store.range("")
    assert len(page.records) == 100
    assert store._writer.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    await store.close()


async def test_an_interrupted_compaction_is_finished_later(path):
    store = await SQLiteStore.open(path)
    for _ in range(30):
        await asyncio.gather(*(store.put(f"/{n}", b"x", expect=None) for n in range(100)))
    compacting = asyncio.ensure_future(store.compact(3000))
    while store._swept == 0:
        await asyncio.sleep(0)
    await asyncio.gather(store.close(), compacting, return_exceptions=True)
    assert 0 < store._swept < 3000
    again = await SQLiteStore.open(path)
    assert again._floor == 3000
    await again.compact(3000)
    assert again._reader.execute("SELECT count(*) FROM log").fetchone() == (100,)
    await again.close()


async def test_values_are_not_kept_in_memory(path):
    store = await SQLiteStore.open(path)
    limit = sum(
        connection.execute("PRAGMA cache_size").fetchone()[0]
        for connection in (store._writer, store._reader)
    )
    assert -4096 <= limit < 0  # KiB, for all connections together
    await store.close()


def test_watch_matching_does_not_depend_on_the_number_of_watches():
    hub = Hub(lambda prefix, since: ([], since, True))
    for number in range(1000):
        hub.add(f"/registry/pods/ns-{number:04}/", 0)
    hub.add("", 0)
    assert len(hub._lengths) == 2  # look-ups per change
    assert hub.wants("/registry/pods/ns-0007/x")


@pytest.mark.parametrize(
    ("prefix", "bound"),
    [
        ("/a/", "/a0"),
        ("", None),
        ("a\U0010ffff", "b"),
        ("\U0010ffff", None),
        ("a\ud7ff", "a\ue000"),
    ],
)
def test_upper_bound(prefix, bound):
    assert upper_bound(prefix) == bound
