"""Defaulting: fill in what a manifest leaves out, as the API documents for each field.

One table per API group maps a kind to a function that changes the object in place; `default` finds it. Idempotent: a
defaulted object stays as it is. What needs more than the object itself (cluster IPs, priorities, the namespace's
finalizer, a Job's generated selector) is left to admission and allocators. Source: pkg/apis/*/*/defaults.go, v1.36.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sampan.kube.defaulting import admission, batch, core, networking, others, storage, workloads
from sampan.kube.types import GVK

_TABLE: dict[tuple[str, str], Callable[[dict[str, Any]], None]] = {
    **core.DEFAULTS,
    **workloads.DEFAULTS,
    **batch.DEFAULTS,
    **networking.DEFAULTS,
    **storage.DEFAULTS,
    **admission.DEFAULTS,
    **others.DEFAULTS,
}
# Where a version differs from the rest of its group.
_BY_VERSION: dict[GVK, Callable[[dict[str, Any]], None]] = {
    GVK("autoscaling", "v1", "HorizontalPodAutoscaler"): others.autoscaler_v1,
}


def default(gvk: GVK, obj: dict[str, Any]) -> None:
    """Apply the defaults of the kind, in place. A kind without any is left alone."""
    found = _BY_VERSION.get(gvk) or _TABLE.get((gvk.group, gvk.kind))
    if found is not None:
        found(obj)
