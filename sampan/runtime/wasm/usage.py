"""What a container uses: from its cgroup, and from /proc for what no cgroup counts (all of it, without root)."""

from __future__ import annotations

from sampan.runtime.sandbox import ContainerStats
from sampan.runtime.usage import of_process
from sampan.runtime.wasm.cgroups import Cgroup


def of_container(pid: int, cgroup: Cgroup) -> ContainerStats:
    """Zeros when the process has just ended."""
    found = cgroup.usage()
    cpu, rss, threads = of_process(pid)
    memory = rss if found.memory is None else found.memory
    return ContainerStats(
        cpu_nanoseconds=cpu if found.cpu is None else found.cpu,
        memory_bytes=memory,
        memory_working_set=max(0, memory - found.inactive),
        memory_rss=rss if found.rss is None else found.rss,
        pids=threads if found.pids is None else found.pids,
    )


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
