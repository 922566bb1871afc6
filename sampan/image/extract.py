"""Writing one layer's entries below a directory, so that no archive, however hostile, reaches outside it.

Every step goes through a directory descriptor with O_NOFOLLOW: a path is walked component by component, symlinks in it
are resolved by us inside the layer (an absolute one starts at the layer's root, `..` stops there), as a chroot would.
The kernel never resolves a path that the archive wrote. Names with `..` are refused.

Whiteouts follow the OCI layer specification and become overlayfs's own marks. Where the file system or a missing privilege
does not allow a mark, the `.wh.` file stays as it was in the archive, and `lookup.py` honours both forms.
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from sampan.image.errors import BadImage

WHITEOUT, OPAQUE = ".wh.", ".wh..wh..opq"
OPAQUE_ATTRIBUTES = ("trusted.overlay.opaque", "user.overlay.opaque")
XATTR = "SCHILY.xattr."
# Owner and mode that an unprivileged unpacker cannot give, by the name under which containers/storage keeps them, too.
OVERRIDE = "user.containers.override_stat"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LINKS = 40
_COPY = 1 << 20
_DEPTH = 256
_SHORT = 255 // 4  # characters, which are four bytes at most
_OPEN = 64  # directories kept open: an archive returns to its directories, seldom to very old ones


def _components(name: str) -> list[str]:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise BadImage(f"entry {name!r} points outside the image")
    long = len(name) > _SHORT and any(len(os.fsencode(part)) > 255 for part in parts)
    if "\0" in name or len(parts) > _DEPTH or long:
        raise BadImage(f"entry has an impossible name: {name[:80]!r}")
    return parts


class Extractor:
    """`read(most)` gives the next bytes of the entry that was added last."""

    def __init__(self, directory: Path, read: Callable[[int], memoryview]) -> None:
        self._read = read
        self._root = os.open(directory, _DIRECTORY)
        os.fchmod(self._root, 0o755)
        self._is_root = os.geteuid() == 0
        self._open: dict[tuple[str, ...], int] = {}  # parents of the last entries
        self._stale = False  # a directory or symlink has gone: paths may lead elsewhere now
        self._times: dict[tuple[str, ...], tuple[int, int]] = {}  # directories', set at the end
        self.bytes = 0
        self.inodes = 1

    def __enter__(self) -> Extractor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._forget()
        os.close(self._root)

    def _forget(self) -> None:
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()
        self._stale = False

    # Walking

    def _walk(self, parts: list[str], *, create: bool) -> int:
        """A new descriptor of the directory `parts`, symlinks resolved inside the root."""
        stack = [os.dup(self._root)]
        todo = list(reversed(parts))
        links = 0
        try:
            while todo:
                part = todo.pop()
                if part in ("", "."):
                    continue
                if part == "..":
                    if len(stack) > 1:
                        os.close(stack.pop())
                    continue
                try:
                    stack.append(os.open(part, _DIRECTORY, dir_fd=stack[-1]))
                    continue
                except FileNotFoundError:
                    if not create:
                        raise
                    os.mkdir(part, 0o755, dir_fd=stack[-1])
                    self.inodes += 1
                    stack.append(os.open(part, _DIRECTORY, dir_fd=stack[-1]))
                    os.fchmod(stack[-1], 0o755)
                    continue
                except OSError as error:  # a symlink gives ENOTDIR or ELOOP, by kernel
                    if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                        raise
                status = os.lstat(part, dir_fd=stack[-1])
                if stat.S_ISLNK(status.st_mode):
                    links += 1
                    if links > _LINKS:
                        raise BadImage(f"too many symbolic links in {'/'.join(parts)!r}")
                    target = os.readlink(part, dir_fd=stack[-1])
                    if target.startswith("/"):
                        while len(stack) > 1:
                            os.close(stack.pop())
                    todo.extend(reversed(target.split("/")))
                    if len(todo) > _DEPTH * _LINKS:
                        raise BadImage(f"too long a path behind {'/'.join(parts)!r}")
                elif create:  # a file in the way: the later entry wins
                    os.unlink(part, dir_fd=stack[-1])
                    todo.append(part)
                else:
                    raise NotADirectoryError(part)
                if len(stack) > _DEPTH:
                    raise BadImage(f"too deep a path behind {'/'.join(parts)!r}")
            return stack.pop()
        finally:
            for fd in stack:
                os.close(fd)

    def _parent(self, parts: list[str]) -> int:
        """Descriptor of the directory that holds `parts`; owned by the cache, valid until the next call."""
        if self._stale:
            self._forget()
        key = tuple(parts[:-1])
        fd = self._open.get(key)
        if fd is None:
            if len(self._open) >= _OPEN:
                os.close(self._open.pop(next(iter(self._open))))
            fd = self._open[key] = self._walk(parts[:-1], create=True)
        return fd

    def _clear(self, name: str, parent: int) -> bool:
        """Remove what is at `name`; True when a whiteout stood there."""
        try:
            status = os.lstat(name, dir_fd=parent)
        except FileNotFoundError:
            return False
        if stat.S_ISDIR(status.st_mode):
            self._remove_directory(name, parent)
            self._stale = True
        else:
            os.unlink(name, dir_fd=parent)
            self.inodes -= 1
            if stat.S_ISLNK(status.st_mode):
                self._stale = True
        return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0

    def _remove_directory(self, name: str, parent: int) -> None:
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            with os.scandir(fd) as entries:
                names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
            for child, is_directory in names:
                if is_directory:
                    self._remove_directory(child, fd)
                else:
                    os.unlink(child, dir_fd=fd)
                    self.inodes -= 1
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=parent)
        self.inodes -= 1

    # Entries

    def add(self, entry: tarfile.TarInfo) -> None:
        """Raises BadImage for what no image may hold; OSError when the disk refuses."""
        try:
            parts = _components(entry.name)
            if parts:
                self._add(entry, parts)
            elif entry.isdir():
                self._set_metadata(self._root, entry, directory=())
        except (ValueError, OverflowError) as error:
            raise BadImage(f"entry {entry.name!r}: {error}") from None
        except (NotADirectoryError, FileNotFoundError, IsADirectoryError, FileExistsError) as error:
            raise BadImage(f"entry {entry.name!r}: {error.strerror}") from None

    def _add(self, entry: tarfile.TarInfo, parts: list[str]) -> None:
        parent, name = self._parent(parts), parts[-1]
        if name.startswith(WHITEOUT):
            self._whiteout(name, parent)
        elif entry.isdir():
            self._directory(entry, parts, parent)
        elif entry.isreg():
            self._file(entry, name, parent)
        elif entry.issym():
            if not entry.linkname:
                raise BadImage(f"symbolic link {entry.name!r} without a target")
            self._clear(name, parent)
            os.symlink(entry.linkname, name, dir_fd=parent)
            self.inodes += 1
            if self._is_root:
                os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
            self._utime(name, entry, parent)
        elif entry.islnk():
            self._hardlink(entry, parts, parent)
        elif entry.ischr() or entry.isblk() or entry.isfifo():
            self._special(entry, name, parent)
        else:
            raise BadImage(f"entry {entry.name!r} has unknown type {entry.type!r}")

    def _whiteout(self, name: str, parent: int) -> None:
        if name == OPAQUE:
            self._mark_opaque(parent)
            return
        hidden = name[len(WHITEOUT) :]
        if hidden.startswith(WHITEOUT):  # AUFS's own files (.wh..wh.plnk …)
            return
        if hidden in ("", ".", ".."):
            raise BadImage(f"invalid whiteout {name!r}")
        try:
            status = os.lstat(hidden, dir_fd=parent)
        except FileNotFoundError:
            try:
                os.mknod(hidden, stat.S_IFCHR | 0o000, os.makedev(0, 0), dir_fd=parent)
            except PermissionError:
                os.close(os.open(name, os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=parent))
            self.inodes += 1
            return
        # A whiteout hides lower layers only. What this layer itself holds stays, and hides a lower file by itself.
        if stat.S_ISDIR(status.st_mode):
            fd = os.open(hidden, _DIRECTORY, dir_fd=parent)
            try:
                self._mark_opaque(fd)
            finally:
                os.close(fd)

    def _mark_opaque(self, directory: int) -> None:
        for attribute in OPAQUE_ATTRIBUTES:
            try:
                os.setxattr(directory, attribute, b"y")
                return
            except OSError:
                continue
        os.close(os.open(OPAQUE, os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=directory))

    def _directory(self, entry: tarfile.TarInfo, parts: list[str], parent: int) -> None:
        name, hides = parts[-1], False
        try:
            fd = os.open(name, _DIRECTORY, dir_fd=parent)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            hides = self._clear(name, parent)
            os.mkdir(name, 0o700, dir_fd=parent)
            self.inodes += 1
            fd = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            if hides:
                self._mark_opaque(fd)
            self._set_metadata(fd, entry, directory=tuple(parts))
        finally:
            os.close(fd)

    def _file(self, entry: tarfile.TarInfo, name: str, parent: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(name, flags, 0o600, dir_fd=parent)
        except FileExistsError:
            self._clear(name, parent)
            fd = os.open(name, flags, 0o600, dir_fd=parent)
        try:
            self.inodes += 1
            pieces: list[tuple[int, int]] | None = entry.sparse  # type: ignore[assignment,attr-defined]
            if pieces is not None:
                for offset, size in pieces:
                    os.lseek(fd, offset, os.SEEK_SET)
                    self._copy(fd, size, entry.name)
                os.ftruncate(fd, entry.size)
            else:
                self._copy(fd, entry.size, entry.name)
            self._set_metadata(fd, entry)
        finally:
            os.close(fd)

    def _copy(self, fd: int, size: int, name: str) -> None:
        self.bytes += size
        while size > 0:
            data = self._read(min(size, _COPY))
            if not data:
                raise BadImage(f"damaged tar archive: it ends within {name!r}")
            size -= len(data)
            while data:
                data = data[os.write(fd, data) :]

    def _hardlink(self, entry: tarfile.TarInfo, parts: list[str], parent: int) -> None:
        target = _components(entry.linkname)
        if not target:
            raise BadImage(f"hard link {entry.name!r} without a target")
        if target == parts:
            return
        try:
            source = self._walk(target[:-1], create=False)
        except OSError:
            raise self._no_target(entry) from None
        try:
            try:
                status = os.lstat(target[-1], dir_fd=source)
            except FileNotFoundError:
                raise self._no_target(entry) from None
            if stat.S_ISDIR(status.st_mode):
                raise BadImage(f"hard link {entry.name!r} to a directory")
            held = os.fstat(source)
            here = os.fstat(parent)
            if (held.st_ino, target[-1]) == (here.st_ino, parts[-1]):
                return
            self._clear(parts[-1], parent)
            try:
                os.link(
                    target[-1],
                    parts[-1],
                    src_dir_fd=source,
                    dst_dir_fd=parent,
                    follow_symlinks=False,
                )
            except FileNotFoundError:
                raise self._no_target(entry) from None
            self.inodes += 1
        finally:
            os.close(source)

    @staticmethod
    def _no_target(entry: tarfile.TarInfo) -> BadImage:
        return BadImage(
            f"hard link {entry.name!r}: its target {entry.linkname!r} is not in the layer"
        )

    def _special(self, entry: tarfile.TarInfo, name: str, parent: int) -> None:
        """Devices need privilege: without it they are left out, as other rootless engines do."""
        self._clear(name, parent)
        kind = stat.S_IFIFO if entry.isfifo() else stat.S_IFCHR if entry.ischr() else stat.S_IFBLK
        device = 0 if entry.isfifo() else os.makedev(entry.devmajor, entry.devminor)
        try:
            os.mknod(name, kind | 0o600, device, dir_fd=parent)
        except PermissionError:
            return
        self.inodes += 1
        if self._is_root:
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        os.chmod(name, entry.mode & 0o7777, dir_fd=parent)  # just made by us: not a symlink
        self._utime(name, entry, parent)

    # Metadata

    def _set_metadata(
        self, fd: int, entry: tarfile.TarInfo, directory: tuple[str, ...] | None = None
    ) -> None:
        mode = entry.mode & 0o7777
        if self._is_root:
            os.fchown(fd, entry.uid, entry.gid)
        else:
            mode &= 0o1777  # a set-id bit would name the wrong user
            mode |= 0o700 if directory is not None else 0o400  # we must still read and enter it
            if (entry.uid, entry.gid, mode) != (0, 0, entry.mode & 0o7777):
                meant = f"{entry.uid}:{entry.gid}:{entry.mode & 0o7777:04o}"
                self._set_attribute(fd, OVERRIDE, meant.encode())
        os.fchmod(fd, mode)
        for key, text in entry.pax_headers.items():
            if key.startswith(XATTR) and key != XATTR + OVERRIDE:
                self._set_attribute(fd, key[len(XATTR) :], os.fsencode(text))
        times = self._clamp(entry)
        if directory is None:
            os.utime(fd, ns=times)
        else:
            self._times[directory] = times

    def _set_attribute(self, fd: int, name: str, value: bytes) -> None:
        # overlayfs's own attributes could redirect a directory to anything below: they never come from an archive
        if name == "security.capability" or (
            name.startswith("user.") and not name.startswith("user.overlay.")
        ):
            try:
                os.setxattr(fd, name, value)
            except OSError:
                pass  # the file system has none, or we lack the privilege: as other engines do

    @staticmethod
    def _clamp(entry: tarfile.TarInfo) -> tuple[int, int]:
        try:
            seconds = float(entry.mtime)
        except (TypeError, ValueError):
            seconds = 0.0
        if not -(1 << 33) < seconds < (1 << 33):
            seconds = 0.0
        nanoseconds = int(seconds * 1_000_000_000)
        return nanoseconds, nanoseconds

    def _utime(self, name: str, entry: tarfile.TarInfo, parent: int) -> None:
        os.utime(name, ns=self._clamp(entry), dir_fd=parent, follow_symlinks=False)

    def finish(self) -> None:
        """Directories get their times last: writing into them changed these."""
        self._forget()
        for parts, times in self._times.items():
            try:
                fd = self._walk(list(parts), create=False)
            except (OSError, BadImage):
                continue  # replaced by a later entry
            try:
                os.utime(fd, ns=times)
            finally:
                os.close(fd)
