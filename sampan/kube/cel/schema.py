"""Structural schemas (OpenAPI v3 of a CRD) as types, and the JSON of such a schema as values.

Follows apiserver `pkg/cel/common`: what the schema does not name cannot be reached; `date-time`, `date` and `duration` strings
are times, `byte` strings are bytes, a `number` is a double however it is written, int-or-string is dynamic.
Most schemas have none of these: then the JSON itself is the value and nothing is copied (`Type.plain`).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from sampan.kube.cel import moments
from sampan.kube.cel.errors import EvaluationError
from sampan.kube.cel.names import escape
from sampan.kube.cel.types import (
    BOOL,
    BYTES,
    DOUBLE,
    DURATION,
    DYN,
    INT,
    STRING,
    TIMESTAMP,
    Field,
    ListType,
    ObjectType,
    Type,
    list_of,
    map_of,
)
from sampan.kube.cel.values import MapList, Optional, SetList

Schema = Mapping[str, Any]

_FORMATS = {"byte": BYTES, "duration": DURATION, "date": TIMESTAMP, "date-time": TIMESTAMP}
_SIMPLE = {"boolean": BOOL, "number": DOUBLE, "integer": INT}
_META = {"name": {"type": "string"}, "generateName": {"type": "string"}}


class DateType(Type):
    """A timestamp that is written as a date."""

    __slots__ = ()


DATE = DateType("timestamp", "google.protobuf.Timestamp")


def from_schema(schema: Schema, *, root: bool = False, name: str = "object") -> Type:
    """The type of a schema's values; `root` is a whole object, with its apiVersion, kind and metadata.

    A schema that gives no type at all is `dyn`, but as a property it cannot be reached.
    """
    return _type(schema, root, name) or DYN


def _type(schema: Schema, root: bool, name: str) -> Type | None:
    if schema.get("x-kubernetes-int-or-string"):
        return DYN
    kind = schema.get("type")
    if kind == "string":
        found = _FORMATS.get(schema.get("format") or "")
        if found is TIMESTAMP and schema.get("format") == "date":
            return DATE
        return found or STRING
    if kind == "array":
        return _list(schema, name)
    if kind == "object":
        return _object(schema, root or bool(schema.get("x-kubernetes-embedded-resource")), name)
    return _SIMPLE.get(kind or "")


def _list(schema: Schema, name: str) -> Type | None:
    items = schema.get("items")
    if not isinstance(items, Mapping):
        return None
    item = _type(items, False, f"{name}.@idx")
    if item is None:
        return None
    merge = schema.get("x-kubernetes-list-type")
    if merge == "set":
        return ListType(item, "set")
    if merge == "map":
        return ListType(item, "map", tuple(schema.get("x-kubernetes-list-map-keys") or ()))
    return list_of(item)


def _object(schema: Schema, root: bool, name: str) -> Type | None:
    more = schema.get("additionalProperties")
    if isinstance(more, Mapping) and not schema.get("properties"):
        value = _type(more, False, f"{name}.@elem")
        return None if value is None else map_of(STRING, value)
    if more is True and not schema.get("properties"):
        return map_of(STRING, DYN)
    properties: dict[str, Schema] = dict(schema.get("properties") or {})
    if root:
        given = properties.get("metadata") or {}
        properties |= {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {
                "type": "object",
                "properties": {**_META, **(given.get("properties") or {})},
            },
        }
    fields: dict[str, Field] = {}
    for each, inner in properties.items():
        identifier = escape(each)
        if identifier is None:
            continue
        found = _type(inner, False, f"{name}.{each}")
        if found is not None:
            fields[identifier] = Field(each, found)
    return ObjectType(name, fields)


def typed(value: Any, type_: Type) -> Any:
    """JSON as a value of the type. Raises EvaluationError for a string that is no time, or no base64."""
    if type_.plain or value is None:
        return value
    kind = type_.kind
    if isinstance(value, Optional):
        return Optional(typed(value.value, type_.params[0])) if value.present else value
    if isinstance(type_, ObjectType):
        if not isinstance(value, dict):
            return value
        found = dict(value)
        for field in type_.fields.values():
            if not field.type.plain and field.name in found:
                found[field.name] = typed(found[field.name], field.type)
        return found
    if kind == "list" and isinstance(value, list):
        return _typed_list(value, type_)
    if kind == "map" and isinstance(value, dict):
        inner = type_.params[1]
        return {name: typed(each, inner) for name, each in value.items()}
    if kind == "double" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        return _typed_text(value, type_)
    return value


def _typed_list(value: list[Any], type_: Type) -> list[Any]:
    (item,) = type_.params
    items = value if item.plain else [typed(each, item) for each in value]
    if not isinstance(type_, ListType):
        return items
    if type_.merge == "set":
        return SetList(items)
    found = MapList(items)
    found.keys = type_.keys
    return found


def _typed_text(value: str, type_: Type) -> Any:
    if type_.kind == "timestamp":
        return (
            moments.parse_date(value)
            if isinstance(type_, DateType)
            else moments.parse_timestamp(value)
        )
    if type_.kind == "duration":
        return moments.parse_duration(value)
    if type_.kind == "bytes":
        try:
            return base64.b64decode(value, validate=True)
        except binascii.Error:
            raise EvaluationError("failed to decode base64") from None
    return value


def to_json(value: Any) -> Any:
    """A value as JSON, for what an expression writes into an object. Raises EvaluationError for what has no JSON."""
    from sampan.kube.cel.values import Duration, Opaque, Timestamp, UInt, unkey

    if value is None or isinstance(value, bool | str | float):
        return value
    if isinstance(value, UInt | int):
        return int(value)
    if isinstance(value, list):
        return [to_json(each) for each in value]
    if isinstance(value, dict):
        return {str(unkey(name)): to_json(each) for name, each in value.items()}
    if isinstance(value, Timestamp):
        return moments.timestamp_text(value)
    if isinstance(value, Duration):
        return moments.duration_text(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Opaque | Optional | Type):
        raise EvaluationError(f"unsupported type for conversion to JSON: {value!r}")
    raise EvaluationError(f"unsupported type for conversion to JSON: {type(value).__name__}")
