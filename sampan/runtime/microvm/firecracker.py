"""Firecracker by its HTTP API, https://github.com/firecracker-microvm/firecracker (src/firecracker/swagger).

It needs KVM and a binary of the user's. Tested against what the program itself has answered (tools/vmm_record.py) and its
published API; a guest was never seen to run in it: docs/sandboxes.md says so. What differs from QEMU: the agent is reached by vsock, memory and state of a snapshot are files
that Firecracker writes itself, and a drive is swapped by naming another file.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from sampan.runtime.microvm import attendant, httpvmm, wiring
from sampan.runtime.microvm.errors import VMMError
from sampan.runtime.microvm.httpvmm import HTTPMachine
from sampan.runtime.microvm.vmm import PLACEHOLDER, SLOTS, MachineSpec
from sampan.runtime.sandbox import Support

PROGRAM = "firecracker"
INSTALL = "see https://github.com/firecracker-microvm/firecracker/releases"
GUEST_CID = 3  # the same in all: each has a vsock of its own
INTERFACE = "eth0"
Call = tuple[str, str, dict[str, Any]]  # method, target, body


class Firecracker:
    name = "firecracker"
    accelerator = "kvm"
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
        for slot in range(SLOTS):
            httpvmm.empty_drive(spec.directory / f"drive{slot}", PLACEHOLDER)
        argv = [program, "--api-sock", "control", "--id", spec.name[:32]]
        child = await httpvmm.launch(
            argv, spec.directory, tuple(fd for fd in (spec.ram, spec.state) if fd >= 0)
        )
        machine = FirecrackerMachine(spec.directory, child.pid, child, spec.ram)
        try:
            if spec.state >= 0:
                httpvmm.link_file(spec.state, spec.directory / "state")
            for method, target, body in calls(spec):
                await machine.ask(method, target, body)
        except BaseException:
            await machine.stop()
            raise
        machine.record()
        return machine

    async def adopt(self, directory: Path) -> FirecrackerMachine | None:
        pid = attendant.recorded(directory / attendant.VMM_RECORD)
        return FirecrackerMachine(directory, pid, None, -1) if pid else None


def version(program: str) -> str:
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"Firecracker v([0-9.]+)", done.stdout)
    return f"Firecracker {found[1] if found else 'unknown'}"


def calls(spec: MachineSpec) -> list[Call]:
    """What brings the machine up, in order. Paths are relative to its directory, in which the VMM runs."""
    if spec.state >= 0:
        load = {
            "snapshot_path": "state",
            "mem_backend": {"backend_type": "File", "backend_path": f"/proc/self/fd/{spec.ram}"},
            "resume_vm": True,
        }
        return [("PUT", "/snapshot/load", load)]
    boot = {
        "kernel_image_path": str(spec.kernel),
        "initrd_path": str(spec.initial_files),
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
            "path_on_host": f"drive{slot}",
            "is_root_device": False,
            "is_read_only": True,
        }
        found.append(("PUT", f"/drives/drive{slot}", drive))
    if httpvmm.has_card():
        card = {"iface_id": INTERFACE, "host_dev_name": wiring.TAP}
        found.append(("PUT", f"/network-interfaces/{INTERFACE}", card))
    found.append(("PUT", "/actions", {"action_type": "InstanceStart"}))
    return found


class FirecrackerMachine(HTTPMachine):
    def __init__(
        self, directory: Path, pid: int, child: subprocess.Popen[bytes] | None, ram: int
    ) -> None:
        super().__init__(directory, pid, child)
        self._ram = ram

    async def pause(self) -> None:
        await self.ask("PATCH", "/vm", {"state": "Paused"})

    async def resume(self) -> None:
        await self.ask("PATCH", "/vm", {"state": "Resumed"})

    async def snapshot(self, state: int) -> None:
        await self.pause()
        wanted = {
            "snapshot_type": "Full",
            "snapshot_path": "state",
            "mem_file_path": f"/proc/self/fd/{self._ram}",
        }
        await self.ask("PUT", "/snapshot/create", wanted)
        httpvmm.copy_into(self.directory / "state", state)

    async def attach_drive(self, slot: int, file: int) -> None:
        httpvmm.link_file(file, self.directory / f"image{slot}")
        wanted = {"drive_id": f"drive{slot}", "path_on_host": f"image{slot}"}
        await self.ask("PATCH", f"/drives/drive{slot}", wanted)
