"""The runtime over CRI: start of a pod with one container, thirty at once, and what a pod costs in memory.

    python -m bench.cri [--pods 20] [--kind wasm --kind container]

The runtime is a process of its own on a temporary directory, on the loopback network; containers need root. With root, wasm pods
are measured again as a node has them: each in a network namespace on the bridge, and in cgroups.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "runtime"))

import busybox
from runtime_fixture import Runtime

from bench import containerd, podman
from bench.peers import version
from bench.processes import marked, pss
from bench.table import Figure, number, progress, show
from sampan.cri.errors import CRIError
from sampan.image.store import ImageStore
from sampan.network import netns
from sampan.runtime.wasm.kind import SMALLEST

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = ROOT / "tests" / "runtime" / "runtime_process.py"
PARALLEL = 30
CIDR = "10.99.0.0/24"
Peer = tuple[float | None, float | None, float | None]  # start ms, 30 at once s, memory MB
PAUSE = "docker.io/library/pause:latest"
NO_PEER: Peer = (None, None, None)
CONTAINERS: dict[str, dict[str, Any]] = {
    "wasm": {  # served over HTTP, so it lives until it is stopped
        "image": {"image": "example.org/idle:1"},
        "annotations": {"sampan.dev/http": "wagi"},
    },
    "container": {"image": {"image": busybox.NAME}, "command": ["sleep", "100000"]},
}
# kind: (start ms, 30 at once s, memory of a pod MB)
BUDGETS = {"wasm": (12.0, 0.3, 4.0), "container": (60.0, 2.0, 1.5)}


async def stock(base: Path, pods: int) -> tuple[Peer, Peer, list[str]]:
    """What containerd and podman need for the same containers, and sentences about them."""
    layouts = {
        busybox.NAME: busybox.write_layout(base / "busybox"),
        PAUSE: busybox.write_layout(base / "pause", {"Cmd": ["/bin/sleep", "1000000"]}, PAUSE),
    }

    async def by_containerd() -> Peer:
        peer = containerd.Containerd(base / "containerd", layouts, busybox.NAME, PAUSE)
        async with peer:
            return await peer.measure(pods, PARALLEL)

    async def by_podman() -> Peer:
        with podman.Podman(base / "podman", layouts[busybox.NAME], "localhost/bench:1") as peer:
            return await peer.measure(pods, PARALLEL)

    over_cri = "with runc: pods in the host's network, over the same CRI"
    by_command = f"with {podman.runtime()}: pods without infra container, by its commands: it has neither daemon nor CRI"
    found, remarks = list[Peer](), list[str]()
    for name, present, measured, how in (
        ("containerd", containerd.installed(), by_containerd, f"Stock is containerd {{}} {over_cri}."),
        ("podman", podman.installed(), by_podman, f"podman is {{}} {by_command}."),
    ):  # fmt: skip
        figures, remark = NO_PEER, f"No {name} is installed: nothing to compare with."
        if present:
            progress(f"{name}: {pods + PARALLEL + 1} pods")
            try:
                figures, remark = await measured(), how.format(version(name))
            except (CRIError, OSError, subprocess.SubprocessError) as error:
                remark = f"{name} did not run here, so nothing is compared: {error}"
        found.append(figures)
        remarks.append(remark)
    return found[0], found[1], remarks


def beside(figure: float | None, unit: str, *more: str) -> str:
    """The note of a row: what podman needs, and what there is to add."""
    return ", ".join((*([f"podman {number(figure)} {unit}"] if figure else []), *more))


@contextlib.asynccontextmanager
async def running(base: Path, *network: str) -> AsyncIterator[tuple[Runtime, int]]:
    """A runtime, and the pid of its process; with a CIDR it has a network of its own with a bridge in it."""
    runtime = Runtime(base, base / "images")
    command = [sys.executable, str(PROGRAM), str(base), str(base / "images"), *network]
    command.insert(4, runtime.config.instance)
    process = subprocess.Popen(
        ["unshare", "--net", *command] if network else command,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    await asyncio.to_thread(process.stdout.readline)
    try:
        yield runtime, process.pid
    finally:
        await runtime.clean()
        await runtime.client.close()
        process.kill()
        process.wait()
        if network:
            netns.delete_all(f"{runtime.config.instance}-")  # those that waited for a pod


class Bench:
    def __init__(self, runtime: Runtime, kind: str, cgroups: str = "") -> None:
        """`cgroups`: what the names of the pods' cgroups begin with, "" for none."""
        self.runtime = runtime
        self.kind = kind
        self.cgroups = cgroups
        self.serial = itertools.count()

    async def start(self) -> float:
        """One pod with one container, ms: RunPodSandbox, CreateContainer and StartContainer, one after the other."""
        client, name = self.runtime.client, f"bench{next(self.serial)}"
        logs = str(self.runtime.base / "logs" / name)
        pod: dict[str, Any] = {
            "metadata": {"name": name, "uid": name, "namespace": "default"},
            "log_directory": logs,
        }
        if self.cgroups:
            pod["linux"] = {"cgroup_parent": f"/{self.cgroups}-{name}"}
        container = {"metadata": {"name": "main"}, "log_path": "main.log", **CONTAINERS[self.kind]}
        began = time.perf_counter()
        made = await client.run_pod_sandbox(config=pod, runtime_handler=self.kind)
        created = await client.create_container(
            pod_sandbox_id=made.pod_sandbox_id, config=container, sandbox_config=pod
        )
        await client.start_container(container_id=created.container_id)
        return (time.perf_counter() - began) * 1e3

    async def as_on_a_node(self, pods: int) -> list[Figure]:
        start, parallel, _ = BUDGETS[self.kind]
        await self.start()
        times = [await self.start() for _ in range(pods)]
        began = time.perf_counter()
        await asyncio.gather(*(self.start() for _ in range(PARALLEL)))
        together = time.perf_counter() - began
        name = f"{self.kind}, on the bridge and in cgroups"
        best = f"best {min(times):.0f}, worst {max(times):.0f}"
        return [
            Figure(f"{name}: pod and container start", statistics.median(times), "ms", start, False, note=best),
            Figure(f"{name}: {PARALLEL} at once", together, "s", parallel, False),
        ]  # fmt: skip

    async def run(self, pods: int, peer: Peer, other: Peer) -> list[Figure]:
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
            Figure(f"{name}: pod and container start", statistics.median(times), "ms", start, False, peer[0], beside(other[0], "ms", best)),
            Figure(f"{name}: {PARALLEL} at once", together, "s", parallel, False, peer[1], beside(other[1], "s")),
            Figure(f"{name}: memory of a pod (PSS)", (after - before) / pods / 1024, "MB", memory, False, peer[2],
                   beside(other[2], "MB", "with the program in it")),
            Figure(f"{name}: remove a pod", removed, "ms", least=False),
        ]  # fmt: skip


