"""A private view of the host's mounts, in which an engine starts one container.

Two hosts' peculiarities are kept from the engine here. crun 1.8 refuses hybrid cgroups: in the view /sys/fs/cgroup is a
plain cgroup2, and the host's hierarchies lie at `hidden`. And a container with users of its own cannot walk the closed
directories that its root and volumes lie in, nor own what is there: in the view each is bound below a directory that all
may enter, with its owners mapped (idmapped mounts, mount_setattr(2)), so that no engine has to know how.

A view is made by a thread and held by a descriptor, only as long as a start takes, so that it pins no other pod's mounts.
It is a slave of the host: what the host mounts meanwhile is seen, and what is mounted here stays here. Only a volume that
is to be shared both ways is taken from the host before, so that it stays a peer of the original.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sampan.linux import mounts
from sampan.runtime import kernel

CGROUP_ROOT = Path("/sys/fs/cgroup")
UNIFIED = CGROUP_ROOT / "unified"  # cgroup2 on a hybrid host
STAGES = (Path("/mnt"), Path("/media"), Path("/srv"))


@dataclass(frozen=True, slots=True)
class Bind:
    """`source` of the host is shown as `name` on the stage; with `users`, a namespace's path, as that maps its owners.

    Only what is `shared` stays a peer of the host's mount: what a container mounts in it, the host has too.
    """

    source: Path
    name: str
    users: Path | None = None
    shared: bool = False


def stage(*avoid: Path) -> Path:
    """A directory of the host whose contents the engine does not need, to be covered in the view."""
    for candidate in STAGES:
        if candidate.is_dir() and not any(path.is_relative_to(candidate) for path in avoid):
            return candidate
    raise OSError(f"none of {', '.join(map(str, STAGES))} can be used to show mounts to an engine")


def make(hidden: Path | None, binds: Sequence[Bind] = (), place: Path | None = None) -> int:
    """The descriptor of a new mount namespace. Runs in a thread of its own. `hidden`: None leaves the cgroups alone."""
    taken: list[int] = []
    folders = [bind.source.is_dir() for bind in binds]
    try:
        for bind in binds:
            taken.append(kernel.open_tree(bind.source))
            if bind.users is not None:
                kernel.map_owners(taken[-1], bind.users)
        kernel.unshare(kernel.CLONE_FS | kernel.CLONE_NEWNS)
        mounts.mount("none", "/", flags=mounts.MS_REC | mounts.MS_SLAVE)
        if hidden is not None:
            show_unified(hidden)
        if place is not None:
            mounts.mount(
                "tmpfs", str(place), "tmpfs", mounts.MS_NOSUID | mounts.MS_NODEV, "mode=755"
            )
            for bind, tree, is_folder in zip(binds, taken, folders, strict=True):
                target = place / bind.name
                target.mkdir() if is_folder else target.touch()
                kernel.move_mount(tree, target)
                if not bind.shared:
                    # Taken from the host, where systemd makes all mounts peers: with the host's /sys as a peer, the
                    # container's cgroup would be mounted over the host's.
                    mounts.mount("none", str(target), flags=mounts.MS_REC | mounts.MS_SLAVE)
        return os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        for tree in taken:
            os.close(tree)


def show_unified(hidden: Path) -> None:
    mounts.mount(str(CGROUP_ROOT), str(hidden), flags=mounts.MS_BIND | mounts.MS_REC)
    if os.path.exists(UNIFIED / "cgroup.controllers"):
        # The same file system as a fresh mount, which would wait 5–15 ms for the kernel's cgroup lock.
        mounts.mount(str(UNIFIED), str(CGROUP_ROOT), flags=mounts.MS_BIND)
    else:
        mounts.mount("cgroup2", str(CGROUP_ROOT), "cgroup2")
