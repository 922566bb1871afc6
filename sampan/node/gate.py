"""Whether a pod that has come to this node may start here: kubelet's own last look, after the scheduler's.

Room and host ports are `admission`'s question; here are the others, in kubelet's order: is the node shutting down, is it under
pressure, does the pod want to be elsewhere, can its devices be had. A critical pod has others make room. One pod is
looked at after another; what has begun to run is never asked again. Wording: pkg/kubelet/lifecycle, pkg/kubelet/eviction, v1.36.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

from sampan.kube import placement, podresources
from sampan.kube.quantity import Quantity, parse
from sampan.node import admission, podspec
from sampan.node.plan import Verdict
from sampan.node.podspec import Object
from sampan.node.pressure import MEMORY
from sampan.node.resources import BEST_EFFORT, BURSTABLE, qos_class

if TYPE_CHECKING:
    from sampan.node.worker import PodWorker

log = logging.getLogger(__name__)

NODE_RESOURCES = ("cpu", "memory", "ephemeral-storage")  # and hugepages-…, of which no node has any
REJECTED = "Pod was rejected: "
SYSTEM = "linux"
PREEMPTED_ENDS_WITHIN = 30.0
SHUTTING_DOWN = Verdict("NodeShutdown", "Pod was rejected as the node is shutting down.")
PREEMPTED = Verdict("Preempting", "Preempted in order to admit critical pod")
MEMORY_TAINT = {"key": "node.kubernetes.io/memory-pressure", "effect": "NoSchedule"}

Amounts = dict[str, int]  # thousandths of a CPU, else whole units


class Shortage(Exception):
    """Devices that the pod needs cannot be had."""


class Allocator(Protocol):
    async def allocate(self, pod: Object) -> None:
        """All devices that the pod's containers ask for are its own. Idempotent. Raises Shortage; then it holds none."""

    def release(self, uid: str) -> None:
        """The pod's devices are free. Idempotent."""


def _whole(resource: str, quantity: Quantity) -> int:
    return quantity.milli() if resource == "cpu" else quantity.value()


def needs(pod: Object) -> Amounts:
    """What counts against the node itself; devices are the plug-ins' business."""
    found = {
        name: _whole(name, amount)
        for name, amount in podresources.of_pod(pod["spec"], "requests").items()
        if name in NODE_RESOURCES or name.startswith("hugepages-")
    }
    return {**found, "pods": 1}


def huge_pages(wanted: Mapping[str, int], allocatable: Mapping[str, str]) -> Verdict | None:
    for name, amount in wanted.items():
        if name.startswith("hugepages-") and amount > 0 and name not in allocatable:
            return Verdict(
                f"OutOf{name}",
                f"{REJECTED}Node didn't have enough resource: {name}, requested: {amount}, "
                "used: 0, capacity: 0",
            )
    return None


def other_system(pod: Object) -> Verdict | None:
    """A pod that says which system it is for (KEP-2802) comes to another only past the scheduler."""
    if ((pod["spec"].get("os") or {}).get("name") or SYSTEM) == SYSTEM:
        return None
    text = f"{REJECTED}Failed to admit pod as the OS field doesn't match node OS"
    return Verdict("PodOSNotSupported", text)


def forbidden_sysctl(pod: Object, allowed: Iterable[str]) -> Verdict | None:
    """Parameters that Kubernetes does not call safe, unless the node's owner allows them: `kernel.msg*` is a prefix."""
    asked = (pod["spec"].get("securityContext") or {}).get("sysctls") or ()
    if not asked:
        return None
    from sampan.kube.podsecurity.baseline import SYSCTLS

    patterns = tuple(allowed)
    for item in asked:
        name = item["name"].replace("/", ".")
        if name in SYSCTLS or any(
            name.startswith(each[:-1]) if each.endswith("*") else name == each for each in patterns
        ):
            continue
        text = f'{REJECTED}forbidden sysctl: "{name}" not allowlisted'
        return Verdict("SysctlForbidden", text)
    return None


def under_pressure(pod: Object, conditions: frozenset[str]) -> Verdict | None:
    """Under memory pressure only pods that ask for nothing stay outside; otherwise all but the critical ones."""
    if not conditions or podspec.is_critical(pod):
        return None
    if conditions == {MEMORY}:
        if qos_class(pod) != BEST_EFFORT or placement.tolerates(pod["spec"], MEMORY_TAINT):
            return None
    return Verdict(
        "Evicted", f"{REJECTED}The node had condition: [{', '.join(sorted(conditions))}]. "
    )


