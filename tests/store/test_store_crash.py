"""kill -9 during a flood of writes: nothing that was acknowledged is lost, and watches resume exactly."""

import asyncio
import hashlib
import os
import random
import signal
import subprocess
import sys

import pytest
import store_flood

from sampan.store import Compacted
from sampan.store.sqlite import SQLiteStore

ROUNDS = 50
DEADLINE = 60


class Child:
    """The flooding process and what it has acknowledged. Not forked: other tests leave threads that a fork would miss."""

    def __init__(self, path, seed):
        reading, writing = os.pipe()
        command = [sys.executable, store_flood.__file__, str(path), str(seed), str(writing)]
        self.pid = subprocess.Popen(command, pass_fds=[writing]).pid
        os.close(writing)
        self.out = os.fdopen(reading, "rb")

    def kill_after(self, writes):
        """Read `writes` acknowledgements, kill, and return all of them (more may have been on the way)."""
        with self.out:
            lines = []
            while len(lines) < writes:
                line = self.out.readline()
                assert line, f"the child died by itself: {os.waitpid(self.pid, 0)}"
                lines.append(line)
            os.kill(self.pid, signal.SIGKILL)
            lines += self.out.readlines()
        _, status = os.waitpid(self.pid, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
        assert all(line.endswith(b"\n") for line in lines)
        acknowledged = []
        for line in lines:
            key, revision, digest = line.decode().split()
            acknowledged.append((key, int(revision), digest))
        return acknowledged


class Resumed:
    """A watcher that lives through every crash: it only knows the last revision that it saw."""

    def __init__(self, prefix):
        self.prefix = prefix
        self.seen = 0
        self.state = {}

    async def catch_up(self, store):
        revisions = []
        watch = store.watch(self.prefix, self.seen)
        async with asyncio.timeout(DEADLINE):
            end = self.last_revision(store)
            while self.seen < end:
                for change in await anext(watch):
                    assert change.revision > self.seen  # grows: nothing comes twice
                    assert change.previous == self.state.get(change.key)
                    if change.value is None:
                        del self.state[change.key]
                    else:
                        self.state[change.key] = change.value
                    self.seen = change.revision
                    revisions.append(change.revision)
        await watch.aclose()
        return revisions

    def last_revision(self, store):
        """Of a change below the prefix, found without a watch: in the log itself."""
        query = "SELECT coalesce(max(revision), 0) FROM log WHERE key >= ? AND key < ?"
        bounds = (self.prefix, self.prefix[:-1] + "0" if self.prefix else "0")
        return store._reader.execute(query, bounds).fetchone()[0]


@pytest.mark.timeout(600)
def test_acknowledged_writes_survive_kill_9(tmp_path):
    path = tmp_path / "store" / "state.db"
    watchers = [Resumed(""), Resumed("/pods/")]
    present = {}  # key → (revision, digest) of the last acknowledged write
    chance = random.Random(2)
    highest = 0
    total = 0
    for number in range(ROUNDS):
        acknowledged = Child(path, number).kill_after(chance.randrange(1, 400))
        total += len(acknowledged)
        for key, revision, digest in acknowledged:
            assert revision > highest  # of all earlier lives
            if revision > present.get(key, (0, ""))[0]:
                present[key] = (revision, digest)
        highest = asyncio.run(check(path, acknowledged, present, watchers))
    assert total > ROUNDS


async def check(path, acknowledged, present, watchers):
    store = await SQLiteStore.open(path)
    try:
        newest = max(revision for _, revision, _ in acknowledged)
        assert store.revision >= newest
        page = await store.range("")
        records = {record.key: record for record in page.records}
        for key, (revision, digest) in present.items():
            record = records.get(key)
            # A write that was not acknowledged may have come after it: then the revision is higher.
            if record is None:
                assert digest == "-" or await deleted_after(store, key, revision)
            elif record.revision == revision:
                assert hashlib.sha256(record.value).hexdigest() == digest
            else:
                assert record.revision > revision
        for watcher in watchers:
            try:
                revisions = await watcher.catch_up(store)
            except Compacted:  # the child compacted beyond what this one has seen: list again
                page = await store.range(watcher.prefix)
                watcher.state = {record.key: record.value for record in page.records}
                watcher.seen = page.revision
                continue
            if watcher.prefix == "" and revisions:
                assert revisions == list(range(revisions[0], store.revision + 1))  # no gap
                shown = set(revisions)
                assert all(r in shown for _, r, _ in acknowledged if r >= revisions[0])
            assert watcher.state == {
                key: record.value
                for key, record in records.items()
                if key.startswith(watcher.prefix)
            }
        for key, record in records.items():
            present[key] = (record.revision, hashlib.sha256(record.value).hexdigest())
        for key in list(present):
            if key not in records:
                present[key] = (store.revision, "-")
        return store.revision
    finally:
        await store.close()


async def deleted_after(store, key, revision):
    row = store._reader.execute(
        "SELECT count(*) FROM log WHERE key = ? AND revision > ? AND value IS NULL", (key, revision)
    ).fetchone()
    return row[0] > 0
