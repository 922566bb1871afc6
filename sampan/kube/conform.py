"""Fitting an object to its schema: types, unknown fields, and the canonical form of quantities and times.

Two passes share the work. A compiled checker per definition answers "is all of this already as it should be?" without
building any path, and almost every object passes it. Only when it says no does the walk run, which knows where it is:
it normalises in place (drops nulls and unknown fields, rewrites quantities, times and base64), lists unknown fields as
strict decoding names them, and raises `Mismatch`, worded as Go's JSON decoder words it, at the first wrong type.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC
from functools import cache, lru_cache
from typing import Any, Final

from sampan.kube import errors, objects, quantity, schema

Check = Callable[[Any], bool]

INT32: Final = (-(2**31), 2**31 - 1)
INT64: Final = (-(2**63), 2**63 - 1)
MAX_STRICT_ERRORS: Final = 100

_SCALARS: dict[str, type] = {"string": str, "boolean": bool}
_is_time = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ").fullmatch
_is_micro_time = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z").fullmatch


class Mismatch(ValueError):
    """A value has a type that its field cannot take. `restoring` says so as Go does of a patched map, not of JSON."""

    def __init__(self, text: str, restoring: str = "") -> None:
        super().__init__(text)
        self.restoring = restoring or text


# --- the quick check --------------------------------------------------------------------------------


def _int32(value: Any) -> bool:
    return type(value) is int and -(2**31) <= value < 2**31


def _int64(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def _number(value: Any) -> bool:
    return type(value) is float or type(value) is int


def _int_or_string(value: Any) -> bool:
    return type(value) is str or _int32(value)


def _time(value: Any) -> bool:
    return type(value) is str and _is_time(value) is not None


def _micro_time(value: Any) -> bool:
    return type(value) is str and _is_micro_time(value) is not None


@lru_cache(maxsize=1024)
def _canonical(text: str) -> bool:
    try:
        return quantity.canonical(text) == text
    except ValueError:
        return False


def _quantity(value: Any) -> bool:
    return type(value) is str and _canonical(value)


def _base64(value: Any) -> bool:
    if type(value) is not str:
        return False
    try:
        binascii.a2b_base64(value, strict_mode=True)
    except (binascii.Error, ValueError):
        return False
    return True


def _anything(value: Any) -> bool:
    return value is not None


_BY_NAME: dict[str, Check] = {
    schema.QUANTITY: _quantity,
    schema.INT_OR_STRING: _int_or_string,
    schema.TIME: _time,
    schema.MICRO_TIME: _micro_time,
    **dict.fromkeys(schema.OPAQUE, _anything),
}
_BY_FORMAT: dict[str, Check] = {"int32": _int32, "int64": _int64, "byte": _base64}


def _compile_node(node: schema.Node) -> Check | type:
    """A check for one node; for plain strings and booleans the type itself, compared by identity."""
    if name := node.get("$ref"):
        return _BY_NAME.get(name) or _lazy(name)
    kind = node.get("type")
    if found := _BY_FORMAT.get(node.get("format") or ""):
        return found
    match kind:
        case "string" | "boolean":
            return _SCALARS[kind]
        case "integer":
            return _int64
        case "number":
            return _number
        case "array":
            return _list_of(_compile_node(node.get("items") or {}))
        case "object":
            inner = node.get("additionalProperties")
            if isinstance(inner, dict):
                return _map_of(_compile_node(inner))
            return _object_of(node["properties"]) if "properties" in node else _anything
    return _anything


def _list_of(item: Check | type) -> Check:
    if isinstance(item, type):
        only = {item}
        return lambda value: type(value) is list and set(map(type, value)) <= only
    return lambda value: type(value) is list and all(map(item, value))


def _map_of(item: Check | type) -> Check:
    items = _list_of(item)
    return lambda value: type(value) is dict and items(list(value.values()))


def _object_of(properties: dict[str, schema.Node]) -> Check:
    table = {field: _compile_node(node) for field, node in properties.items()}
    get = table.get

    def check(value: Any) -> bool:
        if type(value) is not dict:
            return False
        for field, entry in value.items():
            wanted = get(field)
            if wanted is type(entry):
                continue
            if wanted is None or wanted.__class__ is type or not wanted(entry):
                return False
        return True

    return check


def _lazy(name: str) -> Check:
    """Compile on first use: most of a definition's branches are never visited, and JSONSchemaProps holds itself."""
    compiled: Check | None = None

    def check(value: Any) -> bool:
        nonlocal compiled
        if compiled is None:
            compiled = checker(name)
        return compiled(value)

    return check


