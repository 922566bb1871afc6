"""What a guest is booted with: kernel, agent, initial file system, command line."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import mmap
import platform
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sampan.runtime.microvm import kernels, modules, presence
from sampan.runtime.microvm.errors import MissingPiece
from sampan.runtime.microvm.kernels import Kernel

# rdtsc; rax |= rdx << 32; ret
READ_TSC = bytes.fromhex("0f3148c1e2204809d0c3")
# Level 1, not 0: a kernel that is told to print nothing prints no panic either (console_verbose in printk.c).
# A guest has one pod: no security module has a policy here but those that programs ask for, and the machine bounds memory.
COMMAND_LINE = (
    "quiet loglevel=1 console=ttyS0 rdinit=/init panic=-1 reboot=t audit=0 no_timer_check cryptomgr.notests "
    "8250.nr_uarts=1 rcupdate.rcu_expedited=1 random.trust_cpu=on lsm=landlock,yama psi=0 nowatchdog "
    "cgroup.memory=nokmem,nosocket"
)
# What a driver's machines need besides, by its name. Firecracker ends when the guest resets by its keyboard controller, and has
# no more of that (its DEFAULT_KERNEL_CMDLINE). Without a PCI bus, a kernel need not look for one.
OF_DRIVER = {
    "qemu": "pci=off",
    "firecracker": "pci=off reboot=k i8042.noaux i8042.nomux i8042.dumbkbd",
    "cloud-hypervisor": "",
}
# Every instruction that a guest runs for the first time costs an emulator hundreds of its own.
EMULATED = (
    "mitigations=off tsc=reliable preempt=none init_on_alloc=0 hardened_usercopy=off "
    "transparent_hugepage=never"
)


@dataclass(frozen=True, slots=True)
class BootFiles:
    kernel: Kernel
    agent: bytes

    @property
    def edition(self) -> str:
        """Differs whenever kernel or agent do."""
        return f"{self.kernel.digest} {hashlib.sha256(self.agent).hexdigest()}"

    def initial_files(self, bus: str = "mmio") -> bytes:
        """For a guest whose devices are on that bus. Raises BadArtifact when the kernel has changed since it was unpacked."""
        kernels.load(self.kernel.directory)
        return modules.initial_files(self.agent, self.kernel.module_files(bus))


def agent() -> bytes:
    """The agent for this machine's guests. Raises MissingPiece."""
    path = presence.agent_file()
    try:
        return path.read_bytes()
    except OSError as error:
        why = f"the guest agent was not built ({path.name}: {error.strerror})"
        raise MissingPiece(why, presence.BUILD_AGENT) from error


def command_line(accelerator: str, driver: str = "qemu") -> str:
    """Under emulation the guest's clock is the host's time stamp counter, whose speed it cannot find out: a boot that
    tries to hangs two times in three. Mitigations guard against a host's real processor, which emulation is not.
    """
    line = f"{COMMAND_LINE} {OF_DRIVER[driver]}".rstrip()
    if accelerator == "kvm":
        return line
    return f"{line} {EMULATED} tsc_early_khz={tsc_khz()}"


@cache
def tsc_khz() -> int:
    """Measured; where a program may not make code of its own, what /proc/cpuinfo says. Rounded: it names templates."""
    measured = 0
    if platform.machine() == "x86_64":
        with contextlib.suppress(OSError):
            measured = measure()
    if not measured:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("cpu MHz"):
                measured = int(float(line.partition(":")[2]) * 1000)
                break
    return round(measured, -4) or 1_000_000


def measure() -> int:
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(READ_TSC)
    read = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    began, first = time.perf_counter_ns(), read()
    while time.perf_counter_ns() - began < 20_000_000:
        pass
    ended, last = time.perf_counter_ns(), read()
    return int((last - first) * 1_000_000 / (ended - began))
