"""A busy service becomes several processes, which share its connections and end with it; an idle one is one again."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from wasm_lab import Lab, artifact, logged, workers_of
from wasm_service import Service

from sampan.runtime.sandbox import Resources
from sampan.runtime.wasm.modules import Service as Served
from sampan.runtime.wasm.modules import processes

TWO = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")
# A guest that holds its thread, but not so long that another takes over: the service is busy, the machine is not.
REQUEST = b"GET /sleep?3 HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.fixture
def lab(lab_alone: Lab) -> Lab:
    return lab_alone


async def serve(lab: Lab, web: Path, annotations: dict[str, str], **changes: object) -> Service:
    sandbox = await lab.pod(annotations=annotations)
    image = artifact(web, labels={"sampan.dev/http": "wagi"})
    process = await sandbox.start(lab.container("web.wasm", **changes), image)
    return Service(sandbox.spec.network.addresses[0], process)


class Load:
    """Clients that each keep a connection and ask without a pause."""

    def __init__(self, service: Service, clients: int) -> None:
        self.service, self.clients = service, clients
        self.answers: list[int] = [0] * clients

    async def client(self, number: int) -> None:
        reader, writer = await asyncio.open_connection(self.service.address, 8080)
        try:
            while True:
                writer.write(REQUEST)
                assert (await reader.readuntil(b"slept\n")).startswith(b"HTTP/1.1 200")
                self.answers[number] += 1
        finally:
            writer.close()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self.tasks = [asyncio.create_task(self.client(number)) for number in range(self.clients)]
        try:
            yield
            for task in self.tasks:
                assert not task.done(), task.exception()
        finally:
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)

    async def until(self, reached: object) -> None:
        async with asyncio.timeout(20):
            while not reached():
                before = sum(self.answers)
                while sum(self.answers) < before + 20:
                    await asyncio.sleep(0)


async def ended(pid: int) -> None:
    """Wait for the end of a process."""
    loop, gone = asyncio.get_running_loop(), asyncio.Event()
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            loop.add_reader(descriptor, gone.set)
            async with asyncio.timeout(20):
                await gone.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)


@TWO
async def test_a_busy_service_takes_another_core_and_gives_it_back(lab: Lab, web: Path) -> None:
    service = await serve(lab, web, {})
    load = Load(service, 6)
    async with load.running():
        await load.until(lambda: len(workers_of(service.process.pid)) == 2)
        [other] = workers_of(service.process.pid) - {service.process.pid}
        # Descriptors of a process that is not dumpable are root's to see; its connections are counted by answers else.
        if os.geteuid() == 0:
            await load.until(lambda: connections(other) >= 2)
        before = list(load.answers)
        await load.until(
            lambda: all(now > then for now, then in zip(load.answers, before, strict=True))
        )
    assert (await service.get("/stderr"))[0] == 200
    await logged(service.process, "a complaint")
    first = {service.process.pid}
    while others := workers_of(service.process.pid) - first:  # idle: one is enough
        await ended(others.pop())
    assert service.process.running
    assert (await service.get("/"))[0] == 200


def connections(pid: int) -> int:
    found = 0
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            found += os.readlink(entry.path).startswith("socket:")
    return found - 2  # listener and line


@TWO
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_the_others_end_with_the_first(lab: Lab, web: Path, number: signal.Signals) -> None:
    service = await serve(lab, web, {})
    load = Load(service, 4)
    async with load.running():
        await load.until(lambda: len(workers_of(service.process.pid)) == 2)
    [other] = workers_of(service.process.pid) - {service.process.pid}
    await service.process.signal(number)
    async with asyncio.timeout(10):
        exit_ = await service.process.wait()
    assert exit_.code == (0 if number == signal.SIGTERM else 137)
    await ended(other)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(service.address, 8080)


@TWO
async def test_another_that_dies_costs_its_requests_only(lab: Lab, web: Path) -> None:
    service = await serve(lab, web, {})
    load = Load(service, 4)
    with pytest.raises((AssertionError, OSError, asyncio.IncompleteReadError)):
        async with load.running():
            await load.until(lambda: len(workers_of(service.process.pid)) == 2)
            [other] = workers_of(service.process.pid) - {service.process.pid}
            if os.geteuid() == 0:
                await load.until(lambda: connections(other) >= 1)
            os.kill(other, signal.SIGKILL)
            await ended(other)
            await load.until(lambda: any(task.done() for task in load.tasks))
    load = Load(service, 4)
    async with load.running():
        await load.until(lambda: len(workers_of(service.process.pid)) == 2)
        assert workers_of(service.process.pid) != {service.process.pid, other}, (
            "another one in its place"
        )


@TWO
@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: cgroups")
async def test_a_changed_cpu_limit_changes_how_many_there_are(lab: Lab, web: Path) -> None:
    one, two = (Resources(cpu_quota=cores * 100_000, cpu_period=100_000) for cores in (1, 2))
    sandbox = await lab.pod(cgroup_parent=f"/sampan-test-{os.getpid()}")
    image = artifact(web, labels={"sampan.dev/http": "wagi"})
    container = lab.container("web.wasm", resources=one)
    process = await sandbox.start(container, image)
    service = Service(sandbox.spec.network.addresses[0], process)
    load = Load(service, 6)
    async with load.running():
        began = sum(load.answers)
        await load.until(lambda: sum(load.answers) > began + 300)  # seconds of work for one
        assert workers_of(process.pid) == {process.pid}
        await sandbox.update(container.id, two)
        await load.until(lambda: len(workers_of(process.pid)) == 2)
        [other] = workers_of(process.pid) - {process.pid}
        await sandbox.update(container.id, one)
        await ended(other)  # and nobody's request is lost
        await load.until(lambda: workers_of(process.pid) == {process.pid})
    await sandbox.stop(0)


def test_how_many_there_may_be() -> None:
    served = Served("wagi", 80, 30, 1000, concurrency=3)
    unlimited = Resources()
    assert processes(served, unlimited, 8) == 3, "no more than requests at once"
    assert processes(served, unlimited, 2) == 2
    assert processes(served, Resources(cpu_quota=50_000, cpu_period=100_000), 8) == 1
    assert processes(served, Resources(cpu_quota=150_000, cpu_period=100_000), 8) == 2
    assert processes(served, Resources(cpu_quota=-1), 2) == 2
