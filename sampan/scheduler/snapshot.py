"""The cluster as the scheduler believes it to be: the informers' picture plus the bindings that they do not show yet."""

from __future__ import annotations

from collections import Counter
from typing import Any

from sampan.scheduler import filters, scores
from sampan.scheduler.nodes import NodeInfo
from sampan.scheduler.pods import PodInfo, describe

Object = dict[str, Any]
REMEMBERED = 1024  # distinct pod constraints whose answers are kept


class Snapshot:
    def __init__(self) -> None:
        self.nodes: dict[str, NodeInfo] = {}
        self.where: dict[str, str] = {}  # pod uid -> node
        # Answers of the static filters: (constraints) -> node -> (the node's generation, why not)
        self.answers: dict[bytes, dict[str, tuple[int, str | None]]] = {}

    def set_node(self, node: Object) -> None:
        name = node["metadata"]["name"]
        self.nodes.setdefault(name, NodeInfo(name)).set_node(node)

    def remove_node(self, name: str) -> None:
        info = self.nodes.get(name)
        if info is None:
            return
        info.node = None
        if not info.pods:
            del self.nodes[name]

    def place(self, pod: PodInfo, node: str) -> None:
        """The pod takes its share of the node, from now on and whatever was believed before."""
        self.forget(pod.uid)
        self.nodes.setdefault(node, NodeInfo(node)).add(pod)
        self.where[pod.uid] = node

    def forget(self, uid: str) -> None:
        name = self.where.pop(uid, None)
        info = self.nodes.get(name) if name is not None else None
        if info is not None:
            info.remove(uid)
            if info.node is None and not info.pods:
                del self.nodes[info.name]

    def see_pod(self, pod: Object) -> None:
        """A bound pod as the API shows it."""
        self.place(describe(pod), pod["spec"]["nodeName"])

    def choose(self, pod: PodInfo) -> tuple[str | None, Counter[str], int]:
        """(best node or None, why the others were refused, nodes looked at). Ties go to the emptier, then by name."""
        reasons: Counter[str] = Counter()
        best: tuple[float, int, str] | None = None
        chosen: str | None = None
        known = self.answers.setdefault(pod.constraints, {})
        if len(self.answers) > REMEMBERED:
            self.answers.pop(next(iter(self.answers)))
        looked = 0
        for info in self.nodes.values():
            if info.node is None:
                continue
            looked += 1
            refusals = self.refusals(pod, info, known)
            if refusals:
                reasons.update(refusals)
                continue
            rank = (scores.total(pod, info), -len(info.pods), info.name)
            if best is None or rank > best:
                best, chosen = rank, info.name
        return chosen, reasons, looked

    def refusals(
        self, pod: PodInfo, info: NodeInfo, known: dict[str, tuple[int, str | None]]
    ) -> list[str]:
        answer = known.get(info.name)
        if answer is None or answer[0] != info.generation:
            reason = next((r for f in filters.STATIC if (r := f(pod, info))), None)
            answer = known[info.name] = (info.generation, reason)
        if answer[1] is not None:
            return [answer[1]]
        if reason := filters.ports(pod, info):
            return [reason]
        return filters.missing_resources(pod, info)


def explain(reasons: Counter[str], nodes: int) -> str:
    """The message of PodScheduled=False and of the event FailedScheduling, as kube-scheduler words it."""
    if not nodes:
        return "no nodes available to schedule pods"
    parts = sorted(f"{count} {reason}" for reason, count in reasons.items())
    return f"0/{nodes} nodes are available: {', '.join(parts)}."
