"""Terms by which a pod wants to be near to, away from, or evenly spread over other pods; read once for a class of pods.

Which pods a term means depends on their namespace and labels only, so a term is asked about classes, not about pods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sampan.kube.selectors import LabelSelector, from_object

Object = dict[str, Any]
Labels = Mapping[str, str]
NamespaceLabels = Callable[[str], Labels]


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    selector: LabelSelector
    namespaces: frozenset[str]
    namespace_selector: LabelSelector | None  # in addition to `namespaces`
    topology_key: str
    weight: int = 0  # of a preferred term

    def means(self, namespace: str, labels: Labels, labels_of: NamespaceLabels) -> bool:
        """Does the term mean pods of that namespace with those labels?"""
        if namespace not in self.namespaces:
            wanted = self.namespace_selector
            if wanted is None or not (wanted.empty or wanted.matches(labels_of(namespace))):
                return False
        return self.selector.matches(labels)

    @property
    def needs_namespaces(self) -> bool:
        return self.namespace_selector is not None and not self.namespace_selector.empty


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    selector: LabelSelector
    topology_key: str
    skew: int
    hard: bool  # whenUnsatisfiable: DoNotSchedule
    minimum: int  # domains that there must be, or the least populated counts as empty (KEP-3022)
    honor_affinity: bool  # nodes that the pod's selector refuses do not count (KEP-3094)
    honor_taints: bool


def read_terms(
    items: Iterable[Object] | None, namespace: str, labels: Labels, *, sign: int = 1
) -> tuple[Term, ...]:
    found = []
    for item in items or ():
        weight, term = item.get("weight", 0), item.get("podAffinityTerm") or item
        named = frozenset(term.get("namespaces") or ())
        selector = term.get("namespaceSelector")
        found.append(
            Term(
                narrowed(term, labels),
                named if named or selector is not None else frozenset((namespace,)),
                None if selector is None else from_object(selector),
                term["topologyKey"],
                sign * weight,
            )
        )
    return tuple(found)


def narrowed(term: Object, labels: Labels) -> LabelSelector:
    """The label selector with `matchLabelKeys` and `mismatchLabelKeys` (KEP-3633, KEP-3243) filled from the pod's labels."""
    selector = term.get("labelSelector")
    extra = [
        {"key": key, "operator": operator, "values": [labels[key]]}
        for field, operator in (("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn"))
        for key in term.get(field) or ()
        if key in labels
    ]
    if selector is not None and extra:
        present = selector.get("matchExpressions") or []
        fresh = [expression for expression in extra if expression not in present]
        selector = {**selector, "matchExpressions": [*present, *fresh]}
    return from_object(selector)


def read_spreads(items: Iterable[Object] | None, labels: Labels) -> tuple[Spread, ...]:
    return tuple(
        Spread(
            narrowed(item, labels),
            item["topologyKey"],
            item["maxSkew"],
            item.get("whenUnsatisfiable", "DoNotSchedule") == "DoNotSchedule",
            item.get("minDomains") or 1,
            item.get("nodeAffinityPolicy", "Honor") == "Honor",
            item.get("nodeTaintsPolicy", "Ignore") == "Honor",
        )
        for item in items or ()
    )
