"""`kill -9` of the runtime: pods do not notice, and the next runtime knows what happened meanwhile."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from runtime_spawned import Spawned

from sampan.cri import api_pb2 as pb

pytestmark = pytest.mark.root


@pytest.fixture
async def spawned(runtime, images):
    """The fixture's runtime, moved into a process that can be killed; it takes over again at the end."""
    await runtime.stop()
    spawned = Spawned(runtime, images)
    await spawned.start()
    yield spawned
    spawned.kill()
    await runtime.start()


def pid_of(runtime, container: str) -> int:
    return int((runtime.base / "state" / "containers" / container / "container.pid").read_text())


async def gone(pid: int) -> None:
    async with asyncio.timeout(20):
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(descriptor, ended.set)
        await ended.wait()
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)


async def test_running_pods_are_adopted(runtime, spawned):
    pod = await runtime.pod(hostname="ashore")
    ticker = await runtime.container(
        pod, "sh", "-c", "i=0; while :; do echo tick $i; i=$((i+1)); sleep 0.02; done"
    )
    brief = await runtime.container(
        pod, "sh", "-c", "trap 'echo bye; exit 9' TERM; echo up; while :; do sleep 0.05; done"
    )
    created = await runtime.container(pod, "echo", "late", start=False)
    while "up" not in await runtime.log(brief):
        await asyncio.sleep(0)
    pid = pid_of(runtime, ticker)
    spawned.kill()

    os.kill(pid_of(runtime, brief), signal.SIGTERM)
    await gone(pid_of(runtime, brief))
    await spawned.start()

    status = await runtime.client.container_status(container_id=ticker, verbose=True, wait=True)
    assert status.status.state == pb.CONTAINER_RUNNING
    assert int(status.info["pid"]) == pid
    ended = await runtime.ended(brief)
    assert (ended.state, ended.exit_code, ended.reason) == (pb.CONTAINER_EXITED, 9, "Error")
    assert (await runtime.log(brief)).endswith("bye")
    assert (await runtime.exec(ticker, "hostname")).stdout == b"ashore\n"

    numbers = [int(line.split()[1]) for line in (await runtime.log(ticker)).splitlines()]
    assert numbers == list(range(len(numbers)))
    await runtime.client.start_container(container_id=created)
    assert (await runtime.ended(created)).exit_code == 0
    await runtime.client.stop_container(container_id=ticker, timeout=0)
    assert (await runtime.status(ticker)).exit_code == 137


async def test_what_was_half_made_is_removed(runtime, spawned):
    pod = await runtime.pod()
    container = await runtime.container(pod, "sleep", "1000")
    pid = pid_of(runtime, container)
    spawned.kill()
    state = runtime.base / "state"
    shutil.rmtree(state / "sandboxes" / pod)
    (state / "containers" / ("f" * 64)).mkdir()

    await spawned.start()
    assert not (await runtime.client.list_pod_sandbox(wait=True)).items
    assert not (await runtime.client.list_containers()).containers
    await gone(pid)
    assert list((state / "containers").iterdir()) == []
    assert str(runtime.base) not in Path("/proc/mounts").read_text()
    assert not list(Path("/sys/fs/cgroup").glob(f"*/{runtime.config.instance}/{pod}"))


async def test_a_start_that_was_not_written_down_is_found(runtime, spawned):
    pod = await runtime.pod()
    container = await runtime.container(pod, "sleep", "1000")
    spawned.kill()
    directory = runtime.base / "state" / "containers" / container
    (directory / "process.json").unlink()
    record = (directory / "container.json").read_text()
    head, _, tail = record.partition('"started_at": ')
    (directory / "container.json").write_text(f'{head}"started_at": 0{tail[tail.index(",") :]}')

    await spawned.start()
    assert (await runtime.client.list_pod_sandbox(wait=True)).items
    assert (await runtime.status(container)).state == pb.CONTAINER_RUNNING
    assert (await runtime.exec(container, "echo", "here")).stdout == b"here\n"


async def test_after_a_reboot_pods_are_not_ready(runtime, spawned):
    pod = await runtime.pod()
    container = await runtime.container(pod, "sleep", "1000")
    spawned.kill()
    # A reboot: no process, no mount, no /run.
    os.kill(pid_of(runtime, container), signal.SIGKILL)
    await gone(int((runtime.base / "state/containers" / container / "conmon.pid").read_text()))
    for line in Path("/proc/mounts").read_text().splitlines():
        if str(runtime.base) in line:
            subprocess.run(["umount", line.split()[1]], check=True)
    shutil.rmtree(runtime.base / "run")
    (runtime.base / "state" / "containers" / container / "exit" / container).unlink()

    await spawned.start()
    (item,) = (await runtime.client.list_pod_sandbox(wait=True)).items
    assert item.state == pb.SANDBOX_NOTREADY
    assert (await runtime.status(container)).state == pb.CONTAINER_EXITED
