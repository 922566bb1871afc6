"""Where a pod may run, as its spec says: tolerations against taints, node selector and node affinity against labels. Pure.

Source: kubernetes.io/docs/concepts/scheduling-eviction, KEP-5471 for numeric tolerations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Object = dict[str, Any]
Labels = Mapping[str, str]


def tolerates(spec: Object, taint: Object) -> bool:
    """Does any of the pod's tolerations match?"""
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


def matches_node(spec: Object, name: str, labels: Labels) -> bool:
    """The pod's node selector and its required node affinity."""
    selector = spec.get("nodeSelector") or {}
    required = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    return selector.items() <= labels.items() and (
        required is None
        or any(matches_term(t, name, labels) for t in required["nodeSelectorTerms"])
    )


def matches_term(term: Object, name: str, labels: Labels) -> bool:
    """All expressions of one term; a term without any matches nothing."""
    expressions = term.get("matchExpressions") or []
    fields = term.get("matchFields") or []
    if not expressions and not fields:
        return False
    names = {"metadata.name": name}
    return all(matches_expression(e, labels) for e in expressions) and all(
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
