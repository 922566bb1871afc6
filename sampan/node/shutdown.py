"""Graceful node shutdown (KEP-2000): pods end before the machine does, ordinary ones first, critical ones last.

Kubelet hears of it from systemd-logind; here SIGPWR to the node's process begins it. From then on the node is NotReady,
takes no pod, and ends those that it has as Failed with reason Terminated, so that their owners replace them elsewhere.
No pod gets longer than its own grace period, and no group longer than its share of the whole.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from sampan.node import podspec
from sampan.node.gate import Gate
from sampan.node.plan import Verdict
from sampan.node.podspec import Object

if TYPE_CHECKING:
    from sampan.node.worker import PodWorker

log = logging.getLogger(__name__)

NOT_READY = "node is shutting down"
TERMINATED = Verdict("Terminated", "Pod was terminated in response to imminent node shutdown.")


def groups(
    pods: Iterable[Object], whole: float, critical: float
) -> list[tuple[float, list[Object]]]:
    """(seconds, pods) in the order in which they end."""
    ordinary: list[Object] = []
    vital: list[Object] = []
    for pod in pods:
        (vital if podspec.is_critical(pod) else ordinary).append(pod)
    return [(max(whole - critical, 0.0), ordinary), (critical, vital)]


class Shutdown:
    """`told` is called when it begins."""

    def __init__(
        self,
        gate: Gate,
        workers: Mapping[str, PodWorker],
        *,
        whole: float,
        critical: float,
        told: Callable[[], None],
    ) -> None:
        self._gate = gate
        self._workers = workers
        self._whole, self._critical = whole, critical
        self._told = told
        self.done = asyncio.Event()

    @property
    def begun(self) -> bool:
        return self._gate.shutting_down

    async def run(self) -> None:
        """Return when every pod has ended, or its time is over. A second call waits for the first."""
        if self.begun:
            await self.done.wait()
            return
        self._gate.shutting_down = True
        log.warning("the node is shutting down: its pods end within %.0f s", self._whole)
        self._told()
        alive = [w.pod for w in self._workers.values() if not podspec.has_finished(w.pod)]
        for seconds, pods in groups(alive, self._whole, self._critical):
            ending = [self._workers[pod["metadata"]["uid"]] for pod in pods]
            for worker in ending:
                grace = min(seconds, podspec.termination_grace(worker.pod))
                worker.fail(TERMINATED, disruption=True, grace=grace)
            await asyncio.gather(*(worker.ended(seconds + 1) for worker in ending))
            await asyncio.gather(*(worker.told() for worker in ending))
        self.done.set()
