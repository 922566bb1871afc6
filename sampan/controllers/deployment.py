"""Deployment controller: one ReplicaSet per template, and an orderly way from the old ones to the new one.

What to do is decided in `rollout.py`; here it is written: ReplicaSets are created, adopted, scaled and tidied, revisions
numbered as `kubectl rollout history` reads them, and conditions set as `kubectl rollout status` waits for them.
"""

from __future__ import annotations

from typing import Any

from sampan.client.resources import DEPLOYMENTS, PODS, REPLICASETS
from sampan.controllers import rollout
from sampan.controllers.base import (
    Context,
    Controller,
    Key,
    Object,
    Requeue,
    Watch,
    may_adopt,
    stamp,
)
from sampan.kube.errors import ApiError, conflict
from sampan.kube.objects import (
    condition,
    controller_of,
    is_deleting,
    labels,
    owner_reference,
    parse_time,
    pod_finished,
    set_condition,
)
from sampan.kube.selectors import from_object


class DeploymentController(Controller):
    name = "deployment-controller"
    watches = (
        Watch(DEPLOYMENTS),
        Watch(REPLICASETS, owner="Deployment"),
        Watch(PODS, keys=lambda self, pod: self.recreating(pod)),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.deployments = self.informer(DEPLOYMENTS)
        self.replica_sets = self.informer(REPLICASETS)
        self.pods = self.informer(PODS)
        self.events = context.recorder(self.name)
        # ReplicaSets as last written here, until the informer shows that version or a newer one.
        self.written: dict[str, Object] = {}

    def recreating(self, pod: Object) -> list[Key]:
        """The Deployment that waits for this pod of an old ReplicaSet to be gone (strategy Recreate)."""
        owner = controller_of(pod)
        if owner is None or owner["kind"] != "ReplicaSet":
            return []
        namespace = pod["metadata"]["namespace"]
        replica_set = self.replica_sets.get(namespace, owner["name"])
        parent = controller_of(replica_set) if replica_set else None
        if parent is None or parent["kind"] != "Deployment":
            return []
        deployment = self.deployments.get(namespace, parent["name"])
        if deployment is None or strategy(deployment) != "Recreate":
            return []
        return [Key(namespace, parent["name"])]

    async def reconcile(self, key: Key) -> Requeue | None:
        deployment = self.deployments.get(*key)
        if deployment is None:
            return None
        owned = await self.owned(deployment)
        if is_deleting(deployment):
            return await self.write_status(deployment, owned, rollout.find_new(deployment, owned))
        paused = bool(deployment["spec"].get("paused"))
        new = rollout.find_new(deployment, owned)
        if paused or rollout.needs_scaling(deployment, owned):
            old = [rs for rs in owned if rs is not new]
            owned = await self.scale_all(
                deployment, owned, rollout.proportional(deployment, new, old)
            )
        elif strategy(deployment) == "Recreate":
            owned = await self.recreate(deployment, owned)
        else:
            owned = await self.roll(deployment, owned)
        new = rollout.find_new(deployment, owned)
        deployment = await self.note_revision(deployment, new)
        return await self.write_status(deployment, owned, new)

    async def owned(self, deployment: Object) -> list[Object]:
        """Its ReplicaSets as last known: the informer's, or our own newer writes. Orphans that match are adopted."""
        metadata = deployment["metadata"]
        selector = from_object(deployment["spec"]["selector"])
        found = {
            rs["metadata"]["uid"]: rs
            for rs in self.replica_sets.owned_by(metadata["uid"])
            if (owner := controller_of(rs)) and owner["uid"] == metadata["uid"]
        }
        for uid, mine in list(self.written.items()):
            owner = controller_of(mine)
            if owner is None or owner["uid"] != metadata["uid"]:
                continue
            shown = self.replica_sets.get(mine["metadata"]["namespace"], mine["metadata"]["name"])
            if shown is not None and version(shown) >= version(mine):
                del self.written[uid]
            else:
                found[uid] = mine
        if is_deleting(deployment):
            return list(found.values())
        for uid, replica_set in list(found.items()):
            if not selector.matches(labels(replica_set)):
                del found[uid]
                await self.release(deployment, replica_set)
        orphans = [
            replica_set
            for replica_set in self.replica_sets.by_index("orphans", metadata["namespace"])
            if selector.matches(labels(replica_set))
            and not is_deleting(replica_set)
            and replica_set["metadata"]["uid"] not in found
        ]
        if orphans and await may_adopt(self.client, DEPLOYMENTS, deployment):
            for replica_set in orphans:
                adopted = await self.adopt(deployment, replica_set)
                found[adopted["metadata"]["uid"]] = adopted
        return list(found.values())

    async def adopt(self, deployment: Object, replica_set: Object) -> Object:
        metadata = replica_set["metadata"]
        owners = [*(metadata.get("ownerReferences") or []), owner_reference(deployment)]
        patch = {
            "metadata": {
                "uid": metadata["uid"],
                "resourceVersion": metadata["resourceVersion"],
                "ownerReferences": owners,
            }
        }
        return await self.client.patch(REPLICASETS, metadata["name"], patch, metadata["namespace"])

    async def release(self, deployment: Object, replica_set: Object) -> None:
        """Somebody changed its labels: it is no longer the Deployment's."""
        metadata = replica_set["metadata"]
        uid = deployment["metadata"]["uid"]
        kept = [r for r in metadata["ownerReferences"] if r["uid"] != uid]
        patch = {
            "metadata": {
                "uid": metadata["uid"],
                "resourceVersion": metadata["resourceVersion"],
                "ownerReferences": kept or None,
            }
        }
        self.written.pop(metadata["uid"], None)
        await self.client.patch(REPLICASETS, metadata["name"], patch, metadata["namespace"])

    async def roll(self, deployment: Object, owned: list[Object]) -> list[Object]:
        new, owned = await self.ensure_new(deployment, owned)
        wanted = rollout.new_replicas(deployment, owned, new)
        if wanted != rollout.replicas(new):
            return await self.scale_all(deployment, owned, [(new, wanted)])
        old = [rs for rs in owned if rs is not new and rollout.replicas(rs) > 0]
        plan = rollout.scale_down_old(deployment, new, old)
        return await self.scale_all(deployment, owned, plan)

    async def recreate(self, deployment: Object, owned: list[Object]) -> list[Object]:
        new = rollout.find_new(deployment, owned)
        old = [rs for rs in owned if rs is not new]
        active = [rs for rs in old if rollout.replicas(rs) > 0]
        if active:
            return await self.scale_all(deployment, owned, [(rs, 0) for rs in active])
        if any(
            not pod_finished(pod) for rs in old for pod in self.pods.owned_by(rs["metadata"]["uid"])
        ):
            return owned
        new, owned = await self.ensure_new(deployment, owned)
        count = deployment["spec"].get("replicas", 1)
        plan = [(new, count)] if rollout.replicas(new) != count else []
        return await self.scale_all(deployment, owned, plan)

    async def ensure_new(
        self, deployment: Object, owned: list[Object]
    ) -> tuple[Object, list[Object]]:
        """The ReplicaSet of the present template, created when missing, with its revision up to date."""
        new = rollout.find_new(deployment, owned)
        latest = max((rollout.revision(rs) for rs in owned if rs is not new), default=0)
        if new is None:
            created = await self.create_new(deployment, owned, latest + 1)
            return created, [*owned, created]
        annotations = wanted_annotations(deployment, new, latest + 1)
        seconds = deployment["spec"].get("minReadySeconds", 0)
        same = annotations == (new["metadata"].get("annotations") or {})
        if same and seconds == new["spec"].get("minReadySeconds", 0):
            return new, owned
        changed = {
            **new,
            "metadata": {**new["metadata"], "annotations": annotations},
            "spec": {**new["spec"], "minReadySeconds": seconds},
        }
        written = await self.write(changed)
        return written, [written if rs is new else rs for rs in owned]

    async def create_new(self, deployment: Object, owned: list[Object], revision: int) -> Object:
        metadata, spec = deployment["metadata"], deployment["spec"]
        collisions = (deployment.get("status") or {}).get("collisionCount", 0)
        digest = rollout.template_hash(spec["template"], collisions)
        template = rollout.bare_template(spec["template"])
        template_labels = {**template["metadata"].get("labels", {}), rollout.HASH_LABEL: digest}
        template["metadata"] = {**template["metadata"], "labels": template_labels}
        selector = dict(spec["selector"])
        selector["matchLabels"] = {
            **(selector.get("matchLabels") or {}),
            rollout.HASH_LABEL: digest,
        }
        wanted = rollout.new_replicas(deployment, owned, None)
        replica_set = {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": f"{metadata['name']}-{digest}",
                "namespace": metadata["namespace"],
                "labels": template_labels,
                "annotations": wanted_annotations(deployment, None, revision),
                "ownerReferences": [owner_reference(deployment)],
            },
            "spec": {
                "replicas": wanted,
                "minReadySeconds": spec.get("minReadySeconds", 0),
                "selector": selector,
                "template": template,
            },
        }
        try:
            created = await self.client.create(REPLICASETS, replica_set, metadata["namespace"])
        except ApiError as error:
            if error.reason == "AlreadyExists":
                return await self.settle_collision(deployment, replica_set)
            await self.report_create_error(deployment, error)
            raise
        self.written[created["metadata"]["uid"]] = created
        if wanted:
            self.say_scaled(deployment, created, 0, wanted)
        return created

    async def settle_collision(self, deployment: Object, wanted: Object) -> Object:
        """The name is taken: by our own ReplicaSet that the informer does not show yet, or by a hash collision."""
        metadata = wanted["metadata"]
        taken = await self.client.get(REPLICASETS, metadata["name"], metadata["namespace"])
        owner = controller_of(taken)
        ours = owner is not None and owner["uid"] == deployment["metadata"]["uid"]
        if ours and rollout.bare_template(taken["spec"]["template"]) == rollout.bare_template(
            wanted["spec"]["template"]
        ):
            self.written[taken["metadata"]["uid"]] = taken
            return taken
        status = dict(deployment.get("status") or {})
        status["collisionCount"] = status.get("collisionCount", 0) + 1
        await self.client.update(DEPLOYMENTS, {**deployment, "status": status}, "status")
        raise conflict(
            "replicasets",
            metadata["name"],
            "it belongs to another template; trying another name",
            "apps",
        )

    async def report_create_error(self, deployment: Object, error: ApiError) -> None:
        message = f"Failed to create new replica set: {error.message}"
        self.events.event(deployment, "Warning", "ReplicaSetCreateError", message)
        changed = {**deployment, "status": copy_status(deployment)}
        if set_condition(
            changed,
            "Progressing",
            "False",
            "ReplicaSetCreateError",
            error.message,
            stamp(self.clock()),
        ):
            await self.client.update(DEPLOYMENTS, changed, "status")

    async def scale_all(
        self, deployment: Object, owned: list[Object], plan: list[rollout.Scaling]
    ) -> list[Object]:
        sizes = {rs["metadata"]["uid"]: count for rs, count in plan}
        result = []
        for replica_set in owned:
            uid = replica_set["metadata"]["uid"]
            wanted = sizes.get(uid, rollout.replicas(replica_set))
            marks = sizing(deployment)
            noted = replica_set["metadata"].get("annotations") or {}
            stale = wanted > 0 and not marks.items() <= noted.items()
            if wanted == rollout.replicas(replica_set) and not stale:
                result.append(replica_set)
                continue
            changed = {
                **replica_set,
                "metadata": {**replica_set["metadata"], "annotations": {**noted, **marks}},
                "spec": {**replica_set["spec"], "replicas": wanted},
            }
            written = await self.write(changed)
            if wanted != rollout.replicas(replica_set):
                self.say_scaled(deployment, written, rollout.replicas(replica_set), wanted)
            result.append(written)
        return result

    def say_scaled(self, deployment: Object, replica_set: Object, before: int, after: int) -> None:
        direction = "up" if after > before else "down"
        name = replica_set["metadata"]["name"]
        self.events.event(
            deployment, "Normal", "ScalingReplicaSet",
            f"Scaled {direction} replica set {name} from {before} to {after}",
        )  # fmt: skip

    async def write(self, replica_set: Object) -> Object:
        written = await self.client.update(REPLICASETS, replica_set)
        self.written[written["metadata"]["uid"]] = written
        return written

    async def note_revision(self, deployment: Object, new: Object | None) -> Object:
        """Keep the Deployment's own revision annotation in step with its new ReplicaSet."""
        if (
            new is None
            or not rollout.revision(new)
            or rollout.revision(deployment) == rollout.revision(new)
        ):
            return deployment
        metadata = deployment["metadata"]
        patch = {"metadata": {"annotations": {rollout.REVISION: str(rollout.revision(new))}}}
        return await self.client.patch(DEPLOYMENTS, metadata["name"], patch, metadata["namespace"])

    async def write_status(
        self, deployment: Object, owned: list[Object], new: Object | None
    ) -> Requeue | None:
        old_status = deployment.get("status") or {}
        status = rollout.deployment_status(deployment, owned, new)
        holder: Object = {"status": {**status, "conditions": copy_status(deployment)["conditions"]}}
        requeue = self.set_conditions(deployment, holder, status, owned, new)
        complete = rollout.is_complete(deployment, status)
        if not holder["status"]["conditions"]:
            del holder["status"]["conditions"]
        if holder["status"] != old_status:
            changed = {**deployment, "status": holder["status"]}
            await self.client.update(DEPLOYMENTS, changed, "status")
        if complete and not is_deleting(deployment):
            await self.tidy(deployment, [rs for rs in owned if rs is not new])
        return requeue

    def set_conditions(
        self,
        deployment: Object,
        holder: Object,
        status: Object,
        owned: list[Object],
        new: Object | None,
    ) -> Requeue | None:
        count = deployment["spec"].get("replicas", 1)
        enough = status.get("availableReplicas", 0) >= count - rollout.fences(deployment)[1]
        set_condition(
            holder, "Available", "True" if enough else "False",
            "MinimumReplicasAvailable" if enough else "MinimumReplicasUnavailable",
            f"Deployment {'has' if enough else 'does not have'} minimum availability.", stamp(self.clock()),
        )  # fmt: skip
        failures = [c for rs in owned if (c := condition(rs, "ReplicaFailure"))]
        if failures:
            worst = failures[0]
            set_condition(
                holder,
                "ReplicaFailure",
                "True",
                worst.get("reason", ""),
                worst.get("message", ""),
                stamp(self.clock()),
            )
        else:
            kept = [c for c in holder["status"]["conditions"] if c["type"] != "ReplicaFailure"]
            holder["status"]["conditions"] = kept
        return self.set_progress(deployment, holder, status, new)

    def set_progress(
        self, deployment: Object, holder: Object, status: Object, new: Object | None
    ) -> Requeue | None:
        """The Progressing condition. `lastUpdateTime` is the clock of the progress deadline."""
        deadline = deployment["spec"].get("progressDeadlineSeconds", 600)
        moment = stamp(self.clock())
        present = condition(holder, "Progressing")
        paused = bool(deployment["spec"].get("paused"))
        if paused or (present or {}).get("reason") == "DeploymentPaused":
            reason = "DeploymentPaused" if paused else "DeploymentResumed"
            text = f"Deployment is {'paused' if paused else 'resumed'}"
            if (present or {}).get("reason") != reason:
                touch(holder, "Unknown", reason, text, moment)
            return None
        name = f'ReplicaSet "{new["metadata"]["name"]}"' if new else "Deployment"
        if rollout.is_complete(deployment, status):
            text = f"{name} has successfully progressed."
            told = (present or {}).get("reason"), (present or {}).get("message")
            if told != ("NewReplicaSetAvailable", text):
                touch(holder, "True", "NewReplicaSetAvailable", text, moment)
            return None
        moved = rollout.is_progressing(deployment.get("status") or {}, status)
        settled = (present or {}).get("reason") == "NewReplicaSetAvailable"
        same_rollout = settled and status.get("updatedReplicas", 0) == status.get("replicas", 0)
        if same_rollout and not moved and present and name in present["message"]:
            return (
                None  # pods of a finished rollout come and go: that is availability, not progress
            )
        if present is None or moved or (settled and not same_rollout):
            touch(holder, "True", "ReplicaSetUpdated", f"{name} is progressing.", moment)
            present = condition(holder, "Progressing")
        if present is None or present["status"] == "False":
            return None
        passed = self.clock() - parse_time(present.get("lastUpdateTime") or moment).timestamp()
        if passed > deadline:
            text = f"{name} has timed out progressing."
            touch(holder, "False", "ProgressDeadlineExceeded", text, moment)
            return None
        return Requeue(deadline - passed + 1)

    async def tidy(self, deployment: Object, old: list[Object]) -> None:
        """Delete the oldest ReplicaSets beyond `revisionHistoryLimit`."""
        limit = deployment["spec"].get("revisionHistoryLimit", 10)
        empty = [
            rs
            for rs in old
            if rollout.replicas(rs) == 0
            and not (rs.get("status") or {}).get("replicas")
            and not is_deleting(rs)
        ]
        for replica_set in sorted(empty, key=rollout.revision)[: max(0, len(empty) - limit)]:
            metadata = replica_set["metadata"]
            try:
                await self.client.delete(
                    REPLICASETS, metadata["name"], metadata["namespace"], uid=metadata["uid"]
                )
            except ApiError as error:
                if error.code not in (404, 409):
                    raise


