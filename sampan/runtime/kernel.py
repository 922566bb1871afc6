"""Kernel calls that Python 3.11 has no name for: detached mounts and namespaces, through ctypes (plain mounts: linux/mounts.py).

Namespaces are entered by a thread made for the purpose, which then ends: the kernel keeps them per thread, so the rest
of the process never leaves its own, and nothing has to be forked.
"""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

CLONE_FS = 0x00000200
CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000

# open_tree(2), move_mount(2), mount_setattr(2): the same numbers on every architecture.
OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR = 428, 429, 442
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
OPEN_TREE_CLONE = 1
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOUNT_ATTR_IDMAP = 0x00100000

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def open_tree(source: str | Path) -> int:
    """A detached copy of the mounts at `source`, as a descriptor; shared ones stay peers of the original."""
    flags = OPEN_TREE_CLONE | AT_RECURSIVE | os.O_CLOEXEC
    tree: int = _libc.syscall(OPEN_TREE, AT_FDCWD, os.fsencode(source), flags)
    _check(tree if tree < 0 else 0, f"open_tree {source}")
    return tree


def map_owners(tree: int, users: str | Path) -> None:
    """Show the owners in a detached mount as the user namespace at `users` maps them.

    Raises OSError (EINVAL) where the file system has no idmapped mounts.
    """
    descriptor = os.open(users, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # struct mount_attr: attr_set, attr_clr, propagation, userns_fd
        attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_IDMAP, 0, 0, descriptor)
        result = _libc.syscall(
            MOUNT_SETATTR, tree, b"", AT_EMPTY_PATH | AT_RECURSIVE,
            ctypes.byref(attributes), ctypes.c_size_t(ctypes.sizeof(attributes)),
        )  # fmt: skip
        _check(result, "mount_setattr: idmapped mount")
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def opened(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def move_mount(tree: int, target: str | Path) -> None:
    """Attach a detached copy at `target`."""
    result = _libc.syscall(
        MOVE_MOUNT, tree, b"", AT_FDCWD, os.fsencode(target), MOVE_MOUNT_F_EMPTY_PATH
    )
    _check(result, f"move_mount to {target}")


def unshare(flags: int) -> None:
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def enter(path: str | Path, flags: int) -> None:
    """Join the namespace at `path` with the calling thread."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(descriptor, ctypes.c_int(flags)), f"setns {path}")
    finally:
        os.close(descriptor)


async def in_thread(function: Callable[[], T]) -> T:
    """Run `function` in a thread of its own, which ends with it: it may change its namespaces at will."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        try:
            result = function()
        except BaseException as error:  # handed over to the waiting task as it is
            loop.call_soon_threadsafe(settle, None, error)
        else:
            loop.call_soon_threadsafe(settle, result, None)

    # Not threading.Thread: its start() stops the event loop until the thread has come to run.
    _thread.start_new_thread(run, ())
    return await future


def named(word: str) -> list[int]:
    """Processes with `word` in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and word.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def catches(pid: int, number: int) -> bool:
    """Whether the process has a handler for the signal."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    return handles(text, number)


def handles(status: str, number: int) -> bool:
    """The same, of what /proc/PID/status says."""
    mask = next((line[7:] for line in status.splitlines() if line.startswith("SigCgt:")), "0")
    return bool(int(mask, 16) >> (number - 1) & 1)


def state(pid: int) -> str:
    """One letter: "R" runs or would like to, "D" waits for the disk, "S" sleeps (proc_pid_stat(5)). "": it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def start_ticks(pid: int) -> int:
    """When the process began, in clock ticks since boot: with the pid it names a process for good. 0: it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    fields = text.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])
