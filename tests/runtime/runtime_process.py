"""Runs a runtime in a process of its own, for tests that kill it: `runtime_process.py BASE IMAGES INSTANCE [CIDR]`.

With a CIDR pods are on a bridge, else in the network of the process. The variable KINDS names the kinds of sandboxes, if not all.

SIGUSR1 counts the calls of Python functions from then on, and kills the process (SIGKILL, no clean-up of any sort) at the one
whose number is in BASE/kill-at. SIGUSR2 writes the count to BASE/calls.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import uvloop

from sampan.image.store import ImageStore
from sampan.network.bridge import BridgeNetwork
from sampan.network.loopback import LoopbackNetwork
from sampan.network.pods import PodNetwork
from sampan.runtime.config import RuntimeConfig
from sampan.runtime.serve import serve


class KillPoint:
    def __init__(self, base: Path) -> None:
        self.base = base
        self.calls = 0
        self.last = 0

    def arm(self) -> None:
        self.calls, self.last = 0, int((self.base / "kill-at").read_text())
        sys.setprofile(self.called)

    def called(self, frame: Any, event: str, argument: Any) -> None:
        if event in ("call", "c_call"):
            self.calls += 1
            if self.calls == self.last:
                os.kill(os.getpid(), signal.SIGKILL)

    def tell(self) -> None:
        sys.setprofile(None)
        beside = self.base / "calls.new"
        beside.write_text(str(self.calls))
        beside.rename(self.base / "calls")


async def main(base: Path, images: Path, instance: str, cidr: str = "") -> None:
    network: PodNetwork = LoopbackNetwork(base / "network")
    if cidr:
        network = BridgeNetwork(base / "network", cidr, instance)
    config = RuntimeConfig(
        directory=base / "state",
        run_directory=base / "run",
        socket=base / "cri.sock",
        instance=instance,
        network=network,
        images=ImageStore(images),
    )
    if kinds := os.environ.get("KINDS", "").split():
        config.kinds = tuple(kinds)
    point = KillPoint(base)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, point.arm)
    loop.add_signal_handler(signal.SIGUSR2, point.tell)
    ready = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(serve(config, ready))
        await ready.wait()
        print("ready", flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    uvloop.run(main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]))
