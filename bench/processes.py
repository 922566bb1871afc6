"""What processes cost, as the kernel accounts it: memory (PSS) and processor time."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def pss(pid: int) -> int:
    """kB; 0 when it is gone or not ours to read."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


def seconds(pids: Iterable[int]) -> float:
    """Processor time taken so far, that of children that have ended included; what is gone itself counts nothing."""
    total = 0.0
    for pid in pids:
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                total += int((task / "schedstat").read_text().split()[0]) / 1e9
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
    return total


def seconds_by_name(pids: Iterable[int]) -> dict[str, float]:
    """The same, by the names that ps shows."""
    found: dict[str, float] = {}
    for pid in pids:
        name = command(pid)
        found[name] = found.get(name, 0.0) + seconds([pid])
    return found


def command(pid: int) -> str:
    """The short name that ps shows; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def marked(marker: str) -> set[int]:
    """Processes that name `marker` (a directory of the run) in their command line, and all their descendants."""
    parents: dict[int, int] = {}
    found: set[int] = set()
    for path in Path("/proc").iterdir():
        if not path.name.isdecimal():
            continue
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if marker.encode() in (path / "cmdline").read_bytes():
                found.add(int(path.name))
        except OSError:
            continue
    found.discard(os.getpid())
    size = 0
    while size != len(found):
        size = len(found)
        found |= {pid for pid, parent in parents.items() if parent in found}
    return found
