"""Changes of files on the host, by inotify(7): what of them a guest has a copy of is copied again."""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
from collections.abc import Callable
from pathlib import Path

CLOSE_WRITE, MOVED_TO = 0x8, 0x80
EVENT = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)


class Watch:
    """`changed(path, name)`: `name` was moved into a directory, or a file (name "") was written."""

    def __init__(self, changed: Callable[[Path, str], None]) -> None:
        self._changed = changed
        self._paths: dict[int, Path] = {}
        self._descriptor = -1

    def add(self, path: Path) -> None:
        """A path that is watched already, or has gone, is no mistake."""
        if self._descriptor < 0:
            self._descriptor = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
            if self._descriptor < 0:
                return
            asyncio.get_running_loop().add_reader(self._descriptor, self._read)
        number = _libc.inotify_add_watch(
            self._descriptor, os.fsencode(path), CLOSE_WRITE | MOVED_TO
        )
        if number >= 0:
            self._paths[number] = path

    def _read(self) -> None:
        try:
            data = os.read(self._descriptor, 65536)
        except BlockingIOError:
            return
        at = 0
        while at < len(data):
            number, _, _, size = EVENT.unpack_from(data, at)
            name = (
                data[at + EVENT.size : at + EVENT.size + size]
                .rstrip(b"\0")
                .decode(errors="replace")
            )
            at += EVENT.size + size
            if (path := self._paths.get(number)) is not None:
                self._changed(path, name)

    def close(self) -> None:
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
        self._paths.clear()
