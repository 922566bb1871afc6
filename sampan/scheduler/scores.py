"""Scores: which of the nodes that can take the pod is the best. Each is 0 to 100, times its weight; the sum decides.

The set and the weights follow kube-scheduler's defaults: least allocated and balanced resources spread load, preferred
affinity, `PreferNoSchedule` taints and images that are there already steer it.
"""

from __future__ import annotations

from collections.abc import Callable

from sampan.scheduler.filters import matches_term, tolerates
from sampan.scheduler.nodes import NodeInfo
from sampan.scheduler.pods import PodInfo

Score = Callable[[PodInfo, NodeInfo], float]


def least_allocated(pod: PodInfo, node: NodeInfo) -> float:
    shares = fractions(pod, node)
    return 100.0 * sum(max(0.0, 1.0 - share) for share in shares) / len(shares)


def balanced(pod: PodInfo, node: NodeInfo) -> float:
    cpu, memory = fractions(pod, node)
    return 100.0 * (1.0 - abs(min(cpu, 1.0) - min(memory, 1.0)) / 2)


def fractions(pod: PodInfo, node: NodeInfo) -> tuple[float, float]:
    cpu, memory = node.allocatable.get("cpu", 0), node.allocatable.get("memory", 0)
    return (
        (node.weight[0] + pod.weight[0]) / cpu if cpu else 1.0,
        (node.weight[1] + pod.weight[1]) / memory if memory else 1.0,
    )


def preferred_affinity(pod: PodInfo, node: NodeInfo) -> float:
    terms = ((pod.spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "preferredDuringSchedulingIgnoredDuringExecution"
    ) or ()
    total = sum(term["weight"] for term in terms)
    won = sum(term["weight"] for term in terms if matches_term(term["preference"], node))
    return 100.0 * won / total if total else 0.0


def tolerated(pod: PodInfo, node: NodeInfo) -> float:
    assert node.node is not None
    soft = [t for t in node.node["spec"].get("taints") or () if t["effect"] == "PreferNoSchedule"]
    bad = sum(not tolerates(pod.spec, taint) for taint in soft)
    return 100.0 / (1 + bad)


def image_locality(pod: PodInfo, node: NodeInfo) -> float:
    containers = pod.spec["containers"]
    there = sum(container.get("image", "") in node.images for container in containers)
    return 100.0 * there / len(containers)


SCORES: tuple[tuple[Score, float], ...] = (
    (least_allocated, 1.0),
    (balanced, 1.0),
    (preferred_affinity, 2.0),
    (tolerated, 3.0),
    (image_locality, 1.0),
)


def total(pod: PodInfo, node: NodeInfo) -> float:
    return sum(weight * score(pod, node) for score, weight in SCORES)
