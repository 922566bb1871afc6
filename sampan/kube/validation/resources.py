"""Resource names and amounts: of containers and pods, of nodes, quotas and limit ranges."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from sampan.kube import names
from sampan.kube.errors import forbidden_field, invalid_value, not_found_value, required
from sampan.kube.validation import rules
from sampan.kube.validation.rules import Causes, Object

HUGE_PAGES: Final = "hugepages-"
_CONTAINER: Final = frozenset(("cpu", "memory", "ephemeral-storage"))
_QUOTA: Final = frozenset(
    (
        "cpu",
        "memory",
        "ephemeral-storage",
        "requests.cpu",
        "requests.memory",
        "requests.storage",
        "requests.ephemeral-storage",
        "limits.cpu",
        "limits.memory",
        "limits.ephemeral-storage",
        "pods",
        "resourcequotas",
        "services",
        "replicationcontrollers",
        "secrets",
        "persistentvolumeclaims",
        "configmaps",
        "services.nodeports",
        "services.loadbalancers",
    )
)
_COUNTED: Final = _QUOTA - {
    name
    for name in _QUOTA
    if name.rpartition(".")[2] in ("cpu", "memory", "storage", "ephemeral-storage")
}
_NATIVE_DOMAIN: Final = "kubernetes.io/"


def is_native(name: str) -> bool:
    return "/" not in name or _NATIVE_DOMAIN in name


def is_extended(name: str) -> bool:
    """Counted by a device plugin: whole units, never overcommitted."""
    if is_native(name) or name.startswith("requests."):
        return False
    return not names.qualified_name(f"requests.{name}")


def _overcommits(name: str) -> bool:
    return is_native(name) and not name.startswith(HUGE_PAGES)


def amount(causes: Causes, path: str, name: str, value: Any) -> None:
    """Not negative; whole where the resource is counted."""
    parsed = rules.parsed(value)
    if parsed.nanos() < 0:
        causes.append(invalid_value(path, str(parsed), rules.NOT_NEGATIVE))
    if (is_extended(name) or name in _COUNTED) and parsed.milli() % 1000:
        causes.append(invalid_value(path, str(parsed), "must be an integer"))


def container_resource(causes: Causes, path: str, name: str) -> None:
    if name in _CONTAINER:
        return
    reasons = names.qualified_name(name)
    causes.extend(invalid_value(path, name, reason) for reason in reasons)
    if reasons:
        return
    if "/" not in name:
        if not name.startswith(HUGE_PAGES):
            text = "must be a standard resource type or fully qualified"
            causes.append(invalid_value(path, name, text))
            causes.append(invalid_value(path, name, "must be a standard resource for containers"))
    elif not is_native(name) and not is_extended(name):
        causes.append(invalid_value(path, name, "doesn't follow extended resource name standard"))


def quota_resource(causes: Causes, path: str, name: str) -> None:
    reasons = names.qualified_name(name)
    causes.extend(invalid_value(path, name, reason) for reason in reasons)
    if (
        "/" not in name
        and name not in _QUOTA
        and not name.startswith(
            (HUGE_PAGES, f"requests.{HUGE_PAGES}", f"limits.{HUGE_PAGES}", "count/")
        )
    ):
        causes.append(invalid_value(path, name, "must be a standard resource for quota"))


def requirements(
    found: Object, causes: Causes, path: str, claims: Collection[str] | None = None
) -> None:
    """limits and requests of a container or pod: requests never above limits."""
    limits, requests = found.get("limits") or {}, found.get("requests") or {}
    for name, value in limits.items():
        where = f"{path}.limits[{name}]"
        container_resource(causes, where, name)
        amount(causes, where, name, value)
    for name, value in requests.items():
        where = f"{path}.requests[{name}]"
        container_resource(causes, where, name)
        amount(causes, where, name, value)
        limit = limits.get(name)
        if limit is None:
            if not _overcommits(name):
                text = "Limit must be set for non overcommitable resources"
                causes.append(required(f"{path}.limits", text))
        elif limit != value:
            asked, most = rules.parsed(value), rules.parsed(limit)
            if asked != most and not _overcommits(name):
                text = f"must be equal to {name} limit of {most}"
                causes.append(invalid_value(f"{path}.requests", str(asked), text))
            elif asked > most:
                text = f"must be less than or equal to {name} limit of {most}"
                causes.append(invalid_value(f"{path}.requests", str(asked), text))
    asked_for = (*limits, *requests)
    huge = any(name.startswith(HUGE_PAGES) for name in asked_for)
    if huge and not any(name in ("cpu", "memory") for name in asked_for):
        causes.append(forbidden_field(path, "HugePages require cpu or memory"))
    for index, claim in enumerate(found.get("claims") or ()):
        where = f"{path}.claims[{index}].name"
        if not claim.get("name"):
            causes.append(required(where))
        elif claims is not None and claim["name"] not in claims:
            causes.append(not_found_value(where, claim["name"]))
