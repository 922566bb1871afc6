"""The strings extension, version 2: https://pkg.go.dev/github.com/google/cel-go/ext#Strings"""

from __future__ import annotations

import math
from typing import Any

from sampan.kube.cel import moments
from sampan.kube.cel.errors import EvaluationError
from sampan.kube.cel.functions import Library, function, method
from sampan.kube.cel.library.conversions import double_text
from sampan.kube.cel.types import DYN, INT, STRING, Type, list_of
from sampan.kube.cel.values import (
    Duration,
    Timestamp,
    UInt,
    type_of,
    unkey,
)

STRINGS = list_of(STRING)
_ASCII_SPACE = "\t\n\v\f\r \u0085\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
_UPPER = {code: code - 32 for code in range(ord("a"), ord("z") + 1)}
_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


def _out_of_range(index: int) -> EvaluationError:
    return EvaluationError(f"index out of range: {index}")


def _char_at(text: str, index: int) -> str:
    if not 0 <= index <= len(text):
        raise _out_of_range(index)
    return text[index : index + 1]


def _index_of(text: str, part: str, start: int = 0) -> int:
    if start < 0 or (start > len(text) and part):
        raise _out_of_range(start)
    return start if not part else text.find(part, start)


def _last_index_of(text: str, part: str, last: int | None = None) -> int:
    if last is not None and not 0 <= last < max(len(text), 1):
        raise _out_of_range(last)
    if not part:
        return len(text) if last is None else last
    return text.rfind(part) if last is None else text.rfind(part, 0, last + len(part))


def _replace(text: str, old: str, new: str, count: int = -1) -> str:
    return text.replace(old, new, count if count >= 0 else -1)


def _split(text: str, separator: str, limit: int = -1) -> list[str]:
    if limit == 0:
        return []
    if limit == 1:
        return [text]
    if separator:
        return text.split(separator, limit - 1 if limit > 0 else -1)
    characters = list(text)
    if 0 < limit < len(characters):
        return [*characters[: limit - 1], "".join(characters[limit - 1 :])]
    return characters


def _substring(text: str, start: int, end: int | None = None) -> str:
    if not 0 <= start <= len(text):
        raise _out_of_range(start)
    if end is None:
        return text[start:]
    if not 0 <= end <= len(text):
        raise _out_of_range(end)
    if start > end:
        raise EvaluationError(f"invalid substring range. start: {start}, end: {end}")
    return text[start:end]


def _join(items: list[Any], separator: str = "") -> str:
    if not all(type(each) is str for each in items):
        raise EvaluationError("no such overload")
    return separator.join(items)


_QUOTED = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    "\\": "\\\\",
    '"': '\\"',
}


def quote(text: str) -> str:
    return '"' + "".join(_QUOTED.get(each, each) for each in text) + '"'


# format


def _format(template: str, args: list[Any]) -> str:
    parts: list[str] = []
    at, used = 0, 0
    while True:
        percent = template.find("%", at)
        if percent < 0:
            parts.append(template[at:])
            break
        parts.append(template[at:percent])
        at = percent + 1
        if template[at : at + 1] == "%":
            parts.append("%")
            at += 1
            continue
        precision: int | None = None
        if template[at : at + 1] == ".":
            end = at + 1
            while end < len(template) and template[end] in "0123456789":
                end += 1
            if end == at + 1 or end - at > 4 or int(template[at + 1 : end]) > 100:
                raise EvaluationError("could not parse formatting clause: invalid precision")
            precision, at = int(template[at + 1 : end]), end
        clause = template[at : at + 1]
        at += 1
        if not clause:
            raise EvaluationError("could not parse formatting clause: unexpected end of string")
        if clause not in _CLAUSES:
            raise EvaluationError(
                f'could not parse formatting clause: unrecognized formatting clause "{clause}"'
            )
        if used >= len(args):
            raise EvaluationError(f"index {used} out of range")
        parts.append(_CLAUSES[clause](args[used], precision))
        used += 1
    return "".join(parts)


