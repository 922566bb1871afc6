"""Container logs in CRI's format, written by the worker itself so that they go on while the runtime is away."""

from __future__ import annotations

import os

from sampan.runtime.loglines import Stamp, append, begun, complete


class Log:
    """Appends to one file descriptor; -1 discards."""

    def __init__(self, fd: int = -1) -> None:
        self._fd = fd
        self._begun = {b"stdout": b"", b"stderr": b""}
        self._stamp = Stamp()

    def write(self, stream: bytes, data: bytes) -> None:
        """Log what is complete of `data`; the begun line is kept until it is."""
        lines, self._begun[stream] = complete(self._stamp(), stream, self._begun[stream] + data)
        append(self._fd, lines)

    def flush(self) -> None:
        """Write begun lines as pieces: the container has ended."""
        for stream, rest in self._begun.items():
            if rest:
                append(self._fd, begun(self._stamp(), stream, rest))
                self._begun[stream] = b""

    def reopen(self, fd: int) -> None:
        """Go on in another file; what was begun is written there whole."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
