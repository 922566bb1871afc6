"""Content store: blobs by digest, as in an OCI layout (`blobs/sha256/<hex>`).

A blob is written beside its place, hashed on the way, synced, and renamed only when digest and size are right. So a file
that is there is whole and true, whoever wrote it, and any number of processes may write the same blob at once.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from sampan.image.errors import BadImage
from sampan.image.reference import is_digest

CHUNK = 1 << 18
_PARTIAL = ".partial-"
GROWING = ".growing-"  # a download that may go on (partial.py)
GROWING_KEPT = 24 * 3600.0  # seconds


class BlobWriter:
    """`with content.writer(digest, size) as w: w.write(...)`, then `w.commit()`; left without commit, nothing remains."""

    def __init__(self, directory: Path, digest: str = "", size: int = -1) -> None:
        self._directory = directory
        self._expected, self._expected_size = digest, size
        self._algorithm = digest.partition(":")[0] or "sha256"
        self._hash = hashlib.new(self._algorithm)
        self._place = directory / self._algorithm
        self._place.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = self._place / f"{_PARTIAL}{os.getpid()}-{secrets.token_hex(6)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._file = os.fdopen(os.open(self._path, flags, 0o600), "wb", buffering=0)
        self.size = 0
        self._done = False

    def write(self, data: bytes) -> None:
        self.size += len(data)
        if 0 <= self._expected_size < self.size:
            raise BadImage(
                f"{self._expected}: longer than the {self._expected_size} bytes declared"
            )
        self._hash.update(data)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]

    def commit(self) -> str:
        """The blob is durable under its digest on return, which is the result. Raises BadImage on a mismatch."""
        digest = f"{self._algorithm}:{self._hash.hexdigest()}"
        if 0 <= self._expected_size != self.size:
            raise BadImage(f"{self._expected}: {self.size} bytes, {self._expected_size} declared")
        if self._expected and digest != self._expected:
            raise BadImage(
                f"content does not match its digest: expected {self._expected}, got {digest}"
            )
        os.fsync(self._file.fileno())
        self._file.close()
        os.rename(self._path, self._place / digest.partition(":")[2])
        sync_directory(self._place)
        self._done = True
        return digest

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._done:
            self._file.close()
            self._path.unlink(missing_ok=True)


class Content:
    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, digest: str) -> Path:
        if not is_digest(digest):  # a digest names a file: never build a path from anything else
            raise BadImage(f"invalid digest {digest!r}")
        algorithm, _, value = digest.partition(":")
        return self.directory / algorithm / value

    def has(self, digest: str) -> bool:
        return self.path(digest).is_file()

    def writer(self, digest: str = "", size: int = -1) -> BlobWriter:
        if digest and not is_digest(digest):
            raise BadImage(f"invalid digest {digest!r}")
        return BlobWriter(self.directory, digest, size)

    def ingest(self, source: BinaryIO, digest: str = "", size: int = -1) -> tuple[str, int]:
        """Copy a whole file in; its digest and size."""
        with self.writer(digest, size) as writer:
            while data := source.read(CHUNK):
                writer.write(data)
            return writer.commit(), writer.size

    def put(self, data: bytes, digest: str = "") -> str:
        digest = digest or "sha256:" + hashlib.sha256(data).hexdigest()
        if not self.has(digest):
            with self.writer(digest, len(data)) as writer:
                writer.write(data)
                writer.commit()
        return digest

    def adopt(self, path: Path, digest: str) -> int:
        """A finished file of the same file system becomes the blob `digest`; its size. Raises BadImage: it stays."""
        with path.open("rb") as file:
            found = hashlib.file_digest(file, digest.partition(":")[0])
            if found.hexdigest() != digest.partition(":")[2]:
                raise BadImage(
                    f"content does not match its digest: expected {digest}, "
                    f"got {found.name}:{found.hexdigest()}"
                )
            os.fsync(file.fileno())
            size = os.fstat(file.fileno()).st_size
        place = self.path(digest)
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.rename(path, place)
        sync_directory(place.parent)
        return size

    def read(self, digest: str, limit: int = 16 << 20) -> bytes:
        """A small blob (manifest, config). Raises BadImage when it is absent or larger than `limit`."""
        try:
            with self.path(digest).open("rb") as file:
                data = file.read(limit + 1)
        except FileNotFoundError:
            raise BadImage(f"blob {digest} is missing") from None
        if len(data) > limit:
            raise BadImage(f"blob {digest} is larger than {limit} bytes")
        return data

    def delete(self, digest: str) -> None:
        self.path(digest).unlink(missing_ok=True)

    def digests(self) -> Iterator[tuple[str, int]]:
        """Every whole blob with its size."""
        for algorithm in ("sha256", "sha512"):
            try:
                entries = list(os.scandir(self.directory / algorithm))
            except FileNotFoundError:
                continue
            for entry in entries:
                digest = f"{algorithm}:{entry.name}"
                if is_digest(digest):
                    yield digest, entry.stat().st_size

    def discard_partial(self) -> None:
        """Remove what interrupted writers left. Only when no writer can be at work. Downloads may go on for a day."""
        for path in self.directory.glob(f"*/{_PARTIAL}*"):
            path.unlink(missing_ok=True)
        for path in self.directory.glob(f"*/{GROWING}*"):
            if path.stat().st_mtime < time.time() - GROWING_KEPT:
                path.unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
