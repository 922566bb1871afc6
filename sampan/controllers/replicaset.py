"""ReplicaSet controller: keeps `spec.replicas` pods that match the selector.

Level-triggered: `reconcile` compares the pods that the informer shows with the number wanted, and creates or deletes the
difference. What it has asked for and not yet seen is kept in `Expectations`, so a slow watch never makes it create twice.
Deletion order follows the API's documented ranking (unassigned, pending, not ready, doubled up on a node, younger).
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from sampan.client.resources import PODS, REPLICASETS
from sampan.controllers.base import (
    Context,
    Controller,
    Expectations,
    Key,
    Object,
    Requeue,
    Watch,
    stamp,
)
from sampan.controllers.pods import (
    available_in,
    claim,
    create_pods,
    delete_pod,
    from_template,
    is_active,
    is_available,
    rank_for_deletion,
)
from sampan.kube.errors import ApiError
from sampan.kube.objects import condition, condition_true, is_deleting, labels, set_condition
from sampan.kube.selectors import LabelSelector, from_object

BURST = 500  # most creations or deletions in one reconcile


class ReplicaSetController(Controller):
    name = "replicaset-controller"
    resource = REPLICASETS
    uncounted: ClassVar[frozenset[str]] = frozenset()  # counts that the kind's status has not
    watches = (
        Watch(REPLICASETS),
        Watch(PODS, owner="ReplicaSet"),
        Watch(PODS, keys=lambda self, pod: self.adopters(pod)),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.replica_sets = self.informer(self.resource)
        self.pods = self.informer(PODS)
        self.expectations = Expectations(self.pods)
        self.events = context.recorder(self.name)

    def selector(self, owner: Object) -> LabelSelector:
        return from_object(owner["spec"]["selector"])

    def adopters(self, pod: Object) -> list[Key]:
        """ReplicaSets whose selector an orphan matches."""
        metadata = pod["metadata"]
        if metadata.get("ownerReferences") or not metadata.get("labels"):
            return []
        namespace = metadata["namespace"]
        marks = [f"{namespace}/", *(f"{namespace}/{k}={v}" for k, v in metadata["labels"].items())]
        return [
            Key(namespace, rs["metadata"]["name"])
            for mark in marks
            for rs in self.replica_sets.by_index("selector", mark)
            if self.selector(rs).matches(metadata["labels"])
        ]

    async def reconcile(self, key: Key) -> Requeue | None:
        replica_set = self.replica_sets.get(*key)
        if replica_set is None:
            self.expectations.forget(key)
            return None
        selector = self.selector(replica_set)
        pods = await claim(self.client, self.pods, self.resource, replica_set, selector)
        active = [pod for pod in pods if is_active(pod)]
        failure: ApiError | None = None
        if not is_deleting(replica_set) and self.expectations.satisfied(key):
            missing = replica_set["spec"].get("replicas", 1) - len(active)
            try:
                if missing > 0:
                    await self.create(key, replica_set, min(missing, BURST))
                elif missing < 0:
                    spare = rank_for_deletion(active)[: min(-missing, BURST)]
                    await self.delete(key, replica_set, spare)
            except ApiError as error:
                failure = error
        await self.write_status(replica_set, active, pods, failure)
        if failure is not None:
            raise failure
        seconds = replica_set["spec"].get("minReadySeconds", 0)
        wait = available_in(active, seconds, self.clock())
        return Requeue(wait + 0.01) if wait is not None else None

    async def create(self, key: Key, replica_set: Object, count: int) -> None:
        made = [self.create_one(key, replica_set) for _ in range(count)]
        await create_pods(made, self.events, replica_set)

    async def create_one(self, key: Key, replica_set: Object) -> None:
        pod = from_template(replica_set["spec"]["template"], replica_set)
        created = await self.client.create(PODS, pod, key.namespace)
        self.expectations.expect_created(key, created)
        name = created["metadata"]["name"]
        self.events.event(replica_set, "Normal", "SuccessfulCreate", f"Created pod: {name}")

    async def delete(self, key: Key, replica_set: Object, pods: list[Object]) -> None:
        async def delete_one(pod: Object) -> None:
            await delete_pod(self.client, self.expectations, key, pod)
            message = f"Deleted pod: {pod['metadata']['name']}"
            self.events.event(replica_set, "Normal", "SuccessfulDelete", message)

        await asyncio.gather(*(delete_one(pod) for pod in pods))

    async def write_status(
        self,
        replica_set: Object,
        active: list[Object],
        pods: list[Object],
        failure: ApiError | None,
    ) -> None:
        old = replica_set.get("status") or {}
        status = replica_set_status(replica_set, active, pods, failure, self.clock())
        status = {k: v for k, v in status.items() if k not in self.uncounted}
        if status == old:
            return
        metadata = replica_set["metadata"]
        changed = {**replica_set, "status": status}
        changed["metadata"] = {k: v for k, v in metadata.items() if k != "managedFields"}
        await self.client.update(self.resource, changed, "status")


def replica_set_status(
    replica_set: Object,
    active: list[Object],
    pods: list[Object],
    failure: ApiError | None,
    clock: float,
) -> Object:
    """The status that these pods make; `conditions` keeps its times where nothing changed."""
    spec = replica_set["spec"]
    template_labels = (spec["template"].get("metadata") or {}).get("labels") or {}
    ready = [pod for pod in active if condition_true(pod, "Ready")]
    seconds = spec.get("minReadySeconds", 0)
    old = replica_set.get("status") or {}
    status: dict[str, Any] = {
        "replicas": len(active),
        "fullyLabeledReplicas": sum(
            template_labels.items() <= labels(pod).items() for pod in active
        ),
        "readyReplicas": len(ready),
        "availableReplicas": sum(is_available(pod, seconds, clock) for pod in ready),
        "terminatingReplicas": sum(is_deleting(pod) for pod in pods),
        "observedGeneration": replica_set["metadata"].get("generation", 0),
    }
    # `replicas` is required; the other counts are left out at zero, as the API does.
    status = {k: v for k, v in status.items() if v or k == "replicas"}
    holder: Object = {"status": {"conditions": [dict(c) for c in old.get("conditions") or ()]}}
    known = condition(replica_set, "ReplicaFailure")
    if failure is not None and known is None:
        # Said once: the next refusal names another pod, and a status that changes each time would be acted on at once.
        reason = "FailedCreate" if len(active) < spec.get("replicas", 1) else "FailedDelete"
        moment = stamp(clock)
        set_condition(holder, "ReplicaFailure", "True", reason, failure.message, moment)
    elif failure is None:
        holder["status"]["conditions"] = [
            c for c in holder["status"]["conditions"] if c["type"] != "ReplicaFailure"
        ]
    if holder["status"]["conditions"]:
        status["conditions"] = holder["status"]["conditions"]
    return status
