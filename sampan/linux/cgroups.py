"""Control groups as this host has them: v2, v1, or v1 beside a v2 without controllers (hybrid).

One group is the same path in every hierarchy. What differs between the versions is here, in one table of files: names, units,
and that v2 hands controllers down by `cgroup.subtree_control` while v1 has them everywhere (cgroups(7); Documentation/admin-guide/
cgroup-v2.rst and cgroup-v1/). Hierarchies may be in use by others: only children of a path that we were given are touched.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TOP = Path("/sys/fs/cgroup")
V1_CONTROLLERS = ("cpu", "cpuacct", "memory", "pids", "devices", "cpuset", "hugetlb")
DELEGATED = ("cpu", "memory", "pids", "cpuset", "hugetlb", "io")
PERIOD = 100_000  # µs, the kernel's default of a CPU quota
SWAP_V1 = "memory.memsw.limit_in_bytes"
REMOVAL_PAUSES = (0.0, 0.005, 0.02, 0.1, 0.5)  # seconds

Setting = tuple[str, str, str]  # (controller, file, value)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the hierarchies are mounted on this host."""

    unified: bool  # pure v2
    hierarchies: dict[str, Path]  # v1: by controller; v2: under ""
    others: tuple[
        Path, ...
    ] = ()  # hybrid: those without a controller of ours, which an engine may use

    def root(self, controller: str) -> Path | None:
        return self.hierarchies.get("" if self.unified else controller)

    def governs(self, controller: str) -> bool:
        """Whether the kernel has it here at all."""
        if not self.unified:
            return controller in self.hierarchies
        try:
            return controller in (self.hierarchies[""] / "cgroup.controllers").read_text().split()
        except OSError:
            return False

    def every(self, path: str) -> list[Path]:
        """The group's directory in each hierarchy that governs something."""
        below = path.strip("/")
        return list(dict.fromkeys(root / below for root in self.hierarchies.values()))

    def everywhere(self, path: str) -> list[Path]:
        return [*self.every(path), *(root / path.strip("/") for root in self.others)]


@cache
def layout() -> Layout:
    return read_layout(Path("/proc/self/mountinfo").read_text(errors="surrogateescape"))


def read_layout(mountinfo: str) -> Layout:
    """Of the text of /proc/PID/mountinfo (proc_pid_mountinfo(5))."""
    hierarchies: dict[str, Path] = {}
    others: list[Path] = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        point = Path(left.split(" ")[4])
        if kind == "cgroup2" and point == TOP:
            return Layout(True, {"": point})
        if kind == "cgroup":
            names = [name for name in options.split(",") if name in V1_CONTROLLERS]
            for name in names:
                hierarchies.setdefault(name, point)
            if not names:
                others.append(point)
        elif kind == "cgroup2":
            others.append(point)
    return Layout(False, hierarchies, tuple(others))


@dataclass(frozen=True, slots=True)
class Limits:
    """What is 0 or "" is not set; a negative limit is none."""

    cpu_shares: int = 0  # v1's scale, 2 to 262144
    cpu_quota: int = 0  # µs in each period
    cpu_period: int = 0
    memory: int = 0  # bytes
    memory_swap: int = 0  # memory and swap together
    pids: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""


def settings(limits: Limits, *, unified: bool) -> list[Setting]:
    """The files that say so, in the order in which the kernel takes them."""
    found = _unified(limits) if unified else _v1(limits)
    if limits.pids:
        found.append(("pids", "pids.max", most(limits.pids)))
    if limits.cpuset_cpus:
        found.append(("cpuset", "cpuset.cpus", limits.cpuset_cpus))
    if limits.cpuset_mems:
        found.append(("cpuset", "cpuset.mems", limits.cpuset_mems))
    return found


def _unified(limits: Limits) -> list[Setting]:
    found: list[Setting] = []
    if limits.cpu_shares:
        found.append(("cpu", "cpu.weight", str(weight_of(limits.cpu_shares))))
    if limits.cpu_quota or limits.cpu_period:
        quota = str(limits.cpu_quota) if limits.cpu_quota > 0 else "max"
        found.append(("cpu", "cpu.max", f"{quota} {limits.cpu_period or PERIOD}"))
    if limits.memory:
        found.append(("memory", "memory.max", most(limits.memory)))
    if limits.memory_swap:
        # CRI counts memory and swap together, as v1 did; v2 has swap by itself.
        swap = -1 if limits.memory_swap < 0 else limits.memory_swap - max(limits.memory, 0)
        found.append(("memory", "memory.swap.max", most(swap)))
    return found


