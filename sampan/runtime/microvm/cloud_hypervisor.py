"""Cloud Hypervisor by its HTTP API, https://github.com/cloud-hypervisor/cloud-hypervisor (vmm/src/api/openapi).

It needs KVM and a binary of the user's. Tested against the definitions of its published API, not against the program:
docs/sandboxes.md says so. What differs from QEMU: the agent is reached by vsock, a snapshot is a directory of three files,
devices are on a PCI bus, and drives are plugged in when they are needed, so that there are no placeholders.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from sampan.runtime.microvm import attendant, httpvmm, quarters, wiring
from sampan.runtime.microvm.errors import BadArtifact, VMMError
from sampan.runtime.microvm.httpvmm import HTTPMachine
from sampan.runtime.microvm.vmm import MachineSpec
from sampan.runtime.sandbox import Support

PROGRAM = "cloud-hypervisor"
INSTALL = "see https://github.com/cloud-hypervisor/cloud-hypervisor/releases"
GUEST_CID = 3
UNPLUG_LIMIT = 5.0  # seconds
API = "/api/v1"
SNAPSHOT = "snapshot"
SOURCE = f"file:///proc/self/cwd/{SNAPSHOT}"  # wherever it works
MEMORY, CONFIG, STATE = "memory-ranges", "config.json", "state.json"


class CloudHypervisor:
    name = "cloud-hypervisor"
    accelerator = "kvm"
    bus = "pci"
    shares_files = False
    keeps_memory = False  # it would write memory to where the template of all others is
    start_live = None

    def probe(self) -> Support:
        program = shutil.which(PROGRAM)
        if program is None:
            return Support(False, why=f"{PROGRAM} is not on the PATH", install=INSTALL)
        if not os.access("/dev/kvm", os.R_OK | os.W_OK):
            return Support(False, why="Cloud Hypervisor needs /dev/kvm, which cannot be opened")
        return Support(True, detail=version(program))

    def edition(self) -> str:
        program = shutil.which(PROGRAM)
        if program is None:
            raise VMMError(f"{PROGRAM} is not on the PATH")
        return version(program)

    async def start(self, spec: MachineSpec) -> CloudHypervisorMachine:
        program = shutil.which(PROGRAM)
        if program is None:
            raise VMMError(f"{PROGRAM} is not on the PATH")
        # A snapshot's memory is a file that it makes itself, and is copied from there.
        room = spec.memory if spec.ram_shared else 0
        place = quarters.of(spec, program, ["--api-socket", "path=control"], room)
        httpvmm.lend_boot_files(spec)
        child = await httpvmm.launch(spec, place)
        machine = CloudHypervisorMachine(spec.directory, child.pid, child, spec.ram)
        try:
            if spec.state >= 0:
                unpack_state(spec.state, machine.inside, place.ram)
                await machine.ask("PUT", f"{API}/vm.restore", {"source_url": SOURCE})
                await machine.resume()
            else:
                await machine.ask("PUT", f"{API}/vm.create", configuration(spec))
                await machine.ask("PUT", f"{API}/vm.boot")
        except BaseException:
            await machine.stop()
            raise
        machine.record()
        return machine

    async def adopt(self, directory: Path) -> CloudHypervisorMachine | None:
        pid = attendant.recorded(directory / attendant.VMM_RECORD)
        return CloudHypervisorMachine(directory, pid, None, -1) if pid else None


def version(program: str) -> str:
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"v([0-9.]+)", done.stdout)
    return f"Cloud Hypervisor {found[1] if found else 'unknown'}"


def configuration(spec: MachineSpec) -> dict[str, Any]:
    """VmConfig."""
    found: dict[str, Any] = {
        "cpus": {"boot_vcpus": spec.cpus, "max_vcpus": spec.cpus},
        "memory": {"size": spec.memory << 20},
        "payload": {
            "kernel": f"{quarters.FILES}/kernel",
            "initramfs": f"{quarters.FILES}/initial",
            "cmdline": spec.command_line,
        },
        "rng": {"src": "/dev/urandom"},
        "serial": {"mode": "File", "file": "console"},
        "console": {"mode": "Off"},
        "vsock": {"cid": GUEST_CID, "socket": "vsock"},
    }
    if spec.uid:  # it takes a tap, and that takes root
        found["net"] = [{"id": "net", "tap": wiring.TAP, "num_queues": 2}]
    return found


def pack_state(directory: Path) -> bytes:
    """Configuration and device state as one; memory goes its own way."""
    parts = {name: (directory / name).read_text() for name in (CONFIG, STATE)}
    return json.dumps(parts).encode()


def unpack_state(state: int, directory: Path, ram: str) -> None:
    """The three files of a snapshot, memory as a link to the template's. Raises BadArtifact."""
    place = directory / SNAPSHOT
    place.mkdir(exist_ok=True)
    try:
        parts = json.loads(os.pread(state, os.fstat(state).st_size, 0))
        for name in (CONFIG, STATE):
            (place / name).write_text(parts[name])
    except (ValueError, KeyError, TypeError) as error:
        raise BadArtifact("template", f"its state is damaged: {error}") from error
    memory = place / MEMORY
    memory.unlink(missing_ok=True)
    memory.symlink_to(ram)


def drive_id(slot: int) -> str:
    return f"drive{slot}"


class CloudHypervisorMachine(HTTPMachine):
    def __init__(
        self, directory: Path, pid: int, child: subprocess.Popen[bytes] | None, ram: int
    ) -> None:
        super().__init__(directory, pid, child)
        self._ram = ram
        self._plugged: set[int] = set()

    async def pause(self) -> None:
        await self.ask("PUT", f"{API}/vm.pause")

    async def resume(self) -> None:
        await self.ask("PUT", f"{API}/vm.resume")

    async def snapshot(self, state: int) -> None:
        # A snapshot names the files of its disks, and those that were plugged in are not there when it is restored.
        for slot in sorted(self._plugged):
            await self._unplug(slot)
        await self.pause()
        place = self.inside / SNAPSHOT
        place.mkdir(exist_ok=True)
        owner = self.inside.stat()
        os.chown(place, owner.st_uid, owner.st_gid)
        await self.ask("PUT", f"{API}/vm.snapshot", {"destination_url": SOURCE})
        packed = pack_state(place)
        os.ftruncate(state, 0)
        os.pwrite(state, packed, 0)
        httpvmm.copy_into(place / MEMORY, self._ram)

    async def attach_drive(self, slot: int, file: int) -> None:
        httpvmm.link_file(file, self.files / f"image{slot}")
        path = f"{quarters.FILES}/image{slot}"
        if slot in self._plugged:
            await self._unplug(slot)
        # By its serial number the guest knows which it is: letters are given in the order of coming (native/guest.c).
        name = drive_id(slot)
        disk = {"path": path, "readonly": True, "id": name, "serial": name}
        await self.ask("PUT", f"{API}/vm.add-disk", disk)
        self._plugged.add(slot)

    async def _unplug(self, slot: int) -> None:
        """The guest, which has unmounted it, has let go of the device on return: it is asked to, and then its id is free."""
        name = drive_id(slot)
        await self.ask("PUT", f"{API}/vm.remove-device", {"id": name})
        async with asyncio.timeout(UNPLUG_LIMIT):
            while name in (await self.ask("GET", f"{API}/vm.info")).get("device_tree", {}):
                await asyncio.sleep(0.005)
        self._plugged.discard(slot)
