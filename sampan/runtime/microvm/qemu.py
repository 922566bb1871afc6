"""QEMU's `microvm` machine: the default driver, with KVM, and without it by emulation (TCG).

A restored machine has exactly the devices of its template, in the same order: serial port, network card, drives. What
stands behind them is given anew. Nothing here is a path of the host's: sockets listen before QEMU starts and are
inherited, drives are descriptors in QEMU's fd sets, and memory is a file that only has a descriptor.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from sampan.runtime.microvm import attendant, jail, live, sockets, usernet, wiring
from sampan.runtime.microvm.errors import VMMError
from sampan.runtime.microvm.live import LiveTemplate
from sampan.runtime.microvm.machine import SOCKETS, QemuMachine, forwarded
from sampan.runtime.microvm.presence import INSTALL_QEMU as INSTALL
from sampan.runtime.microvm.presence import QEMU as PROGRAM
from sampan.runtime.microvm.presence import agent_file
from sampan.runtime.microvm.presence import qemu as path
from sampan.runtime.microvm.vmm import DISKS, PLACEHOLDER, SLOTS, MachineSpec, StartLive
from sampan.runtime.sandbox import Support

LOG = logging.getLogger(__name__)
LEAST = (7, 2)
# With a real-time clock: a kernel that finds none waits for it twice, a second each time (mc146818_get_time).
# The firmware by name: by default it is what a distribution calls bios-microvm.bin, which is qboot in Debian 12 and SeaBIOS
# in 13, and SeaBIOS finds no kernel without option ROMs.
MACHINE = (
    "microvm,firmware=qboot.rom,x-option-roms=off,isa-serial=on,rtc=on,pit=off,pic=off,ioapic2=on,"
    "memory-backend=ram"
)
# The agent looks for its ports by these numbers.
PORTS = (
    "virtio-serial-device,max_ports=3",
    "virtserialport,chardev=agent,name=agent,nr=1",
    "virtserialport,chardev=files,name=files,nr=2",
)
# Emulated without SMAP: its instructions, around each of the kernel's accesses to a program's memory, end a block of
# translated code and lead out of it. They guard a guest's kernel against its own programs, and no host.
PROCESSOR = {"kvm": "host", "tcg": "max,-smap"}
# MiB of translated code: 15 are of a start, 21 when it was rehearsed. What does not fit is thrown away and made anew.
TRANSLATED = 24
SHARED_TRANSLATED = (
    40  # of a live template, which has it once for all its copies: they add to it what is their own
)
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
    bus = "mmio"
    shares_files = True
    keeps_memory = True

    def __init__(self, accelerator: str = "tcg") -> None:
        self.accelerator = accelerator

    @property
    def start_live(self) -> StartLive | None:
        """What can be gained by it is emulation's; KVM keeps a machine's state where no fork reaches."""
        able = self.accelerator == "tcg" and agent_file(live.LIBRARY).exists()
        return self._start_live if able else None

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
        return f"qemu {version(program)} {status.st_size} {self.accelerator} {PROCESSOR[self.accelerator]} {MACHINE} {CARD} {SLOTS} {DISKS} {PORTS}"

    async def start(self, spec: MachineSpec) -> QemuMachine:
        machine, _ = await self._start(spec, {}, [])
        return machine

    async def _start_live(self, spec: MachineSpec) -> LiveTemplate:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        library = -1
        try:
            library = os.open(agent_file(live.LIBRARY), os.O_RDONLY | os.O_CLOEXEC)
            environment = {
                "LD_PRELOAD": f"/proc/self/fd/{library}",
                "SAMPAN_FORK": f"{theirs.fileno()} {spec.uid}",
            }
            machine, numbers = await self._start(spec, environment, [library, theirs.fileno()])
        except BaseException as error:
            ours.close()
            if isinstance(error, OSError):
                raise VMMError(f"cannot start QEMU: {error}") from error
            raise
        finally:
            theirs.close()
            if library >= 0:
                os.close(library)
        return LiveTemplate(machine, ours, numbers)

    async def _start(
        self, spec: MachineSpec, environment: Mapping[str, str], more: Sequence[int]
    ) -> tuple[QemuMachine, dict[str, int]]:
        """With it, the descriptors that stand for its sockets and its tap."""
        program = path()
        if program is None:
            raise VMMError(f"{PROGRAM} is not installed")
        own: list[int] = []
        environment = preloaded(environment, usernet.environment(spec))
        listeners = {name: sockets.listen(spec.directory / name) for name in SOCKETS}
        log = attendant.open_log(spec.directory / attendant.VMM_LOG)
        try:
            empty = placeholder()
            own.append(empty)
            given = {name: item.fileno() for name, item in listeners.items()}
            numbers = given | {"empty": empty}
            passed = [*numbers.values(), *more]
            passed += [fd for fd in (spec.ram, spec.tap, spec.state) if fd >= 0]
            for name in ("kernel", "initial_files"):
                if (file := getattr(spec, name)) is not None:
                    numbers[name] = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
                    own.append(numbers[name])
                    passed.append(numbers[name])
            argv = command(program, self.accelerator, spec, numbers)
            place = spec.directory / "root"
            place.mkdir(exist_ok=True)
            tap = functools.partial(wiring.open_tap, spec.tap) if spec.tap >= 0 else None
            child = await jail.start(
                argv, passed, log, place, spec.uid, tap, environment=environment, copied=spec.copied
            )
        except OSError as error:
            raise VMMError(f"cannot start QEMU: {error}") from error
        finally:
            for descriptor in (*own, log):
                os.close(descriptor)
            for item in listeners.values():
                item.close()
        machine = QemuMachine(spec.directory, child.pid, child)
        async with machine.beginning():
            machine.record()
            await machine.connect()
            usernet.verify(spec, child.pid)
            if spec.state >= 0:
                await machine.restore(spec.state)
                if not spec.held:
                    await machine.resume()
        return machine, given | ({"tap": spec.tap} if spec.tap >= 0 else {})

    async def adopt(self, directory: Path) -> QemuMachine | None:
        pid = attendant.recorded(directory / attendant.VMM_RECORD)
        if not pid:
            return None
        machine = QemuMachine(directory, pid, None)
        try:
            await machine.connect()
            if not await machine.running():
                machine.halted.set()
        except (OSError, VMMError) as error:
            LOG.warning("QEMU %d in %s cannot be adopted: %s", pid, directory, error)
            await machine.stop()
            return None
        return machine


def preloaded(one: Mapping[str, str], other: Mapping[str, str]) -> dict[str, str]:
    """Both environments, each with a library of its own to load first, or none."""
    libraries = [each["LD_PRELOAD"] for each in (one, other) if each]
    return {**one, **other, "LD_PRELOAD": ":".join(libraries)} if libraries else {}


def command(
    program: str, accelerator: str, spec: MachineSpec, numbers: Mapping[str, int]
) -> list[str]:
    """The argument list; `numbers` are inherited descriptors: those of SOCKETS, empty, kernel, initial_files."""
    argv = [
        program, "-name", f"sampan-{spec.name[:12]}", "-M", MACHINE, "-nodefaults", "-no-user-config",
        "-display", "none", "-no-reboot", "-action", "shutdown=pause", "-sandbox", SANDBOX,
        "-accel", "kvm" if accelerator == "kvm" else f"tcg,tb-size={SHARED_TRANSLATED if spec.copied else TRANSLATED}",
        "-cpu", PROCESSOR[accelerator],
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
    elif spec.state >= 0 and not spec.copied:
        argv += ["-netdev", usernet.device(spec, forwarded(spec))]
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


def placeholder() -> int:
    """A drive's worth of nothing. Opened for reading alone: QEMU takes a descriptor only for what it was opened for."""
    made = os.memfd_create("empty", os.MFD_CLOEXEC)
    try:
        os.ftruncate(made, PLACEHOLDER)
        return os.open(f"/proc/self/fd/{made}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(made)
