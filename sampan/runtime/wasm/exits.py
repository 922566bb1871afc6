"""What is known of a container's process, kept in its directory so that it outlives every process.

One file. Its first line says who the process is: pid, start time in ticks, ns since the epoch. The record of its end
follows: code, ns since the epoch, reason, message (which may go on), a line each. The worker adds it with one write when
it ends by itself; when it is killed, the zygote writes the file anew.
"""

from __future__ import annotations

import os
import time

NAME = "process"
MESSAGE_LIMIT = 3072  # one write of less than a page is all or nothing

Record = tuple[int, int, str, str]  # code, finished_at, reason, message


def create(directory: str, pid: int, started_at: int) -> int:
    """The file of a process that begins, with its identity; the descriptor to `fill` it through."""
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    fd = os.open(f"{directory}/{NAME}", flags, 0o600)
    os.write(fd, b"%d %d %d\n" % (pid, start_ticks(pid), started_at))
    return fd


def identity(directory: str) -> tuple[int, int, int]:
    """(pid, its start time in ticks, started_at in ns). Raises OSError or ValueError when there is none."""
    pid, ticks, started_at = _read(directory)[0].split()
    return int(pid), int(ticks), int(started_at)


def start_ticks(pid: int) -> int:
    """Start time of a process in clock ticks since boot; with the pid it names the process for good."""
    fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return int(os.read(fd, 4096).rpartition(b")")[2].split()[19])
    finally:
        os.close(fd)


def encode(code: int, reason: str, message: str = "") -> bytes:
    text = message.encode("utf-8", "replace")[:MESSAGE_LIMIT]
    return b"%d\n%d\n%s\n%s" % (code, time.time_ns(), reason.encode(), text)


def fill(fd: int, code: int, reason: str, message: str = "") -> None:
    try:
        os.write(fd, encode(code, reason, message))
    except OSError:
        return  # a full disk: the zygote still knows the code


def replace(directory: str, code: int, reason: str, message: str = "") -> None:
    """Write the record of a worker that could not. Raises OSError, FileNotFoundError when the container is gone."""
    first = _read(directory)[0]
    beside = f"{directory}/{NAME}.{os.getpid()}"
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, f"{first}\n".encode() + encode(code, reason, message))
    finally:
        os.close(fd)
    os.rename(beside, f"{directory}/{NAME}")


def read(directory: str) -> Record | None:
    """The record, or None while the container runs or when it never ran."""
    try:
        fields = _read(directory)
    except FileNotFoundError:
        return None
    if len(fields) < 5:
        return None
    return int(fields[1]), int(fields[2]), fields[3], fields[4]


def _read(directory: str) -> list[str]:
    fd = os.open(f"{directory}/{NAME}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 8192).decode("utf-8", "replace").split("\n", 4)
    finally:
        os.close(fd)
