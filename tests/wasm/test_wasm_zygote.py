"""The zygote forks safely: it has one thread, and what it forks imports nothing, for the files are out of reach."""

from __future__ import annotations

import asyncio
import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from wasm_lab import Lab, Mount, artifact, logged

from sampan.cri.streams import Streams
from sampan.image import UnpackedImage
from sampan.runtime.sandbox import ExecRequest
from sampan.runtime.wasm import link
from sampan.runtime.wasm.python import python


@pytest.fixture
def lab(lab_alone: Lab) -> Lab:
    return lab_alone


# An audit hook sees every import that is more than a look into sys.modules, in whatever process; and each worker that
# binds its control socket, which shows that it still looks.
WATCH = """
import os
def watch(event, args, log=os.open({log!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)):
    if event in ("import", "ctypes.dlopen", "socket.bind"):
        os.write(log, f"{{os.getpid()}} {{event}} {{args[0]}}\\n".encode())
sys.addaudithook(watch)
"""


async def test_one_thread_and_no_import_after_the_fork(
    lab: Lab, cli: Path, web: Path, component: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "audit"
    watch = WATCH.format(log=str(log))
    monkeypatch.setattr(link, "python", lambda code: python(f"exec({watch!r}); {code}"))
    layer, volume = tmp_path / "layer", tmp_path / "volume"
    for directory in (layer, volume):
        directory.mkdir()
        directory.chmod(0o755)
    (layer / "app.wasm").write_bytes(cli.read_bytes())
    tree = UnpackedImage("sha256:x", "app:1", "wasip1", "wasm", (layer,), (), {})
    mounts = (Mount(volume, "/data", readonly=True),)

    sleeper, process = await lab.run(artifact(cli, web), "cli.wasm", "sleep", "1000")
    await logged(process, "sleeping")
    zygote = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[1])
    request = ExecRequest(("cli.wasm", "exit", "3"))
    assert await sleeper.exec(process.spec.id, request, Streams()) == 3
    for image, args, changes in (
        (artifact(cli), ("cli.wasm", "trap"), {}),
        (artifact(cli), ("cli.wasm", "args"), {"mounts": mounts}),
        (artifact(component), ("component.wasm",), {}),
        (tree, ("/app.wasm", "read", "/nothing"), {"mounts": mounts}),
    ):
        _, process = await lab.run(image, *args, **changes)
        await process.wait()
    served = artifact(web, labels={"sampan.dev/http": "wagi"})
    sandbox, process = await lab.run(served, "web.wasm", mounts=mounts)
    reader, writer = await sandbox.port(8080)
    for path in ("/", "/trap", "/headless", "/stderr"):
        writer.write(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    assert (await reader.read()).count(b"HTTP/1.1 ") == 5
    writer.close()
    await sandbox.stop(5)

    assert len(os.listdir(f"/proc/{zygote}/task")) == 1
    seen = [line.split(" ", 2) for line in log.read_text().splitlines()]
    own = {event for pid, event, _ in seen if int(pid) == zygote}
    assert own == {"import", "ctypes.dlopen"}
    after = [(int(pid), event) for pid, event, _ in seen if int(pid) != zygote]
    assert len({pid for pid, _ in after}) == 6, "the hook saw each worker but that of the exec"
    assert {event for _, event in after} == {"socket.bind"}


async def test_a_start_takes_the_spare_and_leaves_another(lab: Lab, cli: Path) -> None:
    workers: list[int] = []

    async def start() -> int:
        _, process = await lab.run(artifact(cli), "cli.wasm", "sleep", "1000")
        workers.append(process.pid)
        return process.pid

    async def spare() -> int:
        """It is forked after the answer to the start that took the last one."""
        async with asyncio.timeout(10):
            while True:
                text = Path(f"/proc/{zygote}/task/{zygote}/children").read_text()
                found = {int(pid) for pid in text.split()} - {*workers}
                if found:
                    return found.pop()
                await asyncio.sleep(0)

    zygote = int(Path(f"/proc/{await start()}/stat").read_text().rpartition(")")[2].split()[1])
    expected = await spare()
    assert await start() == expected
    dead = await spare()
    with ending(dead):
        os.kill(dead, signal.SIGKILL)
    workers.append(dead)
    assert await start() != dead, "a spare that died is not missed"
    with ending(await spare()):
        os.kill(zygote, signal.SIGKILL)


@contextmanager
def ending(pid: int) -> Iterator[None]:
    """By the end of this the process has ended."""
    descriptor = os.pidfd_open(pid)
    try:
        yield
        assert select.select([descriptor], [], [], 10)[0]
    finally:
        os.close(descriptor)
