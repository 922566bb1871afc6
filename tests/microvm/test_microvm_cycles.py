"""MicroVM pods are created and deleted again and again: nothing of them is left, on the host or in the runtime.

VMMs, mounts, namespaces and taps, cgroups, files of the runtime's state, descriptors, threads and memory. Pods have their
address in the guest, so taps and redirects come and go too; warm machines are made meanwhile. SAMPAN_SOAK=1 makes 500
cycles, else there are a few; SAMPAN_CYCLES names another number.
"""

from __future__ import annotations

import asyncio
import collections
import os
import time
from pathlib import Path

import pytest
from harbour import Harbour
from runtime_fixture import Runtime
from test_microvm_network import harbour as harbour

SOAK = "SAMPAN_SOAK" in os.environ
pytestmark = [pytest.mark.root, pytest.mark.timeout(3600 if SOAK else 120)]
CYCLES = int(os.environ.get("SAMPAN_CYCLES", "500" if SOAK else "6"))
TOGETHER = 2
# Caches and heaps fill for a while. Beyond that a cycle may keep no more than a few KiB.
SETTLING, EACH = 4096, 4  # KiB
POOL = (os.cpu_count() or 1) + 4  # threads that asyncio keeps


async def cycle(runtime: Runtime) -> None:
    """One pod's life, with output, an executed process and its logs' directory."""
    pod = await runtime.pod("microvm")
    container = await runtime.container(pod, "sh", "-c", "echo here; exec sleep 1000")
    answer = await runtime.exec(container, "echo", "there")
    assert answer.stdout == b"there\n"
    log = Path((await runtime.status(container)).log_path)
    await runtime.client.stop_pod_sandbox(pod_sandbox_id=pod)
    await runtime.client.remove_pod_sandbox(pod_sandbox_id=pod)
    log.unlink()
    log.parent.rmdir()


def counts(runtime: Runtime) -> dict[str, int]:
    found = collections.Counter[str]()
    found["descriptors"] = len(os.listdir("/proc/self/fd"))
    found["threads"] = len(os.listdir("/proc/self/task"))
    for entry in Path("/proc").iterdir():
        try:
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
        except (OSError, IndexError):
            continue
        found["children"] += parent == str(os.getpid())
    places = (
        str(runtime.base),
        "/harbour/",
        f"/{runtime.config.instance}",
    )  # and of no other test's
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    found["mounts"] = sum(any(place in line for place in places) for line in lines)
    found["interfaces"] = len(os.listdir("/sys/class/net"))
    for base, directories, files in os.walk("/sys/fs/cgroup"):
        found["cgroups"] += f"/{runtime.config.instance}" in base
        if base.count("/") > 5:
            directories.clear()
        files.clear()
    for name in ("state", "run", "logs"):
        for _, directories, files in os.walk(runtime.base / name):
            found[f"files in {name}"] += len(directories) + len(files)
    return dict(found)


def memory() -> int:
    """KiB that only this process, the runtime in it, has."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private", "Swap:")))


def more(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    slack = {"threads": POOL}
    grown = {name: number - before.get(name, 0) for name, number in after.items()}
    return {name: number for name, number in grown.items() if number > slack.get(name, 0)}


async def rest(runtime: Runtime, warm: int) -> None:
    """Return when there are a live template and as many warm machines as before, each with its files."""
    place = runtime.config.run_directory / "microvm"
    ending = time.monotonic() + 30
    while len(list(place.glob("machines/*/vmm.json"))) != warm or not list(place.glob("*/ready")):
        assert time.monotonic() < ending, list(place.glob("*/*"))
        await asyncio.sleep(0.05)


async def test_machines_that_come_and_go_leave_nothing(harbour: tuple[Runtime, Harbour]) -> None:
    runtime, _ = harbour
    await asyncio.gather(*(cycle(runtime) for _ in range(TOGETHER)))
    await rest(runtime, 1)
    before, held = counts(runtime), memory()
    for _ in range(CYCLES // TOGETHER):
        await asyncio.gather(*(cycle(runtime) for _ in range(TOGETHER)))
    await rest(runtime, 1)
    ending = time.monotonic() + 30  # namespaces are taken down beside the calls
    while left := more(before, counts(runtime)):
        assert time.monotonic() < ending, left
        await asyncio.sleep(0.05)
    grown = memory() - held
    print(f"{CYCLES} cycles: {before}, {grown} KiB more than after the first")
    assert grown < SETTLING + EACH * CYCLES
