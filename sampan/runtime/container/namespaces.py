"""A pod's own namespaces without a pause process: UTS and IPC, pinned by bind mounts, and its /dev/shm.

A thread unshares, names the host, sets the pod's sysctls, binds its namespaces to files, and ends. The files keep the
namespaces until they are unmounted, whatever happens to the runtime.

With users of its own (`hostUsers: false`) the namespaces are made by a short-lived child, since a thread cannot change its
user namespace alone; the others are made within that one, so that the pod's root is root over them. The network namespace
belongs to the host (plugins made it), so the pod cannot mount a sysfs of it: one is mounted here to be bound.
"""

from __future__ import annotations

import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from sampan.linux import mounts
from sampan.runtime import files, kernel
from sampan.runtime.container.engine import program
from sampan.runtime.sandbox import CannotStart, SandboxSpec, UserNamespace

SHM_SIZE = "65536k"
IPC_SYSCTLS = ("kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue.")


@dataclass(frozen=True, slots=True)
class PodNamespaces:
    """Paths under the pod's volatile directory; None: the host's."""

    directory: Path

    @property
    def uts(self) -> Path:
        return self.directory / "uts"

    @property
    def ipc(self) -> Path:
        return self.directory / "ipc"

    @property
    def shm(self) -> Path:
        return self.directory / "shm"

    @property
    def user(self) -> Path:
        return self.directory / "user"

    @property
    def sys(self) -> Path:
        return self.directory / "sys"

    def create(self, spec: SandboxSpec) -> None:
        """Runs in a thread of its own. Raises CannotStart for a sysctl that the kernel refuses."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        flags = (0 if spec.host_network else kernel.CLONE_NEWUTS) | (
            0 if spec.host_ipc else kernel.CLONE_NEWIPC
        )
        if spec.user_namespace is not None:
            self.make_users(spec.user_namespace, flags)
        elif flags:
            kernel.unshare(flags)
        if not spec.host_network:
            socket.sethostname(spec.hostname or spec.name)
            pin("/proc/thread-self/ns/uts", self.uts)
        if not spec.host_ipc:
            pin("/proc/thread-self/ns/ipc", self.ipc)
            self.shm.mkdir(exist_ok=True)
            users = spec.user_namespace
            owner = f",uid={users.uids.host},gid={users.gids.host}" if users else ""
            mounts.mount(
                "shm",
                str(self.shm),
                "tmpfs",
                mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC,
                f"mode=1777,size={SHM_SIZE}{owner}",
            )
        if spec.network.namespace is not None and (spec.sysctls or spec.user_namespace):
            kernel.enter(spec.network.namespace, kernel.CLONE_NEWNET)
        if spec.user_namespace is not None and spec.network.namespace is not None:
            self.sys.mkdir(exist_ok=True)
            flags = mounts.MS_RDONLY | mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC
            mounts.mount("sysfs", str(self.sys), "sysfs", flags)
        if spec.sysctls:
            set_sysctls(spec)

    def make_users(self, users: UserNamespace, flags: int = 0) -> None:
        """Make the user namespace and those in it, pin the former, and join the latter with this thread.

        Raises CannotStart.
        """
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        options = [
            option
            for flag, option in ((kernel.CLONE_NEWUTS, "--uts"), (kernel.CLONE_NEWIPC, "--ipc"))
            if flags & flag
        ]
        # `cat` runs once the namespaces are there, and ends with its input.
        with subprocess.Popen(
            [program("unshare"), "--user", *options, program("cat")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        ) as child:
            assert child.stdin is not None and child.stdout is not None
            child.stdin.write(b"\n")
            if not child.stdout.read(1):
                raise CannotStart("the kernel makes no user namespace here")
            for name, ids in (("gid_map", users.gids), ("uid_map", users.uids)):
                try:
                    files.set_value(f"/proc/{child.pid}/{name}", f"0 {ids.host} {ids.length}\n")
                except OSError as error:
                    what = f"{ids.length} ids from {ids.host} on"
                    raise CannotStart(f"{name} of {what}: {error.strerror}") from error
            pin(f"/proc/{child.pid}/ns/user", self.user)
            for flag, name in ((kernel.CLONE_NEWUTS, "uts"), (kernel.CLONE_NEWIPC, "ipc")):
                if flags & flag:
                    kernel.enter(f"/proc/{child.pid}/ns/{name}", flag)
            child.stdin.close()

    def remove(self) -> None:
        """Idempotent."""
        for path in (self.uts, self.ipc, self.shm, self.sys, self.user):
            while mounts.unmount(path):
                pass
            try:
                path.rmdir() if path in (self.shm, self.sys) else path.unlink()
            except OSError:
                continue
        try:
            self.directory.rmdir()
        except OSError:
            pass


def pin(namespace: str, path: Path) -> None:
    path.touch(mode=0o600)
    mounts.mount(namespace, str(path), flags=mounts.MS_BIND)


def set_sysctls(spec: SandboxSpec) -> None:
    """In the calling thread's namespaces; one that is the whole host's is refused, not set."""
    own_network = spec.network.namespace is not None and not spec.host_network
    for name, value in spec.sysctls.items():
        # Both spellings occur: net.ipv4.ip_forward and net/ipv4/ip_forward.
        parts = name.split("/") if "/" in name else name.split(".")
        dotted = ".".join(parts)
        allowed = (own_network and dotted.startswith("net.")) or (
            not spec.host_ipc and dotted.startswith(IPC_SYSCTLS)
        )
        if not allowed or ".." in parts or "" in parts:
            raise CannotStart(f"sysctl {name!r} is not the pod's own: it would change the host")
        try:
            Path("/proc/sys", *parts).write_text(value)
        except OSError as error:
            raise CannotStart(f"sysctl {name}={value}: {error.strerror}") from error