def _wrong(clause: str, wanted: str, value: Any) -> EvaluationError:
    return EvaluationError(
        f"error during formatting: {clause} clause can only be used on {wanted}, was given {type_of(value)}"
    )


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _string_clause(value: Any, precision: int | None = None) -> str:
    kind = type(value)
    if kind is str:
        return str(value)
    if kind is bool:
        return "true" if value else "false"
    if kind in (int, UInt):
        return str(int(value))
    if kind is float:
        return (
            double_text(value)
            if not math.isinf(value)
            else ("Infinity" if value > 0 else "-Infinity")
        )
    if value is None:
        return "null"
    if kind is bytes:
        return str(value.decode("utf-8", "replace"))
    if kind is Duration:
        return moments.duration_text(value)
    if kind is Timestamp:
        return moments.timestamp_text(value)
    if isinstance(value, list):
        return "[" + ", ".join(_string_clause(each) for each in value) + "]"
    if isinstance(value, dict):
        entries = sorted(
            (_string_clause(unkey(name)), _string_clause(each)) for name, each in value.items()
        )
        return "{" + ", ".join(f"{name}: {each}" for name, each in entries) + "}"
    if isinstance(value, Type):
        return str(value)
    raise _wrong(
        "string",
        "strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps",
        value,
    )


def _special(value: float) -> str | None:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return None


def _decimal_clause(value: Any, precision: int | None) -> str:
    if _is_int(value):
        return str(int(value))
    if isinstance(value, float) and _special(value):
        return _special(value) or ""
    raise _wrong("decimal", "integers", value)


def _fixed_clause(value: Any, precision: int | None) -> str:
    if not _is_int(value) and not isinstance(value, float):
        raise _wrong("fixed-point", "doubles", value)
    return _special(value) or f"{float(value):.{6 if precision is None else precision}f}"


def _exponent_clause(value: Any, precision: int | None) -> str:
    if not _is_int(value) and not isinstance(value, float):
        raise _wrong("scientific", "doubles", value)
    return _special(value) or f"{float(value):.{6 if precision is None else precision}e}"


def _binary_clause(value: Any, precision: int | None) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    if not _is_int(value):
        raise _wrong("only integers and bools can be formatted as binary;", "integers", value)
    return f"{int(value):b}"


def _octal_clause(value: Any, precision: int | None) -> str:
    if not _is_int(value):
        raise _wrong("octal", "integers", value)
    return f"{int(value):o}"


def _hex_clause(value: Any, precision: int | None) -> str:
    if isinstance(value, str):
        return value.encode().hex()
    if isinstance(value, bytes):
        return value.hex()
    if not _is_int(value):
        raise _wrong("hex", "integers, byte buffers, and strings", value)
    return f"{int(value):x}"


_CLAUSES = {
    "s": _string_clause,
    "d": _decimal_clause,
    "f": _fixed_clause,
    "e": _exponent_clause,
    "b": _binary_clause,
    "o": _octal_clause,
    "x": _hex_clause,
    "X": lambda value, precision: _hex_clause(value, precision).upper(),
}

FUNCTIONS: Library = {
    "charAt": [method("string_char_at_int", (STRING, INT), STRING, _char_at)],
    "indexOf": [
        method("string_index_of_string", (STRING, STRING), INT, _index_of),
        method("string_index_of_string_int", (STRING, STRING, INT), INT, _index_of),
    ],
    "lastIndexOf": [
        method("string_last_index_of_string", (STRING, STRING), INT, _last_index_of),
        method("string_last_index_of_string_int", (STRING, STRING, INT), INT, _last_index_of),
    ],
    "join": [
        method("list_join", (STRINGS,), STRING, _join),
        method("list_join_string", (STRINGS, STRING), STRING, _join),
    ],
    "lowerAscii": [method("string_lower_ascii", (STRING,), STRING, lambda a: a.translate(_LOWER))],
    "upperAscii": [method("string_upper_ascii", (STRING,), STRING, lambda a: a.translate(_UPPER))],
    "replace": [
        method("string_replace_string_string", (STRING, STRING, STRING), STRING, _replace),
        method("string_replace_string_string_int", (STRING, STRING, STRING, INT), STRING, _replace),
    ],
    "split": [
        method("string_split_string", (STRING, STRING), STRINGS, _split),
        method("string_split_string_int", (STRING, STRING, INT), STRINGS, _split),
    ],
    "substring": [
        method("string_substring_int", (STRING, INT), STRING, _substring),
        method("string_substring_int_int", (STRING, INT, INT), STRING, _substring),
    ],
    "trim": [method("string_trim", (STRING,), STRING, lambda a: a.strip(_ASCII_SPACE))],
    "format": [method("string_format_list_string", (STRING, list_of(DYN)), STRING, _format)],
    "strings.quote": [function("strings_quote", (STRING,), STRING, quote)],
}
