"""ResourceQuota: which names may be counted, and in which scopes."""

from __future__ import annotations

from typing import Final

from sampan.kube.errors import invalid_value, required
from sampan.kube.validation import resources, rules
from sampan.kube.validation.rules import Causes, Object

_SCOPES: Final = frozenset(
    (
        "BestEffort",
        "CrossNamespacePodAffinity",
        "NotBestEffort",
        "NotTerminating",
        "PriorityClass",
        "Terminating",
        "VolumeAttributesClass",
    )
)
_ONLY_EXISTS: Final = _SCOPES - {"PriorityClass", "VolumeAttributesClass"}
_COMPUTE: Final = frozenset(
    (
        "pods",
        "cpu",
        "memory",
        "requests.cpu",
        "requests.memory",
        "limits.cpu",
        "limits.memory",
    )
)
_EXISTS: Final = (
    "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, "
    "ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort "
    "or ResourceQuotaScopeCrossNamespacePodAffinity"
)
_PAIRS: Final = (("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating"))


def validate(quota: Object, causes: Causes) -> None:
    spec = quota.get("spec") or {}
    _amounts(spec.get("hard") or {}, causes, "spec.hard")
    if scopes := spec.get("scopes"):
        _scopes(spec, scopes, causes)
    if (selector := spec.get("scopeSelector")) is not None:
        _selector(spec, selector, causes)


def _amounts(found: Object, causes: Causes, path: str) -> None:
    for name, value in found.items():
        resources.quota_resource(causes, f"{path}[{name}]", name)
        resources.amount(causes, f"{path}[{name}]", name, value)


def _fits(scope: str, name: str) -> bool:
    """May this resource be counted in this scope alone?"""
    if not resources.is_quota_name(name):
        return True
    if scope == "BestEffort":
        return name == "pods"
    if scope == "VolumeAttributesClass":
        return name in ("persistentvolumeclaims", "requests.storage")
    return name in _COMPUTE


def _scopes(spec: Object, scopes: list[str], causes: Causes) -> None:
    path = "spec.scopes"
    for scope in scopes:
        if scope not in _SCOPES:
            causes.append(invalid_value(path, scopes, "unsupported scope"))
        for name in sorted(spec.get("hard") or ()):
            if scope not in _SCOPES or not _fits(scope, name):
                text = "unsupported scope applied to resource"
                causes.append(invalid_value(path, scopes, text))
    _conflicts(set(scopes), spec, causes, path)


def _conflicts(scopes: set[str], spec: Object, causes: Causes, path: str) -> None:
    for pair in _PAIRS:
        if scopes.issuperset(pair):
            causes.append(invalid_value(path, spec.get("scopes") or [], "conflicting scopes"))


def _selector(spec: Object, selector: Object, causes: Causes) -> None:
    path, seen = "spec.scopeSelector.matchExpressions", set()
    for item in selector.get("matchExpressions") or ():
        scope, operator = item.get("scopeName") or "", item.get("operator") or ""
        values = item.get("values") or []
        if scope not in _SCOPES:
            causes.append(invalid_value(f"{path}.scopeName", scope, "unsupported scope"))
        for name in sorted(spec.get("hard") or ()):
            if scope not in _SCOPES or not _fits(scope, name):
                text = "unsupported scope applied to resource"
                causes.append(invalid_value(path, selector, text))
        if scope in _ONLY_EXISTS and operator != "Exists":
            causes.append(invalid_value(f"{path}.operator", operator, _EXISTS))
        if operator in ("In", "NotIn"):
            if not values:
                text = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"
                causes.append(required(f"{path}.values", text))
        elif operator in ("Exists", "DoesNotExist"):
            if values:
                text = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"
                causes.append(invalid_value(f"{path}.values", values, text))
        else:
            text = "not a valid selector operator"
            causes.append(invalid_value(f"{path}.operator", operator, text))
        seen.add(scope)
    _conflicts(seen, spec, causes, path)


def validate_update(new: Object, old: Object, causes: Causes) -> None:
    before, after = (old.get("spec") or {}), (new.get("spec") or {})
    if set(before.get("scopes") or ()) != set(after.get("scopes") or ()):
        scopes = after.get("scopes") or []
        causes.append(invalid_value("spec.scopes", scopes, rules.IMMUTABLE))


def status(new: Object, old: Object, causes: Causes) -> None:
    found = new.get("status") or {}
    for field in ("hard", "used"):
        _amounts(found.get(field) or {}, causes, f"status.{field}")
