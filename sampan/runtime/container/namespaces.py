"""A pod's own namespaces without a pause process: UTS and IPC, pinned by bind mounts, and its /dev/shm.

A thread unshares, names the host, sets the pod's sysctls, binds its namespaces to files, and ends. The files keep the
namespaces until they are unmounted, whatever happens to the runtime.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

from sampan.runtime import kernel
from sampan.runtime.sandbox import CannotStart, SandboxSpec

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

    def create(self, spec: SandboxSpec) -> None:
        """Runs in a thread of its own. Raises CannotStart for a sysctl that the kernel refuses."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        flags = (0 if spec.host_network else kernel.CLONE_NEWUTS) | (
            0 if spec.host_ipc else kernel.CLONE_NEWIPC
        )
        if flags:
            kernel.unshare(flags)
        if not spec.host_network:
            socket.sethostname(spec.hostname or spec.name)
            pin("/proc/thread-self/ns/uts", self.uts)
        if not spec.host_ipc:
            pin("/proc/thread-self/ns/ipc", self.ipc)
            self.shm.mkdir(exist_ok=True)
            kernel.mount(
                "shm",
                str(self.shm),
                "tmpfs",
                kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC,
                f"mode=1777,size={SHM_SIZE}",
            )
        if spec.sysctls:
            if spec.network.namespace is not None:
                kernel.enter(spec.network.namespace, kernel.CLONE_NEWNET)
            set_sysctls(spec)

    def remove(self) -> None:
        """Idempotent."""
        for path in (self.uts, self.ipc, self.shm):
            while kernel.unmount(path):
                pass
            try:
                path.rmdir() if path == self.shm else path.unlink()
            except OSError:
                continue
        try:
            self.directory.rmdir()
        except OSError:
            pass


def pin(namespace: str, path: Path) -> None:
    path.touch(mode=0o600)
    kernel.mount(namespace, str(path), flags=kernel.MS_BIND)


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
