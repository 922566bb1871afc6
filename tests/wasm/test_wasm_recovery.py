"""Crash-only: the runtime, or the zygote, is killed while containers run."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from wasm_lab import Lab, artifact, log_lines, logged, workers_of

from sampan.cri.streams import Streams
from sampan.runtime.sandbox import ExecRequest, SandboxRecord
from sampan.runtime.wasm import exits, link


@pytest.fixture
def lab(lab_alone: Lab) -> Lab:
    return lab_alone


def zygote_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def gone(pid: int) -> None:
    async with asyncio.timeout(10):
        while os.path.exists(f"/proc/{pid}"):
            await asyncio.sleep(0.01)


async def test_a_new_runtime_adopts_what_runs_and_what_ended(lab: Lab, cli: Path) -> None:
    """The old runtime vanishes: `close` does no more than the kernel does for a killed process."""
    sandbox = await lab.pod()
    image = artifact(cli)
    running = lab.container("cli.wasm", "cat", stdin=True)
    killed = lab.container("cli.wasm", "spin")
    ended = lab.container("cli.wasm", "exit", "9")
    processes = [await sandbox.start(container, image) for container in (running, killed, ended)]
    await logged(processes[0], "ready")
    await lab.kind.close()
    zygote = zygote_of(processes[0].pid)
    os.kill(processes[1].pid, signal.SIGKILL)
    await gone(processes[1].pid)

    lab.kind = lab.new_kind()
    record = SandboxRecord(sandbox.spec, "wasm", {c.id: c for c in (running, killed, ended)})
    adopted = await lab.kind.adopt(record)
    assert adopted is not None
    lab.sandboxes.append(adopted)
    found = [await adopted.process(container.id) for container in (running, killed, ended)]
    assert [process.pid for process in found if process] == [process.pid for process in processes]
    assert [process.started_at for process in found if process] == [p.started_at for p in processes]
    alive, dead, over = found
    assert alive is not None and dead is not None and over is not None
    async with asyncio.timeout(10):
        assert (await over.wait()).code == 9
        exit_of_killed = await dead.wait()
    assert (exit_of_killed.code, exit_of_killed.reason) == (137, "Error")
    assert alive.running
    assert await adopted.exec(running.id, ExecRequest(("cli.wasm", "exit", "5")), Streams()) == 5
    assert zygote_of(alive.pid) == zygote, "the zygote was found again"
    await alive.signal(signal.SIGTERM)
    async with asyncio.timeout(10):
        assert (await alive.wait()).code == 143


async def test_workers_outlive_the_zygote(lab: Lab, cli: Path) -> None:
    _, reading = await lab.run(artifact(cli), "cli.wasm", "cat", stdin=True, stdin_once=True)
    _, spinning = await lab.run(artifact(cli), "cli.wasm", "spin")
    await logged(reading, "ready")
    await logged(spinning, "spinning")
    zygote = zygote_of(reading.pid)
    os.kill(zygote, signal.SIGKILL)
    async with asyncio.timeout(20):
        _, other = await lab.run(artifact(cli), "cli.wasm", "exit", "4")
        assert (await other.wait()).code == 4
    assert zygote_of(spinning.pid) != zygote
    reader = asyncio.StreamReader()
    reader.feed_data(b"still here\n")
    reader.feed_eof()

    class Discard:
        def write(self, data: bytes) -> None: ...
        async def drain(self) -> None: ...
        def write_eof(self) -> None: ...

    async with asyncio.timeout(20):
        await reading.attach(Streams(stdin=reader, stdout=Discard()))
        assert (await reading.wait()).code == 0, "it writes its own record"
        assert ("stdout", "F", "got still here") in log_lines(reading)
        await spinning.kill()
        assert (await spinning.wait()).code == 137, "nobody was there to say more"


async def test_sigterm_ends_the_zygote_and_no_worker(lab: Lab, cli: Path) -> None:
    _, process = await lab.run(artifact(cli), "cli.wasm", "sleep", "1000")
    await logged(process, "sleeping")
    zygote = zygote_of(process.pid)
    pidfd = os.pidfd_open(zygote)
    for ignored in (signal.SIGHUP, signal.SIGINT):
        os.kill(zygote, ignored)
    _, other = await lab.run(artifact(cli), "cli.wasm", "exit", "4")
    assert (await other.wait()).code == 4
    assert zygote_of(process.pid) == zygote
    os.kill(zygote, signal.SIGTERM)
    async with asyncio.timeout(10):
        await link.readable(pidfd)
    os.close(pidfd)
    assert process.running
    await process.signal(signal.SIGTERM)
    async with asyncio.timeout(10):
        assert (await process.wait()).code == 143


async def test_the_zygote_goes_with_its_last_worker(lab: Lab, cli: Path) -> None:
    _, process = await lab.run(artifact(cli), "cli.wasm", "sleep", "1000")
    zygote = zygote_of(process.pid)
    await lab.kind.close()
    assert os.path.exists(f"/proc/{zygote}")
    os.kill(process.pid, signal.SIGTERM)
    async with asyncio.timeout(10):
        while (
            Path(f"/proc/{zygote}/stat").exists()
            and " Z " not in Path(f"/proc/{zygote}/stat").read_text()
        ):
            await asyncio.sleep(0.01)


async def test_a_cancelled_start_leaves_no_worker(lab: Lab, cli: Path) -> None:
    sandbox, first = await lab.run(artifact(cli), "cli.wasm", "sleep", "1000")
    for ticks in range(12):
        start = asyncio.create_task(sandbox.start(lab.container("cli.wasm", "spin"), artifact(cli)))
        for _ in range(ticks):
            await asyncio.sleep(0)
        start.cancel()
        try:
            process = await start
        except asyncio.CancelledError:
            continue
        await process.kill()
    async with asyncio.timeout(10):
        while workers_of(first.pid) != {first.pid}:
            await asyncio.sleep(0.01)


async def test_a_pid_that_was_used_again_is_not_adopted(lab: Lab, cli: Path) -> None:
    sandbox = await lab.pod()
    container = lab.container("cli.wasm")
    (container.directory / exits.NAME).write_text(f"{os.getpid()} 12345 1000\n")
    record = SandboxRecord(sandbox.spec, "wasm", {container.id: container})
    adopted = await lab.kind.adopt(record)
    assert adopted is not None
    process = await adopted.process(container.id)
    assert process is not None and not process.running
    async with asyncio.timeout(10):
        assert (await process.wait()).code == 137


async def test_two_runtimes_share_one_zygote(lab: Lab, cli: Path) -> None:
    kinds = [lab.new_kind() for _ in range(4)]
    sandboxes = await asyncio.gather(*(kind.create(lab.pod_spec()) for kind in kinds))
    processes = [
        await sandbox.start(lab.container("cli.wasm", "sleep", "1000"), artifact(cli))
        for sandbox in sandboxes
    ]
    assert len({zygote_of(process.pid) for process in processes}) == 1
    for sandbox, kind in zip(sandboxes, kinds, strict=True):
        await sandbox.stop(0)
        await kind.close()
