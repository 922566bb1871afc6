"""Filters: may a pod of this class run on this node? Each says why not, in the words that `kubectl describe pod` shows.

Pure functions of a class and a node. `STATIC` depends on labels, taints and the pod's constraints only, so its answers are
remembered; ports and resources depend on what else runs there. What depends on pods elsewhere is in `topology.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sampan.kube.placement import matches_node, tolerates
from sampan.scheduler.nodes import NodeInfo
from sampan.scheduler.pods import PodClass

Object = dict[str, Any]
Filter = Callable[[PodClass, NodeInfo], str | None]

NO_PORTS = "node(s) didn't have free ports for the requested pod ports"
UNSCHEDULABLE_TAINT = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}


def unschedulable(group: PodClass, node: NodeInfo) -> str | None:
    if not node.unschedulable or tolerates(group.spec, UNSCHEDULABLE_TAINT):
        return None
    return "node(s) were unschedulable"


def taints(group: PodClass, node: NodeInfo) -> str | None:
    for taint in node.taints:
        if taint["effect"] != "PreferNoSchedule" and not tolerates(group.spec, taint):
            return f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value') or ''}}}"
    return None


def node_affinity(group: PodClass, node: NodeInfo) -> str | None:
    if matches_node(group.spec, node.name, node.labels):
        return None
    return "node(s) didn't match Pod's node affinity/selector"


def reads_labels(spec: Object) -> bool:
    """The node's labels matter to the static filters and scores."""
    return bool(spec.get("nodeSelector") or (spec.get("affinity") or {}).get("nodeAffinity"))


def ports(group: PodClass, node: NodeInfo) -> str | None:
    if not group.ports:
        return None
    held = [*node.ports]
    for promised in node.nominated.values():
        if promised.priority >= group.priority:
            held += promised.group.ports
    for ip, protocol, number in group.ports:
        for held_ip, held_protocol, held_number in held:
            if (protocol, number) == (held_protocol, held_number) and (
                ip == held_ip or "0.0.0.0" in (ip, held_ip)
            ):
                return NO_PORTS
    return None


def missing_resources(group: PodClass, node: NodeInfo) -> list[str]:
    """What there is too little of, room promised to pods of at least this priority counting as taken."""
    have, taken, count = node.allocatable, node.requested, len(node.pods)
    promised = [p.group for p in node.nominated.values() if p.priority >= group.priority]
    if promised:
        taken, count = dict(taken), count + len(promised)
        for other in promised:
            for name, quantity in other.requests.items():
                taken[name] = taken.get(name, 0) + quantity
    result = []
    if count + 1 > have.get("pods", 0):
        result.append("Too many pods")
    for name, quantity in group.requests.items():
        if quantity > have.get(name, 0) - taken.get(name, 0):
            result.append(f"Insufficient {name}")
    return result


STATIC: tuple[Filter, ...] = (unschedulable, taints, node_affinity)
