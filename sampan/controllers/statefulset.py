"""StatefulSet controller: pods with a lasting name, host name and storage, made and replaced in order.

Pod `web-2` is always that: when it goes, the next one takes its name and its claims. One step at a time under the policy
OrderedReady: a pod is made when all before it are ready, and updates go from the last to the first down to the partition.
The steps are decided in `next_steps`, a pure function of the set, its pods, its revisions and the time.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from sampan.client.resources import (
    CONTROLLERREVISIONS,
    PERSISTENTVOLUMECLAIMS,
    PODS,
    STATEFULSETS,
)
from sampan.controllers.base import (
    Context,
    Controller,
    Expectations,
    Key,
    Object,
    Requeue,
    Watch,
)
from sampan.controllers.history import HASH, History, template_of
from sampan.controllers.pods import available_in, claim, delete_pod, from_template, is_available
from sampan.controllers.rollout import resolve
from sampan.kube.errors import ApiError
from sampan.kube.objects import (
    clone,
    is_deleting,
    labels,
    owner_reference,
    owners,
    pod_finished,
    pod_ready,
)
from sampan.kube.selectors import from_object

POD_NAME = "statefulset.kubernetes.io/pod-name"
POD_INDEX = "apps.kubernetes.io/pod-index"


class StatefulSetController(Controller):
    name = "statefulset-controller"
    watches = (
        Watch(STATEFULSETS),
        Watch(CONTROLLERREVISIONS, owner="StatefulSet"),
        Watch(PODS, owner="StatefulSet"),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.sets = self.informer(STATEFULSETS)
        self.revisions = self.informer(CONTROLLERREVISIONS)
        self.pods = self.informer(PODS)
        self.claims = self.informer(PERSISTENTVOLUMECLAIMS)
        self.expectations = Expectations(self.pods)
        self.events = context.recorder(self.name)

    async def reconcile(self, key: Key) -> Requeue | None:
        workload = self.sets.get(*key)
        if workload is None:
            self.expectations.forget(key)
            return None
        selector = from_object(workload["spec"]["selector"])
        pods = await claim(self.client, self.pods, STATEFULSETS, workload, selector)
        pods = [pod for pod in pods if ordinal_of(workload, pod) is not None]
        if is_deleting(workload):
            return None
        history = History(self.client, self.revisions, workload)
        status = workload.get("status") or {}
        update, collisions = await history.current(status.get("collisionCount", 0))
        current = history.named(status.get("currentRevision", "")) or update
        picture = Picture(workload, pods, current, update, self.clock())
        await self.keep_claims(picture)  # before a pod goes, so that its claims know whose they are
        if self.expectations.satisfied(key):
            steps = next_steps(picture)
            await self.take(key, picture, steps)
        used = {labels(pod).get(HASH, "") for pod in pods}
        names = {current["metadata"]["name"], update["metadata"]["name"]}
        await history.forget_old(used | names)
        await self.write_status(picture, collisions)
        seconds = workload["spec"].get("minReadySeconds", 0)
        wait = available_in(pods, seconds, self.clock())
        return Requeue(wait + 0.01) if wait is not None else None

    async def take(self, key: Key, picture: Picture, steps: Steps) -> None:
        for pod in steps.delete:
            await self.delete(key, picture.workload, pod)
        await asyncio.gather(
            *(self.create(key, picture, ordinal, revision) for ordinal, revision in steps.create)
        )

    async def create(self, key: Key, picture: Picture, ordinal: int, revision: Object) -> None:
        workload = picture.workload
        pod = pod_for(workload, ordinal, revision)
        name = pod["metadata"]["name"]
        try:
            for volume_claim in claims_for(workload, ordinal):
                await self.create_claim(workload, volume_claim, name)
            made = await self.client.create(PODS, pod, key.namespace)
        except ApiError as error:
            if error.reason == "AlreadyExists":
                return  # the informer will show it, or whose it is
            text = f"create Pod {name} in StatefulSet {key.name} failed error: {error.message}"
            self.events.event(workload, "Warning", "FailedCreate", text)
            raise
        self.expectations.expect_created(key, made)
        picture.pods.append(made)
        text = f"create Pod {name} in StatefulSet {key.name} successful"
        self.events.event(workload, "Normal", "SuccessfulCreate", text)

    async def create_claim(self, workload: Object, volume_claim: Object, pod: str) -> None:
        name, namespace = volume_claim["metadata"]["name"], volume_claim["metadata"]["namespace"]
        try:
            await self.client.create(PERSISTENTVOLUMECLAIMS, volume_claim, namespace)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            return
        text = (
            f"create Claim {name} Pod {pod} in StatefulSet {workload['metadata']['name']} success"
        )
        self.events.event(workload, "Normal", "SuccessfulCreate", text)

    async def delete(self, key: Key, workload: Object, pod: Object) -> None:
        await delete_pod(self.client, self.expectations, key, pod)
        text = f"delete Pod {pod['metadata']['name']} in StatefulSet {key.name} successful"
        self.events.event(workload, "Normal", "SuccessfulDelete", text)

    async def keep_claims(self, picture: Picture) -> None:
        """Own the claims as the retention policy says, so that they go with the set, or with their pod (KEP-1847); and no
        longer, when it says so no more.
        """
        workload = picture.workload
        policy = workload["spec"].get("persistentVolumeClaimRetentionPolicy") or {}
        if not workload["spec"].get("volumeClaimTemplates"):
            return
        for pod in picture.pods:
            ordinal = ordinal_of(workload, pod)
            assert ordinal is not None
            condemned = ordinal not in picture.ordinals
            for volume_claim in claims_for(workload, ordinal):
                await self.own(volume_claim, pod if condemned else None, picture, policy)

    async def own(
        self, volume_claim: Object, pod: Object | None, picture: Picture, policy: Object
    ) -> None:
        metadata = volume_claim["metadata"]
        wanted = []
        if policy.get("whenDeleted") == "Delete":
            wanted.append(owner_reference(picture.workload))
        if pod is not None and policy.get("whenScaled") == "Delete":
            wanted.append(owner_reference(pod, controller=not wanted))
        ours = {picture.workload["metadata"]["uid"], *(p["metadata"]["uid"] for p in picture.pods)}
        place = metadata["namespace"], metadata["name"]
        present = self.claims.get(*place)
        if present is None or owned(present, ours, wanted) == owners(present):
            return
        try:
            present = await self.client.get(PERSISTENTVOLUMECLAIMS, metadata["name"], place[0])
        except ApiError as error:
            if error.code == 404:
                return
            raise
        changed = {**present["metadata"], "ownerReferences": owned(present, ours, wanted)}
        await self.client.update(PERSISTENTVOLUMECLAIMS, {**present, "metadata": changed})

    async def write_status(self, picture: Picture, collisions: int) -> None:
        workload = picture.workload
        status = status_of(picture, collisions)
        if status != (workload.get("status") or {}):
            await self.client.update(STATEFULSETS, {**workload, "status": status}, "status")


# Decisions


def owned(claim: Object, ours: set[str], wanted: list[Object]) -> list[Object]:
    """The claim's owners, with those that are wanted in place of all that are the set's."""
    return [*(each for each in owners(claim) if each["uid"] not in ours), *wanted]


@dataclass(slots=True)
class Picture:
    workload: Object
    pods: list[Object]
    current: Object  # the revision that was rolled out last
    update: Object  # the revision of the present template
    now: float

    @property
    def replicas(self) -> int:
        return self.workload["spec"].get("replicas", 1)

    @property
    def start(self) -> int:
        return (self.workload["spec"].get("ordinals") or {}).get("start", 0)

    @property
    def ordinals(self) -> range:
        return range(self.start, self.start + self.replicas)

    @property
    def ordered(self) -> bool:
        return self.workload["spec"].get("podManagementPolicy", "OrderedReady") != "Parallel"

    @property
    def rolling(self) -> Object:
        strategy = self.workload["spec"].get("updateStrategy") or {}
        return strategy.get("rollingUpdate") or {}

    @property
    def rolls(self) -> bool:
        strategy = self.workload["spec"].get("updateStrategy") or {}
        return strategy.get("type", "RollingUpdate") == "RollingUpdate"

    def at(self) -> dict[int, Object]:
        """Pods by ordinal."""
        return {ordinal_of(self.workload, pod): pod for pod in self.pods}  # type: ignore[misc]

    def healthy(self, pod: Object | None) -> bool:
        """Running and ready, for as long as minReadySeconds asks, and not going."""
        seconds = self.workload["spec"].get("minReadySeconds", 0)
        return pod is not None and not is_deleting(pod) and is_available(pod, seconds, self.now)

    def revision_for(self, ordinal: int) -> Object:
        """Below the partition the old template stays in force, also for pods that are made anew."""
        if not self.rolls:
            return self.update  # OnDelete: what is made anew is made of the present template
        partition = self.rolling.get("partition", 0)
        if partition:
            return self.current if ordinal < self.start + partition else self.update
        name = self.current["metadata"]["name"]
        kept = sum(labels(pod).get(HASH) == name and not is_deleting(pod) for pod in self.pods)
        return self.current if ordinal < self.start + kept else self.update


@dataclass(slots=True)
class Steps:
    create: list[tuple[int, Object]] = field(default_factory=list)  # ordinal, revision
    delete: list[Object] = field(default_factory=list)


def next_steps(picture: Picture) -> Steps:
    """What may be done now; empty while something has to be waited for."""
    steps = Steps()
    at = picture.at()
    if not _fill(picture, at, steps):
        return steps
    condemned = sorted((o for o in at if o not in picture.ordinals), reverse=True)
    if not _shrink(picture, at, condemned, steps):
        return steps
    if picture.rolls:
        _roll(picture, at, steps)
    return steps


def _fill(picture: Picture, at: dict[int, Object], steps: Steps) -> bool:
    """Make what is missing; False when later steps have to wait."""
    for ordinal in picture.ordinals:
        pod = at.get(ordinal)
        if pod is not None and pod_finished(pod) and not is_deleting(pod):
            steps.delete.append(pod)
        elif pod is None:
            steps.create.append((ordinal, picture.revision_for(ordinal)))
        elif picture.healthy(pod) or not picture.ordered:
            continue
        if picture.ordered:
            return False
    return not steps.create and not steps.delete


def _shrink(picture: Picture, at: dict[int, Object], condemned: list[int], steps: Steps) -> bool:
    """Stop what is too much, the last first."""
    unhealthy = sorted(ordinal for ordinal in at if not picture.healthy(at[ordinal]))
    for ordinal in condemned:
        pod = at[ordinal]
        if is_deleting(pod):
            if picture.ordered:
                return False
            continue
        # A pod that is not well is stopped only when it is the first that is not.
        if picture.ordered and not picture.healthy(pod) and unhealthy[0] != ordinal:
            return False
        steps.delete.append(pod)
        if picture.ordered:
            return False
    return True


def _roll(picture: Picture, at: dict[int, Object], steps: Steps) -> None:
    """Replace pods of another revision, from the last down to the partition."""
    partition = picture.rolling.get("partition", 0)
    most = picture.rolling.get("maxUnavailable", 1)
    allowed = max(resolve(most, picture.replicas, up=True), 1)
    unavailable = sum(not picture.healthy(at.get(ordinal)) for ordinal in picture.ordinals)
    for ordinal in reversed(picture.ordinals):
        if ordinal < picture.start + partition:
            return
        pod = at.get(ordinal)
        if pod is None:
            return
        old = labels(pod).get(HASH) != picture.update["metadata"]["name"]
        if old and not is_deleting(pod):
            if picture.healthy(pod):
                if unavailable >= allowed:
                    return
                unavailable += 1
            steps.delete.append(pod)
            if len(steps.delete) >= allowed:
                return
        elif not picture.healthy(pod) and unavailable >= allowed:
            return


def status_of(picture: Picture, collisions: int) -> Object:
    workload = picture.workload
    update, current = picture.update["metadata"]["name"], picture.current["metadata"]["name"]
    # A pod is not there before it exists and has not ended.
    present = [pod for pod in picture.pods if not pod_finished(pod)]
    alive = [pod for pod in present if not is_deleting(pod)]
    seconds = workload["spec"].get("minReadySeconds", 0)
    on_update = sum(labels(pod).get(HASH) == update for pod in alive)
    status = {
        "observedGeneration": workload["metadata"].get("generation", 0),
        "replicas": len(present),
        "readyReplicas": sum(pod_ready(pod) for pod in present),
        "availableReplicas": sum(is_available(pod, seconds, picture.now) for pod in present),
        "currentReplicas": sum(labels(pod).get(HASH) == current for pod in alive),
        "updatedReplicas": on_update,
        "currentRevision": current,
        "updateRevision": update,
        "collisionCount": collisions,
        "conditions": (workload.get("status") or {}).get("conditions"),
    }
    complete = (
        picture.rolls
        and status["updatedReplicas"] == status["replicas"] == status["readyReplicas"]
        and status["replicas"] == picture.replicas
    )
    if complete:
        status["currentRevision"], status["currentReplicas"] = update, on_update
    always = ("replicas", "availableReplicas", "collisionCount")
    return {name: value for name, value in status.items() if value or name in always}


def ordinal_of(workload: Object, pod: Object) -> int | None:
    """The number at the end of the pod's name; None when the name is not one of this set's."""
    base, _, number = pod["metadata"]["name"].rpartition("-")
    if base != workload["metadata"]["name"] or not number.isdigit():
        return None
    return int(number)


def claim_name(template: Object, workload: Object, ordinal: int) -> str:
    return f"{template['metadata']['name']}-{workload['metadata']['name']}-{ordinal}"


def claims_for(workload: Object, ordinal: int) -> list[Object]:
    """The claims of one pod, as the templates make them."""
    found = []
    for template in workload["spec"].get("volumeClaimTemplates") or ():
        made = clone(template)
        metadata = made.setdefault("metadata", {})
        metadata["name"] = claim_name(template, workload, ordinal)
        metadata["namespace"] = workload["metadata"]["namespace"]
        selected = workload["spec"]["selector"].get("matchLabels") or {}
        metadata["labels"] = {**(metadata.get("labels") or {}), **selected}
        made |= {"apiVersion": "v1", "kind": "PersistentVolumeClaim"}
        made.pop("status", None)
        found.append(made)
    return found


def pod_for(workload: Object, ordinal: int, revision: Object) -> Object:
    """The pod with its name, its host name, and its claims in place of volumes of the same name."""
    pod = clone(from_template(template_of(revision), workload))
    metadata, spec = pod["metadata"], pod["spec"]
    name = f"{workload['metadata']['name']}-{ordinal}"
    metadata.pop("generateName", None)
    metadata["name"] = name
    marks = metadata.setdefault("labels", {})
    marks |= {HASH: revision["metadata"]["name"], POD_NAME: name, POD_INDEX: str(ordinal)}
    spec["hostname"] = name
    if workload["spec"].get("serviceName"):
        spec["subdomain"] = workload["spec"]["serviceName"]
    templates = workload["spec"].get("volumeClaimTemplates") or ()
    if templates:
        own = [
            {
                "name": each["metadata"]["name"],
                "persistentVolumeClaim": {"claimName": claim_name(each, workload, ordinal)},
            }
            for each in templates
        ]
        taken = {volume["name"] for volume in own}
        rest = [each for each in spec.get("volumes") or () if each["name"] not in taken]
        spec["volumes"] = [*own, *rest]
    return pod
