"""wasi:filesystem: the volumes and the image's files, as preopened directories.

A path is resolved by the kernel, openat2(2) with RESOLVE_BENEATH: neither `..`, nor an absolute path, nor a symbolic link leads out of
the directory that it starts from. What the last step of a path does (unlink, rename, mkdir) is done in its parent,
opened that way. A descriptor made from a read-only one is read-only; mounts say the same once more.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import time

from sampan.runtime.wasm import linux
from sampan.runtime.wasm.component.clocks import datetime
from sampan.runtime.wasm.component.guest import Refused, Resource
from sampan.runtime.wasm.component.streams import (
    PERMIT,
    Failure,
    InputStream,
    OutputStream,
    Ready,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sampan.runtime.wasm.component.guest import Guest

_OPENAT2 = 437
_RESOLVE_BENEATH, _RESOLVE_NO_MAGICLINKS = 0x08, 0x02
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_TYPES = {
    stat.S_IFREG: "regular-file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symbolic-link", stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket", stat.S_IFCHR: "character-device", stat.S_IFBLK: "block-device",
}  # fmt: skip
_ERRORS = {
    errno.EACCES: "access", errno.EAGAIN: "would-block", errno.EALREADY: "already", errno.EBADF: "bad-descriptor",
    errno.EBUSY: "busy", errno.EDEADLK: "deadlock", errno.EDQUOT: "quota", errno.EEXIST: "exist",
    errno.EFBIG: "file-too-large", errno.EILSEQ: "illegal-byte-sequence", errno.EINTR: "interrupted",
    errno.EINVAL: "invalid", errno.EIO: "io", errno.EISDIR: "is-directory", errno.ELOOP: "loop",
    errno.EMLINK: "too-many-links", errno.ENAMETOOLONG: "name-too-long", errno.ENODEV: "no-device",
    errno.ENOENT: "no-entry", errno.ENOMEM: "insufficient-memory", errno.ENOSPC: "insufficient-space",
    errno.ENOTDIR: "not-directory", errno.ENOTEMPTY: "not-empty", errno.ENOTSUP: "unsupported", errno.ENOTTY: "no-tty",
    errno.ENXIO: "no-such-device", errno.EOVERFLOW: "overflow", errno.EPERM: "not-permitted", errno.EPIPE: "pipe",
    errno.EROFS: "read-only", errno.ESPIPE: "invalid-seek", errno.ETXTBSY: "text-file-busy",
    errno.EXDEV: "not-permitted",  # openat2: the path leads out
}  # fmt: skip
_MAX_OPEN = 1024  # files of one instance


def code(error: OSError) -> str:
    return _ERRORS.get(error.errno or 0, "io")


class Descriptor(Resource):
    kind = "descriptor"
    __slots__ = ("fd", "lasts", "read", "write")

    def __init__(self, fd: int, *, read: bool, write: bool, lasts: bool = False) -> None:
        """`lasts`: it belongs to the container, not to the instance."""
        self.fd, self.read, self.write, self.lasts = fd, read, write, lasts

    def close(self) -> None:
        if not self.lasts and self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def changing(self) -> Descriptor:
        """Itself, if what it holds may be changed."""
        if not self.write:
            raise Refused("read-only")
        return self


class _FileReader(Ready):
    def __init__(self, fd: int, offset: int) -> None:
        self.fd, self.offset = os.dup(fd), offset

    def read(self, size: int) -> bytes | None:
        data = os.pread(self.fd, size, self.offset)
        self.offset += len(data)
        return data or (b"" if not size else None)

    def dropped(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class _FileWriter(Ready):
    """`offset` None: always at the end."""

    def __init__(self, fd: int, offset: int | None) -> None:
        self.fd, self.offset = os.dup(fd), offset

    def room(self) -> int:
        return PERMIT

    def write(self, data: bytes) -> None:
        while data:
            at = self.offset if self.offset is not None else os.fstat(self.fd).st_size
            written = os.pwrite(self.fd, data, at)
            if self.offset is not None:
                self.offset += written
            data = data[written:]

    def flush(self) -> None:
        return

    def dropped(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Entries(Resource):
    kind = "directory-entry-stream"
    __slots__ = ("entries",)

    def __init__(self, entries: list[tuple[str, str]]) -> None:
        self.entries = entries


# -- paths --------------------------------------------------------------------------------------------------------


def _open(base: Descriptor, path: str, flags: int, mode: int = 0) -> int:
    """openat2 beneath `base`. Raises OSError."""
    if not path:
        raise FileNotFoundError(errno.ENOENT, "an empty path")
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, mode, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
    return linux.syscall(
        "openat2", _OPENAT2, base.fd, path.encode("utf-8", "surrogateescape"), how, len(how)
    )


class _parent:
    """The directory that holds the last step of a path, and that step's name."""

    def __init__(self, base: Descriptor, path: str) -> None:
        directory, _, self.name = path.rstrip("/").rpartition("/")
        if self.name in ("", ".", ".."):
            raise OSError(errno.EINVAL, "the path names no entry of a directory")
        if path.startswith("/"):
            raise OSError(errno.EPERM, "an absolute path")
        self.fd = _open(base, directory or ".", _DIRECTORY | os.O_PATH)

    def __enter__(self) -> tuple[int, str]:
        return self.fd, self.name

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


