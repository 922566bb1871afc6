"""The syntax tree: what the parser makes, the checker annotates and the planner turns into functions.

`position` is the character that messages point at: the dot of a selection, the parenthesis of a call, the operator.
Macros are nodes of their own, so that a fold is a loop and not an interpreted accumulator.
"""

from __future__ import annotations

from typing import Any

from sampan.kube.cel.types import DYN, Type


class Node:
    __slots__ = ("position", "type")

    def __init__(self, position: int) -> None:
        self.position = position
        self.type: Type = DYN


class Const(Node):
    __slots__ = ("value",)

    def __init__(self, position: int, value: Any) -> None:
        super().__init__(position)
        self.value = value


class Ident(Node):
    """`name` may become a dotted one when the checker finds a variable or type of that name."""

    __slots__ = ("constant", "name")

    def __init__(self, position: int, name: str) -> None:
        super().__init__(position)
        self.name = name
        self.constant: Any = None  # a type's name stands for the type


class Select(Node):
    """`a.b`, `a.?b`, and with `test`, `has(a.b)`. `resolved` is set when the whole chain names something."""

    __slots__ = ("field", "operand", "optional", "raw", "resolved", "test")

    def __init__(
        self,
        position: int,
        operand: Node,
        field: str,
        *,
        test: bool = False,
        optional: bool = False,
    ) -> None:
        super().__init__(position)
        self.operand = operand
        self.field = field
        self.raw = field
        self.test = test
        self.optional = optional
        self.resolved: Ident | None = None


class Call(Node):
    __slots__ = ("args", "function", "overloads", "target")

    def __init__(self, position: int, function: str, target: Node | None, args: list[Node]) -> None:
        super().__init__(position)
        self.function = function
        self.target = target
        self.args = args
        self.overloads: list[Any] = []


class ListNode(Node):
    __slots__ = ("items", "optional")

    def __init__(self, position: int, items: list[Node], optional: set[int]) -> None:
        super().__init__(position)
        self.items = items
        self.optional = optional


class MapNode(Node):
    """Entries are (key, value, whether `?key`)."""

    __slots__ = ("entries",)

    def __init__(self, position: int, entries: list[tuple[Node, Node, bool]]) -> None:
        super().__init__(position)
        self.entries = entries


class ObjectNode(Node):
    """`Name{field: value}`; entries are (position, field, value, whether `?field`)."""

    __slots__ = ("entries", "name")

    def __init__(
        self, position: int, name: str, entries: list[tuple[int, str, Node, bool]]
    ) -> None:
        super().__init__(position)
        self.name = name
        self.entries = entries


class Macro(Node):
    """A comprehension: `names` run over `range_`; `filter_` and `body` see them."""

    __slots__ = ("body", "filter", "kind", "names", "range", "slots")

    def __init__(
        self,
        position: int,
        kind: str,
        range_: Node,
        names: tuple[str, ...],
        filter_: Node | None,
        body: Node,
    ) -> None:
        super().__init__(position)
        self.kind = kind
        self.range = range_
        self.names = names
        self.filter = filter_
        self.body = body
        self.slots: tuple[int, ...] = ()


class Bind(Node):
    """`optMap` and `optFlatMap`: `body` with `name` bound to what the optional holds."""

    __slots__ = ("body", "flat", "name", "slot", "value")

    def __init__(self, position: int, value: Node, name: str, body: Node, *, flat: bool) -> None:
        super().__init__(position)
        self.value = value
        self.name = name
        self.body = body
        self.flat = flat
        self.slot = -1
