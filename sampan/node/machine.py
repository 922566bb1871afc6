"""What this machine is and has: read once from /proc, /etc and the file system."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "riscv64": "riscv64"}


@dataclass(frozen=True, slots=True)
class Machine:
    cpus: int
    memory: int  # bytes
    disk: int  # bytes of the file system that holds the data directory
    architecture: str
    kernel: str
    system: str  # "Debian GNU/Linux 12 (bookworm)"
    machine_id: str
    boot_id: str
    system_uuid: str


def read(data_dir: Path) -> Machine:
    disk = os.statvfs(data_dir)
    return Machine(
        cpus=len(os.sched_getaffinity(0)),
        memory=_meminfo("MemTotal"),
        disk=disk.f_blocks * disk.f_frsize,
        architecture=ARCHITECTURES.get(platform.machine(), platform.machine()),
        kernel=platform.release(),
        system=_os_release(),
        machine_id=_first("/etc/machine-id", "/var/lib/dbus/machine-id"),
        boot_id=_first("/proc/sys/kernel/random/boot_id"),
        system_uuid=_first("/sys/class/dmi/id/product_uuid", "/etc/machine-id"),
    )


@dataclass(frozen=True, slots=True)
class Pressure:
    """Whether the node is short of something, and what was found."""

    memory: bool
    disk: bool
    pids: bool


MEMORY_FLOOR = 100 * 1024 * 1024  # bytes available, kubelet's default eviction threshold
DISK_FLOOR = 0.10  # free part of the file system, likewise
PID_FLOOR = 0.05


def pressure(data_dir: Path) -> Pressure:
    disk = os.statvfs(data_dir)
    limit = int(_first("/proc/sys/kernel/pid_max") or 32768)
    running = int(_first("/proc/loadavg").split()[3].partition("/")[2])
    return Pressure(
        memory=_meminfo("MemAvailable") < MEMORY_FLOOR,
        disk=disk.f_bavail < disk.f_blocks * DISK_FLOOR,
        pids=running > limit * (1 - PID_FLOOR),
    )


@dataclass(frozen=True, slots=True)
class Usage:
    """What the whole node uses: pods and everything beside them."""

    time: int  # nanoseconds since the epoch
    cpu: int  # nanoseconds of all processors since boot
    working_set: int  # bytes that cannot be taken back without writing
    available: int


# Fields of the line `cpu` in /proc/stat that are work: user nice system irq softirq steal (proc_stat(5)).
BUSY = (0, 1, 2, 5, 6, 7)


def usage() -> Usage:
    with open("/proc/stat", encoding="ascii") as lines:
        ticks = [int(field) for field in next(lines).split()[1:]]
    busy = sum(ticks[index] for index in BUSY if index < len(ticks))
    available = _meminfo("MemAvailable")
    return Usage(
        time.time_ns(),
        busy * 10**9 // os.sysconf("SC_CLK_TCK"),
        _meminfo("MemTotal") - available,
        available,
    )


def _meminfo(field: str) -> int:
    with open("/proc/meminfo", encoding="ascii") as lines:
        for line in lines:
            name, _, value = line.partition(":")
            if name == field:
                return int(value.split()[0]) * 1024
    return 0


def _os_release() -> str:
    try:
        for line in Path("/etc/os-release").read_text(encoding="utf-8").splitlines():
            if line.startswith("PRETTY_NAME="):
                return line.partition("=")[2].strip('"')
    except OSError:
        return platform.system()
    return platform.system()


def _first(*paths: str) -> str:
    for path in paths:
        try:
            return Path(path).read_text(encoding="ascii", errors="replace").strip()
        except OSError:
            continue
    return ""
