"""Protobuf bodies into objects: what kubectl's typed commands (`create deployment`, `auth can-i`, `drain`) and Go clients send.

A body is `k8s\\0` and a runtime.Unknown that names the kind and holds the message (apimachinery, runtime/serializer/protobuf).
Field numbers come from a generated table, read at the first such body. Only reading is needed: every such client accepts
JSON in return. Go writes fields that are not pointers even when they are empty; those are left out here, as JSON does.

Raises ValueError for bytes that are not such a message.
"""

from __future__ import annotations

import base64
import gzip
import struct
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Any

import orjson

from sampan.kube import objects, schema
from sampan.kube.types import GVK

MAGIC = b"k8s\x00"
MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
MAX_DEPTH = 128

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_DROPPED: Any = object()

Field = tuple[str, str]  # JSON name, type


def decode(body: bytes, expected: GVK) -> dict[str, Any]:
    """The object that an enveloped body holds, with apiVersion and kind set."""
    if not body.startswith(MAGIC):
        raise ValueError(
            "provided data does not appear to be a protobuf message, expected prefix 6b 38 73 00"
        )
    api_version = kind = ""
    raw = b""
    for number, wire, value in _fields(memoryview(body)[len(MAGIC) :]):
        if wire != _BYTES:
            continue
        if number == 1:
            texts = {n: bytes(v).decode() for n, w, v in _fields(value) if w == _BYTES}
            api_version, kind = texts.get(1, ""), texts.get(2, "")
        elif number == 2:
            raw = bytes(value)
        elif number == 3 and bytes(value):
            raise ValueError("a content encoding inside of the message is not supported")
    group, _, version = api_version.rpartition("/")
    gvk = GVK(group, version, kind) if kind else expected
    name = schema.for_gvk(gvk)
    if kind == "DeleteOptions":
        name = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"
    if name is None or name not in _table():
        raise ValueError(f'no kind "{kind}" is registered for version "{api_version}"')
    found = _message(memoryview(raw), name, 0)
    return {"apiVersion": gvk.api_version, "kind": gvk.kind, **found}


@cache
def _table() -> dict[str, bytes]:
    packed = resources.files(__name__).joinpath("v1.36.jsonl.gz").read_bytes()
    lines = gzip.decompress(packed).split(b"\n")
    return {name.decode(): row for name, _, row in (line.partition(b"\t") for line in lines)}


@cache
def _fields_of(name: str) -> dict[int, Field]:
    return {number: (json_name, kind) for number, json_name, kind in orjson.loads(_table()[name])}


def _fields(data: memoryview) -> Iterator[tuple[int, int, Any]]:
    """(field number, wire type, value) of each field."""
    position, end = 0, len(data)
    while position < end:
        key, position = _varint(data, position)
        wire = key & 7
        value: Any
        if wire == _VARINT:
            value, position = _varint(data, position)
        elif wire == _BYTES:
            size, position = _varint(data, position)
            if position + size > end:
                raise ValueError("unexpected end of the message")
            value = data[position : position + size]
            position += size
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
            if position + size > end:
                raise ValueError("unexpected end of the message")
            value = bytes(data[position : position + size])
            position += size
        else:
            raise ValueError(f"wire type {wire} is not known")
        yield key >> 3, wire, value


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(data) or shift > 63:
            raise ValueError("a number is cut off")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _message(data: memoryview, name: str, depth: int) -> dict[str, Any]:
    if depth > MAX_DEPTH:
        raise ValueError("the message is nested too deeply")
    fields = _fields_of(name)
    found: dict[str, Any] = {}
    for number, wire, value in _fields(data):
        field = fields.get(number)
        if field is None:
            continue
        json_name, kind = field
        pointer = kind.startswith("*")
        if pointer:
            kind = kind[1:]
        if not json_name:  # embedded in Go, spread out in JSON
            found.update(_message(_bytes(value, wire), kind, depth + 1))
        elif kind[0] == "[":
            items = _packed(value) if wire == _BYTES and kind[1:] == "i" else None
            found.setdefault(json_name, []).extend(
                items if items is not None else [_value(value, wire, kind[1:], depth)]
            )
        elif kind[0] == "{":
            key, item = _entry(_bytes(value, wire), kind[1:], depth)
            found.setdefault(json_name, {})[key] = item
        else:
            decoded = _value(value, wire, kind, depth)
            if pointer or not _empty(decoded):
                if decoded is not None:
                    found[json_name] = decoded
    return found


