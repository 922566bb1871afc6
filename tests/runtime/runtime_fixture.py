"""A runtime of a test's own: service and CRI socket in a temporary directory, and a client of it."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sampan.cri.client import CRIClient
from sampan.cri.errors import Unavailable
from sampan.image.store import ImageStore
from sampan.linux import cgroups
from sampan.network.loopback import LoopbackNetwork
from sampan.runtime.config import RuntimeConfig
from sampan.runtime.serve import serve

serial = itertools.count()


class Runtime:
    """A runtime that can be stopped and started again on the same state."""

    def __init__(self, base: Path, images: Path, **options: Any) -> None:
        self.base = base
        self.config = RuntimeConfig(
            directory=base / "state",
            run_directory=base / "run",
            socket=base / "cri.sock",
            instance=f"st{os.getpid():x}x{next(serial)}",
            network=LoopbackNetwork(base / "network"),
            images=ImageStore(images),
            **options,
        )
        self.client = CRIClient(self.config.socket)
        self.handler = "container"  # of pods that name none
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        ready = asyncio.Event()
        self._task = asyncio.create_task(serve(self.config, ready))
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait({self._task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self._task.done():
            self._task.result()

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """It runs; afterwards its pods and its client are gone too."""
        await self.start()
        try:
            yield
        finally:
            await self.clean()
            await self.stop()
            await self.client.close()

    async def pod(self, handler: str | None = None, **fields: Any) -> str:
        number = next(serial)
        config = {
            "metadata": {"name": f"pod{number}", "uid": f"uid{number}", "namespace": "default"},
            "log_directory": str(self.base / "logs" / f"pod{number}"),
            **fields,
        }
        answer = await self.client.run_pod_sandbox(
            config=config, runtime_handler=self.handler if handler is None else handler
        )
        return str(answer.pod_sandbox_id)

    async def container(self, pod: str, *command: str, start: bool = True, **fields: Any) -> str:
        config = {
            "metadata": {"name": f"c{next(serial)}"},
            "image": {"image": "busybox"},
            "command": list(command),
            "log_path": f"{next(serial)}.log",
            **fields,
        }
        status = await self.client.pod_sandbox_status(pod_sandbox_id=pod)
        sandbox = {
            "metadata": status.status.metadata,
        }
        answer = await self.client.create_container(
            pod_sandbox_id=pod, config=config, sandbox_config=sandbox
        )
        if start:
            await self.client.start_container(container_id=answer.container_id)
        return str(answer.container_id)

    async def status(self, container: str) -> Any:
        return (await self.client.container_status(container_id=container)).status

    async def ended(self, container: str) -> Any:
        """The status of the container after its end; waits for the event."""
        async with asyncio.timeout(20):
            events = self.client.get_container_events()
            first = asyncio.ensure_future(anext(events))
            try:
                while True:
                    status = await self.status(container)
                    if status.finished_at:
                        return status
                    await asyncio.wait({first}, timeout=0.2)
                    if first.done():
                        first = asyncio.ensure_future(anext(events))
            finally:
                first.cancel()
                await asyncio.gather(first, return_exceptions=True)
                await events.aclose()

    async def log(self, container: str) -> str:
        """What the container wrote, without the prefixes of the log format."""
        status = await self.status(container)
        lines = Path(status.log_path).read_text().splitlines()
        return "\n".join(line.split(" ", 3)[3] for line in lines)

    async def exec(self, container: str, *command: str, timeout: int = 20) -> Any:
        return await self.client.exec_sync(
            container_id=container, cmd=list(command), timeout=timeout
        )

    async def clean(self) -> None:
        try:
            found = await self.client.list_pod_sandbox()
        except Unavailable:  # the connection was one to a runtime that has been started again since
            found = await self.client.list_pod_sandbox(wait=True)
        for item in found.items:
            await self.client.remove_pod_sandbox(pod_sandbox_id=item.id)
        assert not (left := self.groups()), f"cgroups left behind: {left}"

    def groups(self) -> list[str]:
        """Control groups of pods and of what is in them, in every hierarchy of either version."""
        tops = cgroups.layout().everywhere(self.config.instance)
        return [str(path) for top in tops for path in top.rglob("*") if path.is_dir()]
