"""Resource names and amounts: of containers and pods, of nodes, quotas and limit ranges."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final

from sampan.kube import names
from sampan.kube.errors import (
    duplicate,
    forbidden_field,
    invalid_value,
    not_found_value,
    not_supported,
    required,
)
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
# Plain names of resources anywhere in the API.
_STANDARD: Final = _QUOTA | {"storage"}
_STANDARD_PREFIXES: Final = (HUGE_PAGES, f"requests.{HUGE_PAGES}")
NameCheck = Callable[[Causes, str, str], None]
_NATIVE_DOMAIN: Final = "kubernetes.io/"


def is_native(name: str) -> bool:
    return "/" not in name or _NATIVE_DOMAIN in name


def is_extended(name: str) -> bool:
    """Counted by a device plugin: whole units, never overcommitted."""
    if is_native(name) or name.startswith("requests."):
        return False
    return not names.qualified_name(f"requests.{name}")


def overcommits(name: str) -> bool:
    return is_native(name) and not name.startswith(HUGE_PAGES)


def amount(causes: Causes, path: str, name: str, value: Any) -> None:
    """Not negative; whole where the resource is counted."""
    if name in ("cpu", "memory") and isinstance(value, str) and "-" not in value:
        return  # decoding made sure that it is an amount
    parsed = rules.parsed(value)
    if parsed.nanos() < 0:
        causes.append(invalid_value(path, str(parsed), rules.NOT_NEGATIVE))
    if (is_extended(name) or name in _COUNTED) and parsed.milli() % 1000:
        causes.append(invalid_value(path, str(parsed), "must be an integer"))


def resource_name(causes: Causes, path: str, name: str) -> bool:
    """Qualified, or one of the plain names that there are; False when it is neither."""
    reasons = names.qualified_name(name)
    if reasons:
        causes.extend(invalid_value(path, name, reason) for reason in reasons)
        return False
    if "/" not in name and name not in _STANDARD and not name.startswith(_STANDARD_PREFIXES):
        text = "must be a standard resource type or fully qualified"
        causes.append(invalid_value(path, name, text))
        return False
    return True


def container_resource(causes: Causes, path: str, name: str) -> None:
    if name in _CONTAINER:
        return
    resource_name(causes, path, name)
    if "/" not in name:
        if not name.startswith(HUGE_PAGES):
            causes.append(invalid_value(path, name, "must be a standard resource for containers"))
    elif not is_native(name) and not is_extended(name):
        causes.append(invalid_value(path, name, "doesn't follow extended resource name standard"))


def pod_resource(causes: Causes, path: str, name: str) -> None:
    """What a pod may ask for as a whole (KEP-2837)."""
    if name not in ("cpu", "memory") and resource_name(causes, path, name):
        if not name.startswith(HUGE_PAGES):
            causes.append(not_supported(path, name, ["cpu", HUGE_PAGES, "memory"]))


def quota_resource(causes: Causes, path: str, name: str) -> None:
    resource_name(causes, path, name)
    if "/" not in name and not is_quota_name(name):
        causes.append(invalid_value(path, name, "must be a standard resource for quota"))


def is_quota_name(name: str) -> bool:
    return name in _QUOTA or name.startswith((HUGE_PAGES, f"requests.{HUGE_PAGES}"))


def requirements(
    found: Object,
    causes: Causes,
    path: str,
    claims: Collection[str] = (),
    check: NameCheck = container_resource,
) -> None:
    """limits and requests of a container or pod: requests never above limits."""
    limits, requests = found.get("limits") or {}, found.get("requests") or {}
    for name, value in limits.items():
        where = f"{path}.limits[{name}]"
        check(causes, where, name)
        amount(causes, where, name, value)
        if name.startswith(HUGE_PAGES):
            _divisible(causes, where, name, value)
    for name, value in requests.items():
        where = f"{path}.requests[{name}]"
        check(causes, where, name)
        amount(causes, where, name, value)
        limit = limits.get(name)
        if limit is None:
            if not overcommits(name):
                text = "Limit must be set for non overcommitable resources"
                causes.append(required(f"{path}.limits", text))
        elif limit != value:
            asked, most = rules.parsed(value), rules.parsed(limit)
            if asked != most and not overcommits(name):
                text = f"must be equal to {name} limit of {most}"
                causes.append(invalid_value(f"{path}.requests", str(asked), text))
            elif asked > most:
                text = f"must be less than or equal to {name} limit of {most}"
                causes.append(invalid_value(f"{path}.requests", str(asked), text))
        if name.startswith(HUGE_PAGES):
            _divisible(causes, where, name, value)
    asked_for = (*limits, *requests)
    huge = any(name.startswith(HUGE_PAGES) for name in asked_for)
    if huge and not any(name in ("cpu", "memory") for name in asked_for):
        causes.append(forbidden_field(path, "HugePages require cpu or memory"))
    if listed := found.get("claims"):
        _claims(listed, causes, f"{path}.claims", claims)


def _divisible(causes: Causes, path: str, name: str, value: Any) -> None:
    """Huge pages are asked for in whole pages."""
    page, asked = rules.parsed(name.removeprefix(HUGE_PAGES)).nanos(), rules.parsed(value)
    if page <= 0 or asked.nanos() % page:
        text = f"{asked} is not positive integer multiple of {name}"
        causes.append(invalid_value(path, str(asked), text))


def _claims(listed: list[Object], causes: Causes, path: str, claims: Collection[str]) -> None:
    """A claim is named once as a whole, or once for each of its requests."""
    seen: set[str] = set()
    for index, claim in enumerate(listed):
        where, name, request = f"{path}[{index}]", claim.get("name") or "", claim.get("request")
        if not name:
            causes.append(required(where))
        elif name in seen:
            causes.append(duplicate(where, name))
        else:
            if request:
                rules.name(causes, f"{where}.request", request, names.dns1123_label)
            key = f"{name}/{request}" if request else name
            if key in seen:
                causes.append(duplicate(where, key))
            elif not request:
                causes.extend(
                    duplicate(where, name) for each in seen if each.startswith(f"{name}/")
                )
            seen.add(key)
        if name not in claims:
            text = "must be one of the names in pod.spec.resourceClaims" + (
                f": {', '.join(sorted(claims))}" if claims else " which is empty"
            )
            causes.append(not_found_value(where, name, text))
