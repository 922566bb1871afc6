"""Whether the node is short of memory, disk or processes: thresholds as kubelet's `--eviction-hard` writes them. Pure but for `read`.

A condition stays for some minutes after its cause has gone, so that a node at the edge does not flap.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sampan.kube.quantity import BINARY_SI, Quantity, parse

STAYS: Final = 300.0  # seconds that a condition outlives its cause
MEMORY, DISK, PID = "MemoryPressure", "DiskPressure", "PIDPressure"

# signal → (condition, the resource that pods are short of)
SIGNALS: Final[dict[str, tuple[str, str]]] = {
    "memory.available": (MEMORY, "memory"),
    "nodefs.available": (DISK, "ephemeral-storage"),
    "nodefs.inodesFree": (DISK, "inodes"),
    "imagefs.available": (DISK, "ephemeral-storage"),
    "pid.available": (PID, "pids"),
}
DEFAULTS: Final[dict[str, str]] = {
    "memory.available": "100Mi",
    "nodefs.available": "10%",
    "nodefs.inodesFree": "5%",
    "imagefs.available": "15%",
    "pid.available": "5%",
}


@dataclass(frozen=True, slots=True)
class Amount:
    free: int
    capacity: int


Reading = Mapping[str, Amount]  # by signal


@dataclass(frozen=True, slots=True)
class Breach:
    """A signal that is below its threshold, in the signal's unit."""

    signal: str
    threshold: int
    free: int

    @property
    def condition(self) -> str:
        return SIGNALS[self.signal][0]

    @property
    def resource(self) -> str:
        return SIGNALS[self.signal][1]

    def __str__(self) -> str:
        text = f"The node was low on resource: {self.resource}. "
        return text + f"Threshold quantity: {shown(self.threshold)}, available: {shown(self.free)}."


def shown(amount: int) -> str:
    """As quantities of bytes are shown, in whole Ki where they are."""
    if amount >= 1024:
        amount -= amount % 1024
    return str(Quantity.of(amount, BINARY_SI))


def parse_thresholds(text: str) -> dict[str, str]:
    """`memory.available<100Mi,nodefs.available<10%`; what is not named keeps its default. ValueError names what is wrong."""
    found = dict(DEFAULTS)
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        signal, sign, value = part.partition("<")
        if signal not in SIGNALS or not sign:
            known = ", ".join(SIGNALS)
            raise ValueError(f"eviction threshold {part!r}: write SIGNAL<AMOUNT; signals: {known}")
        least(value, 100)  # raises for what is no amount
        found[signal] = value
    return found


def least(threshold: str, capacity: int) -> int:
    """A threshold in the unit of its signal: an amount, or a share of what there is."""
    if threshold.endswith("%"):
        try:
            share = float(threshold[:-1])
        except ValueError:
            share = -1.0
        if not 0 <= share < 100:
            raise ValueError(f"eviction threshold {threshold!r}: a percentage is 0% to 100%")
        return int(capacity * share / 100)
    return parse(threshold).value()


def breaches(reading: Reading, thresholds: Mapping[str, str]) -> list[Breach]:
    found = []
    for signal, amount in reading.items():
        floor = least(thresholds.get(signal, "0"), amount.capacity)
        if amount.free < floor:
            found.append(Breach(signal, floor, amount.free))
    return found


def read(data_dir: Path, image_dir: Path) -> Reading:
    """What the node has left, now."""
    nodefs, imagefs = os.statvfs(data_dir), os.statvfs(image_dir)
    memory = meminfo()
    most = int(Path("/proc/sys/kernel/pid_max").read_text())
    running = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])
    found = {
        "memory.available": Amount(memory["MemAvailable"], memory["MemTotal"]),
        "nodefs.available": Amount(
            nodefs.f_bavail * nodefs.f_frsize, nodefs.f_blocks * nodefs.f_frsize
        ),
        "imagefs.available": Amount(
            imagefs.f_bavail * imagefs.f_frsize, imagefs.f_blocks * imagefs.f_frsize
        ),
        "pid.available": Amount(most - running, most),
    }
    if nodefs.f_files:  # some file systems count none
        found["nodefs.inodesFree"] = Amount(nodefs.f_favail, nodefs.f_files)
    return found


def meminfo() -> dict[str, int]:
    """/proc/meminfo in bytes."""
    found = {}
    with open("/proc/meminfo", encoding="ascii") as lines:
        for line in lines:
            name, _, value = line.partition(":")
            found[name] = int(value.split()[0]) * 1024
    return found


class PressureWatch:
    """What is short now, and which conditions hold."""

    def __init__(
        self,
        data_dir: Path,
        image_dir: Path,
        thresholds: Mapping[str, str],
        *,
        measure: Callable[[Path, Path], Reading] = read,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dirs = data_dir, image_dir
        self._thresholds = thresholds
        self._measure = measure
        self._clock = clock
        self._last: dict[str, float] = {}  # when a condition's cause was last seen

    def look(self) -> list[Breach]:
        found = breaches(self._measure(*self._dirs), self._thresholds)
        for breach in found:
            self._last[breach.condition] = self._clock()
        return found

    def holds(self, condition: str) -> bool:
        seen = self._last.get(condition)
        return seen is not None and self._clock() - seen < STAYS

    def holding(self) -> frozenset[str]:
        return frozenset(kind for kind in (MEMORY, DISK, PID) if self.holds(kind))
