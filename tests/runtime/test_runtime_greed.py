"""A container that looks into others' processes, digs too deep, or takes all the memory: it gets nothing, and nobody else notices."""

from __future__ import annotations

import platform
import struct
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from runtime_fixture import Runtime
from runtime_kinds import either
from test_runtime_container import RUNTIME_DEFAULT

from sampan.cri import api_pb2 as pb
from sampan.runtime.container import elf

pytestmark = pytest.mark.root

PTRACE, PTRACE_SEIZE = 101, 0x4206
EPERM, ESRCH = 1, 3


def seize(pid: int) -> bytes:
    """A program that asks the kernel to let it trace `pid`; its exit code is the errno, 0 when it may."""
    return elf.executable(
        62,
        b"\xb8" + struct.pack("<I", PTRACE)  # mov eax, ptrace
        + b"\xbf" + struct.pack("<I", PTRACE_SEIZE)  # mov edi, PTRACE_SEIZE
        + b"\xbe" + struct.pack("<I", pid)  # mov esi, pid
        + b"\x31\xd2\x4d\x31\xd2"  # xor edx, edx; xor r10, r10
        b"\x0f\x05"  # syscall
        b"\xf7\xd8\x89\xc7"  # neg eax; mov edi, eax
        b"\xb8\x3c\x00\x00\x00\x0f\x05",  # mov eax, 60 (exit); syscall
    )  # fmt: skip


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    """A process of root's on the host, as any daemon."""
    process = subprocess.Popen(["sleep", "4242"])
    yield process
    process.kill()
    process.wait()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the program is machine code of x86-64")
async def test_nobody_elses_process_is_traced(
    runtime: Runtime, tmp_path: Path, victim: subprocess.Popen[bytes]
) -> None:
    """Neither by a number of the host's, nor of another container's, nor where the pod sees the host's processes."""
    pod = await runtime.pod()
    neighbour = await runtime.container(pod, "sleep", "1000", linux=RUNTIME_DEFAULT)
    state = runtime.base / "state" / "containers" / neighbour / "container.pid"
    targets = {"host": victim.pid, "neighbour": int(state.read_text()), "init": 1, "child": 2}
    tmp_path.chmod(0o755)
    for name, pid in targets.items():
        path = tmp_path / name
        path.write_bytes(seize(pid))
        path.chmod(0o755)
    mounts = [{"host_path": str(tmp_path), "container_path": "/try", "readonly": True}]
    # Process 2 is its own child: what it may trace anywhere, so that the attempts are real ones.
    script = "sleep 1000 & sleep 1000 & wait"
    own = await runtime.container(pod, "sh", "-c", script, linux=RUNTIME_DEFAULT, mounts=mounts)
    while b"sleep" not in (await runtime.exec(own, "cat", "/proc/2/cmdline")).stdout:
        continue
    assert (await runtime.exec(own, "/try/child")).exit_code == 0
    for name in ("host", "neighbour"):
        assert (await runtime.exec(own, f"/try/{name}")).exit_code == ESRCH, name
    context = dict(RUNTIME_DEFAULT["security_context"])
    seeing = await runtime.pod(
        linux={"security_context": {"namespace_options": {"pid": pb.NODE}}},
    )
    context["namespace_options"] = {"pid": pb.NODE}
    prying = await runtime.container(
        seeing, "sleep", "1000", linux={"security_context": context}, mounts=mounts
    )
    seen = await runtime.exec(prying, "cat", f"/proc/{victim.pid}/cmdline")
    assert seen.stdout == b"sleep\x004242\x00"
    for name in ("host", "init"):
        assert (await runtime.exec(prying, f"/try/{name}")).exit_code == EPERM, name
    reach = f"cat /proc/{victim.pid}/mem /proc/{victim.pid}/environ; ls /proc/{victim.pid}/root/"
    assert (await runtime.exec(prying, "sh", "-c", reach)).stdout == b""
    assert victim.poll() is None


@pytest.fixture
async def in_memory(images: Path) -> AsyncIterator[Runtime]:
    """A runtime whose writable layers are in memory: a thousand directories take a disk seconds."""
    with tempfile.TemporaryDirectory(prefix="sampan-runtime-", dir="/dev/shm") as directory:
        runtime = Runtime(Path(directory), images)
        await runtime.start()
        try:
            yield runtime
        finally:
            await runtime.clean()
            await runtime.stop()
            await runtime.client.close()


async def test_directories_without_end(in_memory: Runtime) -> None:
    """Deeper than Python recurses: they cost nobody his figures, and go with the container."""
    runtime = in_memory
    pod, other = await runtime.pod(), await runtime.pod()
    script = "p=$(printf 'd/%.0s' $(seq 1100)); mkdir -p $p; cd $p; head -c 1m /dev/zero >f; echo dug; exec sleep 1000"
    digger = await runtime.container(pod, "sh", "-c", script)
    beside = await runtime.container(other, "sleep", "1000")
    while "dug" not in await runtime.log(digger):
        continue
    figures = (await runtime.client.list_container_stats()).stats
    written = {item.attributes.id: item.writable_layer.used_bytes.value for item in figures}
    assert written[digger] >= 1 << 20 and beside in written
    await runtime.client.stop_container(container_id=digger, timeout=0)
    await runtime.client.remove_container(container_id=digger)
    left = [path.name for path in (runtime.base / "state" / "containers").iterdir()]
    assert left == [beside]


@either
async def test_who_takes_all_the_memory_ends_alone(runtime: Runtime) -> None:
    """Not even by children that do the taking, or by files in memory; the container beside it goes on."""
    pod = await runtime.pod()
    limits = {"resources": {"memory_limit_in_bytes": 24 << 20}}
    beside = await runtime.container(pod, "sleep", "1000", linux=limits)
    take = "dd if=/dev/zero of=/dev/null bs=200M count=1"
    attempts = (
        f"{take} & {take} & wait; exit 1",
        "for i in 1 2 3; do dd if=/dev/zero of=/dev/shm/$i bs=1M count=60; done; exit 1",
    )
    for attempt in attempts:
        greedy = await runtime.container(pod, "sh", "-c", attempt, linux=limits)
        status = await runtime.ended(greedy)
        assert (status.exit_code in (1, 137), status.reason) == (True, "OOMKilled"), attempt
    assert (await runtime.exec(beside, "echo", "well")).stdout == b"well\n"
