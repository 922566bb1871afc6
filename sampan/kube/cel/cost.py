"""What a call costs at run time, before it is made: in cel-go's and Kubernetes' units, by function or overload.

A unit is about one step of the interpreter; text is a tenth of a unit a character. Where Kubernetes reckons less than what
has to be built (joining, replacing, formatting, comparing whole objects), the size of that is charged here, so that
the budget bounds memory too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from sampan.kube.cel.values import Opaque, size

PER_CALL = 1_000_000  # of one expression
PER_REQUEST = 10_000_000  # of all rules on one object
PER_MATCH = 2_500_000  # of the match conditions of one webhook or policy
LIST, MAP, OBJECT = 10, 30, 40  # creating one
TEXT = 0.1  # a character

Cost = Callable[[list[Any]], int]


def _text(factor: float = TEXT) -> Cost:
    return lambda args: math.ceil(size(args[0]) * factor)


def _one(args: list[Any]) -> int:
    return 1


def nodes(value: Any, limit: int = 1 << 24) -> int:
    """How many values there are in one, text counted as more."""
    if isinstance(value, str | bytes):
        return 1 + len(value) // 8
    if isinstance(value, dict):
        return 1 + sum(nodes(each) + 1 for each in value.values())
    if isinstance(value, list):
        return 1 + sum(nodes(each) for each in value)
    return 1


def _equals(args: list[Any]) -> int:
    left, right = args
    if isinstance(left, Opaque):
        return 1
    smaller = math.ceil(min(size(left), size(right)) * TEXT)
    if isinstance(left, list | dict) and type(left) is type(right) and len(left) == len(right):
        return max(smaller, nodes(left) // 2)
    return smaller


def _in(args: list[Any]) -> int:
    item, holder = args
    if isinstance(holder, dict):
        return 1
    if isinstance(item, list | dict):
        return len(holder) + nodes(holder) // 2
    return len(holder)


def _pattern(args: list[Any]) -> int:
    return math.ceil((1 + size(args[0])) * TEXT) * math.ceil(size(args[1]) * 0.25)


def _contains(args: list[Any]) -> int:
    return math.ceil(size(args[0]) * TEXT) * math.ceil(size(args[1]) * TEXT)


def _add(args: list[Any]) -> int:
    total = size(args[0]) + size(args[1])
    if isinstance(args[0], str | bytes):
        return math.ceil(total * TEXT)
    return 1 + int(total * TEXT) if isinstance(args[0], list) else 1


def _traversal(args: list[Any]) -> int:
    return _walk(args[0])


def _walk(value: Any) -> int:
    if isinstance(value, str | bytes):
        return int(len(value) * TEXT)
    if isinstance(value, list):
        return sum(map(_walk, value))
    if isinstance(value, dict):
        return sum(_walk(name) + _walk(each) for name, each in value.items())
    return 1


def _join(args: list[Any]) -> int:
    items, separator = args[0], args[1] if len(args) > 1 else ""
    return math.ceil((sum(map(size, items)) + size(separator) * len(items)) * 2 * TEXT)


def _replace(args: list[Any]) -> int:
    text, old, new = args[:3]
    made = len(text) + (text.count(old) if old else len(text) + 1) * max(len(new) - len(old), 0)
    return max(math.ceil(len(text) * 2 * TEXT), math.ceil(made * TEXT))


def _format(args: list[Any]) -> int:
    return math.ceil(size(args[0]) * TEXT) + math.ceil(_written(args[1]) * TEXT)


def _written(value: Any) -> int:
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, list):
        return sum(map(_written, value))
    if isinstance(value, dict):
        return sum(_written(name) + _written(each) for name, each in value.items())
    return 0


def _selector(args: list[Any]) -> int:
    length = size(args[1])
    return LIST + math.ceil(length * TEXT) + math.ceil(math.ceil(length * 0.5) * (LIST + OBJECT))


def _validate(args: list[Any]) -> int:
    return math.ceil((1 + size(args[1])) * TEXT) * math.ceil(args[0].value.pattern_size * 0.25)


def _product(args: list[Any]) -> int:
    return 1 + len(args[0]) * len(args[1])


def _twice_product(args: list[Any]) -> int:
    return 1 + 2 * len(args[0]) * len(args[1])


def _length(args: list[Any]) -> int:
    return 1 + len(args[0])


def _sort(args: list[Any]) -> int:
    return 1 + math.ceil(len(args[0]) * math.log2(len(args[0]) + 1)) + _walk(args[0])


def _distinct(args: list[Any]) -> int:
    items = args[0]
    if all(isinstance(each, str) for each in items):
        return 1 + len(items)
    return 1 + len(items) ** 2 + len(items) * nodes(items) // 2


def _contains_ip(args: list[Any]) -> int:
    return math.ceil(2 * size(args[0]) * TEXT) + (
        math.ceil(len(args[1]) * TEXT) if isinstance(args[1], str) else 0
    )


def _index_of(args: list[Any]) -> int:
    if isinstance(args[0], str):
        return max(int(len(args[0]) * TEXT), 1) * max(math.ceil(size(args[1]) * TEXT), 1)
    return _traversal(args) + (
        math.ceil(nodes(args[1]) * TEXT) if isinstance(args[1], list | dict) else 0
    )


COSTS: dict[str, Cost] = {
    "_==_": _equals,
    "_!=_": _equals,
    "_+_": _add,
    "@in": _in,
    **dict.fromkeys(
        ("_<_", "_<=_", "_>_", "_>=_"),
        lambda args: math.ceil(min(size(args[0]), size(args[1])) * TEXT),
    ),
    "matches": _pattern,
    "find": _pattern,
    "findAll": lambda args: _pattern(args) + 2 * len(args[0]),
    "contains": _contains,
    **dict.fromkeys(("startsWith", "endsWith", "bytes", "strings.quote"), _text()),
    "check": lambda args: 350_000,
    **dict.fromkeys(("fieldSelector", "labelSelector"), _selector),
    **dict.fromkeys(("isSorted", "sum", "max", "min"), _traversal),
    **dict.fromkeys(("indexOf", "lastIndexOf"), _index_of),
    **dict.fromkeys(
        ("url", "isURL", "lowerAscii", "upperAscii", "substring", "trim", "jsonpatch.escapeKey"),
        _text(),
    ),
    "replace": _replace,
    "split": _text(2 * TEXT),
    "join": _join,
    "format": _format,
    **dict.fromkeys(
        ("ip", "cidr", "isIP", "isCIDR", "quantity", "isQuantity", "semver", "isSemver"), _text()
    ),
    "ip.isCanonical": _text(2 * TEXT),
    "containsIP": _contains_ip,
    "containsCIDR": lambda args: _contains_ip(args) + math.ceil(size(args[0]) * TEXT) + 1,
    "validate": _validate,
    "sets.contains": _product,
    "sets.intersects": _product,
    "sets.equivalent": _twice_product,
    **dict.fromkeys(("reverse", "unwrapOpt", "optional.unwrap"), _length),
    "slice": lambda args: 1 + max(args[2] - args[1], 0) if args[2] <= len(args[0]) else 1,
    "flatten": lambda args: nodes(args[0]),
    "lists.range": lambda args: 1 + max(args[0], 0),
    "sort": _sort,
    "distinct": _distinct,
}


def of_call(function: str) -> Cost | None:
    """None: one unit, whatever the arguments."""
    return COSTS.get(function)
