"""Firecracker by its HTTP API, https://github.com/firecracker-microvm/firecracker (src/firecracker/swagger).

It needs KVM and a binary of the user's. Tested against what the program itself has answered (tools/vmm_record.py) and its
published API; a guest was never seen to run in it: docs/sandboxes.md says so. What differs from QEMU: the
agent is reached by vsock, memory and state of a snapshot are files that Firecracker writes itself, a drive is swapped by
naming another file, and it is jailed by its own jailer where that lies beside it (`quarters.py`).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from sampan.runtime.microvm import attendant, httpvmm, quarters, wiring
from sampan.runtime.microvm.errors import VMMError
from sampan.runtime.microvm.httpvmm import HTTPMachine
from sampan.runtime.microvm.quarters import Quarters
from sampan.runtime.microvm.vmm import PLACEHOLDER, SLOTS, MachineSpec
from sampan.runtime.sandbox import Support

PROGRAM = "firecracker"
INSTALL = "see https://github.com/firecracker-microvm/firecracker/releases"
GUEST_CID = 3  # the same in all: each has a vsock of its own
INTERFACE = "eth0"
EMPTY = "empty"  # the file of each drive that has none
Call = tuple[str, str, dict[str, Any]]  # method, target, body


class Firecracker:
    name = "firecracker"
    accelerator = "kvm"
    bus = "mmio"
    shares_files = False
    keeps_memory = False  # it would write memory to where the template of all others is
    start_live = None

    def probe(self) -> Support:
        program = shutil.which(PROGRAM)
        if program is None:
            return Support(False, why=f"{PROGRAM} is not on the PATH", install=INSTALL)
        if not os.access("/dev/kvm", os.R_OK | os.W_OK):
            return Support(False, why="Firecracker needs /dev/kvm, which cannot be opened")
        return Support(True, detail=version(program))

    def edition(self) -> str:
        program = shutil.which(PROGRAM)
        if program is None:
            raise VMMError(f"{PROGRAM} is not on the PATH")
        return f"{version(program)} {SLOTS}"

    async def start(self, spec: MachineSpec) -> FirecrackerMachine:
        program = shutil.which(PROGRAM)
        if program is None:
            raise VMMError(f"{PROGRAM} is not on the PATH")
        place = lodging(spec, program)
        files = spec.directory / quarters.FILES
        httpvmm.empty_drive(files / EMPTY, PLACEHOLDER)
        httpvmm.lend_boot_files(spec)
        if spec.state >= 0:
            httpvmm.link_file(spec.state, files / "state")
        child = await httpvmm.launch(spec, place)
        machine = FirecrackerMachine(spec.directory, child.pid, child, place.ram)
        try:
            for method, target, body in calls(spec, place.ram):
                await machine.ask(method, target, body)
        except BaseException:
            await machine.stop()
            raise
        machine.record()
        return machine

    async def adopt(self, directory: Path) -> FirecrackerMachine | None:
        pid = attendant.recorded(directory / attendant.VMM_RECORD)
        return FirecrackerMachine(directory, pid, None, "") if pid else None


def version(program: str) -> str:
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"Firecracker v([0-9.]+)", done.stdout)
    return f"Firecracker {found[1] if found else 'unknown'}"


def lodging(spec: MachineSpec, program: str) -> Quarters:
    """As root its own jailer's jail, where that came with it; else ours."""
    jailer = quarters.beside(program) if spec.uid else None
    if jailer is not None:
        return quarters.of_jailer(spec, jailer, program, ["--api-sock", "control"])
    return quarters.of(spec, program, ["--api-sock", "control", "--id", spec.name[:32]])


def calls(spec: MachineSpec, ram: str) -> list[Call]:
    """What brings the machine up, in order. Paths are relative to the directory in which the VMM runs (`quarters.py`)."""
    if spec.state >= 0:
        load = {
            "snapshot_path": lent("state"),
            "mem_backend": {"backend_type": "File", "backend_path": ram},
            "resume_vm": True,
        }
        return [("PUT", "/snapshot/load", load)]
    boot = {
        "kernel_image_path": lent("kernel"),
        "initrd_path": lent("initial"),
        "boot_args": spec.command_line,
    }
    found: list[Call] = [
        ("PUT", "/machine-config", {"vcpu_count": spec.cpus, "mem_size_mib": spec.memory}),
        ("PUT", "/boot-source", boot),
        ("PUT", "/vsock", {"guest_cid": GUEST_CID, "uds_path": "vsock"}),
    ]
    for slot in range(SLOTS):
        drive = {
            "drive_id": f"drive{slot}",
            "path_on_host": lent(EMPTY),
            "is_root_device": False,
            "is_read_only": True,
        }
        found.append(("PUT", f"/drives/drive{slot}", drive))
    if spec.uid:  # it takes a tap, and that takes root
        card = {"iface_id": INTERFACE, "host_dev_name": wiring.TAP}
        found.append(("PUT", f"/network-interfaces/{INTERFACE}", card))
    found.append(("PUT", "/actions", {"action_type": "InstanceStart"}))
    return found


def lent(name: str) -> str:
    return f"{quarters.FILES}/{name}"


class FirecrackerMachine(HTTPMachine):
    def __init__(
        self, directory: Path, pid: int, child: subprocess.Popen[bytes] | None, ram: str
    ) -> None:
        super().__init__(directory, pid, child)
        self._ram = ram
        self._attached: set[int] = set()

    async def pause(self) -> None:
        await self.ask("PATCH", "/vm", {"state": "Paused"})

    async def resume(self) -> None:
        await self.ask("PATCH", "/vm", {"state": "Resumed"})

    async def snapshot(self, state: int) -> None:
        # A snapshot names the files of its drives, and those that were attached are not there when it is restored.
        for slot in sorted(self._attached):
            await self._swap(slot, EMPTY)
        await self.pause()
        wanted = {
            "snapshot_type": "Full",
            "snapshot_path": "state",
            "mem_file_path": self._ram,
        }
        await self.ask("PUT", "/snapshot/create", wanted)
        httpvmm.copy_into(self.inside / "state", state)

    async def attach_drive(self, slot: int, file: int) -> None:
        httpvmm.link_file(file, self.files / f"image{slot}")
        await self._swap(slot, f"image{slot}")
        self._attached.add(slot)

    async def _swap(self, slot: int, name: str) -> None:
        wanted = {"drive_id": f"drive{slot}", "path_on_host": lent(name)}
        await self.ask("PATCH", f"/drives/drive{slot}", wanted)
