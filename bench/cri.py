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

from bench import containerd
from bench.peers import version
from bench.processes import marked, pss
from bench.table import Figure, progress, show
from sampan.cri.errors import CRIError
from sampan.image.store import ImageStore
from sampan.runtime.wasm.kind import SMALLEST

ROOT = Path(__file__).resolve().parents[1]
PARALLEL = 30
Peer = tuple[float | None, float | None, float | None]  # start ms, 30 at once s, memory MB
PAUSE = "docker.io/library/pause:latest"
NO_PEER: Peer = (None, None, None)
WAGI = {"sampan.dev/http": "wagi"}  # served over HTTP, so it lives until it is stopped
# kind: (start ms, 30 at once s, memory of a pod MB)
BUDGETS = {"wasm": (12.0, 0.5, 4.0), "container": (60.0, 2.5, 1.5)}


async def stock(base: Path, pods: int) -> tuple[Peer, str]:
    """What containerd needs for the same containers, and a sentence about it."""
    if not containerd.installed():
        return NO_PEER, "No containerd is installed: nothing to compare with."
    progress(f"containerd: {pods + PARALLEL + 1} pods")
    layouts = {
        busybox.NAME: busybox.write_layout(base / "busybox"),
        PAUSE: busybox.write_layout(base / "pause", {"Cmd": ["/bin/sleep", "1000000"]}, PAUSE),
    }
    peer = containerd.Containerd(base / "containerd", layouts, busybox.NAME, PAUSE)
    try:
        async with peer:
            figures = await peer.measure(pods, PARALLEL)
    except (CRIError, OSError, subprocess.SubprocessError) as error:
        return NO_PEER, f"containerd did not run here, so nothing is compared: {error}"
    return figures, (
        f"Stock is containerd {version('containerd')} with runc: pods in the host's network, over the same CRI."
    )


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

    async def run(self, pods: int, peer: Peer) -> list[Figure]:
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
            Figure(f"{name}: pod and container start", statistics.median(times), "ms", start, False, peer[0], best),
            Figure(f"{name}: {PARALLEL} at once", together, "s", parallel, False, peer[1]),
            Figure(f"{name}: memory of a pod (PSS)", (after - before) / pods / 1024, "MB", memory, False, peer[2],
                   "with the program in it"),
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
    stock_containers, remarks = NO_PEER, list[str]()
    try:
        if "container" in kinds:
            stock_containers, remark = await stock(base / "stock", pods)
            remarks.append(remark)
        for kind in kinds:
            progress(f"{kind}: {pods + PARALLEL + 1} pods")
            peer = stock_containers if kind == "container" else NO_PEER
            figures += await Bench(runtime, kind).run(pods, peer)
    finally:
        await runtime.clean()
        await runtime.client.close()
        process.kill()
        process.wait()
        shutil.rmtree(base, ignore_errors=True)
    show("Runtime over CRI", figures, remarks)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--pods", type=int, default=20)
    parser.add_argument("--kind", action="append", choices=sorted(BUDGETS))
    arguments = parser.parse_args()
    usable = ["wasm", *(["container"] if os.geteuid() == 0 and shutil.which("conmon") else [])]
    asyncio.run(main(arguments.kind or usable, arguments.pods))
