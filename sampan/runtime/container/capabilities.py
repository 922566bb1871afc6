"""Capabilities: their names by number, the default set, and the set that a container gets."""

from __future__ import annotations

from functools import cache
from pathlib import Path

NAMES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)  # fmt: skip

DEFAULT = frozenset({
    "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "NET_BIND_SERVICE",
    "NET_RAW", "SYS_CHROOT", "MKNOD", "AUDIT_WRITE", "SETFCAP",
})  # fmt: skip


@cache
def available() -> frozenset[str]:
    """What this process may hand on: its bounding set."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapBnd:"):
            mask = int(line.split()[1], 16)
            return frozenset(name for bit, name in enumerate(NAMES) if mask >> bit & 1)
    return frozenset()


def granted(privileged: bool, add: tuple[str, ...], drop: tuple[str, ...]) -> list[str]:
    """Names with CAP_, sorted by number. `ALL` stands for all; what is added wins over what is dropped by ALL."""
    added = {name.upper().removeprefix("CAP_") for name in add}
    dropped = {name.upper().removeprefix("CAP_") for name in drop}
    everything = set(available())
    wanted = everything if privileged or "ALL" in added else set(DEFAULT)
    if "ALL" in dropped and not privileged:
        wanted = everything if "ALL" in added else set()
    wanted |= added
    wanted -= dropped - (added if "ALL" in dropped else set())
    return [f"CAP_{name}" for name in NAMES if name in wanted and name in everything]
