"""Pods as the controllers above them see them: made from a template, ranked for deletion, adopted and released.

Shared by the workload controllers. Decisions are pure; `create_pods`, `delete_pod` and `claim` write.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterable
from datetime import datetime
from typing import Any

from sampan.client.client import Client
from sampan.client.events import EventRecorder
from sampan.client.informer import Informer
from sampan.client.resources import PODS
from sampan.controllers.base import Expectations, Key, may_adopt
from sampan.kube.errors import ApiError
from sampan.kube.objects import (
    condition,
    condition_true,
    controller_of,
    is_deleting,
    labels,
    owner_reference,
    parse_time,
    pod_finished,
)
from sampan.kube.selectors import LabelSelector
from sampan.kube.types import GVR

Object = dict[str, Any]
PHASE_RANK = {"Pending": 0, "Unknown": 1, "Running": 2}
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"


def from_template(template: Object, owner: Object) -> Object:
    """A new pod of `owner`. Labels, annotations and finalizers are the template's."""
    source = template.get("metadata") or {}
    metadata: Object = {
        "generateName": pod_name_prefix(owner["metadata"]["name"]),
        "namespace": owner["metadata"]["namespace"],
        "ownerReferences": [owner_reference(owner)],
    }
    for field in ("labels", "annotations", "finalizers"):
        if source.get(field):
            metadata[field] = source[field]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def pod_name_prefix(owner_name: str) -> str:
    """`web-` of `web`; an owner whose name leaves no room for the suffix gives a pod its own name shortened."""
    return owner_name[:57] + "-"


def is_active(pod: Object) -> bool:
    return not pod_finished(pod) and not is_deleting(pod)


def ready_since(pod: Object) -> datetime | None:
    """When the pod became Ready; None when it is not."""
    found = condition(pod, "Ready")
    if found is None or found.get("status") != "True" or not found.get("lastTransitionTime"):
        return None
    return parse_time(found["lastTransitionTime"])


def is_available(pod: Object, min_ready_seconds: int, now: float) -> bool:
    """Ready for at least `min_ready_seconds`; `now` in seconds since the epoch."""
    if not condition_true(pod, "Ready"):
        return False
    since = ready_since(pod)
    return not min_ready_seconds or (
        since is not None and since.timestamp() + min_ready_seconds <= now
    )


def available_in(pods: list[Object], min_ready_seconds: int, now: float) -> float | None:
    """Seconds until the next ready pod counts as available; None when none is waiting."""
    waits = [
        since.timestamp() + min_ready_seconds - now
        for pod in pods
        if condition_true(pod, "Ready") and (since := ready_since(pod)) is not None
    ]
    waits = [wait for wait in waits if wait > 0]
    return min(waits) if min_ready_seconds and waits else None


def rank_for_deletion(pods: list[Object]) -> list[Object]:
    """Pods in the order in which a scale-down deletes them.

    As the API documents it: unassigned, pending, not ready, lower deletion cost, doubled up on a node, ready for a shorter
    time, more restarts, younger.
    """
    on_node = Counter(pod["spec"].get("nodeName", "") for pod in pods if is_active(pod))

    def rank(pod: Object) -> tuple[Any, ...]:
        status = pod.get("status") or {}
        node = pod["spec"].get("nodeName", "")
        since = ready_since(pod)
        restarts = max(
            (c.get("restartCount", 0) for c in status.get("containerStatuses") or ()), default=0
        )
        return (
            bool(node),
            PHASE_RANK.get(status.get("phase", "Pending"), 0),
            condition_true(pod, "Ready"),
            deletion_cost(pod),
            -on_node[node],
            -since.timestamp() if since else 0.0,
            -restarts,
            -parse_time(pod["metadata"]["creationTimestamp"]).timestamp(),
        )

    return sorted(pods, key=rank)


def deletion_cost(pod: Object) -> int:
    value = (pod["metadata"].get("annotations") or {}).get(DELETION_COST, "0")
    try:
        return int(value)
    except ValueError:
        return 0


async def create_pods(
    creations: Iterable[Coroutine[Any, Any, None]], events: EventRecorder, owner: Object
) -> None:
    """Batches that double while all goes well, so that a quota or a bad template costs one refusal, not hundreds.

    Each creation that is refused is an event of `owner`; the first is raised, and what follows it is not begun.
    """
    waiting, size = list(creations), 1
    try:
        while waiting:
            batch, waiting = waiting[:size], waiting[size:]
            results = await asyncio.gather(*batch, return_exceptions=True)
            for result in results:
                if isinstance(result, ApiError):
                    text = f"Error creating: {result.message}"
                    events.event(owner, "Warning", "FailedCreate", text)
            for result in results:
                if isinstance(result, BaseException):
                    raise result
            size *= 2
    finally:
        for creation in waiting:
            creation.close()


async def delete_pod(client: Client, expectations: Expectations, key: Key, pod: Object) -> None:
    """Delete this pod and no other of its name; one that is gone already is no error."""
    metadata = pod["metadata"]
    expectations.expect_deleted(key, pod)
    try:
        await client.delete(PODS, metadata["name"], metadata["namespace"], uid=metadata["uid"])
    except ApiError as error:
        if error.code not in (404, 409):
            expectations.not_deleted(key, pod)
            raise


async def claim(
    client: Client, informer: Informer, gvr: GVR, owner: Object, selector: LabelSelector
) -> list[Object]:
    """The pods of `owner`, an object of `gvr`: those that it controls, and orphans that match, which are adopted.

    A controlled pod whose labels no longer match is released. A pod that went away meanwhile is left out.
    """
    metadata = owner["metadata"]
    mine = []
    for pod in informer.owned_by(metadata["uid"]):
        reference = controller_of(pod)
        if reference is None or reference["uid"] != metadata["uid"]:
            continue
        if selector.matches(labels(pod)) or is_deleting(pod):
            mine.append(pod)
        elif not is_deleting(owner):
            await release(client, pod, owner)
    if is_deleting(owner):
        return mine
    orphans = [
        pod
        for pod in informer.by_index("orphans", metadata["namespace"])
        if is_active(pod) and selector.matches(labels(pod))
    ]
    if orphans and await may_adopt(client, gvr, owner):
        for pod in orphans:
            adopted = await adopt(client, pod, owner)
            if adopted is not None:
                mine.append(adopted)
    return mine


async def adopt(client: Client, pod: Object, owner: Object) -> Object | None:
    metadata = pod["metadata"]
    patch = {
        "metadata": {
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
            "ownerReferences": [
                *(metadata.get("ownerReferences") or []),
                owner_reference(owner),
            ],
        }
    }
    return await write_owner(client, pod, patch)


async def release(client: Client, pod: Object, owner: Object) -> None:
    metadata = pod["metadata"]
    kept = [r for r in metadata["ownerReferences"] if r["uid"] != owner["metadata"]["uid"]]
    patch = {
        "metadata": {
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
            "ownerReferences": kept or None,
        }
    }
    await write_owner(client, pod, patch)


async def write_owner(client: Client, pod: Object, patch: Object) -> Object | None:
    metadata = pod["metadata"]
    try:
        return await client.patch(PODS, metadata["name"], patch, metadata["namespace"])
    except ApiError as error:
        # Gone, replaced under its name, or changed since: the next reconcile sees what it is now.
        if error.code in (404, 409, 422):
            return None
        raise
