"""QEMU's `microvm` machine: the default driver, with KVM, and without it by emulation (TCG).

A restored machine has exactly the devices of its template, in the same order: serial port, network card, drives. What
stands behind them is given anew. Nothing here is a path of the host's: sockets listen before QEMU starts and are
inherited, drives are descriptors in QEMU's fd sets, and memory is a file that only has a descriptor.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import re
import socket
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sampan.runtime.microvm import attendant, jail, qmp, sockets, wiring
from sampan.runtime.microvm.attendant import Attendant
from sampan.runtime.microvm.errors import VMMError
from sampan.runtime.microvm.presence import INSTALL_QEMU as INSTALL
from sampan.runtime.microvm.presence import QEMU as PROGRAM
from sampan.runtime.microvm.presence import qemu as path
from sampan.runtime.microvm.vmm import DISKS, PLACEHOLDER, SLOTS, MachineSpec
from sampan.runtime.sandbox import Support

LOG = logging.getLogger(__name__)
LEAST = (7, 2)
# With a real-time clock: a kernel that finds none waits for it twice, a second each time (mc146818_get_time).
MACHINE = (
    "microvm,x-option-roms=off,isa-serial=on,rtc=on,pit=off,pic=off,ioapic2=on,memory-backend=ram"
)
MIGRATE_LIMIT = 120.0  # seconds; what is slow is a disk that takes the memory of a large machine
SOCKETS = ("agent", "files", "control")
# The agent looks for its ports by these numbers.
PORTS = (
    "virtio-serial-device,max_ports=3",
    "virtserialport,chardev=agent,name=agent,nr=1",
    "virtserialport,chardev=files,name=files,nr=2",
)
# MiB of translated code: 15 are of a start, 21 when it was rehearsed. What does not fit is thrown away and made anew.
TRANSLATED = 24
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
# Frames leave as they are: whoever receives them needs no help of this card (and all backends are alike).
# It announces nothing: a card restored with no rounds of that to do has no timer for it, and QEMU 7.2 ends by SIGSEGV
# when the guest resets such a card, as it does to power off (virtio_net_reset deletes the timer all the same).
CARD = (
    "virtio-net-device,netdev=net,id=card,mac=02:00:00:00:00:02,csum=off,gso=off,guest_csum=off,guest_tso4=off,"
    "guest_tso6=off,guest_ufo=off,guest_ecn=off,host_tso4=off,host_tso6=off,host_ufo=off,host_ecn=off,ctrl_mac_addr=on,"
    "guest_announce=off"
)


@functools.cache
def version(program: str) -> tuple[int, ...]:
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"version (\d+)\.(\d+)\.(\d+)", done.stdout)
    return tuple(int(part) for part in found.groups()) if found else ()


class Qemu:
    name = "qemu"
    shares_files = True
    keeps_memory = True

    def __init__(self, accelerator: str = "tcg") -> None:
        self.accelerator = accelerator

    def probe(self) -> Support:
        program = path()
        if program is None:
            return Support(False, why=f"{PROGRAM} is not installed", install=INSTALL)
        found = version(program)
        if found[:2] < LEAST:
            text = ".".join(map(str, found)) or "unknown"
            return Support(False, why=f"QEMU {text} is older than 7.2", install=INSTALL)
        return Support(True, detail=f"QEMU {'.'.join(map(str, found))}")

    def edition(self) -> str:
        program = path()
        if program is None:
            raise VMMError(f"{PROGRAM} is not installed")
        status = os.stat(program)
        return f"qemu {version(program)} {status.st_size} {self.accelerator} {MACHINE} {CARD} {SLOTS} {DISKS} {PORTS}"

    async def start(self, spec: MachineSpec) -> QemuMachine:
        program = path()
        if program is None:
            raise VMMError(f"{PROGRAM} is not installed")
        own: list[int] = []
        listeners = {name: sockets.listen(spec.directory / name) for name in SOCKETS}
        log = attendant.open_log(spec.directory / attendant.VMM_LOG)
        try:
            empty = placeholder()
            own.append(empty)
            numbers = {name: item.fileno() for name, item in listeners.items()} | {"empty": empty}
            passed = [
                *numbers.values(),
                *(fd for fd in (spec.ram, spec.tap, spec.state) if fd >= 0),
            ]
            for name in ("kernel", "initial_files"):
                if (file := getattr(spec, name)) is not None:
                    numbers[name] = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
                    own.append(numbers[name])
                    passed.append(numbers[name])
            argv = command(program, self.accelerator, spec, numbers)
            place = spec.directory / "root"
            place.mkdir(exist_ok=True)
            tap = functools.partial(wiring.open_tap, spec.tap) if spec.tap >= 0 else None
            child = await jail.start(argv, passed, log, place, spec.uid, tap)
        except OSError as error:
            raise VMMError(f"cannot start QEMU: {error}") from error
        finally:
            for descriptor in (*own, log):
                os.close(descriptor)
            for item in listeners.values():
                item.close()
        machine = QemuMachine(spec.directory, child.pid, child)
        try:
            await machine.connect()
            if spec.state >= 0:
                await machine.restore(spec.state)
                if not spec.held:
                    await machine.resume()
        except BaseException as error:
            await asyncio.shield(machine.stop())
            if isinstance(error, VMMError):
                raise VMMError(f"{error}: {machine.log()}") from error
            raise
        machine.record()
        return machine

    async def adopt(self, directory: Path) -> QemuMachine | None:
        pid = attendant.recorded(directory / attendant.VMM_RECORD)
        if not pid:
            return None
        machine = QemuMachine(directory, pid, None)
        try:
            await machine.connect()
        except (OSError, VMMError) as error:
            LOG.warning("QEMU %d in %s cannot be adopted: %s", pid, directory, error)
            await machine.stop()
            return None
        return machine


def command(
    program: str, accelerator: str, spec: MachineSpec, numbers: Mapping[str, int]
) -> list[str]:
    """The argument list; `numbers` are inherited descriptors: those of SOCKETS, empty, kernel, initial_files."""
    argv = [
        program, "-name", f"sampan-{spec.name[:12]}", "-M", MACHINE, "-nodefaults", "-no-user-config",
        "-display", "none", "-no-reboot", "-action", "shutdown=pause", "-sandbox", SANDBOX,
        "-accel", "kvm" if accelerator == "kvm" else f"tcg,tb-size={TRANSLATED}",
        "-cpu", "host" if accelerator == "kvm" else "max",
        "-m", f"{spec.memory}M", "-smp", str(spec.cpus),
        "-object", f"memory-backend-file,id=ram,size={spec.memory}M,mem-path=/proc/self/fd/{spec.ram},"
                   f"share={'on' if spec.ram_shared else 'off'}",
        "-chardev", "ringbuf,id=console,size=16384", "-serial", "chardev:console",
    ]  # fmt: skip
    for name in SOCKETS:
        argv += ["-chardev", f"socket,id={name},fd={numbers[name]},server=on,wait=off"]
    argv += ["-mon", "chardev=control,mode=control"]
    for port in PORTS:
        argv += ["-device", port]
    if spec.tap >= 0:
        argv += ["-netdev", f"tap,id=net,fd={spec.tap}"]
    elif spec.state >= 0:
        argv += ["-netdev", user_network(spec)]
    else:
        # A template is on no network, and leaves no trace of one in its state.
        argv += ["-netdev", "hubport,id=net,hubid=0"]
    argv += ["-device", CARD]
    argv += ["-add-fd", f"fd={numbers['empty']},set=1,opaque=empty"]
    empty = "driver=file,filename=/dev/fdset/1,read-only=on,locking=off"
    argv += ["-blockdev", f"{empty},node-name=empty"]
    for slot in range(SLOTS):
        argv += ["-blockdev", f"driver=raw,node-name=drive{slot},file=empty,read-only=on"]
        argv += ["-device", f"virtio-blk-device,drive=drive{slot},num-queues=1,queue-size=64"]
    for slot in range(SLOTS, SLOTS + DISKS):
        blank = f"driver=null-co,node-name=blank{slot},size={PLACEHOLDER},read-zeroes=on"
        argv += ["-blockdev", blank]
        argv += ["-blockdev", f"driver=raw,node-name=drive{slot},file=blank{slot}"]
        argv += ["-device", f"virtio-blk-device,drive=drive{slot},num-queues=1,queue-size=64"]
    if spec.state >= 0:
        argv += ["-incoming", "defer"]
    else:
        argv += [
            "-kernel",
            f"/proc/self/fd/{numbers['kernel']}",
            "-initrd",
            f"/proc/self/fd/{numbers['initial_files']}",
        ]
        argv += ["-append", spec.command_line]
    return argv


def user_network(spec: MachineSpec) -> str:
    """Without root: ports of the pod are forwarded in; out leads nothing, for that would reach the host's loopback."""
    forwards = "".join(
        f",hostfwd={protocol}:{address}:{outer}-10.0.2.15:{inner}"
        for (address, outer, inner), protocol in spec.ports.items()
    )
    return f"user,id=net,restrict=on{forwards}"


