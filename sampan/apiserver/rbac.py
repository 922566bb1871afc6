"""Role-based access control: roles and bindings compiled into an index from subject to rules.

`RBACIndex.apply` is fed every change of the four kinds; a question then touches only the bindings of the asking user
and their groups. `generation` grows with each change, so that answers can be remembered until it does. Aggregated
cluster roles are evaluated here, so a new matching role counts at once. Also here: the rule that nobody may grant what
they do not hold. Semantics: https://kubernetes.io/docs/reference/access-authn-authz/rbac/
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any, NamedTuple

from sampan.client.transport import User
from sampan.kube.selectors import LabelSelector, from_object

RBAC_GROUP = "rbac.authorization.k8s.io"
KINDS = ("clusterroles", "clusterrolebindings", "roles", "rolebindings")

ALL = "*"


class Attributes(NamedTuple):
    """One question: may `user` do this? A non-resource question has a `path` and no `resource`."""

    user: User
    verb: str
    group: str = ""
    version: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""
    field_selector: str = ""  # of a list, watch or deletecollection; only the Node authorizer looks

    @property
    def full_resource(self) -> str:
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


@dataclass(frozen=True, slots=True)
class Rule:
    """One PolicyRule, as sets. Order and repeats of the manifest mean nothing."""

    verbs: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    resources: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    urls: frozenset[str] = frozenset()

    @classmethod
    def of(cls, rule: Mapping[str, Any]) -> Rule:
        def values(key: str) -> frozenset[str]:
            return frozenset(rule.get(key) or ())

        return cls(
            values("verbs"),
            values("apiGroups"),
            values("resources"),
            values("resourceNames"),
            values("nonResourceURLs"),
        )

    def as_object(self) -> dict[str, Any]:
        fields = {
            "verbs": self.verbs,
            "apiGroups": self.groups,
            "resources": self.resources,
            "resourceNames": self.names,
            "nonResourceURLs": self.urls,
        }
        return {key: sorted(values) for key, values in fields.items() if values}

    def __str__(self) -> str:
        """As error messages show a rule."""
        parts = {
            "APIGroups": self.groups,
            "Resources": self.resources,
            "NonResourceURLs": self.urls,
            "ResourceNames": self.names,
            "Verbs": self.verbs,
        }
        return "{" + ", ".join(f"{k}:{quoted(sorted(v))}" for k, v in parts.items() if v) + "}"

    def allows(self, asked: Attributes) -> bool:
        if ALL not in self.verbs and asked.verb not in self.verbs:
            return False
        if not asked.resource:
            return self._allows_path(asked.path)
        return (
            (ALL in self.groups or asked.group in self.groups)
            and self._allows_resource(asked)
            and (not self.names or asked.name in self.names)
        )

    def _allows_resource(self, asked: Attributes) -> bool:
        resources = self.resources
        if ALL in resources or asked.full_resource in resources:
            return True
        return bool(asked.subresource) and f"*/{asked.subresource}" in resources

    def _allows_path(self, path: str) -> bool:
        return path in self.urls or any(
            url.endswith(ALL) and path.startswith(url[:-1]) for url in self.urls
        )


def quoted(texts: Iterable[str]) -> str:
    """A list as Go's %q shows it."""
    return "[" + " ".join(f'"{text}"' for text in texts) + "]"


@dataclass(slots=True)
class _Role:
    rules: tuple[Rule, ...]
    labels: Mapping[str, str]
    aggregates: tuple[LabelSelector, ...] = ()


class Subject(NamedTuple):
    kind: str  # User or Group; a service account is the user that it is known as
    name: str


@dataclass(slots=True)
class Binding:
    namespace: str  # "" for a ClusterRoleBinding
    name: str
    role_kind: str
    role_name: str
    subjects: tuple[Subject, ...] = ()

    @property
    def role_key(self) -> tuple[str, str]:
        return ("" if self.role_kind == "ClusterRole" else self.namespace, self.role_name)

    def why(self, subject: Subject) -> str:
        """The reason that access reviews show."""
        name = f"{self.name}/{self.namespace}" if self.namespace else self.name
        kind = "RoleBinding" if self.namespace else "ClusterRoleBinding"
        return (
            f'RBAC: allowed by {kind} "{name}" of {self.role_kind} "{self.role_name}" '
            f'to {subject.kind} "{subject.name}"'
        )


