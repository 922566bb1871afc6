"""Filters: may this pod run on this node? Each says why not, in the words that `kubectl describe pod` shows.

Pure functions of a pod and a node. `STATIC` depends on labels, taints and the pod's constraints only, so its answers are
remembered; `DYNAMIC` depends on what else runs there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sampan.scheduler.nodes import NodeInfo
from sampan.scheduler.pods import PodInfo

Object = dict[str, Any]
Filter = Callable[[PodInfo, NodeInfo], str | None]


def node_name(pod: PodInfo, node: NodeInfo) -> str | None:
    wanted = pod.spec.get("nodeName")
    return (
        "node(s) didn't match the requested node name" if wanted and wanted != node.name else None
    )


def unschedulable(pod: PodInfo, node: NodeInfo) -> str | None:
    assert node.node is not None
    if not node.node["spec"].get("unschedulable"):
        return None
    taint = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
    return None if tolerates(pod.spec, taint) else "node(s) were unschedulable"


def taints(pod: PodInfo, node: NodeInfo) -> str | None:
    assert node.node is not None
    for taint in node.node["spec"].get("taints") or ():
        if taint["effect"] != "PreferNoSchedule" and not tolerates(pod.spec, taint):
            value = taint.get("value") or ""
            return f"node(s) had untolerated taint {{{taint['key']}: {value}}}"
    return None


def tolerates(spec: Object, taint: Object) -> bool:
    return any(matches_taint(t, taint) for t in spec.get("tolerations") or ())


def matches_taint(toleration: Object, taint: Object) -> bool:
    if toleration.get("effect") and toleration["effect"] != taint["effect"]:
        return False
    operator, key = toleration.get("operator") or "Equal", toleration.get("key") or ""
    if key != taint["key"] and (key or operator != "Exists"):
        return False
    have, want = taint.get("value") or "", toleration.get("value") or ""
    match operator:
        case "Exists":
            return True
        case "Equal":
            return bool(have == want)
        case "Gt" | "Lt":  # KEP-5471
            number, bound = integer(have), integer(want)
            if number is None or bound is None:
                return False
            return number > bound if operator == "Gt" else number < bound
    return False


def node_affinity(pod: PodInfo, node: NodeInfo) -> str | None:
    selector = pod.spec.get("nodeSelector") or {}
    required = ((pod.spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    if not selector.items() <= node.labels.items() or (
        required is not None
        and not any(matches_term(t, node) for t in required["nodeSelectorTerms"])
    ):
        return "node(s) didn't match Pod's node affinity/selector"
    return None


def matches_term(term: Object, node: NodeInfo) -> bool:
    """All expressions of one term; a term without any matches nothing."""
    expressions = term.get("matchExpressions") or []
    fields = term.get("matchFields") or []
    if not expressions and not fields:
        return False
    names = {"metadata.name": node.name}
    return all(matches_expression(e, node.labels) for e in expressions) and all(
        matches_expression(f, names) for f in fields
    )


def matches_expression(expression: Object, values: Mapping[str, str]) -> bool:
    key, wanted = expression["key"], expression.get("values") or []
    have = values.get(key)
    match expression["operator"]:
        case "In":
            return have is not None and have in wanted
        case "NotIn":
            return have is None or have not in wanted
        case "Exists":
            return have is not None
        case "DoesNotExist":
            return have is None
        case "Gt" | "Lt" as operator:
            number, bound = integer(have), integer(wanted[0] if wanted else None)
            if number is None or bound is None:
                return False
            return number > bound if operator == "Gt" else number < bound
    return False


def integer(text: str | None) -> int | None:
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None


def ports(pod: PodInfo, node: NodeInfo) -> str | None:
    for ip, protocol, number in pod.ports:
        for held_ip, held_protocol, held_number in node.ports:
            if (protocol, number) == (held_protocol, held_number) and (
                ip == held_ip or "0.0.0.0" in (ip, held_ip)
            ):
                return "node(s) didn't have free ports for the requested pod ports"
    return None


def resources(pod: PodInfo, node: NodeInfo) -> str | None:
    lacking = missing_resources(pod, node)
    return ", ".join(lacking) or None


def missing_resources(pod: PodInfo, node: NodeInfo) -> list[str]:
    have = node.allocatable
    result = []
    if len(node.pods) + 1 > have.get("pods", 0):
        result.append("Too many pods")
    for name, quantity in pod.requests.items():
        if quantity > have.get(name, 0) - node.requested.get(name, 0):
            result.append(f"Insufficient {name}")
    return result


STATIC: tuple[Filter, ...] = (unschedulable, node_name, taints, node_affinity)
DYNAMIC: tuple[Filter, ...] = (ports, resources)
