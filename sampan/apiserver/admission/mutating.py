"""MutatingAdmissionPolicy: expressions that make an apply configuration or a JSON patch, laid over the request's object.

Policies run one after the other before any webhook does, and are asked again as webhooks are (`reinvocation.py`).
https://kubernetes.io/docs/reference/access-authn-authz/mutating-admission-policy/
"""

from __future__ import annotations

import time
from functools import cached_property
from typing import Any

from sampan.apiserver.admission import reinvocation
from sampan.apiserver.admission.attributes import Attributes, why
from sampan.apiserver.admission.conditions import Expression, affordable, hold
from sampan.apiserver.admission.invocations import Invocation, Policy, invocations
from sampan.apiserver.admission.measures import ADMIT
from sampan.apiserver.admission.policies import Binding, Policies
from sampan.apiserver.admission.validating import forbidden
from sampan.apiserver.call import Call
from sampan.apiserver.resources import Resource
from sampan.kube import cel
from sampan.kube.apply import types as apply_types
from sampan.kube.apply.merge import merge
from sampan.kube.apply.types import FieldType
from sampan.kube.apply.values import TypeErrors, check
from sampan.kube.cel.admission import OBJECT, PATCHES, patch_types
from sampan.kube.cel.cost import PER_REQUEST
from sampan.kube.cel.values import ObjectValue
from sampan.kube.errors import ApiError
from sampan.kube.objects import clone
from sampan.kube.patch import json_patch
from sampan.kube.types import GVK

Object = dict[str, Any]


class MutationError(Exception):
    """What an expression made cannot be applied."""


class Mutation:
    def __init__(self, spec: Object, policy: Policy) -> None:
        self.applies = spec.get("patchType") == "ApplyConfiguration"
        given = spec.get("applyConfiguration" if self.applies else "jsonPatch") or {}
        self.expression = Expression(
            given.get("expression") or "",
            policy.variables,
            (OBJECT if self.applies else PATCHES,),
            patch_types,
        )

    def applied(self, seen: Object, found: Any, of: FieldType) -> Object:
        """`seen` with what the expression made. Raises MutationError."""
        if self.applies:
            return _merged(seen, found, of)
        patch = [_operation(each) for each in found]
        try:
            return json_patch(clone(seen), patch)
        except ApiError as error:
            if why(error).endswith("test failed"):
                return seen  # which asks for nothing to be done
            raise MutationError(f"JSON Patch: {why(error)}") from error


def _merged(seen: Object, found: ObjectValue, of: FieldType) -> Object:
    check_type_names(found, "Object")
    given = {**cel.to_json(found), "apiVersion": seen["apiVersion"], "kind": seen["kind"]}
    atomic = sorted(_atomic(given, of, ""))
    if atomic:
        text = f"may not mutate atomic arrays, maps or structs: {', '.join(atomic)}"
        raise MutationError(f"error applying patch: invalid ApplyConfiguration: {text}")
    try:
        check(given, of)
        merged: Object = merge(seen, given, of)
    except TypeErrors as error:
        text = f"failed to convert patch object to typed object: {error}"
        raise MutationError(f"error applying patch: {text}") from error
    return clone(merged)


def check_type_names(value: Any, path: str) -> None:
    """`Object{spec: Object.spec{…}}`: each type is named after its place. Raises MutationError."""
    if isinstance(value, ObjectValue):
        if value.type_name != path:
            raise MutationError(
                f'type mismatch: unexpected type name "{value.type_name}", expected "{path}", '
                "which matches field name path from root Object type"
            )
        for name, each in value.items():
            check_type_names(each, f"{path}.{name}")
    elif isinstance(value, dict):
        for each in value.values():
            check_type_names(each, path)
    elif isinstance(value, list):
        for each in value:
            check_type_names(each, path)


def _atomic(value: Any, of: FieldType, path: str) -> list[str]:
    """Paths of what an apply would replace whole."""
    found: list[str] = []
    if isinstance(value, dict):
        if of.atomic_map and of.is_map:
            found.append(path)
        for name, each in value.items():
            child = of.child(name)
            if child is not None:
                found += _atomic(each, child, f"{path}.{name}")
    elif isinstance(value, list):
        if of.is_list and of.atomic_list:
            found.append(path)
        for index, each in enumerate(value) if of.is_list else ():
            found += _atomic(each, of.items, f"{path}[{index}]")
    return found


