"""PodDisruptionBudget controller: how many pods of each budget may be evicted now.

`status.disruptionsAllowed` is what evictions take from. Expected is what the pods' workloads want, by their scale; healthy are
the pods that are ready. A pod whose eviction was granted counts as gone until it is, or until two minutes have passed.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sampan.client.resources import PODDISRUPTIONBUDGETS, PODS, REPLICASETS
from sampan.controllers.base import Context, Controller, Key, Object, Requeue, Watch, stamp
from sampan.controllers.rollout import resolve
from sampan.controllers.scales import NotServed, resource_of
from sampan.kube.errors import ApiError
from sampan.kube.objects import (
    clone,
    controller_of,
    is_deleting,
    labels,
    parse_time,
    pod_finished,
    pod_ready,
    set_condition,
)
from sampan.kube.selectors import from_object

GRANTED = 120.0  # seconds that a granted eviction counts though the pod is still there


class Uncountable(Exception):
    """What a pod's controller wants cannot be known, so no disruption is allowed; why, in words."""


def same_health(old: Object, new: Object) -> bool:
    def facts(pod: Object) -> tuple[object, ...]:
        return (labels(pod), pod_ready(pod), pod_finished(pod), is_deleting(pod))

    return facts(old) == facts(new)


class DisruptionController(Controller):
    name = "disruption-controller"
    watches = (
        Watch(PODDISRUPTIONBUDGETS),
        Watch(
            PODS,
            keys=lambda self, pod: self.budgets_of(pod),
            matters=lambda old, new: not same_health(old, new),
        ),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.budgets = self.informer(PODDISRUPTIONBUDGETS)
        self.pods = self.informer(PODS)
        self.replica_sets = self.informer(REPLICASETS)
        self.events = context.recorder("controllermanager")

    def budgets_of(self, pod: Object) -> list[Key]:
        namespace = pod["metadata"]["namespace"]
        return [
            Key(namespace, budget["metadata"]["name"])
            for budget in self.budgets.list(namespace)
            if from_object(budget["spec"].get("selector")).matches(labels(pod))
        ]

    async def reconcile(self, key: Key) -> Requeue | None:
        budget = self.budgets.get(*key)
        if budget is None:
            return None
        selector = from_object(budget["spec"].get("selector"))
        pods = [
            pod
            for pod in self.pods.list(key.namespace)
            if not pod_finished(pod) and selector.matches(labels(pod))
        ]
        status = clone(budget.get("status") or {})
        granted, wait = self.granted(status, pods)
        holder: Object = {"status": {"conditions": status.get("conditions") or []}}
        moment = stamp(self.clock())
        try:
            expected, desired = await self.counts(budget, pods)
            healthy = sum(pod_ready(pod) and pod["metadata"]["name"] not in granted for pod in pods)
            allowed = max(healthy - desired, 0) if expected > 0 else 0
            reason = "SufficientPods" if allowed else "InsufficientPods"
            set_condition(holder, "DisruptionAllowed", str(bool(allowed)), reason, "", moment)
            shown = {
                "currentHealthy": healthy,
                "desiredHealthy": desired,
                "expectedPods": expected,
                "disruptionsAllowed": allowed,
            }
        except Uncountable as error:
            self.events.event(budget, "Warning", "CalculateExpectedPodCountFailed", str(error))
            set_condition(holder, "DisruptionAllowed", "False", "SyncFailed", str(error), moment)
            shown = {
                "currentHealthy": status.get("currentHealthy", 0),
                "desiredHealthy": status.get("desiredHealthy", 0),
                "expectedPods": status.get("expectedPods", 0),
                "disruptionsAllowed": 0,
            }
        wanted: Object = {
            **shown,
            "observedGeneration": budget["metadata"].get("generation", 0),
            "conditions": holder["status"]["conditions"],
        }
        if granted:
            wanted["disruptedPods"] = granted
        if wanted != budget.get("status"):
            await self.client.update(PODDISRUPTIONBUDGETS, {**budget, "status": wanted}, "status")
        return Requeue(wait) if wait is not None else None

    def granted(self, status: Object, pods: list[Object]) -> tuple[dict[str, str], float | None]:
        """(evictions that were granted and are not carried out yet, when the next of them expires)."""
        present = {pod["metadata"]["name"]: pod for pod in pods}
        kept, waits = {}, []
        now = datetime.fromtimestamp(self.clock(), UTC)
        for name, moment in (status.get("disruptedPods") or {}).items():
            pod = present.get(name)
            left = GRANTED - (now - parse_time(moment)).total_seconds()
            if pod is None or is_deleting(pod) or left <= 0:
                continue
            kept[name] = moment
            waits.append(left)
        return kept, min(waits, default=None)

    async def counts(self, budget: Object, pods: list[Object]) -> tuple[int, int]:
        """(pods that should be there, those of them that must stay healthy)."""
        spec = budget["spec"]
        least, most = spec.get("minAvailable"), spec.get("maxUnavailable")
        if most is not None:
            expected = await self.wanted(pods)
            return expected, max(expected - resolve(most, expected, up=True), 0)
        if isinstance(least, str):
            expected = await self.wanted(pods)
            return expected, resolve(least, expected, up=True)
        return len(pods), least if least is not None else 0

    async def wanted(self, pods: list[Object]) -> int:
        """The sum of the scales of the pods' controllers. Raises Uncountable for a pod without one."""
        scales: dict[str, int] = {}
        for pod in pods:
            owner = controller_of(pod)
            if owner is None:
                name = pod["metadata"]["name"]
                raise Uncountable(f"found no controller ref for pod {name!r}")
            namespace = pod["metadata"]["namespace"]
            if owner["kind"] == "ReplicaSet":
                # During a rollout a Deployment has several: what counts is what it wants in all.
                owner = controller_of(await self.replica_set(namespace, owner)) or owner
            if owner["uid"] not in scales:
                scales[owner["uid"]] = await self.scale(namespace, owner)
        return sum(scales.values())

    async def replica_set(self, namespace: str, owner: Object) -> Object:
        found = self.replica_sets.get(namespace, owner["name"])
        return found if found is not None and found["metadata"]["uid"] == owner["uid"] else {}

    async def scale(self, namespace: str, owner: Object) -> int:
        try:
            gvr = await resource_of(self.client, owner["apiVersion"], owner["kind"])
        except NotServed as error:
            raise Uncountable(str(error)) from None
        name = owner["name"]
        try:
            answer = await self.client.get(gvr, name, namespace, subresource="scale")
        except ApiError as error:
            if error.code == 404:
                raise Uncountable(f"{owner['kind']} {name!r} does not implement scale") from None
            raise
        return answer["spec"].get("replicas", 0)
