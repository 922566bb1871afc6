"""The expressions of admission: policies, their bindings, and the match conditions of webhooks.

All are compiled when they are written, so that a fault is told to whoever makes it, with its place, and not at the first
request. Follows pkg/apis/admissionregistration/validation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from sampan.kube import names
from sampan.kube.errors import (
    duplicate,
    forbidden_field,
    invalid_value,
    not_supported,
    required,
    too_many,
)
from sampan.kube.objects import name as name_of
from sampan.kube.types import split_api_version
from sampan.kube.validation import rules
from sampan.kube.validation.rules import Causes, Object

if TYPE_CHECKING:
    from sampan.kube.cel.types import Type

MAX_CONDITIONS: Final = 64
MAX_AUDIT_EXPRESSION: Final = 5 * 1024
MAX_AUDIT_ANNOTATIONS: Final = 20
_REASONS: Final = ("Forbidden", "Invalid", "RequestEntityTooLarge")
_NOT_FOUND: Final = ("Allow", "Deny")
_PATCH_TYPES: Final = {"ApplyConfiguration": "applyConfiguration", "JSONPatch": "jsonPatch"}
_REINVOCATION: Final = ("IfNeeded", "Never")

Variables = Mapping[str, "Type"]


def compiles(
    causes: Causes, path: str, text: str, variables: Variables, result: Any, objects: Any = None
) -> Type | None:
    """The type of an expression; None, and a cause, when it is faulty."""
    from sampan.kube import cel

    if not text.strip():
        causes.append(required(path, ""))
        return None
    try:
        return cel.compile(text, variables, result=result, objects=objects).type
    except cel.CompileError as error:
        detail = str(error)
        if error.issues[0].position != -2:
            detail = f"compilation failed: {detail}"
        causes.append(invalid_value(path, text, detail))
        return None


def match_conditions(
    causes: Causes, path: str, conditions: list[Object] | None, variables: Variables | None = None
) -> None:
    if not conditions:
        return
    from sampan.kube.cel.admission import declared

    if len(conditions) > MAX_CONDITIONS:
        causes.append(too_many(path, len(conditions), MAX_CONDITIONS))
        return
    known = declared() if variables is None else variables
    seen: set[str] = set()
    for index, condition in enumerate(conditions):
        where = f"{path}[{index}]"
        name = condition.get("name") or ""
        if not name:
            causes.append(required(f"{where}.name", ""))
        else:
            causes += [
                invalid_value(f"{where}.name", name, problem)
                for problem in names.qualified_name(name)
            ]
            if name in seen:
                causes.append(duplicate(f"{where}.name", name))
            seen.add(name)
        compiles(causes, f"{where}.expression", condition.get("expression") or "", known, "bool")


def policy(spec: Object, causes: Causes) -> tuple[Variables, Variables]:
    """What both kinds of policy have in common; (variables of its expressions, of its messages)."""
    from sampan.kube.cel.admission import declared

    params = spec.get("paramKind") is not None
    faulty: Causes = []
    fields = _variables(spec.get("variables") or [], faulty, params)
    found = {**declared(params=params), "variables": fields}
    match_conditions(causes, "spec.matchConditions", spec.get("matchConditions"), found)
    causes += faulty
    worded = {**declared(params=params, authorizer=False), "variables": fields}
    return found, worded


def param_kind(kind: Object, causes: Causes) -> None:
    version = kind.get("apiVersion") or ""
    if not version:
        causes.append(required("spec.paramKind.apiVersion", ""))
    else:
        group, name = split_api_version(version)
        for problem in names.dns1035_label(name):
            causes.append(invalid_value("spec.paramKind.apiVersion", version, problem))
        for problem in names.dns1123_subdomain(group) if group else ():
            causes.append(invalid_value("spec.paramKind.apiVersion", version, problem))
    if not kind.get("kind"):
        causes.append(required("spec.paramKind.kind", ""))
    else:
        for problem in names.dns1035_label(kind["kind"].lower()):
            text = f"may have mixed case, but should otherwise match: {problem}"
            causes.append(invalid_value("spec.paramKind.kind", kind["kind"], text))


def _variables(given: list[Object], causes: Causes, params: bool) -> Type:
    from sampan.kube.cel.admission import Variables as Composed
    from sampan.kube.cel.admission import declared
    from sampan.kube.cel.names import RESERVED
    from sampan.kube.cel.types import DYN, Field

    fields: dict[str, Field] = {}
    for index, variable in enumerate(given):
        where = f"spec.variables[{index}]"
        name = variable.get("name") or ""
        if not name.strip():
            causes.append(required(f"{where}.name", "name is not specified"))
        elif names.c_identifier(name) or name in RESERVED:
            text = "must be a valid CEL identifier"
            causes.append(invalid_value(f"{where}.name", name, text))
        elif name in fields:
            causes.append(duplicate(f"{where}.name", name))
        known = {**declared(params=params), "variables": Composed(dict(fields))}
        path, text = f"{where}.expression", variable.get("expression") or ""
        if not text.strip():
            causes.append(required(path, "expression is not specified"))
            continue
        fields[name] = Field(name, compiles(causes, path, text, known, "any") or DYN)
    return Composed(fields)


def validations(policy_: Object, causes: Causes) -> None:
    """Of a ValidatingAdmissionPolicy."""
    from sampan.kube.cel.types import NULL, STRING

    spec, owner = policy_.get("spec") or {}, name_of(policy_)
    variables, worded = policy(spec, causes)
    if not spec.get("validations") and not spec.get("auditAnnotations"):
        text = "validations or auditAnnotations must contain at least one item"
        causes.append(required("spec.validations", text))
        causes.append(required("spec.auditAnnotations", text))
    for index, item in enumerate(spec.get("validations") or ()):
        _validation(item, causes, f"spec.validations[{index}]", variables, worded)
    annotations = spec.get("auditAnnotations") or []
    if len(annotations) > MAX_AUDIT_ANNOTATIONS:
        text = f"must not have more than {MAX_AUDIT_ANNOTATIONS} auditAnnotations"
        causes.append(invalid_value("spec.auditAnnotations", len(annotations), text))
    seen: set[str] = set()
    for index, item in enumerate(annotations):
        where = f"spec.auditAnnotations[{index}]"
        key = item.get("key") or ""
        full = f"{owner}/{key}"
        causes += [
            invalid_value(f"{where}.key", full, problem) for problem in names.qualified_name(full)
        ]
        if key in seen:
            causes.append(duplicate(f"{where}.key", key))
        seen.add(key)
        text = item.get("valueExpression") or ""
        path = f"{where}.valueExpression"
        if not text.strip():
            causes.append(required(path, "valueExpression is not specified"))
        elif len(text) > MAX_AUDIT_EXPRESSION:
            detail = f"must not exceed {MAX_AUDIT_EXPRESSION} bytes in length"
            causes.append(required(path, detail))
        else:
            compiles(causes, path, text, variables, (STRING, NULL))


def _validation(
    item: Object, causes: Causes, path: str, variables: Variables, worded: Variables
) -> None:
    text, message = item.get("expression") or "", item.get("message") or ""
    if not text.strip():
        causes.append(required(f"{path}.expression", "expression is not specified"))
    else:
        compiles(causes, f"{path}.expression", text, variables, "bool")
    if message and not message.strip():
        detail = "must be non-empty if specified"
        causes.append(invalid_value(f"{path}.message", message, detail))
    elif "\n" in message.strip():
        detail = "must not contain line breaks"
        causes.append(invalid_value(f"{path}.message", message, detail))
    given = item.get("messageExpression") or ""
    if given and not given.strip():
        detail = "must be non-empty if specified"
        causes.append(invalid_value(f"{path}.messageExpression", given, detail))
    elif given:
        compiles(causes, f"{path}.messageExpression", given, worded, "string")
    reason = item.get("reason")
    if reason is not None and reason not in _REASONS:
        causes.append(not_supported(f"{path}.reason", reason, _REASONS))


def mutations(spec: Object, causes: Causes) -> None:
    """Of a MutatingAdmissionPolicy."""
    from sampan.kube.cel.admission import OBJECT, PATCHES, patch_types

    variables, _ = policy(spec, causes)
    given = spec.get("mutations") or []
    if not given:
        causes.append(required("spec.mutations", "mutations must contain at least one item"))
    for index, item in enumerate(given):
        where = f"spec.mutations[{index}]"
        kind = item.get("patchType") or ""
        if not kind:
            causes.append(required(f"{where}.patchType", ""))
            continue
        field = _PATCH_TYPES.get(kind)
        if field is None:
            causes.append(not_supported(f"{where}.patchType", kind, sorted(_PATCH_TYPES)))
            continue
        held = item.get(field)
        if held is None:
            detail = f"must be specified when patchType is {kind}"
            causes.append(required(f"{where}.{field}", detail))
            continue
        for other in _PATCH_TYPES.values():
            if other != field and item.get(other) is not None:
                detail = f"must not be specified when patchType is {kind}"
                causes.append(invalid_value(f"{where}.{other}", f"{{{other}}}", detail))
        result = (OBJECT if field == "applyConfiguration" else PATCHES,)
        path, text = f"{where}.{field}.expression", held.get("expression") or ""
        if not text.strip():
            causes.append(required(path, ""))
        else:
            compiles(causes, path, text, variables, result, patch_types)
    policy_ = spec.get("reinvocationPolicy") or ""
    if not policy_:
        causes.append(required("spec.reinvocationPolicy", ""))
    elif policy_ not in _REINVOCATION:
        causes.append(not_supported("spec.reinvocationPolicy", policy_, _REINVOCATION))


def together(actions: list[str], causes: Causes) -> None:
    """What does not go together in validationActions."""
    for index, action in enumerate(actions):
        if action in actions[:index]:
            causes.append(duplicate(f"spec.validationActions[{index}]", action))
    if "Deny" in actions and "Warn" in actions:
        detail = (
            "must not contain both Deny and Warn (repeating the same validation failure information in "
            "the API response and headers serves no purpose)"
        )
        causes.append(invalid_value("spec.validationActions", actions, detail))


def param_ref(reference: Object, causes: Causes) -> None:
    path = "spec.paramRef"
    name, selector = reference.get("name") or "", reference.get("selector")
    if name and selector is not None:
        detail = "name and selector are mutually exclusive"
        causes.append(forbidden_field(f"{path}.name", detail))
        causes.append(forbidden_field(f"{path}.selector", detail))
    elif name:
        causes += [
            invalid_value(f"{path}.name", name, problem) for problem in names.path_segment(name)
        ]
    elif selector is None:
        causes.append(required(path, "one of name or selector must be specified"))
    rules.label_selector(causes, f"{path}.selector", selector)
    action = reference.get("parameterNotFoundAction") or ""
    if not action:
        causes.append(required(f"{path}.parameterNotFoundAction", ""))
    elif action not in _NOT_FOUND:
        causes.append(not_supported(f"{path}.parameterNotFoundAction", action, _NOT_FOUND))
