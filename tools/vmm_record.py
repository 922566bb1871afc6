"""Records what Firecracker itself answers to our driver: every request and its answer, the refused ones too.

    tools/vmm_record.py >tests/microvm/exchanges/firecracker-recorded.json

It takes a `firecracker` on the PATH, root, a /dev/kvm that opens and a guest kernel. A guest that runs it does not take: the API
configures, starts, stops, keeps and restores a machine whose processor gets nowhere. Paths of this machine are left out.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from sampan.runtime.microvm import boot, httpvmm, jail, kernels
from sampan.runtime.microvm.errors import VMMError
from sampan.runtime.microvm.firecracker import Firecracker
from sampan.runtime.microvm.vmm import MachineSpec

MEMORY = 128  # MiB
# Asked of a machine that runs, which takes none of these.
REFUSED: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("PUT", "/machine-config", {"vcpu_count": 1, "mem_size_mib": 256}),
    ("PATCH", "/drives/drive9", {"drive_id": "drive9", "path_on_host": "drive0"}),
    ("PATCH", "/drives/drive1", {"drive_id": "drive1", "path_on_host": "nowhere"}),
    ("PUT", "/machine-config", {"vcpus": 1}),
)
exchange = httpvmm.exchange
journal: list[dict[str, Any]] = []


async def recorded(path: Path, method: str, target: str, body: Any) -> tuple[int, bytes]:
    status, answer = await exchange(path, method, target, body)
    told = json.loads(answer) if answer.strip() else None
    journal.append({"call": f"{method} {target}", "body": body, "status": status, "answer": told})
    return status, answer


async def record(place: Path) -> str:
    """The program's edition. What it was asked and has answered is in the journal."""
    httpvmm.exchange = recorded
    driver = Firecracker()
    files = boot.BootFiles(kernels.find(place), boot.agent())
    initial, first, second = place / "initial", place / "template", place / "clone"
    initial.write_bytes(files.initial_files())
    first.mkdir()
    second.mkdir()
    ram = os.memfd_create("ram")
    os.ftruncate(ram, MEMORY << 20)
    state = os.open(place / "state", os.O_RDWR | os.O_CREAT)
    machine = await driver.start(
        MachineSpec(
            "ab" * 32, first, MEMORY, kernel=files.kernel.image, initial_files=initial,
            command_line=boot.command_line("kvm", driver.name), ram=ram, ram_shared=True, uid=jail.uid_of("ab" * 4),
        )
    )  # fmt: skip
    try:
        await machine.snapshot(state)
    finally:
        await machine.stop()
    clone = await driver.start(
        MachineSpec("cd" * 32, second, MEMORY, ram=ram, state=state, uid=jail.uid_of("cd" * 4))
    )
    try:
        await clone.attach_drive(2, os.open(initial, os.O_RDONLY))
        await clone.pause()
        await clone.resume()
        for call in REFUSED:
            with suppress(VMMError):
                await clone.ask(*call)
    finally:
        await clone.stop()
    return driver.edition()


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="vmm-record-") as place:
        program = asyncio.run(record(Path(place)))
        text = json.dumps({"program": program, "exchanges": journal}, indent=1)
        text = re.sub(rf'"[^"]*({re.escape(place)}|/kernels/)[^"]*/', '"/', text)
    sys.stdout.write(re.sub(r"/proc/self/fd/\d+", "/proc/self/fd/N", text) + "\n")


if __name__ == "__main__":
    main()