def _operation(given: Any) -> Object:
    """One JSONPatch{…} as RFC 6902 has it."""
    found = {key: given[key] for key in ("op", "path", "from") if given.get(key)}
    if "value" in given:
        value = given["value"]
        if isinstance(value, ObjectValue):
            check_type_names(value, value.type_name)
        found["value"] = cel.to_json(value)
    found.setdefault("path", "")
    return found


class MutatingPolicy(Policy):
    @cached_property
    def mutations(self) -> list[Mutation]:
        return [Mutation(each, self) for each in self.spec.get("mutations") or ()]

    def expressions(self) -> list[Expression]:
        return [each.expression for each in self.mutations]

    @property
    def if_needed(self) -> bool:
        return self.spec.get("reinvocationPolicy") == "IfNeeded"


async def mutate(
    plugin: Policies, call: Call, operation: str, obj: Object, old: Object | None
) -> None:
    """Change the object as the policies say. Raises ApiError when one cannot be applied and may not be left out."""
    attributes = Attributes(call, operation, obj, old, plugin.lookup.table, mutating=True)
    reinvoked = reinvocation.of(call)
    rounds = reinvoked.begin(plugin.kind, obj)
    refused: list[str] = []
    async for found in invocations(plugin, attributes, MutatingPolicy):
        if not isinstance(found, Invocation):
            policy, binding, why = found
            if not policy.ignores_failure:
                refused.append(_told(policy, binding, why))
            continue
        policy = found.policy
        param = (found.param or {}).get("metadata") or {}
        key = (policy.name, found.binding.name, param.get("namespace"), param.get("name"))
        if reinvoked.skips(rounds, key):
            continue
        before = clone(obj)
        error_type, started = "no_error", time.perf_counter()
        try:
            if not await _mutated(plugin, found, attributes):
                continue
        except (cel.EvaluationError, MutationError) as error:
            error_type = "invalid_error"
            if not policy.ignores_failure:
                refused.append(_told(policy, found.binding, str(error)))
        measured = plugin.lookup.measures.mutating[policy.name, found.binding.name, error_type]
        measured.observe(time.perf_counter() - started)
        changed = before != obj
        reinvoked.asked(rounds, key, changed=changed, if_needed=policy.if_needed)
    reinvoked.end(plugin.kind, obj)
    if refused:
        refusal = forbidden(attributes, "")
        refusal.message, refusal.reason = refused[0], "Invalid"
        refusal.details["causes"] = [{"message": each} for each in refused]
        raise refusal


async def _mutated(
    plugin: Policies, found: Invocation[MutatingPolicy], attributes: Attributes
) -> bool:
    """False when its conditions do not hold. Raises EvaluationError, MutationError."""
    policy, row = found.policy, found.row

    async def values(budget: cel.Budget) -> Object:
        return await found.values(attributes, plugin.lookup, budget)

    labels = (policy.name, "policy", ADMIT, attributes.operation)
    if policy.conditions:
        if not await hold(policy.conditions, values, plugin.lookup.measures, labels):
            return False
    of = _type(attributes, row)
    for mutation in policy.mutations:
        seen = await attributes.show(row)
        if seen is None:
            continue
        made = await affordable(mutation.expression.evaluate, values, PER_REQUEST)
        await attributes.replace(row, mutation.applied(seen, made, of))
    return True


def _type(attributes: Attributes, row: Resource) -> FieldType:
    kind = attributes.kind_of(row)
    if row.custom is not None and kind == GVK(row.group, row.version, row.kind):
        return apply_types.of_custom(row.custom.raw)
    return apply_types.of_kind(kind) or apply_types.of_custom(None)


def _told(policy: Policy, binding: Binding | None, why: str) -> str:
    if binding is None:
        return f'policy "{policy.name}" denied request: {why}'
    return f"policy '{policy.name}' with binding '{binding.name}' denied request: {why}"
