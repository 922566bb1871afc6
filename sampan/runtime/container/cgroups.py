"""Control groups, v1 and v2: limits, members, figures, removal.

On a pure v2 host the engine makes the group and fills in the limits from config.json. On v1 and hybrid hosts crun will
not touch it, so we make a child under every hierarchy, write the limits, and the container's first process joins before
it runs. Hierarchies may be in use by others: only children of our own path are ever made, changed or removed.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from sampan.linux import cgroups
from sampan.linux.cgroups import SWAP_V1, Setting
from sampan.runtime import files
from sampan.runtime.sandbox import CannotStart, ContainerStats, Device, NotSupported, Resources

CGROUP_FILES = str(cgroups.TOP)

# What every container may use: the pseudo devices, ptys and tun; mknod of anything else is allowed but useless.
V1_DEVICES = (
    "c *:* m", "b *:* m", "c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm",
    "c 5:0 rwm", "c 5:1 rwm", "c 5:2 rwm", "c 136:* rwm", "c 10:200 rwm",
)  # fmt: skip


class Cgroup:
    """One group, at the same path in every hierarchy that is there. Making the object touches nothing."""

    def __init__(self, path: str) -> None:
        self.path = "/" + path.strip("/")
        self._layout = cgroups.layout()

    def directory(self, controller: str) -> Path | None:
        root = self._layout.root(controller)
        return root / self.path.lstrip("/") if root else None

    def directories(self) -> list[Path]:
        return self._layout.every(self.path)

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
        self._write(self._settings(resources))
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

    def _settings(self, resources: Resources) -> list[Setting]:
        found = cgroups.settings(limits_of(resources), unified=self._layout.unified)
        if self._layout.unified:
            found += self._hugepages(resources.hugepages)
            return found + [
                ("", name, value) for name, value in resources.unified.items() if "/" not in name
            ]
        if resources.memory_swap:
            found = self._ordered(found, resources.memory)
        found += self._hugepages(resources.hugepages)
        for name, value in resources.unified.items():
            # CRI has no field for pids; of v2's files this is the one that v1 has as well.
            if name != "pids.max":
                raise NotSupported(f"{name}: this host has cgroup v1")
            found.append(("pids", name, value))
        return found

    def _hugepages(self, limits: dict[str, int]) -> list[Setting]:
        """A kubelet names every size that it knows, with 0: that holds anyway where nobody counts huge pages."""
        name = "max" if self._layout.unified else "limit_in_bytes"
        directory, found = self.directory("hugetlb"), []
        for size, limit in limits.items():
            file = f"hugetlb.{size}.{name}"
            if directory is not None and (directory / file).exists():
                found.append(("hugetlb", file, str(limit)))
            elif limit > 0:
                raise NotSupported(f"{file}: this host does not count huge pages of {size}")
        return found

    def _ordered(self, found: list[Setting], memory: int) -> list[Setting]:
        """v1 keeps the limit with swap at or above the one without, so it goes first where that one grows."""
        directory = self.directory("memory")
        if directory is None or not (directory / SWAP_V1).exists():
            return [each for each in found if each[1] != SWAP_V1]
        if 0 <= self.number("memory", SWAP_V1) < memory:
            return sorted(found, key=lambda each: each[1] != SWAP_V1)
        return found

    def _write(self, settings: list[Setting]) -> None:
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
        try:
            self._write(self._settings(resources))
        except OSError as error:
            raise NotSupported(str(error.strerror)) from error

    def members(self) -> list[int]:
        for controller in ("pids", "memory", "cpu"):
            directory = self.directory(controller)
            if directory is not None:
                return cgroups.members(directory)
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

    def remove_if_empty(self) -> None:
        """Remove the group itself where it has no children."""
        cgroups.remove_if_empty(self.path)

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
        return (cgroups.number(directory / name) if directory else None) or 0

    def flat(self, controller: str, name: str) -> dict[str, int]:
        directory = self.directory(controller)
        return cgroups.fields(directory / name) if directory else {}

    def stats(self) -> ContainerStats:
        found = cgroups.usage(self.path)
        return ContainerStats(
            cpu_nanoseconds=found.cpu or 0,
            memory_bytes=found.memory or 0,
            memory_working_set=found.working_set,
            memory_rss=found.rss or 0,
            pids=found.pids or 0,
        )


def limits_of(resources: Resources) -> cgroups.Limits:
    return cgroups.Limits(
        cpu_shares=resources.cpu_shares,
        cpu_quota=resources.cpu_quota,
        cpu_period=resources.cpu_period,
        memory=resources.memory,
        memory_swap=resources.memory_swap,
        pids=resources.pids,
        cpuset_cpus=resources.cpuset_cpus,
        cpuset_mems=resources.cpuset_mems,
    )


def rule_of(device: Device) -> str:
    try:
        status = os.stat(device.source)
    except OSError as error:
        raise CannotStart(f"device {device.source}: {error.strerror}") from error
    kind = "b" if (status.st_mode & 0o170000) == 0o060000 else "c"
    return f"{kind} {os.major(status.st_rdev)}:{os.minor(status.st_rdev)} {device.permissions}"
