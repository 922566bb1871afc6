"""The runtime is killed at any instruction between and within CRI calls: the next one finishes or undoes what it began.

A pod's whole life is walked through again and again, each time with a SIGKILL at another call of a Python function. What the
next runtime finds must be consistent, must be removable, and nothing may be left of it then: no mount, namespace, cgroup,
process or file.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from runtime_spawned import Spawned

from sampan.cri import api_pb2 as pb
from sampan.cri.errors import CRIError
from sampan.image.store import ImageStore
from sampan.runtime import kernel
from sampan.runtime.wasm.kind import SMALLEST

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]
ROUNDS = int(os.environ.get("SAMPAN_KILL_POINTS", "12"))
GONE = 20.0
IDLE = {"annotations": {"sampan.dev/http": "wagi"}, "image": {"image": "example.org/idle:1"}}
ZYGOTE = ("itself", "a worker that waits for the next container")


async def start(runtime: Any, pod: str, kind: str, name: str, attempt: int = 0) -> str:
    """A container that goes on."""
    fields = {"metadata": {"name": name, "attempt": attempt}}
    if kind == "wasm":
        return str(await runtime.container(pod, **fields, **IDLE))
    return str(await runtime.container(pod, "sleep", "1000", **fields))


async def life_of_a_pod(runtime: Any, kind: str) -> None:
    pod = await runtime.pod(kind)
    container = await start(runtime, pod, kind, "once")
    if kind == "container":  # a wasm pod without a cgroup has nothing that could change
        await runtime.client.update_container_resources(
            container_id=container, linux={"cpu_shares": 200}
        )
    await runtime.client.stop_container(container_id=container, timeout=0)
    second = await start(runtime, pod, kind, "again", 1)
    await runtime.client.remove_container(container_id=container)
    await runtime.client.stop_pod_sandbox(pod_sandbox_id=pod)
    assert (await runtime.status(second)).state == pb.CONTAINER_EXITED
    await runtime.client.remove_pod_sandbox(pod_sandbox_id=pod)


async def written(path: Path) -> int:
    async with asyncio.timeout(GONE):
        while not path.exists():
            await asyncio.sleep(0.01)
    return int(path.read_text())


async def check(runtime: Any, kind: str) -> None:
    """Everything that the runtime shows is whole."""
    pods = {item.id: item for item in (await runtime.client.list_pod_sandbox(wait=True)).items}
    for item in (await runtime.client.list_containers()).containers:
        assert item.pod_sandbox_id in pods
        status = await runtime.status(item.id)
        assert status.state == item.state
        if status.state == pb.CONTAINER_RUNNING:
            assert pods[item.pod_sandbox_id].state == pb.SANDBOX_READY
            await alive(runtime, item.id, kind)
        if status.state == pb.CONTAINER_EXITED:
            assert status.finished_at
    for identifier, item in pods.items():
        if item.state == pb.SANDBOX_READY:
            await runs_another(runtime, identifier, kind)


async def runs_another(runtime: Any, pod: str, kind: str) -> None:
    if kind == "wasm":  # a second service would want the port of the first
        late = await runtime.container(pod, image=IDLE["image"])
        assert (await runtime.ended(late)).exit_code == 0
    else:
        late = await start(runtime, pod, kind, "late")
        assert (await runtime.status(late)).state == pb.CONTAINER_RUNNING


async def alive(runtime: Any, container: str, kind: str) -> None:
    if kind == "container":
        assert (await runtime.exec(container, "echo", "alive")).stdout == b"alive\n"
        return
    pid = (await runtime.client.container_status(container_id=container, verbose=True)).info["pid"]
    assert kernel.start_ticks(int(pid))


async def nothing_is_left(runtime: Any) -> None:
    async with asyncio.timeout(GONE):
        while kernel.named(f"{runtime.base}/state/containers"):
            await asyncio.sleep(0.01)  # conmon is on its way out
    assert str(runtime.base) not in Path("/proc/mounts").read_text()
    assert list(Path("/sys/fs/cgroup").glob(f"*/{runtime.config.instance}*")) == []
    for name in ("containers", "sandboxes"):
        assert list((runtime.base / "state" / name).iterdir()) == []
    pods = runtime.base / "run" / "container" / "pods"
    assert not pods.is_dir() or list(pods.iterdir()) == []
    assert list((runtime.base / "run").rglob(f"wasm/{24 * '?'}.sock")) == []
    async with asyncio.timeout(GONE):
        while len(kernel.named(f"{runtime.base}/run/wasm")) > len(ZYGOTE):
            await asyncio.sleep(0.01)
    assert await runtime.config.network.owners() == []


@pytest.mark.parametrize(
    ("kind", "rounds"), [("container", ROUNDS * 2 // 3), ("wasm", ROUNDS // 3)]
)
async def test_killed_anywhere(runtime: Any, images: Path, kind: str, rounds: int) -> None:
    (runtime.base / "idle.wasm").write_bytes(SMALLEST)
    ImageStore(images).load(runtime.base / "idle.wasm", IDLE["image"]["image"])
    await runtime.stop()
    spawned = Spawned(runtime, images, kind)
    await spawned.start()
    try:
        (runtime.base / "kill-at").write_text("0")
        await runtime.client.version(wait=True)
        await life_of_a_pod(runtime, kind)  # the first compiles, and starts what outlives a runtime
        spawned.kill()
        await spawned.start()
        await runtime.client.version(wait=True)
        spawned.process.send_signal(signal.SIGUSR1)
        await life_of_a_pod(runtime, kind)
        spawned.process.send_signal(signal.SIGUSR2)
        calls = await written(runtime.base / "calls")
        assert calls > 1000
        chance = random.Random(20261121)
        killed = 0
        for number in range(rounds):
            # Spread over the whole life, one in each part of it.
            at = int(calls * (number + chance.random()) / rounds)
            (runtime.base / "kill-at").write_text(str(max(1, at)))
            spawned.process.send_signal(signal.SIGUSR1)
            try:
                await life_of_a_pod(runtime, kind)
            except CRIError:
                await asyncio.to_thread(spawned.process.wait)
                killed += 1
            spawned.kill()
            await spawned.start()
            try:
                await check(runtime, kind)
                await runtime.clean()
                await nothing_is_left(runtime)
            except (AssertionError, CRIError) as error:
                raise AssertionError(f"killed at call {at} of {calls}: {error}") from error
        assert killed > rounds * 0.5
    finally:
        spawned.kill()
        await runtime.start()
