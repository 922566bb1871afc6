"""The OpenAPI v2 document as protobuf (`application/com.github.proto-openapi.spec.v2@v1.0+protobuf`).

kubectl and helm ask for this form and no other, for instance when they validate a `kind: List`. The messages are those of
google/gnostic-models, openapiv2/OpenAPIv2.proto: nearly the JSON document, except that a JSON map is a repeated pair, a
choice is wrapped in a message of its own, and what the messages do not know (`x-kubernetes-*`) goes as YAML text, of
which JSON is a subset. Field numbers below are from there.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson

CONTENT_TYPE = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"

Message = Mapping[str, Any]
Encode = Callable[[Any], bytes]


def encode(document: Message) -> bytes:
    return _message(document, DOCUMENT, 16)


# The wire: https://protobuf.dev/programming-guides/encoding


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _block(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _flag(number: int, value: bool) -> bytes:
    return _varint(number << 3) + b"\x01" if value else b""


def _integer(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value & (1 << 64) - 1)


def _double(number: int, value: float) -> bytes:
    return _varint(number << 3 | 1) + struct.pack("<d", value)


def _message(value: Message, fields: Mapping[str, Field], extension: int) -> bytes:
    """`fields` says how each key is written; any other key is an extension."""
    parts = []
    for key, content in value.items():
        field = fields.get(key)
        if field is not None:
            number, write = field
            parts.append(write(number, content))
        elif extension:
            parts.append(_block(extension, _named(key, _any(content))))
    return b"".join(parts)


def _text(number: int, value: str) -> bytes:
    return _block(number, value.encode())


def _texts(number: int, values: Iterable[str]) -> bytes:
    return b"".join(_text(number, value) for value in values)


def _named(name: str, value: bytes) -> bytes:
    """NamedAny, NamedSchema and their like: one entry of a map."""
    return _text(1, name) + _block(2, value)


def _any(value: Any) -> bytes:
    return _block(2, orjson.dumps(value) + b"\n")


def _one(make: Encode) -> Write:
    return lambda number, value: _block(number, make(value))


def _each(make: Encode) -> Write:
    return lambda number, values: b"".join(_block(number, make(value)) for value in values)


def _map(make: Encode, entry: int = 1) -> Write:
    """A message that holds nothing but a map's entries."""
    return lambda number, values: _block(
        number, b"".join(_block(entry, _named(key, make(value))) for key, value in values.items())
    )


# The messages


def _schema(value: Message) -> bytes:
    return _message(value, SCHEMA, 31)


def _extra_properties(value: Any) -> bytes:
    return _flag(2, value) if isinstance(value, bool) else _block(1, _schema(value))


def _type(value: str | list[str]) -> bytes:
    return _texts(1, [value] if isinstance(value, str) else value)


def _items(value: Message) -> bytes:
    return _block(1, _schema(value))


def _parameter(value: Message) -> bytes:
    """ParametersItem > Parameter > BodyParameter, or NonBodyParameter > what its place asks for."""
    if value["in"] == "body":
        return _block(1, _block(1, _message(value, BODY, 6)))
    number, fields, extension = PLACES[value["in"]]
    return _block(1, _block(2, _block(number, _message(value, fields, extension))))


def _primitive_items(value: Message) -> bytes:
    return _message(value, {"type": (1, _text), "format": (2, _text)}, 18)


def _response(value: Message) -> bytes:
    return _block(1, _message(value, RESPONSE, 5))


def _operation(value: Message) -> bytes:
    return _message(value, OPERATION, 13)


def _path(value: Message) -> bytes:
    return _message(value, PATH, 10)


def _security_definition(value: Message) -> bytes:
    return _block(2, _message(value, API_KEY, 5))


def _requirement(value: Mapping[str, list[str]]) -> bytes:
    return b"".join(_block(1, _named(name, _texts(1, scopes))) for name, scopes in value.items())


Write = Callable[[int, Any], bytes]
Field = tuple[int, Write]

INFO: dict[str, Field] = {"title": (1, _text), "version": (2, _text), "description": (3, _text)}
DOCUMENT: dict[str, Field] = {
    "swagger": (1, _text),
    "info": (2, _one(lambda value: _message(value, INFO, 7))),
    "paths": (8, _map(_path, entry=2)),
    "definitions": (9, _map(_schema)),
    "security": (12, _each(_requirement)),
    "securityDefinitions": (13, _map(_security_definition)),
}
PATH: dict[str, Field] = {
    **{
        method: (number, _one(_operation))
        for number, method in enumerate(
            ("get", "put", "post", "delete", "options", "head", "patch"), start=2
        )
    },
    "parameters": (9, _each(_parameter)),
}
OPERATION: dict[str, Field] = {
    "tags": (1, _texts),
    "description": (3, _text),
    "operationId": (5, _text),
    "produces": (6, _texts),
    "consumes": (7, _texts),
    "parameters": (8, _each(_parameter)),
    "responses": (
        9,
        lambda number, values: _block(
            number, b"".join(_block(1, _named(k, _response(v))) for k, v in values.items())
        ),
    ),
    "schemes": (10, _texts),
}
RESPONSE: dict[str, Field] = {
    "description": (1, _text),
    "schema": (2, _one(lambda value: _block(1, _schema(value)))),
}
BODY: dict[str, Field] = {
    "description": (1, _text),
    "name": (2, _text),
    "in": (3, _text),
    "required": (4, _flag),
    "schema": (5, _one(_schema)),
}
_QUERY: dict[str, Field] = {
    "required": (1, _flag),
    "in": (2, _text),
    "description": (3, _text),
    "name": (4, _text),
    "type": (6, _text),
    "format": (7, _text),
    "items": (8, _one(_primitive_items)),
    "uniqueItems": (20, _flag),
}
_PATH_PARAMETER: dict[str, Field] = {
    "required": (1, _flag),
    "in": (2, _text),
    "description": (3, _text),
    "name": (4, _text),
    "type": (5, _text),
    "format": (6, _text),
    "items": (7, _one(_primitive_items)),
    "uniqueItems": (19, _flag),
}
PLACES = {"query": (3, _QUERY, 23), "path": (4, _PATH_PARAMETER, 22)}
API_KEY: dict[str, Field] = {"type": (1, _text), "name": (2, _text), "in": (3, _text)}
SCHEMA: dict[str, Field] = {
    "$ref": (1, _text),
    "format": (2, _text),
    "title": (3, _text),
    "description": (4, _text),
    "default": (5, _one(_any)),
    "multipleOf": (6, _double),
    "maximum": (7, _double),
    "exclusiveMaximum": (8, _flag),
    "minimum": (9, _double),
    "exclusiveMinimum": (10, _flag),
    "maxLength": (11, _integer),
    "minLength": (12, _integer),
    "pattern": (13, _text),
    "maxItems": (14, _integer),
    "minItems": (15, _integer),
    "uniqueItems": (16, _flag),
    "maxProperties": (17, _integer),
    "minProperties": (18, _integer),
    "required": (19, _texts),
    "enum": (20, _each(_any)),
    "additionalProperties": (21, _one(_extra_properties)),
    "type": (22, _one(_type)),
    "items": (23, _one(_items)),
    "allOf": (24, _each(_schema)),
    "properties": (25, _map(_schema)),
}
