"""Is a schema structural? The rules of KEP-1139, worded as apiextensions words them (`schema/validation.go`, `complete.go`).

invariants    every field and item has a type; junctors (allOf, anyOf, oneOf, not) only restrict values
completeness  what a junctor speaks of is also declared outside of it
"""

from __future__ import annotations

from typing import Any, Final

from sampan.kube import errors
from sampan.kube.errors import Cause
from sampan.kube.structural import patterns
from sampan.kube.structural.node import Raw

Causes = list[Cause]

INT_OR_STRING: Final = [{"type": "integer"}, {"type": "string"}]
ROOT, ITEM, FIELD = "at the root", "for specified array items", "for specified object fields"
_JUNCTORS: Final = ("anyOf", "allOf", "oneOf")
# What a schema inside a junctor may not say, and how the refusal goes on.
_FORBIDDEN_INSIDE: Final = (
    ("type", "must be empty to be structural"),
    ("default", "must be undefined to be structural"),
    ("title", "must be empty to be structural"),
    ("description", "must be empty to be structural"),
    ("nullable", "must be false to be structural"),
    ("x-kubernetes-preserve-unknown-fields", "must be false to be structural"),
    ("x-kubernetes-embedded-resource", "must be false to be structural"),
    ("x-kubernetes-int-or-string", "must be false to be structural"),
    ("x-kubernetes-list-map-keys", "must be empty to be structural"),
    ("x-kubernetes-list-type", "must be undefined to be structural"),
    ("x-kubernetes-map-type", "must be undefined to be structural"),
    ("x-kubernetes-validations", "must be empty to be structural"),
)


def validate(raw: Raw, path: str) -> Causes:
    """What keeps the schema from being structural, in a fixed order."""
    causes: Causes = []
    _invariants(raw, ROOT, path, causes)
    _complete_junctors(raw, raw, path, path, causes)
    return sorted(causes, key=str)


def _invariants(raw: Raw, level: str, path: str, causes: Causes) -> None:
    kind = raw.get("type") or ""
    properties: dict[str, Raw] = raw.get("properties") or {}
    embedded = bool(raw.get("x-kubernetes-embedded-resource"))
    preserves = bool(raw.get("x-kubernetes-preserve-unknown-fields"))
    either = bool(raw.get("x-kubernetes-int-or-string"))
    items, additional = raw.get("items"), raw.get("additionalProperties")
    if isinstance(items, dict):
        _invariants(items, ITEM, f"{path}.items", causes)
    elif kind == "array" and items is None:
        causes.append(errors.required(f"{path}.items", "must be specified"))
    for name, inner in properties.items():
        _invariants(inner, FIELD, f"{path}.properties[{name}]", causes)
    if additional is not None:
        where = f"{path}.additionalProperties"
        if level == ROOT:
            causes.append(errors.forbidden_field(where, "must not be used at the root"))
        if isinstance(additional, dict):
            _invariants(additional, FIELD, where, causes)
        if embedded:
            text = "must not be used if x-kubernetes-embedded-resource is set"
            causes.append(errors.forbidden_field(where, text))
    for name, present in (("preserve-unknown-fields", preserves), ("embedded-resource", embedded)):
        if either and present:
            where = f"{path}.x-kubernetes-{name}"
            text = "must be false if x-kubernetes-int-or-string is true"
            causes.append(errors.invalid_value(where, True, text))
    all_of = raw.get("allOf") or []
    skip_first = bool(all_of) and all_of[0].get("anyOf") == INT_OR_STRING
    _restrictions(raw, path, causes, raw.get("anyOf") == INT_OR_STRING, skip_first)
    _type(kind, level, path, causes, embedded, either or preserves)
    if level == ROOT or embedded:
        for name in ("kind", "apiVersion"):
            found = (properties.get(name) or {}).get("type")
            if name in properties and found != "string":
                where = f"{path}.properties[{name}].type"
                causes.append(errors.invalid_value(where, found or "", "must be string"))
        if "metadata" in properties:
            _metadata(properties["metadata"], level, f"{path}.properties[metadata]", causes)
    if embedded and not preserves and not properties:
        text = (
            "must not be empty if x-kubernetes-embedded-resource is true without "
            "x-kubernetes-preserve-unknown-fields"
        )
        causes.append(errors.required(f"{path}.properties", text))


