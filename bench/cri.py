"""The runtime over CRI: start of a pod with one container, thirty at once, and what a pod costs in memory.

    python -m bench.cri [--pods 20] [--kind wasm --kind container]

The runtime is a process of its own on a temporary directory, on the loopback network; containers need root.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "runtime"))

import busybox
from runtime_fixture import Runtime

from bench.processes import marked, pss
from bench.table import Figure, progress, show
from sampan.image.store import ImageStore
from sampan.runtime.wasm.kind import SMALLEST

ROOT = Path(__file__).resolve().parents[1]
PARALLEL = 30
WAGI = {"sampan.dev/http": "wagi"}  # served over HTTP, so it lives until it is stopped
# kind: (start ms, 30 at once s, memory of a pod MB)
BUDGETS = {"wasm": (12.0, 0.5, 4.0), "container": (60.0, 2.5, 1.5)}


class Bench:
    def __init__(self, runtime: Runtime, kind: str) -> None:
        self.runtime = runtime
        self.kind = kind

    async def start(self) -> float:
        """One pod with one container, ms."""
        began = time.perf_counter()
        pod = await self.runtime.pod(self.kind)
        if self.kind == "wasm":
            image = {"image": {"image": "example.org/idle:1"}}
            await self.runtime.container(pod, annotations=WAGI, **image)
        else:
            await self.runtime.container(pod, "sleep", "100000")
        return (time.perf_counter() - began) * 1e3

    async def run(self, pods: int) -> list[Figure]:
        start, parallel, memory = BUDGETS[self.kind]
        await self.start()
        before = sum(pss(pid) for pid in marked(str(self.runtime.base)))
        times = [await self.start() for _ in range(pods)]
        after = sum(pss(pid) for pid in marked(str(self.runtime.base)))
        began = time.perf_counter()
        await asyncio.gather(*(self.start() for _ in range(PARALLEL)))
        together = time.perf_counter() - began
        began = time.perf_counter()
        await self.runtime.clean()
        removed = (time.perf_counter() - began) * 1e3 / (pods + PARALLEL + 1)
        best = f"best {min(times):.0f}, worst {max(times):.0f}"
        name = self.kind
        return [
            Figure(f"{name}: pod and container start", statistics.median(times), "ms", start, False, note=best),
            Figure(f"{name}: {PARALLEL} at once", together, "s", parallel, False),
            Figure(f"{name}: memory of a pod (PSS)", (after - before) / pods / 1024, "MB", memory, False,
                   note="with the program in it"),
            Figure(f"{name}: remove a pod", removed, "ms", least=False),
        ]  # fmt: skip


async def main(kinds: list[str], pods: int) -> None:
    base = Path(tempfile.mkdtemp(prefix="sampan-bench-cri-"))
    store = ImageStore(base / "images")
    (base / "idle.wasm").write_bytes(SMALLEST)
    store.load(base / "idle.wasm", "example.org/idle:1")
    if busybox.binary():
        store.load(busybox.write_layout(base / "layout"))
    runtime = Runtime(base, base / "images")
    program = ROOT / "tests" / "runtime" / "runtime_process.py"
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, str(program), str(base), str(base / "images"), runtime.config.instance],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    await asyncio.to_thread(process.stdout.readline)
    figures = [
        Figure(
            "runtime: process start to socket",
            (time.perf_counter() - began) * 1e3,
            "ms",
            300,
            False,
        ),
        Figure("runtime: idle (PSS)", pss(process.pid) / 1024, "MB", 20, False),
    ]
    try:
        for kind in kinds:
            progress(f"{kind}: {pods + PARALLEL + 1} pods")
            figures += await Bench(runtime, kind).run(pods)
    finally:
        await runtime.clean()
        await runtime.client.close()
        process.kill()
        process.wait()
        shutil.rmtree(base, ignore_errors=True)
    show("Runtime over CRI", figures)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--pods", type=int, default=20)
    parser.add_argument("--kind", action="append", choices=sorted(BUDGETS))
    arguments = parser.parse_args()
    usable = ["wasm", *(["container"] if os.geteuid() == 0 and shutil.which("conmon") else [])]
    asyncio.run(main(arguments.kind or usable, arguments.pods))
