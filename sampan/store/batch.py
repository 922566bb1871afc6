"""What waits for a commit of the SQLite store, and what one commit carries."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

from sampan.store import Conflict


@dataclass(slots=True)
class Write:
    """A put (`value` is bytes) or a delete (None) that waits for its commit."""

    key: str
    value: bytes | None
    expect: int | None
    done: asyncio.Future[int]
    outcome: int | Conflict | None = None


@dataclass(slots=True)
class Pending:
    """A change that is written and not yet committed; its previous value is read only when a watch wants it."""

    key: str
    value: bytes | None
    revision: int
    created: int
    previous: int


@dataclass(slots=True)
class Batch:
    """What one transaction carries."""

    writes: list[Write]
    changes: list[Pending]
    size: int  # bytes of the values
    work: Callable[[sqlite3.Connection], object] | None = None  # run by the thread before COMMIT
    done: asyncio.Future[None] | None = None  # of `work`
    checkpoint: bool = False  # write the log back into the file afterwards
