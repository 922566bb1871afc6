"""Container logs in CRI's format, written by the worker itself so that they go on while the runtime is away.

A line is `<RFC3339Nano> <stream> <tag> <text>`; tag F ends a line, P is a piece of a line longer than 16 KiB or one that
the container never ended. Format: kubernetes/design-proposals-archive, node/kubelet-cri-logging.md.
"""

from __future__ import annotations

import os
import time

PIECE = 16 * 1024


class Log:
    """Appends to one file descriptor; -1 discards. A full disk loses lines, never the container."""

    def __init__(self, fd: int = -1) -> None:
        self._fd = fd
        self._pending = {b"stdout": b"", b"stderr": b""}
        self._second = -1
        self._prefix = b""

    def write(self, stream: bytes, data: bytes) -> None:
        """Log what is complete of `data`; the begun line is kept until it is."""
        lines = (self._pending[stream] + data).split(b"\n")
        rest = lines.pop()
        stamp = self._stamp()
        out = []
        for line in lines:
            while len(line) > PIECE:
                out.append(b"%s %s P %s\n" % (stamp, stream, line[:PIECE]))
                line = line[PIECE:]
            out.append(b"%s %s F %s\n" % (stamp, stream, line))
        while len(rest) >= PIECE:
            out.append(b"%s %s P %s\n" % (stamp, stream, rest[:PIECE]))
            rest = rest[PIECE:]
        self._pending[stream] = rest
        if out:
            self._append(b"".join(out))

    def flush(self) -> None:
        """Write begun lines as pieces: the container has ended."""
        for stream, rest in self._pending.items():
            if rest:
                self._append(b"%s %s P %s\n" % (self._stamp(), stream, rest))
                self._pending[stream] = b""

    def reopen(self, fd: int) -> None:
        """Go on in another file; what was begun is written there whole."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd

    def _append(self, data: bytes) -> None:
        if self._fd < 0:
            return
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError:
            return

    def _stamp(self) -> bytes:
        second, fraction = divmod(time.time_ns(), 1_000_000_000)
        if second != self._second:
            self._second = second
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
        return b"%s.%09dZ" % (self._prefix, fraction)
