"""A process at a machine's side: its VMM, or the server of its volumes. It outlives the runtime that started it.

<machine>/vmm.json    which process it is, for the next runtime: its pid, and when it began, since pids are used again
<machine>/vmm.log     what it says
"""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from sampan.runtime import files, kernel
from sampan.runtime.processes import Watched, ended

VMM_RECORD, VMM_LOG = "vmm.json", "vmm.log"
LAST_WORDS = 500  # characters of a log that are told


class Attendant:
    record_name: ClassVar[str] = VMM_RECORD
    log_name: ClassVar[str] = VMM_LOG
    leaves: ClassVar[tuple[str, ...]] = ()  # files that go when it has ended

    def __init__(
        self, directory: Path, pid: int, child: subprocess.Popen[bytes] | None = None
    ) -> None:
        """`child` when this process has started it. Raises ProcessLookupError when it has ended."""
        self.directory = directory
        self.pid = pid
        self._child = child
        self._watched: Watched | None = Watched(pid)

    def record(self) -> None:
        """Written: the next runtime finds it."""
        document = {"pid": self.pid, "ticks": kernel.start_ticks(self.pid)}
        files.replace(self.directory / self.record_name, json.dumps(document))

    async def wait(self) -> None:
        """Return when it has ended, or was let go."""
        if self._watched is not None:
            await self._watched.wait()

    def log(self) -> str:
        """The end of what it has said."""
        return last_words(self.directory / self.log_name)

    async def stop(self) -> None:
        """It has ended on return. Idempotent."""
        if self._watched is None:
            return
        self._watched.signal(9)
        if self._child is not None:
            await ended(self._child, spare=True)
        await self._watched.wait()
        self.close()
        for name in (*self.leaves, self.record_name):
            (self.directory / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of one that goes on. Idempotent."""
        if self._watched is not None:
            self._watched.close()
            self._watched = None


def recorded(path: Path) -> int:
    """The pid of the process of this record, when it still runs; else 0."""
    try:
        document = json.loads(path.read_bytes())
        pid, ticks = int(document["pid"]), int(document["ticks"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return pid if ticks and kernel.start_ticks(pid) == ticks else 0


def unrecorded(directory: Path) -> list[int]:
    """Processes that a runtime has started there, by the log that they write, and was killed before it noted them."""
    log = str(directory / VMM_LOG)
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with suppress(OSError):
                if os.readlink(f"{entry.path}/fd/2") == log:
                    found.append(int(entry.name))
    return found


def open_log(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def telling(printed: str, otherwise: str = "") -> str:
    """The line of a console or a log that says why: a panic's, else the last."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    panic = next((line for line in lines if "Kernel panic" in line), "")
    return panic or (lines[-1] if lines else otherwise)


def last_words(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(errors="replace").strip()[-LAST_WORDS:]
    return ""
