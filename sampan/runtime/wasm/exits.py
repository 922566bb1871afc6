"""Exit records: how a container ended, kept in its directory so that the answer outlives every process.

The worker creates the file empty and fills it with one write when it ends by itself; when it is killed, the zygote
replaces the empty file. Four lines: code, ns since the epoch, reason, message (which may go on).
"""

from __future__ import annotations

import os
import time

NAME = "exit"
MESSAGE_LIMIT = 3072  # one write of less than a page is all or nothing

Record = tuple[int, int, str, str]  # code, finished_at, reason, message


def create(directory: str) -> int:
    """An empty record; the descriptor to `fill` it through."""
    return os.open(f"{directory}/{NAME}", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)


def encode(code: int, reason: str, message: str = "") -> bytes:
    text = message.encode("utf-8", "replace")[:MESSAGE_LIMIT]
    return b"%d\n%d\n%s\n%s" % (code, time.time_ns(), reason.encode(), text)


def fill(fd: int, code: int, reason: str, message: str = "") -> None:
    try:
        os.pwrite(fd, encode(code, reason, message), 0)
    except OSError:
        return  # a full disk: the zygote still knows the code


def replace(directory: str, code: int, reason: str, message: str = "") -> None:
    """Write the record of a worker that could not. Raises OSError, FileNotFoundError when the container is gone."""
    beside = f"{directory}/{NAME}.{os.getpid()}"
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, encode(code, reason, message))
    finally:
        os.close(fd)
    os.rename(beside, f"{directory}/{NAME}")


def read(directory: str) -> Record | None:
    """The record, or None while the container runs or when it never ran."""
    try:
        fd = os.open(f"{directory}/{NAME}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        text = os.read(fd, 8192).decode("utf-8", "replace")
    finally:
        os.close(fd)
    fields = text.split("\n", 3)
    if len(fields) < 4:
        return None
    return int(fields[0]), int(fields[1]), fields[2], fields[3]