def placeholder() -> int:
    """A drive's worth of nothing. Opened for reading alone: QEMU takes a descriptor only for what it was opened for."""
    made = os.memfd_create("empty", os.MFD_CLOEXEC)
    try:
        os.ftruncate(made, PLACEHOLDER)
        return os.open(f"/proc/self/fd/{made}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(made)


class QemuMachine(Attendant):
    leaves = SOCKETS

    def __init__(self, directory: Path, pid: int, child: subprocess.Popen[bytes] | None) -> None:
        super().__init__(directory, pid, child)
        self.halted = asyncio.Event()  # the guest has reset or powered off: it runs no more
        self._control: qmp.Control | None = None
        self._migrated: asyncio.Future[str] | None = None

    async def connect(self) -> None:
        self._control = await qmp.connect(self.directory / "control", self._event)
        if self._child is None and not await self.running():
            self.halted.set()

    def _event(self, name: str, data: Any) -> None:
        if name in ("SHUTDOWN", "GUEST_PANICKED", "RESET"):
            self.halted.set()
        elif name == "MIGRATION" and self._migrated is not None and not self._migrated.done():
            if data["status"] in ("completed", "failed", "cancelled"):
                self._migrated.set_result(data["status"])

    @property
    def control(self) -> qmp.Control:
        if self._control is None:
            raise VMMError("QEMU is not connected")
        return self._control

    async def running(self) -> bool:
        return bool((await self.control.command("query-status"))["running"])

    async def dial(self) -> socket.socket:
        return sockets.connect(self.directory / "agent")

    async def dial_files(self) -> socket.socket:
        return sockets.connect(self.directory / "files")

    async def pause(self) -> None:
        await self.control.command("stop")

    async def resume(self) -> None:
        await self.control.command("cont")

    async def snapshot(self, state: int) -> None:
        await self.pause()
        await self._migrate("migrate", state)

    async def restore(self, state: int) -> None:
        """It is paused on return, as it was."""
        await self._migrate("migrate-incoming", state)

    async def _migrate(self, verb: str, state: int) -> None:
        """What goes through the descriptor is the devices' state; memory too, unless it is shared: that is in its file
        already (x-ignore-shared)."""
        self._migrated = asyncio.get_running_loop().create_future()
        wanted = [{"capability": name, "state": True} for name in ("events", "x-ignore-shared")]
        # Sent in one go. A clone is on no network yet: its card has nobody to tell that it has moved.
        await asyncio.gather(
            self.control.command("migrate-set-capabilities", capabilities=wanted),
            self.control.command("migrate-set-parameters", announce_rounds=0),
            self.control.command("getfd", descriptor=state, fdname="state"),
            self.control.command(verb, uri="fd:state"),
        )
        async with asyncio.timeout(MIGRATE_LIMIT):
            status = await self._migrated
        if status != "completed":
            raise VMMError(f"QEMU: {verb} {status}: {self.log()}")

    async def attach_drive(self, slot: int, file: int) -> None:
        await self._put(slot, file, "file", readonly=True)

    async def attach_disk(self, slot: int, file: int) -> None:
        block = stat.S_ISBLK(os.fstat(file).st_mode)
        await self._put(slot, file, "host_device" if block else "file", readonly=False)
        # The guest believes in a placeholder's size until it is told of another.
        size = os.lseek(file, 0, os.SEEK_END)
        await self.control.command("block_resize", node_name=f"drive{slot}", size=size)

    async def _put(self, slot: int, file: int, driver: str, *, readonly: bool) -> None:
        added = await self.control.command("add-fd", descriptor=file)
        number = added["fdset-id"]
        node = f"file{number}"
        await self.control.command(
            "blockdev-add", driver=driver, node_name=node, filename=f"/dev/fdset/{number}",
            read_only=readonly, locking="off",
        )  # fmt: skip
        drive = {"driver": "raw", "node-name": f"drive{slot}", "read-only": readonly, "file": node}
        await self.control.command("blockdev-reopen", options=[drive])

    async def console(self) -> str:
        try:
            text = await self.control.command("ringbuf-read", device="console", size=16384)
        except VMMError:
            return ""
        return str(text)

    def close(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        super().close()
