"""What the two kinds of admission policy have in common: their expressions, variables and params, and who applies to a request.

A policy says what is judged and how, a binding where it counts and with which params. Expressions are compiled at their
first use; `Composition` evaluates a variable when it is first read, once for each request.
https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import cached_property
from typing import Any, Generic, TypeVar

from sampan.apiserver import conversion
from sampan.apiserver.admission.attributes import Attributes
from sampan.apiserver.admission.conditions import Conditions, Expression, bindings
from sampan.apiserver.admission.matching import Match
from sampan.apiserver.admission.plugin import Lookup
from sampan.apiserver.admission.policies import Binding, Policies
from sampan.apiserver.entries import Entry
from sampan.apiserver.resources import Resource
from sampan.kube import cel, selectors
from sampan.kube.cel.admission import Variables, declared
from sampan.kube.cel.types import DYN, Field, Type

Object = dict[str, Any]


class Misconfigured(Exception):
    """A policy or binding cannot be used; `str()` says why, as it is told to the user."""


class Policy:
    """One policy, whichever kind; its kind adds its own expressions."""

    def __init__(self, policy: Object) -> None:
        self.name: str = policy["metadata"]["name"]
        self.spec: Object = policy.get("spec") or {}
        self.match = Match(self.spec.get("matchConstraints") or {}, "resourceRules")
        self.ignores_failure = self.spec.get("failurePolicy") == "Ignore"
        self.param_kind: Object | None = self.spec.get("paramKind")
        self.composed = {
            each["name"]: Expression(each["expression"], {}, "any")
            for each in self.spec.get("variables") or ()
        }

    @cached_property
    def fields(self) -> dict[str, Field]:
        """`variables`. They are compiled here, in order: each may read those before it."""
        found: dict[str, Field] = {}
        for name, expression in self.composed.items():
            expression.variables = self._declared(dict(found), authorizer=True)
            try:
                type_ = expression.program().type
            except cel.CompileError:
                type_ = DYN
            found[name] = Field(name, type_)
        return found

    def _declared(self, fields: dict[str, Field], *, authorizer: bool) -> dict[str, Type]:
        found = declared(params=self.param_kind is not None, authorizer=authorizer)
        return {**found, "variables": Variables(fields)}

    @cached_property
    def variables(self) -> dict[str, Type]:
        """What its expressions may read."""
        return self._declared(self.fields, authorizer=True)

    @cached_property
    def message_variables(self) -> dict[str, Type]:
        """The same for messages, which may not ask who is authorized."""
        return self._declared(self.fields, authorizer=False)

    @cached_property
    def conditions(self) -> Conditions:
        return Conditions(self.spec.get("matchConditions"), self.variables)

    def expressions(self) -> list[Expression]:
        """All that it may evaluate, but for its conditions and variables."""
        return []

    @cached_property
    def uses(self) -> frozenset[str]:
        """The variables that a request must bring for any of it."""
        own = [*self.expressions(), *(self.composed[name] for name in self.fields)]
        return frozenset().union(self.conditions.uses, *(each.uses for each in own))


class Composition(dict[str, Any]):
    """`variables` of one evaluation: each is made when it is read."""

    def __init__(self, policy: Policy, values: Object, budget: cel.Budget) -> None:
        super().__init__()
        self.policy = policy
        self.values_ = values
        self.budget = budget
        self.failed: dict[str, str] = {}

    def __contains__(self, name: object) -> bool:
        return name in self.policy.composed

    def __missing__(self, name: str) -> Any:
        expression = self.policy.composed.get(name)
        if expression is None:
            raise KeyError(name)
        if name not in self.failed:
            try:
                made = expression.program().evaluate(self.values_, self.budget)
                self[name] = made
                return made
            except cel.CompileError as error:
                self.failed[name] = f'composited variable "{name}" fails to compile: {error}'
            except cel.EvaluationError as error:
                self.failed[name] = f'composited variable "{name}" fails to evaluate: {error}'
        raise cel.EvaluationError(self.failed[name])


P = TypeVar("P", bound=Policy)


class Invocation(Generic[P]):
    """A policy that applies to a request through a binding, with one of its params."""

    __slots__ = ("binding", "param", "policy", "row")

    def __init__(self, policy: P, binding: Binding, row: Resource, param: Object | None) -> None:
        self.policy = policy
        self.binding = binding
        self.row = row
        self.param = param

    async def values(self, attributes: Attributes, lookup: Lookup, budget: cel.Budget) -> Object:
        """The variables for its expressions."""
        found = await bindings(attributes, self.row, lookup, self.policy.uses)
        found["params"] = self.param
        found["variables"] = Composition(self.policy, found, budget)
        return found


async def invocations(
    plugin: Policies, attributes: Attributes, make: type[P]
) -> AsyncIterator[Invocation[P] | tuple[P, Binding | None, str]]:
    """All that apply, in the order of their names; for one that cannot be used, (policy, binding, why)."""
    for each in plugin.policies.in_order():
        policy = each.compiled(make)
        row = await policy.match.row(attributes, plugin.lookup)
        if row is None:
            continue
        kind = _kind_of(plugin.lookup, policy)
        if policy.param_kind is not None and kind is None:
            given = policy.param_kind
            text = f"{given.get('apiVersion')}, Kind={given.get('kind')}"
            yield (
                policy,
                None,
                f"failed to configure policy: failed to find resource referenced by paramKind: '{text}'",
            )
            continue
        for binding in plugin.bindings.in_order():
            if binding.policy != policy.name:
                continue
            if binding.match and await binding.match.row(attributes, plugin.lookup) is None:
                continue
            try:
                params = await _params(plugin.lookup, kind, binding, attributes)
            except Misconfigured as error:
                yield policy, binding, f"failed to configure binding: {error}"
                continue
            for param in params:
                yield Invocation(policy, binding, row, param)


def _kind_of(lookup: Lookup, policy: Policy) -> Resource | None:
    """The row of its params."""
    given = policy.param_kind or {}
    for row in lookup.table.rows.values():
        if (row.api_version, row.kind) == (given.get("apiVersion"), given.get("kind")):
            if "get" in row.verbs:
                return row
    return None


async def _params(
    lookup: Lookup, row: Resource | None, binding: Binding, attributes: Attributes
) -> list[Object | None]:
    """Each is one evaluation. Raises Misconfigured."""
    reference = binding.params
    if row is None or reference is None:
        return [None]
    namespace = reference.get("namespace") or ""
    if row.namespaced:
        namespace = namespace or attributes.namespace
        if not namespace:
            raise Misconfigured(
                "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources"
            )
    elif namespace:
        raise Misconfigured(
            "paramRef.namespace must not be provided for a cluster-scoped `paramKind`"
        )
    cache = lookup.caches.ready(row) or await lookup.caches.get(row)
    if reference.get("name"):
        entry = cache.entries.get(row.key(namespace, reference["name"]))
        found = [] if entry is None else [entry]
    else:
        selector = selectors.from_object(reference.get("selector") or {})
        prefix = f"{row.prefix}{namespace}/" if row.namespaced else row.prefix
        entries = (cache.entries[key] for key in cache.keys(prefix))
        found = [each for each in entries if selector.matches(each.labels)]
    if not found and reference.get("parameterNotFoundAction") == "Deny":
        raise Misconfigured(
            "no params found for policy binding with `Deny` parameterNotFoundAction"
        )
    return [await _shown(row, each) for each in found]


async def _shown(row: Resource, entry: Entry) -> Object:
    if row.custom is not None:
        return (await row.custom.read(entry)).object()
    return conversion.from_storage(row, entry.object())
