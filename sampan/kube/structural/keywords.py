"""Which keywords a CRD's schema may use, and how: the checks on the schema itself, beyond its being structural.

Source of rules and words: apiextensions `validation.go`, ValidateCustomResourceDefinitionOpenAPISchema. Rules in CEL are
checked by `rules.py`; what is checked here of them is their form.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from sampan.kube import errors
from sampan.kube.errors import Cause
from sampan.kube.structural import fieldpath
from sampan.kube.structural.node import META_FIELDS, Raw

Causes = list[Cause]

TYPES: Final = ("array", "boolean", "integer", "number", "object", "string")
REASONS: Final = (
    "FieldValueDuplicate",
    "FieldValueForbidden",
    "FieldValueInvalid",
    "FieldValueRequired",
)
_UNSUPPORTED: Final = ("id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref")  # fmt: skip
_NEWLINES: Final = r"[\n\r]+"
_MAP: Final = "x-kubernetes-list-type is map"


class _Place(NamedTuple):
    """Where in the schema we are, as far as rules depend on it."""

    no_default: str = ""  # why a default may not be set here
    in_metadata: bool = False


def validate(raw: Raw, path: str) -> Causes:
    causes: Causes = []
    _check(raw, path, _Place(), causes, root=True)
    return causes


def _check(raw: Any, path: str, place: _Place, causes: Causes, *, root: bool = False) -> None:
    if not isinstance(raw, dict):
        return
    _standard(raw, path, place, causes)
    if raw.get("uniqueItems"):
        text = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic"
        causes.append(errors.forbidden_field(f"{path}.uniqueItems", text))
    properties, additional = raw.get("properties") or {}, raw.get("additionalProperties")
    if additional is not None:
        where = f"{path}.additionalProperties"
        if properties and additional is not True:
            text = "additionalProperties and properties are mutual exclusive"
            causes.append(errors.forbidden_field(where, text))
        inner = place
        if place.in_metadata:
            text = "inside additionalProperties applying to object metadata"
            inner = place._replace(no_default=text)
        _check(additional, where, inner, causes)
    for name, each in properties.items():
        inner = place
        if name in META_FIELDS and (root or raw.get("x-kubernetes-embedded-resource")):
            inner = place._replace(in_metadata=True)
            if root:
                inner = inner._replace(no_default=f"in top-level {name}")
        _check(each, f"{path}.properties[{name}]", inner, causes)
    _check(raw.get("not"), f"{path}.not", place, causes)
    for junctor in ("allOf", "oneOf", "anyOf"):
        for index, each in enumerate(raw.get(junctor) or ()):
            _check(each, f"{path}.{junctor}[{index}]", place, causes)
    items = raw.get("items")
    for index, each in enumerate(items if isinstance(items, list) else ()):
        _check(each, f"{path}.items[{index}]", place, causes)
    _check(items, f"{path}.items", place, causes)
    if raw.get("x-kubernetes-preserve-unknown-fields") is False:
        where = f"{path}.x-kubernetes-preserve-unknown-fields"
        causes.append(errors.invalid_value(where, False, "must be true or undefined"))
    _map_type(raw, path, causes)
    _list_type(raw, path, causes)
    for index, rule in enumerate(raw.get("x-kubernetes-validations") or ()):
        _rule(rule, raw, f"{path}.x-kubernetes-validations[{index}]", causes)


def _standard(raw: Raw, path: str, place: _Place, causes: Causes) -> None:
    kind = raw.get("type") or ""
    if kind and kind not in TYPES:
        causes.append(errors.not_supported(f"{path}.type", kind, TYPES))
    if raw.get("default") is not None and place.no_default:
        text = f"must not be set {place.no_default}"
        causes.append(errors.forbidden_field(f"{path}.default", text))
    for key in _UNSUPPORTED:
        if raw.get(key) not in (None, "", {}):
            causes.append(errors.forbidden_field(f"{path}.{key}", f"{key} is not supported"))
    if kind == "null":
        text = "type cannot be set to null, use nullable as an alternative"
        causes.append(errors.forbidden_field(f"{path}.type", text))
    if isinstance(raw.get("items"), list):
        text = "items must be a schema object and not an array"
        causes.append(errors.forbidden_field(f"{path}.items", text))
    if place.in_metadata and raw.get("x-kubernetes-embedded-resource"):
        where = f"{path}.x-kubernetes-embedded-resource"
        causes.append(errors.forbidden_field(where, "must not be used inside of resource meta"))


def _needs_type(raw: Raw, path: str, wanted: str, extension: str, causes: Causes) -> bool:
    kind = raw.get("type") or ""
    if kind == wanted:
        return True
    text = f"must be {wanted} if {extension} is specified"
    where = f"{path}.type"
    causes.append(errors.invalid_value(where, kind, text) if kind else errors.required(where, text))
    return False


def _map_type(raw: Raw, path: str, causes: Causes) -> None:
    found = raw.get("x-kubernetes-map-type")
    if found is None:
        return
    _needs_type(raw, path, "object", "x-kubernetes-map-type", causes)
    if found not in ("atomic", "granular"):
        where = f"{path}.x-kubernetes-map-type"
        causes.append(errors.not_supported(where, found, ["atomic", "granular"]))


def _list_type(raw: Raw, path: str, causes: Causes) -> None:
    found, keys = raw.get("x-kubernetes-list-type"), raw.get("x-kubernetes-list-map-keys") or []
    where = f"{path}.x-kubernetes-list-type"
    items = raw.get("items")
    item: Raw = items if isinstance(items, dict) else {}
    if found is not None:
        fits = _needs_type(raw, path, "array", "x-kubernetes-list-type", causes)
        if fits and found == "set":
            _set_items(item, f"{path}.items", causes)
        if found not in ("atomic", "set", "map"):
            causes.append(errors.not_supported(where, found, ["atomic", "set", "map"]))
    if keys and found != "map":
        text = "must be map if x-kubernetes-list-map-keys is non-empty"
        causes.append(
            errors.required(where, text)
            if found is None
            else errors.invalid_value(where, found, text)
        )
    if found == "map":
        _map_items(keys, items, path, causes)
    if found in ("set", "map") and item.get("nullable"):
        text = f"cannot be nullable when x-kubernetes-list-type is {found}"
        causes.append(errors.forbidden_field(f"{path}.items.nullable", text))
    if found == "map":
        _map_keys(keys, item, f"{path}.items", causes)


def _set_items(item: Raw, path: str, causes: Causes) -> None:
    text = "must be atomic as item of a list with x-kubernetes-list-type=set"
    found = item.get("x-kubernetes-list-type")
    if item.get("type") == "array" and found not in (None, "atomic"):
        causes.append(errors.invalid_value(f"{path}.x-kubernetes-list-type", found, text))
    if item.get("type") == "object" and item.get("x-kubernetes-map-type") != "atomic":
        where = f"{path}.x-kubernetes-map-type"
        causes.append(errors.invalid_value(where, "null", text))


def _map_items(keys: list[str], items: Any, path: str, causes: Causes) -> None:
    where = f"{path}.x-kubernetes-list-map-keys"
    if not keys:
        causes.append(errors.required(where, f"must not be empty if {_MAP}"))
    if items is None:
        causes.append(errors.required(f"{path}.items", f"must have a schema if {_MAP}"))
    if not isinstance(items, dict):
        return
    if items.get("type") != "object":
        text = f"must be object if parent array's {_MAP}"
        causes.append(errors.invalid_value(f"{path}.items.type", items.get("type") or "", text))
        return
    properties = items.get("properties") or {}
    seen = set()
    for key in keys:
        if key not in properties:
            text = "entries must all be names of item properties"
            causes.append(errors.invalid_value(where, keys, text))
        elif properties[key].get("type") in ("array", "object"):
            text = f"must be a scalar type if parent array's {_MAP}"
            place = f"{path}.items.properties[{key}].type"
            causes.append(errors.invalid_value(place, items["type"], text))
        if key in seen:
            causes.append(errors.invalid_value(where, keys, "must not contain duplicate entries"))
        seen.add(key)


def _map_keys(keys: list[str], item: Raw, path: str, causes: Causes) -> None:
    properties, needed = item.get("properties") or {}, item.get("required") or []
    start = "this property is in x-kubernetes-list-map-keys, so it"
    for key in keys:
        found = properties.get(key)
        if found is None:
            continue
        where = f"{path}.properties[{key}]"
        if key not in needed and found.get("default") is None:
            text = f"{start} must have a default or be a required property"
            causes.append(errors.required(f"{where}.default", text))
        if found.get("nullable"):
            causes.append(
                errors.forbidden_field(f"{where}.nullable", f"{start} cannot be nullable")
            )


def _rule(rule: Raw, raw: Raw, path: str, causes: Causes) -> None:
    """The form of one x-kubernetes-validations rule."""
    text, message = rule.get("rule") or "", rule.get("message") or ""
    if not text.strip():
        causes.append(errors.required(f"{path}.rule", "rule is not specified"))
    elif message and not message.strip():
        where = f"{path}.message"
        causes.append(errors.invalid_value(where, message, "must be non-empty if specified"))
    elif re.search(_NEWLINES, message.strip()):
        where = f"{path}.message"
        causes.append(errors.invalid_value(where, message, "must not contain line breaks"))
    elif re.search(_NEWLINES, text.strip()) and not message.strip():
        words = "message must be specified if rule contains line breaks"
        causes.append(errors.required(f"{path}.message", words))
    expression = rule.get("messageExpression") or ""
    if expression and not expression.strip():
        words = "messageExpression must be non-empty if specified"
        causes.append(errors.required(f"{path}.messageExpression", words))
    reason = rule.get("reason")
    if reason is not None and reason not in REASONS:
        causes.append(errors.not_supported(f"{path}.reason", reason, REASONS))
    found = rule.get("fieldPath") or ""
    where = f"{path}.fieldPath"
    if found and not found.strip():
        causes.append(errors.invalid_value(where, found, "must be non-empty if specified"))
    if re.search(_NEWLINES, found):
        causes.append(errors.invalid_value(where, found, "must not contain line breaks"))
    if found:
        try:
            fieldpath.resolve(found, raw)
        except fieldpath.PathError:
            causes.append(errors.invalid_value(where, found, "must be a valid path"))
