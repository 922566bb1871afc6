"""Ranking: what every node is worth to one class of pods, kept up to date by what changed since it was last asked.

A decision changes one node, so the next pod of the class costs one node's arithmetic and one look for the largest number.
A class seen for the first time, or after many changes, is ranked as a whole: with arrays when there are many nodes.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from sampan.scheduler import filters, scores

if TYPE_CHECKING:
    from sampan.scheduler.nodes import NodeInfo
    from sampan.scheduler.pods import PodClass
    from sampan.scheduler.snapshot import Snapshot

WHOLE_FROM = 64  # changed nodes from which ranking all at once is cheaper


class Ranking:
    def __init__(self, group: PodClass) -> None:
        self.group = group
        self.epoch = -1
        self.seen = 0
        self.arrays = False
        self.ranks: Any = []  # list, or numpy array when `arrays`; by slot; -1: does not fit
        self.refused: Counter[str] | None = None

    def refresh(self, snapshot: Snapshot) -> None:
        if self.epoch != snapshot.epoch:
            self.rank_all(snapshot)
        elif self.seen != len(snapshot.log):
            changed = set(snapshot.log[self.seen :])
            if snapshot.arrays and len(changed) >= WHOLE_FROM:
                self.rank_all(snapshot)
            else:
                for slot in changed:
                    self.ranks[slot] = self.rank(snapshot, snapshot.slots[slot])
        else:
            return
        self.epoch, self.seen = snapshot.epoch, len(snapshot.log)
        self.refused = None

    def rank_all(self, snapshot: Snapshot) -> None:
        self.arrays = snapshot.arrays
        if not self.arrays:
            self.ranks = [self.rank(snapshot, info) for info in snapshot.slots]
            return
        group = self.group
        static = [
            -1 if reason is not None else score
            for reason, score in (snapshot.static(group, info) for info in snapshot.slots)
        ]
        self.ranks = snapshot.columns().ranks(group, static)
        for info in snapshot.slots:
            if info.nominated or (group.ports and info.ports):
                self.ranks[info.slot] = self.rank(snapshot, info)

    def rank(self, snapshot: Snapshot, info: NodeInfo) -> int:
        group = self.group
        reason, score = snapshot.static(group, info)
        if (
            reason is not None
            or filters.ports(group, info)
            or filters.missing_resources(group, info)
        ):
            return -1
        return scores.rank(score + scores.load_score(group, info), len(info.pods))

    def best(self) -> int:
        """The slot of the best node, the first of equals; -1 when none fits."""
        if not len(self.ranks):
            return -1
        if self.arrays:
            slot = int(self.ranks.argmax())
        else:
            slot = max(range(len(self.ranks)), key=self.ranks.__getitem__)
        return slot if self.ranks[slot] >= 0 else -1

    def reasons(self, snapshot: Snapshot) -> Counter[str]:
        """Why no node fits; worked out once for a class until something changes."""
        if self.refused is None:
            self.refused = Counter()
            for info in snapshot.slots:
                self.refused.update(refusals(snapshot, self.group, info))
        return self.refused


def refusals(snapshot: Snapshot, group: PodClass, info: NodeInfo) -> list[str]:
    """Why the node cannot take the pod, as the first filter that refuses says; empty when it can."""
    reason, _ = snapshot.static(group, info)
    if reason is None:
        reason = filters.ports(group, info)
    return [reason] if reason is not None else filters.missing_resources(group, info)
