"""What the index answered is good until anybody commits to it, and never what a broken-off commit said."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from sampan.image.remembered import Remembered


def commit(path: Path, value: int) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("CREATE TABLE IF NOT EXISTS t (value)")
        connection.execute("INSERT INTO t VALUES (?)", (value,))
    connection.close()


def test_an_answer_lasts_until_somebody_commits(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    answers = Remembered[int](path)
    assert answers.count() == b""
    assert answers.get(answers.count(), "a") is None
    answers.put(answers.count(), "a", 0)
    assert answers.get(answers.count(), "a") is None, "nothing is there to be remembered"
    for value in (1, 2):
        commit(path, value)
        count = answers.count()
        assert answers.get(count, "a") is None
        answers.put(count, "a", value)
        assert answers.get(answers.count(), "a") == value
    other = tmp_path / "other.db"
    commit(other, 1)
    commit(other, 2)
    os.replace(other, path)  # as many commits, another file
    assert answers.get(answers.count(), "a") is None


def test_what_was_asked_during_a_commit_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    commit(path, 1)
    answers = Remembered[int](path)
    count = answers.count()
    assert answers.get(count, "a") is None
    commit(path, 2)
    answers.put(count, "a", 1)
    assert answers.get(count, "a") is None
    assert answers.get(answers.count(), "a") is None


def test_a_commit_that_was_broken_off_is_not_one(tmp_path: Path) -> None:
    """The new pages are there, and so is the journal that takes them back: who asks the database undoes it first."""
    path, journal = tmp_path / "index.db", tmp_path / "index.db-journal"
    commit(path, 1)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA cache_size = 1")
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany("INSERT INTO t VALUES (?)", [("x" * 3000,)] * 50)  # spills
    kept = journal.read_bytes()
    connection.execute("COMMIT")
    connection.close()
    journal.write_bytes(kept)
    answers = Remembered[int](path)
    count = answers.count()
    assert answers.get(count, "a") is None
    reader = sqlite3.connect(path)
    assert reader.execute("SELECT count(*) FROM t").fetchone() == (1,)
    reader.close()
    answers.put(count, "a", 51)
    assert answers.count() != count
    assert answers.get(count, "a") is None
