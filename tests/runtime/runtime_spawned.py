"""A runtime in a process of its own (runtime_process.py), on the state of a fixture's, which a test may kill."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from runtime_fixture import Runtime

PROGRAM = Path(__file__).with_name("runtime_process.py")


class Spawned:
    """`kinds`: of sandboxes, all without any."""

    def __init__(self, runtime: Runtime, images: Path, *kinds: str) -> None:
        self.arguments = [str(runtime.base), str(images), runtime.config.instance]
        self.kinds = kinds
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), *self.arguments],
            stdout=subprocess.PIPE,
            env={
                **os.environ,
                "PYTHONPATH": str(PROGRAM.parents[2]),
                "KINDS": " ".join(self.kinds),
            },
        )
        assert self.process.stdout is not None
        line = await asyncio.to_thread(self.process.stdout.readline)
        assert line == b"ready\n"

    def kill(self) -> None:
        if self.process is not None:
            assert self.process.stdout is not None
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self.process = None
