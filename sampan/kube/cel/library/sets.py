"""The sets extension: https://pkg.go.dev/github.com/google/cel-go/ext#Sets"""

from __future__ import annotations

from typing import Any

from sampan.kube.cel.functions import Library, function
from sampan.kube.cel.library.standard import A, in_list
from sampan.kube.cel.types import BOOL, list_of

LIST = list_of(A)


def _contains(items: list[Any], wanted: list[Any]) -> bool:
    return all(in_list(each, items) for each in wanted)


def _equivalent(left: list[Any], right: list[Any]) -> bool:
    return _contains(left, right) and _contains(right, left)


def _intersects(left: list[Any], right: list[Any]) -> bool:
    return any(in_list(each, right) for each in left)


FUNCTIONS: Library = {
    "sets.contains": [function("list_sets_contains_list", (LIST, LIST), BOOL, _contains)],
    "sets.equivalent": [function("list_sets_equivalent_list", (LIST, LIST), BOOL, _equivalent)],
    "sets.intersects": [function("list_sets_intersects_list", (LIST, LIST), BOOL, _intersects)],
}
