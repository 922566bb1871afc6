"""Control groups, v1 and v2: limits, members, figures, removal.

On a pure v2 host the engine makes the group and fills in the limits from config.json. On v1 and hybrid hosts crun will
not touch it, so we make a child under every hierarchy, write the limits, and the container's first process joins before
it runs. Hierarchies may be in use by others: only children of our own path are ever made, changed or removed.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sampan.runtime import files
from sampan.runtime.sandbox import ContainerStats, Device, NotSupported, Resources

CGROUP_FILES = "/sys/fs/cgroup"
V1_CONTROLLERS = ("cpu", "cpuacct", "memory", "pids", "devices", "cpuset", "hugetlb")

# What every container may use: the pseudo devices, ptys and tun; mknod of anything else is allowed but useless.
SWAP_V1 = "memory.memsw.limit_in_bytes"
V1_DEVICES = (
    "c *:* m", "b *:* m", "c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm",
    "c 5:0 rwm", "c 5:1 rwm", "c 5:2 rwm", "c 136:* rwm", "c 10:200 rwm",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the hierarchies are mounted on this host."""

    unified: bool  # pure v2
    hierarchies: dict[str, Path]  # v1: by controller; v2: under ""
    others: tuple[
        Path, ...
    ] = ()  # hybrid: hierarchies without a controller of ours; an engine may use them


@cache
def layout() -> Layout:
    hierarchies: dict[str, Path] = {}
    others = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        point = Path(left.split(" ")[4])
        if kind == "cgroup2" and point == Path("/sys/fs/cgroup"):
            return Layout(True, {"": point})
        if kind == "cgroup":
            names = [name for name in options.split(",") if name in V1_CONTROLLERS]
            hierarchies.update((name, point) for name in names)
            if not names:
                others.append(point)
        elif kind == "cgroup2":
            others.append(point)
    return Layout(False, hierarchies, tuple(others))


