"""The pods' cgroups: the node names them (`cgroup_parent`), the runtime makes and fills them, the node removes them.

Works on cgroup v2 and on each controller of v1. Only empty groups can be removed, so a mistake here ends no process.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path


@functools.cache
def roots() -> tuple[Path, ...]:
    """Where cgroup hierarchies are mounted."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            head, _, tail = line.partition(" - ")
            if tail.split(" ", 1)[0] in ("cgroup", "cgroup2"):
                found.append(Path(head.split(" ", 5)[4]))
    return tuple(found)


def remove(parent: str) -> None:
    """Remove the group and the empty groups in it, in every hierarchy. Idempotent; what is busy stays."""
    if not parent.strip("/"):
        return
    for root in roots():
        top = root / parent.strip("/")
        for directory, _, _ in os.walk(top, topdown=False):
            try:
                os.rmdir(directory)
            except OSError:
                continue  # in use, or gone meanwhile