class _at:
    """What a path names, opened without being read: links followed if asked for."""

    def __init__(self, base: Descriptor, flags: frozenset[str], path: str) -> None:
        follow = 0 if "symlink-follow" in flags else os.O_NOFOLLOW
        self.fd = _open(base, path, os.O_PATH | follow)

    def __enter__(self) -> int:
        return self.fd

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


def refusing(serve: Callable[..., Any]) -> Callable[..., Any]:
    """A host function whose OSError is the guest's error-code."""

    def call(guest: Guest, *arguments: Any) -> Any:
        try:
            return serve(guest, *arguments)
        except OSError as error:
            raise Refused(code(error)) from error

    return call


# -- descriptors --------------------------------------------------------------------------------------------------


def directories(guest: Guest) -> list[tuple[Descriptor, str]]:
    return [
        (Descriptor(fd, read=True, write=not readonly, lasts=True), name)
        for fd, name, readonly in guest.world.setting.preopens
    ]


def open_at(
    guest: Guest,
    base: Descriptor,
    follow: frozenset[str],
    path: str,
    how: frozenset[str],
    what: frozenset[str],
) -> Descriptor:
    write = bool(what & {"write", "mutate-directory"})
    if how & {"create", "truncate"} or "write" in what:
        base.changing()
    if sum(isinstance(one, Descriptor) for one in guest.handles.values()) >= _MAX_OPEN:
        raise OSError(errno.ENOMEM, "too many open files")
    flags = os.O_NONBLOCK | os.O_NOCTTY
    if "write" in what:
        flags |= os.O_RDWR if "read" in what else os.O_WRONLY
    for name, flag in (
        *(("create", os.O_CREAT), ("exclusive", os.O_EXCL), ("truncate", os.O_TRUNC)),
        ("directory", os.O_DIRECTORY),
    ):
        flags |= flag if name in how else 0
    if "directory" in how:
        flags &= ~(os.O_RDWR | os.O_WRONLY)
    if "symlink-follow" not in follow:
        flags |= os.O_NOFOLLOW
    fd = _open(base, path, flags, 0o666 if "create" in how else 0)
    directory = stat.S_ISDIR(os.fstat(fd).st_mode)
    return Descriptor(
        fd, read=directory or "read" in what, write=base.write and (write or directory)
    )


def read_stream(guest: Guest, one: Descriptor, offset: int) -> InputStream:
    return InputStream(_FileReader(one.fd, offset))


def write_stream(guest: Guest, one: Descriptor, offset: int) -> OutputStream:
    return OutputStream(_FileWriter(one.changing().fd, offset))


def append_stream(guest: Guest, one: Descriptor) -> OutputStream:
    return OutputStream(_FileWriter(one.changing().fd, None))


def read(guest: Guest, one: Descriptor, size: int, offset: int) -> tuple[bytes, bool]:
    data = os.pread(one.fd, min(size, PERMIT), offset)
    return data, not data and bool(size)