def _type(
    kind: str, level: str, path: str, causes: Causes, embedded: bool, may_be_empty: bool
) -> None:
    where = f"{path}.type"
    if embedded and kind != "object":
        text = "must be object if x-kubernetes-embedded-resource is true"
        causes.append(
            errors.invalid_value(where, kind, text) if kind else errors.required(where, text)
        )
    elif not kind and not may_be_empty:
        causes.append(errors.required(where, f"must not be empty {level}"))
    if level == ROOT and kind and kind != "object":
        causes.append(errors.invalid_value(where, kind, "must be object at the root"))


def _metadata(raw: Raw, level: str, path: str, causes: Causes) -> None:
    if raw.get("type") != "object":
        causes.append(errors.invalid_value(f"{path}.type", raw.get("type") or "", "must be object"))
    if level != ROOT:
        return
    rest = {key: each for key, each in raw.items() if key not in ("type", "default")}
    if set(rest.get("properties") or ()) <= {"name", "generateName"}:
        rest.pop("properties", None)
    if any(rest.values()):
        text = "must not specify anything other than name and generateName, but metadata is implicitly specified"
        causes.append(errors.forbidden_field(path, text))


def _restrictions(
    raw: Raw, path: str, causes: Causes, skip_any: bool = False, skip_first: bool = False
) -> None:
    """What restricts values: junctors and the pattern."""
    for junctor in _JUNCTORS:
        if junctor == "anyOf" and skip_any:
            continue
        for index, inner in enumerate(raw.get(junctor) or ()):
            skip = junctor == "allOf" and skip_first and index == 0
            _inside(inner, f"{path}.{junctor}[{index}]", causes, skip)
    if isinstance(raw.get("not"), dict):
        _inside(raw["not"], f"{path}.not", causes)
    pattern = raw.get("pattern")
    if pattern:
        try:
            patterns.compiled(pattern)
        except patterns.PatternError as error:
            text = f"must be a valid regular expression, but isn't: {error}"
            causes.append(errors.invalid_value(f"{path}.pattern", pattern, text))


def _inside(raw: Raw, path: str, causes: Causes, skip_any: bool = False) -> None:
    """A schema inside a junctor restricts values and declares nothing."""
    _restrictions(raw, path, causes, skip_any)
    if isinstance(raw.get("items"), dict):
        _inside(raw["items"], f"{path}.items", causes)
    properties = raw.get("properties") or {}
    for name, inner in properties.items():
        _inside(inner, f"{path}.properties[{name}]", causes)
    if isinstance(raw.get("additionalProperties"), dict):
        where = f"{path}.additionalProperties"
        causes.append(errors.forbidden_field(where, "must be undefined to be structural"))
    for key, text in _FORBIDDEN_INSIDE:
        if raw.get(key) not in (None, "", False, []):
            causes.append(errors.forbidden_field(f"{path}.{key}", text))
    if "metadata" in properties:
        where = f"{path}.properties[metadata]"
        causes.append(errors.forbidden_field(where, "must not be specified in a nested context"))


# --- completeness -------------------------------------------------------------------------------------


def _complete_junctors(inner: Raw, outer: Any, at: str, path: str, causes: Causes) -> None:
    """Whatever the junctors of `inner` (at `path`) speak of must be declared in `outer` (at `at`)."""
    if isinstance(inner.get("not"), dict):
        _complete(inner["not"], outer, at, f"{path}.not", causes)
    for junctor in ("allOf", "anyOf", "oneOf"):
        for index, each in enumerate(inner.get(junctor) or ()):
            _complete(each, outer, at, f"{path}.{junctor}[{index}]", causes)


def _complete(inner: Raw, outer: Any, at: str, path: str, causes: Causes) -> None:
    if not isinstance(outer, dict):
        causes.append(errors.required(at, f"because it is defined in {path}"))
        return
    _complete_junctors(inner, outer, at, path, causes)
    if isinstance(inner.get("items"), dict):
        _complete(inner["items"], outer.get("items"), f"{at}.items", f"{path}.items", causes)
    declared = outer.get("properties") or {}
    for name, each in (inner.get("properties") or {}).items():
        where, there = f"{at}.properties[{name}]", f"{path}.properties[{name}]"
        _complete(each, declared.get(name), where, there, causes)
