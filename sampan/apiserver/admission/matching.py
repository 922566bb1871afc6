"""Does a webhook or a policy apply to a request? Rules, selectors and equivalent versions, as plain decisions.

https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/#matching-requests-rules
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sampan.apiserver.admission.attributes import CREATE, UPDATE, Attributes
from sampan.apiserver.admission.plugin import Lookup
from sampan.apiserver.resources import Resource
from sampan.kube import errors, selectors
from sampan.kube.selectors import LabelSelector

Object = dict[str, Any]

GROUP = "admissionregistration.k8s.io"
NAMESPACES = "core/namespaces"


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of `rules` or `resourceRules`."""

    groups: frozenset[str]
    versions: frozenset[str]
    resources: tuple[tuple[str, str], ...]  # (resource, subresource), "*" for any
    operations: frozenset[str]
    scope: str
    names: frozenset[str]

    @classmethod
    def of(cls, rule: Object) -> Rule:
        def values(key: str) -> frozenset[str]:
            return frozenset(rule.get(key) or ())

        parts = [each.partition("/") for each in rule.get("resources") or ()]
        return cls(
            values("apiGroups"),
            values("apiVersions"),
            tuple((resource, sub) for resource, _, sub in parts),
            values("operations"),
            rule.get("scope") or "*",
            values("resourceNames"),
        )

    def names_resource(self, row: Resource, subresource: str) -> bool:
        return ("*" in self.groups or row.group in self.groups) and any(
            resource in ("*", row.name) and sub in ("*", subresource)
            for resource, sub in self.resources
        )

    def matches(self, attributes: Attributes, row: Resource) -> bool:
        """`row` is the request's, or an equivalent of it."""
        return (
            self.names_resource(row, attributes.subresource)
            and ("*" in self.versions or row.version in self.versions)
            and ("*" in self.operations or attributes.operation in self.operations)
            and self._in_scope(attributes)
        )

    def _in_scope(self, attributes: Attributes) -> bool:
        if self.scope == "*":
            return True
        namespaced = attributes.row.storage != NAMESPACES and bool(attributes.namespace)
        return namespaced if self.scope == "Namespaced" else not namespaced


def rules(values: Iterable[Object] | None) -> tuple[Rule, ...]:
    return tuple(Rule.of(each) for each in values or ())


def matched_row(
    given: tuple[Rule, ...], attributes: Attributes, *, equivalent: bool
) -> Resource | None:
    """The row that a rule speaks of: the request's own, or another version of the same kind."""
    own = attributes.row
    name = attributes.name
    for rule in given:
        if rule.matches(attributes, own) and (not rule.names or name in rule.names):
            return own
    if equivalent:
        for rule in given:
            for row in attributes.equivalents:
                if rule.matches(attributes, row) and (not rule.names or name in rule.names):
                    return row
    return None


class Match:
    """Rules and selectors of one webhook, policy or binding."""

    __slots__ = ("equivalent", "excluded", "namespaces", "objects", "rules")

    def __init__(self, spec: Object, rules_key: str) -> None:
        self.rules = rules(spec.get(rules_key))
        self.excluded = rules(spec.get("excludeResourceRules"))
        self.equivalent = spec.get("matchPolicy") != "Exact"
        self.namespaces = selectors.from_object(spec.get("namespaceSelector") or {})
        self.objects = selectors.from_object(spec.get("objectSelector") or {})

    def concerns(self, rows: Iterable[Resource], subresource: str) -> bool:
        """Could it apply to a request on one of these rows, whatever its object and operation?"""
        if not self.rules:
            return True
        return any(rule.names_resource(row, subresource) for rule in self.rules for row in rows)

    async def row(self, attributes: Attributes, lookup: Lookup) -> Resource | None:
        """The row that it applies to, None when it does not. Raises ApiError 404 for a namespace that is gone."""
        if self.excluded and matched_row(self.excluded, attributes, equivalent=self.equivalent):
            return None
        if self.rules:
            found = matched_row(self.rules, attributes, equivalent=self.equivalent)
        else:
            found = attributes.row
        if found is None or not self._takes_object(attributes):
            return None
        return found if await self._takes_namespace(attributes, lookup) else None

    def _takes_object(self, attributes: Attributes) -> bool:
        """The new object or the old one has the labels."""
        if self.objects.empty:
            return True
        return any(
            _labelled(each, self.objects) for each in (attributes.obj, attributes.old) if each
        )

    async def _takes_namespace(self, attributes: Attributes, lookup: Lookup) -> bool:
        if self.namespaces.empty:
            return True
        own = attributes.row.storage == NAMESPACES
        if not own and not attributes.namespace:
            return True  # an object of the cluster is never exempt
        if own and not attributes.subresource and attributes.operation in (CREATE, UPDATE):
            return _labelled(attributes.obj or {}, self.namespaces)
        entry = await lookup.entry("", "v1", "namespaces", "", attributes.namespace)
        if entry is None:
            raise errors.not_found("namespaces", attributes.namespace)
        return self.namespaces.matches(entry.labels)


def _labelled(obj: Object, selector: LabelSelector) -> bool:
    metadata = obj.get("metadata")
    return isinstance(metadata, dict) and selector.matches(metadata.get("labels") or {})


def exempt(attributes: Attributes) -> bool:
    """Webhook configurations and policies cannot be kept from being changed by themselves."""
    return attributes.row.group == GROUP
