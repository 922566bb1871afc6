"""Pods are created and deleted over CRI again and again: what the runtime has afterwards is what it had before.

Processes, mounts, network namespaces, cgroups, files of its state, and of each of its processes the descriptors, the threads
and the memory. Pods are in network namespaces on a bridge, in a network namespace of the runtime's own. SAMPAN_SOAK=1 makes
10,000 cycles, half of containers and half of wasm modules, else there are a few; SAMPAN_CYCLES names another number.
"""

from __future__ import annotations

import asyncio
import collections
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from busybox import NAME
from runtime_fixture import Runtime
from runtime_spawned import PROGRAM

from sampan.image.store import ImageStore
from sampan.network import netns
from sampan.runtime.wasm.kind import SMALLEST

pytestmark = [pytest.mark.root, pytest.mark.timeout(7200 if "SAMPAN_SOAK" in os.environ else 120)]
CYCLES = int(os.environ.get("SAMPAN_CYCLES", "10000" if "SAMPAN_SOAK" in os.environ else "40"))
KINDS = ("container", "wasm")
TOGETHER = 4  # pods of one kind at a time
# Caches and heaps fill for a while. Beyond that a cycle may not keep even half a KiB.
SETTLING, EACH = 6144, 0.4  # KiB
POOL = (os.cpu_count() or 1) + 4
IDLE = {"annotations": {"sampan.dev/http": "wagi"}, "image": {"image": "example.org/idle:1"}}


@pytest.fixture
async def bridged(images: Path) -> AsyncIterator[Runtime]:
    """A client of a runtime that is a process with a network namespace of its own."""
    store = ImageStore(images)
    with tempfile.TemporaryDirectory(prefix="sampan-cycles-") as directory:
        base = Path(directory)
        (base / "idle.wasm").write_bytes(SMALLEST)
        store.load(base / "idle.wasm", "example.org/idle:1")
        runtime = Runtime(base, images)
        arguments = [str(base), str(images), runtime.config.instance, "10.99.0.0/24"]
        process = subprocess.Popen(
            ["unshare", "--net", sys.executable, str(PROGRAM), *arguments],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(PROGRAM.parents[2])},
        )
        assert process.stdout is not None
        try:
            assert await asyncio.to_thread(process.stdout.readline) == b"ready\n"
            yield runtime
        finally:
            await runtime.clean()
            await runtime.client.close()
            process.terminate()
            process.wait()
            netns.delete_all(f"{runtime.config.instance}-")  # those that waited for a pod
            process.stdout.close()


def members(runtime: Runtime) -> dict[int, str]:
    """Processes of the runtime and of its pods, by what they were started with or the cgroup that they live in."""
    directory, instance = str(runtime.base), f"/{runtime.config.instance}/"
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if entry.name.isdecimal() and (
                directory in command or instance in (entry / "cgroup").read_text()
            ):
                found[int(entry.name)] = command
        except OSError:
            continue
    return found


def counts(runtime: Runtime) -> dict[str, int]:
    found = collections.Counter[str]()
    for pid, command in members(runtime).items():
        found[f"processes {command}"] += 1
        found[f"descriptors of {command}"] += len(os.listdir(f"/proc/{pid}/fd"))
        found[f"threads of {command}"] += len(os.listdir(f"/proc/{pid}/task"))
    instance = runtime.config.instance
    found["namespaces"] = sum(path.name.startswith(instance) for path in netns.DIRECTORY.iterdir())
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found["mounts"] = sum(str(runtime.base) in line or instance in line for line in mounts)
    for base, directories, files in os.walk("/sys/fs/cgroup"):
        if f"/{instance}" in base:
            found["cgroups"] += 1
        elif base.count("/") > 5:
            directories.clear()
        files.clear()
    for name in ("state", "run", "network"):
        for _, directories, files in os.walk(runtime.base / name):
            found[f"files in {name}"] += len(directories) + len(files)
    return dict(found)


def memory(runtime: Runtime) -> dict[str, int]:
    """KiB that only the process has."""
    found = {}
    for pid, command in members(runtime).items():
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        private = (line for line in lines if line.startswith(("Private", "Swap:")))
        found[f"{pid} {command}"] = sum(int(line.split()[1]) for line in private)
    return found


def increase(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    less = {name: number - before.get(name, 0) for name, number in after.items()}
    return {name: number for name, number in less.items() if number > slack(name)}


def slack(name: str) -> int:
    """asyncio's pool of threads fills up to its bound; everything else is to be as it was."""
    return POOL if name.startswith("threads") else 0


async def cycle(runtime: Runtime, kind: str) -> None:
    """One pod's life as kubelet walks through it, its logs' directory included."""
    pod = await runtime.pod(kind)
    fields = IDLE if kind == "wasm" else {"image": {"image": NAME}}
    command = () if kind == "wasm" else ("sleep", "1000")
    container = await runtime.container(pod, *command, **fields)
    log = Path((await runtime.status(container)).log_path)
    await runtime.client.stop_container(container_id=container, timeout=0)
    await runtime.client.stop_pod_sandbox(pod_sandbox_id=pod)
    await runtime.client.remove_container(container_id=container)
    await runtime.client.remove_pod_sandbox(pod_sandbox_id=pod)
    log.unlink()
    log.parent.rmdir()


async def cycles(runtime: Runtime, number: int) -> None:
    for _ in range(number // (len(KINDS) * TOGETHER)):
        for kind in KINDS:
            await asyncio.gather(*(cycle(runtime, kind) for _ in range(TOGETHER)))


async def test_pods_that_come_and_go_leave_nothing(bridged: Runtime) -> None:
    first = max(CYCLES // 5, 8)
    await cycles(bridged, first)
    before, held = counts(bridged), memory(bridged)
    await cycles(bridged, CYCLES - first)
    ending = time.monotonic() + 20  # namespaces are taken down beside the calls
    while more := increase(before, counts(bridged)):
        assert time.monotonic() < ending, more
        await asyncio.sleep(0.05)
    grown = {name: size - held.get(name, 0) for name, size in memory(bridged).items()}
    print(f"{CYCLES} cycles: {before}, KiB grown since {first}: {grown}")
    assert max(grown.values()) < SETTLING + EACH * CYCLES, grown
