"""The few kernel calls that Python's library does not have: mount, umount2, openat2 and inotify, through libc."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC = 1, 2, 4, 8, 4096, 16384
UMOUNT_DETACH, UMOUNT_NOFOLLOW = 2, 8

_SYS_OPENAT2 = 437  # the same on every architecture that has it
RESOLVE_NO_MAGICLINKS, RESOLVE_BENEATH = 0x02, 0x08

IN_MODIFY, IN_ATTRIB, IN_CREATE, IN_MOVED_TO, IN_MOVE_SELF, IN_DELETE_SELF = (
    0x2,
    0x4,
    0x100,
    0x80,
    0x800,
    0x400,
)
IN_CLOEXEC, IN_NONBLOCK = os.O_CLOEXEC, os.O_NONBLOCK


def _check(result: int, path: object) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))
    return result


def mount(source: str, target: str | Path, kind: str = "", flags: int = 0, data: str = "") -> None:
    _check(
        _libc.mount(
            source.encode(),
            os.fsencode(target),
            kind.encode() or None,
            ctypes.c_ulong(flags),
            data.encode() or None,
        ),
        target,
    )


def umount(target: str | Path, flags: int = UMOUNT_NOFOLLOW) -> None:
    _check(_libc.umount2(os.fsencode(target), flags), target)


def openat2(directory: int, path: str, flags: int, resolve: int) -> int:
    """A file descriptor. OSError EXDEV when the path leads out of the directory."""
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, 0, resolve)
    return int(
        _check(
            _libc.syscall(
                ctypes.c_long(_SYS_OPENAT2),
                ctypes.c_int(directory),
                ctypes.c_char_p(os.fsencode(path)),
                ctypes.c_char_p(how),
                ctypes.c_size_t(len(how)),
            ),
            path,
        )
    )


def inotify() -> int:
    """A new descriptor, non-blocking."""
    return int(_check(_libc.inotify_init1(IN_CLOEXEC | IN_NONBLOCK), "inotify"))


def inotify_watch(descriptor: int, path: str | Path, mask: int) -> int:
    return int(_check(_libc.inotify_add_watch(descriptor, os.fsencode(path), mask), path))


def mounts_below(directory: Path) -> list[str]:
    """Mount points at or under the directory, deepest first."""
    prefix = str(directory)
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            # Spaces and the like are written as octal escapes (proc(5)).
            point = line.split(" ", 5)[4]
            if "\\" in point:
                point = os.fsdecode(os.fsencode(point).decode("unicode_escape").encode("latin-1"))
            if point == prefix or point.startswith(prefix + "/"):
                found.append(point)
    return sorted(found, key=len, reverse=True)


def is_tmpfs(directory: Path) -> bool:
    """Whether what is written there stays off the disk."""
    point, kind = "", ""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            head, _, tail = line.partition(" - ")
            here = head.split(" ", 5)[4]
            inside = str(directory) == here or str(directory).startswith(here.rstrip("/") + "/")
            if inside and len(here) >= len(point):
                point, kind = here, tail.split(" ", 1)[0]
    return kind in ("tmpfs", "ramfs")
