"""Tables of validation: an object that is right, one thing changed, and the causes that this must give."""

from __future__ import annotations

import copy
import re
from itertools import pairwise
from typing import Any

from sampan.kube import defaulting, validation
from sampan.kube.errors import Cause
from sampan.kube.types import GVK

Object = dict[str, Any]
REQUIRED, INVALID, UNSUPPORTED, FORBIDDEN, DUPLICATE, LONG, MANY, TYPE, ABSENT = (
    "FieldValueRequired", "FieldValueInvalid", "FieldValueNotSupported", "FieldValueForbidden",
    "FieldValueDuplicate", "FieldValueTooLong", "FieldValueTooMany", "FieldValueTypeInvalid", "FieldValueNotFound",
)  # fmt: skip
GONE: Any = object()  # the value of a field that is taken away
_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]|\[([^\]]+)\]")

# What is changed (path → value), and what must be found (field, reason). No causes: it is allowed.
Row = tuple[Object, list[tuple[str, str]]]


def changed(obj: Object, changes: Object) -> Object:
    """The object with these paths (`spec.containers[0].image`, `metadata.labels[a.b/c]`) set, or GONE."""
    new = copy.deepcopy(obj)
    for path, value in changes.items():
        steps: list[Any] = [name or key or int(index) for name, index, key in _STEP.findall(path)]
        at: Any = new
        for step, following in pairwise(steps):
            if isinstance(step, int):
                while len(at) <= step:
                    at.append({})
                at = at[step]
            else:
                at = at.setdefault(step, [] if isinstance(following, int) else {})
        last = steps[-1]
        if value is GONE:
            at.pop(last, None)
        elif isinstance(last, int) and last == len(at):
            at.append(copy.deepcopy(value))
        else:
            at[last] = copy.deepcopy(value)
    return new


def gvk_of(obj: Object) -> GVK:
    group, _, version = obj["apiVersion"].rpartition("/")
    return GVK(group, version, obj["kind"])


def defaulted(obj: Object) -> Object:
    new = copy.deepcopy(obj)
    defaulting.default(gvk_of(new), new)
    return new


def of_create(base: Object, changes: Object) -> list[Cause]:
    new = changed(base, changes)
    return validation.validate_create(gvk_of(base), defaulted(new))


def of_update(base: Object, changes: Object, subresource: str = "") -> list[Cause]:
    old = defaulted(changed(base, {"metadata.resourceVersion": "1", "metadata.uid": "u"}))
    new = defaulted(changed(old, changes))
    return validation.validate_update(gvk_of(base), new, old, subresource)


def check(rows: list[Row], found: Any, base: Object) -> None:
    """Every row of a table; all that are wrong are told at once."""
    wrong = []
    for changes, expected in rows:
        causes = found(base, changes)
        seen = sorted((cause.field, cause.reason) for cause in causes)
        if seen != sorted(expected):
            wrong.append(f"{changes}\n  expected {sorted(expected)}\n  found    {causes}")
    assert not wrong, "\n".join(wrong)
