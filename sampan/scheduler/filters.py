"""Filters: may a pod of this class run on this node? Each says why not, in the words that `kubectl describe pod` shows.

Pure functions of a class and a node. `STATIC` depends on labels, taints and the pod's constraints only, so its answers are
remembered; ports and resources depend on what else runs there. What depends on pods elsewhere is in `topology.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

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


def node_affinity(group: PodClass, node: NodeInfo) -> str | None:
    if matches_node(group.spec, node):
        return None
    return "node(s) didn't match Pod's node affinity/selector"


def matches_node(spec: Object, node: NodeInfo) -> bool:
    selector = spec.get("nodeSelector") or {}
    required = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    return selector.items() <= node.labels.items() and (
        required is None or any(matches_term(t, node) for t in required["nodeSelectorTerms"])
    )


def reads_labels(spec: Object) -> bool:
    """The node's labels matter to the static filters and scores."""
    return bool(spec.get("nodeSelector") or (spec.get("affinity") or {}).get("nodeAffinity"))


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
