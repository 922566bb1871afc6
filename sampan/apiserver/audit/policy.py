"""Audit policy (audit.k8s.io/v1): how much is recorded of which request. Pure: rules in, a level out.

The first rule that matches decides. https://kubernetes.io/docs/tasks/debug/debug-cluster/audit/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from sampan.apiserver.routes import RequestInfo
from sampan.client.transport import User

API_VERSION = "audit.k8s.io/v1"
STAGES = ("RequestReceived", "ResponseStarted", "ResponseComplete", "Panic")


class BadPolicy(Exception):
    """The policy file cannot be used; says what is wrong and where."""


class Level(IntEnum):
    NONE = 0
    METADATA = 1
    REQUEST = 2
    REQUEST_RESPONSE = 3

    @property
    def label(self) -> str:
        return _LABELS[self]


_LABELS = {
    Level.NONE: "None",
    Level.METADATA: "Metadata",
    Level.REQUEST: "Request",
    Level.REQUEST_RESPONSE: "RequestResponse",
}
LEVELS = {label: level for level, label in _LABELS.items()}


@dataclass(frozen=True, slots=True)
class Decision:
    level: Level
    omit_stages: frozenset[str] = frozenset()
    omit_managed_fields: bool = False


@dataclass(frozen=True, slots=True)
class GroupResources:
    group: str
    resources: frozenset[str]
    names: frozenset[str]

    def matches(self, info: RequestInfo) -> bool:
        if self.group != info.group:
            return False
        if not self.resources:
            return True
        if self.names and info.name not in self.names:
            return False
        if not info.subresource:
            wanted = {info.resource, "*"}
        else:
            wanted = {
                f"{info.resource}/{info.subresource}",
                f"{info.resource}/*",
                f"*/{info.subresource}",
                "*",
            }
        return not self.resources.isdisjoint(wanted)


@dataclass(frozen=True, slots=True)
class Rule:
    decision: Decision
    users: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    verbs: frozenset[str] = frozenset()
    namespaces: frozenset[str] = frozenset()
    resources: tuple[GroupResources, ...] = ()
    urls: tuple[str, ...] = ()

    def matches(self, user: User, info: RequestInfo) -> bool:
        if self.users and user.name not in self.users:
            return False
        if self.groups and self.groups.isdisjoint(user.groups):
            return False
        if self.verbs and info.verb not in self.verbs:
            return False
        if self.namespaces or self.resources:
            return info.is_resource and self._matches_resource(info)
        if self.urls:
            return not info.is_resource and any(_url_matches(url, info.path) for url in self.urls)
        return True

    def _matches_resource(self, info: RequestInfo) -> bool:
        if self.namespaces and info.namespace not in self.namespaces:
            return False
        return not self.resources or any(each.matches(info) for each in self.resources)


@dataclass(frozen=True, slots=True)
class Policy:
    rules: tuple[Rule, ...]

    def decide(self, user: User, info: RequestInfo) -> Decision:
        for rule in self.rules:
            if rule.matches(user, info):
                return rule.decision
        return NOTHING


NOTHING = Decision(Level.NONE)


def _url_matches(url: str, path: str) -> bool:
    return url == path or (url.endswith("*") and path.startswith(url.rstrip("*")))


# --- the file -----------------------------------------------------------------------------------------


def read_policy(path: Path) -> Policy:
    """Raises BadPolicy."""
    import yaml

    try:
        return parse_policy(yaml.safe_load(path.read_bytes()))
    except (OSError, yaml.YAMLError, BadPolicy) as error:
        raise BadPolicy(f"{path}: {error}") from error


def parse_policy(document: Any) -> Policy:
    if not isinstance(document, Mapping) or document.get("kind") != "Policy":
        raise BadPolicy("kind: must be Policy")
    if document.get("apiVersion") != API_VERSION:
        raise BadPolicy(f"apiVersion: must be {API_VERSION}")
    rules = document.get("rules")
    if not isinstance(rules, list) or not rules:
        raise BadPolicy("rules: a policy needs at least one rule")
    stages = _stages(document, "omitStages")
    omit = bool(document.get("omitManagedFields"))
    return Policy(
        tuple(_rule(rule, f"rules[{index}]", stages, omit) for index, rule in enumerate(rules))
    )


def _rule(rule: Any, at: str, stages: frozenset[str], omit: bool) -> Rule:
    if not isinstance(rule, Mapping):
        raise BadPolicy(f"{at}: must be an object")
    level = LEVELS.get(rule.get("level", ""))
    if level is None:
        raise BadPolicy(f"{at}.level: must be one of {', '.join(LEVELS)}")
    if rule.get("nonResourceURLs") and (rule.get("resources") or rule.get("namespaces")):
        raise BadPolicy(f"{at}.nonResourceURLs: cannot be combined with resources or namespaces")
    urls = _texts(rule, "nonResourceURLs", at)
    for index, url in enumerate(urls):
        if url != "*" and not url.startswith("/"):
            raise BadPolicy(f"{at}.nonResourceURLs[{index}]: must begin with a slash")
        if "*" in url[:-1]:
            raise BadPolicy(f"{at}.nonResourceURLs[{index}]: a wildcard must come last")
    own = rule.get("omitManagedFields")
    return Rule(
        decision=Decision(
            level,
            stages | _stages(rule, f"{at}.omitStages"),
            omit if own is None else bool(own),
        ),
        users=frozenset(_texts(rule, "users", at)),
        groups=frozenset(_texts(rule, "userGroups", at)),
        verbs=frozenset(_texts(rule, "verbs", at)),
        namespaces=frozenset(_texts(rule, "namespaces", at)),
        resources=tuple(
            _group(each, f"{at}.resources[{index}]")
            for index, each in enumerate(rule.get("resources") or ())
        ),
        urls=tuple(urls),
    )


def _group(entry: Any, at: str) -> GroupResources:
    if not isinstance(entry, Mapping):
        raise BadPolicy(f"{at}: must be an object")
    resources = frozenset(_texts(entry, "resources", at))
    names = frozenset(_texts(entry, "resourceNames", at))
    if names and not resources:
        raise BadPolicy(f"{at}.resourceNames: using resourceNames requires at least one resource")
    return GroupResources(entry.get("group") or "", resources, names)


def _texts(entry: Mapping[str, Any], field: str, at: str) -> Sequence[str]:
    values = entry.get(field) or []
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise BadPolicy(f"{at}.{field}: must be a list of strings")
    return values


def _stages(entry: Mapping[str, Any], at: str) -> frozenset[str]:
    stages = entry.get("omitStages") or []
    for stage in stages:
        if stage not in STAGES:
            raise BadPolicy(f"{at}: {stage!r} is not one of {', '.join(STAGES)}")
    return frozenset(stages)
