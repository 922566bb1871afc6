"""A wasm-only CRI runtime on a socket, as its own process: `python node_runtime.py DIR`. No privilege needed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from sampan.image.store import ImageStore
from sampan.network.loopback import LoopbackNetwork
from sampan.runtime.config import RuntimeConfig
from sampan.runtime.serve import serve


async def main(directory: Path) -> None:
    ready = asyncio.Event()
    config = RuntimeConfig(
        directory=directory / "runtime",
        run_directory=directory / "run",
        socket=directory / "run" / "cri.sock",
        instance="sptnode",
        network=LoopbackNetwork(directory / "network", "127.42.9.0/24"),
        images=ImageStore(directory / "images"),
        kinds=("wasm",),
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(serve(config, ready))
        await ready.wait()
        print("ready", flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
