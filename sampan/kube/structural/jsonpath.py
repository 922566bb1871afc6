"""The JSONPath of kubectl and of printer columns, as far as columns use it: one value, or none, read off an object.

    .spec.host   .metadata.labels['a\\.b/c']   .spec.list[0].name   .spec.list[*].name   .spec.list[-1:]
    .status.conditions[?(@.type=="Ready")].status   ..name

https://kubernetes.io/docs/reference/kubectl/jsonpath/
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Final

Step = Callable[[Any], Iterator[Any]]

_NAME: Final = re.compile(r"(?:\\.|[^.\[\]\\])+")
_FILTER: Final = re.compile(r"\s*(.+?)\s*(==|!=|<=|>=|<|>)\s*(.+?)\s*")
_COMPARE: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class JSONPathError(ValueError):
    """The path cannot be read."""


@lru_cache(maxsize=4096)
def compiled(path: str) -> tuple[Step, ...]:
    """Raises JSONPathError."""
    steps: list[Step] = []
    at = 1 if path.startswith("$") else 0
    while at < len(path):
        if path.startswith("..", at):
            found = _NAME.match(path, at + 2)
            name = _plain(found[0]) if found else "*"
            steps += [_everything, _star if name == "*" else _field(name)]
            at = found.end() if found else at + 2
        elif path[at] == ".":
            found = _NAME.match(path, at + 1)
            if found is None:
                if path[at + 1 : at + 2] not in ("", "["):
                    raise JSONPathError(f"unrecognized path {path!r}")
                at += 1
                continue
            name = _plain(found[0])
            steps.append(_star if name == "*" else _field(name))
            at = found.end()
        elif path[at] == "[":
            end = _closing(path, at)
            steps.append(_bracket(path[at + 1 : end], path))
            at = end + 1
        else:
            raise JSONPathError(f"unrecognized path {path!r}")
    return tuple(steps)


def first(obj: Any, path: str) -> tuple[bool, Any]:
    """(was there a value, the first value)."""
    values: Iterator[Any] = iter((obj,))
    for step in compiled(path):
        values = _each(step, values)
    for value in values:
        return True, value
    return False, None


def _each(step: Step, values: Iterator[Any]) -> Iterator[Any]:
    for value in values:
        yield from step(value)


def _plain(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _closing(path: str, at: int) -> int:
    """Where the bracket that opens at `at` closes; quotes may hold brackets."""
    depth, quote = 0, ""
    while at < len(path):
        char = path[at]
        if char == "\\":
            at += 1
        elif quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char == "[":
            depth += 1
        elif char == "]":
            depth -= 1
            if not depth:
                return at
        at += 1
    raise JSONPathError("unterminated array")


def _field(name: str) -> Step:
    def step(value: Any) -> Iterator[Any]:
        if isinstance(value, dict) and name in value:
            yield value[name]

    return step


def _star(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def _everything(value: Any) -> Iterator[Any]:
    yield value
    for each in _star(value):
        yield from _everything(each)


def _bracket(text: str, path: str) -> Step:
    text = text.strip()
    if text.startswith("?(") and text.endswith(")"):
        return _filter(text[2:-1])
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return _field(_plain(text[1:-1]))
    if text == "*":
        return _star
    if re.fullmatch(r"-?\d+", text):
        index = int(text)

        def item(value: Any) -> Iterator[Any]:
            if isinstance(value, list) and -len(value) <= index < len(value):
                yield value[index]

        return item
    if re.fullmatch(r"(?:-?\d+)?:(?:-?\d+)?(?::(?:-?\d+)?)?", text):
        part = slice(*(int(each) if each else None for each in text.split(":")))

        def items(value: Any) -> Iterator[Any]:
            if isinstance(value, list):
                yield from value[part]

        return items
    raise JSONPathError(f"invalid array index {text} in {path!r}")


def _filter(text: str) -> Step:
    found = _FILTER.fullmatch(text)
    if found is None:
        exists = _operand(text.strip())
        return lambda value: (each for each in _star(value) if exists(each)[0])
    left, compare, right = _operand(found[1]), _COMPARE[found[2]], _operand(found[3])

    def step(value: Any) -> Iterator[Any]:
        for each in _star(value):
            (known, one), (other_known, other) = left(each), right(each)
            if known and other_known and type(one) is type(other) and compare(one, other):
                yield each

    return step


def _operand(text: str) -> Callable[[Any], tuple[bool, Any]]:
    if text.startswith("@"):
        path = text[1:]
        compiled(path)
        return lambda value: first(value, path)
    constant: Any
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        constant = _plain(text[1:-1])
    elif text in ("true", "false"):
        constant = text == "true"
    else:
        try:
            constant = float(text) if "." in text else int(text)
        except ValueError:
            raise JSONPathError(f"unrecognized operand {text!r}") from None
    return lambda _value: (True, constant)
