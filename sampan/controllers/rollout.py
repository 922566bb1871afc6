"""Decisions of a Deployment's rollout as pure functions: who is new, who scales to what, how far it has come.

A plan is a list of `(replica set, replicas)`. Rules follow the API reference of Deployment (`maxSurge` rounds up,
`maxUnavailable` rounds down, both zero means one unavailable) and what `kubectl rollout` reads out of annotations.
"""

from __future__ import annotations

import copy
import hashlib
import math
from typing import Any

import orjson

Object = dict[str, Any]
Scaling = tuple[Object, int]

HASH_LABEL = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
REVISION_HISTORY = "deployment.kubernetes.io/revision-history"
DESIRED = "deployment.kubernetes.io/desired-replicas"
MAXIMUM = "deployment.kubernetes.io/max-replicas"
# Annotations of a Deployment that its ReplicaSets do not take over.
NOT_COPIED = {
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAXIMUM,
    "deprecated.deployment.rollback.to",
}
# No vowels and no look-alikes, as in the API's own generated names.
ALPHABET = "bcdfghjklmnpqrstvwxz2456789"


def replicas(replica_set: Object | None) -> int:
    return 0 if replica_set is None else replica_set["spec"].get("replicas", 1)


def available(replica_set: Object | None) -> int:
    return (
        0 if replica_set is None else (replica_set.get("status") or {}).get("availableReplicas", 0)
    )


def total(replica_sets: list[Object]) -> int:
    return sum(replicas(rs) for rs in replica_sets)


def revision(obj: Object) -> int:
    value = (obj["metadata"].get("annotations") or {}).get(REVISION, "0")
    return int(value) if value.isdigit() else 0


def bare_template(template: Object) -> Object:
    """The template without the hash label, for comparing."""
    result = copy.copy(template)
    metadata = dict(template.get("metadata") or {})
    kept = {k: v for k, v in (metadata.get("labels") or {}).items() if k != HASH_LABEL}
    metadata["labels"] = kept
    metadata.pop("creationTimestamp", None)
    result["metadata"] = {k: v for k, v in metadata.items() if v}
    return result


def template_hash(template: Object, collisions: int = 0) -> str:
    """Ten letters that name the template; `collisions` gives another name to the same template."""
    data = (
        orjson.dumps(bare_template(template), option=orjson.OPT_SORT_KEYS)
        + str(collisions).encode()
    )
    number = int.from_bytes(hashlib.sha256(data).digest()[:8])
    letters = []
    for _ in range(10):
        number, index = divmod(number, len(ALPHABET))
        letters.append(ALPHABET[index])
    return "".join(letters)


def by_age(replica_sets: list[Object]) -> list[Object]:
    """Oldest first."""
    return sorted(
        replica_sets,
        key=lambda rs: (rs["metadata"].get("creationTimestamp", ""), rs["metadata"]["name"]),
    )


def find_new(deployment: Object, replica_sets: list[Object]) -> Object | None:
    """The ReplicaSet of the Deployment's template; the oldest when there are several."""
    wanted = bare_template(deployment["spec"]["template"])
    for replica_set in by_age(replica_sets):
        if bare_template(replica_set["spec"]["template"]) == wanted:
            return replica_set
    return None


def resolve(value: int | str, count: int, *, up: bool) -> int:
    """An int or a percentage of `count`, rounded as the field documents."""
    if isinstance(value, int):
        return value
    share = int(value.rstrip("%")) * count / 100
    return math.ceil(share) if up else math.floor(share)


def fences(deployment: Object) -> tuple[int, int]:
    """(maxSurge, maxUnavailable) in pods; (0, all) for Recreate."""
    spec = deployment["spec"]
    count = spec.get("replicas", 1)
    strategy = spec.get("strategy") or {}
    if strategy.get("type") == "Recreate":
        return 0, count
    rolling = strategy.get("rollingUpdate") or {}
    surge = resolve(rolling.get("maxSurge", "25%"), count, up=True)
    unavailable = resolve(rolling.get("maxUnavailable", "25%"), count, up=False)
    if not surge and not unavailable:
        unavailable = 1
    return surge, min(unavailable, count)


def new_replicas(deployment: Object, replica_sets: list[Object], new: Object | None) -> int:
    """How many replicas the new ReplicaSet has next, within `maxSurge`."""
    count = deployment["spec"].get("replicas", 1)
    if (deployment["spec"].get("strategy") or {}).get("type") == "Recreate":
        return count
    current = replicas(new)
    if current >= count:
        return count
    room = count + fences(deployment)[0] - total(replica_sets)
    return current + max(0, min(room, count - current))