async def main(kinds: list[str], pods: int) -> None:
    base = Path(tempfile.mkdtemp(prefix="sampan-bench-cri-"))
    store = ImageStore(base / "images")
    (base / "idle.wasm").write_bytes(SMALLEST)
    store.load(base / "idle.wasm", "example.org/idle:1")
    if busybox.binary():
        store.load(busybox.write_layout(base / "layout"))
    peers, remarks = (NO_PEER, NO_PEER), list[str]()
    began = time.perf_counter()
    try:
        async with running(base) as (runtime, pid):
            ready = (time.perf_counter() - began) * 1e3
            figures = [
                Figure("runtime: process start to socket", ready, "ms", 300, False),
                Figure("runtime: idle (PSS)", pss(pid) / 1024, "MB", 20, False),
            ]
            if "container" in kinds:
                first, second, remarks = await stock(base / "stock", pods)
                peers = (first, second)
            for kind in kinds:
                progress(f"{kind}: {pods + PARALLEL + 1} pods")
                beside_it = peers if kind == "container" else (NO_PEER, NO_PEER)
                figures += await Bench(runtime, kind).run(pods, *beside_it)
        if "wasm" in kinds and os.geteuid() == 0:
            progress(f"wasm, on the bridge: {pods + PARALLEL + 1} pods")
            async with running(base, CIDR) as (runtime, _):
                bench = Bench(runtime, "wasm", runtime.config.instance)
                figures += await bench.as_on_a_node(pods)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    show("Runtime over CRI", figures, remarks)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--pods", type=int, default=20)
    parser.add_argument("--kind", action="append", choices=sorted(BUDGETS))
    arguments = parser.parse_args()
    usable = ["wasm", *(["container"] if os.geteuid() == 0 and shutil.which("conmon") else [])]
    asyncio.run(main(arguments.kind or usable, arguments.pods))
