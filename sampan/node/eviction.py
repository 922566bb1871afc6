"""Eviction: when the node runs short, one pod after another is ended, the one first that takes most beyond its request.

Unused images go before any pod does, when it is the disk that is full. Ranking (kubernetes.io/docs/concepts/scheduling-eviction/
node-pressure-eviction): what is over its request, then lower priority, then how far over. Critical pods stay.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sampan.cri.errors import CRIError
from sampan.kube import podresources
from sampan.node import podspec, pressure
from sampan.node.plan import Verdict
from sampan.node.podspec import Object
from sampan.node.pressure import DISK, Breach, PressureWatch

if TYPE_CHECKING:
    from sampan.node.context import Context
    from sampan.node.worker import PodWorker

log = logging.getLogger(__name__)

LOOK_EVERY = 10.0  # seconds
ENDS_WITHIN = 30.0  # seconds that an evicted pod gets before the next is chosen


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one pod, by container: bytes, and processes of the whole pod."""

    memory: Mapping[str, int]
    disk: Mapping[str, int]
    pids: int

    def total(self, resource: str) -> int:
        if resource == "pids":
            return self.pids
        return sum((self.memory if resource == "memory" else self.disk).values())


NOTHING = Usage({}, {}, 0)


def requested(pod: Object, resource: str) -> int:
    if resource not in ("memory", "ephemeral-storage"):
        return 0
    amount = podresources.of_pod(pod["spec"], "requests").get(resource)
    return amount.value() if amount else 0


def rank(pods: Iterable[Object], usage: Mapping[str, Usage], resource: str) -> list[Object]:
    """Those that may be evicted, the first to go first."""

    def order(pod: Object) -> tuple[Any, ...]:
        used = usage.get(pod["metadata"]["uid"], NOTHING).total(resource)
        over = used - requested(pod, resource)
        return (over <= 0, pod["spec"].get("priority", 0), -over)

    return sorted((pod for pod in pods if not podspec.is_critical(pod)), key=order)


def verdict(pod: Object, breach: Breach, used: Usage) -> Verdict:
    """Why this pod, in kubelet's words, with the containers that are over their requests."""
    text = f"{breach} "
    if breach.resource in ("memory", "ephemeral-storage"):
        by_container = used.memory if breach.resource == "memory" else used.disk
        for container in podspec.mains(pod):
            name = container["name"]
            stated = (container.get("resources") or {}).get("requests") or {}
            request = podresources.amounts(stated).get(breach.resource)
            asked = request.value() if request else 0
            if by_container.get(name, 0) > asked:
                text += (
                    f"Container {name} was using {pressure.shown(by_container[name])}, "
                    f"request is {request or 0}, has larger consumption of {breach.resource}. "
                )
    return Verdict("Evicted", text)


def usage_of(stats: Iterable[Any]) -> dict[str, Usage]:
    """CRI's pod sandbox stats by pod uid."""
    found = {}
    for item in stats:
        containers = item.linux.containers
        found[item.attributes.metadata.uid] = Usage(
            {c.attributes.metadata.name: c.memory.working_set_bytes.value for c in containers},
            {c.attributes.metadata.name: c.writable_layer.used_bytes.value for c in containers},
            item.linux.process.process_count.value,
        )
    return found


class Eviction:
    def __init__(
        self,
        context: Context,
        workers: Mapping[str, PodWorker],
        watch: PressureWatch,
        *,
        free_images: Callable[[int], Awaitable[int]],
        changed: Callable[[], None],
    ) -> None:
        """`free_images(bytes)` deletes unused images; `changed` is called when a condition began or ended."""
        self._context = context
        self._workers = workers
        self._watch = watch
        self._free_images = free_images
        self._changed = changed
        self._told: frozenset[str] = frozenset()

    async def run(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY)

    def breaches(self) -> list[Breach]:
        found = self._watch.look()
        if self._watch.holding() != self._told:
            self._told = self._watch.holding()
            self._changed()
        return found

    async def look(self) -> PodWorker | None:
        """Evict at most one pod, and wait for its end; the pod's worker, or None when all is well."""
        found = self.breaches()
        full = [breach for breach in found if breach.condition == DISK]
        if full:
            wanted = max(breach.threshold - breach.free for breach in full)
            await self._free_images(max(wanted, 1))
            found = self.breaches()
        if not found:
            return None
        try:
            answer = await self._context.cri.list_pod_sandbox_stats()
        except CRIError as error:
            log.warning("pods cannot be measured, so none is evicted: %s", error)
            return None
        usage = usage_of(answer.stats)
        # Memory first: its lack hurts soonest.
        breach = min(found, key=lambda each: list(pressure.SIGNALS).index(each.signal))
        alive = {
            uid: worker
            for uid, worker in self._workers.items()
            if not worker.ending.begun.is_set() and not podspec.has_finished(worker.pod)
        }
        for pod in rank((worker.pod for worker in alive.values()), usage, breach.resource):
            uid = pod["metadata"]["uid"]
            worker = alive[uid]
            log.warning("evicting pod %s: %s", podspec.full_name(pod), breach)
            worker.fail(verdict(pod, breach, usage.get(uid, NOTHING)), disruption=True)
            await worker.ended(ENDS_WITHIN)
            return worker
        log.debug("the node is short of %s, and no pod may be evicted", breach.resource)
        return None
