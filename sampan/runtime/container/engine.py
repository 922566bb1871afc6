"""The OCI engine: which one works here, and how it is called.

crun is preferred: it starts a container in a third of runc's time. crun 1.8 refuses a host with hybrid cgroups, although
it needs none of them from us: there it runs in a view of the host (`view.py`) in which /sys/fs/cgroup is a plain cgroup2,
and the cgroups are ours (`cgroups.py`). Any other runtime with runc's command line can be named in the configuration.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import shutil
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sampan.linux.cgroups import layout
from sampan.runtime import kernel
from sampan.runtime.container import view as views

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"PATH": PATH, "LC_ALL": "C.UTF-8"}


@dataclass(frozen=True, slots=True)
class Engine:
    name: str  # crun | runc
    path: str
    root: Path  # its own state
    makes_cgroups: bool  # False: we do, and it runs in a private view
    hidden: Path  # where the view keeps the host's cgroup hierarchies
    options: tuple[str, ...] = ()  # of the user's, before the verb

    @property
    def skeleton(self) -> Path:
        """Empty directories named as the hierarchies, for a container to have them mounted on."""
        return self.hidden.with_name("controllers")

    def argv(self) -> list[str]:
        manager = {"crun": "cgroupfs" if self.makes_cgroups else "disabled"}.get(self.name)
        options = [f"--cgroup-manager={manager}"] if manager else []
        path = sealed(self.path) if self.name in ("crun", "runc") else self.path
        return [path, *options, *self.options, "--root", str(self.root)]

    @contextlib.asynccontextmanager
    async def view(
        self, binds: Sequence[views.Bind] = (), stage: Path | None = None
    ) -> AsyncIterator[str]:
        """Path of the mount namespace to run in, good while the context lasts; "" when none is needed.

        `binds` are shown in it below `stage`.
        """
        if self.makes_cgroups and not binds:
            yield ""
            return
        hidden = None if self.makes_cgroups else self.hidden
        descriptor = await kernel.in_thread(lambda: views.make(hidden, binds, stage))
        try:
            yield f"/proc/{os.getpid()}/fd/{descriptor}"
        finally:
            os.close(descriptor)

    def script(self, view: str, joined: Sequence[Path], verb: Sequence[str]) -> str:
        """Shell text that joins cgroups and becomes the engine: `sh -c TEXT`, arguments following as "$@"."""
        # The shell is one thread, so it may join by v1's `tasks`: a write to `cgroup.procs` waits for a grace
        # period of the kernel, 5–15 ms.
        join = [f"echo 0 >{shlex.quote(str(path / 'tasks'))}" for path in joined]
        enter = [program("nsenter"), f"--mount={view}"] if view else []
        return " && ".join([*join, f'exec {shlex.join([*enter, *self.argv(), *verb])} "$@"'])

    def forget(self, name: str) -> None:
        """Drop what the engine remembers of an ended container. Idempotent, and cheaper than asking it to."""
        shutil.rmtree(self.root / name, ignore_errors=True)


@cache
def program(name: str) -> str:
    """Its path, looked for once."""
    return shutil.which(name, path=PATH) or name


def sealed(path: str) -> str:
    """The engine to execute: a copy in memory that nobody can write to, made again when the file has changed.

    crun runs from nothing else, so that no container can overwrite it through /proc/self/exe: executed from its file
    it makes this copy for each call and executes it, which is a third of what a call costs.
    """
    try:
        found = os.stat(path)
        return _copy(path, found.st_ino, found.st_mtime_ns)
    except OSError:
        return path


@cache
def _copy(path: str, inode: int, changed: int) -> str:
    descriptor = os.memfd_create("engine", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(path, "rb") as file:
        while os.sendfile(descriptor, file.fileno(), None, 1 << 24):
            pass
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return f"/proc/{os.getpid()}/fd/{descriptor}"


def candidates(run_directory: Path, asked: str = "") -> list[Engine]:
    """What is installed, best first, with the way of calling it that this host's cgroups ask for.

    `asked`: the one that the configuration names, by its name or path, with options of its own behind it; "" for
    whatever is there.
    """
    found = []
    for named in (asked,) if asked else ("crun", "runc"):
        name, *options = shlex.split(named)
        path = shutil.which(name, path=PATH)
        if path is None:
            continue
        kind = os.path.basename(name)
        makes_cgroups = layout().unified or kind != "crun"
        state, hidden = run_directory / kind, run_directory / "cgroup"
        found.append(Engine(kind, path, state, makes_cgroups, hidden, tuple(options)))
    return found
