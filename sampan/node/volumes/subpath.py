"""A path inside a volume that cannot lead out of it, even while a container swaps in symbolic links (CVE-2017-1002101).

The kernel resolves it (openat2 with RESOLVE_BENEATH), and what is mounted is the opened file itself: as root it is
bound to a place that only the node writes to, so that nothing can be swapped afterwards. Without root the container has
no more rights than the node, and its resolved path is enough.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path, PurePosixPath

from sampan.linux import mounts
from sampan.node import linux
from sampan.node.errors import VolumeError

_FLAGS = os.O_PATH


def check(sub: str) -> None:
    path = PurePosixPath(sub)
    if path.is_absolute() or ".." in path.parts:
        raise VolumeError(f"subPath {sub!r} must be relative and must not contain '..'")


def open_beneath(root: Path, sub: str, *, create: bool) -> int:
    """An O_PATH descriptor of `root/sub`. `create` makes missing directories. Raises VolumeError."""
    check(sub)
    base = os.open(root, _FLAGS | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            return _resolve(base, sub)
        except FileNotFoundError:
            if not create:
                raise
            _make(base, sub)
            return _resolve(base, sub)
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.ELOOP):
            raise VolumeError(f"subPath {sub!r} leads out of the volume") from error
        raise VolumeError(f"subPath {sub!r}: {error.strerror}") from error
    finally:
        os.close(base)


def _resolve(base: int, sub: str) -> int:
    return linux.openat2(base, sub, _FLAGS, linux.RESOLVE_BENEATH | linux.RESOLVE_NO_MAGICLINKS)


def _make(base: int, sub: str) -> None:
    """Missing directories, one by one, each made inside the one that was opened before."""
    here = os.dup(base)
    try:
        for part in PurePosixPath(sub).parts:
            try:
                inner = linux.openat2(
                    here,
                    part,
                    _FLAGS | os.O_DIRECTORY | os.O_NOFOLLOW,
                    linux.RESOLVE_BENEATH | linux.RESOLVE_NO_MAGICLINKS,
                )
            except FileNotFoundError:
                os.mkdir(part, 0o755, dir_fd=here)
                inner = os.open(part, _FLAGS | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
                os.chmod(f"/proc/self/fd/{inner}", 0o777)
            os.close(here)
            here = inner
    finally:
        os.close(here)


def mount_source(root: Path, sub: str, place: Path, *, create: bool, bind: bool) -> str:
    """A host path to mount for `root/sub`. `bind`: fix it by a bind mount at `place`, to be unmounted with the pod."""
    descriptor = open_beneath(root, sub, create=create)
    try:
        link = f"/proc/self/fd/{descriptor}"
        if not bind:
            return os.readlink(link)
        for _ in mounts.mounts_below(place):  # ismount() does not see binds on one file system
            mounts.unmount(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        if os.path.isdir(link):
            place.mkdir(exist_ok=True)
        else:
            place.touch()
        mounts.mount(link, place, "", mounts.MS_BIND)
        return str(place)
    finally:
        os.close(descriptor)