@dataclass(slots=True)
class RBACIndex:
    """What all roles and bindings say, by subject."""

    generation: int = 0
    _roles: dict[tuple[str, str], _Role] = field(default_factory=dict)
    _bindings: dict[tuple[str, str], Binding] = field(default_factory=dict)
    _by_subject: dict[Subject, dict[str, dict[str, Binding]]] = field(default_factory=dict)
    _aggregated: dict[str, tuple[Rule, ...]] = field(default_factory=dict)

    def clear(self) -> None:
        """Forget everything; `generation` goes on."""
        self.generation += 1
        for held in (self._roles, self._bindings, self._by_subject, self._aggregated):
            held.clear()

    def apply(self, resource: str, obj: Mapping[str, Any], *, deleted: bool = False) -> None:
        """Take in one object of `KINDS` as it is now, or its deletion. Idempotent."""
        self.generation += 1
        metadata = obj["metadata"]
        key = (metadata.get("namespace") or "", metadata["name"])
        if resource in ("roles", "clusterroles"):
            self._aggregated.clear()
            if deleted:
                self._roles.pop(key, None)
            else:
                self._roles[key] = _compile_role(obj)
            return
        self._unbind(key)
        if not deleted:
            self._bind(key, _compile_binding(obj))

    def _unbind(self, key: tuple[str, str]) -> None:
        old = self._bindings.pop(key, None)
        for subject in old.subjects if old else ():
            places = self._by_subject[subject]
            places[key[0]].pop(key[1], None)
            if not places[key[0]]:
                del places[key[0]]
            if not places:
                del self._by_subject[subject]

    def _bind(self, key: tuple[str, str], binding: Binding) -> None:
        self._bindings[key] = binding
        for subject in binding.subjects:
            self._by_subject.setdefault(subject, {}).setdefault(key[0], {})[key[1]] = binding

    def bindings_of(self, user: User, namespace: str) -> Iterator[tuple[Binding, Subject]]:
        """Cluster-wide ones first, then those of `namespace`."""
        subjects = [Subject("User", user.name), *(Subject("Group", name) for name in user.groups)]
        found = [(s, places) for s in subjects if (places := self._by_subject.get(s))]
        for place in ("", namespace) if namespace else ("",):
            for subject, places in found:
                for binding in places.get(place, {}).values():
                    yield binding, subject

    def rules_of_role(self, key: tuple[str, str]) -> tuple[Rule, ...]:
        """Rules of ("", cluster role) or (namespace, role); none when it does not exist."""
        role = self._roles.get(key)
        if role is None:
            return ()
        if not role.aggregates:
            return role.rules
        name = key[1]
        if name not in self._aggregated:
            members = self._members(role, {name})
            rules = [*role.rules, *(rule for member in members for rule in member.rules)]
            self._aggregated[name] = tuple(dict.fromkeys(rules))
        return self._aggregated[name]

    def _members(self, role: _Role, seen: set[str]) -> Iterator[_Role]:
        """The cluster roles that `role` sums up, and those that these sum up, each once."""
        for (namespace, name), other in sorted(self._roles.items(), key=lambda item: item[0]):
            if namespace or name in seen:
                continue
            if any(selector.matches(other.labels) for selector in role.aggregates):
                seen.add(name)
                yield other
                yield from self._members(other, seen)

    def rules_for(self, user: User, namespace: str) -> list[Rule]:
        """Everything that the user may do in the namespace, once each."""
        found: dict[Rule, None] = {}
        for binding, _ in self.bindings_of(user, namespace):
            found.update(dict.fromkeys(self.rules_of_role(binding.role_key)))
        return list(found)

    def problem(self, asked: Attributes) -> str:
        """What a refusal says beside itself: the roles that are bound and do not exist; "" when all do."""
        missing = dict.fromkeys(
            f'{binding.role_kind.lower()}.{RBAC_GROUP} "{binding.role_name}" not found'
            for binding, _ in self.bindings_of(asked.user, asked.namespace)
            if binding.role_key not in self._roles
        )
        text = ", ".join(missing)
        return f"RBAC: [{text}]" if len(missing) > 1 else f"RBAC: {text}" if missing else ""

    def allows(self, asked: Attributes) -> str:
        """The reason why this is allowed; "" when no rule allows it."""
        for binding, subject in self.bindings_of(asked.user, asked.namespace):
            if any(rule.allows(asked) for rule in self.rules_of_role(binding.role_key)):
                return binding.why(subject)
        return ""


