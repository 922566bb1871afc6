"""Images whose program is an init: what it is, and how it is told to power off.

A container of such an image is given what an init expects of a machine (https://systemd.io/CONTAINER_INTERFACE): a cgroup tree
that it may write to, /run and /tmp as tmpfs, its own process 1, and `container=` in its environment, which is how systemd knows
that devices, clock and kernel settings are not its own.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

from sampan.image import lookup

PLACES = ("/sbin/init", "/usr/sbin/init", "/bin/init", "/init")
SYSTEMD = "systemd"
# systemd(1): SIGTERM makes it execute itself again, and this is how containers are shut down.
HALT = signal.SIGRTMIN + 3


def init_of(args: Sequence[str], layers: Sequence[Path]) -> str:
    """`systemd`, `init` for any other, "" for a program that is none."""
    if not args:
        return ""
    program = lookup.resolve(layers, args[0]).path if args[0].startswith("/") else args[0]
    if program.rpartition("/")[2] == SYSTEMD:
        return SYSTEMD
    return "init" if args[0] in PLACES else ""


def stop_signal(init: str, number: int) -> int:
    """What is sent when `number` is asked for."""
    return HALT if init == SYSTEMD and number == signal.SIGTERM else number
