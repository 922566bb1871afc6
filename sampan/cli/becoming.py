"""What a process does to become a part of a cluster: its way to report, its log, its name, its end with who started it.

Imported by the supervisor before it forks, so it imports next to nothing.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1


class Notifier:
    """A part's way to say what it has reached, e.g. `notify("api", "https://127.0.0.1:6443")`."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __call__(self, step: str, detail: str = "") -> None:
        try:
            os.write(self.fd, f"{step} {detail}".rstrip().replace("\n", " ").encode() + b"\n")
        except OSError:
            pass  # the supervisor is gone; the lifeline tells that to who must know


def redirect_output(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def name_process(name: str) -> None:
    """What `ps` and `top` show; the kernel keeps 15 bytes."""
    Path("/proc/self/comm").write_text(name)


def end_with_parent() -> None:
    """Be told to stop when the starter is killed, so that a service manager's next start finds the field clear."""
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
