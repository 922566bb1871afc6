"""Store contract: a revisioned key-value store, the only durable state of the control plane.

The shape is etcd's (one revision counter for the whole store; a key remembers its create and last-modified revision;
history is kept until compacted), so that an etcd cluster can stand behind it unchanged. Nothing here knows Kubernetes.

Implementations: `sqlite.py` (embedded, default), `etcd.py` (an etcd cluster, shared by several API servers). All methods may be called concurrently from one event loop.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol


class StoreError(Exception):
    """Root of this room's errors.

    StoreError
    ├── Conflict     the expectation of a put or delete did not hold; nothing was written
    ├── Compacted    the asked revision is older than what is kept; list again
    └── Closed       the store was closed while the call waited
    """


class Conflict(StoreError):
    """`expect` did not hold. `current` is the record as it is now (None: the key is absent)."""

    def __init__(self, key: str, current: Record | None) -> None:
        super().__init__(
            f"{key}: expected another revision, found {current.revision if current else 'no record'}"
        )
        self.key = key
        self.current = current


class Compacted(StoreError):
    """The asked revision was compacted away. `oldest` is the oldest revision that can still be watched from."""

    def __init__(self, asked: int, oldest: int) -> None:
        super().__init__(f"revision {asked} was compacted; the oldest kept is {oldest}")
        self.asked = asked
        self.oldest = oldest


class Closed(StoreError):
    """The store is closed."""


@dataclass(frozen=True, slots=True)
class Record:
    key: str
    value: bytes
    created: int  # revision of the put that created the key
    revision: int  # revision of the last put


@dataclass(frozen=True, slots=True)
class Page:
    records: list[Record]  # in key order
    revision: int  # store revision that this page shows
    more: bool  # there are further keys after the last one


@dataclass(frozen=True, slots=True)
class Change:
    key: str
    value: bytes | None  # None: the key was deleted
    previous: bytes | None  # None: the key was created
    revision: int
    created: int


class Store(Protocol):
    shared: bool  # do other processes write to it too?

    async def get(self, key: str) -> Record | None:
        """The record now, or None. Linearizable with every answered write."""
        ...

    async def range(
        self, prefix: str, *, after: str = "", limit: int = 0, revision: int = 0
    ) -> Page:
        """Records whose key starts with `prefix` and is greater than `after`, in key order.

        `limit` 0 is no limit. `revision` 0 is now; another reads the past: Compacted when no longer kept.
        """
        ...

    async def put(self, key: str, value: bytes, *, expect: int | None) -> int:
        """Write and return the new revision, durable on return.

        `expect`: None writes whatever is there; 0 means that the key must be absent; n means that its last revision
        must be n. Raises Conflict otherwise, with the present record.
        """
        ...

    async def delete(self, key: str, *, expect: int | None) -> int:
        """Delete and return the revision of the deletion, durable on return. An absent key raises Conflict."""
        ...

    def watch(self, prefix: str, since: int) -> AsyncIterator[list[Change]]:
        """Every change with revision > `since`, in revision order, in batches, without gap or repeat, for ever.

        The iterator is registered when the call returns, before it is first awaited. Raises Compacted from the
        iterator when `since` is older than what is kept. Closing the iterator frees what it holds.
        """
        ...

    @property
    def revision(self) -> int:
        """The last durable revision; of a shared store, the last that this process knows of."""
        ...

    async def current(self) -> int:
        """The last durable revision, whoever wrote it: no older than the moment of the call."""
        ...

    async def mark(self) -> int:
        """A revision, not older than the call, that a watch on everything will show or has shown.

        `current` of a shared store may be a revision that others made, with keys that no watch here sees.
        """
        ...

    @property
    def size(self) -> int | None:
        """Bytes that the database takes on disk; None where that is not known here."""
        ...

    async def compact(self, before: int) -> None:
        """Forget history older than `before`; the newest version of every live key stays. Idempotent."""
        ...

    async def close(self) -> None:
        """Finish what was accepted, end all watches with Closed, release the files. Idempotent."""
        ...
