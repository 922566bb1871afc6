"""Preemption: which pods of lower priority must go, and from which node, so that a pod fits. Decides; deletes nothing.

Per node all pods of lower priority are taken away in thought; if the pod then fits, as many as possible are spared, those
that a PodDisruptionBudget protects and the more important ones first. The node with the mildest loss is chosen, in
kube-scheduler's order: fewest budgets broken, lowest highest priority, lowest sum of priorities, fewest pods, youngest.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from sampan.kube.selectors import from_object
from sampan.scheduler.nodes import NodeInfo
from sampan.scheduler.pods import PodInfo
from sampan.scheduler.snapshot import Snapshot, explain
from sampan.scheduler.topology import UNHELPFUL

Object = dict[str, Any]
NO_VICTIMS = "No preemption victims found for incoming pod"
NOT_HELPFUL = "Preemption is not helpful for scheduling"
CANDIDATES = 100  # nodes that are considered at least; a tenth of a large cluster


@dataclass(slots=True)
class Plan:
    node: str
    victims: list[PodInfo]
    broken: int  # budgets that would be violated

    def cost(self) -> tuple[Any, ...]:
        priorities = [pod.priority for pod in self.victims]
        highest = max(priorities, default=-(1 << 31))
        starts = [started(pod) for pod in self.victims if pod.priority == highest]
        # Later is milder: text of equal form sorts as time does, and is turned round byte by byte.
        youngest = tuple(-ord(letter) for letter in min(starts, default=""))
        return (self.broken, highest, sum(priorities), len(priorities), youngest)


def started(pod: PodInfo) -> str:
    status = pod.pod.get("status") or {}
    return str(status.get("startTime") or pod.pod["metadata"].get("creationTimestamp") or "")


def worth_trying(snapshot: Snapshot, pod: PodInfo) -> bool:
    return any(group.priority < pod.priority for group in snapshot.population)


def not_eligible(snapshot: Snapshot, pod: PodInfo) -> str | None:
    """Why the pod may not preempt now; None when it may."""
    if not pod.group.preempts:
        return "not eligible due to preemptionPolicy=Never."
    nominated = snapshot.nodes.get(snapshot.nominations.get(pod.uid, ""))
    if nominated is not None and any(
        other.priority < pod.priority and other.group.deleting for other in nominated.pods.values()
    ):
        return "not eligible due to a terminating pod on the nominated node."
    return None


def plan(snapshot: Snapshot, pod: PodInfo, budgets: list[Object]) -> tuple[Plan | None, str]:
    """The best plan, or None and why, as it is said after `preemption: `."""
    if pod.group.claims and snapshot.volumes.problem(pod) is not None:
        looked = len(snapshot.slots)
        return None, explain(Counter({NOT_HELPFUL: looked}), looked)
    reasons: Counter[str] = Counter()
    plans: list[Plan] = []
    enough = max(CANDIDATES, len(snapshot.slots) // 10)
    around = snapshot.surroundings(pod.group)
    for info in snapshot.slots:
        hopeless = snapshot.static(pod.group, info)[0] is not None
        if hopeless or (around is not None and around.refusal(info) in UNHELPFUL):
            reasons[NOT_HELPFUL] += 1
            continue
        found, why = plan_for(snapshot, pod, info, budgets)
        reasons.update(why)
        if found is not None:
            plans.append(found)
            if len(plans) >= enough:
                break
    if plans:
        return min(plans, key=Plan.cost), ""
    return None, explain(reasons, len(snapshot.slots))


def plan_for(
    snapshot: Snapshot, pod: PodInfo, info: NodeInfo, budgets: list[Object]
) -> tuple[Plan | None, list[str]]:
    lower = [other for other in info.pods.values() if other.priority < pod.priority]
    if not lower:
        return None, [NO_VICTIMS]
    for other in lower:
        snapshot.forget(other.uid)
    placed_again: set[str] = set()
    try:
        refusals = snapshot.refusals(pod.group, info)
        if refusals:
            return None, refusals
        important = sorted(lower, key=lambda other: (-other.priority, started(other)))
        protected, others = split_by_budget(important, budgets)
        victims: list[PodInfo] = []
        broken = 0
        for other in (*protected, *others):
            snapshot.place(other, info.name)
            if snapshot.refusals(pod.group, info):
                snapshot.forget(other.uid)
                victims.append(other)
                broken += other in protected
            else:
                placed_again.add(other.uid)
        return Plan(info.name, victims, broken), []
    finally:
        for other in lower:
            if other.uid not in placed_again:
                snapshot.place(other, info.name)


def split_by_budget(
    pods: list[PodInfo], budgets: list[Object]
) -> tuple[list[PodInfo], list[PodInfo]]:
    """(pods whose eviction would violate a budget, the rest), each in the given order."""
    allowed = [
        (
            budget["metadata"]["namespace"],
            from_object(budget["spec"].get("selector")),
            (budget.get("status") or {}).get("disruptedPods") or {},
        )
        for budget in budgets
    ]
    left = [(budget.get("status") or {}).get("disruptionsAllowed", 0) for budget in budgets]
    violating: list[PodInfo] = []
    rest: list[PodInfo] = []
    for pod in pods:
        breaks = False
        for index, (namespace, selector, disrupted) in enumerate(allowed):
            if (
                namespace != pod.key[0]
                or not pod.group.labels
                or not selector.matches(pod.group.labels)
                or pod.key[1] in disrupted
            ):
                continue
            left[index] -= 1
            breaks |= left[index] < 0
        (violating if breaks else rest).append(pod)
    return violating, rest