def _v1(limits: Limits) -> list[Setting]:
    found: list[Setting] = []
    if limits.cpu_shares:
        found.append(("cpu", "cpu.shares", str(max(2, limits.cpu_shares))))
    if limits.cpu_period:
        found.append(("cpu", "cpu.cfs_period_us", str(limits.cpu_period)))
    if limits.cpu_quota:
        found.append(("cpu", "cpu.cfs_quota_us", str(limits.cpu_quota)))
    if limits.memory:
        found.append(("memory", "memory.limit_in_bytes", str(limits.memory)))
    if limits.memory_swap:
        found.append(("memory", SWAP_V1, str(limits.memory_swap)))
    return found


def most(limit: int) -> str:
    return "max" if limit < 0 else str(limit)


def weight_of(shares: int) -> int:
    """cpu.weight (1–10000) for v1's shares (2–262144), as Kubernetes and runc convert it (KEP-2254)."""
    return 1 + (min(max(shares, 2), 262144) - 2) * 9999 // 262142


def make(directory: Path, root: Path, *, unified: bool) -> None:
    """The group is there on return; on v2 with its controllers handed down along its path. Raises OSError."""
    if directory.is_dir():
        return
    directory.mkdir(parents=True, exist_ok=True)
    if unified:
        delegate(directory, root)


def delegate(directory: Path, root: Path) -> None:
    """Hand down to a v2 group what its ancestors up to `root` have."""
    path = root
    for part in directory.relative_to(root).parts:
        try:
            there = (path / "cgroup.controllers").read_text().split()
        except OSError:
            there = []
        for controller in DELEGATED:
            if controller not in there:
                continue
            try:
                (path / "cgroup.subtree_control").write_text(f"+{controller}")
            except OSError:
                continue  # the group has members of its own: the setting that is missed says so
        path = path / part


def remove(path: str) -> bool:
    """Remove the group and the empty groups in it, in every hierarchy; False when a member holds one. Idempotent."""
    if not path.strip("/"):
        return True
    clean = True
    for top in layout().everywhere(path):
        for directory, _, _ in os.walk(top, topdown=False):
            try:
                os.rmdir(directory)
            except FileNotFoundError:
                continue
            except OSError:
                clean = False
    return clean


async def remove_soon(path: str) -> bool:
    """`remove`, again for a while: a group is busy for a moment after its last member has ended."""
    for pause in REMOVAL_PAUSES:
        await asyncio.sleep(pause)
        if remove(path):
            return True
    return False


def remove_if_empty(path: str) -> None:
    """Remove the group itself, where nothing is in it."""
    if not path.strip("/"):
        return
    for directory in layout().everywhere(path):
        try:
            os.rmdir(directory)
        except OSError:
            continue


def members(directory: Path) -> list[int]:
    """Of this group alone, not of those below."""
    try:
        return [int(pid) for pid in (directory / "cgroup.procs").read_text().split()]
    except OSError:
        return []


def inhabitants(path: str) -> set[int]:
    """Members of the group and of those in it, in every hierarchy."""
    tops = layout().everywhere(path)
    return {pid for top in tops for place, _, _ in os.walk(top) for pid in members(Path(place))}


def number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def fields(path: Path) -> dict[str, int]:
    """A file of lines `name number`; what is not there is empty."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


@dataclass(frozen=True, slots=True)
class Usage:
    """What the kernel does not count is None."""

    cpu: int | None = None  # ns
    memory: int | None = None  # bytes, as all that follows
    inactive: int = 0  # of them file pages that would be given up first
    rss: int | None = None
    pids: int | None = None

    @property
    def working_set(self) -> int:
        return max(0, (self.memory or 0) - self.inactive)


def usage(path: str) -> Usage:
    """Of one group with all that is in it."""
    found, below = layout(), path.strip("/")
    nowhere = Path("/nonexistent")

    def at(controller: str) -> Path:
        root = found.root(controller)
        return root / below if root else nowhere

    memory = fields(at("memory") / "memory.stat")
    if found.unified:
        spent = fields(at("cpu") / "cpu.stat").get("usage_usec")
        return Usage(
            cpu=None if spent is None else spent * 1000,
            memory=number(at("memory") / "memory.current"),
            inactive=memory.get("inactive_file", 0),
            rss=memory.get("anon"),
            pids=number(at("pids") / "pids.current"),
        )
    return Usage(
        cpu=number(at("cpuacct") / "cpuacct.usage"),
        memory=number(at("memory") / "memory.usage_in_bytes"),
        inactive=memory.get("total_inactive_file", 0),
        rss=memory.get("total_rss"),
        pids=number(at("pids") / "pids.current"),
    )
