"""Validation: what is wrong with an object, as a list of causes that name the fields. An empty list means valid.

Objects come here decoded and defaulted. Each API group has a file with a table of `Rules` by kind; wording, paths and
order follow Kubernetes v1.36 (pkg/apis/*/validation), since users search for these sentences. A kind without rules, a
custom one, has its metadata checked.
"""

from __future__ import annotations

from typing import Any, Final

from sampan.kube.errors import Cause
from sampan.kube.types import GVK
from sampan.kube.validation import (
    admission,
    autoscaling,
    batch,
    core,
    device_slices,
    devices,
    events,
    flowcontrol,
    networking,
    others,
    pod_updates,
    policy,
    rbac,
    storage,
    workloads,
)
from sampan.kube.validation.metadata import validate_metadata, validate_metadata_update
from sampan.kube.validation.ratchet import without_kept
from sampan.kube.validation.rules import Rules

__all__ = [
    "validate_create",
    "validate_metadata",
    "validate_metadata_update",
    "validate_update",
]

_TABLE: Final[dict[tuple[str, str], Rules]] = {
    **core.RULES,
    **workloads.RULES,
    **batch.RULES,
    **networking.RULES,
    **rbac.RULES,
    **policy.RULES,
    **storage.RULES,
    **admission.RULES,
    **autoscaling.RULES,
    **flowcontrol.RULES,
    **devices.RULES,
    **device_slices.RULES,
    **events.RULES,
    **others.RULES,
}


def rules_for(gvk: GVK) -> Rules | None:
    return _TABLE.get((gvk.group, gvk.kind))


def validate_create(gvk: GVK, obj: dict[str, Any]) -> list[Cause]:
    """Everything wrong with a new object. The name must have been generated and the namespace filled in."""
    causes: list[Cause] = []
    rules = rules_for(gvk)
    if rules is None:
        validate_metadata(obj.get("metadata"), causes, namespaced=None)
        return causes
    validate_metadata(
        obj.get("metadata"), causes, name_rule=rules.name, namespaced=rules.namespaced
    )
    if rules.create is not None:
        rules.create(obj, causes)
    if rules.first is not None:
        rules.first(obj, causes)
    return causes


def validate_update(
    gvk: GVK, new: dict[str, Any], old: dict[str, Any], subresource: str = ""
) -> list[Cause]:
    """Everything wrong with replacing `old` by `new`.

    `subresource` "status" checks metadata and status only; "ephemeralcontainers" and "resize" have a pod's own rules.
    """
    causes: list[Cause] = []
    rules = rules_for(gvk)
    before, after = old.get("metadata"), new.get("metadata")
    validate_metadata_update(after, before, causes, builtin=rules is not None)
    if rules is None:
        return causes
    found: list[Cause] = []
    if subresource == "status":
        if (status := rules.status) is not None:
            status(new, old, found)
            causes += without_kept(
                found, rules.kept, old, lambda stored, into: status(stored, stored, into)
            )
        return causes
    if subresource in ("ephemeralcontainers", "resize") and rules.create is not None:
        pod_updates.validate_subresource(subresource, new, old, found)
        return causes + without_kept(found, rules.kept, old, rules.create)
    if rules.create is not None and not rules.update_is_whole:
        rules.create(new, found)
        causes += without_kept(found, rules.kept, old, rules.create)
    if rules.update is not None:
        rules.update(new, old, causes)
    return causes
