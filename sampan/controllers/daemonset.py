"""DaemonSet controller: one pod on every node that its template may run on, and an update node by node.

Each pod is bound to its node by a required node affinity on `metadata.name`, so the scheduler checks room and ports as
for any pod. What a node needs is decided in `wanted`, `update`: pure functions of the set, the node and the pods there.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict

from sampan.client.resources import CONTROLLERREVISIONS, DAEMONSETS, NODES, PODS
from sampan.controllers.base import (
    Context,
    Controller,
    Expectations,
    Key,
    Object,
    Requeue,
    Watch,
)
from sampan.controllers.history import HASH, History
from sampan.controllers.pods import (
    available_in,
    claim,
    create_pods,
    delete_pod,
    from_template,
    is_active,
    is_available,
)
from sampan.controllers.rollout import resolve
from sampan.kube.objects import clone, is_deleting, labels, parse_time, pod_finished, pod_ready
from sampan.kube.placement import matches_node, tolerates
from sampan.kube.selectors import from_object

BURST = 250
# What a daemon tolerates whatever its template says: it belongs to the node.
TOLERATIONS = tuple(
    {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": effect}
    for key, effect in (
        ("not-ready", "NoExecute"),
        ("unreachable", "NoExecute"),
        ("disk-pressure", "NoSchedule"),
        ("memory-pressure", "NoSchedule"),
        ("pid-pressure", "NoSchedule"),
        ("unschedulable", "NoSchedule"),
    )
)
HOST_TOLERATION = {
    "key": "node.kubernetes.io/network-unavailable",
    "operator": "Exists",
    "effect": "NoSchedule",
}


def placed(old: Object, new: Object) -> bool:
    """Did anything change that decides whether a daemon runs on the node?"""
    before, after = old["metadata"].get("labels"), new["metadata"].get("labels")
    return before != after or old["spec"].get("taints") != new["spec"].get("taints")


class DaemonSetController(Controller):
    name = "daemonset-controller"
    watches = (
        Watch(DAEMONSETS),
        Watch(CONTROLLERREVISIONS, owner="DaemonSet"),
        Watch(PODS, owner="DaemonSet"),
        Watch(NODES, keys=lambda self, node: self.everyone(), matters=placed),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.sets = self.informer(DAEMONSETS)
        self.revisions = self.informer(CONTROLLERREVISIONS)
        self.nodes = self.informer(NODES)
        self.pods = self.informer(PODS)
        self.expectations = Expectations(self.pods)
        self.events = context.recorder(self.name)

    def everyone(self) -> list[Key]:
        return [
            Key(each["metadata"]["namespace"], each["metadata"]["name"])
            for each in self.sets.list()
        ]

    async def reconcile(self, key: Key) -> Requeue | None:
        daemon = self.sets.get(*key)
        if daemon is None:
            self.expectations.forget(key)
            return None
        selector = from_object(daemon["spec"]["selector"])
        pods = await claim(self.client, self.pods, DAEMONSETS, daemon, selector)
        if is_deleting(daemon):
            return None
        history = History(self.client, self.revisions, daemon)
        collisions = (daemon.get("status") or {}).get("collisionCount", 0)
        revision, collisions = await history.current(collisions)
        digest = revision["metadata"]["labels"][HASH]
        by_node = group_by_node(pods)
        if self.expectations.satisfied(key):
            await self.arrange(key, daemon, by_node, digest)
        if self.expectations.satisfied(key) and strategy(daemon) == "RollingUpdate":
            await self.roll(key, daemon, by_node, digest)
        used = {
            each["metadata"]["name"]
            for each in history.revisions
            if any(labels(pod).get(HASH) == each["metadata"]["labels"].get(HASH) for pod in pods)
        }
        await history.forget_old(used | {revision["metadata"]["name"]})
        await self.write_status(daemon, by_node, digest, collisions)
        wait = available_in(pods, daemon["spec"].get("minReadySeconds", 0), self.clock())
        return Requeue(wait + 0.01) if wait is not None else None

    async def arrange(
        self, key: Key, daemon: Object, by_node: dict[str, list[Object]], digest: str
    ) -> None:
        """A pod where one belongs and none is; none where none belongs; a failed one makes room for the next."""
        create: list[str] = []
        delete: list[Object] = []
        nodes = {node["metadata"]["name"]: node for node in self.nodes.list()}
        for name, node in nodes.items():
            should_run, may_stay = wanted(daemon, node)
            present = [pod for pod in by_node.get(name, ()) if not is_deleting(pod)]
            if not should_run and not may_stay:
                delete += present
            elif may_stay:
                failed = [pod for pod in present if pod_finished(pod)]
                for pod in failed:
                    text = f"Found failed daemon pod {key.namespace}/{pod['metadata']['name']} on node {name}, will try to kill it"
                    self.events.event(daemon, "Warning", "FailedDaemonPod", text)
                delete += failed
                alive = [pod for pod in present if not pod_finished(pod)]
                delete += surplus(daemon, alive, digest)
                # Where one is ending its successor waits, unless it may run beside it.
                if should_run and not alive and not failed and not by_node.get(name):
                    create.append(name)
        for name, present in by_node.items():
            if name and name not in nodes:
                delete += [pod for pod in present if not is_deleting(pod)]
        await asyncio.gather(*(self.delete(key, daemon, pod) for pod in delete))
        await self.create_all(key, daemon, create, digest)

    async def create_all(self, key: Key, daemon: Object, names: list[str], digest: str) -> None:
        made = [self.create(key, daemon, name, digest) for name in names[:BURST]]
        await create_pods(made, self.events, daemon)

    async def create(self, key: Key, daemon: Object, node: str, digest: str) -> None:
        made = await self.client.create(PODS, pod_for(daemon, node, digest), key.namespace)
        self.expectations.expect_created(key, made)
        text = f"Created pod: {made['metadata']['name']}"
        self.events.event(daemon, "Normal", "SuccessfulCreate", text)

    async def delete(self, key: Key, daemon: Object, pod: Object) -> None:
        await delete_pod(self.client, self.expectations, key, pod)
        text = f"Deleted pod: {pod['metadata']['name']}"
        self.events.event(daemon, "Normal", "SuccessfulDelete", text)

    async def roll(
        self, key: Key, daemon: Object, by_node: dict[str, list[Object]], digest: str
    ) -> None:
        targets = {
            node["metadata"]["name"] for node in self.nodes.list() if wanted(daemon, node)[0]
        }
        stale, missing = update(daemon, by_node, targets, digest, self.clock())
        await asyncio.gather(*(self.delete(key, daemon, pod) for pod in stale))
        await self.create_all(key, daemon, missing, digest)

    async def write_status(
        self, daemon: Object, by_node: dict[str, list[Object]], digest: str, collisions: int
    ) -> None:
        seconds = daemon["spec"].get("minReadySeconds", 0)
        count = dict.fromkeys(
            ("desired", "current", "misscheduled", "ready", "available", "updated"), 0
        )
        for node in self.nodes.list():
            should_run, _ = wanted(daemon, node)
            present = [p for p in by_node.get(node["metadata"]["name"], ()) if is_active(p)]
            if not should_run:
                count["misscheduled"] += bool(present)
                continue
            count["desired"] += 1
            if not present:
                continue
            oldest = min(present, key=lambda pod: parse_time(pod["metadata"]["creationTimestamp"]))
            count["current"] += 1
            count["ready"] += any(pod_ready(pod) for pod in present)
            count["available"] += any(is_available(p, seconds, self.clock()) for p in present)
            newest = next((p for p in present if labels(p).get(HASH) == digest), oldest)
            count["updated"] += labels(newest).get(HASH) == digest
        status = {
            "currentNumberScheduled": count["current"],
            "numberMisscheduled": count["misscheduled"],
            "desiredNumberScheduled": count["desired"],
            "numberReady": count["ready"],
            "observedGeneration": daemon["metadata"].get("generation", 0),
            "updatedNumberScheduled": count["updated"],
            "numberAvailable": count["available"],
            "numberUnavailable": count["desired"] - count["available"],
            "collisionCount": collisions,
            "conditions": (daemon.get("status") or {}).get("conditions"),
        }
        always = (
            "currentNumberScheduled",
            "numberMisscheduled",
            "desiredNumberScheduled",
            "numberReady",
        )
        status = {name: value for name, value in status.items() if value or name in always}
        if status != (daemon.get("status") or {}):
            await self.client.update(DAEMONSETS, {**daemon, "status": status}, "status")


# Decisions


def strategy(daemon: Object) -> str:
    return (daemon["spec"].get("updateStrategy") or {}).get("type", "RollingUpdate")


def wanted(daemon: Object, node: Object) -> tuple[bool, bool]:
    """(a pod should run here, one that is here may stay)."""
    spec = pod_spec(daemon)
    metadata = node["metadata"]
    if spec.get("nodeName") not in (None, "", metadata["name"]):
        return False, False
    if not matches_node(spec, metadata["name"], metadata.get("labels") or {}):
        return False, False
    taints = node["spec"].get("taints") or ()
    foreign = [taint for taint in taints if not tolerates(spec, taint)]
    evicting = any(taint["effect"] == "NoExecute" for taint in foreign)
    keeping_out = any(taint["effect"] in ("NoExecute", "NoSchedule") for taint in foreign)
    return not keeping_out, not evicting


def pod_spec(daemon: Object) -> Object:
    """The template's spec with what every daemon tolerates."""
    spec = {**daemon["spec"]["template"]["spec"]}
    given = list(spec.get("tolerations") or ())
    extra = [*TOLERATIONS, *([HOST_TOLERATION] if spec.get("hostNetwork") else [])]
    spec["tolerations"] = given + [each for each in extra if each not in given]
    return spec


