"""A command on a pseudo-terminal of its own, as a user's terminal runs it: typed at, resized, read until something shows."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from types import TracebackType

from cluster import Cluster


class Terminal:
    def __init__(self, cluster: Cluster, *command: str, rows: int = 24, columns: int = 80) -> None:
        self.ours, theirs = pty.openpty()
        self.shown = ""
        self.resize(rows, columns, tell=False)
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *cluster.prefix, *command],
            env=cluster.environment, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True,
        )  # fmt: skip
        os.close(theirs)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.ours)

    def resize(self, rows: int, columns: int, *, tell: bool = True) -> None:
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        if tell:
            os.kill(self.process.pid, signal.SIGWINCH)

    def type(self, text: str) -> None:
        os.write(self.ours, text.encode())

    def until(self, text: str, timeout: float = 20) -> str:
        """All that was shown up to `text`, which is taken off; AssertionError at the deadline or the end."""
        deadline = time.monotonic() + timeout
        while text not in self.shown:
            left = deadline - time.monotonic()
            assert left > 0, f"no {text!r} within {timeout} s in {self.shown!r}"
            if select.select([self.ours], [], [], left)[0]:
                try:
                    piece = os.read(self.ours, 65536)
                except OSError:  # EIO: the other end is closed
                    piece = b""
                assert piece, f"ended without {text!r}: {self.shown!r}"
                self.shown += piece.decode("utf-8", "replace")
        before, _, self.shown = self.shown.partition(text)
        return before

    def ended(self, timeout: float = 20) -> int:
        """The exit code; what is still shown is read, so that the command can end."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if select.select([self.ours], [], [], 0.05)[0]:
                try:
                    self.shown += os.read(self.ours, 65536).decode("utf-8", "replace")
                except OSError:
                    return self.process.wait(max(0.1, deadline - time.monotonic()))
            elif self.process.poll() is not None:
                return self.process.returncode
        raise AssertionError(f"did not end within {timeout} s; shown: {self.shown!r}")
