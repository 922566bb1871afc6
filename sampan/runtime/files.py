"""Small files, written by three system calls: open(), buffers and text layers cost more than the writing does.

A start of a pod writes a dozen of them.
"""

from __future__ import annotations

import os

CREATE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC


def put(path: str | os.PathLike[str], text: str, mode: int = 0o600) -> None:
    """Make or overwrite the file. What a container's users read (hosts, resolv.conf) is made 0644."""
    _write(path, CREATE, text, mode=mode)


def set_value(path: str | os.PathLike[str], *values: str) -> None:
    """Tell a file of the kernel's (cgroup, sysctl) one value after another; it must be there."""
    _write(path, os.O_WRONLY | os.O_CLOEXEC, *values)


def replace(path: str | os.PathLike[str], text: str) -> None:
    """Put it in place whole: a reader, and a crash, see the old file or the new."""
    beside = f"{os.fspath(path)}.new"
    put(beside, text)
    os.replace(beside, path)


def overwrite(path: str | os.PathLike[str], offset: int, text: str) -> None:
    """Put a few bytes in the place of as many: a reader, and a crash, see the old ones or the new, for a page is whole."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.pwrite(descriptor, text.encode(), offset)
    finally:
        os.close(descriptor)


def _write(path: str | os.PathLike[str], flags: int, *texts: str, mode: int = 0o600) -> None:
    descriptor = os.open(path, flags, mode)
    try:
        for text in texts:
            data = text.encode()
            written = os.write(descriptor, data)
            while written < len(data):
                written += os.write(descriptor, memoryview(data)[written:])
    finally:
        os.close(descriptor)
