"""A blob that is being downloaded: one file beside its place, locked by whoever lets it grow.

The lock (flock) is what makes concurrent pulls fetch a layer once, whichever processes they are in: the others wait for it and then
find the blob. The file outlives a broken connection, a killed process and a restart: the next to come hashes what is there and
asks for the rest. What turns out false is removed at once; what nobody continues is swept after a day.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

from sampan.image.content import CHUNK, GROWING, Content, sync_directory
from sampan.image.errors import BadImage


class PartialBlob:
    """`write` what follows, then `commit`. Made by `growing`, which holds the lock."""

    def __init__(self, content: Content, digest: str, size: int, fd: int) -> None:
        self.digest, self.expected, self._fd = digest, size, fd
        self._place = content.path(digest)
        self.path = growing_path(content, digest)
        self.size = 0
        self._hash = hashlib.new(digest.partition(":")[0])

    def resume(self) -> None:
        """Take over what an earlier download left."""
        while data := os.read(self._fd, CHUNK):
            self._hash.update(data)
            self.size += len(data)
        if self.size > self.expected:
            self.restart()

    def restart(self) -> None:
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._hash = hashlib.new(self._hash.name)
        self.size = 0

    def write(self, data: bytes) -> None:
        if self.size + len(data) > self.expected:
            raise BadImage(f"{self.digest}: longer than the {self.expected} bytes declared")
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        self._hash.update(data)
        self.size += len(data)

    def commit(self) -> None:
        """The blob is durable and true on return. Raises BadImage."""
        if self.size != self.expected:
            raise BadImage(f"{self.digest}: {self.size} bytes, {self.expected} declared")
        found = f"{self._hash.name}:{self._hash.hexdigest()}"
        if found != self.digest:
            raise BadImage(
                f"content does not match its digest: expected {self.digest}, got {found}"
            )
        os.fsync(self._fd)
        os.rename(self.path, self._place)
        sync_directory(self._place.parent)

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)


def growing_path(content: Content, digest: str) -> Path:
    place = content.path(digest)
    return place.with_name(GROWING + place.name)


@contextlib.asynccontextmanager
async def growing(content: Content, digest: str, size: int) -> AsyncIterator[PartialBlob | None]:
    """The blob's file, this caller's alone; None when the blob is there, perhaps since another had brought it.

    Left with BadImage the file goes; left with any other failure it stays for the next to continue.
    """
    if await asyncio.to_thread(content.has, digest):
        yield None
        return
    fd = await _locked(content, digest)
    try:
        if content.has(digest):
            growing_path(content, digest).unlink(missing_ok=True)
            yield None
            return
        partial = PartialBlob(content, digest, size, fd)
        try:
            await asyncio.to_thread(partial.resume)
            yield partial
        except BadImage:
            partial.discard()
            raise
    finally:
        os.close(fd)


async def _locked(content: Content, digest: str) -> int:
    path = growing_path(content, digest)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            await _flock(fd)
            with contextlib.suppress(FileNotFoundError):
                if os.fstat(fd).st_ino == os.stat(path).st_ino:
                    return fd
            if content.has(digest):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # the file that we waited for was finished, or thrown away


async def _flock(fd: int) -> None:
    """Waits in a thread of its own, which no pool has to spare and no exit has to join.

    The thread waits on a copy of the descriptor: whoever is cancelled meanwhile closes the other, and the lock goes with the copy.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    except BlockingIOError:
        pass
    copy, loop = os.dup(fd), asyncio.get_running_loop()
    held: asyncio.Future[None] = loop.create_future()

    def arrived() -> None:
        if not held.done():
            held.set_result(None)

    def wait() -> None:
        fcntl.flock(copy, fcntl.LOCK_EX)
        os.close(copy)
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(arrived)

    threading.Thread(target=wait, name="blob-lock", daemon=True).start()
    await held
