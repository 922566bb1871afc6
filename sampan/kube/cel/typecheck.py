"""The type check of a ValidatingAdmissionPolicy against the kinds that it names: warnings for its status, which change nothing.

When a policy is written `object` may be anything; here it is each of those kinds in turn, so that a field that
none of them has is told to the author (KEP-3488, status.typeChecking).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sampan.kube import cel
from sampan.kube.cel.admission import Variables, declared
from sampan.kube.cel.types import DYN, Field, Type
from sampan.kube.types import GVK

Object = dict[str, Any]

MAX_TYPES = 10


def resources_of(policy: Object) -> list[tuple[str, str, str]]:
    """(group, version, resource) of the rules; those with wildcards say too little."""
    constraints = (policy.get("spec") or {}).get("matchConstraints") or {}
    found = set()
    for rule in constraints.get("resourceRules") or ():
        groups, versions = rule.get("apiGroups") or [], rule.get("apiVersions") or []
        if any("*" in each for each in (*groups, *versions)):
            continue
        found |= {
            (group, version, resource)
            for group in groups
            for version in versions
            for resource in rule.get("resources") or ()
            if "*" not in resource and "/" not in resource
        }
    return sorted(found)


def warnings(policy: Object, types: Mapping[GVK, Type], params: Type | None) -> list[Object]:
    """`expressionWarnings`. `params` is the type of its params, when it is known."""
    spec = policy.get("spec") or {}
    found: list[Object] = []
    for index, validation in enumerate(spec.get("validations") or ()):
        for field in ("expression", "messageExpression"):
            text = validation.get(field)
            if not text:
                continue
            told = [
                f"{shown(gvk)}: compilation failed: {problem}\n"
                for gvk in sorted(types)[:MAX_TYPES]
                if (problem := _problem(text, spec, types[gvk], params))
            ]
            if told:
                reference = f"spec.validations[{index}].{field}"
                found.append({"fieldRef": reference, "warning": "\n".join(told)})
    return found


def shown(gvk: GVK) -> str:
    return f"{gvk.group}/{gvk.version}, Kind={gvk.kind}"


def _problem(text: str, spec: Object, type_: Type, params: Type | None) -> str:
    known = {**declared(params=bool(spec.get("paramKind"))), "object": type_, "oldObject": type_}
    if params is not None:
        known["params"] = params
    fields: dict[str, Field] = {}
    for variable in spec.get("variables") or ():
        each = {**known, "variables": Variables(dict(fields))}
        try:
            made = cel.compile(variable["expression"], each).type
        except cel.CompileError:
            made = DYN
        fields[variable["name"]] = Field(variable["name"], made)
    try:
        cel.compile(text, {**known, "variables": Variables(fields)})
    except cel.CompileError as error:
        return str(error)
    return ""
