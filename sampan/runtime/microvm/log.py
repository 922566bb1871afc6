"""A container's log, in CRI's format, from an output that is heard in order and may be heard again.

The agent keeps what was not acknowledged. What is acknowledged is in the log: beside it lies how far each stream has got
and how long the file was then, written after the lines and before the acknowledgement. A runtime that was killed in
between cuts the file back to that length and hears the rest once more: no line is lost and none is doubled. What is
noted is noted beside what was noted before, and one byte says which of the two holds: no kill comes in the middle of it.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Sequence
from pathlib import Path

from sampan.runtime.loglines import PIECE, Stamp, append, begun, complete

STATE = struct.Struct(
    "<QQQQQ"
)  # stdout and stderr seen, length and inode of the file, bytes of a begun line
NAMES = (b"stdout", b"stderr")
LONGEST_BEGUN = 3 * PIECE
HALF = 16 * mmap.PAGESIZE
WHICH = 2 * HALF  # the byte


def begin_at(state: Path, seen: Sequence[int]) -> None:
    """A log that begins where another was: `seen` of stdout and stderr are heard already, and not in it."""
    state.write_bytes(STATE.pack(*seen, 0, 0, 0) + bytes(8))


class Log:
    """`path` None: nothing is written, positions are kept all the same."""

    def __init__(self, path: Path | None, state: Path) -> None:
        self.path = path
        self._fd = -1
        descriptor = os.open(state, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, WHICH + 1)
            self._state = mmap.mmap(descriptor, WHICH + 1)
        finally:
            os.close(descriptor)
        out, err, length, inode, _ = STATE.unpack_from(self._state, self._half)
        self.seen = [out, err]
        self._begun = [b"", b""]
        self._stamp = Stamp()
        self._restore_begun()
        self._open()
        if self._fd >= 0 and inode == os.fstat(self._fd).st_ino:
            os.ftruncate(self._fd, min(length, os.fstat(self._fd).st_size))

    def write(self, which: int, data: bytes) -> int:
        """Log what is complete of `data`, from stream `which` (0 stdout, 1 stderr); how far the stream has got."""
        text = self._begun[which] + data
        lines, self._begun[which] = complete(self._stamp(), NAMES[which], text)
        append(self._fd, lines)
        self.seen[which] += len(data)
        self._save()
        return self.seen[which]

    def flush(self) -> None:
        """Write begun lines as pieces: the container has ended. Idempotent."""
        for which, rest in enumerate(self._begun):
            if rest:
                append(self._fd, begun(self._stamp(), NAMES[which], rest))
                self._begun[which] = b""
        self._save()

    def reopen(self) -> None:
        """Go on in a new file at the same path."""
        self._open()
        self._save()

    def close(self) -> None:
        """Nothing is written any more. Idempotent."""
        self._close_file()
        self._state.close()

    def _close_file(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        self._close_file()
        if self.path is not None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._fd = os.open(self.path, flags, 0o640)

    def _save(self) -> None:
        """Into a mapped file: it is there for the next process however this one ends."""
        if self._state.closed:
            return
        length = inode = 0
        if self._fd >= 0:
            status = os.fstat(self._fd)
            length, inode = status.st_size, status.st_ino
        begun = struct.pack("<II", len(self._begun[0]), len(self._begun[1])) + b"".join(self._begun)
        whole = STATE.pack(*self.seen, length, inode, len(begun)) + begun
        other = HALF - self._half
        self._state[other : other + len(whole)] = whole
        self._state[WHICH] = other // HALF

    @property
    def _half(self) -> int:
        """Where what was noted last begins."""
        return HALF * (self._state[WHICH] & 1)

    def _restore_begun(self) -> None:
        at = self._half + STATE.size
        first, second = struct.unpack_from("<II", self._state, at)
        if first + second > LONGEST_BEGUN:
            return
        at += 8
        self._begun = [
            bytes(self._state[at : at + first]),
            bytes(self._state[at + first : at + first + second]),
        ]
