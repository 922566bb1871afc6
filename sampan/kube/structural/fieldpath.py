"""Paths that name one field of a schema: `.spec.replicas`, `.spec['a.b']`. Used by fieldPath of rules and by selectableFields.

`resolve` follows such a path down a schema, as cel.ValidFieldPath of apiextensions does, and says why it cannot.
"""

from __future__ import annotations

import re
from typing import Final

from sampan.kube.structural.node import Raw

_TOKEN: Final = re.compile(r"'(?:[^'\\]|\\.)*'|[.\[\]]|[^.\[\]']+|'")
_ESCAPES: Final = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "'": "'", "\\": "\\"}  # fmt: skip


class PathError(ValueError):
    """The path does not lead to a field of the schema."""


def resolve(path: str, raw: Raw, *, brackets: bool = True) -> tuple[str, Raw]:
    """(the path as field errors write it, without a leading dot; the schema found there). Raises PathError."""
    tokens = _TOKEN.findall(path)
    written = ""
    at = 0
    while at < len(tokens):
        token = tokens[at]
        if token == ".":
            if at + 1 >= len(tokens):
                raise PathError("unexpected end of JSON path")
            name = tokens[at + 1]
            at += 2
        elif token == "[":
            if not brackets:
                raise PathError("array notation is not allowed")
            name = _quoted(tokens, at)
            at += 3
        else:
            raise PathError(f"expected [ or . but got: {token}")
        if raw.get("properties"):
            inner = raw["properties"].get(name)
            written += f".{name}" if written else name
        elif isinstance(raw.get("additionalProperties"), dict):
            inner = raw["additionalProperties"]
            written += f"[{name}]"
        else:
            inner = None
        if inner is None:
            raise PathError("does not refer to a valid field")
        raw = inner
    return written, raw


def _quoted(tokens: list[str], at: int) -> str:
    if at + 1 >= len(tokens):
        raise PathError("unexpected end of JSON path")
    token = tokens[at + 1]
    if len(token) < 2 or token[0] != "'" or token[-1] != "'":
        raise PathError(f"expected single quoted string but got {token}")
    if at + 2 >= len(tokens):
        raise PathError("unexpected end of JSON path")
    if tokens[at + 2] != "]":
        raise PathError(f"expected ] but got {tokens[at + 2]}")

    def plain(found: re.Match[str]) -> str:
        try:
            return _ESCAPES[found[1]]
        except KeyError:
            text = f"invalid string literal: invalid escape char {found[0]}"
            raise PathError(text) from None

    return re.sub(r"\\(.)", plain, token[1:-1])
