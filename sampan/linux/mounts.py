"""mount(2) and umount2(2), which Python has no name for, and what is mounted where (proc_pid_mountinfo(5))."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19

MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8
IN_MEMORY = ("tmpfs", "ramfs")

_libc = ctypes.CDLL(None, use_errno=True)


def mount(
    source: str, target: str | Path, kind: str = "", flags: int = 0, options: str = ""
) -> None:
    """Raises OSError that names the target."""
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        kind.encode() or None,
        ctypes.c_ulong(flags),
        os.fsencode(options) or None,
    )
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mount {kind or 'bind'} at {target}: {os.strerror(number)}")


def unmount(target: str | Path) -> bool:
    """Detach what is mounted at `target`, which is not followed; False when nothing was, or it does not exist."""
    return _libc.umount2(os.fsencode(target), MNT_DETACH | UMOUNT_NOFOLLOW) == 0


def mounts_below(directory: Path) -> list[str]:
    """Mount points at or under the directory, the innermost first."""
    prefix = str(directory)
    points = (point for point, _ in _mounted())
    found = [point for point in points if point == prefix or point.startswith(prefix + "/")]
    return sorted(found, key=len, reverse=True)


def unmount_below(directory: Path) -> None:
    """Detach every mount at or below `directory`, the innermost first."""
    for point in mounts_below(directory):
        unmount(point)


def is_in_memory(directory: Path) -> bool:
    """Whether what is written there stays off the disk."""
    point, kind = "", ""
    for here, of in _mounted():
        inside = str(directory) == here or str(directory).startswith(here.rstrip("/") + "/")
        if inside and len(here) >= len(point):
            point, kind = here, of
    return kind in IN_MEMORY


def _mounted() -> Iterator[tuple[str, str]]:
    """(mount point, file system)."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            head, _, tail = line.partition(" - ")
            # Blanks and the like are written as octal escapes there.
            point = head.split(" ", 5)[4]
            if "\\" in point:
                point = os.fsdecode(os.fsencode(point).decode("unicode_escape").encode("latin-1"))
            yield point, tail.split(" ", 1)[0]
