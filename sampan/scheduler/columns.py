"""The nodes as arrays, for clusters that are large enough: ranks all nodes for one class of pods at once.

The only module that imports numpy, and imported only when there are that many nodes. It computes exactly what `scores` and
`filters` compute node by node; a property test holds them together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sampan.scheduler.scores import COUNT_BITS, COUNT_MASK, TOP

if TYPE_CHECKING:
    from sampan.scheduler.nodes import NodeInfo
    from sampan.scheduler.pods import PodClass
    from sampan.scheduler.snapshot import Snapshot

Array = Any  # numpy.ndarray of int64


class Columns:
    def __init__(self) -> None:
        self.epoch = -1
        self.seen = 0
        self.size = 0

    def refresh(self, snapshot: Snapshot) -> None:
        if self.epoch != snapshot.epoch:
            self.rebuild(snapshot.slots)
            self.epoch = snapshot.epoch
        else:
            for slot in set(snapshot.log[self.seen :]):
                self.write(slot, snapshot.slots[slot])
        self.seen = len(snapshot.log)

    def rebuild(self, slots: list[NodeInfo]) -> None:
        self.size = len(slots)
        self.slots = slots
        self.count, self.most, self.cpu, self.memory, self.all_cpu, self.all_memory = (
            np.zeros(self.size, np.int64) for _ in range(6)
        )
        self.free: dict[str, Array] = {}
        for slot, info in enumerate(slots):
            self.write(slot, info)

    def write(self, slot: int, info: NodeInfo) -> None:
        have = info.allocatable
        self.count[slot] = len(info.pods)
        self.most[slot] = have.get("pods", 0)
        self.cpu[slot], self.memory[slot] = info.weight
        self.all_cpu[slot] = have.get("cpu", 0)
        self.all_memory[slot] = have.get("memory", 0)
        for name, column in self.free.items():
            column[slot] = have.get(name, 0) - info.requested.get(name, 0)

    def free_of(self, name: str) -> Array:
        column = self.free.get(name)
        if column is None:
            column = self.free[name] = np.fromiter(
                (i.allocatable.get(name, 0) - i.requested.get(name, 0) for i in self.slots),
                np.int64,
                self.size,
            )
        return column

    def ranks(self, group: PodClass, static: list[int]) -> Array:
        """Rank of every node, -1 for those that do not fit. `static`: score, or -1 where a static filter refused."""
        score = np.array(static, np.int64)
        fits = score >= 0
        fits &= self.count < self.most
        for name, quantity in group.requests.items():
            fits &= self.free_of(name) >= quantity
        cpu = share(self.cpu + group.weight[0], self.all_cpu)
        memory = share(self.memory + group.weight[1], self.all_memory)
        score += (2 * TOP - cpu - memory) // 2 + TOP - np.abs(cpu - memory) // 2
        ranks = score << COUNT_BITS | COUNT_MASK - np.minimum(self.count, COUNT_MASK)
        return np.where(fits, ranks, -1)


def share(used: Array, capacity: Array) -> Array:
    filled = np.minimum(TOP, used * TOP // np.maximum(capacity, 1))
    return np.where(capacity > 0, filled, TOP)
