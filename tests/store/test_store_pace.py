"""Where a commit waits: on the loop while the disk is quick, in the thread when it is not, and the log written back in time."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest

from sampan.store import sqlite
from sampan.store.pace import CHECKPOINT, LONGEST, PENALTY, QUICK, RECENT, SMALL, Pace
from sampan.store.sqlite import SQLiteStore


def away(pace: Pace) -> int:
    """How many commits go to the thread before the loop does one again."""
    count = 0
    while not pace.on_loop(0):
        count += 1
    return count


def test_a_quick_disk_is_waited_for() -> None:
    pace = Pace()
    for _ in range(1000):
        assert pace.on_loop(SMALL)
        pace.took(QUICK)


def test_much_is_never_waited_for() -> None:
    assert not Pace().on_loop(SMALL + 1)


def test_one_commit_that_took_long_is_no_slow_disk() -> None:
    pace = Pace()
    for number in range(1000):
        assert pace.on_loop(0)
        pace.took(5 * QUICK if number % 20 == 0 else QUICK / 10)


def test_a_disk_that_hangs_is_slow_at_once() -> None:
    pace = Pace()
    pace.took(1.0)
    assert away(pace) == PENALTY


def test_a_slow_disk_is_asked_less_and_less_often() -> None:
    pace = Pace()
    pace.took(RECENT * QUICK * 2)
    seen = []
    for _ in range(10):
        seen.append(away(pace))
        pace.took(QUICK * 1.1)
    assert seen == [min(PENALTY << n, LONGEST) for n in range(10)]


def test_a_disk_that_became_quick_is_trusted_again() -> None:
    pace = Pace()
    pace.took(1.0)
    away(pace)
    for _ in range(PENALTY):
        pace.took(0.0)
    pace.took(1.0)
    assert away(pace) == PENALTY


def test_the_log_is_due_after_so_many_pages() -> None:
    pace = Pace()
    due = [pace.add(16, 16 * 500) for _ in range(CHECKPOINT)]
    assert CHECKPOINT // 200 < sum(due) <= CHECKPOINT // 50
    assert pace.add(1, CHECKPOINT * 4096)  # one large value


class Spy(sqlite3.Connection):
    """Notes which thread commits and writes the log back."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self.seen: list[tuple[str, bool]] = []

    def execute(self, sql: str, *arguments: object) -> sqlite3.Cursor:  # type: ignore[override]
        if sql.startswith(("COMMIT", "PRAGMA wal_checkpoint(PASSIVE)")):
            on_loop = threading.current_thread() is threading.main_thread()
            self.seen.append((sql.partition(" ")[0], on_loop))
        return super().execute(sql, *arguments)  # type: ignore[arg-type]


async def spied(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[SQLiteStore, Spy]:
    store = await SQLiteStore.open(path)
    spy = sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=Spy)
    spy.execute("PRAGMA synchronous = FULL")
    store._writer.close()
    monkeypatch.setattr(store, "_writer", spy)
    return store, spy


async def test_commits_go_to_the_thread_while_the_disk_is_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, spy = await spied(tmp_path / "state.db", monkeypatch)
    clock = iter(range(1_000_000))
    monkeypatch.setattr(sqlite.time, "perf_counter", lambda: float(next(clock)))  # 1 s each
    for number in range(PENALTY + 2):
        await store.put(f"/{number}", b"v", expect=0)
    assert spy.seen == [("COMMIT", True), *[("COMMIT", False)] * PENALTY, ("COMMIT", True)]
    assert len((await store.range("/")).records) == PENALTY + 2
    await store.close()


async def test_the_log_is_written_back_by_the_thread_and_stays_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.db"
    store, spy = await spied(path, monkeypatch)
    for _ in range(40):
        await asyncio.gather(*(store.put(f"/{n}", b"x" * 3000, expect=None) for n in range(60)))
    assert ("PRAGMA", False) in spy.seen and ("PRAGMA", True) not in spy.seen
    assert path.with_name("state.db-wal").stat().st_size < 3 * CHECKPOINT * 4096
    await store.close()


async def test_what_is_in_the_log_is_written_though_it_cannot_be_written_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, spy = await spied(tmp_path / "state.db", monkeypatch)

    class Full(Spy):
        def execute(self, sql: str, *arguments: object) -> sqlite3.Cursor:  # type: ignore[override]
            if "wal_checkpoint" in sql:
                raise sqlite3.OperationalError("database or disk is full")
            return super().execute(sql, *arguments)

    spy.__class__ = Full
    assert await store.put("/a", b"x" * CHECKPOINT * 4096, expect=0) == 1
    assert await store.put("/b", b"y", expect=0) == 2
    await store.close()
