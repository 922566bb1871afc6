"""The lines of a container's log as CRI has them, for the kinds whose output we write ourselves.

A line is `<RFC3339Nano> <stream> <tag> <text>`: tag F ends a line, P is a piece of a line longer than `PIECE` or one that
the container never ended. Imported by the wasm zygote, so it imports nothing but `os` and `time`.
Format: kubernetes/design-proposals-archive, node/kubelet-cri-logging.md.
"""

from __future__ import annotations

import os
import time

PIECE = 16 * 1024  # bytes of text in a line of the log at most, as containerd and CRI-O have it


class Stamp:
    """The time as lines carry it. Its text down to the second is made once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._text = b""

    def __call__(self) -> bytes:
        second, fraction = divmod(time.time_ns(), 1_000_000_000)
        if second != self._second:
            self._second = second
            self._text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
        return b"%s.%09dZ" % (self._text, fraction)


def complete(stamp: bytes, stream: bytes, data: bytes) -> tuple[bytes, bytes]:
    """The log's lines for what is complete of `data`, and the begun line that is left (shorter than `PIECE`)."""
    lines = data.split(b"\n")
    rest = lines.pop()
    out = []
    for line in lines:
        while len(line) > PIECE:
            out.append(b"%s %s P %s\n" % (stamp, stream, line[:PIECE]))
            line = line[PIECE:]
        out.append(b"%s %s F %s\n" % (stamp, stream, line))
    while len(rest) >= PIECE:
        out.append(begun(stamp, stream, rest[:PIECE]))
        rest = rest[PIECE:]
    return b"".join(out), rest


def begun(stamp: bytes, stream: bytes, text: bytes) -> bytes:
    """The line of a piece that no end of line followed."""
    return b"%s %s P %s\n" % (stamp, stream, text)


def append(fd: int, data: bytes) -> None:
    """Write all of `data` to the log open at `fd` (-1 discards). A full disk loses lines, never the container."""
    if fd < 0:
        return
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError:
        return
