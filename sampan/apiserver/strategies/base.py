"""Strategy: what is particular to a kind when it is written; the generic one serves most kinds.

`prepare_*` run after decoding and defaulting and before validation; they change the new object in place and never the old.
The common rule of Kubernetes is in the generic ones: a plain write cannot touch status, a status write touches only status.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from sampan.apiserver.call import Call
from sampan.kube import validation, warnings
from sampan.kube.errors import Cause

if TYPE_CHECKING:
    from sampan.apiserver.registry import Registry

Object = dict[str, Any]
Rollback = Callable[[], Awaitable[None]]
Causes = list[Cause]

# Status fields that the API always shows, because their Go types are not optional.
_EMPTY_STATUS: dict[str, Object] = {
    "DaemonSet": {
        "currentNumberScheduled": 0,
        "numberMisscheduled": 0,
        "desiredNumberScheduled": 0,
        "numberReady": 0,
    },
    "ReplicaSet": {"replicas": 0},
    "StatefulSet": {"replicas": 0, "availableReplicas": 0},
    "ReplicationController": {"replicas": 0},
    "Service": {"loadBalancer": {}},
    "Ingress": {"loadBalancer": {}},
    "PersistentVolumeClaim": {"phase": "Pending"},
    "PersistentVolume": {"phase": "Pending"},
    "PodDisruptionBudget": {
        "disruptionsAllowed": 0,
        "currentHealthy": 0,
        "desiredHealthy": 0,
        "expectedPods": 0,
    },
    "VolumeAttachment": {"attached": False},
    "HorizontalPodAutoscaler": {"desiredReplicas": 0, "currentMetrics": None},
}

# Subresources that have rules of their own; the others are checked as the whole object.
VALIDATED = ("status", "ephemeralcontainers", "resize")

# Kinds whose status writers may also change labels and annotations.
_METADATA_WITH_STATUS = ("Pod", "Node", "Namespace", "PersistentVolume")


class Strategy:
    orphan_by_default = False  # dependents stay when DELETE names no policy
    returns_deleted = False  # DELETE answers with the object, not a Status
    allocates = False  # `settle` is called after a durable write

    def prepare_create(self, call: Call, obj: Object) -> None:
        if call.resource.has_status:
            obj["status"] = deepcopy(_EMPTY_STATUS.get(call.resource.kind, {}))

    def complete(self, call: Call, obj: Object) -> None:
        """What follows from a new object as admission has left it (a LimitRange may have set its resources)."""

    def prepare_update(self, call: Call, new: Object, old: Object) -> None:
        if call.resource.has_status:
            keep(new, old, "status")

    def prepare_status(self, call: Call, new: Object, old: Object) -> None:
        for key in {*new, *old} - {"status", "metadata"}:
            keep(new, old, key)
        metadata = new["metadata"]
        if call.resource.kind not in _METADATA_WITH_STATUS:
            keep(metadata, old["metadata"], "labels")
        keep(metadata, old["metadata"], "ownerReferences")

    def validate_create(self, call: Call, obj: Object) -> Causes | Awaitable[Causes]:
        """What is wrong with the object. Awaited only where finding it out takes long (rules in CEL)."""
        return validation.validate_create(call.storage_gvk, obj)

    def validate_update(self, call: Call, new: Object, old: Object) -> Causes | Awaitable[Causes]:
        return update_causes(call, new, old)

    def warn(self, call: Call, new: Object, old: Object | None) -> list[str]:
        """What the writer of a valid object should know."""
        return warnings.warnings_for(call.storage_gvk, new, old)

    def grace_period(self, obj: Object, asked: int | None) -> int | None:
        """Seconds until a deletion may be carried out; None for kinds that are deleted at once."""
        return None

    def may_remove(self, obj: Object) -> bool:
        """A deleted object without metadata.finalizers is removed from the store when this is true."""
        return True

    def begin_delete(self, obj: Object) -> None:
        """The object stays for now, marked as being deleted."""

    async def reserve(
        self, registry: Registry, call: Call, new: Object, old: Object | None
    ) -> Rollback | None:
        """Take what the object needs from shared pools; the answer gives it back when the write fails."""
        return None

    async def settle(self, registry: Registry, new: Object | None, old: Object) -> None:
        """The object was changed or removed (`new` is None), durably: give back what it no longer needs."""


def update_causes(call: Call, new: Object, old: Object) -> Causes:
    """By the rules of the kind, or of the subresource where it has its own."""
    subresource = call.info.subresource
    return validation.validate_update(
        call.storage_gvk, new, old, subresource if subresource in VALIDATED else ""
    )


def keep(new: Object, old: Object, key: str) -> None:
    """Make `new[key]` what it is in `old`, present or absent."""
    if key in old:
        new[key] = old[key]
    else:
        new.pop(key, None)
