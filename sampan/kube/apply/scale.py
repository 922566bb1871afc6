"""Managed fields of a workload as those of its Scale, and back.

/scale is an object of its own kind: who owns `spec.replicas` there owns the workload's replicas field. `paths` maps each
API version of the workload to the path of that field in it, None for a version without a scale subresource.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sampan.kube.apply import fields
from sampan.kube.apply.fields import Path
from sampan.kube.apply.managers import UPDATE, Managed, Manager, Owned

VERSION: Final = "autoscaling/v1"
REPLICAS: Final[Path] = ("f:spec", "f:replicas")


def of_parent(parent: Managed, paths: Mapping[str, Path | None]) -> Managed:
    """The managers of the Scale: those who own the workload's replicas."""
    found: Managed = {}
    for manager, owned in parent.items():
        path = paths.get(owned.version)
        if path and fields.has(owned.fields, path):
            found[_at(manager, VERSION)] = Owned(VERSION, fields.of(REPLICAS), owned.time)
    return found


def to_parent(
    parent: Managed, scale: Managed, version: str, paths: Mapping[str, Path | None]
) -> Managed:
    """The workload's managers after the Scale's have become `scale`. `version` is the workload's in the request.

    Entries of versions that `paths` does not know are dropped. Who is new gets no time, as in Kubernetes.
    """
    found: Managed = {}
    kept: set[Manager] = set()
    for manager, owned in parent.items():
        if owned.version not in paths:
            continue
        path = paths[owned.version]
        there = _at(manager, VERSION)
        if not path or not fields.has(owned.fields, path):
            found[manager] = owned
        elif there in scale:
            found[manager] = owned
            kept.add(there)
        elif rest := fields.difference(owned.fields, fields.of(path)):
            found[manager] = owned.having(rest)
    target = paths.get(version)
    for manager, owned in scale.items():
        if manager in kept or not target or not fields.has(owned.fields, REPLICAS):
            continue
        here = _at(manager, version)
        gained = fields.of(target)
        if here in found:
            gained = fields.union(found[here].fields, gained)
        found[here] = Owned(version, gained, found[here].time if here in found else "")
    return found


def _at(manager: Manager, version: str) -> Manager:
    return manager._replace(version=version) if manager.operation == UPDATE else manager
