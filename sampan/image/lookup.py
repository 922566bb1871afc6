"""Finding a path in a stack of unpacked layers, as overlayfs would show it, without mounting.

Used for what needs no mount: the module of a wasm image, `/etc/passwd` for COPY --chown. Symlinks are resolved inside
the stack; no path that an image wrote is given to the kernel.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Found:
    path: str  # in the image, free of symlinks, without a leading slash
    file: Path  # on the host: the file, or the topmost layer's directory
    status: os.stat_result
    rest: str = ""  # what of the asked path does not exist below `path`


def resolve(layers: Sequence[Path], path: str) -> Found:
    """As much of `path` as exists in the merged view (`layers` lowest first), symlinks resolved."""
    root = list(reversed(layers))
    stack: list[tuple[str, list[Path]]] = [("", root)]  # name and layer directories, topmost first
    todo = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    links = 0
    while todo:
        part = todo.pop()
        if part == "..":
            if len(stack) > 1:
                stack.pop()
            continue
        merged, leaf = _child(stack[-1][1], part)
        if merged:
            stack.append((part, merged))
            continue
        status = _status(leaf) if leaf is not None else None
        if leaf is None or status is None:
            return _found(stack, "/".join([part, *reversed(todo)]))
        if not stat.S_ISLNK(status.st_mode):
            names = [name for name, _ in stack[1:]]
            return Found("/".join([*names, part]), leaf, status, "/".join(reversed(todo)))
        links += 1
        if links > _LINKS:
            return _found(stack, part)
        target = os.readlink(leaf)
        if target.startswith("/"):
            del stack[1:]
        todo += [part for part in reversed(target.split("/")) if part not in ("", ".")]
    return _found(stack, "")


def _found(stack: list[tuple[str, list[Path]]], rest: str) -> Found:
    directory = stack[-1][1][0] if stack[-1][1] else Path("/nonexistent")
    status = _status(directory) or os.stat_result((stat.S_IFDIR | 0o755, *[0] * 9))
    return Found("/".join(name for name, _ in stack[1:]), directory, status, rest)


def _child(directories: list[Path], name: str) -> tuple[list[Path], Path | None]:
    """The merged directory `name`; or, with an empty list, the topmost other file of that name."""
    merged: list[Path] = []
    for directory in directories:
        candidate = directory / name
        status = _status(candidate)
        if _hidden(directory, name, status):
            break
        if status is None:
            continue
        if not stat.S_ISDIR(status.st_mode):
            return merged, None if merged else candidate
        merged.append(candidate)
        if _opaque(candidate):
            break
    return merged, None


def find(layers: Sequence[Path], path: str) -> Path | None:
    """The regular file at `path`, None when there is none."""
    found = resolve(layers, path)
    return found.file if not found.rest and stat.S_ISREG(found.status.st_mode) else None
