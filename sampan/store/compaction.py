"""The steps of a compaction of the SQLite store, each of them one short transaction."""

from __future__ import annotations

import sqlite3

VACUUM_PAGES = 64  # pages given back in one transaction


def sweep(connection: sqlite3.Connection, start: int, end: int) -> None:
    """Delete the versions that were replaced by revision `end`, and the deletions before it.

    Whatever replaced a version names it as `previous`, so the rows of (start, end] lead to all that has to go. The row of
    `end` itself stays even if it is a deletion: the highest revision must be found again when the file is opened.
    """
    span = (start, end)
    connection.execute(
        "DELETE FROM log WHERE revision IN (SELECT previous FROM log WHERE revision > ? AND revision <= ? AND previous > 0)",
        span,
    )
    connection.execute(
        "DELETE FROM log WHERE revision >= ? AND revision < ? AND value IS NULL", span
    )
    connection.execute("UPDATE meta SET value = ? WHERE name = 'swept'", (end,))


def vacuum(connection: sqlite3.Connection) -> None:
    # Each step of this statement frees one page.
    connection.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})").fetchall()
