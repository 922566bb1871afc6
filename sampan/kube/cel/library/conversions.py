"""Conversions between types: `int`, `uint`, `double`, `string`, `bytes`, `bool`, `duration`, `timestamp`, `type`."""

from __future__ import annotations

import math
from typing import Any

from sampan.kube.cel import moments
from sampan.kube.cel.errors import EvaluationError
from sampan.kube.cel.functions import Library, function
from sampan.kube.cel.library.standard import A, to_int, to_timestamp, to_uint
from sampan.kube.cel.types import (
    BOOL,
    BYTES,
    DOUBLE,
    DURATION,
    INT,
    STRING,
    TIMESTAMP,
    UINT,
    type_of,
)
from sampan.kube.cel.values import NANO, Timestamp, UInt
from sampan.kube.cel.values import type_of as value_type


def _int_of_double(value: float) -> int:
    if math.isnan(value) or math.isinf(value) or not -(2.0**63) < value < 2.0**63:
        raise EvaluationError("integer overflow")
    return int(value)


def _uint_of_double(value: float) -> UInt:
    if math.isnan(value) or not 0 <= value < 2.0**64:
        raise EvaluationError("unsigned integer overflow")
    return UInt(value)


def _syntax(function_name: str, text: str) -> EvaluationError:
    return EvaluationError(f'strconv.{function_name}: parsing "{text}": invalid syntax')


def _parsed(text: str, function_name: str) -> int:
    digits = text[1:] if text[:1] in ("+", "-") and function_name == "ParseInt" else text
    if not digits.isascii() or not digits.isdigit() or len(digits) > 40:
        raise _syntax(function_name, text)
    value = int(text)
    low, high = (-(1 << 63), 1 << 63) if function_name == "ParseInt" else (0, 1 << 64)
    if not low <= value < high:
        raise EvaluationError(f'strconv.{function_name}: parsing "{text}": value out of range')
    return value


_DOUBLE_CHARACTERS = frozenset("0123456789+-.eE")


def _double_of_string(text: str) -> float:
    lowered = text.lower().lstrip("+-")
    if not _DOUBLE_CHARACTERS.issuperset(text) and lowered not in ("inf", "infinity", "nan"):
        raise _syntax("ParseFloat", text)
    try:
        return float(text)
    except ValueError:
        raise _syntax("ParseFloat", text) from None


_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))


def _bool_of_string(text: str) -> bool:
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise _syntax("ParseBool", text)


def double_text(value: float) -> str:
    """Shortest decimal that reads back the same, as Go's %g writes it."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if value == 0:
        return "-0" if math.copysign(1, value) < 0 else "0"
    sign = "-" if value < 0 else ""
    digits, power = _shortest(abs(value))
    if power < -4 or power >= 6:
        head = digits[0] + ("." + digits[1:] if len(digits) > 1 else "")
        return f"{sign}{head}e{'-' if power < 0 else '+'}{abs(power):02d}"
    if power < 0:
        return f"{sign}0.{'0' * (-power - 1)}{digits}"
    if len(digits) <= power + 1:
        return sign + digits + "0" * (power + 1 - len(digits))
    return f"{sign}{digits[: power + 1]}.{digits[power + 1 :]}"


def _shortest(value: float) -> tuple[str, int]:
    """Significant digits, and the power of ten of the first."""
    mantissa, _, exponent = repr(value).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = whole + fraction
    power = int(exponent or 0) + len(whole) - 1 - (len(digits) - len(digits.lstrip("0")))
    return digits.strip("0"), power


def _text_of_bytes(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise EvaluationError("invalid UTF-8 in bytes, cannot convert to string") from None


def _bool_text(value: bool) -> str:
    return "true" if value else "false"


def _same(value: Any) -> Any:
    return value


FUNCTIONS: Library = {
    "int": [
        function("int64_to_int64", (INT,), INT, _same),
        function("uint64_to_int64", (UINT,), INT, lambda a: to_int(int(a))),
        function("double_to_int64", (DOUBLE,), INT, _int_of_double),
        function("string_to_int64", (STRING,), INT, lambda a: _parsed(a, "ParseInt")),
        function("timestamp_to_int64", (TIMESTAMP,), INT, lambda a: a.nanos // NANO),
        function("duration_to_int64", (DURATION,), INT, lambda a: a.nanos),
    ],
    "uint": [
        function("uint64_to_uint64", (UINT,), UINT, _same),
        function("int64_to_uint64", (INT,), UINT, to_uint),
        function("double_to_uint64", (DOUBLE,), UINT, _uint_of_double),
        function("string_to_uint64", (STRING,), UINT, lambda a: UInt(_parsed(a, "ParseUint"))),
    ],
    "double": [
        function("double_to_double", (DOUBLE,), DOUBLE, _same),
        function("int64_to_double", (INT,), DOUBLE, float),
        function("uint64_to_double", (UINT,), DOUBLE, float),
        function("string_to_double", (STRING,), DOUBLE, _double_of_string),
    ],
    "string": [
        function("string_to_string", (STRING,), STRING, _same),
        function("bool_to_string", (BOOL,), STRING, _bool_text),
        function("int64_to_string", (INT,), STRING, str),
        function("uint64_to_string", (UINT,), STRING, lambda a: str(int(a))),
        function("double_to_string", (DOUBLE,), STRING, double_text),
        function("bytes_to_string", (BYTES,), STRING, _text_of_bytes),
        function("timestamp_to_string", (TIMESTAMP,), STRING, moments.timestamp_text),
        function("duration_to_string", (DURATION,), STRING, moments.duration_text),
    ],
    "bytes": [
        function("bytes_to_bytes", (BYTES,), BYTES, _same),
        function("string_to_bytes", (STRING,), BYTES, str.encode),
    ],
    "bool": [
        function("bool_to_bool", (BOOL,), BOOL, _same),
        function("string_to_bool", (STRING,), BOOL, _bool_of_string),
    ],
    "duration": [
        function("duration_to_duration", (DURATION,), DURATION, _same),
        function("string_to_duration", (STRING,), DURATION, moments.parse_duration),
    ],
    "timestamp": [
        function("timestamp_to_timestamp", (TIMESTAMP,), TIMESTAMP, _same),
        function("string_to_timestamp", (STRING,), TIMESTAMP, moments.parse_timestamp),
        function(
            "int64_to_timestamp",
            (INT,),
            TIMESTAMP,
            lambda a: Timestamp(to_timestamp(a * NANO).nanos),
        ),
    ],
    "type": [function("type", (A,), type_of(A), value_type)],
}
