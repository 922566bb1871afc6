"""Functions: a name, its overloads, and which of them fits. The libraries (`library/`) are tables of these.

The checker picks overloads by static types; where those are not known (`dyn`) the planner picks again by the values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from sampan.kube.cel.types import Type
from sampan.kube.cel.values import Opaque, Optional, kind_of

Implementation = Callable[..., Any]


class Overload:
    """One signature. `member` ones are called as `params[0].name(…)`."""

    __slots__ = ("id", "implementation", "kinds", "member", "params", "result")

    def __init__(
        self,
        id_: str,
        params: Sequence[Type],
        result: Type,
        implementation: Implementation,
        *,
        member: bool = False,
    ) -> None:
        self.id = id_
        self.params = tuple(params)
        self.result = result
        self.implementation = implementation
        self.member = member
        self.kinds = tuple(_kind(each) for each in self.params)

    def accepts(self, args: Sequence[Any]) -> bool:
        """Do these values fit?"""
        if len(args) != len(self.kinds):
            return False
        for kind, value in zip(self.kinds, args, strict=True):
            if kind and kind != _value_kind(value):
                return False
        return True


def _kind(type_: Type) -> str:
    """What a value must be to fit a parameter; "" is anything."""
    if type_.kind in ("dyn", "param"):
        return ""
    return type_.name if type_.kind in ("opaque",) else type_.kind


def _value_kind(value: Any) -> str:
    if isinstance(value, Opaque):
        return value.type.name
    if isinstance(value, Optional):
        return "optional_type"
    kind = kind_of(value)
    return kind


def function(
    id_: str, params: Sequence[Type], result: Type, implementation: Implementation
) -> Overload:
    return Overload(id_, params, result, implementation)


def method(
    id_: str, params: Sequence[Type], result: Type, implementation: Implementation
) -> Overload:
    return Overload(id_, params, result, implementation, member=True)


Library = dict[str, list[Overload]]


@lru_cache(maxsize=1)
def registry() -> Library:
    """Every function of the language and of the Kubernetes libraries, by name."""
    from sampan.kube.cel import library

    found: Library = {}
    for each in library.all_libraries():
        for name, overloads in each.items():
            found.setdefault(name, []).extend(overloads)
    return found
