"""Volumes and claims: when a volume's phase changed, and where a claim's data comes from.

A claim names the source of its data twice (KEP-1495): `dataSource` came first and knows claims and snapshots alone, so what
else stood there was dropped, and still is; `dataSourceRef` knows every kind. Who fills in one gets the other.
"""

from __future__ import annotations

from sampan.apiserver.call import Call
from sampan.apiserver.strategies.base import Object
from sampan.apiserver.strategies.cluster import ReturningStrategy
from sampan.kube import objects

_SOURCES = (("", "PersistentVolumeClaim"), ("snapshot.storage.k8s.io", "VolumeSnapshot"))


class ClaimStrategy(ReturningStrategy):
    def prepare_create(self, call: Call, obj: Object) -> None:
        super().prepare_create(call, obj)
        link_sources(obj.get("spec") or {}, {})

    def prepare_update(self, call: Call, new: Object, old: Object) -> None:
        super().prepare_update(call, new, old)
        link_sources(new.get("spec") or {}, old.get("spec") or {})


def link_sources(spec: Object, before: Object) -> None:
    reference = spec.get("dataSourceRef")
    if reference and reference.get("namespace") and before.get("dataSourceRef") is None:
        # Another namespace's data is behind a gate that is off in v1.36 (KEP-3294).
        reference = spec.pop("dataSourceRef") and None
    source = spec.get("dataSource")
    had_one = before.get("dataSource") is not None or before.get("dataSourceRef") is not None
    if source is not None and reference is None and not had_one:
        if (source.get("apiGroup") or "", source.get("kind") or "") not in _SOURCES:
            source = spec.pop("dataSource") and None
    if source is not None and reference is None:
        spec["dataSourceRef"] = dict(source)
    elif reference is not None and source is None and not reference.get("namespace"):
        spec["dataSource"] = {key: reference[key] for key in reference if key != "namespace"}


class VolumeStrategy(ReturningStrategy):
    """A PersistentVolume remembers when its phase changed, unless whoever changed it says so (KEP-3762)."""

    def prepare_create(self, call: Call, obj: Object) -> None:
        super().prepare_create(call, obj)
        obj["status"]["lastPhaseTransitionTime"] = objects.now()

    def prepare_status(self, call: Call, new: Object, old: Object) -> None:
        super().prepare_status(call, new, old)
        status, before = new.get("status") or {}, old.get("status") or {}
        at = "lastPhaseTransitionTime"
        if status.get("phase") != before.get("phase") and status.get(at) in (None, before.get(at)):
            new["status"] = {**status, at: objects.now()}
