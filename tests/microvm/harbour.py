"""A pod network for tests: a hub in a namespace of its own with a bridge, and each pod a namespace with eth0 on it."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sampan.linux import mounts
from sampan.network.pods import Attachment, PodRef
from sampan.runtime import kernel

T = TypeVar("T")
GATEWAY = "10.77.0.1"


class Harbour:
    name = "harbour"

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.hub = directory / "hub"
        self._numbers = itertools.count(2)

    async def open(self) -> None:
        self.directory.mkdir()
        await self._make(self.hub)
        ip(self.hub, "link add br0 type bridge")
        ip(self.hub, f"addr add {GATEWAY}/16 dev br0")
        ip(self.hub, "link set br0 up")

    async def close(self) -> None:
        for path in self.directory.iterdir():
            mounts.unmount(path)
            path.unlink()
        self.directory.rmdir()

    async def _make(self, path: Path) -> None:
        def make() -> None:
            kernel.unshare(kernel.CLONE_NEWNET)
            path.touch()
            mounts.mount("/proc/thread-self/ns/net", str(path), flags=mounts.MS_BIND)

        await kernel.in_thread(make)
        ip(path, "link set lo up")

    async def attach(self, pod: PodRef) -> Attachment:
        path = self.directory / pod.sandbox_id
        number = next(self._numbers)
        address = f"10.77.{number >> 8}.{number & 255}"
        await self._make(path)
        ip(self.hub, f"link add v{number} type veth peer name e{number}")
        ip(self.hub, f"link set v{number} master br0 up")
        ip(self.hub, f"link set e{number} netns {path}")
        ip(path, f"link set e{number} name eth0")
        ip(path, f"addr add {address}/16 dev eth0")
        ip(path, "link set eth0 up")
        ip(path, f"route add default via {GATEWAY}")
        return Attachment(str(path), (address,), "eth0")

    async def detach(self, pod: PodRef) -> None:
        path = self.directory / pod.sandbox_id
        mounts.unmount(path)
        path.unlink(missing_ok=True)

    async def existing(self) -> dict[str, Attachment]:
        return {}

    async def owners(self) -> list[str]:
        return []

    async def inside(self, work: Callable[[], T], path: Path | None = None) -> T:
        """`work` in the hub, or in another of the namespaces."""

        def enter() -> T:
            kernel.enter(path or self.hub, kernel.CLONE_NEWNET)
            return work()

        return await kernel.in_thread(enter)


def ip(namespace: Path, arguments: str) -> str:
    command = ["nsenter", f"--net={namespace}", "ip", *arguments.split()]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
