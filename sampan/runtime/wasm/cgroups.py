"""Control groups of wasm containers: one child per container under the pod's cgroup, in v2 or in v1's hierarchies.

The pod's own cgroup belongs to the node agent; when it is missing it is made, and removed again once it is empty.
Without root there are none. Names and units: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/.
"""

from __future__ import annotations

import os
from pathlib import Path

from sampan.runtime.sandbox import NotSupported, Resources

MOUNT = Path("/sys/fs/cgroup")
_V2_PERIOD = 100_000  # µs, the kernel's default


class Cgroup:
    """The directories of one container, none when cgroups are not used."""

    def __init__(self, parent: str, name: str) -> None:
        self.directories: dict[str, Path] = {}
        if not parent or os.geteuid() != 0:
            return
        relative = Path(parent.lstrip("/")) / name
        if (MOUNT / "cgroup.controllers").exists():
            self.directories = {"v2": MOUNT / relative}
        else:
            self.directories = {
                controller: MOUNT / controller / relative
                for controller in ("cpu", "memory", "pids")
                if (MOUNT / controller / "tasks").exists()
            }

    def create(self, resources: Resources) -> list[str]:
        """Make the directories and set the limits; the paths to join.

        A worker cannot fork, so in v1 `pids` is joined only where it is limited; a pod's limit is one on its cgroup.
        """
        pids = self.directories.get("pids")
        if pids is not None and not resources.pids and not pids.parent.exists():
            del self.directories["pids"]
        for controller, directory in self.directories.items():
            directory.mkdir(parents=True, exist_ok=True)
            if controller == "v2":
                _delegate(directory)
        self.limit(resources)
        return [str(directory) for directory in self.directories.values()]

    def limit(self, resources: Resources) -> None:
        """Set those limits that are given. Raises NotSupported when the kernel refuses one."""
        for controller, name, value in settings(resources, "v2" in self.directories):
            directory = self.directories.get(controller)
            if directory is None or not (directory / name).exists():
                continue
            try:
                (directory / name).write_text(value)
            except OSError as error:
                raise NotSupported(f"cannot set {name} to {value}: {error.strerror}") from error

    def usage(self) -> dict[str, int]:
        """cpu (ns), memory, working_set, pids; what the kernel does not count is left out."""
        if "v2" in self.directories:
            directory = self.directories["v2"]
            cpu = _fields(directory / "cpu.stat")
            memory = _fields(directory / "memory.stat")
            found = {
                "cpu": cpu["usage_usec"] * 1000 if "usage_usec" in cpu else None,
                "memory": _number(directory / "memory.current"),
                "inactive": memory.get("inactive_file", 0),
                "rss": memory.get("anon"),
                "pids": _number(directory / "pids.current"),
            }
        else:
            memory_directory = self.directories.get("memory", MOUNT / "none")
            memory = _fields(memory_directory / "memory.stat")
            found = {
                "cpu": _number(self.directories.get("cpu", MOUNT / "none") / "cpuacct.usage"),
                "memory": _number(memory_directory / "memory.usage_in_bytes"),
                "inactive": memory.get("total_inactive_file", 0),
                "rss": memory.get("total_rss"),
                "pids": _number(self.directories.get("pids", MOUNT / "none") / "pids.current"),
            }
        return {name: value for name, value in found.items() if value is not None}

    def processes(self) -> set[int]:
        found: set[int] = set()
        for directory in self.directories.values():
            try:
                found.update(int(line) for line in (directory / "cgroup.procs").read_text().split())
            except FileNotFoundError:
                continue
        return found

    def remove(self) -> None:
        """Remove the container's directories. Those with processes in them stay: OSError. Idempotent."""
        for directory in self.directories.values():
            try:
                directory.rmdir()
            except FileNotFoundError:
                continue


def remove_parent(parent: str) -> None:
    """Remove the pod's cgroup where it is empty; where it is not, or not there, somebody else sees to it."""
    if not parent or os.geteuid() != 0:
        return
    relative = parent.lstrip("/")
    for directory in (
        MOUNT / relative,
        *(MOUNT / name / relative for name in ("cpu", "memory", "pids")),
    ):
        try:
            directory.rmdir()
        except OSError:
            continue


def settings(resources: Resources, v2: bool) -> list[tuple[str, str, str]]:
    """(controller, file, value) for the limits that are set; "v2" is the one controller of the unified hierarchy."""
    r, found = resources, []
    if v2:
        if r.cpu_quota:
            quota = "max" if r.cpu_quota < 0 else str(r.cpu_quota)
            found.append(("v2", "cpu.max", f"{quota} {r.cpu_period or _V2_PERIOD}"))
        if r.cpu_shares:
            weight = 1 + ((max(2, min(r.cpu_shares, 262144)) - 2) * 9999) // 262142
            found.append(("v2", "cpu.weight", str(weight)))
        if r.memory:
            found.append(("v2", "memory.max", "max" if r.memory < 0 else str(r.memory)))
        if r.pids:
            found.append(("v2", "pids.max", "max" if r.pids < 0 else str(r.pids)))
        found += [("v2", name, value) for name, value in r.unified.items()]
        return found
    if r.cpu_period:
        found.append(("cpu", "cpu.cfs_period_us", str(r.cpu_period)))
    if r.cpu_quota:
        found.append(("cpu", "cpu.cfs_quota_us", str(r.cpu_quota)))
    if r.cpu_shares:
        found.append(("cpu", "cpu.shares", str(r.cpu_shares)))
    if r.memory:
        found.append(("memory", "memory.limit_in_bytes", str(r.memory)))
    if r.pids:
        found.append(("pids", "pids.max", "max" if r.pids < 0 else str(r.pids)))
    return found


def _delegate(directory: Path) -> None:
    """Turn controllers on for `directory` in its ancestors, as far as the kernel has them."""
    chain = [parent for parent in directory.parents if parent.is_relative_to(MOUNT)]
    for ancestor in reversed(chain):
        wanted = (ancestor / "cgroup.controllers").read_text().split()
        for controller in ("cpu", "memory", "pids"):
            if controller in wanted:
                try:
                    (ancestor / "cgroup.subtree_control").write_text(f"+{controller}")
                except OSError:
                    continue  # a controller that this host does not delegate


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _fields(path: Path) -> dict[str, int]:
    try:
        pairs = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}
