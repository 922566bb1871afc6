"""MicroVMs over CRI: from nothing to a container's first output, by cold boot, by clone and from a warm machine.

    python -m bench.microvm [--starts 8]

Without KVM a guest's processor is emulated: the ratios of one run are what counts then, and the budgets are given for this
case. What an idle pod costs is the VMM's whole PSS, the guest's memory in it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "runtime"))

import busybox
from runtime_fixture import Runtime

from bench.processes import pss, seconds
from bench.table import Figure, progress, show
from sampan.image.store import ImageStore
from sampan.runtime.microvm.kind import MicroVMKind

PARALLEL = 8
IDLE = 5.0  # seconds over which an idle machine is watched


class Bench:
    def __init__(self, base: Path) -> None:
        self.runtime = Runtime(base, base / "images", kinds=("microvm",))
        self.settings = base / "state" / "microvm" / "settings.json"

    async def with_pool(self, size: int) -> None:
        """Start anew, with so many warm machines once there is demand."""
        await self.end()
        self.settings.parent.mkdir(parents=True, exist_ok=True)
        self.settings.write_text(json.dumps({"pool": size, "memory": 128}))
        await self.runtime.start()

    async def end(self) -> None:
        if self.runtime.config.socket.exists():
            await self.runtime.clean()
            await self.runtime.stop()

    async def first_output(self) -> float:
        """One pod with one container, until its first line is in the log: ms."""
        began = time.perf_counter()
        pod = await self.runtime.pod("microvm")
        container = await self.runtime.container(pod, "sh", "-c", "echo hello; exec sleep 100000")
        log = Path((await self.runtime.status(container)).log_path)
        while not (log.exists() and log.stat().st_size):
            await asyncio.sleep(0.001)
        return (time.perf_counter() - began) * 1e3

    async def live(self) -> int:
        """Return when machines are copied from a template that runs: its process."""
        place = self.runtime.config.run_directory / "microvm"
        deadline = time.monotonic() + 30
        while not (ready := list(place.glob("template-live-*/ready"))):
            if time.monotonic() > deadline:
                raise SystemExit("no live template after 30 s")
            await asyncio.sleep(0.05)
        return int(json.loads((ready[0].parent / "vmm.json").read_bytes())["pid"])

    async def warm(self) -> None:
        """Return when a machine waits that no pod has, and has rehearsed; it is told by its directory, and by time."""
        pods = len((await self.runtime.client.list_pod_sandbox()).items)
        deadline = time.monotonic() + 20
        while len(self.vmms()) <= pods and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        await asyncio.sleep(2.5)

    def vmms(self) -> list[int]:
        machines = self.runtime.config.run_directory / "microvm" / "machines"
        return [json.loads(path.read_bytes())["pid"] for path in machines.glob("*/vmm.json")]


async def main(starts: int) -> None:
    support = await MicroVMKind(Path("/nonexistent"), Path("/nonexistent"), "none").glance()
    if not support.usable:
        show(
            "MicroVMs over CRI",
            [],
            [f"No microVM here: {support.why}. To have them: {support.install}"],
        )
        return
    base = Path(tempfile.mkdtemp(prefix="sampan-bench-microvm-"))
    ImageStore(base / "images").load(busybox.write_layout(base / "layout"))
    bench = Bench(base)
    try:
        progress("microvm: cold boot and template")
        await bench.with_pool(0)
        whole = await bench.first_output()
        (record,) = (base / "state" / "microvm" / "templates").glob("*/template.json")
        cold = json.loads(record.read_bytes())["boot"] * 1e3
        progress(f"microvm: {starts} clones")
        await bench.runtime.clean()
        template = await bench.live()
        clones = [await bench.first_output() for _ in range(starts)]
        await asyncio.sleep(1)
        pids = bench.vmms()
        memory = sum(map(pss, pids)) / 1024 / len(pids)
        kept = pss(template) / 1024
        before = seconds(pids)
        await asyncio.sleep(IDLE)
        idle = (seconds(pids) - before) / IDLE / len(pids) * 100
        await bench.runtime.clean()
        began = time.perf_counter()
        await asyncio.gather(*(bench.first_output() for _ in range(PARALLEL)))
        together = time.perf_counter() - began
        progress(f"microvm: {starts} warm starts")
        await bench.with_pool(1)
        await bench.first_output()
        warm = []
        for _ in range(starts):
            await bench.warm()
            warm.append(await bench.first_output())
        accelerator = json.loads((base / "state" / "microvm" / "proven.json").read_bytes())[
            "accelerator"
        ]
        clone = statistics.median(clones)
        figures = [
            Figure("microvm: first pod, template made", whole, "ms", None, False),
            Figure("microvm: cold boot to agent", cold, "ms", 200 if accelerator == "kvm" else None, False),
            Figure("microvm: clone to first output", clone, "ms", 30 if accelerator == "kvm" else 250, False,
                   note=f"best {min(clones):.0f}, worst {max(clones):.0f}"),
            Figure("microvm: clone against cold boot", cold / clone, "×", 8, note="pod and container, against the boot alone"),
            Figure("microvm: warm start to first output", statistics.median(warm), "ms", 120, False,
                   note=f"best {min(warm):.0f}, worst {max(warm):.0f}"),
            Figure(f"microvm: {PARALLEL} at once", together, "s", 1.2, False),
            Figure("microvm: idle pod (PSS)", memory, "MB", 36, False, note="VMM, agent and the guest's memory"),
            Figure("microvm: live template (PSS)", kept, "MB", None, False, note=f"once, beside {starts} idle pods"),
            Figure("microvm: idle pod, processor", idle, "%", 1, False),
        ]  # fmt: skip
        how = "with KVM" if accelerator == "kvm" else "emulated, as this machine has no usable KVM"
        show("MicroVMs over CRI", figures, [f"Guests of 128 MiB run {how}."])
    finally:
        await bench.end()
        await bench.runtime.client.close()
        shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--starts", type=int, default=8)
    asyncio.run(main(parser.parse_args().starts))
