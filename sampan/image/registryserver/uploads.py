"""Blobs that are being uploaded. An upload is a file and nothing else: its name carries the id and the repository, its length is where
the client stands. So a client goes on after a restart of the registry, and the kernel's lock on the file keeps two requests apart.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from sampan.image.registryserver.errors import Refused

KEPT = 24 * 3600.0  # seconds that an upload may rest
_ID = re.compile(r"[0-9a-f]{32}")


class Upload:
    def __init__(self, path: Path, fd: int) -> None:
        self.path, self._fd = path, fd
        self.size = os.lseek(fd, 0, os.SEEK_END)

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        self.size += len(data)

    def cut(self, size: int) -> None:
        """Back to `size`: a chunk that did not come whole never was."""
        os.ftruncate(self._fd, size)
        self.size = os.lseek(self._fd, size, os.SEEK_SET)


class Uploads:
    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def begin(self, repository: str) -> str:
        """The new upload's id."""
        self.directory.mkdir(mode=0o700, exist_ok=True)
        identifier = uuid.uuid4().hex
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        os.close(os.open(self._path(repository, identifier), flags, 0o600))
        return identifier

    def _path(self, repository: str, identifier: str) -> Path:
        if _ID.fullmatch(identifier) is None:
            raise Refused("BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
        owner = hashlib.sha256(repository.encode()).hexdigest()[:16]
        return self.directory / f"{identifier}-{owner}"

    @contextlib.contextmanager
    def open(self, repository: str, identifier: str) -> Iterator[Upload]:
        """This request's alone. Raises Refused."""
        path = self._path(repository, identifier)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            raise Refused("BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry") from None
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Refused(
                    "BLOB_UPLOAD_INVALID", "another request is writing this upload", status=409
                ) from None
            yield Upload(path, fd)
        finally:
            os.close(fd)

    def cancel(self, repository: str, identifier: str) -> None:
        with self.open(repository, identifier) as upload:
            upload.path.unlink(missing_ok=True)

    def expire(self) -> None:
        """Uploads that rest too long are gone on return."""
        if not self.directory.is_dir():
            return
        for path in self.directory.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < time.time() - KEPT:
                    path.unlink()
