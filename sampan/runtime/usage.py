"""What a process uses, from /proc: where nothing else counts it, as without root."""

from __future__ import annotations

import os

_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def of_process(pid: int) -> tuple[int, int, int]:
    """(cpu ns, proportional memory in bytes, threads); pages that it shares count in part; zeros when it has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        memory = int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    memory = int(line.split()[1]) * 1024
                    break
    except (FileNotFoundError, ProcessLookupError):
        return 0, 0, 0
    except PermissionError:
        pass  # smaps of a process that is not dumpable; resident size has to do
    return (int(fields[11]) + int(fields[12])) * _TICK, memory, int(fields[17])
