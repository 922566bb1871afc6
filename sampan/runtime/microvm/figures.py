"""A guest's figures out of the agent's answer. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from sampan.runtime.microvm import protocol
from sampan.runtime.microvm.protocol import Key
from sampan.runtime.sandbox import ContainerStats, SandboxStats

STATS: dict[int, str] = {
    Key.CPU: "cpu_nanoseconds", Key.MEMORY: "memory_bytes", Key.WORKING_SET: "memory_working_set",
    Key.RSS: "memory_rss", Key.PIDS: "pids", Key.DISK: "filesystem_bytes",
}  # fmt: skip


def read(answer: bytes, names: Mapping[int, str], into: SandboxStats) -> None:
    """Containers by `names` of their channels, and the traffic of eth0. Raises Malformed."""
    current = ContainerStats()
    for key, value in protocol.fields(answer):
        figure = protocol.number(value)
        if key == Key.TASK:
            current = into.containers[names.get(figure, str(figure))] = ContainerStats()
        elif key in STATS:
            setattr(current, STATS[key], figure)
        elif key == Key.RX:
            into.rx_bytes = figure
        elif key == Key.TX:
            into.tx_bytes = figure
