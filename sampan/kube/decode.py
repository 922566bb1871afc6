"""Request bodies into objects: parse JSON or YAML, find duplicate and unknown fields, fit to the schema.

orjson parses fast but keeps the last of two equal keys silently. When strictness is asked for, the parsed value is
encoded again: the same bytes prove that nothing was lost, which settles every compact body that a client library sends;
any other body is read once more by the standard library's parser, which shows each pair. Whatever the bytes are, the
only exception is ApiError 400, worded as Kubernetes words it.
"""

from __future__ import annotations

import json
from typing import Any, Final, Literal

import orjson

from sampan.kube import conform, errors, gotext, schema
from sampan.kube.crowds import Crowd
from sampan.kube.types import GVK

Strictness = Literal["Ignore", "Warn", "Strict"]

POD: Final = "io.k8s.api.core.v1.Pod"
JSON_TYPES = ("application/json", "")
YAML_TYPES = ("application/yaml", "application/x-yaml", "text/yaml")
# Deeper values could not be encoded again. Kubernetes stops at 10,000; no real object passes 100.
MAX_DEPTH = 200
_SUSPICIOUS_BRACKETS = MAX_DEPTH
SHOWN = 30  # bytes of a body that nobody could read


def decode(
    body: bytes, content_type: str, gvk: GVK, *, strict: Strictness = "Ignore"
) -> tuple[dict[str, Any], list[str]]:
    """The object in `body`, conforming to the schema of `gvk`, and warnings (only when strict is "Warn").

    Raises ApiError: 400 for what cannot be decoded and for strict errors, 415 for another media type.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    try:
        if media_type in JSON_TYPES:
            value, found = _parse_json(body, strict != "Ignore")
        elif media_type in YAML_TYPES:
            value, found = _parse_yaml(body)
        else:
            raise errors.unsupported_media_type(
                "the body of the request was in an unknown format - accepted media types include: "
                "application/json, application/yaml"
            )
        _told_by(value)
    except _Unread as error:
        raise errors.bad_request(
            f"the object provided is unrecognized (must be of type {gvk.kind}): {error} "
            f"({_summary(body)})"
        ) from error
    _identify(value, gvk)
    unknown = _fit(value, gvk)
    found = (
        _in_order(body, found, unknown) if found and media_type in JSON_TYPES else found + unknown
    )
    if strict == "Ignore" or not found:
        return value, []
    if strict == "Warn":
        return value, found
    raise errors.bad_request(cannot_be_handled(gvk, strict_message(found)))


def parse(body: bytes) -> tuple[Any, list[str]]:
    """A JSON or YAML document as it is, and the keys that it gives twice. Raises ApiError 400."""
    if body[:1] == b"{":
        try:
            return _parse_json(body, True)
        except _Unread:
            pass  # flow style YAML begins so too
    try:
        return _parse_yaml(body)
    except _Unread as error:
        raise errors.bad_request(str(error)) from error


def check_types(obj: dict[str, Any], name: str) -> list[str]:
    """Fit an already parsed object to the definition, in place; returns its strict errors.

    For what a patch made. Raises Mismatch for a type that does not fit.
    """
    try:
        return conform.conform(obj, name)
    except RecursionError as error:
        raise conform.Mismatch(_reason(error)) from error


def cannot_be_handled(gvk: GVK, reason: str) -> str:
    return f"{gvk.kind} in version {errors.quote(gvk.version)} cannot be handled as a {gvk.kind}: {reason}"


def unfit(obj: Any, reason: str, patch: dict[str, Any] | None = None) -> errors.ApiError:
    """422 for an object that a patch spoilt. A strategic merge `patch` is shown itself, as Go prints a map."""
    try:
        shown = orjson.dumps(obj).decode() if patch is None else gotext.plain(patch)
    except (TypeError, RecursionError):  # deeper than can be shown
        shown = "..."
    return errors.invalid("", "", [errors.invalid_value("patch", shown, reason)])


def strict_message(found: list[str]) -> str:
    return f"strict decoding error: {', '.join(found)}"


def _fit(value: dict[str, Any], gvk: GVK) -> list[str]:
    name = schema.for_gvk(gvk)
    try:
        if name is not None:
            return [] if _of_crowd(value, name) else conform.conform(value, name)
        # A kind from a CustomResourceDefinition: its schema is checked elsewhere, metadata is common to all.
        metadata = value.get("metadata")
        if metadata is None:
            value.pop("metadata", None)
            return []
        if not isinstance(metadata, dict):
            raise conform.Mismatch("metadata is not an object")
        unknown = conform.conform(metadata, schema.OBJECT_META)
        return [text.replace('"', '"metadata.', 1) for text in unknown]
    except (conform.Mismatch, RecursionError) as error:
        raise errors.bad_request(cannot_be_handled(gvk, _reason(error))) from error


def _of_crowd(value: dict[str, Any], name: str) -> bool:
    """Is this a pod that fits as it is, whose spec need not be looked at because another's was?"""
    spec = value.get("spec")
    if name != POD or not spec:
        return False
    rest = {key: item for key, item in value.items() if key != "spec"}
    return conform.checker(POD)(rest) and _pod_spec_fits(spec)


_pod_spec_fits: Final = Crowd(lambda spec: conform.checker(POD)({"spec": spec}))


def _reason(error: Exception) -> str:
    return "json: exceeded max depth" if isinstance(error, RecursionError) else str(error)


class _Unread(ValueError):
    """Bytes that do not even tell their kind."""


