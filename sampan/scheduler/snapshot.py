"""The cluster as the scheduler believes it to be: the informers' picture plus the bindings that they do not show yet.

Nodes have slots, which index the rankings. Every change of a node or of its pods is noted in `log` by slot; `epoch` moves
when slots themselves do. Rankings and columns remember how far they have read and catch up when they are asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from sampan.scheduler import filters, scores
from sampan.scheduler.nodes import NodeInfo
from sampan.scheduler.pods import PodClass, PodInfo, describe
from sampan.scheduler.ranking import Ranking, refusals
from sampan.scheduler.terms import Term
from sampan.scheduler.topology import Surroundings
from sampan.scheduler.volumes import ALREADY_USED, Volumes

if TYPE_CHECKING:
    from sampan.scheduler.columns import Columns

Object = dict[str, Any]
ARRAYS_FROM = 33  # nodes from which arrays pay for the import of numpy (10 MB, 0.1 s)
REMEMBERED = 256  # classes whose rankings, and constraints whose answers are kept
LOG_LIMIT = 1 << 16


class Choice(NamedTuple):
    node: str | None
    reasons: Counter[str]  # when there is none: how many nodes said what
    looked: int  # nodes there are


class Snapshot:
    def __init__(self, arrays_from: int = ARRAYS_FROM) -> None:
        self.nodes: dict[str, NodeInfo] = {}
        self.slots: list[NodeInfo] = []  # those whose node object is known
        self.epoch = 0
        self.log: list[int] = []
        self.where: dict[str, str] = {}  # pod uid -> node
        self.nominations: dict[str, str] = {}  # pod uid -> node
        self.population: dict[PodClass, dict[str, int]] = {}  # class -> node -> pods
        self.repelling: set[PodClass] = set()  # populated classes with required anti-affinity
        self.attracting: set[PodClass] = set()  # populated classes with terms that score
        self.claiming: set[PodClass] = set()  # populated classes with claims
        self.volumes = Volumes()
        self.namespaces: dict[str, Mapping[str, str]] = {}  # labels, as far as somebody asks
        self.meanings: dict[tuple[Term, PodClass], bool] = {}
        self.rankings: dict[PodClass, Ranking] = {}
        self.answers: dict[bytes, dict[Any, tuple[int, str | None, int]]] = {}
        self.answered_of_volumes: set[bytes] = set()  # the keys of answers that depend on volumes
        self._arrays_from = arrays_from
        self._columns: Columns | None = None

    # Nodes

    def set_node(self, node: Object) -> None:
        name = node["metadata"]["name"]
        info = self.nodes.setdefault(name, NodeInfo(name))
        info.set_node(node)
        if info.slot < 0:
            info.slot = len(self.slots)
            self.slots.append(info)
            self.epoch += 1
        else:
            self.touch(info)

    def remove_node(self, name: str) -> None:
        info = self.nodes.get(name)
        if info is None or info.node is None:
            return
        info.node = None
        self.slots = [other for other in self.slots if other is not info]
        for slot, other in enumerate(self.slots):
            other.slot = slot
        info.slot = -1
        self.epoch += 1
        self.drop_empty(info)

    def drop_empty(self, info: NodeInfo) -> None:
        if info.node is None and not info.pods and not info.nominated:
            self.nodes.pop(info.name, None)

    def touch(self, info: NodeInfo) -> None:
        if info.slot < 0:
            return
        self.log.append(info.slot)
        if len(self.log) > LOG_LIMIT:
            self.log = []
            self.epoch += 1

    def forget_answers(self) -> None:
        """Something that the static filters read besides nodes has changed."""
        self.answers.clear()
        self.meanings.clear()
        self.epoch += 1

    def forget_volumes(self) -> None:
        """A claim, a volume or a class has changed. Pods without claims are not concerned."""
        for constraints in self.answered_of_volumes:
            self.answers.pop(constraints, None)
        self.answered_of_volumes.clear()
        for group in [group for group in self.rankings if group.claims]:
            del self.rankings[group]

    # Pods

    def place(self, pod: PodInfo, node: str) -> None:
        """The pod takes its share of the node, from now on and whatever was believed before."""
        self.forget(pod.uid)
        info = self.nodes.setdefault(node, NodeInfo(node))
        info.add(pod)
        self.where[pod.uid] = node
        self.populate(pod.group, node, 1)
        self.touch(info)

    def forget(self, uid: str) -> None:
        name = self.where.pop(uid, None)
        info = self.nodes.get(name) if name is not None else None
        if info is None:
            return
        pod = info.remove(uid)
        if pod is not None:
            self.populate(pod.group, info.name, -1)
        self.touch(info)
        self.drop_empty(info)

    def populate(self, group: PodClass, node: str, sign: int) -> None:
        counts = self.population.get(group)
        if counts is None:
            counts = self.population[group] = {}
            if group.anti_affinity:
                self.repelling.add(group)
            if group.preferred or group.affinity:
                self.attracting.add(group)
            if group.claims:
                self.claiming.add(group)
        left = counts.get(node, 0) + sign
        if left:
            counts[node] = left
        else:
            del counts[node]
            if not counts:
                del self.population[group]
                self.repelling.discard(group)
                self.attracting.discard(group)
                self.claiming.discard(group)

    def see_pod(self, pod: Object) -> None:
        """A bound pod as the API shows it."""
        fresh = describe(pod)
        node = pod["spec"]["nodeName"]
        if self.where.get(fresh.uid) == node:
            known = self.nodes[node].pods[fresh.uid]
            if known.group is fresh.group:
                known.pod = pod
                return
        self.place(fresh, node)

    def nominate(self, pod: PodInfo, node: str) -> None:
        """Promise room on the node; only pods of higher priority may take it."""
        self.withdraw(pod.uid)
        info = self.nodes.setdefault(node, NodeInfo(node))
        info.nominated[pod.uid] = pod
        self.nominations[pod.uid] = node
        self.touch(info)

    def withdraw(self, uid: str) -> str | None:
        """End a nomination; the node that it was for."""
        name = self.nominations.pop(uid, None)
        info = self.nodes.get(name) if name is not None else None
        if info is not None:
            info.nominated.pop(uid, None)
            self.touch(info)
            self.drop_empty(info)
        return name

    # Decisions

    @property
    def arrays(self) -> bool:
        return len(self.slots) >= self._arrays_from

    def columns(self) -> Columns:
        from sampan.scheduler.columns import Columns

        if self._columns is None:
            self._columns = Columns()
        self._columns.refresh(self)
        return self._columns

    def static(self, group: PodClass, info: NodeInfo) -> tuple[str | None, int]:
        """(why not, score) by what of the node does not depend on its pods; remembered."""
        known = self.answers.get(group.constraints)
        if known is None:
            if len(self.answers) >= REMEMBERED:
                self.answers.pop(next(iter(self.answers)))
            known = self.answers[group.constraints] = {}
            if group.claims:
                self.answered_of_volumes.add(group.constraints)
        plain = not (group.claims or filters.reads_labels(group.spec) or info.images)
        key: Any = info.profile if plain else info.name
        answer = known.get(key)
        if answer is None or (not plain and answer[0] != info.generation):
            reason = next((r for f in filters.STATIC if (r := f(group, info))), None)
            if reason is None and group.claims:
                reason = self.volumes.refusal(group, info)
            answer = known[key] = (info.generation, reason, scores.static_score(group, info))
        return answer[1], answer[2]

    def means(self, term: Term, group: PodClass) -> bool:
        key = term, group
        found = self.meanings.get(key)
        if found is None:
            if len(self.meanings) > LOG_LIMIT:
                self.meanings.clear()
            found = self.meanings[key] = term.means(
                group.namespace, group.labels, lambda name: self.namespaces.get(name, {})
            )
        return found

    def ranking(self, group: PodClass) -> Ranking:
        ranking = self.rankings.get(group)
        if ranking is None:
            if len(self.rankings) >= REMEMBERED:
                self.rankings.pop(next(iter(self.rankings)))
            ranking = self.rankings[group] = Ranking(group)
        ranking.refresh(self)
        return ranking

    def surroundings(self, group: PodClass) -> Surroundings | None:
        """What other pods mean to this class; None when no pod and no term makes a difference."""
        if group.looks_around or any(
            self.means(term, group)
            for other in self.repelling | self.attracting
            for term in (*other.anti_affinity, *other.affinity, *other.preferred)
        ):
            return Surroundings(self, group)
        return None

    def choose(self, pod: PodInfo) -> Choice:
        """The best node, or why there is none. Equals go to the emptier, then to the one known longest."""
        group = pod.group
        looked = len(self.slots)
        if group.claims:
            problem = self.volumes.problem(pod)
            if problem is not None:
                return Choice(None, Counter({problem: 0}), looked)
            if self.used_by_other(group):
                return Choice(None, Counter({ALREADY_USED: looked}), looked)
        ranking = self.ranking(group)
        surroundings = self.surroundings(group)
        if surroundings is not None:
            return self.choose_among(group, ranking, surroundings)
        slot = ranking.best()
        if slot >= 0:
            return Choice(self.slots[slot].name, Counter(), looked)
        return Choice(None, ranking.reasons(self), looked)

    def choose_among(self, group: PodClass, ranking: Ranking, around: Surroundings) -> Choice:
        reasons: Counter[str] = Counter()
        feasible: list[NodeInfo] = []
        ranks = ranking.ranks.tolist() if ranking.arrays else ranking.ranks
        for info, rank in zip(self.slots, ranks, strict=True):
            if rank < 0:
                continue
            refusal = around.refusal(info)
            if refusal is None:
                feasible.append(info)
            else:
                reasons[refusal] += 1
        if not feasible:
            for info, rank in zip(self.slots, ranks, strict=True):
                if rank < 0:
                    reasons.update(refusals(self, group, info))
            return Choice(None, reasons, len(self.slots))
        extra = around.scores(feasible)
        best = max(
            range(len(feasible)),
            key=lambda i: ranks[feasible[i].slot] + (extra[i] << scores.COUNT_BITS),
        )
        return Choice(feasible[best].name, reasons, len(self.slots))

    def used_by_other(self, group: PodClass) -> bool:
        """A claim that one pod alone may use (KEP-2485) is in use."""
        return bool(group.claims) and any(
            name in other.claims
            for name in self.volumes.for_one_pod(group)
            for other in self.claiming
            if other.namespace == group.namespace
        )

    def refusals(self, group: PodClass, info: NodeInfo) -> list[str]:
        """Everything considered: why not this node."""
        found = refusals(self, group, info)
        if not found and self.used_by_other(group):
            found = [ALREADY_USED]
        if not found:
            around = self.surroundings(group)
            reason = around.refusal(info) if around is not None else None
            if reason is not None:
                found = [reason]
        return found


def explain(reasons: Counter[str], nodes: int) -> str:
    """The message of PodScheduled=False and of the event FailedScheduling, as kube-scheduler words it."""
    if not nodes:
        return "no nodes available to schedule pods"
    # A reason that stands for the pod, not for nodes, has no count.
    parts = sorted(f"{count} {reason}" if count else reason for reason, count in reasons.items())
    return f"0/{nodes} nodes are available: {', '.join(parts)}."
