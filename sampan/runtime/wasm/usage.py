"""What a container uses: from its cgroup, and from /proc for what no cgroup counts (all of it, without root)."""

from __future__ import annotations

import os

from sampan.runtime.sandbox import ContainerStats
from sampan.runtime.wasm.cgroups import Cgroup

_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def of_container(pid: int, cgroup: Cgroup) -> ContainerStats:
    """Zeros when the process has just ended."""
    found = cgroup.usage()
    cpu, rss, threads = _of_process(pid)
    memory = rss if found.memory is None else found.memory
    return ContainerStats(
        cpu_nanoseconds=cpu if found.cpu is None else found.cpu,
        memory_bytes=memory,
        memory_working_set=max(0, memory - found.inactive),
        memory_rss=rss if found.rss is None else found.rss,
        pids=threads if found.pids is None else found.pids,
    )


def _of_process(pid: int) -> tuple[int, int, int]:
    """(cpu ns, proportional memory in bytes, threads); the zygote's shared pages count in part."""
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


def of_network(pid: int) -> tuple[int, int]:
    """(received, sent) bytes of the interfaces in the process's network namespace, loopback left out."""
    received = sent = 0
    try:
        with open(f"/proc/{pid}/net/dev", encoding="ascii") as file:
            for line in file.readlines()[2:]:
                name, _, numbers = line.partition(":")
                if name.strip() != "lo":
                    fields = numbers.split()
                    received, sent = received + int(fields[0]), sent + int(fields[8])
    except OSError:
        return 0, 0
    return received, sent
