"""Trees of files that somebody else made and may be making still: walked, measured, removed, however deep they are.

A container may nest directories deeper than Python recurses and than PATH_MAX names: os.walk and shutil.rmtree end in a
RecursionError there, which would cost the node its figures of every pod and leave the container's files for ever. So these
go by descriptors, one level at a time; no link is followed, and no path is longer than one name. All of them may take a
while, and belong into a thread.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
BLOCK = 512  # unit of st_blocks, whatever the file system's own
_Identity = tuple[int, int]


class _Level:
    """A directory on the way down, by which the way back up is recognized."""

    def __init__(self, name: str, identity: _Identity) -> None:
        self.name = name
        self.identity = identity
        self.waiting: list[str] = []  # directories in it that were not entered yet


def walk(
    path: str | os.PathLike[str],
) -> Iterator[tuple[int, list[tuple[os.DirEntry[str], os.stat_result]]]]:
    """Each directory once, the root first: a descriptor of it, valid until the next step, and what is in it.

    Stays on one file system. What vanishes meanwhile is left out, and what moves is seen at most once more; a root
    that is not there is an empty tree.
    """
    try:
        current = os.open(path, DIRECTORY)
    except OSError:
        return
    top = os.fstat(current)
    levels = [_Level("", (top.st_dev, top.st_ino))]
    try:
        while levels:
            level = levels[-1]
            found = list(_entries(current))
            yield current, found
            level.waiting = [
                entry.name
                for entry, status in found
                if entry.is_dir(follow_symlinks=False) and status.st_dev == top.st_dev
            ]
            del found
            while levels:
                if not levels[-1].waiting:
                    levels.pop()
                    if levels:
                        current = _up(path, current, levels)
                    continue
                name = levels[-1].waiting.pop()
                try:
                    below = os.open(name, DIRECTORY, dir_fd=current)
                except OSError:
                    continue
                os.close(current)
                current = below
                status = os.fstat(current)
                levels.append(_Level(name, (status.st_dev, status.st_ino)))
                break
    finally:
        if current >= 0:
            os.close(current)


def _entries(directory: int) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                try:
                    yield entry, entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
    except OSError:
        return  # a directory that may not be read


def _up(path: str | os.PathLike[str], current: int, levels: list[_Level]) -> int:
    """The directory above, as a descriptor. Where it was moved away meanwhile, its `..` leads anywhere: back from the root."""
    above = os.open("..", DIRECTORY, dir_fd=current)
    os.close(current)
    status = os.fstat(above)
    if (status.st_dev, status.st_ino) == levels[-1].identity:
        return above
    os.close(above)
    current = os.open(path, DIRECTORY)
    for depth, level in enumerate(levels[1:], 1):
        try:
            below = os.open(level.name, DIRECTORY, dir_fd=current)
        except OSError:
            del levels[depth:]
            break
        os.close(current)
        current = below
    return current


def size(path: str | os.PathLike[str]) -> int:
    """Bytes that the tree takes on its disk; what has several names counts once."""
    total, linked = 0, set[_Identity]()
    try:
        total = os.lstat(path).st_blocks * BLOCK
    except OSError:
        return 0
    for _, found in walk(path):
        for entry, status in found:
            if status.st_nlink > 1 and not entry.is_dir(follow_symlinks=False):
                identity = (status.st_dev, status.st_ino)
                if identity in linked:
                    continue
                linked.add(identity)
            total += status.st_blocks * BLOCK
    return total


def remove(path: str | os.PathLike[str]) -> None:
    """Nothing of the tree is left on return. Idempotent. OSError for what does not go: a mount, a file held by a flag.

    What is mounted in the tree is never entered, whatever file system it is of.
    """
    try:
        base = os.open(path, DIRECTORY)
    except FileNotFoundError:
        return
    try:
        _Removal(base).run()
    finally:
        os.close(base)
    os.rmdir(path)


def remove_quietly(path: Path) -> None:
    """As much of it as goes; the rest is tried again by whoever looks for left-overs."""
    try:
        remove(path)
    except OSError:
        return


class _Removal:
    """What is deep is brought up: a directory's own directories are moved beside it before it goes.

    Moving is also the test for a mount point, which the kernel refuses to rename.
    """

    def __init__(self, base: int) -> None:
        self._base = base
        self._mark = f".{secrets.token_hex(8)}-"  # begins the names of what was moved
        self._moved = 0

    def run(self) -> None:
        while entries := list(os.scandir(self._base)):
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    _gone(os.unlink, entry.name, self._base)
                elif entry.name.startswith(self._mark):
                    self._flatten(entry.name)
                else:
                    self._bring(entry.name, self._base)

    def _bring(self, name: str, directory: int) -> None:
        """Remove an empty directory, move another up."""
        try:
            os.rmdir(name, dir_fd=directory)
        except FileNotFoundError:
            return
        except OSError:
            self._moved += 1
            fresh = f"{self._mark}{self._moved}"
            if os.geteuid() != 0:
                # Images have directories that not even their owner may write to or enter, and a move writes to it.
                os.chmod(name, 0o700, dir_fd=directory)
            os.rename(name, fresh, src_dir_fd=directory, dst_dir_fd=self._base)

    def _flatten(self, name: str) -> None:
        try:
            directory = os.open(name, DIRECTORY, dir_fd=self._base)
        except FileNotFoundError:
            return
        try:
            for entry in list(os.scandir(directory)):
                if entry.is_dir(follow_symlinks=False):
                    self._bring(entry.name, directory)
                else:
                    _gone(os.unlink, entry.name, directory)
        finally:
            os.close(directory)
        _gone(os.rmdir, name, self._base)


def _gone(action: Callable[..., None], name: str, directory: int) -> None:
    try:
        action(name, dir_fd=directory)
    except FileNotFoundError:
        return
