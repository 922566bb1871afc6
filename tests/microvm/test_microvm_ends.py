"""Bad ends of pods in machines: guests that panic, hang and fill up, VMMs that are killed, files that are damaged."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from micropods import KIND, run, vmm_of
from runtime_fixture import Runtime

from sampan.cri.errors import CRIError
from sampan.runtime.microvm import boot, kernels
from sampan.runtime.microvm.settings import Settings
from sampan.runtime.microvm.templates import BOOT_LIMIT

pytestmark = pytest.mark.root


async def test_a_guest_that_panics_ends_its_pod_and_says_why(runtime: Runtime) -> None:
    pod = await runtime.pod(KIND)
    other = await runtime.pod(KIND)
    beside = await runtime.container(other, "sleep", "1000")
    container = await runtime.container(
        pod, "sh", "-c", "echo c >/proc/sysrq-trigger; sleep 30",
        linux={"security_context": {"privileged": True}},
    )  # fmt: skip
    status = await runtime.ended(container)
    assert status.exit_code == 137 and "Kernel panic" in status.message, status.message
    with pytest.raises(CRIError, match="not running"):
        await runtime.exec(container, "true")
    assert (await runtime.exec(beside, "echo", "well")).stdout == b"well\n"
    await runtime.client.stop_pod_sandbox(pod_sandbox_id=pod)


async def test_killing_the_vmm_ends_its_pod_and_nothing_else(runtime: Runtime, home: Path) -> None:
    pod, other = await runtime.pod(KIND), await runtime.pod(KIND)
    container = await runtime.container(pod, "sleep", "1000")
    beside = await runtime.container(other, "sleep", "1000")
    os.kill(vmm_of(home, pod), signal.SIGKILL)
    status = await runtime.ended(container)
    assert status.exit_code == 137 and "the microVM has ended" in status.message
    assert (await runtime.exec(beside, "echo", "well")).stdout == b"well\n"


async def test_a_guest_that_hangs_can_be_ended(runtime: Runtime, home: Path) -> None:
    pod = await runtime.pod(KIND)
    container = await runtime.container(pod, "sleep", "1000")
    os.kill(vmm_of(home, pod), signal.SIGSTOP)
    with pytest.raises(CRIError, match="timed out"):
        await runtime.exec(container, "true", timeout=1)
    async with asyncio.timeout(10):
        await runtime.client.stop_pod_sandbox(pod_sandbox_id=pod)
    assert (await runtime.status(container)).exit_code == 137


async def test_pods_that_come_and_go_leave_nothing(runtime: Runtime, home: Path) -> None:
    def held() -> tuple[int, list[str], int]:
        machines = [path.name for path in (home / "run" / "microvm" / "machines").glob("*")]
        tasks = len(asyncio.all_tasks())
        return len(os.listdir("/proc/self/fd")), sorted(machines), tasks

    async def one() -> None:
        pod = await runtime.pod(KIND)
        await run(runtime, pod, "true")
        await runtime.client.remove_pod_sandbox(pod_sandbox_id=pod)

    await runtime.stop()
    settings = home / "state" / "microvm" / "settings.json"
    settings.write_text('{"pool": 0, "live": false}')
    try:
        await runtime.start()
        await one()
        before = held()
        for _ in range(4):
            await one()
        after = held()
    finally:
        settings.unlink()
    assert after[0] <= before[0] + 1 and after[1] == before[1] == [] and after[2] <= before[2] + 1


async def test_a_guest_that_fills_its_memory_or_disk(runtime: Runtime) -> None:
    pod = await runtime.pod(KIND)
    status, text = await run(
        runtime, pod, "cat /dev/zero >/file; echo $?; rm /file; echo on >/file && cat /file"
    )
    assert text.splitlines()[-1] == "on" or status.exit_code == 137
    container = await runtime.container(pod, "sleep", "1000")
    assert (await runtime.exec(container, "echo", "well")).stdout == b"well\n"


async def test_a_damaged_template_is_made_anew(runtime: Runtime, home: Path) -> None:
    pod = await runtime.pod(KIND)
    assert (await run(runtime, pod, "true"))[0].exit_code == 0
    await runtime.clean()
    await runtime.stop()
    records = (home / "state" / "microvm" / "templates").glob("*/template.json")
    # That of the pod, the one that was loaded last: other files' pods have other sizes.
    state = max(records, key=lambda record: record.stat().st_mtime).parent / "state"
    data = bytearray(state.read_bytes())
    data[len(data) // 2] ^= 0xFF
    state.write_bytes(data)
    await runtime.start()
    pod = await runtime.pod(KIND)
    assert (await run(runtime, pod, "echo sound"))[1] == "sound"
    assert state.read_bytes() != bytes(data)


async def test_a_damaged_drive_is_made_anew(runtime: Runtime, home: Path) -> None:
    drives = list((home / "state" / "microvm" / "images").glob("*.erofs"))
    for drive in drives:
        drive.unlink()
        drive.write_bytes(b"nothing")
    pod = await runtime.pod(KIND)
    assert (await run(runtime, pod, "echo sound"))[1] == "sound"
    made = [drive for drive in drives if stat.S_IMODE(drive.stat().st_mode) == 0o444]
    assert len(made) == 1, "that of the pod's image; the others are nobody's here"


@contextlib.asynccontextmanager
async def with_settings(runtime: Runtime, home: Path, **values: str) -> AsyncIterator[None]:
    """A runtime that goes by these settings."""
    await runtime.stop()
    place = home / "state" / "microvm"
    Settings.change(place, **values)
    await runtime.start()
    try:
        yield
    finally:
        await runtime.clean()
        await runtime.stop()
        (place / "settings.json").unlink()
        await runtime.start()


async def test_a_damaged_kernel_is_refused(runtime: Runtime, home: Path, tmp_path: Path) -> None:
    sound = kernels.find(home / "state" / "microvm" / "kernels", check=False)
    damaged = tmp_path / sound.release
    shutil.copytree(sound.directory, damaged)
    image = bytearray((damaged / "vmlinux").read_bytes())
    image[len(image) // 2] ^= 0xFF
    (damaged / "vmlinux").write_bytes(image)
    record = json.loads((damaged / "kernel.json").read_bytes())
    record["digest"] = "another kernel's, so that no template of it is here"
    (damaged / "kernel.json").write_text(json.dumps(record))
    async with with_settings(runtime, home, kernel=str(damaged)):
        with pytest.raises(CRIError, match=f"{sound.release}: the kernel has changed on disk"):
            await runtime.pod(KIND)


async def test_initial_files_that_do_not_start_are_told_at_once(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boot, "agent", lambda: b"\x7fELF and nothing behind it")
    await runtime.stop()
    await runtime.start()
    async with asyncio.timeout(BOOT_LIMIT["tcg"] / 2):
        with pytest.raises(CRIError, match=r"the guest ended while it booted.*Kernel panic"):
            await runtime.pod(KIND)
