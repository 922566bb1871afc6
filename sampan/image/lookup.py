"""Finding a path in a stack of unpacked layers, as overlayfs would show it, without mounting.

Used for what needs no mount: the module of a wasm image, `/etc/passwd` for COPY --chown. Symlinks are resolved inside
the stack; no path that an image wrote is given to the kernel.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from sampan.image.extract import OPAQUE, OPAQUE_ATTRIBUTES, WHITEOUT

_LINKS = 40


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _hidden(directory: Path, name: str, status: os.stat_result | None) -> bool:
    if status is not None and stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
        return True
    return status is None and _status(directory / f"{WHITEOUT}{name}") is not None


def _opaque(directory: Path) -> bool:
    for attribute in OPAQUE_ATTRIBUTES:
        try:
            if os.getxattr(directory, attribute, follow_symlinks=False) == b"y":
                return True
        except OSError:
            continue
    return _status(directory / OPAQUE) is not None


def find(layers: Sequence[Path], path: str) -> Path | None:
    """The regular file at `path` in the merged view (`layers` lowest first), None when there is none."""
    top = list(reversed(layers))
    stack: list[list[Path]] = [
        top
    ]  # the merged directory at each depth: its layer directories, topmost first
    todo = list(reversed(path.split("/")))
    links = 0
    while todo:
        part = todo.pop()
        if part in ("", "."):
            continue
        if part == "..":
            if len(stack) > 1:
                stack.pop()
            continue
        merged: list[Path] = []
        for directory in stack[-1]:
            candidate = directory / part
            status = _status(candidate)
            if _hidden(directory, part, status):
                break
            if status is None:
                continue
            if stat.S_ISDIR(status.st_mode):
                merged.append(candidate)
                if _opaque(candidate):
                    break
                continue
            if merged:  # a directory above hides whatever this is
                break
            if stat.S_ISLNK(status.st_mode):
                links += 1
                if links > _LINKS:
                    return None
                target = os.readlink(candidate)
                if target.startswith("/"):
                    stack = [top]
                todo.extend(reversed(target.split("/")))
                break
            if any(rest not in ("", ".") for rest in todo) or not stat.S_ISREG(status.st_mode):
                return None
            return candidate
        else:
            if not merged:
                return None
            stack.append(merged)
            continue
        if merged:
            stack.append(merged)
        elif status is not None and stat.S_ISLNK(status.st_mode):
            continue
        else:
            return None
    return None
