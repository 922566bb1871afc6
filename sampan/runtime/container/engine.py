"""The OCI engine: which one works here, and how it is called.

crun is preferred: it starts a container in a third of runc's time. crun 1.8 refuses a host with hybrid cgroups, although
it needs none of them from us: there it runs in a private view of the host in which /sys/fs/cgroup is a plain cgroup2, and
the cgroups are ours (`cgroups.py`). A view is a mount namespace made by a thread and held by a descriptor, only as long
as the start takes, so that it pins no other pod's mounts.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sampan.runtime import kernel
from sampan.runtime.container.cgroups import layout

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"PATH": PATH, "LC_ALL": "C.UTF-8"}
CGROUP_ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Engine:
    name: str  # crun | runc
    path: str
    root: Path  # its own state
    makes_cgroups: bool  # False: we do, and it runs in a private view
    hidden: Path  # where the view keeps the host's cgroup hierarchies

    def argv(self) -> list[str]:
        manager = {"crun": "cgroupfs" if self.makes_cgroups else "disabled"}.get(self.name)
        options = [f"--cgroup-manager={manager}"] if manager else []
        return [self.path, *options, "--root", str(self.root)]

    @contextlib.asynccontextmanager
    async def view(self) -> AsyncIterator[str]:
        """Path of the mount namespace to run in, good while the context lasts; "" when none is needed."""
        if self.makes_cgroups:
            yield ""
            return
        descriptor = await kernel.in_thread(self._make_view)
        try:
            yield f"/proc/{os.getpid()}/fd/{descriptor}"
        finally:
            os.close(descriptor)

    def _make_view(self) -> int:
        kernel.unshare(kernel.CLONE_FS | kernel.CLONE_NEWNS)
        # Slave: what is mounted on the host meanwhile is seen, and nothing of ours reaches the host.
        kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_SLAVE)
        kernel.mount(str(CGROUP_ROOT), str(self.hidden), flags=kernel.MS_BIND | kernel.MS_REC)
        kernel.mount("cgroup2", str(CGROUP_ROOT), "cgroup2")
        return os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)

    def script(self, view: str, joined: Sequence[Path], verb: Sequence[str]) -> str:
        """Shell text that joins cgroups and becomes the engine: `sh -c TEXT`, arguments following as "$@"."""
        join = [f"echo $$ >{shlex.quote(str(path / 'cgroup.procs'))}" for path in joined]
        enter = [shutil.which("nsenter", path=PATH) or "nsenter", f"--mount={view}"] if view else []
        return " && ".join([*join, f'exec {shlex.join([*enter, *self.argv(), *verb])} "$@"'])

    def forget(self, name: str) -> None:
        """Drop what the engine remembers of an ended container. Idempotent, and cheaper than asking it to."""
        shutil.rmtree(self.root / name, ignore_errors=True)


def candidates(run_directory: Path) -> list[Engine]:
    """What is installed, best first, with the way of calling it that this host's cgroups ask for."""
    unified = layout().unified
    found = []
    for name in ("crun", "runc"):
        path = shutil.which(name, path=PATH)
        if path is None:
            continue
        hidden = run_directory / "cgroup"
        found.append(Engine(name, path, run_directory / name, unified or name == "runc", hidden))
    return found
