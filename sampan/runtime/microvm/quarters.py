"""Where a VMM with an HTTP API lives: it makes its sockets itself, and is told of files by their paths.

So it has what QEMU needs none of: a directory of its own in its jail, in memory and bounded, in which it works.

    control, vsock   its sockets, which the host reaches by /proc/<pid>/cwd
    state            what it writes for a snapshot
    files/           the host's <machine>/files, read-only: kernel, drives, state; the host puts more in while it runs

As root the jail is ours (`jail.py`), by the same code as QEMU's; or Firecracker's own, where a `jailer` lies beside it
(its docs/jailer.md). That one keeps no descriptor but the three streams, so the guest's memory is handed over as the first.
Network, mount, IPC, UTS and PID namespaces are made before either. The VMMs' own seccomp filters are on by default.
Without root there is no jail, and the directory is the machine's.
"""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sampan.linux import mounts
from sampan.runtime.microvm import jail
from sampan.runtime.microvm.vmm import MachineSpec

FILES = "files"
HOME = "/vmm"
TUN = "/dev/net/tun"
ROOM = 24  # MiB of a jail's own directory: devices' state, and the copy of its program that a jailer makes
QUIET = mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC


@dataclass(slots=True)
class Quarters:
    """What to run, and how it gets in: `enter` is called in the namespaces, by the thread that becomes the VMM."""

    argv: list[str]
    cwd: str
    enter: Callable[[], None] | None = None
    descriptors: tuple[int, ...] = ()
    stdin: int = -1
    ram: str = field(default="")  # by which path the VMM opens the guest's memory


def of(spec: MachineSpec, program: str, arguments: list[str], room: int = 0) -> Quarters:
    """`room`: MiB that it writes beside its state. `<machine>/files` is there on return, and an empty `root`."""
    directory = spec.directory
    for name in (FILES, "root"):
        (directory / name).mkdir(exist_ok=True)
    given = (spec.ram,) if spec.ram >= 0 else ()
    ram = f"/proc/self/fd/{spec.ram}"
    if not spec.uid:
        return Quarters([program, *arguments], str(directory), None, given, ram=ram)
    place, files, size = directory / "root", directory / FILES, ROOM + room
    real = Path(program).resolve()
    inside = f"/{real.name}"
    enter = functools.partial(enter_own, place, spec.uid, real, files, size)
    return Quarters([inside, *arguments], HOME, enter, given, ram=ram)


def of_jailer(spec: MachineSpec, jailer: str, program: str, arguments: list[str]) -> Quarters:
    """Firecracker in its own jail; `arguments` without --id, which the jailer gives."""
    directory = spec.directory
    for name in (FILES, "root"):
        (directory / name).mkdir(exist_ok=True)
    real, name = Path(program).resolve(), spec.name[:32]
    base = directory / "root"
    argv = [
        jailer, "--id", name, "--exec-file", str(real), "--uid", str(spec.uid), "--gid", str(spec.uid),
        "--chroot-base-dir", str(base), "--", *arguments,
    ]  # fmt: skip
    enter = functools.partial(prepare, base, base / real.name / name / "root", directory / FILES)
    return Quarters(argv, str(base), enter, stdin=spec.ram, ram="/proc/self/fd/0")


def beside(program: str) -> str | None:
    """The jailer that came with this Firecracker: each is to be used with its own (docs/jailer.md)."""
    for path in (Path(program), Path(program).resolve()):
        if os.access(found := path.with_name("jailer"), os.X_OK):
            return str(found)
    return None


# In a mount namespace of the calling thread's own.


def enter_own(place: Path, uid: int, program: Path, files: Path, size: int) -> None:
    """Our jail: root directory, user and no new privileges are the thread's on return."""

    def furnish() -> None:
        monitor = place / program.name
        monitor.touch()
        mounts.mount(str(program), str(monitor), flags=mounts.MS_BIND)
        mounts.mount("", str(monitor), flags=jail.LOCKED)
        give_tun(place, uid)
        home = Path(f"{place}{HOME}")
        home.mkdir()
        mounts.mount("vmm", str(home), "tmpfs", QUIET, f"mode=700,uid={uid},gid={uid},size={size}m")
        lend(files, home / FILES)

    jail.build_root(place, uid, furnish)
    os.chroot(place)
    os.chdir("/")
    jail.drop_to(uid)
    jail.gain_nothing()


def prepare(base: Path, root: Path, files: Path) -> None:
    """What a jailer finds in the directory that it makes a root of, and takes along (it binds that recursively)."""
    mounts.mount("", "/", flags=mounts.MS_REC | mounts.MS_PRIVATE)
    mounts.mount("jail", str(base), "tmpfs", mounts.MS_NOSUID, f"mode=755,size={ROOM}m")
    root.mkdir(parents=True)
    lend(files, root / FILES)
    jail.give_proc(root)
    jail.gain_nothing()


def lend(files: Path, target: Path) -> None:
    target.mkdir()
    mounts.mount(str(files), str(target), flags=mounts.MS_BIND)
    mounts.mount("", str(target), flags=jail.LOCKED | QUIET)


def give_tun(place: Path, uid: int) -> None:
    """By which a VMM opens its tap, which is the user's own (`wiring.keep_tap`): any other takes CAP_NET_ADMIN."""
    target = Path(f"{place}{TUN}")
    target.parent.mkdir(parents=True, exist_ok=True)
    os.mknod(target, stat.S_IFCHR | 0o600, os.makedev(10, 200))
    os.chown(target, uid, uid)
