"""Surroundings: what the pods that run elsewhere mean for a new one: inter-pod affinity and topology spread constraints.

Worked out for one decision. Pods are counted by class and by domain (the value of a topology key), so the cost follows the
number of classes that a term means, not the number of pods. Rules: the API reference of PodAffinityTerm and
TopologySpreadConstraint, KEP-895, KEP-3022, KEP-3094.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from sampan.scheduler import filters
from sampan.scheduler.scores import AFFINITY, SPREADING, TOP

if TYPE_CHECKING:
    from sampan.scheduler.nodes import NodeInfo
    from sampan.scheduler.pods import PodClass
    from sampan.scheduler.snapshot import Snapshot
    from sampan.scheduler.terms import Spread, Term

Domain = tuple[str, str]  # topology key, value

NOT_NEAR = "node(s) didn't match pod affinity rules"
NOT_AWAY = "node(s) didn't match pod anti-affinity rules"
REPELLED = "node(s) didn't satisfy existing pods anti-affinity rules"
UNEVEN = "node(s) didn't match pod topology spread constraints"
NO_DOMAIN = f"{UNEVEN} (missing required label)"
# A node without the topology key has no domain: the least populated constraint cannot be met there by moving pods.
UNHELPFUL = frozenset((NOT_NEAR, NO_DOMAIN))


class Evenness:
    """One spread constraint: how many matching pods each domain has."""

    def __init__(self, snapshot: Snapshot, group: PodClass, spread: Spread, keys: set[str]) -> None:
        self.spread = spread
        self.counts: dict[str, int] = {}
        self.own = int(spread.selector.matches(group.labels))
        meant = [
            other
            for other in snapshot.population
            if other.namespace == group.namespace
            and not other.deleting
            and spread.selector.matches(other.labels)
        ]
        for info in snapshot.slots:
            if not (keys <= info.labels.keys() and counts_for(group, spread, info)):
                continue
            domain = info.labels[spread.topology_key]
            here = sum(info.classes.get(other, 0) for other in meant)
            self.counts[domain] = self.counts.get(domain, 0) + here
        enough = len(self.counts) >= spread.minimum
        self.least = min(self.counts.values(), default=0) if enough else 0

    def refuses(self, domain: str) -> bool:
        return self.counts.get(domain, 0) + self.own - self.least > self.spread.skew


def counts_for(group: PodClass, spread: Spread, info: NodeInfo) -> bool:
    if spread.honor_affinity and not filters.matches_node(group.spec, info.name, info.labels):
        return False
    return not spread.honor_taints or not (
        filters.taints(group, info) or filters.unschedulable(group, info)
    )


class Surroundings:
    def __init__(self, snapshot: Snapshot, group: PodClass) -> None:
        self.snapshot = snapshot
        self.group = group
        self.near = self.near_domains()
        self.alone = self.is_first()
        self.away = self.domains_of_pods(group.anti_affinity)
        self.repelled = self.repelled_domains()
        hard = [spread for spread in group.spreads if spread.hard]
        keys = {spread.topology_key for spread in hard}
        self.hard = [Evenness(snapshot, group, spread, keys) for spread in hard]

    def where(self, other: PodClass, key: str) -> list[tuple[Domain, int]]:
        """The domains that pods of a class run in, and how many."""
        found = []
        for name, count in self.snapshot.population[other].items():
            value = self.snapshot.nodes[name].labels.get(key)
            if value is not None:
                found.append(((key, value), count))
        return found

    def near_domains(self) -> set[Domain]:
        """Domains with a pod that all required affinity terms mean."""
        terms = self.group.affinity
        if not terms:
            return set()
        means = self.snapshot.means
        return {
            domain
            for other in self.snapshot.population
            if all(means(term, other) for term in terms)
            for term in terms
            for domain, _ in self.where(other, term.topology_key)
        }

    def is_first(self) -> bool:
        """Nobody it wants to be near to is anywhere, but it would itself be one: the first of a group may start."""
        return not self.near and all(
            self.snapshot.means(term, self.group) for term in self.group.affinity
        )

    def domains_of_pods(self, terms: tuple[Term, ...]) -> set[Domain]:
        return {
            domain
            for term in terms
            for other in self.snapshot.population
            if self.snapshot.means(term, other)
            for domain, _ in self.where(other, term.topology_key)
        }

    def repelled_domains(self) -> set[Domain]:
        return {
            domain
            for other in self.snapshot.repelling
            for term in other.anti_affinity
            if self.snapshot.means(term, self.group)
            for domain, _ in self.where(other, term.topology_key)
        }

    def refusal(self, info: NodeInfo) -> str | None:
        labels = info.labels
        for evenness in self.hard:
            domain = labels.get(evenness.spread.topology_key)
            if domain is None:
                return NO_DOMAIN
            if evenness.refuses(domain):
                return UNEVEN
        for term in self.group.affinity:
            value = labels.get(term.topology_key)
            if value is None or ((term.topology_key, value) not in self.near and not self.alone):
                return NOT_NEAR
        for term in self.group.anti_affinity:
            if (term.topology_key, labels.get(term.topology_key, "")) in self.away:
                return NOT_AWAY
        if any(labels.get(key) == value for key, value in self.repelled):
            return REPELLED
        return None

    # Wishes

    def scores(self, feasible: list[NodeInfo]) -> list[int]:
        wished = normalized(self.affinity_scores(feasible))
        even = self.spread_scores(feasible)
        return [AFFINITY * a + SPREADING * b for a, b in zip(wished, even, strict=True)]

    def affinity_scores(self, feasible: list[NodeInfo]) -> list[int]:
        """What preferred terms say, the new pod's own and those of pods that are there (which want it near, or not)."""
        worth: Counter[Domain] = Counter()
        snapshot, group = self.snapshot, self.group
        for term in group.preferred:
            for other in snapshot.population:
                if snapshot.means(term, other):
                    for domain, count in self.where(other, term.topology_key):
                        worth[domain] += term.weight * count
        for other in snapshot.attracting:
            for term in (*other.preferred, *other.affinity):
                if snapshot.means(term, group):
                    for domain, count in self.where(other, term.topology_key):
                        worth[domain] += (term.weight or 1) * count
        keys = {key for key, _ in worth}
        return [
            sum(worth.get((key, info.labels[key]), 0) for key in keys & info.labels.keys())
            for info in feasible
        ]

    def spread_scores(self, feasible: list[NodeInfo]) -> list[int]:
        soft = [spread for spread in self.group.spreads if not spread.hard]
        if not soft:
            return [0] * len(feasible)
        parts = [
            Evenness(self.snapshot, self.group, spread, {spread.topology_key}) for spread in soft
        ]
        # Fewer domains weigh less, so that a spread over zones does not drown one over nodes.
        weights = [round(1000 * math.log(len(part.counts) + 2)) for part in parts]
        raw: list[int | None] = []
        for info in feasible:
            if any(part.spread.topology_key not in info.labels for part in parts):
                raw.append(None)
                continue
            raw.append(
                sum(
                    weight * part.counts.get(info.labels[part.spread.topology_key], 0)
                    + 1000 * (part.spread.skew - 1)
                    for part, weight in zip(parts, weights, strict=True)
                )
            )
        known = [value for value in raw if value is not None]
        most, least = max(known, default=0), min(known, default=0)
        return [
            0 if value is None else TOP * (most + least - value) // most if most else TOP
            for value in raw
        ]


def normalized(values: list[int]) -> list[int]:
    """Spread over 0 … TOP; all 0 when there is no difference."""
    least, most = min(values), max(values)
    if least == most:
        return [0] * len(values)
    return [TOP * (value - least) // (most - least) for value in values]
