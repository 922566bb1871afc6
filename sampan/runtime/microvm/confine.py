"""The VMM's cgroup: a child of the pod's, so that the machine counts as the pod's and is bounded with it."""

from __future__ import annotations

import os
from pathlib import Path

from sampan.linux import cgroups
from sampan.runtime import files, usage
from sampan.runtime.container.cgroups import Cgroup
from sampan.runtime.sandbox import Resources, SandboxSpec

VMM_MEMORY = 96 << 20  # bytes beside the guest's: QEMU itself, translated code, caches


def confine(cgroup: Cgroup, pid: int, spec: SandboxSpec, memory: int) -> None:
    """Move the VMM of a guest with `memory` MiB into its group. Raises OSError, NotSupported."""
    limits = Resources(
        memory=(memory << 20) + VMM_MEMORY,
        cpu_shares=spec.resources.cpu_shares,
        cpu_quota=spec.resources.cpu_quota,
        cpu_period=spec.resources.cpu_period,
    )
    if cgroup.unified:
        (directory,) = cgroup.directories()
        cgroups.make(directory, cgroups.TOP, unified=True)
        cgroup.update(limits)
        joined: tuple[Path, ...] = (directory,)
    else:
        joined = cgroup.create(limits)
    for directory in joined:
        files.set_value(directory / "cgroup.procs", str(pid))


def join(cgroup: Cgroup, pid: int) -> None:
    """A helper of the VMM's counts as the pod's too. Raises OSError."""
    for directory in cgroup.directories():
        if directory.exists():
            files.set_value(directory / "cgroup.procs", str(pid))


def taken(cgroup: Cgroup, pid: int) -> tuple[int, int]:
    """(CPU ns, bytes of memory) of a machine. Without root it has no group, and is its VMM alone."""
    if usable():
        whole = cgroup.stats()
        return whole.cpu_nanoseconds, whole.memory_bytes
    return usage.of_process(pid)[:2]


def usable() -> bool:
    return os.geteuid() == 0
