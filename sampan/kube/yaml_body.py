"""A YAML request body as plain JSON values, safely.

Composed to nodes by libyaml, then built by hand, because each of these is a way to hurt a server: aliases that expand
without bound (every built value counts against a budget that grows with the body, not with the aliases), an anchor
inside itself and deep nesting (depth is bounded), and YAML 1.1 readings that the API does not have (dates stay strings,
`22:22` is no number). Duplicate keys are reported, not lost.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

import yaml

MAX_DEPTH: Final = 200
MAX_EXPANSION: Final = 20  # values built for each node written, at most

_STRING = "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"
_BASES = {"0x": 16, "0o": 8, "0b": 2}
_BOOLS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


class YAMLError(ValueError):
    """The body is no YAML, or none that a server should expand."""


class _Loader(yaml.CSafeLoader):
    """libyaml, with the scalar readings that Kubernetes' YAML has."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


def _resolver(tag: str, pattern: str, first: str) -> None:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(pattern), list(first))


_resolver(
    "bool",
    r"^(?:[yY]es|YES|[nN]o|NO|[tT]rue|TRUE|[fF]alse|FALSE|[oO]n|ON|[oO]ff|OFF)$",
    "yYnNtTfFoO",
)
_resolver("int", r"^[-+]?(?:0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)$", "-+0123456789")
_resolver(
    "float",
    r"^[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$",
    "-+.0123456789",
)
_resolver("merge", r"^<<$", "<")
_resolver("null", r"^(?:~|null|Null|NULL|)$", "~nN")
_Loader.yaml_implicit_resolvers[""] = [("tag:yaml.org,2002:null", re.compile("^$"))]


def parse(body: bytes) -> tuple[Any, list[str]]:
    """The document's value, and a strict error for every key given twice. Raises YAMLError."""
    try:
        _refuse_depth(body)
        loader = _Loader(body)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
    except (yaml.YAMLError, UnicodeError) as error:
        raise YAMLError(f"yaml: {' '.join(str(error).split())}") from error
    if node is None:
        return None, []
    builder = _Builder(budget=1_000 + MAX_EXPANSION * len(body))
    value = builder.build(node, 0)
    strict = []
    if builder.duplicates:
        strict.append("yaml: unmarshal errors:\n" + "\n".join(builder.duplicates))
    return value, strict


def _refuse_depth(body: bytes) -> None:
    """libyaml composes nodes by recursion in C and overflows the stack; its events come in a flat loop."""
    depth = 0
    for event in yaml.parse(body, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise YAMLError("yaml: exceeded max depth")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


class _Builder:
    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.duplicates: list[str] = []

    def build(self, node: yaml.Node, depth: int) -> Any:
        self.budget -= 1
        if self.budget < 0:
            raise YAMLError("yaml: document contains excessive aliasing")
        if depth > MAX_DEPTH:
            raise YAMLError("yaml: exceeded max depth")
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, depth + 1) for item in node.value]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, depth)
        return _scalar(node)

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                for value in self._merged(value_node, depth):
                    merged = value | merged
                continue
            key = _key(key_node)
            if key in own:
                line = key_node.start_mark.line + 1
                self.duplicates.append(f"  line {line}: key {_quoted(key)} already set in map")
            own[key] = self.build(value_node, depth + 1)
        return merged | own if merged else own

    def _merged(self, node: yaml.Node, depth: int) -> list[dict[str, Any]]:
        value = self.build(node, depth + 1)
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(item, dict) for item in values):
            raise YAMLError("yaml: map merge requires map or sequence of maps as the value")
        return values


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _key(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise YAMLError("yaml: invalid map key")
    value = _scalar(node)
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _scalar(node: yaml.Node) -> Any:
    text: str = node.value
    try:
        match node.tag.rpartition(":")[2]:
            case "null":
                return None
            case "bool":
                return _BOOLS[text.lower()]
            case "int":
                return _integer(text)
            case "float":
                return _float(text)
    except (ValueError, KeyError) as error:
        raise YAMLError(f"yaml: cannot decode {_quoted(text)} as {node.tag}") from error
    return text


def _integer(text: str) -> int | float:
    plain = text.replace("_", "").lower()
    sign, digits = (-1, plain[1:]) if plain.startswith("-") else (1, plain.lstrip("+"))
    if base := _BASES.get(digits[:2]):
        return sign * int(digits[2:], base)
    if len(digits) > 1 and digits.startswith("0"):
        return sign * int(digits, 8)
    if len(digits) > 400:
        raise ValueError(text)
    value = sign * int(digits)
    return value if -(2**63) <= value < 2**64 else float(value)


def _float(text: str) -> float:
    value = float(
        text.replace("_", "").replace(".inf", "inf").replace(".Inf", "inf").replace(".nan", "nan")
    )
    if not math.isfinite(value):
        raise ValueError(text)
    return value