def _summary(body: bytes) -> str:
    """What came, so that a client sees its mistake: text that may be JSON as it is, anything else in hexadecimal."""
    shown = body[:SHOWN]
    text = shown.decode(errors="replace") if body[:1] == b"{" else shown.hex()
    return (text + " ..." if len(body) > SHOWN else text) or "<empty>"


def _told_by(value: Any) -> None:
    """An object whose kind and apiVersion are strings, if they are there. Raises _Unread."""
    if not isinstance(value, dict):
        found = {list: "array", str: "string", bool: "bool", type(None): "null"}.get(
            type(value), "number"
        )
        raise _Unread(
            f"couldn't get version/kind; json parse error: json: cannot unmarshal {found} into Go value of "
            'type struct { APIVersion string "json:\\"apiVersion,omitempty\\""; '
            'Kind string "json:\\"kind,omitempty\\"" }'
        )
    kind, api_version = value.get("kind"), value.get("apiVersion")
    if not isinstance(kind, str | None) or not isinstance(api_version, str | None):
        bad = "kind" if not isinstance(kind, str | None) else "apiVersion"
        raise _Unread(
            f"couldn't get version/kind; json parse error: json: cannot unmarshal "
            f"{conform.described(value[bad], False)} into Go struct field .{bad} of type string"
        )


def _identify(value: dict[str, Any], gvk: GVK) -> None:
    """Kind and apiVersion may be left out; when given they must be those of the endpoint."""
    kind, api_version = value.get("kind"), value.get("apiVersion")
    if api_version and api_version != gvk.api_version:
        raise errors.bad_request(
            f"the API version in the data ({api_version}) does not match the expected API version "
            f"({gvk.api_version})"
        )
    if kind and kind != gvk.kind:
        raise errors.bad_request(
            f"{kind} in version {errors.quote(gvk.version)} cannot be handled as a {gvk.kind}: "
            f"converting (v1.{kind}) to ({gvk.kind}): unknown conversion"
        )
    value["apiVersion"], value["kind"] = gvk.api_version, gvk.kind


def _parse_json(body: bytes, doubles: bool) -> tuple[Any, list[str]]:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        detail = str(error).partition(": line ")[0]
        text = f"couldn't get version/kind; json parse error: {detail} (offset {error.pos})"
        raise _Unread(text) from error
    deep = body.count(b"{") + body.count(b"[") > _SUSPICIOUS_BRACKETS
    if not doubles and not deep:
        return value, []
    try:
        same = orjson.dumps(value) == body.strip()
    except TypeError as error:
        raise _Unread("couldn't get version/kind; json parse error: exceeded max depth") from error
    return value, [] if same or not doubles else duplicates(body)


class _Pairs(dict[str, Any]):
    """A parsed object that had a key twice; its pairs as they came."""

    pairs: list[tuple[str, Any]]


def duplicates(body: bytes) -> list[str]:
    """The fields that a JSON document gives twice."""
    places = _places(body)
    return [_twice(path) for path, at in places.items() if len(at) > 1][: conform.MAX_STRICT_ERRORS]


def _twice(path: str) -> str:
    return f"duplicate field {errors.quote(path)}"


def _in_order(body: bytes, doubled: list[str], unknown: list[str]) -> list[str]:
    """Both kinds of strict errors as they come in the document. What is in an unknown field is not looked at."""
    places = _places(body)
    at: dict[str, int] = {}
    hidden: list[str] = []
    for path, seen in places.items():
        quoted = errors.quote(path)
        if (text := f"unknown field {quoted}") in unknown:
            at[text] = seen[0]
            hidden.append(path)
        if len(seen) > 1:
            at[_twice(path)] = seen[1]
    for path in hidden:
        for text in doubled:
            inside = text.removeprefix("duplicate field ").strip('"')
            if inside == path or inside.startswith((f"{path}.", f"{path}[")):
                at.pop(text, None)
    kept = [text for text in (*doubled, *unknown) if text in at or text in unknown]
    return sorted(kept, key=lambda text: at.get(text, len(places)))


def _places(body: bytes) -> dict[str, list[int]]:
    """Path → where it stands, counted in fields; twice when it is given twice. Empty when nothing is."""
    any_found = False

    def hook(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal any_found
        plain = dict(pairs)
        if len(plain) == len(pairs):
            return plain
        any_found = True
        marked = _Pairs(plain)
        marked.pairs = pairs
        return marked

    value = json.loads(body, object_pairs_hook=hook)
    places: dict[str, list[int]] = {}
    count = 0

    def walk(value: Any, path: str, again: bool) -> None:
        nonlocal count
        if isinstance(value, dict):
            seen: set[str] = set()
            for key, item in value.pairs if isinstance(value, _Pairs) else value.items():
                where = f"{path}.{key}" if path else key
                count += 1
                if (
                    not again or key in seen
                ):  # inside of a value that is given again, only its own doubles
                    places.setdefault(where, []).append(count)
                walk(item, where, again or key in seen)
                seen.add(key)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, dict | list):
                    walk(item, f"{path}[{index}]", again)

    if any_found:
        walk(value, "", False)
    return places


def _parse_yaml(body: bytes) -> tuple[Any, list[str]]:
    from sampan.kube import yaml_body  # libyaml is a megabyte that most servers never need

    try:
        return yaml_body.parse(body)
    except yaml_body.YAMLError as error:
        raise _Unread(f"error converting YAML to JSON: {error}") from error
