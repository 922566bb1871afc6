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
from sampan.runtime import kernel

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]
ROUNDS = int(os.environ.get("SAMPAN_KILL_POINTS", "12"))
GONE = 20.0


async def life_of_a_pod(runtime: Any) -> None:
    pod = await runtime.pod()
    container = await runtime.container(pod, "sleep", "1000")
    await runtime.client.update_container_resources(
        container_id=container, linux={"cpu_shares": 200}
    )
    await runtime.client.stop_container(container_id=container, timeout=0)
    second = await runtime.container(pod, "sleep", "2000", metadata={"name": "again", "attempt": 1})
    await runtime.client.remove_container(container_id=container)
    await runtime.client.stop_pod_sandbox(pod_sandbox_id=pod)
    assert (await runtime.status(second)).state == pb.CONTAINER_EXITED
    await runtime.client.remove_pod_sandbox(pod_sandbox_id=pod)


async def written(path: Path) -> int:
    async with asyncio.timeout(GONE):
        while not path.exists():
            await asyncio.sleep(0.01)
    return int(path.read_text())


async def check(runtime: Any) -> None:
    """Everything that the runtime shows is whole."""
    pods = {item.id: item for item in (await runtime.client.list_pod_sandbox(wait=True)).items}
    for item in (await runtime.client.list_containers()).containers:
        assert item.pod_sandbox_id in pods
        status = await runtime.status(item.id)
        assert status.state == item.state
        if status.state == pb.CONTAINER_RUNNING:
            assert pods[item.pod_sandbox_id].state == pb.SANDBOX_READY
            assert (await runtime.exec(item.id, "echo", "alive")).stdout == b"alive\n"
        if status.state == pb.CONTAINER_EXITED:
            assert status.finished_at
    for identifier, item in pods.items():
        if item.state == pb.SANDBOX_READY:
            late = await runtime.container(identifier, "sleep", "3000")
            assert (await runtime.status(late)).state == pb.CONTAINER_RUNNING


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
    assert await runtime.config.network.owners() == []


async def test_killed_anywhere(runtime, images):
    await runtime.stop()
    spawned = Spawned(runtime, images)
    await spawned.start()
    try:
        (runtime.base / "kill-at").write_text("0")
        await runtime.client.version(wait=True)
        spawned.process.send_signal(signal.SIGUSR1)
        await life_of_a_pod(runtime)
        spawned.process.send_signal(signal.SIGUSR2)
        calls = await written(runtime.base / "calls")
        assert calls > 1000
        chance = random.Random(20261121)
        killed = 0
        for number in range(ROUNDS):
            # Spread over the whole life, one in each part of it.
            at = int(calls * (number + chance.random()) / ROUNDS)
            (runtime.base / "kill-at").write_text(str(max(1, at)))
            spawned.process.send_signal(signal.SIGUSR1)
            try:
                await life_of_a_pod(runtime)
            except CRIError:
                await asyncio.to_thread(spawned.process.wait)
                killed += 1
            spawned.kill()
            await spawned.start()
            try:
                await check(runtime)
                await runtime.clean()
                await nothing_is_left(runtime)
            except (AssertionError, CRIError) as error:
                raise AssertionError(f"killed at call {at} of {calls}: {error}") from error
        assert killed > ROUNDS * 0.5
    finally:
        spawned.kill()
        await runtime.start()