def strategy(deployment: Object) -> str:
    return (deployment["spec"].get("strategy") or {}).get("type", "RollingUpdate")


def version(obj: Object) -> int:
    return int(obj["metadata"]["resourceVersion"])


def copy_status(deployment: Object) -> Object:
    status = dict(deployment.get("status") or {})
    status["conditions"] = [dict(c) for c in status.get("conditions") or ()]
    return status


def touch(holder: Object, status: str, reason: str, message: str, moment: str) -> None:
    """Set Progressing and restart its deadline."""
    set_condition(holder, "Progressing", status, reason, message, moment)
    found: Any = condition(holder, "Progressing")
    found["lastUpdateTime"] = moment


def sizing(deployment: Object) -> dict[str, str]:
    """What a ReplicaSet remembers of the size that it was scaled for."""
    count = deployment["spec"].get("replicas", 1)
    return {
        rollout.DESIRED: str(count),
        rollout.MAXIMUM: str(count + rollout.fences(deployment)[0]),
    }


def wanted_annotations(deployment: Object, new: Object | None, revision: int) -> dict[str, str]:
    """Annotations of the new ReplicaSet: the Deployment's, its revision, and the revisions that it had before."""
    present = dict((new["metadata"].get("annotations") or {}) if new else {})
    copied = deployment["metadata"].get("annotations") or {}
    present |= {key: value for key, value in copied.items() if key not in rollout.NOT_COPIED}
    before = rollout.revision(new) if new else 0
    if before < revision:
        if before:
            history = present.get(rollout.REVISION_HISTORY, "")
            present[rollout.REVISION_HISTORY] = f"{history},{before}".strip(",")
        present[rollout.REVISION] = str(revision)
    return {**present, **sizing(deployment)}
