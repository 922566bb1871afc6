"""A pod network for tests: each pod a network namespace with only `lo`, which touches nothing of the host's."""

from __future__ import annotations

import subprocess
from pathlib import Path

from sampan.linux import mounts
from sampan.network.pods import Attachment, PodRef
from sampan.runtime import kernel


class PrivateNetwork:
    name = "private"

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    async def attach(self, pod: PodRef) -> Attachment:
        path = self.directory / pod.sandbox_id

        def make() -> None:
            kernel.unshare(kernel.CLONE_NEWNET)
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            self.directory.mkdir(exist_ok=True)
            path.touch()
            mounts.mount("/proc/thread-self/ns/net", str(path), flags=mounts.MS_BIND)

        if not path.exists():
            await kernel.in_thread(make)
        return Attachment(str(path), ("127.0.0.1",), "lo")

    async def detach(self, pod: PodRef) -> None:
        path = self.directory / pod.sandbox_id
        mounts.unmount(path)
        path.unlink(missing_ok=True)

    async def existing(self) -> dict[str, Attachment]:
        found = self.directory.iterdir() if self.directory.is_dir() else ()
        return {path.name: Attachment(str(path), ("127.0.0.1",), "lo") for path in found}

    async def owners(self) -> list[str]:
        return list(await self.existing())
