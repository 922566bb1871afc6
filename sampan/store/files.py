"""The SQLite file: where it is, how it is opened, and what its failures mean to a user.

One file in WAL mode. `synchronous=FULL` makes a commit wait for the disk: what was acknowledged survives power loss. The
log holds every version in revision order; `live` says which version of a key is the present one. A value is stored once.

    log    revision → key, created, previous (revision of the version that this one replaces, 0: none), value (NULL: deleted)
    live   key → revision, created
    meta   floor: the compaction revision · swept: how far the log has been swept up to it
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import stat
from pathlib import Path

from sampan.store import StoreError

log = logging.getLogger(__name__)

WAL_KEPT = 16 << 20  # bytes
FORMAT = 1  # PRAGMA user_version
APPLICATION = 0x53414D50  # "SAMP": PRAGMA application_id, shown by file(1)

SCHEMA = """
CREATE TABLE log (
    revision INTEGER PRIMARY KEY, key TEXT NOT NULL, created INTEGER NOT NULL, previous INTEGER NOT NULL, value BLOB
);
CREATE TABLE live (key TEXT PRIMARY KEY, revision INTEGER NOT NULL, created INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('floor', 0), ('swept', 0);
"""

# What SQLite says → what the user can do. By primary error code (the low byte of the extended one).
ADVICE = {
    sqlite3.SQLITE_FULL: "the disk is full; free some space (the write was not saved, and may be tried again)",
    sqlite3.SQLITE_IOERR: "the disk reports an error; look into the kernel log (dmesg), then restart (the write was not saved)",
    sqlite3.SQLITE_CORRUPT: "the file is damaged; stop Sampan, move the file away, and restore a backup, or start anew without it",
    sqlite3.SQLITE_NOTADB: "this is not a Sampan store; move the file away, and restore a backup, or start anew without it",
    sqlite3.SQLITE_READONLY: "the file or its directory is read-only; check owner and mount options",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened; check that its directory exists and is writable by this user",
    sqlite3.SQLITE_BUSY: "another process has the file open; stop it first (is a second Sampan using this data directory?)",
    sqlite3.SQLITE_PERM: "no permission; check the owner of the file",
    sqlite3.SQLITE_TOOBIG: "the value is larger than SQLite can hold",
}


def explain(path: Path, error: sqlite3.Error) -> StoreError:
    """The same failure as a StoreError that names the file and says what to do."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    advice = ADVICE.get(code)
    return StoreError(f"{path}: {error}" + (f": {advice}" if advice else ""))


def connect(path: Path, *, cache: int, readonly: bool = False) -> sqlite3.Connection:
    """A connection in autocommit mode whose page cache is at most `cache` KiB. Raises sqlite3.Error."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=2.0)
    connection.execute(f"PRAGMA cache_size = -{cache}")
    connection.execute("PRAGMA secure_delete = OFF")
    if readonly:
        connection.execute("PRAGMA query_only = ON")
    return connection


def lock_file(path: Path) -> int:
    """Claim the store for this process: a descriptor to close at the end. Raises StoreError.

    Revisions are counted in memory, so a second writer would break the count; SQLite's own locks last for one transaction
    only. A file of its own, since closing any descriptor of the main file would drop SQLite's locks on it (POSIX).
    """
    lock = path.with_name(f"{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise StoreError(f"{path.parent}: not a directory; move that file away") from error
    except OSError as error:
        raise StoreError(f"{lock}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StoreError(
            f"{path}: another process has this store open; stop it first "
            "(is a second Sampan using this data directory?)"
        ) from error
    return descriptor


def open_file(path: Path, *, cache: int) -> sqlite3.Connection:
    """Make or open the store file and return the writing connection. Raises StoreError."""
    try:
        # SQLite gives the -wal and -shm files the mode of the main file.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        if stat.S_IMODE(path.stat().st_mode) != 0o600:
            path.chmod(0o600)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    connection: sqlite3.Connection | None = None
    try:
        connection = connect(path, cache=cache)
        # Must come before the first table, and before WAL.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL").fetchone()
        connection.execute("PRAGMA synchronous = FULL")
        # The WAL keeps its size after a checkpoint (overwriting is faster than growing), but not that of a rare big batch.
        connection.execute(f"PRAGMA journal_size_limit = {WAL_KEPT}").fetchone()
        # The store says when (`pace.py`), in its thread; this is for the case that it counts too little.
        connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_KEPT // 4096}").fetchone()
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        if found == 0 and application == 0:
            connection.executescript(
                f"BEGIN EXCLUSIVE; {SCHEMA} PRAGMA user_version = {FORMAT}; "
                f"PRAGMA application_id = {APPLICATION}; COMMIT;"
            )
        elif application != APPLICATION or found != FORMAT:
            raise StoreError(
                f"{path}: made by another program or another version of Sampan "
                f"(application {application:#x}, format {found}; this one reads format {FORMAT})"
            )
    except sqlite3.Error as error:
        if connection is not None:
            connection.close()
        raise explain(path, error) from error
    except StoreError:
        if connection is not None:
            connection.close()
        raise
    return connection


def checkpoint(path: Path, connection: sqlite3.Connection) -> None:
    """Write the log back into the file, as far as no reader needs it. What is in the log is durable: a failure waits."""
    try:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    except sqlite3.Error as error:
        log.warning("%s", explain(path, error))


def check_text(key: str) -> None:
    """Raises StoreError for a lone surrogate, which would fail the whole batch."""
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise StoreError(f"the key is not text: {key!r}") from error


def upper_bound(prefix: str) -> str | None:
    """The least string greater than every string that starts with `prefix`; None: there is no such."""
    while prefix:
        last = ord(prefix[-1])
        if last < 0x10FFFF:
            following = (
                0xE000 if last == 0xD7FF else last + 1
            )  # the surrogates between are not characters
            return prefix[:-1] + chr(following)
        prefix = prefix[:-1]
    return None
