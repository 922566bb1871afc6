"""Node lifecycle: a node that stops renewing its Lease is marked, tainted, and its pods are moved elsewhere.

A Lease is judged by when its renewal was *seen* here, so clocks of nodes need not agree. Taints follow the Ready condition
(`not-ready`, `unreachable`), and pods that do not tolerate a NoExecute taint are evicted when their toleration runs out.
When no node at all is well, it is the way to them that is broken: nothing is evicted then, and who could take the pods?
Source: kubernetes.io/docs/concepts/architecture/nodes, Rate limits on eviction.
"""

from __future__ import annotations

from typing import Any

from sampan.client.resources import LEASES, NODES, PODS
from sampan.controllers.base import Context, Controller, Key, Object, Requeue, Watch, stamp
from sampan.kube.errors import ApiError
from sampan.kube.objects import condition, is_deleting, parse_time, pod_finished, set_condition

LEASE_NAMESPACE = "kube-node-lease"
GRACE = 50.0  # seconds without a renewal before a node is Unknown
STARTUP_GRACE = 60.0  # the same for a node that never renewed
ORPHAN_QUARANTINE = 40.0  # seconds that a pod's node must be gone before the pod is

NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"
UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
CONDITION_TAINTS = {
    "MemoryPressure": "node.kubernetes.io/memory-pressure",
    "DiskPressure": "node.kubernetes.io/disk-pressure",
    "PIDPressure": "node.kubernetes.io/pid-pressure",
    "NetworkUnavailable": "node.kubernetes.io/network-unavailable",
}
OURS = {NOT_READY, UNREACHABLE, UNSCHEDULABLE, *CONDITION_TAINTS.values()}
UNKNOWN_REASON = "NodeStatusUnknown"
UNKNOWN_MESSAGE = "Kubelet stopped posting node status."


def wanted_taints(node: Object, moment: str, evicts: bool = True) -> list[Object]:
    """The node's taints as its conditions make them; those that are not ours are kept as they are."""
    present = node["spec"].get("taints") or []
    wanted: list[tuple[str, str]] = []
    ready = (condition(node, "Ready") or {}).get("status", "Unknown")
    if ready != "True":
        key = NOT_READY if ready == "False" else UNREACHABLE
        wanted.append((key, "NoSchedule"))
        if evicts:
            wanted.append((key, "NoExecute"))
    if node["spec"].get("unschedulable"):
        wanted.append((UNSCHEDULABLE, "NoSchedule"))
    for kind, key in CONDITION_TAINTS.items():
        if (condition(node, kind) or {}).get("status") == "True":
            wanted.append((key, "NoSchedule"))
    kept = [t for t in present if t["key"] not in OURS or (t["key"], t["effect"]) in wanted]
    have = {(t["key"], t["effect"]) for t in kept}
    for key, effect in wanted:
        if (key, effect) not in have:
            taint = {"key": key, "effect": effect}
            kept.append(taint | ({"timeAdded": moment} if effect == "NoExecute" else {}))
    return kept


def tolerated_for(pod: Object, taint: Object) -> float | None:
    """Seconds that the pod tolerates the taint: None for ever, 0 not at all. The shortest of all that match."""
    limits: list[float] = []
    tolerated = False
    for toleration in pod["spec"].get("tolerations") or ():
        if toleration.get("effect") not in (None, "", taint["effect"]):
            continue
        operator, key = toleration.get("operator") or "Equal", toleration.get("key") or ""
        if key and key != taint["key"]:
            continue
        if not key and operator != "Exists":
            continue
        if operator == "Equal" and (toleration.get("value") or "") != (taint.get("value") or ""):
            continue
        tolerated = True
        if toleration.get("tolerationSeconds") is not None:
            limits.append(float(max(0, toleration["tolerationSeconds"])))
    if not tolerated:
        return 0.0
    return min(limits) if limits else None