def write(guest: Guest, one: Descriptor, data: bytes, offset: int) -> int:
    return os.pwrite(one.changing().fd, data, offset)


def set_size(guest: Guest, one: Descriptor, size: int) -> None:
    os.ftruncate(one.changing().fd, size)


def get_flags(guest: Guest, one: Descriptor) -> list[str]:
    directory = stat.S_ISDIR(os.fstat(one.fd).st_mode)
    changing = "mutate-directory" if directory else "write"
    return ["read"] * one.read + [changing] * one.write


def get_type(guest: Guest, one: Descriptor) -> str:
    return kind_of(os.fstat(one.fd).st_mode)


def kind_of(mode: int) -> str:
    return _TYPES.get(stat.S_IFMT(mode), "unknown")


def _facts(status: os.stat_result) -> dict[str, Any]:
    return {
        "type": kind_of(status.st_mode),
        "link-count": status.st_nlink,
        "size": status.st_size,
        "data-access-timestamp": datetime(status.st_atime_ns),
        "data-modification-timestamp": datetime(status.st_mtime_ns),
        "status-change-timestamp": datetime(status.st_ctime_ns),
    }


def get_stat(guest: Guest, one: Descriptor) -> dict[str, Any]:
    return _facts(os.fstat(one.fd))


def stat_at(guest: Guest, one: Descriptor, flags: frozenset[str], path: str) -> dict[str, Any]:
    with _at(one, flags, path) as fd:
        return _facts(os.fstat(fd))


def _times(fd: int, access: tuple[str, Any], modified: tuple[str, Any]) -> tuple[int, int]:
    """In ns, for utime."""
    status, found = os.fstat(fd), []
    for (how, when), old in ((access, status.st_atime_ns), (modified, status.st_mtime_ns)):
        if how == "timestamp":
            found.append(when["seconds"] * 1_000_000_000 + when["nanoseconds"])
        else:
            found.append(old if how == "no-change" else time.time_ns())
    return found[0], found[1]


def set_times(
    guest: Guest, one: Descriptor, access: tuple[str, Any], modified: tuple[str, Any]
) -> None:
    os.utime(one.changing().fd, ns=_times(one.fd, access, modified))


def set_times_at(
    guest: Guest,
    one: Descriptor,
    flags: frozenset[str],
    path: str,
    access: tuple[str, Any],
    modified: tuple[str, Any],
) -> None:
    if "symlink-follow" in flags:
        fd = _open(one.changing(), path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            os.utime(fd, ns=_times(fd, access, modified))
        finally:
            os.close(fd)
        return
    with _at(one.changing(), flags, path) as fd, _parent(one, path) as (directory, name):
        times = _times(fd, access, modified)
        os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)


def sync(guest: Guest, one: Descriptor) -> None:
    os.fsync(one.fd)


def sync_data(guest: Guest, one: Descriptor) -> None:
    os.fdatasync(one.fd)


# -- directories --------------------------------------------------------------------------------------------------


def read_directory(guest: Guest, one: Descriptor) -> Entries:
    fd = os.open(".", _DIRECTORY, dir_fd=one.fd)
    try:
        with os.scandir(fd) as found:
            entries = [(_entry_kind(entry), entry.name) for entry in found]
    finally:
        os.close(fd)
    return Entries(entries[::-1])