@cache
def checker(name: str) -> Check:
    """A function that says whether a value already conforms to the definition, canonical forms included."""
    properties = schema.fields(name)
    return _object_of(properties) if properties else _BY_NAME.get(name, _anything)


# --- the walk ---------------------------------------------------------------------------------------


def conform(obj: dict[str, Any], name: str) -> list[str]:
    """Fit `obj` to the definition, in place; returns strict errors such as `unknown field "spec.foo"`.

    Raises Mismatch for a type that does not fit.
    """
    if checker(name)(obj):
        return []
    walk = _Walk()
    walk.properties(obj, name, "", "")
    return walk.unknown


class _Walk:
    def __init__(self) -> None:
        self.unknown: list[str] = []

    def properties(self, obj: dict[str, Any], name: str, go_path: str, path: str) -> None:
        """`go_path` is dotted without list positions, as in Go's type errors; `path` has them."""
        known = schema.fields(name)
        for field, value in list(obj.items()):
            node = known.get(field)
            where = f"{path}.{field}" if path else field
            if node is None:
                if len(self.unknown) < MAX_STRICT_ERRORS:
                    self.unknown.append(f"unknown field {errors.quote(where)}")
                del obj[field]
            elif value is None:
                del obj[field]
            else:
                inner = f"{go_path}.{field}" if go_path else field
                obj[field] = self.value(value, node, schema.short_name(name), inner, where)

    def value(self, value: Any, node: schema.Node, struct: str, go_path: str, path: str) -> Any:
        name = node.get("$ref")
        if name in schema.OPAQUE:
            return value
        if name is not None and (normalise := _NORMALISED.get(name)):
            return normalise(value)
        if name is not None:
            if value is None:
                value = {}
            if type(value) is not dict:
                raise _wrong(value, struct, go_path, node)
            self.properties(value, name, go_path, path)
            return value
        match node.get("type"):
            case "array":
                return self._items(value, node, struct, go_path, path)
            case "object":
                return self._entries(value, node, struct, go_path, path)
        return _scalar(value, node, struct, go_path)

    def _items(self, value: Any, node: schema.Node, struct: str, go_path: str, path: str) -> Any:
        if type(value) is not list:
            raise _wrong(value, struct, go_path, node)
        item = node.get("items") or {}
        for index, entry in enumerate(value):
            value[index] = self.value(entry, item, struct, go_path, f"{path}[{index}]")
        return value

    def _entries(self, value: Any, node: schema.Node, struct: str, go_path: str, path: str) -> Any:
        if type(value) is not dict:
            raise _wrong(value, struct, go_path, node)
        inner = node.get("additionalProperties")
        if isinstance(inner, dict):
            for key, entry in value.items():
                value[key] = self.value(entry, inner, struct, go_path, f"{path}.{key}")
        return value


_ZERO: dict[str, Any] = {"string": "", "integer": 0, "boolean": False, "number": 0}


def _scalar(value: Any, node: schema.Node, struct: str, go_path: str) -> Any:
    kind = node.get("type") or ""
    if value is None:
        return _ZERO.get(kind)
    match kind:
        case "string":
            fits = type(value) is str
        case "boolean":
            fits = type(value) is bool
        case "integer":
            low, high = INT32 if node.get("format") == "int32" else INT64
            fits = type(value) is int and low <= value <= high
        case "number":
            fits = _number(value)
        case _:
            fits = True
    if not fits:
        raise _wrong(value, struct, go_path, node)
    return _bytes(value) if node.get("format") == "byte" else value


