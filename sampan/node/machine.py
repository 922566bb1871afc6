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
class Usage:
    """What the whole machine uses now."""

    time: int  # ns since the epoch
    cpu: int  # ns of processor since the machine started
    available: int  # bytes
    working_set: int  # bytes that cannot be had back without hurting


def usage() -> Usage:
    tick = 10**9 // os.sysconf("SC_CLK_TCK")
    with open("/proc/stat", encoding="ascii") as lines:
        user, nice, system, _idle, _wait, irq, soft, *_ = (
            int(word) for word in lines.readline().split()[1:]
        )
    total, available = _meminfo("MemTotal"), _meminfo("MemAvailable")
    busy = user + nice + system + irq + soft
    return Usage(time.time_ns(), busy * tick, available, total - available)


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