def _empty(value: Any) -> bool:
    return value is None or value is False or value in ("", 0, 0.0, {})


def _bytes(value: Any, wire: int) -> memoryview:
    if wire != _BYTES:
        raise ValueError("a field has another wire type than its message says")
    return value  # type: ignore[no-any-return]


def _packed(value: memoryview) -> list[int]:
    numbers, position = [], 0
    while position < len(value):
        number, position = _varint(value, position)
        numbers.append(_signed(number))
    return numbers


def _entry(data: memoryview, kind: str, depth: int) -> tuple[str, Any]:
    """One entry of a map with string keys: 1 is the key, 2 the value."""
    key, found = "", _DROPPED
    for number, wire, value in _fields(data):
        if number == 1:
            key = bytes(_bytes(value, wire)).decode()
        elif number == 2:
            found = _value(value, wire, kind, depth)
    if found is _DROPPED:
        found = (
            []
            if kind[0] == "@"
            else ""
            if kind in "sy"
            else _value(memoryview(b""), _BYTES, kind, depth)
        )
    return key, found


def _value(value: Any, wire: int, kind: str, depth: int) -> Any:
    if kind == "i":
        if wire != _VARINT:
            raise ValueError("a number has another wire type")
        return _signed(value)
    if kind == "b":
        return bool(value)
    if kind == "f":
        if wire == _FIXED64:
            return struct.unpack("<d", value)[0]
        return struct.unpack("<f", value)[0]
    data = _bytes(value, wire)
    if kind == "s":
        return bytes(data).decode()
    if kind == "y":
        return base64.b64encode(data).decode()
    if kind[0] == "@":  # a list inside of a map or list is a message of its own
        return [_value(v, w, kind[1:], depth) for n, w, v in _fields(data) if n == 1]
    own = _OWN.get(kind)
    if own is not None:
        return own({number: item for number, _, item in _fields(data)})
    found = _message(data, kind, depth + 1)
    choose = _UNIONS.get(kind)
    return choose(found) if choose else found


def _signed(number: int) -> int:
    return number - (1 << 64) if number >= 1 << 63 else number


def _text(fields: dict[int, Any], number: int) -> str:
    found = fields.get(number, b"")
    if isinstance(found, int):
        raise ValueError("text has another wire type")
    return bytes(found).decode()


def _number(fields: dict[int, Any], number: int) -> int:
    found = fields.get(number, 0)
    if not isinstance(found, int):
        raise ValueError("a number has another wire type")
    return _signed(found)


def _moment(fields: dict[int, Any]) -> datetime | None:
    """None for Go's zero time, which is an empty message."""
    if not fields:
        return None
    try:
        return datetime.fromtimestamp(_number(fields, 1), UTC)
    except (OverflowError, OSError) as error:
        raise ValueError("a time is out of range") from error


def _time(fields: dict[int, Any]) -> str | None:
    moment = _moment(fields)
    return objects.written_time(moment) if moment else None


def _micro_time(fields: dict[int, Any]) -> str | None:
    moment = _moment(fields)
    if moment is None:
        return None
    return f"{objects.written_time(moment)[:-1]}.{_number(fields, 2) // 1000:06d}Z"


def _int_or_string(fields: dict[int, Any]) -> int | str:
    return _text(fields, 3) if _number(fields, 1) == 1 else _number(fields, 2)


def _duration(fields: dict[int, Any]) -> str:
    nanoseconds = _number(fields, 1)
    return f"{nanoseconds / 1e9:g}s"


def _raw(fields: dict[int, Any]) -> Any:
    text = bytes(fields.get(1, b""))
    try:
        return orjson.loads(text) if text else None
    except orjson.JSONDecodeError as error:
        raise ValueError(f"embedded JSON: {error}") from error


_OWN: dict[str, Any] = {
    "Quantity": lambda fields: _text(fields, 1),
    "IntOrString": _int_or_string,
    "Time": _time,
    "MicroTime": _micro_time,
    "Duration": _duration,
    "Raw": _raw,
}

# What JSON writes as one of two shapes has a field for each here (apiextensions/v1, marshal.go).
_SCHEMA_OR = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOr"
_UNIONS: dict[str, Callable[[dict[str, Any]], Any]] = {
    _SCHEMA_OR + "Bool": lambda found: found.get("schema", found.get("allows", False)),
    _SCHEMA_OR + "Array": lambda found: found.get("schema", found.get("jSONSchemas", [])),
    _SCHEMA_OR + "StringArray": lambda found: found.get("schema", found.get("property", [])),
}
