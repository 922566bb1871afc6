"""How `sampan up` starts the supervisor: at once, beside itself.

Reading a command line takes a tenth of a second, most of it the import of typer; what the cluster's parts share takes longer
to import. So the supervisor's interpreter is started before anything else, imports, and waits for its orders: one line of
JSON on a pipe. When none come, because the command line was wrong or a cluster runs already, the pipe closes and it ends.

Nothing heavy may be imported here.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ENVIRONMENT = {"MALLOC_ARENA_MAX": "2", "OPENBLAS_NUM_THREADS": "1"}


@dataclass
class Waiting:
    """A supervisor without orders."""

    process: subprocess.Popen[bytes]
    orders: int
    events: int  # where it will tell what happens

    def command(self, data_dir: Path, log: Path, *, foreground: bool, born: float) -> None:
        """Run the cluster of this data directory. One that has ended already said why; it tells no events."""
        text = {"data_dir": str(data_dir), "log": str(log), "foreground": foreground, "born": born}
        with contextlib.suppress(BrokenPipeError):
            os.write(self.orders, json.dumps(text).encode() + b"\n")
        os.close(self.orders)


_started: list[Waiting] = []


def begin(arguments: Sequence[str] = ()) -> None:
    """Start a supervisor for whoever calls `waiting` first. `arguments` only tell whose it is, in `ps`."""
    orders, ours = os.pipe()
    events, theirs = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "sampan.cli.supervisor", "--orders-fd", str(orders),
         "--events-fd", str(theirs), "--", *arguments],
        stdin=subprocess.DEVNULL, pass_fds=(orders, theirs), env=os.environ | ENVIRONMENT,
    )  # fmt: skip
    os.close(orders)
    os.close(theirs)
    _started.append(Waiting(process, ours, events))


def waiting(data_dir: Path) -> Waiting:
    """The supervisor that was begun, or a new one."""
    if not _started:
        begin(["--data-dir", str(data_dir)])
    return _started.pop()
