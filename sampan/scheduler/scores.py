"""Scores: which of the nodes that can take the pod is the best. Each is 0 to 10,000, times its weight; the sum decides.

The set and the weights follow kube-scheduler's defaults: least allocated and balanced resources spread load, preferred
affinity, `PreferNoSchedule` taints and images that are there already steer it. All arithmetic is on whole numbers, so that
`columns.py` computes the very same with arrays.
"""

from __future__ import annotations

from sampan.kube.placement import matches_term, tolerates
from sampan.scheduler.nodes import NodeInfo
from sampan.scheduler.pods import PodClass

TOP = 10_000
PREFERRED, TOLERATED, IMAGES = 2, 3, 1  # weights of the static scores
AFFINITY, SPREADING = 2, 2  # weights of those in `topology.py`

# A rank is one number: the score above, the emptier node below.
COUNT_BITS = 20
COUNT_MASK = (1 << COUNT_BITS) - 1


def share(used: int, capacity: int) -> int:
    """How much is taken, of 10,000; all of it when there is none."""
    return min(TOP, used * TOP // capacity) if capacity else TOP


def load_score(group: PodClass, node: NodeInfo) -> int:
    """Least allocated plus balanced: prefer the emptier node, and one whose CPU and memory fill alike."""
    have = node.allocatable
    cpu = share(node.weight[0] + group.weight[0], have.get("cpu", 0))
    memory = share(node.weight[1] + group.weight[1], have.get("memory", 0))
    return (2 * TOP - cpu - memory) // 2 + TOP - abs(cpu - memory) // 2


def static_score(group: PodClass, node: NodeInfo) -> int:
    return (
        PREFERRED * preferred_affinity(group, node)
        + TOLERATED * tolerated(group, node)
        + IMAGES * image_locality(group, node)
    )


def preferred_affinity(group: PodClass, node: NodeInfo) -> int:
    terms = ((group.spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "preferredDuringSchedulingIgnoredDuringExecution"
    ) or ()
    total = sum(term["weight"] for term in terms)
    won = sum(
        term["weight"] for term in terms if matches_term(term["preference"], node.name, node.labels)
    )
    return TOP * won // total if total else 0


def tolerated(group: PodClass, node: NodeInfo) -> int:
    soft = [taint for taint in node.taints if taint["effect"] == "PreferNoSchedule"]
    bad = sum(not tolerates(group.spec, taint) for taint in soft)
    return TOP // (1 + bad)


def image_locality(group: PodClass, node: NodeInfo) -> int:
    if not node.images:
        return 0
    return TOP * sum(image in node.images for image in group.images) // len(group.images)


def rank(score: int, pods: int) -> int:
    return score << COUNT_BITS | COUNT_MASK - min(pods, COUNT_MASK)
