"""JSON inside of fields (registry credentials, old annotations), with the words that Go's encoding/json has for what is wrong.

Messages of Kubernetes quote them: `unexpected end of JSON input`, `invalid character 'x' looking for beginning of value`.
"""

from __future__ import annotations

import json
from typing import Any, Final

import orjson

# What Python's decoder says, and where Go says that it was.
_PLACES: Final = {
    "Expecting value": "looking for beginning of value",
    "Extra data": "after top-level value",
    "Expecting property name enclosed in double quotes": "looking for beginning of object key string",
    "Illegal trailing comma before end of object": "looking for beginning of object key string",
    "Expecting ':' delimiter": "after object key",
    "Invalid control character at": "in string literal",
    "Invalid \\escape": "in string escape code",
    "Invalid \\uXXXX escape": "in \\u hexadecimal character escape",
}
_KINDS: Final = {list: "array", str: "string", bool: "bool", int: "number", float: "number"}


def object_error(data: bytes) -> str:
    """What is wrong with a text that should be an object or null; "" when nothing is."""
    try:
        load(data)
    except ValueError as error:
        return str(error)
    return ""


def load(data: bytes) -> dict[str, Any] | None:
    """Raises ValueError in Go's words."""
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise ValueError(_worded(data.decode("utf-8", "replace"))) from None
    if found is None or isinstance(found, dict):
        return found
    kind = _KINDS[type(found)]
    raise ValueError(
        f"json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"
    )


def _worded(text: str) -> str:
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        at = error.pos + (error.msg == "Invalid \\escape")
        if at >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
            return "unexpected end of JSON input"
        place = _PLACES.get(error.msg) or _after(text[:at])
        return f"invalid character {_quoted(text[at])} {place}"
    return "invalid JSON"


def _after(text: str) -> str:
    """A comma is missing: in a list or in an object?"""
    depth, quoted = 0, False
    for index in range(len(text) - 1, -1, -1):
        char = text[index]
        if char == '"':
            escapes = len(text[:index]) - len(text[:index].rstrip("\\"))
            quoted ^= escapes % 2 == 0
        elif not quoted and char in "]}":
            depth += 1
        elif not quoted and char in "[{":
            if depth == 0:
                return "after array element" if char == "[" else "after object key:value pair"
            depth -= 1
    return "after top-level value"


def _quoted(char: str) -> str:
    if char == "'":
        return "'\\''"
    return "'\"'" if char == '"' else f"'{json.dumps(char, ensure_ascii=False)[1:-1]}'"
