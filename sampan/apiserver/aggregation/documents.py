"""Discovery and OpenAPI with what others serve added. Pure: documents in, documents out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Object = dict[str, Any]

# (group, version) → groupPriorityMinimum, versionPriority
Priorities = Mapping[tuple[str, str], tuple[int, int]]


def by_group(extra: Priorities) -> dict[str, list[str]]:
    """group → versions, both with the most wanted first."""
    found: dict[str, list[tuple[int, str]]] = {}
    order: dict[str, int] = {}
    for (group, version), (minimum, priority) in extra.items():
        found.setdefault(group, []).append((-priority, version))
        order[group] = max(order.get(group, 0), minimum)
    groups = sorted(found, key=lambda group: (-order[group], group))
    return {group: [version for _, version in sorted(found[group])] for group in groups}


def api_group(name: str, versions: Iterable[str]) -> Object:
    listed = [{"groupVersion": f"{name}/{each}", "version": each} for each in versions]
    return {"name": name, "versions": listed, "preferredVersion": listed[0]}


def group_list(base: Object, extra: Priorities) -> Object:
    """`/apis` in its old form."""
    groups = {each["name"]: each for each in base["groups"]}
    for name, versions in by_group(extra).items():
        known = [each["version"] for each in groups.get(name, {}).get("versions", ())]
        added = [each for each in versions if each not in known]
        groups[name] = api_group(name, [*known, *added])
    return {**base, "groups": list(groups.values())}


def aggregated(base: Object, extra: Mapping[tuple[str, str], Object], order: Priorities) -> Object:
    """`/apis` in its aggregated form (KEP-3352). `extra` are versions as they stand in an item."""
    items = {each["metadata"].get("name", ""): dict(each) for each in base["items"]}
    for name, versions in by_group(order).items():
        item = items.setdefault(name, {"metadata": {"name": name}, "versions": []})
        known = {each["version"] for each in item["versions"]}
        item["versions"] = [
            *item["versions"],
            *(extra[name, each] for each in versions if each not in known),
        ]
    return {**base, "items": list(items.values())}


def version_of(version: str, resources: Object, *, fresh: bool) -> Object:
    """An APIResourceList as a version of the aggregated form."""
    found: dict[str, Object] = {}
    later: list[tuple[str, str, Object]] = []
    group, _, _ = resources.get("groupVersion", "").rpartition("/")
    for each in resources.get("resources") or ():
        kind = {
            "group": each.get("group") or group,
            "version": each.get("version") or version,
            "kind": each.get("kind", ""),
        }
        name, _, sub = each["name"].partition("/")
        if sub:
            later.append(
                (name, sub, {"subresource": sub, "responseKind": kind, "verbs": each["verbs"]})
            )
            continue
        found[name] = {
            "resource": name,
            "responseKind": kind,
            "scope": "Namespaced" if each.get("namespaced") else "Cluster",
            "singularResource": each.get("singularName", ""),
            "verbs": each.get("verbs") or [],
            **{key: each[key] for key in ("shortNames", "categories") if each.get(key)},
        }
    for name, _, entry in later:
        if name in found:
            found[name].setdefault("subresources", []).append(entry)
    return {
        "version": version,
        "resources": list(found.values()),
        "freshness": "Current" if fresh else "Stale",
    }


def swagger(base: Object, others: Iterable[tuple[str, Object]]) -> Object:
    """OpenAPI v2 with the paths of each other's group version (its prefix) and the definitions that are new."""
    paths, definitions = dict(base["paths"]), dict(base["definitions"])
    for prefix, other in others:
        for path, item in (other.get("paths") or {}).items():
            if path.rstrip("/") == prefix or path.startswith(prefix + "/"):
                paths.setdefault(path, item)
        for name, definition in (other.get("definitions") or {}).items():
            definitions.setdefault(name, definition)
    return {**base, "paths": paths, "definitions": definitions}
