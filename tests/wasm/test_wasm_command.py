"""WASI commands as containers: output, exit codes, signals, stdin, volumes, exec."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from wasm_lab import Lab, artifact, log_lines, logged, workers_of

from sampan.cri.streams import Streams
from sampan.image import UnpackedImage
from sampan.runtime.sandbox import (
    CannotStart,
    Device,
    ExecRequest,
    Gone,
    Mount,
    NotSupported,
    Resources,
    SandboxError,
)


class Sink:
    def __init__(self) -> None:
        self.data = b""
        self.grown = asyncio.Event()

    def write(self, data: bytes) -> None:
        self.data += data
        self.grown.set()

    async def drain(self) -> None: ...

    def write_eof(self) -> None: ...

    async def until(self, text: bytes) -> None:
        async with asyncio.timeout(10):
            while text not in self.data:
                self.grown.clear()
                await self.grown.wait()


def source(data: bytes = b"") -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    if data:
        reader.feed_data(data)
        reader.feed_eof()
    return reader


async def test_probe_runs_a_module(lab: Lab) -> None:
    support = await lab.kind.probe()
    assert support.usable, support.why
    assert support.detail.startswith("wasmtime ")


async def test_output_arguments_and_environment(lab: Lab, cli: Path) -> None:
    _, process = await lab.run(artifact(cli), "cli.wasm", "args", "a b", "ü")
    assert (await process.wait()).code == 0
    assert log_lines(process) == [
        ("stdout", "F", text) for text in ("cli.wasm", "args", "a b", "ü")
    ]
    _, process = await lab.run(
        artifact(cli), "cli.wasm", "env", env={"GREETING": "hi", "EMPTY": ""}
    )
    await process.wait()
    texts = {text for _, _, text in log_lines(process)}
    assert {"GREETING=hi", "EMPTY="} <= texts
    assert any(text.startswith("HOSTNAME=pod") for text in texts)
    assert not any(text.startswith("PATH=") for text in texts), "the runtime's environment leaked"


@pytest.mark.parametrize("code", [0, 1, 42, 125])
async def test_exit_code(lab: Lab, cli: Path, code: int) -> None:
    _, process = await lab.run(artifact(cli), "cli.wasm", "exit", str(code))
    ended = await process.wait()
    assert ended.code == code
    assert ended.reason == ("Error" if code else "Completed")
    assert ended.finished_at >= process.started_at
    assert await process.wait() == ended


async def test_streams_are_told_apart(lab: Lab, cli: Path) -> None:
    _, process = await lab.run(artifact(cli), "cli.wasm", "both")
    await process.wait()
    assert sorted(log_lines(process)) == [
        ("stderr", "F", "to stderr"),
        ("stdout", "F", "to stdout"),
    ]


async def test_a_trap_is_134_with_a_backtrace(lab: Lab, cli: Path) -> None:
    _, process = await lab.run(artifact(cli), "cli.wasm", "trap")
    ended = await process.wait()
    assert (ended.code, ended.reason) == (134, "Error")
    assert "unreachable" in ended.message
    lines = log_lines(process)
    assert lines[0] == ("stdout", "F", "before the trap")
    assert any("wasm backtrace" in text for stream, _, text in lines if stream == "stderr")


async def test_long_and_begun_lines(lab: Lab, cli: Path) -> None:
    _, process = await lab.run(artifact(cli), "cli.wasm", "long", "40000")
    await process.wait()
    assert [(tag, len(text)) for _, tag, text in log_lines(process)] == [
        ("P", 16384),
        ("P", 16384),
        ("F", 40000 - 2 * 16384),
    ]
    _, process = await lab.run(artifact(cli), "cli.wasm", "begun")
    await process.wait()
    assert log_lines(process) == [("stdout", "P", "no newline")]


async def test_much_output_arrives_whole_and_in_order(lab: Lab, cli: Path) -> None:
    _, process = await lab.run(artifact(cli), "cli.wasm", "count", "20000")
    assert (await process.wait()).code == 0
    assert [text for _, _, text in log_lines(process)] == [f"line {n}" for n in range(20000)]


@pytest.mark.parametrize("verb", [("spin",), ("sleep", "1000")])
async def test_sigterm_ends_a_guest_whatever_it_does(
    lab: Lab, cli: Path, verb: tuple[str, ...]
) -> None:
    _, process = await lab.run(artifact(cli), "cli.wasm", *verb)
    await logged(process, verb[0])
    await process.signal(signal.SIGTERM)
    async with asyncio.timeout(10):
        assert (await process.wait()).code == 143
    await process.signal(signal.SIGTERM)


async def test_kill_is_137_and_recorded_by_the_zygote(lab: Lab, cli: Path) -> None:
    _, process = await lab.run(artifact(cli), "cli.wasm", "spin")
    await logged(process, "spinning")
    await process.kill()
    async with asyncio.timeout(10):
        ended = await process.wait()
    assert (ended.code, ended.reason) == (137, "Error")
    assert "SIGKILL" in ended.message
    await process.kill()


async def test_a_spinning_guest_does_not_stop_others(lab: Lab, cli: Path) -> None:
    _, spinning = await lab.run(artifact(cli), "cli.wasm", "spin")
    await logged(spinning, "spinning")
    async with asyncio.timeout(20):
        _, other = await lab.run(artifact(cli), "cli.wasm", "exit", "3")
        assert (await other.wait()).code == 3


async def test_stop_leaves_nothing_behind(lab: Lab, cli: Path) -> None:
    sandbox, process = await lab.run(artifact(cli), "cli.wasm", "sleep", "1000")
    sockets = set(os.listdir(lab.kind.run_directory))
    await sandbox.stop(5)
    await sandbox.stop(5)
    assert (await process.wait()).code == 143
    left = set(os.listdir(lab.kind.run_directory))
    assert len(sockets - left) == 1
    assert not any(name.endswith(".sock") and not name.startswith("zygote") for name in left)
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
    with pytest.raises(Gone):
        await sandbox.start(lab.container("cli.wasm"), artifact(cli))


async def test_memory_limit_bounds_the_guest(lab: Lab, cli: Path) -> None:
    got = []
    for limit in (32, 64):
        resources = Resources(memory=limit << 20)
        _, process = await lab.run(artifact(cli), "cli.wasm", "grow", resources=resources)
        assert (await process.wait()).code == 0
        [(_, _, text)] = log_lines(process)
        got.append(int(text.split()[1]))
        assert 1 <= got[-1] <= limit
    assert got[1] > got[0] + 8, "the limit decides"


async def test_component(lab: Lab, component: Path) -> None:
    _, process = await lab.run(artifact(component))
    ended = await process.wait()
    assert ended.code == 0, ended
    assert log_lines(process) == [("stdout", "F", "hello from a component")]


async def test_attach_copies_both_ways(lab: Lab, cli: Path) -> None:
    _, process = await lab.run(artifact(cli), "cli.wasm", "cat", stdin=True, stdin_once=True)
    await logged(process, "ready")
    output, entered = Sink(), source()
    attached = asyncio.create_task(process.attach(Streams(stdin=entered, stdout=output)))
    entered.feed_data(b"one\n")
    await output.until(b"got one")
    entered.feed_data(b"two\n")
    entered.feed_eof()
    async with asyncio.timeout(10):
        await attached
        assert (await process.wait()).code == 0
    assert output.data == b"got one\ngot two\nend of input\n"
    assert [text for _, _, text in log_lines(process)] == [
        "ready",
        "got one",
        "got two",
        "end of input",
    ]
    with pytest.raises(Gone):
        await process.attach(Streams(stdout=output))


async def test_without_stdin_a_guest_reads_its_end(lab: Lab, cli: Path) -> None:
    _, process = await lab.run(artifact(cli), "cli.wasm", "cat")
    async with asyncio.timeout(10):
        assert (await process.wait()).code == 0
    assert [text for _, _, text in log_lines(process)] == ["ready", "end of input"]


async def test_rotation_loses_no_line(lab: Lab, cli: Path) -> None:
    _, process = await lab.run(artifact(cli), "cli.wasm", "cat", stdin=True, stdin_once=True)
    await logged(process, "ready")
    path = process.spec.log_path
    assert path is not None
    rotated = path.with_name("log.1")
    path.rename(rotated)
    await process.reopen_log()
    assert path.exists()
    output = Sink()
    await process.attach(Streams(stdin=source(b"after\n"), stdout=output))
    await process.wait()
    assert "ready" in rotated.read_text()
    assert [text for _, _, text in log_lines(process)] == ["got after", "end of input"]


async def test_volumes(lab: Lab, cli: Path, tmp_path: Path) -> None:
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o777)
    (tmp_path / "in" / "greeting").write_text("hello from a volume\n")
    mounts = (Mount(tmp_path / "in", "/etc/in", readonly=True), Mount(tmp_path / "out", "/out"))

    async def run(*args: str) -> tuple[int, list[str]]:
        _, process = await lab.run(artifact(cli), "cli.wasm", *args, mounts=mounts)
        code = (await process.wait()).code
        return code, [text for _, _, text in log_lines(process)]

    assert await run("read", "/etc/in/greeting") == (0, ["hello from a volume"])
    assert await run("write", "/out/file") == (0, [])
    assert (tmp_path / "out" / "file").read_text() == "written by the guest\n"
    code, lines = await run("write", "/etc/in/file")
    assert code == 1
    assert "cannot write" in lines[0]
    assert (await run("read", "/etc/passwd"))[0] == 1
    assert (await run("read", "/etc/in/../../etc/passwd"))[0] == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="with root single files are mounted")
async def test_a_single_file_is_missed_aloud(
    lab: Lab, cli: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("key.pem", "hosts"):
        (tmp_path / name).write_text("text\n")
    mounts = (Mount(tmp_path / "key.pem", "/key.pem"), Mount(tmp_path / "hosts", "/etc/hosts"))
    _, process = await lab.run(artifact(cli), "cli.wasm", "read", "/key.pem", mounts=mounts)
    assert (await process.wait()).code == 1
    assert "will not see /key.pem: without root" in caplog.text


async def test_image_with_a_file_system(lab: Lab, cli: Path, tmp_path: Path) -> None:
    layer = tmp_path / "layer"
    (layer / "bin").mkdir(parents=True)
    (layer / "bin" / "app.wasm").write_bytes(cli.read_bytes())
    (layer / "data.txt").write_text("in the image\n")
    (layer / "entry").symlink_to("/bin/app.wasm")
    layer.chmod(0o755)
    image = UnpackedImage("sha256:x", "app:1", "wasip1", "wasm", (layer,), (), {})
    _, process = await lab.run(image, "/entry", "read", "/data.txt")
    assert (await process.wait()).code == 0
    assert log_lines(process) == [("stdout", "F", "in the image")]
    _, process = await lab.run(image, "/entry", "write", "/data.txt")
    assert (await process.wait()).code == 1
    assert (layer / "data.txt").read_text() == "in the image\n"
    upper = tmp_path / "upper"
    (upper / "bin").mkdir(parents=True)
    (upper / "bin" / ".wh.app.wasm").touch()
    hidden = UnpackedImage("sha256:y", "app:2", "wasip1", "wasm", (layer, upper), (), {})
    with pytest.raises(CannotStart, match="/entry: no such module in image app:2"):
        await lab.run(hidden, "/entry")


async def test_what_cannot_start_says_why(lab: Lab, tmp_path: Path, cli: Path) -> None:
    broken = tmp_path / "broken.wasm"
    broken.write_bytes(b"\0asm\x01\0\0\0garbage")
    text = tmp_path / "text.wasm"
    text.write_text("#!/bin/sh\n")
    library = tmp_path / "library.wasm"
    library.write_bytes(b"\0asm\x01\0\0\0")
    with pytest.raises(CannotStart, match=r"broken\.wasm"):
        await lab.run(artifact(broken))
    with pytest.raises(CannotStart, match="not a WebAssembly module"):
        await lab.run(artifact(text))
    with pytest.raises(CannotStart, match=r"other\.wasm: no such module"):
        await lab.run(artifact(cli), "other.wasm")
    block = (Device("/dev/null", "/dev/xvda"),)
    with pytest.raises(CannotStart, match=r"/dev/xvda \(volumeDevices.*no devices"):
        await lab.run(artifact(cli), "cli.wasm", "args", devices=block)
    _, process = await lab.run(artifact(library))
    ended = await process.wait()
    assert ended.reason == "ContainerCannotRun"
    assert "_start" in ended.message


async def test_exec_runs_another_module(lab: Lab, cli: Path, web: Path) -> None:
    sandbox, process = await lab.run(
        artifact(web, cli), "web.wasm", env={"PATH_INFO": "/sleep", "QUERY_STRING": "60000"}
    )
    output, errors = Sink(), Sink()
    request = ExecRequest(("cli.wasm", "both"))
    code = await sandbox.exec(process.spec.id, request, Streams(stdout=output, stderr=errors))
    assert (code, output.data, errors.data) == (0, b"to stdout\n", b"to stderr\n")
    code = await sandbox.exec(process.spec.id, ExecRequest(("cli.wasm", "exit", "7")), Streams())
    assert code == 7
    output = Sink()
    streams = Streams(stdin=source(b"line\n"), stdout=output)
    assert await sandbox.exec(process.spec.id, ExecRequest(("cli.wasm", "cat")), streams) == 0
    assert output.data == b"ready\ngot line\nend of input\n"
    with pytest.raises(NotSupported, match="there is no shell in it"):
        await sandbox.exec(process.spec.id, ExecRequest(("/bin/sh",)), Streams())
    with pytest.raises(NotSupported, match=r"none\.wasm"):
        await sandbox.exec(process.spec.id, ExecRequest(("/none.wasm",)), Streams())


async def test_exec_ends_with_its_client(lab: Lab, cli: Path) -> None:
    sandbox, process = await lab.run(artifact(cli), "cli.wasm", "sleep", "1000")
    output = Sink()
    request = ExecRequest(("cli.wasm", "spin"))
    task = asyncio.create_task(sandbox.exec(process.spec.id, request, Streams(stdout=output)))
    await output.until(b"spinning")
    assert workers_of(process.pid) > {process.pid}, "the exec runs beside the container"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(10):
        while workers_of(process.pid) > {process.pid}:
            await asyncio.sleep(0.01)
    limited = ExecRequest(("cli.wasm", "spin"), timeout=0.2)
    assert await sandbox.exec(process.spec.id, limited, Streams()) == 124


async def test_exec_ends_with_its_container(lab: Lab, cli: Path) -> None:
    sandbox, process = await lab.run(artifact(cli), "cli.wasm", "sleep", "1000")
    output = Sink()
    request = ExecRequest(("cli.wasm", "spin"))
    task = asyncio.create_task(sandbox.exec(process.spec.id, request, Streams(stdout=output)))
    await output.until(b"spinning")
    await sandbox.stop(5)
    async with asyncio.timeout(10):
        assert await task == 137


async def test_thirty_pods_at_once(lab: Lab, cli: Path) -> None:
    started = await asyncio.gather(
        *(lab.run(artifact(cli), "cli.wasm", "exit", str(n)) for n in range(30))
    )
    codes = [(await process.wait()).code for _, process in started]
    assert codes == list(range(30))


async def test_stats_count(lab: Lab, cli: Path) -> None:
    sandbox, process = await lab.run(artifact(cli), "cli.wasm", "spin")
    await logged(process, "spinning")
    async with asyncio.timeout(20):
        while not (stats := await sandbox.stats()).cpu_nanoseconds:
            await asyncio.sleep(0.01)
    assert 0 < stats.containers[process.spec.id].memory_bytes < 64 << 20
    assert stats.pids >= 1


async def test_errors_are_the_rooms_own(lab: Lab) -> None:
    sandbox = await lab.pod()
    with pytest.raises(SandboxError):
        await sandbox.exec("0" * 64, ExecRequest(("x.wasm",)), Streams())
    with pytest.raises(SandboxError):
        await sandbox.update("0" * 64, Resources(memory=1))
    assert await sandbox.process("0" * 64) is None
