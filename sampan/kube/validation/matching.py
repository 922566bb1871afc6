"""What webhooks and policies apply to: rules and selectors, by the sentences of pkg/apis/admissionregistration/validation."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from sampan.kube import names
from sampan.kube.errors import duplicate, invalid_value, not_supported, required
from sampan.kube.validation import rules
from sampan.kube.validation.rules import Causes, Object

OPERATIONS: Final = frozenset(("*", "CONNECT", "CREATE", "DELETE", "UPDATE"))
MUTABLE: Final = OPERATIONS - {"DELETE"}
_SCOPES: Final = frozenset(("*", "Cluster", "Namespaced"))
_MATCH: Final = frozenset(("Equivalent", "Exact"))
# Field → what may not stand beside "*".
_EXCLUSIVE: Final = {
    "operations": "operations",
    "apiGroups": "API groups",
    "apiVersions": "API versions",
}


def match_resources(match: Object | None, causes: Causes, path: str) -> None:
    """MatchResources of a policy or a binding."""
    if match is None:
        return
    rules.choice(causes, f"{path}.matchPolicy", match.get("matchPolicy"), _MATCH)
    for field in ("namespaceSelector", "objectSelector"):
        rules.label_selector(causes, f"{path}.{field}", match.get(field))
    for field in ("resourceRules", "excludeResourceRules"):
        for index, each in enumerate(match.get(field) or ()):
            _named(each, causes, f"{path}.{field}[{index}]")


def only_operations(
    match: Object | None, allowed: Collection[str], causes: Causes, path: str
) -> None:
    """Kubernetes names the field without the rule's index."""
    for each in (match or {}).get("resourceRules") or ():
        for operation in each.get("operations") or ():
            if operation not in allowed:
                where = f"{path}.resourceRules.operations"
                causes.append(not_supported(where, operation, sorted(allowed)))


def _named(given: Object, causes: Causes, path: str) -> None:
    seen: set[str] = set()
    for index, name in enumerate(given.get("resourceNames") or ()):
        where = f"{path}.resourceNames[{index}]"
        causes += [invalid_value(where, name, problem) for problem in names.path_segment(name)]
        if name in seen:
            causes.append(duplicate(where, name))
        seen.add(name)
    rule(given, causes, path)


def rule(given: Object, causes: Causes, path: str) -> None:
    """RuleWithOperations."""
    for field, what in _EXCLUSIVE.items():
        values = given.get(field) or []
        if not values:
            causes.append(required(f"{path}.{field}"))
        if "*" in values and len(values) > 1:
            text = f"if '*' is present, must not specify other {what}"
            causes.append(invalid_value(f"{path}.{field}", values, text))
        if field == "operations":
            causes += [
                not_supported(f"{path}.{field}[{index}]", each, sorted(OPERATIONS))
                for index, each in enumerate(values)
                if each not in OPERATIONS
            ]
        if field == "apiVersions":
            causes += [
                required(f"{path}.{field}[{index}]")
                for index, each in enumerate(values)
                if not each
            ]
    _resources(given.get("resources") or [], causes, f"{path}.resources")
    rules.optional_choice(causes, f"{path}.scope", given.get("scope"), _SCOPES)


def _resources(resources: list[str], causes: Causes, path: str) -> None:
    if not resources:
        causes.append(required(path))
    every_sub: set[str] = set()  # resources with x/*
    every_resource: set[str] = set()  # subresources with */x
    plain = False
    for index, each in enumerate(resources):
        where = f"{path}[{index}]"
        if not each:
            causes.append(required(where))
            continue
        resource, slash, sub = each.partition("/")
        if not slash:
            plain = plain or each != "*"
            continue
        if resource in every_sub:
            text = f"if '{resource}/*' is present, must not specify {each}"
            causes.append(invalid_value(where, each, text))
        if sub in every_resource:
            text = f"if '*/{sub}' is present, must not specify {each}"
            causes.append(invalid_value(where, each, text))
        if sub == "*":
            every_sub.add(resource)
        if resource == "*":
            every_resource.add(sub)
    if len(resources) > 1 and "*/*" in resources:
        text = "if '*/*' is present, must not specify other resources"
        causes.append(invalid_value(path, resources, text))
    if "*" in resources and plain:
        text = "if '*' is present, must not specify other resources without subresources"
        causes.append(invalid_value(path, resources, text))
