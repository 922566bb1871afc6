"""Control groups of wasm containers: one child per container under the pod's cgroup, in v2 or in v1's hierarchies.

The pod's own cgroup belongs to the node agent; when it is missing it is made, and removed again once it is empty.
Without root there are none.
"""

from __future__ import annotations

import os
from pathlib import Path

from sampan.linux import cgroups
from sampan.linux.cgroups import Limits, Setting
from sampan.runtime.sandbox import NotSupported, Resources

GOVERNED = ("cpu", "memory", "pids")


class Cgroup:
    """The directories of one container by controller ("" in v2), none when cgroups are not used."""

    def __init__(self, parent: str, name: str) -> None:
        self.directories: dict[str, Path] = {}
        self._path = f"{parent}/{name}"
        if not parent or os.geteuid() != 0:
            return
        layout = cgroups.layout()
        self._unified = layout.unified
        below = self._path.strip("/")
        for controller in ("",) if layout.unified else GOVERNED:
            if (root := layout.root(controller)) is not None:
                self.directories[controller] = root / below

    def create(self, resources: Resources) -> list[str]:
        """Make the directories and set the limits; the paths to join.

        A worker cannot fork, so in v1 `pids` is joined only where it is limited; a pod's limit is one on its cgroup.
        """
        pids = self.directories.get("pids")
        if pids is not None and not resources.pids and not pids.parent.exists():
            del self.directories["pids"]
        for controller, directory in self.directories.items():
            root = cgroups.layout().root(controller)
            assert root is not None
            cgroups.make(directory, root, unified=self._unified)
        self.limit(resources)
        return [str(directory) for directory in self.directories.values()]

    def limit(self, resources: Resources) -> None:
        """Set those limits that are given. Raises NotSupported when the kernel refuses one."""
        if not self.directories:
            return
        for controller, name, value in settings(resources, self._unified):
            directory = self.directories.get("" if self._unified else controller)
            if directory is None or not (directory / name).exists():
                continue
            try:
                (directory / name).write_text(value)
            except OSError as error:
                raise NotSupported(f"cannot set {name} to {value}: {error.strerror}") from error

    def usage(self) -> cgroups.Usage:
        return cgroups.usage(self._path) if self.directories else cgroups.Usage()

    def processes(self) -> set[int]:
        return {pid for path in self.directories.values() for pid in cgroups.members(path)}

    def remove(self) -> None:
        """Remove the container's directories. Those with processes in them stay: OSError. Idempotent."""
        for directory in self.directories.values():
            try:
                directory.rmdir()
            except FileNotFoundError:
                continue


def remove_parent(parent: str) -> None:
    """Remove the pod's cgroup where it is empty; where it is not, or not there, somebody else sees to it."""
    if parent and os.geteuid() == 0:
        cgroups.remove_if_empty(parent)


def settings(resources: Resources, unified: bool) -> list[Setting]:
    limits = Limits(
        cpu_shares=resources.cpu_shares,
        cpu_quota=resources.cpu_quota,
        cpu_period=resources.cpu_period,
        memory=resources.memory,
        pids=resources.pids,
    )
    found = cgroups.settings(limits, unified=unified)
    return found + [("", *item) for item in resources.unified.items()] if unified else found
