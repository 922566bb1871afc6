"""Starting a container: conmon, which starts the engine, which starts the program.

conmon would call `create` and leave `start` to us: a second engine process, 5–10 ms. Its engine here is a line of shell
that calls `run --detach` instead, so when conmon reports the pid, the entry point has been executed; what went wrong
before that is conmon's message.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from sampan.runtime import kernel
from sampan.runtime.container.engine import ENVIRONMENT, Engine, program
from sampan.runtime.container.process import Facts
from sampan.runtime.container.view import Bind
from sampan.runtime.processes import ended, spawn
from sampan.runtime.sandbox import CannotStart, ContainerSpec

LONGEST_LINE = 1 << 16
START_LIMIT = 120.0  # seconds; a start that takes longer hangs on something that will not come


async def launch(
    engine: Engine,
    container: ContainerSpec,
    cgroup: str,
    joined: tuple[Path, ...],
    own_pids: bool,
    binds: Sequence[Bind] = (),
    stage: Path | None = None,
) -> Facts:
    """The bundle (container.directory) holds config.json; the program runs on return. Raises CannotStart.

    `binds` are shown to the engine below `stage`.
    """
    exits = container.directory / "exit"
    exits.mkdir(exist_ok=True)
    async with engine.view(binds, stage) as view:
        # conmon says "create" first, which becomes $0 of the script.
        script = engine.script(view, joined, ("run", "--detach"))
        argv = [
            program("conmon"),
            *("--cid", container.id, "--cuuid", container.id, "--name", container.name),
            *("--bundle", str(container.directory), "--exit-dir", str(exits)),
            *("--runtime", "/bin/sh", "--runtime-arg=-c", f"--runtime-arg={script}"),
            *("--conmon-pidfile", str(container.directory / "conmon.pid")),
            *("--container-pidfile", str(container.directory / "container.pid")),
            "--full-attach",  # the socket is made in the bundle, however long its path is
            *("--log-path", f"k8s-file:{container.log_path}" if container.log_path else "none:"),
            *("--log-level", "error", "--no-sync-log"),
        ]
        if container.tty:
            argv.append("--terminal")
        if container.stdin:
            argv.append("--stdin")
            if not container.stdin_once:
                argv.append("--leave-stdin-open")
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            child = spawn(
                argv,
                env={**ENVIRONMENT, "_OCI_SYNCPIPE": str(writer)},
                cwd=container.directory,
                pass_fds=(writer,),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            os.close(reader)
            raise CannotStart(f"conmon: {error.strerror}") from error
        finally:
            os.close(writer)
        try:
            async with asyncio.timeout(START_LIMIT):
                answer = await first_line(reader)
                await ended(child)
        except TimeoutError:
            raise CannotStart(f"the container did not start within {START_LIMIT:g} s") from None
    pid, message = parse(answer)
    if pid <= 0:
        raise CannotStart(
            f"{engine.name}: {message}" if message else f"{engine.name} did not start it"
        )
    conmon = int((container.directory / "conmon.pid").read_text())
    return Facts(
        pid=pid,
        pid_ticks=kernel.start_ticks(pid),
        conmon=conmon,
        conmon_ticks=kernel.start_ticks(conmon),
        # By the same clock as the exit file's, so that no container ends before it starts.
        started_at=(container.directory / "container.pid").stat().st_mtime_ns,
        cgroup=cgroup,
        own_pids=own_pids,
    )


async def first_line(descriptor: int) -> bytes:
    """conmon keeps the pipe open for as long as it lives, so the line is what counts, not the end. Closes it."""
    loop = asyncio.get_running_loop()
    os.set_blocking(descriptor, False)
    line = bytearray()
    done: asyncio.Future[None] = loop.create_future()

    def readable() -> None:
        data = os.read(descriptor, LONGEST_LINE)
        line.extend(data)
        if (not data or b"\n" in data or len(line) >= LONGEST_LINE) and not done.done():
            done.set_result(None)

    loop.add_reader(descriptor, readable)
    try:
        await done
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    return bytes(line).partition(b"\n")[0]


def parse(answer: bytes) -> tuple[int, str]:
    """conmon's `{"pid": N}` or `{"pid": -1, "message": "…"}`."""
    try:
        report = json.loads(answer)
        return int(report.get("pid", report.get("data", -1))), clean(str(report.get("message", "")))
    except (ValueError, AttributeError):
        return -1, answer.decode(errors="replace").strip()


def clean(message: str) -> str:
    """The engine's error as one line, without its timestamps."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return " ".join(lines)
