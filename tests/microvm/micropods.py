"""Pods of tests: a script in a pod, the record and the VMM of its machine, what a stream brings."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from runtime_fixture import Runtime

from sampan.runtime.microvm.facts import RECORD

KIND = "microvm"


async def run(runtime: Runtime, pod: str, script: str, **fields: Any) -> tuple[Any, str]:
    """Status and log of a container that runs a shell script to its end."""
    container = await runtime.container(pod, "sh", "-c", script, **fields)
    status = await runtime.ended(container)
    return status, await runtime.log(container)


def sandbox_of(home: Path, pod: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((home / "state" / "sandboxes" / pod / RECORD).read_bytes())
    return found


def machine_of(home: Path, pod: str) -> Path:
    return Path(sandbox_of(home, pod)["directory"])


def vmm_of(home: Path, pod: str) -> int:
    record = machine_of(home, pod) / "vmm.json"
    return int(json.loads(record.read_bytes())["pid"])


class Sink:
    def __init__(self) -> None:
        self.data = bytearray()
        self.came = asyncio.Event()

    def write(self, data: bytes) -> None:
        self.data += data
        self.came.set()

    async def drain(self) -> None:
        return

    def write_eof(self) -> None:
        return

    async def until(self, text: bytes) -> None:
        async with asyncio.timeout(20):
            while text not in self.data:
                self.came.clear()
                await self.came.wait()


async def until(check: Any, what: str) -> None:
    """For what only the other side sees; at once when it is true."""
    async with asyncio.timeout(20):
        while not check():
            await asyncio.sleep(0.02)
    assert check(), what