class Cgroup:
    """One group, at the same path in every hierarchy that is there. Making the object touches nothing."""

    def __init__(self, path: str) -> None:
        self.path = "/" + path.strip("/")
        self._layout = layout()

    def directory(self, controller: str) -> Path | None:
        root = self._layout.hierarchies.get("" if self._layout.unified else controller)
        return root / self.path.lstrip("/") if root else None

    def directories(self) -> list[Path]:
        return list(
            dict.fromkeys(
                root / self.path.lstrip("/") for root in self._layout.hierarchies.values()
            )
        )

    def create(
        self, resources: Resources, *, devices: tuple[Device, ...] | None = None
    ) -> tuple[Path, ...]:
        """v1: make the group and set limits; the directories whose cgroup.procs the first process must join.

        `devices`: allowed besides the usual; None: all. Raises OSError when the kernel refuses a limit.
        """
        joined: list[Path] = []
        for directory in self.directories():
            if directory == self.directory("cpuset"):
                if not (resources.cpuset_cpus or resources.cpuset_mems):
                    continue
                self._inherit_cpuset(directory)
            if directory == self.directory("hugetlb") and not resources.hugepages:
                continue
            directory.mkdir(parents=True, exist_ok=True)
            joined.append(directory)
        self._write(self._v1_settings(resources))
        rules = self.directory("devices")
        if devices is not None and rules is not None:
            files.set_value(rules / "devices.deny", "a")
            files.set_value(rules / "devices.allow", *V1_DEVICES, *map(rule_of, devices))
        return tuple(joined)

    def _inherit_cpuset(self, directory: Path) -> None:
        # A new v1 cpuset is empty, and an empty one takes no process: copy down from the first that is filled.
        root: Path = self._layout.hierarchies["cpuset"]
        current: Path = root
        for part in directory.relative_to(root).parts:
            parent: Path = current
            current = current / part
            current.mkdir(exist_ok=True)
            for name in ("cpuset.cpus", "cpuset.mems"):
                if not (current / name).read_text().strip():
                    (current / name).write_text((parent / name).read_text())

    def _v1_settings(self, resources: Resources) -> list[tuple[str, str, str]]:
        settings = []
        if resources.cpu_shares:
            settings.append(("cpu", "cpu.shares", str(max(2, resources.cpu_shares))))
        if resources.cpu_period:
            settings.append(("cpu", "cpu.cfs_period_us", str(resources.cpu_period)))
        if resources.cpu_quota:
            settings.append(("cpu", "cpu.cfs_quota_us", str(resources.cpu_quota)))
        if resources.memory:
            settings.append(("memory", "memory.limit_in_bytes", str(resources.memory)))
        memory = self.directory("memory")
        if resources.memory_swap and memory and (memory / SWAP_V1).exists():
            # With swap; the kernel keeps it at or above the limit without, so it goes first where that one grows.
            both = ("memory", SWAP_V1, str(resources.memory_swap))
            grows = 0 <= self.number("memory", SWAP_V1) < resources.memory
            settings.insert(
                len(settings) - 1 if grows and resources.memory else len(settings), both
            )
        if self.directory("hugetlb") is not None:
            settings += [
                ("hugetlb", f"hugetlb.{size}.limit_in_bytes", str(limit))
                for size, limit in resources.hugepages.items()
            ]
        for name, value in resources.unified.items():
            # CRI has no field for pids; of v2's files this is the one that v1 has as well.
            if name != "pids.max":
                raise NotSupported(f"{name}: this host has cgroup v1")
            settings.append(("pids", name, value))
        if resources.pids:
            settings.append(
                ("pids", "pids.max", "max" if resources.pids < 0 else str(resources.pids))
            )
        if resources.cpuset_cpus:
            settings.append(("cpuset", "cpuset.cpus", resources.cpuset_cpus))
        if resources.cpuset_mems:
            settings.append(("cpuset", "cpuset.mems", resources.cpuset_mems))
        return settings

    @staticmethod
    def _v2_settings(resources: Resources) -> list[tuple[str, str, str]]:
        settings = []
        if resources.cpu_shares:
            settings.append(("", "cpu.weight", str(weight_of(resources.cpu_shares))))
        if resources.cpu_quota or resources.cpu_period:
            quota = str(resources.cpu_quota) if resources.cpu_quota > 0 else "max"
            settings.append(("", "cpu.max", f"{quota} {resources.cpu_period or 100_000}"))
        if resources.memory:
            settings.append(
                ("", "memory.max", "max" if resources.memory < 0 else str(resources.memory))
            )
        if resources.memory_swap:
            # CRI counts memory and swap together, as v1 did; v2 has swap by itself.
            swap = "max" if resources.memory_swap < 0 else resources.memory_swap - resources.memory
            settings.append(("", "memory.swap.max", str(swap)))
        if resources.pids:
            settings.append(("", "pids.max", "max" if resources.pids < 0 else str(resources.pids)))
        if resources.cpuset_cpus:
            settings.append(("", "cpuset.cpus", resources.cpuset_cpus))
        if resources.cpuset_mems:
            settings.append(("", "cpuset.mems", resources.cpuset_mems))
        settings.extend(
            ("", name, value) for name, value in resources.unified.items() if "/" not in name
        )
        return settings

    def _write(self, settings: list[tuple[str, str, str]]) -> None:
        for controller, name, value in settings:
            directory: Path | None = self.directory(controller)
            if directory is None:
                raise NotSupported(f"{name}: this host has no cgroup controller {controller!r}")
            try:
                files.set_value(directory / name, value)
            except OSError as error:
                raise OSError(
                    error.errno, f"{directory / name} = {value}: {error.strerror}"
                ) from error

    def update(self, resources: Resources) -> None:
        """Change the limits of a living group. Raises NotSupported with the limit that cannot change."""
        settings = (
            self._v2_settings(resources) if self._layout.unified else self._v1_settings(resources)
        )
        try:
            self._write(settings)
        except OSError as error:
            raise NotSupported(str(error.strerror)) from error

    def members(self) -> list[int]:
        for controller in ("pids", "memory", "cpu"):
            directory = self.directory(controller)
            if directory is not None:
                try:
                    return [int(pid) for pid in (directory / "cgroup.procs").read_text().split()]
                except OSError:
                    return []
        return []

    def kill(self) -> None:
        """SIGKILL to every member, again for those that were being forked meanwhile."""
        for _ in range(64):
            members = [pid for pid in self.members() if pid != os.getpid()]
            if not members:
                return
            for pid in members:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue

    def remove(self) -> bool:
        """Remove the group, its empty children first; False when a member still holds it. Idempotent."""
        clean = True
        others = [root / self.path.lstrip("/") for root in self._layout.others]
        for directory in (*self.directories(), *others):
            for root, _, _ in os.walk(directory, topdown=False):
                try:
                    os.rmdir(root)
                except FileNotFoundError:
                    continue
                except OSError:
                    clean = False
        return clean

    def remove_if_empty(self) -> None:
        """Remove the group itself where it has no children."""
        others = [root / self.path.lstrip("/") for root in self._layout.others]
        for directory in (*self.directories(), *others):
            try:
                os.rmdir(directory)
            except OSError:
                continue

    def out_of_memory(self) -> bool:
        """Whether the kernel killed a member for want of memory."""
        name = "memory.events" if self._layout.unified else "memory.oom_control"
        return self.flat("memory", name).get("oom_kill", 0) > 0

    @property
    def unified(self) -> bool:
        return self._layout.unified

    def text(self, controller: str, name: str) -> str:
        """A file of the group, "" when it is not there."""
        directory = self.directory(controller)
        try:
            return (directory / name).read_text() if directory else ""
        except OSError:
            return ""

    def number(self, controller: str, name: str) -> int:
        directory = self.directory(controller)
        try:
            return int((directory / name).read_text()) if directory else 0
        except (OSError, ValueError):
            return 0

    def flat(self, controller: str, name: str) -> dict[str, int]:
        directory = self.directory(controller)
        try:
            text = (directory / name).read_text() if directory else ""
        except OSError:
            return {}
        pairs = (line.split() for line in text.splitlines())
        return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}

    def stats(self) -> ContainerStats:
        memory = self.flat("memory", "memory.stat")
        if self._layout.unified:
            usage = self.number("memory", "memory.current")
            cpu = self.flat("cpu", "cpu.stat").get("usage_usec", 0) * 1000
            inactive, rss = memory.get("inactive_file", 0), memory.get("anon", 0)
        else:
            usage = self.number("memory", "memory.usage_in_bytes")
            cpu = self.number("cpuacct", "cpuacct.usage")
            inactive = memory.get("total_inactive_file", 0)
            rss = memory.get("total_rss", 0)
        return ContainerStats(
            cpu_nanoseconds=cpu,
            memory_bytes=usage,
            memory_working_set=max(0, usage - inactive),
            memory_rss=rss,
            pids=self.number("pids", "pids.current"),
        )


def weight_of(shares: int) -> int:
    """cpu.weight (1–10000) for v1's shares (2–262144), as Kubernetes and runc convert it."""
    return 1 + (min(max(shares, 2), 262144) - 2) * 9999 // 262142


def rule_of(device: Device) -> str:
    status = os.stat(device.source)
    kind = "b" if (status.st_mode & 0o170000) == 0o060000 else "c"
    return f"{kind} {os.major(status.st_rdev)}:{os.minor(status.st_rdev)} {device.permissions}"