def pod_for(daemon: Object, node: str, digest: str) -> Object:
    """The pod for one node: any node affinity of the template is narrowed to that node."""
    pod = clone(from_template(daemon["spec"]["template"], daemon))
    pod["spec"] = clone(pod_spec(daemon))
    generation = (daemon["metadata"].get("annotations") or {}).get(
        "deprecated.daemonset.template.generation"
    )
    marks = pod["metadata"].setdefault("labels", {})
    marks[HASH] = digest
    if generation:
        marks["pod-template-generation"] = generation
    here = [{"key": "metadata.name", "operator": "In", "values": [node]}]
    affinity = pod["spec"].setdefault("affinity", {}).setdefault("nodeAffinity", {})
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    terms = (required or {}).get("nodeSelectorTerms") or [{}]
    affinity["requiredDuringSchedulingIgnoredDuringExecution"] = {
        "nodeSelectorTerms": [{**term, "matchFields": here} for term in terms]
    }
    return pod


def node_of(pod: Object) -> str:
    """The node that a daemon is meant for, before it is bound, too."""
    if pod["spec"].get("nodeName"):
        return pod["spec"]["nodeName"]
    affinity = ((pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    ) or {}
    for term in affinity.get("nodeSelectorTerms") or ():
        for field in term.get("matchFields") or ():
            if field["key"] == "metadata.name" and len(field.get("values") or ()) == 1:
                return field["values"][0]
    return ""


def group_by_node(pods: list[Object]) -> dict[str, list[Object]]:
    found: dict[str, list[Object]] = defaultdict(list)
    for pod in pods:
        found[node_of(pod)].append(pod)
    return dict(found)


def surplus(daemon: Object, alive: list[Object], digest: str) -> list[Object]:
    """All but the pods that should be there: the oldest, and while an update may surge the newest of each version."""
    if len(alive) <= 1:
        return []
    ordered = sorted(alive, key=lambda pod: parse_time(pod["metadata"]["creationTimestamp"]))
    if not most_surge(daemon, 1):
        return ordered[1:]
    old = [pod for pod in ordered if labels(pod).get(HASH) != digest]
    new = [pod for pod in ordered if labels(pod).get(HASH) == digest]
    return old[1:] + new[1:]


def most_surge(daemon: Object, count: int) -> int:
    rolling = (daemon["spec"].get("updateStrategy") or {}).get("rollingUpdate") or {}
    return resolve(rolling.get("maxSurge", 0), count, up=True)


def most_unavailable(daemon: Object, count: int) -> int:
    rolling = (daemon["spec"].get("updateStrategy") or {}).get("rollingUpdate") or {}
    allowed = resolve(rolling.get("maxUnavailable", 1), count, up=True)
    # With nothing allowed either way the update would stand still.
    return allowed or (0 if most_surge(daemon, count) else 1)


def update(
    daemon: Object,
    by_node: dict[str, list[Object]],
    targets: set[str],
    digest: str,
    now: float,
) -> tuple[list[Object], list[str]]:
    """(old pods to delete, nodes for a new pod beside the old one): the next step of a rolling update."""
    seconds = daemon["spec"].get("minReadySeconds", 0)
    surge = most_surge(daemon, len(targets))
    unavailable = 0
    surging = 0
    replaceable: list[tuple[bool, Object]] = []  # (available, pod)
    beside: list[str] = []
    delete: list[Object] = []
    for name in sorted(targets):
        alive = [pod for pod in by_node.get(name, ()) if is_active(pod)]
        old = [pod for pod in alive if labels(pod).get(HASH) != digest]
        new = [pod for pod in alive if labels(pod).get(HASH) == digest]
        serving = any(is_available(pod, seconds, now) for pod in alive)
        unavailable += not serving
        if surge:
            surging += bool(old and new)
            if old and any(is_available(pod, seconds, now) for pod in new):
                delete += old
            elif old and not new:
                beside.append(name)
        else:
            replaceable += [(serving, pod) for pod in old]
    if surge:
        return delete, beside[: max(surge - surging, 0)]
    allowed = most_unavailable(daemon, len(targets))
    # What serves nobody costs nothing to replace.
    delete = [pod for serving, pod in replaceable if not serving]
    room = max(allowed - unavailable, 0)
    delete += [pod for serving, pod in replaceable if serving][:room]
    return delete, []
