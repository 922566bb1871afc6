"""Pods copied from a template that runs: alike, apart from each other, and none the worse for the template's end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import struct
import time
from pathlib import Path

import jails
import pytest
from micropods import KIND, machine_of, run, until, vmm_of
from runtime_fixture import Runtime

from sampan.runtime.microvm import clones, live
from sampan.runtime.microvm.kind import MicroVMKind

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]
TOGETHER = 8
# rdrand rax; jnc there; push rax; write(1, rsp, 8); exit(0): an emulated processor's numbers are the emulator's.
ASKS_THE_PROCESSOR = bytes.fromhex(
    "480fc7f073fa50b801000000bf010000004889e6ba080000000f05b83c00000031ff0f05"
)


def program(code: bytes) -> bytes:
    """An ELF file of one segment."""
    base, head = 0x400000, 64 + 56
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    elf = ident + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, base + head, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    size = head + len(code)
    return elf + struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 4096) + code


OCTAL = "".join(f"\\{byte:03o}" for byte in program(ASKS_THE_PROCESSOR))
RANDOM = (
    "head -c 32 /dev/urandom | md5sum; cat /proc/sys/kernel/random/uuid /proc/sys/kernel/random/boot_id; "
    f"printf '{OCTAL}' >/asks; chmod 755 /asks; /asks | md5sum"
)


def ready(home: Path) -> list[Path]:
    return list((home / "run" / "microvm").glob(f"{clones.PREFIX}*/{clones.READY}"))


async def until_ready(home: Path) -> None:
    """A live template is made when pods are in use, in the background."""
    ending = time.monotonic() + 60
    while not ready(home):
        assert time.monotonic() < ending, "no live template"
        await asyncio.sleep(0.05)


def live_template(home: Path) -> int:
    (mark,) = ready(home)
    return int(json.loads((mark.parent / "vmm.json").read_bytes())["pid"])


def descriptors(pid: int) -> set[str]:
    """What a process has open that another could disturb."""
    found = {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
    return {link for link in found if link.startswith(("socket:", "pipe:")) or "vmm.log" in link}


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


async def start(runtime: Runtime) -> str:
    pod = await runtime.pod(KIND)
    await runtime.container(pod, "sleep", "1000")
    return pod


async def test_copies_are_apart_from_each_other_and_from_their_template(
    runtime: Runtime, home: Path
) -> None:
    first = await start(runtime)
    await until_ready(home)
    template = live_template(home)
    pods = await asyncio.gather(*(runtime.pod(KIND) for _ in range(TOGETHER)))
    outputs = await asyncio.gather(*(run(runtime, pod, RANDOM) for pod in pods))
    seen = [line for _, text in outputs for line in text.split() if line != "-"]
    assert len(seen) == len(set(seen)) == 4 * TOGETHER, "the same random bytes in two copies"

    machines = [vmm_of(home, pod) for pod in (first, *pods)]
    users, spaces, opened = set(), set(), descriptors(template)
    for pid in machines:
        users.add(jails.check(pid))
        assert jails.status_of(pid)["NSpid"].split()[-1] == "1"
        assert os.getsid(pid) == pid
        found = {os.readlink(f"/proc/{pid}/ns/{name}") for name in jails.NAMESPACES}
        assert not found & spaces and len(found) == len(jails.NAMESPACES)
        spaces |= found
        assert not descriptors(pid) & opened
        opened |= descriptors(pid)
    assert len(users) == len(machines)
    assert jails.check(template, namespaces=("net", "mnt", "ipc", "uts")) not in users
    assert all(threads(pid) >= 4 for pid in machines[1:]), "the threads that an emulator has"
    # What is copied is no further out than what was started.
    for pod, pid in zip((first, pods[-1]), (machines[0], machines[-1]), strict=True):
        assert jails.writable_files(pid) <= {str(machine_of(home, pod) / "vmm.log")}
        reach = [home, runtime.config.socket, machine_of(home, pods[0])]
        assert jails.escapes(pid, jails.check(pid), reach) == []
    assert not os.path.exists(f"/proc/{machines[-1]}/root/proc/self")


async def test_the_end_of_a_copy_and_of_the_template(runtime: Runtime, home: Path) -> None:
    first = await start(runtime)
    await until_ready(home)
    template = live_template(home)
    pods = [await start(runtime) for _ in range(3)]
    os.kill(vmm_of(home, pods[0]), signal.SIGKILL)
    _, text = await run(runtime, pods[1], "echo still here")
    assert text == "still here"
    os.kill(template, signal.SIGKILL)
    _, text = await run(runtime, pods[1], "echo still here")
    assert text == "still here"
    _, text = await run(runtime, await runtime.pod(KIND), "echo from files")
    assert text == "from files"
    await runtime.stop()
    await runtime.start()
    for pod in (first, *pods[1:]):
        _, text = await run(runtime, pod, "echo adopted")
        assert text == "adopted"


async def test_where_copying_does_not_work_the_files_do(
    runtime: Runtime, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = clones.presence.agent_file
    broken = tmp_path / "library"
    broken.write_text("of another machine")
    monkeypatch.setattr(
        "sampan.runtime.microvm.qemu.agent_file",
        lambda name="agent": broken if name == live.LIBRARY else whole(name),
    )
    first = await start(runtime)

    def notes() -> list[Path]:
        return list((home / "state/microvm/templates").glob(f"*/{clones.REFUSED}"))

    await until(notes, "that it does not work is noted")
    (note,) = notes()
    assert "without the library" in note.read_text()
    _, text = await run(runtime, await runtime.pod(KIND), "echo from files")
    assert text == "from files"
    assert not ready(home) and vmm_of(home, first)
    note.unlink()


async def test_a_copy_refuses_what_it_would_share(home: Path, tmp_path: Path) -> None:
    """A descriptor nobody replaces: the library says which, and the template is as it was."""
    kind = MicroVMKind(home / "state" / "microvm", tmp_path, "live")
    driver, template = await kind.template(256, 1)
    made = await clones.quicken(driver, template, tmp_path / "machines", kind._rehearse)
    assert isinstance(made, live.LiveTemplate)
    try:
        numbers = made._numbers
        made._numbers = {name: number for name, number in numbers.items() if name != "tap"}
        with pytest.raises(clones.MicroVMError, match="would share /dev/net/tun"):
            await clones.clone(made.copy, template, tmp_path / "machines")
        made._numbers = numbers
        another = await clones.clone(made.copy, template, tmp_path / "machines")
        await another.stop()
    finally:
        await made.stop()
        await kind.close()
    assert not list(tmp_path.glob("machines/*"))
