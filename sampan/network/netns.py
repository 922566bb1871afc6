"""Named network namespaces, as `ip netns` keeps them: a bind mount of the namespace's file in /run/netns.

unshare(2) and setns(2) act on the calling thread. Each function that needs another namespace runs in a thread of its own that
ends with it, so no other thread is ever found in the wrong namespace.
"""

from __future__ import annotations

import _thread
import ctypes
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sampan.network.errors import NamespaceError

DIRECTORY = Path("/run/netns")
CLONE_NEWNET = 0x40000000
MS_BIND, MS_REC, MS_SHARED, MS_PRIVATE = 0x1000, 0x4000, 1 << 20, 1 << 18
MNT_DETACH = 2
NSFS_MAGIC = 0x6E736673
_libc = ctypes.CDLL(None, use_errno=True)
T = TypeVar("T")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise NamespaceError(f"{what}: {os.strerror(number)}")


def _mount(source: str, target: str, flags: int) -> int:
    return int(_libc.mount(source.encode(), target.encode(), b"none", ctypes.c_ulong(flags), None))


def in_thread(function: Callable[[], T]) -> T:
    """Run `function` in a thread that ends with it; its result or its exception."""
    result: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            result.append(function())
        except BaseException as error:
            failure.append(error)

        finally:
            done.release()

    # Not threading.Thread: that would be waited for twice, at its start and at its end.
    done = _thread.allocate_lock()
    done.acquire()
    _thread.start_new_thread(run, ())
    done.acquire()
    if failure:
        raise failure[0]
    return result[0]


def enter(path: Path | str) -> None:
    """Move the calling thread into a namespace, for good."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(fd, CLONE_NEWNET), f"enter {path}")
    finally:
        os.close(fd)


def unshare() -> None:
    """Move the calling thread into a new namespace, which ends with it unless it is mounted."""
    _check(_libc.unshare(CLONE_NEWNET), "unshare network namespace")


def create(name: str, prepare: Callable[[], None] | None = None) -> Path:
    """A new namespace under /run/netns; `prepare` runs inside it. One that is there already is kept as it is."""
    path = DIRECTORY / name
    if not is_namespace(path):
        in_thread(lambda: create_from_here(name, prepare))
    return path


def create_from_here(name: str, prepare: Callable[[], None] | None = None) -> Path:
    """A new namespace, of a name that none has, by the calling thread, which is back in its own on return."""
    path = DIRECTORY / name
    DIRECTORY.mkdir(mode=0o755, parents=True, exist_ok=True)
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        path.touch(mode=0o600)
        unshare()
        try:
            if prepare is not None:
                prepare()
            _check(_mount("/proc/thread-self/ns/net", str(path), MS_BIND), f"mount {path}")
        finally:
            _check(_libc.setns(own, CLONE_NEWNET), "return from a new network namespace")
    except OSError as error:
        delete(name)
        raise NamespaceError(f"create {path}: {error.strerror}") from None
    except BaseException:
        delete(name)
        raise
    finally:
        os.close(own)
    return path


def is_namespace(path: Path) -> bool:
    """Is `path` a mounted namespace, not the plain file that a crash or a reboot left?"""
    try:
        status = os.stat(path)
    except OSError:
        return False
    try:
        own = os.stat("/proc/self/ns/net")
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_dev == own.st_dev  # nsfs has one device


def delete(name: str) -> None:
    """Unmount and remove. The kernel takes the namespace down when its last process ends. Idempotent."""
    path = DIRECTORY / name
    while _libc.umount2(str(path).encode(), MNT_DETACH) == 0:
        pass
    number = ctypes.get_errno()
    if number not in (errno.EINVAL, errno.ENOENT, errno.EPERM):
        raise NamespaceError(f"unmount {path}: {os.strerror(number)}")
    try:
        path.unlink()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise NamespaceError(f"remove {path}: {error.strerror}") from None


def names(prefix: str) -> list[str]:
    try:
        return sorted(entry for entry in os.listdir(DIRECTORY) if entry.startswith(prefix))
    except FileNotFoundError:
        return []


def delete_all(prefix: str) -> None:
    for name in names(prefix):
        delete(name)
