"""The table of every kind that is served: `lookup` by path parts, `GROUPS` in discovery's order.

Groups and versions come in the order in which Kubernetes v1.36 lists them; the first version of a group is preferred.
`add` and `remove` let custom resources join the table while the server runs; `generation` changes each time, so that
documents made from the table know when to be made again.
"""

from __future__ import annotations

import re

from sampan.apiserver.resources import (
    apps,
    autoscaling,
    batch,
    cluster,
    core,
    events,
    networking,
    policy,
    rbac,
    storage,
)
from sampan.apiserver.resources.model import Resource, Subresource

__all__ = ["GROUP_ORDER", "Resource", "Subresource", "Table", "builtin", "version_priority"]

GROUP_ORDER = (
    "",
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "resource.k8s.io",
    "flowcontrol.apiserver.k8s.io",
)

_MODULES = (core, apps, autoscaling, batch, events, policy, networking, rbac, storage, cluster)


class Table:
    """Rows by (group, version, plural), and by group for discovery."""

    def __init__(self, rows: tuple[Resource, ...] | list[Resource] = ()) -> None:
        self.rows: dict[tuple[str, str, str], Resource] = {}
        self.generation = 0
        for row in rows:
            self.add(row)

    def add(self, row: Resource) -> None:
        self.rows[row.group, row.version, row.name] = row
        self.generation += 1

    def remove(self, row: Resource) -> None:
        if self.rows.pop((row.group, row.version, row.name), None) is not None:
            self.generation += 1

    def lookup(self, group: str, version: str, name: str) -> Resource | None:
        return self.rows.get((group, version, name))

    def by_kind(self, group: str, version: str, kind: str) -> Resource | None:
        for row in self.rows.values():
            if row.kind == kind and row.group == group and row.version == version:
                return row
        return None

    def groups(self) -> list[tuple[str, list[str]]]:
        """(group, versions with the preferred first), core included as "", in discovery's order."""
        versions: dict[str, list[str]] = {}
        for group, version, _ in self.rows:
            known = versions.setdefault(group, [])
            if version not in known:
                known.append(version)
        for group, known in versions.items():
            if group not in GROUP_ORDER:
                known.sort(key=version_priority, reverse=True)
        ordered = [group for group in GROUP_ORDER if group in versions]
        ordered += sorted(group for group in versions if group not in GROUP_ORDER)
        return [(group, versions[group]) for group in ordered]

    def in_version(self, group: str, version: str) -> list[Resource]:
        """Rows of one group version, by plural name."""
        found = [row for row in self.rows.values() if row.group == group and row.version == version]
        return sorted(found, key=lambda row: row.name)

    def storages(self) -> dict[str, Resource]:
        """One row per storage: the one in whose version the objects are kept."""
        found: dict[str, Resource] = {}
        for row in self.rows.values():
            if (
                "create" in row.verbs
                and "get" in row.verbs
                and row.storage_version == row.api_version
            ):
                found[row.storage] = row
        return found


_VERSION = re.compile(r"v([1-9][0-9]*)(?:(alpha|beta)([1-9][0-9]*))?")


def version_priority(version: str) -> tuple[int, int, int, tuple[int, ...]]:
    """Greater is preferred: v2, v1, v1beta2, v1alpha1, then what is no Kubernetes version, by name."""
    found = _VERSION.fullmatch(version)
    if found is None:
        return 0, 0, 0, tuple(-ord(char) for char in version)
    stability = {None: 3, "beta": 2, "alpha": 1}[found[2]]
    return stability, int(found[1]), int(found[3] or 0), ()


def builtin() -> Table:
    """A fresh table of the built-in kinds."""
    return Table([row for module in _MODULES for row in module.RESOURCES])
