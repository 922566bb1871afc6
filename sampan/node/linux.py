"""The few kernel calls that Python's library does not have: openat2 and inotify, through libc."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)

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