def _entry_kind(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return "symbolic-link"
    if entry.is_dir(follow_symlinks=False):
        return "directory"
    if entry.is_file(follow_symlinks=False):
        return "regular-file"
    return "unknown"


def next_entry(guest: Guest, stream: Entries) -> dict[str, str] | None:
    while stream.entries:
        kind, name = stream.entries.pop()
        try:
            name.encode()
        except UnicodeEncodeError:
            continue  # a name that is not UTF-8 cannot be told
        return {"type": kind, "name": name}
    return None


def create_directory(guest: Guest, one: Descriptor, path: str) -> None:
    with _parent(one.changing(), path) as (fd, name):
        os.mkdir(name, 0o777, dir_fd=fd)


def remove_directory(guest: Guest, one: Descriptor, path: str) -> None:
    with _parent(one.changing(), path) as (fd, name):
        os.rmdir(name, dir_fd=fd)


def unlink(guest: Guest, one: Descriptor, path: str) -> None:
    with _parent(one.changing(), path) as (fd, name):
        os.unlink(name, dir_fd=fd)


def rename(guest: Guest, one: Descriptor, path: str, other: Descriptor, new: str) -> None:
    with _parent(one.changing(), path) as (fd, name), _parent(other.changing(), new) as (to, as_):
        os.rename(name, as_, src_dir_fd=fd, dst_dir_fd=to)


def link(
    guest: Guest, one: Descriptor, flags: frozenset[str], path: str, other: Descriptor, new: str
) -> None:
    if "symlink-follow" in flags:
        raise OSError(errno.EINVAL, "a link is not followed here")
    with _parent(one.changing(), path) as (fd, name), _parent(other.changing(), new) as (to, as_):
        os.link(name, as_, src_dir_fd=fd, dst_dir_fd=to, follow_symlinks=False)


def symlink(guest: Guest, one: Descriptor, target: str, path: str) -> None:
    if target.startswith("/"):
        raise OSError(errno.EPERM, "an absolute target")
    with _parent(one.changing(), path) as (fd, name):
        os.symlink(target, name, dir_fd=fd)


def read_link(guest: Guest, one: Descriptor, path: str) -> str:
    with _parent(one, path) as (fd, name):
        target = os.readlink(name, dir_fd=fd)
    if target.startswith("/"):
        raise OSError(errno.EPERM, "the link leads out")
    return target


# -- identity -----------------------------------------------------------------------------------------------------


def is_same(guest: Guest, one: Descriptor, other: Descriptor) -> bool:
    return os.path.sameopenfile(one.fd, other.fd)


def _hash(fd: int) -> dict[str, int]:
    """Another for another file, and when the file has changed; it tells nothing that `stat` does not."""
    status = os.fstat(fd)
    upper = status.st_mtime_ns * 0x9E3779B97F4A7C15 ^ status.st_size
    return {"lower": (status.st_dev << 48 ^ status.st_ino) % (1 << 64), "upper": upper % (1 << 64)}


def metadata_hash(guest: Guest, one: Descriptor) -> dict[str, int]:
    return _hash(one.fd)


def metadata_hash_at(
    guest: Guest, one: Descriptor, flags: frozenset[str], path: str
) -> dict[str, int]:
    with _at(one, flags, path) as fd:
        return _hash(fd)


def filesystem_error(guest: Guest, failure: Failure) -> str | None:
    return code(failure.cause) if isinstance(failure.cause, OSError) else None


_DESCRIPTOR: dict[str, Callable[..., Any]] = {
    "read-via-stream": read_stream, "write-via-stream": write_stream, "append-via-stream": append_stream,
    "advise": lambda *_: None, "sync-data": sync_data, "sync": sync, "get-flags": get_flags, "get-type": get_type,
    "set-size": set_size, "set-times": set_times, "read": read, "write": write, "read-directory": read_directory,
    "create-directory-at": create_directory, "stat": get_stat, "stat-at": stat_at, "set-times-at": set_times_at,
    "link-at": link, "open-at": open_at, "readlink-at": read_link, "remove-directory-at": remove_directory,
    "rename-at": rename, "symlink-at": symlink, "unlink-file-at": unlink, "metadata-hash": metadata_hash,
    "metadata-hash-at": metadata_hash_at,
}  # fmt: skip

INTERFACES: dict[str, dict[str, Callable[..., Any]]] = {
    "wasi:filesystem/preopens": {"get-directories": directories},
    "wasi:filesystem/types": {
        **{f"[method]descriptor.{name}": refusing(serve) for name, serve in _DESCRIPTOR.items()},
        "[method]descriptor.is-same-object": is_same,
        "[method]directory-entry-stream.read-directory-entry": refusing(next_entry),
        "filesystem-error-code": filesystem_error,
    },
}