class NodeLifecycleController(Controller):
    name = "node-controller"
    watches = (
        Watch(NODES, keys=lambda self, node: self.concerned(node)),
        Watch(LEASES, keys=lambda self, lease: self.renewed(lease)),
        Watch(PODS, keys=lambda self, pod: self.node_of(pod)),
    )

    def __init__(self, context: Context) -> None:
        self.seen: dict[
            str, tuple[str, float]
        ] = {}  # node: renewTime, when it was seen (monotonic)
        self.tainted: dict[
            tuple[str, str], float
        ] = {}  # (node uid, taint key): since when (monotonic)
        self.some_are_well = True
        super().__init__(context)
        self.nodes = self.informer(NODES)
        self.pods = self.informer(PODS)
        self.events = context.recorder(self.name)

    def moment(self) -> str:
        return stamp(self.clock())

    def renewed(self, lease: Object) -> list[Key]:
        metadata = lease["metadata"]
        if metadata["namespace"] != LEASE_NAMESPACE:
            return []
        name = metadata["name"]
        renewal = lease["spec"].get("renewTime", "")
        before = self.seen.get(name)
        if before is not None and before[0] == renewal:
            return []
        self.seen[name] = (renewal, self.monotonic())
        # A timely renewal of a node that is well changes nothing: only a late one is news.
        late = before is None or self.monotonic() - before[1] > GRACE
        return [Key("", name)] if late else []

    def concerned(self, node: Object) -> list[Key]:
        """The node, or all of them when it is the first that is well again, or was the last."""
        found = self.nodes.list()
        before, self.some_are_well = self.some_are_well, any(map(is_well, found))
        names = {node["metadata"]["name"]}
        if before != self.some_are_well:
            names |= {each["metadata"]["name"] for each in found}
        return [Key("", name) for name in names]

    def node_of(self, pod: Object) -> list[Key]:
        """Pods matter here when their node is in trouble, or is not there."""
        name = pod["spec"].get("nodeName")
        node = self.nodes.get("", name) if name else None
        if not name or (node is not None and not no_execute(node)):
            return []
        return [Key("", name)]

    async def reconcile(self, key: Key) -> Requeue | None:
        node = self.nodes.get("", key.name)
        if node is None:
            return await self.collect_orphans(key.name)
        waits: list[float] = []
        silent, limit = self.silence(node)
        if silent < limit:
            waits.append(limit - silent + 0.05)
        elif (condition(node, "Ready") or {}).get("status") != "Unknown":
            node = await self.mark_unknown(node)
        node = await self.taint(node)
        waits += await self.evict(node)
        return Requeue(min(waits)) if waits else None

    def silence(self, node: Object) -> tuple[float, float]:
        """Seconds since the last renewal was seen, and how many are allowed."""
        name = node["metadata"]["name"]
        if name not in self.seen:
            self.seen[name] = ("", self.monotonic())
        renewal, seen = self.seen[name]
        return self.monotonic() - seen, GRACE if renewal else STARTUP_GRACE

    async def mark_unknown(self, node: Object) -> Object:
        changed: Object = {
            **node,
            "status": {
                **(node.get("status") or {}),
                "conditions": [dict(c) for c in (node.get("status") or {}).get("conditions") or ()],
            },
        }
        for kind in ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure"):
            set_condition(changed, kind, "Unknown", UNKNOWN_REASON, UNKNOWN_MESSAGE, self.moment())
        written = await self.client.update(NODES, changed, "status")
        name = node["metadata"]["name"]
        self.events.event(
            node, "Normal", "NodeNotReady", f"Node {name} status is now: NodeNotReady"
        )
        for pod in self.pods.by_index("node", name):
            await self.mark_pod_not_ready(pod)
        return written

    async def mark_pod_not_ready(self, pod: Object) -> None:
        if (condition(pod, "Ready") or {}).get("status") != "True":
            return
        metadata = pod["metadata"]
        patch = {
            "metadata": {"uid": metadata["uid"]},
            "status": {
                "conditions": [
                    {
                        "type": "Ready",
                        "status": "False",
                        "reason": "NodeNotReady",
                        "lastTransitionTime": self.moment(),
                    }
                ]
            },
        }
        try:
            await self.client.patch(
                PODS,
                metadata["name"],
                patch,
                metadata["namespace"],
                kind="strategic",
                subresource="status",
            )
        except ApiError as error:
            if error.code not in (404, 409):
                raise

    async def taint(self, node: Object) -> Object:
        wanted = wanted_taints(node, self.moment(), any(map(is_well, self.nodes.list())))
        if wanted == (node["spec"].get("taints") or []):
            return node
        metadata = node["metadata"]
        patch = {
            "metadata": {"resourceVersion": metadata["resourceVersion"]},
            "spec": {"taints": wanted or None},
        }
        return await self.client.patch(NODES, metadata["name"], patch)

    async def evict(self, node: Object) -> list[float]:
        """Delete the pods whose time is up; seconds until the next one's is."""
        uid = node["metadata"]["uid"]
        taints = no_execute(node)
        for mark in [
            m for m in self.tainted if m[0] == uid and m[1] not in {t["key"] for t in taints}
        ]:
            del self.tainted[mark]
        waits = []
        for taint in taints:
            since = self.since(uid, taint)
            for pod in self.pods.by_index("node", node["metadata"]["name"]):
                if is_deleting(pod) or pod_finished(pod):
                    continue
                limit = tolerated_for(pod, taint)
                if limit is None:
                    continue
                left = since + limit - self.monotonic()
                if left > 0:
                    waits.append(left + 0.05)
                    continue
                self.events.event(pod, "Normal", "TaintManagerEviction", "Marking for deletion Pod "
                                  f"{pod['metadata']['namespace']}/{pod['metadata']['name']}")  # fmt: skip
                await self.remove(pod, grace=None)
        return waits

    def since(self, uid: str, taint: Object) -> float:
        """When the taint was put there, on the monotonic clock; a restart of this controller starts nothing anew."""
        mark = uid, taint["key"]
        if mark not in self.tainted:
            age = 0.0
            if taint.get("timeAdded"):
                age = max(0.0, self.clock() - parse_time(taint["timeAdded"]).timestamp())
            self.tainted[mark] = self.monotonic() - age
        return self.tainted[mark]

    async def collect_orphans(self, name: str) -> Requeue | None:
        """Pods of a node that no longer exists have nobody who could stop them: they are removed at once."""
        self.seen.pop(name, None)
        pods = self.pods.by_index("node", name) if name else []
        if not pods:
            self.tainted.pop((name, "gone"), None)
            return None
        since = self.tainted.setdefault((name, "gone"), self.monotonic())
        left = since + ORPHAN_QUARANTINE - self.monotonic()
        if left > 0:
            return Requeue(left + 0.05)
        for pod in pods:
            await self.remove(pod, grace=0)
        return None

    async def remove(self, pod: Object, grace: int | None) -> None:
        metadata = pod["metadata"]
        arguments: dict[str, Any] = {"uid": metadata["uid"], "grace": grace}
        try:
            await self.client.delete(PODS, metadata["name"], metadata["namespace"], **arguments)
        except ApiError as error:
            if error.code not in (404, 409):
                raise


def is_well(node: Object) -> bool:
    return (condition(node, "Ready") or {}).get("status") == "True"


def no_execute(node: Object) -> list[Object]:
    return [t for t in node["spec"].get("taints") or () if t["effect"] == "NoExecute"]