def _normal_quantity(value: Any) -> str:
    if value is None:
        return "0"
    try:
        return quantity.canonical(value.strip() if isinstance(value, str) else value)
    except ValueError as error:
        raise Mismatch(
            "quantities must match the regular expression "
            "'^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
        ) from error


def _normal_int_or_string(value: Any) -> Any:
    if value is None:
        return 0
    if not _int_or_string(value):
        raise Mismatch(
            f"json: cannot unmarshal {described(value, True)} into Go value of type int32"
        )
    return value


def _moment(value: Any, layout: str) -> Any:
    if type(value) is not str:
        text = f"json: cannot unmarshal {described(value, False)} into Go value of type string"
        raise Mismatch(text)
    try:
        if "T" not in value:
            raise ValueError(value)
        return objects.parse_time(value).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        shown = errors.quote(value)
        raise Mismatch(
            f'parsing time {shown} as "{layout}": cannot parse {shown} as "2006"'
        ) from error


def _normal_time(value: Any) -> str | None:
    if value is None:
        return None
    return objects.written_time(_moment(value, "2006-01-02T15:04:05Z07:00"))


def _normal_micro_time(value: Any) -> str | None:
    if value is None:
        return None
    moment = _moment(value, "2006-01-02T15:04:05.000000Z07:00")
    return objects.written_time(moment, "microseconds")


_NORMALISED: dict[str, Callable[[Any], Any]] = {
    schema.QUANTITY: _normal_quantity,
    schema.INT_OR_STRING: _normal_int_or_string,
    schema.TIME: _normal_time,
    schema.MICRO_TIME: _normal_micro_time,
}


def _bytes(value: str) -> str:
    if _base64(value):
        return value
    plain = value.replace("\n", "").replace("\r", "")
    try:
        return b64encode(binascii.a2b_base64(plain, strict_mode=True)).decode()
    except (binascii.Error, ValueError) as error:
        raise Mismatch(f"illegal base64 data at input byte {_bad_base64(plain)}") from error


def _bad_base64(text: str) -> int:
    match = re.match(r"(?:[A-Za-z0-9+/]{4})*[A-Za-z0-9+/]{0,3}", text)
    return match.end() if match else 0


def _wrong(value: Any, struct: str, go_path: str, node: schema.Node) -> Mismatch:
    integer = node.get("type") == "integer"
    return Mismatch(
        f"json: cannot unmarshal {described(value, integer)} into Go struct field "
        f"{struct}.{go_path} of type {_go_type(node)}",
        _unrestored(value, node),
    )


def _unrestored(value: Any, node: schema.Node) -> str:
    found = {dict: "map", list: "slice", str: "string", bool: "bool", int: "int64"}.get(
        type(value), "float64"
    )
    if "$ref" in node:
        return f"cannot restore struct from: {found}"
    match node.get("type"):
        case "array":
            return f"cannot restore slice from {found}"
        case "object":
            return f"cannot restore map from {found}"
    wanted = _go_type(node)
    numbers = ("int64", "float64")
    if found in numbers and (wanted == "string" or wanted.startswith(("int", "float"))):
        return f"cannot convert {found} to {wanted}"
    return f"unrecognized type: {wanted}"


def described(value: Any, wants_integer: bool) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return f"number {value}" if wants_integer else "number"
    return {str: "string", dict: "object", list: "array", type(None): "null"}[type(value)]


def _go_type(node: schema.Node) -> str:
    if name := node.get("$ref"):
        *_, version, short = name.split(".")
        return f"{version}.{short}"
    match node.get("type"):
        case "array":
            return f"[]{_go_type(node.get('items') or {})}"
        case "object":
            inner = node.get("additionalProperties")
            return f"map[string]{_go_type(inner if isinstance(inner, dict) else {})}"
        case "integer":
            return str(node.get("format") or "int64")
        case "boolean":
            return "bool"
        case "number":
            return "float64"
    return "string"