def _compile_role(obj: Mapping[str, Any]) -> _Role:
    aggregation = (obj.get("aggregationRule") or {}).get("clusterRoleSelectors") or ()
    return _Role(
        rules=tuple(Rule.of(rule) for rule in obj.get("rules") or ()),
        labels=obj["metadata"].get("labels") or {},
        aggregates=tuple(from_object(selector) for selector in aggregation),
    )


def _compile_binding(obj: Mapping[str, Any]) -> Binding:
    metadata = obj["metadata"]
    namespace = metadata.get("namespace") or ""
    subjects = dict.fromkeys(subject_of(item, namespace) for item in obj.get("subjects") or ())
    role = obj["roleRef"]
    return Binding(namespace, metadata["name"], role["kind"], role["name"], tuple(subjects))


def subject_of(item: Mapping[str, Any], namespace: str) -> Subject:
    if item["kind"] == "ServiceAccount":
        place = item.get("namespace") or namespace
        return Subject("User", f"system:serviceaccount:{place}:{item['name']}")
    return Subject(item["kind"], item["name"])


# --- nobody grants what they do not hold -------------------------------------------------------------


def missing_rules(held: Iterable[Rule], wanted: Iterable[Rule]) -> list[Rule]:
    """The parts of `wanted` that no rule in `held` covers, merged by what they are about."""
    held = list(held)
    lacking = [part for rule in wanted for part in _parts(rule) if not _covered(part, held)]
    return _merge(lacking)


def _parts(rule: Rule) -> Iterator[Rule]:
    """A rule as rules about one verb, one group, one resource, one name or one URL each."""
    one = frozenset
    for verb, url in product(sorted(rule.verbs), sorted(rule.urls)):
        yield Rule(one((verb,)), urls=one((url,)))
    for verb, group, resource in product(
        sorted(rule.verbs), sorted(rule.groups), sorted(rule.resources)
    ):
        for name in sorted(rule.names) or (None,):
            names: frozenset[str] = frozenset() if name is None else one((name,))
            yield Rule(one((verb,)), one((group,)), one((resource,)), names)


def _covered(part: Rule, held: Iterable[Rule]) -> bool:
    (verb,) = part.verbs
    for rule in held:
        if ALL not in rule.verbs and verb not in rule.verbs:
            continue
        if part.urls:
            if _url_covered(next(iter(part.urls)), rule.urls):
                return True
            continue
        if ALL not in rule.groups and not part.groups <= rule.groups:
            continue
        if not _resource_covered(next(iter(part.resources)), rule.resources):
            continue
        if not rule.names or (part.names and part.names <= rule.names):
            return True
    return False


def _url_covered(url: str, held: frozenset[str]) -> bool:
    return url in held or any(
        have.endswith(ALL) and url.removesuffix(ALL).startswith(have[:-1]) for have in held
    )


def _resource_covered(resource: str, held: frozenset[str]) -> bool:
    if ALL in held or resource in held:
        return True
    _, slash, subresource = resource.partition("/")
    return bool(slash) and f"*/{subresource}" in held


def _merge(parts: Iterable[Rule]) -> list[Rule]:
    verbs: dict[Rule, set[str]] = {}
    for part in parts:
        about = Rule(frozenset(), part.groups, part.resources, part.names, part.urls)
        verbs.setdefault(about, set()).update(part.verbs)
    merged = [Rule(frozenset(v), r.groups, r.resources, r.names, r.urls) for r, v in verbs.items()]
    return sorted(merged, key=str)