def scale_down_old(deployment: Object, new: Object, old: list[Object]) -> list[Scaling]:
    """What the old ReplicaSets give up next: first pods that are not available, then others within `maxUnavailable`."""
    everything = [new, *old]
    floor = deployment["spec"].get("replicas", 1) - fences(deployment)[1]
    budget = total(everything) - floor - (replicas(new) - available(new))
    if budget <= 0:
        return []
    left = {rs["metadata"]["uid"]: replicas(rs) for rs in old}
    spare = sum(available(rs) for rs in everything) - floor
    for replica_set in by_age(old):
        uid = replica_set["metadata"]["uid"]
        unhealthy = min(budget, left[uid] - available(replica_set))
        if unhealthy > 0:
            left[uid] -= unhealthy
            budget -= unhealthy
    for replica_set in by_age(old):
        uid = replica_set["metadata"]["uid"]
        step = min(left[uid], max(0, spare), max(0, budget))
        left[uid] -= step
        spare -= step
        budget -= step
    return [
        (rs, left[rs["metadata"]["uid"]])
        for rs in old
        if left[rs["metadata"]["uid"]] != replicas(rs)
    ]


def needs_scaling(deployment: Object, replica_sets: list[Object]) -> bool:
    """`spec.replicas` changed since the active ReplicaSets were last sized."""
    wanted = str(deployment["spec"].get("replicas", 1))
    for replica_set in replica_sets:
        noted = (replica_set["metadata"].get("annotations") or {}).get(DESIRED)
        if replicas(replica_set) > 0 and noted is not None and noted != wanted:
            return True
    return False


def proportional(deployment: Object, new: Object | None, old: list[Object]) -> list[Scaling]:
    """Sizes after a change of `spec.replicas`, in the middle of a rollout in proportion to what each has."""
    count = deployment["spec"].get("replicas", 1)
    active = [rs for rs in ([new] if new else []) + old if replicas(rs) > 0]
    if len(active) <= 1:
        # With none active, the newest stands for the Deployment.
        latest = max(old, key=revision, default=None)
        only = active[0] if active else (new or latest)
        return [(only, count)] if only is not None and replicas(only) != count else []
    if new is not None and replicas(new) == count == available(new):
        return [(rs, 0) for rs in old if replicas(rs) > 0]
    if (deployment["spec"].get("strategy") or {}).get("type") == "Recreate":
        return []
    return shares(active, (count + fences(deployment)[0] if count else 0))


def shares(active: list[Object], allowed: int) -> list[Scaling]:
    """Spread `allowed` pods over ReplicaSets in proportion to what each has; what is left over falls to the largest.

    Each is measured against the size that it was last scaled for (its `max-replicas` annotation), so a scaling of which
    only a part was written goes on where it stopped.
    """
    left = allowed - total(active)
    ordered = sorted(by_age(active), key=replicas, reverse=left > 0)
    sizes = {}
    for replica_set in ordered:
        have = replicas(replica_set)
        noted = (replica_set["metadata"].get("annotations") or {}).get(MAXIMUM, "")
        before = int(noted) if noted.isdigit() and int(noted) else total(active)
        step = math.floor(have * allowed / before + 0.5) - have
        step = min(max(step, 0), left) if left > 0 else max(min(step, 0), left)
        sizes[replica_set["metadata"]["uid"]] = have + step
        left -= step
    if left and ordered:
        first = ordered[0]["metadata"]["uid"]
        sizes[first] = max(0, sizes[first] + left)
    return [
        (rs, sizes[rs["metadata"]["uid"]])
        for rs in active
        if sizes[rs["metadata"]["uid"]] != replicas(rs)
    ]


def deployment_status(deployment: Object, replica_sets: list[Object], new: Object | None) -> Object:
    """Counts of the status, without conditions; zero counts are left out, as the API does."""

    def count(field: str, among: list[Object]) -> int:
        return sum((rs.get("status") or {}).get(field, 0) for rs in among)

    old = deployment.get("status") or {}
    present = count("replicas", replica_sets)
    ready_enough = count("availableReplicas", replica_sets)
    status = {
        "observedGeneration": deployment["metadata"].get("generation", 0),
        "replicas": present,
        "updatedReplicas": count("replicas", [new] if new else []),
        "readyReplicas": count("readyReplicas", replica_sets),
        "availableReplicas": ready_enough,
        "unavailableReplicas": max(0, total(replica_sets) - ready_enough),
        "terminatingReplicas": count("terminatingReplicas", replica_sets),
        "collisionCount": old.get("collisionCount", 0),
    }
    return {k: v for k, v in status.items() if v}


def is_complete(deployment: Object, status: Object) -> bool:
    count = deployment["spec"].get("replicas", 1)
    return (
        status.get("updatedReplicas", 0) == count
        and status.get("replicas", 0) == count
        and status.get("availableReplicas", 0) == count
    )


def is_progressing(old: Object, new: Object) -> bool:
    """Something moved forward since the last status."""

    def of(status: Object, field: str) -> int:
        return status.get(field, 0)

    return (
        of(new, "updatedReplicas") > of(old, "updatedReplicas")
        or of(new, "replicas") - of(new, "updatedReplicas")
        < of(old, "replicas") - of(old, "updatedReplicas")
        or of(new, "readyReplicas") > of(old, "readyReplicas")
        or of(new, "availableReplicas") > of(old, "availableReplicas")
    )
