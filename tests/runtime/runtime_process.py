"""Runs a runtime in a process of its own, for tests that kill it: `runtime_process.py BASE IMAGES INSTANCE`."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

from sampan.image.store import ImageStore
from sampan.network.loopback import LoopbackNetwork
from sampan.runtime.config import RuntimeConfig
from sampan.runtime.serve import serve


async def main(base: Path, images: Path, instance: str) -> None:
    config = RuntimeConfig(
        directory=base / "state",
        run_directory=base / "run",
        socket=base / "cri.sock",
        instance=instance,
        network=LoopbackNetwork(base / "network"),
        images=ImageStore(images),
    )
    ready = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(serve(config, ready))
        await ready.wait()
        print("ready", flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
