"""The ids of pods with users of their own (`hostUsers: false`, KEP-127): a range for each, that no other pod has.

A range is written into the pod's directory before it is used, and is free again when that directory is gone: so nothing has
to be given back, and a node agent that starts again finds who has what.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sampan.node.errors import SandboxError

LENGTH = 1 << 16  # as kubelet's: every id that an image or a pod is likely to name
FIRST = 1 << 20  # above the host's own users and what useradd hands out for theirs
LAST = (1 << 31) - LENGTH
RECORD = "users"


@dataclass(frozen=True, slots=True)
class UserRange:
    """`LENGTH` ids of the host from `first` on are those from 0 on in the pod."""

    first: int


def range_of(pods: Path, uid: str) -> UserRange:
    """The pod's range, chosen and recorded if it has none. Raises SandboxError."""
    record = pods / uid / RECORD
    if (known := read(record)) is not None:
        return known
    taken = {found.first for path in pods.glob(f"*/{RECORD}") if (found := read(path)) is not None}
    first = next((start for start in range(FIRST, LAST, LENGTH) if start not in taken), None)
    if first is None:
        raise SandboxError("no range of ids is left for another pod with users of its own")
    record.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    beside = record.with_suffix(".new")
    with open(beside, "w") as file:
        file.write(str(first))
        file.flush()
        os.fsync(file.fileno())
    beside.rename(record)
    return UserRange(first)


def read(record: Path) -> UserRange | None:
    try:
        return UserRange(int(record.read_text()))
    except (OSError, ValueError):
        return None
