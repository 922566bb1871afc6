"""What was written before a rule was made may stay: an update answers for what it makes worse.

A kind's `Rules.kept` names fields by a pattern of their path. A cause found there is dropped when the stored object has such
a cause too: the same at the same place (`in_place`), of the same value (`same`: an address with leading zeros that stands
somewhere in the list already), or any (`anything`): Kubernetes lets all of some fields through once one of their values is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sampan.kube.errors import Cause

Object = dict[str, Any]
Causes = list[Cause]


@dataclass(frozen=True, slots=True)
class Kept:
    path: re.Pattern[str]
    by: Callable[[Cause], object]  # what the old cause and the new one must have in common


def in_place(path: str) -> Kept:
    return Kept(re.compile(path), lambda cause: cause)


def same(path: str) -> Kept:
    return Kept(re.compile(path), lambda cause: cause.message)


def anything(path: str) -> Kept:
    return Kept(re.compile(path), lambda cause: None)


def without_kept(
    causes: Causes, kept: tuple[Kept, ...], old: Object, check: Callable[[Object, Causes], None]
) -> Causes:
    """The causes that the new object answers for. `check` finds those of the stored one, if they matter."""
    if not any(each.path.match(cause.field) for cause in causes for each in kept):
        return causes
    before: Causes = []
    check(old, before)
    for each in kept:
        stood = {each.by(cause) for cause in before if each.path.match(cause.field)}
        causes = [
            cause
            for cause in causes
            if not (each.path.match(cause.field) and each.by(cause) in stood)
        ]
    return causes
