"""Semantic versions (https://semver.org 2.0.0): `semver`, `isSemver`, comparison, `major`, `minor`, `patch`."""

from __future__ import annotations

import re
from functools import total_ordering

from sampan.kube.cel.errors import EvaluationError
from sampan.kube.cel.functions import Library, function, method
from sampan.kube.cel.types import BOOL, INT, STRING, opaque
from sampan.kube.cel.values import Opaque

SEMVER = opaque("kubernetes.Semver")
_NUMBER = r"(0|[1-9]\d{0,19})"
_SHAPE = re.compile(
    rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}"
    r"(?:-((?:0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*)(?:\.(?:0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*))*))?"
    r"(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?\Z",
    re.ASCII,
)


@total_ordering
class Version:
    """Ordered by section 11 of the specification; build metadata counts for nothing."""

    __slots__ = ("before", "numbers")

    def __init__(self, numbers: tuple[int, ...], before: str) -> None:
        self.numbers = numbers
        self.before = before

    @property
    def order(self) -> tuple[object, ...]:
        parts = tuple(
            (0, int(each), "") if each.isdigit() else (1, 0, each)
            for each in self.before.split(".")
            if self.before
        )
        return (self.numbers, not self.before, parts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and self.order == other.order

    def __lt__(self, other: Version) -> bool:
        return self.order < other.order

    def __hash__(self) -> int:
        return hash(self.order)


def parse(text: str, normalize: bool = False) -> Opaque:
    shown = text
    if normalize:
        text = _normalized(text)
    match = _SHAPE.match(text)
    if match is None or len(text) > 1000:
        raise EvaluationError(_why(shown if not normalize else text))
    major, minor, patch, before = match.groups()
    return Opaque(SEMVER, Version((int(major), int(minor), int(patch)), before or ""))


def _why(text: str) -> str:
    if not text:
        return "Version string empty"
    if len(text.split(".", 2)) != 3:
        return "No Major.Minor.Patch elements found"
    return f"Invalid character(s) found in version {text!r}"


def _normalized(text: str) -> str:
    parts = text.removeprefix("v").split(".", 2)
    for index, part in enumerate(parts):
        if len(part) > 1:
            stripped = part.lstrip("0")
            parts[index] = stripped if stripped[:1].isdigit() else "0" + stripped
    if len(parts) < 3 and ("+" in parts[-1] or "-" in parts[-1]):
        raise EvaluationError("short version cannot contain PreRelease/Build meta data")
    return ".".join([*parts, "0", "0"][: max(3, len(parts))])


def _is_semver(text: str, normalize: bool = False) -> bool:
    try:
        parse(text, normalize)
    except EvaluationError:
        return False
    return True


def _compare(left: Opaque, right: Opaque) -> int:
    return (left.value > right.value) - (left.value < right.value)


FUNCTIONS: Library = {
    "semver": [
        function("string_to_semver", (STRING,), SEMVER, parse),
        function("string_bool_to_semver", (STRING, BOOL), SEMVER, parse),
    ],
    "isSemver": [
        function("is_semver_string", (STRING,), BOOL, _is_semver),
        function("is_semver_string_bool", (STRING, BOOL), BOOL, _is_semver),
    ],
    "isGreaterThan": [
        method("semver_is_greater_than", (SEMVER, SEMVER), BOOL, lambda a, b: _compare(a, b) > 0)
    ],
    "isLessThan": [
        method("semver_is_less_than", (SEMVER, SEMVER), BOOL, lambda a, b: _compare(a, b) < 0)
    ],
    "compareTo": [method("semver_compare_to", (SEMVER, SEMVER), INT, _compare)],
    "major": [method("semver_major", (SEMVER,), INT, lambda a: a.value.numbers[0])],
    "minor": [method("semver_minor", (SEMVER,), INT, lambda a: a.value.numbers[1])],
    "patch": [method("semver_patch", (SEMVER,), INT, lambda a: a.value.numbers[2])],
}
