"""List functions: Kubernetes' own (isSorted, sum, min, max, indexOf …) and the lists extension, version 3.

https://kubernetes.io/docs/reference/using-api/cel/#kubernetes-list-library
https://pkg.go.dev/github.com/google/cel-go/ext#Lists
"""

from __future__ import annotations

from functools import cmp_to_key
from itertools import pairwise
from typing import Any

from sampan.kube.cel.errors import EvaluationError, no_overload
from sampan.kube.cel.functions import Library, Overload, function, method
from sampan.kube.cel.library.standard import (
    A,
    to_duration,
    to_int,
    to_uint,
)
from sampan.kube.cel.types import (
    BOOL,
    BYTES,
    DOUBLE,
    DURATION,
    DYN,
    INT,
    STRING,
    TIMESTAMP,
    UINT,
    Type,
    list_of,
    optional_of,
)
from sampan.kube.cel.values import NONE, Duration, Optional, UInt, compare, equal

COMPARABLE = (INT, UINT, DOUBLE, BOOL, DURATION, TIMESTAMP, STRING, BYTES)
LIST = list_of(A)
MAX_RANGE = 1_000_000


def _is_sorted(items: list[Any]) -> bool:
    return all(compare(left, right) <= 0 for left, right in pairwise(items))


def _sum(zero: Any) -> Any:
    def total(items: list[Any]) -> Any:
        if isinstance(zero, Duration):
            return to_duration(sum(each.nanos for each in items))
        if isinstance(zero, float):
            return float(sum(items))
        if isinstance(zero, UInt):
            return to_uint(sum(int(each) for each in items))
        return to_int(sum(items))

    return total


def _extreme(name: str, sign: int) -> Any:
    def extreme(items: list[Any]) -> Any:
        if not items:
            raise EvaluationError(f"{name} called on empty list")
        best = items[0]
        for each in items[1:]:
            if compare(each, best) == sign:
                best = each
        return best

    return extreme


def _index_of(items: list[Any], wanted: Any) -> int:
    for index, each in enumerate(items):
        if equal(each, wanted):
            return index
    return -1


def _last_index_of(items: list[Any], wanted: Any) -> int:
    for index in range(len(items) - 1, -1, -1):
        if equal(items[index], wanted):
            return index
    return -1


def _slice(items: list[Any], start: int, end: int) -> list[Any]:
    if start < 0 or end < 0:
        raise EvaluationError(f"cannot slice({start}, {end}), negative indexes not supported")
    if start > end:
        raise EvaluationError(
            f"cannot slice({start}, {end}), start index must be less than or equal to end index"
        )
    if end > len(items):
        raise EvaluationError(f"cannot slice({start}, {end}), list is length {len(items)}")
    return items[start:end]


def _flatten(items: list[Any], depth: int = 1) -> list[Any]:
    if depth < 0:
        raise EvaluationError("level must be non-negative")
    found: list[Any] = []
    for each in items:
        if isinstance(each, list) and depth > 0:
            found += _flatten(each, depth - 1)
        else:
            found.append(each)
    return found


def _range(count: int) -> list[int]:
    if count < 0:
        raise EvaluationError("lists.range: size must be non-negative")
    if count > MAX_RANGE:
        raise EvaluationError(f"lists.range: size exceeds the limit of {MAX_RANGE}")
    return list(range(count))


def _reversed(items: list[Any]) -> list[Any]:
    return items[::-1]


def _distinct(items: list[Any]) -> list[Any]:
    found: list[Any] = []
    seen: set[Any] = set()
    for each in items:
        if isinstance(each, str):
            if each in seen:
                continue
            seen.add(each)
        elif any(equal(each, other) for other in found):
            continue
        found.append(each)
    return found


def _sort(items: list[Any]) -> list[Any]:
    return sort_by(items, items)


def sort_by(items: list[Any], keys: list[Any]) -> list[Any]:
    """The items in the order of their keys, which must be of one comparable type."""
    if keys and any(type(each) is not type(keys[0]) for each in keys):
        raise EvaluationError("list elements must have the same type")
    if keys and isinstance(keys[0], list | dict | Optional):
        raise no_overload()

    def order(left: int, right: int) -> int:
        return compare(keys[left], keys[right])

    return [items[index] for index in sorted(range(len(items)), key=cmp_to_key(order))]


def _first(items: list[Any]) -> Optional:
    return Optional(items[0]) if items else NONE


def _last(items: list[Any]) -> Optional:
    return Optional(items[-1]) if items else NONE


def _each(
    name: str, types: tuple[Type, ...], result: Type | None, implementation: Any
) -> list[Overload]:
    return [
        method(f"list_{each.kind}_{name}", (list_of(each),), result or each, implementation)
        for each in types
    ]


FUNCTIONS: Library = {
    "isSorted": _each("is_sorted_bool", COMPARABLE, BOOL, _is_sorted),
    "sum": [
        method(f"list_{each.kind}_sum", (list_of(each),), each, _sum(zero))
        for each, zero in ((INT, 0), (UINT, UInt(0)), (DOUBLE, 0.0), (DURATION, Duration(0)))
    ],
    "min": _each("min", COMPARABLE, None, _extreme("min", -1)),
    "max": _each("max", COMPARABLE, None, _extreme("max", 1)),
    "indexOf": [method("list_a_index_of_int", (LIST, A), INT, _index_of)],
    "lastIndexOf": [method("list_a_last_index_of_int", (LIST, A), INT, _last_index_of)],
    "slice": [method("list_slice", (LIST, INT, INT), LIST, _slice)],
    "flatten": [
        method("list_flatten", (list_of(LIST),), LIST, _flatten),
        method("list_flatten_int", (list_of(DYN), INT), list_of(DYN), _flatten),
    ],
    "sort": [
        method(f"list_{each.kind}_sort", (list_of(each),), list_of(each), _sort)
        for each in COMPARABLE
    ],
    "lists.range": [function("lists_range", (INT,), list_of(INT), _range)],
    "reverse": [method("list_reverse", (LIST,), LIST, _reversed)],
    "distinct": [method("list_distinct", (LIST,), LIST, _distinct)],
    "first": [method("list_first", (LIST,), optional_of(A), _first)],
    "last": [method("list_last", (LIST,), optional_of(A), _last)],
}