def misplaced(pod: Object, name: str, labels: Mapping[str, str]) -> Verdict | None:
    if placement.matches_node(pod["spec"], name, labels):
        return None
    text = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"
    return Verdict("NodeAffinity", f"{REJECTED}{text}")


def victims(
    missing: Mapping[str, int], pods: Mapping[str, Object], held: Mapping[str, Amounts]
) -> list[str]:
    """Uids of the pods that make room, least important first; empty when all of them would not be enough."""
    order = {BEST_EFFORT: 0, BURSTABLE: 1}

    def cost(uid: str) -> tuple[int, int]:
        return order.get(qos_class(pods[uid]), 2), pods[uid]["spec"].get("priority", 0)

    left = dict(missing)
    chosen = []
    for uid in sorted(
        (u for u in held if u in pods and not podspec.is_critical(pods[u])), key=cost
    ):
        if not any(amount > 0 for amount in left.values()):
            break
        if any(left.get(name, 0) > 0 and amount > 0 for name, amount in held[uid].items()):
            chosen.append(uid)
            for name, amount in held[uid].items():
                left[name] = left.get(name, 0) - amount
    return chosen if not any(amount > 0 for amount in left.values()) else []


class Gate:
    def __init__(
        self,
        name: str,
        workers: Mapping[str, PodWorker],
        *,
        allocatable: Mapping[str, str],
        pressure: Callable[[], frozenset[str]],
        labels: Callable[[], Mapping[str, str] | None],
        devices: Allocator,
        unsafe_sysctls: Iterable[str] = (),
    ) -> None:
        """`labels()` is None while the Node is not known; then it is not asked where the pod wants to be."""
        self.shutting_down = False
        self._name = name
        self._workers = workers
        self._allocatable = allocatable
        self._pressure = pressure
        self._labels = labels
        self._devices = devices
        self._unsafe_sysctls = tuple(unsafe_sysctls)
        self._one_by_one = asyncio.Lock()

    def release(self, uid: str) -> None:
        """Nothing of the pod runs any more. Idempotent."""
        self._devices.release(uid)

    async def admit(self, pod: Object) -> Verdict | None:
        """None, and the pod holds what it asks for; or why it cannot be here."""
        async with self._one_by_one:
            if self.shutting_down:
                return SHUTTING_DOWN
            found = (
                under_pressure(pod, self._pressure())
                or other_system(pod)
                or forbidden_sysctl(pod, self._unsafe_sysctls)
                or await self._fits(pod)
            )
            if found is None:
                try:
                    await self._devices.allocate(pod)
                except Shortage as error:
                    text = f"{REJECTED}Allocate failed due to {error}, which is unexpected"
                    found = Verdict("UnexpectedAdmissionError", text)
            return found

    async def _fits(self, pod: Object) -> Verdict | None:
        labels = self._labels()
        if labels is not None and (found := misplaced(pod, self._name, labels)):
            return found
        wanted = needs(pod)
        if found := huge_pages(wanted, self._allocatable):
            return found
        found = admission.refusal(pod, self._others(pod), self._allocatable)
        if found is not None and podspec.is_critical(pod) and await self._make_room(pod, wanted):
            return admission.refusal(pod, self._others(pod), self._allocatable)
        return found

    def _others(self, pod: Object) -> list[Object]:
        """Those that are in already."""
        return [
            worker.pod
            for worker in self._workers.values()
            if worker.uid != pod["metadata"]["uid"] and worker.is_in() and worker.holds_room()
        ]

    async def _make_room(self, pod: Object, wanted: Amounts) -> bool:
        held = {other["metadata"]["uid"]: needs(other) for other in self._others(pod)}
        missing = {
            name: amount
            + sum(each.get(name, 0) for each in held.values())
            - _whole(name, parse(self._allocatable.get(name, "0")))
            for name, amount in wanted.items()
        }
        pods = {uid: self._workers[uid].pod for uid in held}
        chosen = [self._workers[uid] for uid in victims(missing, pods, held)]
        for worker in chosen:
            log.warning(
                "pod %s makes room for critical pod %s",
                podspec.full_name(worker.pod),
                podspec.full_name(pod),
            )
            worker.fail(PREEMPTED, disruption=True)
        for worker in chosen:
            await worker.ended(PREEMPTED_ENDS_WITHIN)
        return bool(chosen)
