"""Programs that several workers run are loaded once, by the zygote; what it has for others no worker keeps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from wasm_lab import Lab, artifact, logged

from sampan.runtime.wasm.process import WasmProcess


@pytest.fixture
def lab(lab_alone: Lab) -> Lab:
    return lab_alone


def mapped(pid: int) -> set[str]:
    """Files that the process has in its memory, by name."""
    fields = (line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines())
    return {Path(field[5]).name for field in fields if len(field) > 5}


def programs(pid: int) -> set[str]:
    return {name for name in mapped(pid) if name.endswith(".cwasm")}


async def until(condition: Callable[[], bool]) -> None:
    """The zygote does it after the start was answered, and tells nobody."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


async def test_replicas_share_what_the_zygote_loaded(lab: Lab, cli: Path, web: Path) -> None:
    async def start(module: Path) -> WasmProcess:
        _, process = await lab.run(artifact(module), "cli.wasm", "sleep", "1000")
        await logged(process, "sleeping")
        return process

    served = artifact(web, labels={"sampan.dev/http": "wagi"})
    _, alone = await lab.run(served, "web.wasm")
    zygote = int(Path(f"/proc/{alone.pid}/stat").read_text().rpartition(")")[2].split()[1])
    [other] = programs(alone.pid)
    await until(lambda: programs(zygote) == {other})  # in case that another of it comes
    replicas = [await start(cli)]
    [name] = programs(replicas[0].pid)
    assert name != other, "a worker lets go of what is not its own"
    await until(lambda: programs(zygote) == {name})  # it keeps what came last
    replicas += [await start(cli) for _ in range(3)]
    assert all(programs(replica.pid) == {name} for replica in replicas)
    _, another = await lab.run(served, "web.wasm")
    assert programs(another.pid) == {other}
    await until(lambda: programs(zygote) == {name, other})  # both have several workers
    for sandbox in lab.sandboxes:
        await sandbox.stop(0)
    await until(lambda: not programs(zygote))
    # nor does a spare keep what nobody runs, and no dead process stays
    await until(lambda: not Path(f"/proc/{zygote}/task/{zygote}/children").read_text())


async def test_what_components_need_comes_with_the_first(
    lab: Lab, cli: Path, component: Path
) -> None:
    _, process = await lab.run(artifact(cli), "cli.wasm", "sleep", "1000")
    zygote = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[1])
    assert not any(name.startswith("_ssl.") for name in mapped(zygote))
    _, command = await lab.run(artifact(component), "component.wasm")
    assert (await command.wait()).code == 0
