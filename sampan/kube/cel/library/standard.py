"""Operators, `size`, `in`, indexing and the string predicates of the language itself.

https://github.com/google/cel-spec/blob/master/doc/langdef.md#list-of-standard-definitions
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from sampan.kube.cel.errors import EvaluationError, no_key
from sampan.kube.cel.functions import Library, function, method
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
    list_of,
    map_of,
    param,
)
from sampan.kube.cel.values import (
    Duration,
    Timestamp,
    UInt,
    compare,
    equal,
    joined,
    key,
)

A, B = param("A"), param("B")
LIST, MAP = list_of(A), map_of(A, B)
_LOW, _HIGH = -(1 << 63), 1 << 63
FIRST_TIME, LAST_TIME = -62135596800 * 10**9, 253402300799 * 10**9 + 999_999_999


def to_int(value: int) -> int:
    if _LOW <= value < _HIGH:
        return value
    raise EvaluationError("integer overflow")


def to_uint(value: int) -> UInt:
    if 0 <= value < 1 << 64:
        return UInt(value)
    raise EvaluationError("unsigned integer overflow")


def to_duration(nanos: int) -> Duration:
    if _LOW <= nanos < _HIGH:
        return Duration(nanos)
    raise EvaluationError("duration overflow")


def to_timestamp(nanos: int) -> Timestamp:
    if FIRST_TIME <= nanos <= LAST_TIME:
        return Timestamp(nanos)
    raise EvaluationError("timestamp overflow")


def _int_divide(left: int, right: int) -> int:
    if right == 0:
        raise EvaluationError("division by zero")
    found = abs(left) // abs(right)
    return to_int(found if (left < 0) == (right < 0) else -found)


def _int_modulo(left: int, right: int) -> int:
    if right == 0:
        raise EvaluationError("modulus by zero")
    if left == _LOW and right == -1:
        raise EvaluationError("integer overflow")
    found = abs(left) % abs(right)
    return found if left >= 0 else -found


def _uint_divide(left: int, right: int) -> UInt:
    if right == 0:
        raise EvaluationError("division by zero")
    return UInt(left // right)


def _uint_modulo(left: int, right: int) -> UInt:
    if right == 0:
        raise EvaluationError("modulus by zero")
    return UInt(left % right)


def _divide(left: float, right: float) -> float:
    if right == 0:
        if left == 0 or math.isnan(left):
            return math.nan
        return math.copysign(math.inf, left) * math.copysign(1, right)
    return left / right


def _multiply(left: float, right: float) -> float:
    return left * right


def in_list(item: Any, items: list[Any]) -> bool:
    if type(item) is str:
        return item in items  # a str equals nothing but a str
    return any(equal(item, each) for each in items)


def in_map(item: Any, entries: dict[Any, Any]) -> bool:
    try:
        return key(item) in entries
    except EvaluationError:
        return False


def at_index(items: list[Any], index: Any) -> Any:
    if type(index) is float and index.is_integer():
        index = int(index)
    if not isinstance(index, int) or isinstance(index, bool):
        raise EvaluationError(f"unsupported index type '{type(index).__name__}' in list")
    if 0 <= index < len(items):
        return items[index]
    raise EvaluationError(f"index out of bounds: {index}")


def at_key(entries: dict[Any, Any], name: Any) -> Any:
    try:
        return entries[key(name)]
    except KeyError:
        raise no_key(name) from None


def _ordering(op: str, test: Callable[[int], bool]) -> list[Any]:
    def ordered(left: Any, right: Any) -> bool:
        # NaN is on no side of anything.
        if left != left or right != right:  # noqa: PLR0124
            return False
        return test(compare(left, right))

    same = (BOOL, INT, UINT, DOUBLE, STRING, BYTES, TIMESTAMP, DURATION)
    pairs = [(each, each) for each in same]
    numbers = (INT, UINT, DOUBLE)
    pairs += [(left, right) for left in numbers for right in numbers if left is not right]
    return [
        function(
            f"{op}_{left.kind}" + (f"_{right.kind}" if left is not right else ""),
            pair,
            BOOL,
            ordered,
        )
        for pair in pairs
        for left, right in [pair]
    ]


FUNCTIONS: Library = {
    "_+_": [
        function("add_int64", (INT, INT), INT, lambda a, b: to_int(a + b)),
        function("add_uint64", (UINT, UINT), UINT, lambda a, b: to_uint(int(a) + int(b))),
        function("add_double", (DOUBLE, DOUBLE), DOUBLE, lambda a, b: a + b),
        function("add_string", (STRING, STRING), STRING, lambda a, b: a + b),
        function("add_bytes", (BYTES, BYTES), BYTES, lambda a, b: a + b),
        function("add_list", (LIST, LIST), LIST, joined),
        function(
            "add_duration_duration",
            (DURATION, DURATION),
            DURATION,
            lambda a, b: to_duration(a.nanos + b.nanos),
        ),
        function(
            "add_timestamp_duration",
            (TIMESTAMP, DURATION),
            TIMESTAMP,
            lambda a, b: to_timestamp(a.nanos + b.nanos),
        ),
        function(
            "add_duration_timestamp",
            (DURATION, TIMESTAMP),
            TIMESTAMP,
            lambda a, b: to_timestamp(a.nanos + b.nanos),
        ),
    ],
    "_-_": [
        function("subtract_int64", (INT, INT), INT, lambda a, b: to_int(a - b)),
        function("subtract_uint64", (UINT, UINT), UINT, lambda a, b: to_uint(int(a) - int(b))),
        function("subtract_double", (DOUBLE, DOUBLE), DOUBLE, lambda a, b: a - b),
        function(
            "subtract_duration_duration",
            (DURATION, DURATION),
            DURATION,
            lambda a, b: to_duration(a.nanos - b.nanos),
        ),
        function(
            "subtract_timestamp_duration",
            (TIMESTAMP, DURATION),
            TIMESTAMP,
            lambda a, b: to_timestamp(a.nanos - b.nanos),
        ),
        function(
            "subtract_timestamp_timestamp",
            (TIMESTAMP, TIMESTAMP),
            DURATION,
            lambda a, b: to_duration(a.nanos - b.nanos),
        ),
    ],
    "_*_": [
        function("multiply_int64", (INT, INT), INT, lambda a, b: to_int(a * b)),
        function("multiply_uint64", (UINT, UINT), UINT, lambda a, b: to_uint(int(a) * int(b))),
        function("multiply_double", (DOUBLE, DOUBLE), DOUBLE, _multiply),
    ],
    "_/_": [
        function("divide_int64", (INT, INT), INT, _int_divide),
        function("divide_uint64", (UINT, UINT), UINT, _uint_divide),
        function("divide_double", (DOUBLE, DOUBLE), DOUBLE, _divide),
    ],
    "_%_": [
        function("modulo_int64", (INT, INT), INT, _int_modulo),
        function("modulo_uint64", (UINT, UINT), UINT, _uint_modulo),
    ],
    "-_": [
        function("negate_int64", (INT,), INT, lambda a: to_int(-a)),
        function("negate_double", (DOUBLE,), DOUBLE, lambda a: -a),
    ],
    "!_": [function("logical_not", (BOOL,), BOOL, lambda a: not a)],
    "_==_": [function("equals", (A, A), BOOL, equal)],
    "_!=_": [function("not_equals", (A, A), BOOL, lambda a, b: not equal(a, b))],
    "_<_": _ordering("less", lambda found: found < 0),
    "_<=_": _ordering("less_equals", lambda found: found <= 0),
    "_>_": _ordering("greater", lambda found: found > 0),
    "_>=_": _ordering("greater_equals", lambda found: found >= 0),
    "@in": [
        function("in_list", (A, LIST), BOOL, in_list),
        function("in_map", (A, MAP), BOOL, in_map),
    ],
    "_[_]": [
        function("index_list", (LIST, INT), A, at_index),
        function("index_map", (MAP, A), B, at_key),
    ],
    "size": [
        each
        for make, suffix in ((function, ""), (method, "_member"))
        for each in (
            make(f"size_string{suffix}", (STRING,), INT, len),
            make(f"size_bytes{suffix}", (BYTES,), INT, len),
            make(f"size_list{suffix}", (LIST,), INT, len),
            make(f"size_map{suffix}", (MAP,), INT, len),
        )
    ],
    "contains": [method("contains_string", (STRING, STRING), BOOL, lambda a, b: b in a)],
    "startsWith": [method("starts_with_string", (STRING, STRING), BOOL, str.startswith)],
    "endsWith": [method("ends_with_string", (STRING, STRING), BOOL, str.endswith)],
    "dyn": [function("to_dyn", (A,), DYN, lambda a: a)],
}
