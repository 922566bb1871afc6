"""The checked tree into Python functions: one closure a node, each given the frame of one evaluation.

Costs are charged as the work is done, before what is large is built; whoever runs out is stopped by BudgetExceeded.
Where the checker left several overloads (dynamic values), the choice is made by the arguments' types and remembered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sampan.kube.cel import cost
from sampan.kube.cel.errors import BudgetExceeded, EvaluationError, no_key, no_overload
from sampan.kube.cel.folds import FOLDS
from sampan.kube.cel.frame import Frame, Step
from sampan.kube.cel.functions import Overload
from sampan.kube.cel.names import unescape
from sampan.kube.cel.tree import (
    Bind,
    Call,
    Const,
    Ident,
    ListNode,
    Macro,
    MapNode,
    Node,
    ObjectNode,
    Select,
)
from sampan.kube.cel.types import is_dyn
from sampan.kube.cel.values import (
    NONE,
    ObjectValue,
    Opaque,
    Optional,
    key,
    unkey,
)

UNBOUND = object()  # the slot of a variable that was not given


def field_of(value: Any, name: str) -> Any:
    """`value.name`. Raises EvaluationError."""
    try:
        return value[name]
    except KeyError:
        original = unescape(name)
        if original != name and original in value:
            return value[original]
        raise no_key(name) from None
    except TypeError:
        if isinstance(value, Optional):
            return _through(value, name)
        raise no_key(name) from None


def _through(value: Any, name: str) -> Optional:
    """`value.?name`, and a selection from an optional."""
    if isinstance(value, Optional):
        if not value.present:
            return NONE
        value = value.value
    if not has_field(value, name):
        return NONE
    return Optional(field_of(value, name))


def has_field(value: Any, name: str) -> bool:
    if isinstance(value, Optional):
        return value.present and has_field(value.value, name)
    return isinstance(value, dict) and (name in value or unescape(name) in value)


class Planner:
    def __init__(self, slot_of: dict[str, int]) -> None:
        self.slot_of = slot_of

    def plan(self, node: Node) -> Step:
        return _PLANS[type(node)](self, node)

    def const(self, node: Const) -> Step:
        value = node.value
        return lambda frame: value

    def slot(self, node: Ident) -> int:
        if node.name.startswith("@"):
            return int(node.name[1:])
        return self.slot_of[node.name]

    def ident(self, node: Ident) -> Step:
        if node.constant is not None:
            constant = node.constant
            return lambda frame: constant
        slot, name = self.slot(node), node.name

        def read(frame: Frame) -> Any:
            frame.cost += 1
            if frame.cost > frame.limit:
                raise BudgetExceeded
            value = frame.slots[slot]
            if value is UNBOUND:
                raise EvaluationError(f"no such attribute(s): {name}")
            return value

        return read

    def select(self, node: Select) -> Step:
        if node.resolved is not None:
            return self.ident(node.resolved)
        if node.test:
            operand, name = self.plan(node.operand), node.raw
            return lambda frame: has_field(operand(frame), name)
        if node.optional:
            operand, name = self.plan(node.operand), node.raw

            def maybe(frame: Frame) -> Optional:
                frame.charge(1)
                return _through(operand(frame), name)

            return maybe
        names = [node.raw]
        below: Node = node.operand
        while (
            isinstance(below, Select)
            and below.resolved is None
            and not below.test
            and not below.optional
        ):
            names.append(below.raw)
            below = below.operand
        names.reverse()
        return self.path(below, tuple(names))

    def path(self, root: Node, names: tuple[str, ...]) -> Step:
        """`root.a.b.c` in one step."""
        units = len(names)
        base = self.plan(root)

        def walk(frame: Frame) -> Any:
            frame.cost += units
            value = base(frame)
            for name in names:
                if type(value) is dict:
                    found = value.get(name, UNBOUND)
                    value = field_of(value, name) if found is UNBOUND else found
                else:
                    value = field_of(value, name)
            return value

        return walk

    # Calls

    def call(self, node: Call) -> Step:
        name = node.function
        if name == "_&&_":
            return _decided(False, [self.plan(each) for each in node.args])
        if name == "_||_":
            return _decided(True, [self.plan(each) for each in node.args])
        args = [self.plan(each) for each in node.args]
        if name == "_?_:_":
            return _choice(*args)
        if name in ("or", "orValue") and len(args) == 2:
            return _otherwise(args[0], args[1], unwrap=name == "orValue")
        price = cost.of_call(name)
        exact = len(node.overloads) == 1 and (
            name in ("_==_", "_!=_")
            or not any(is_dyn(each.type) for each in node.args)
            or all(not kind for kind in node.overloads[0].kinds)
        )
        choose = None if exact else _chooser(node.overloads)
        function = node.overloads[0].implementation
        if len(args) == 2:
            return _binary(args[0], args[1], function, choose, price)

        def apply(frame: Frame) -> Any:
            values = [each(frame) for each in args]
            chosen = function if choose is None else choose(values)
            frame.charge(1 if price is None else price(values))
            return chosen(*values)

        return apply

    # Literals

    def list_literal(self, node: ListNode) -> Step:
        items = [(self.plan(each), index in node.optional) for index, each in enumerate(node.items)]
        if not node.optional:
            plain = [each for each, _ in items]

            def simple(frame: Frame) -> list[Any]:
                frame.charge(cost.LIST)
                return [each(frame) for each in plain]

            return simple

        def build(frame: Frame) -> list[Any]:
            frame.charge(cost.LIST)
            found = []
            for each, optional in items:
                value = each(frame)
                if not optional:
                    found.append(value)
                elif _optional(value).present:
                    found.append(value.value)
            return found

        return build

    def map_literal(self, node: MapNode) -> Step:
        entries = [
            (self.plan(name), self.plan(value), maybe) for name, value, maybe in node.entries
        ]

        def build(frame: Frame) -> dict[Any, Any]:
            frame.charge(cost.MAP)
            found: dict[Any, Any] = {}
            for name, each, optional in entries:
                made = key(name(frame))
                value = each(frame)
                if optional:
                    if not _optional(value).present:
                        continue
                    value = value.value
                if made in found:
                    raise EvaluationError(f"Failed with repeated key: {unkey(made)}")
                found[made] = value
            return found

        return build

    def object_literal(self, node: ObjectNode) -> Step:
        type_name = node.name
        entries = [(field, self.plan(value), maybe) for _, field, value, maybe in node.entries]

        def build(frame: Frame) -> ObjectValue:
            frame.charge(cost.OBJECT)
            found = ObjectValue()
            found.type_name = type_name
            for field, each, optional in entries:
                value = each(frame)
                if optional:
                    if not _optional(value).present:
                        continue
                    value = value.value
                found[field] = value
            return found

        return build

    # Macros

    def macro(self, node: Macro) -> Step:
        range_, body = self.plan(node.range), self.plan(node.body)
        filter_ = self.plan(node.filter) if node.filter is not None else None
        return FOLDS[node.kind](range_, node.slots, filter_, body)

    def bind(self, node: Bind) -> Step:
        value, body, slot, flat = self.plan(node.value), self.plan(node.body), node.slot, node.flat

        def apply(frame: Frame) -> Any:
            frame.charge(1)
            found = _optional(value(frame))
            if not found.present:
                return NONE
            frame.slots[slot] = found.value
            result = body(frame)
            return _optional(result) if flat else Optional(result)

        return apply


def _optional(value: Any) -> Optional:
    if isinstance(value, Optional):
        return value
    raise no_overload()


def _decided(by: bool, operands: list[Step]) -> Step:
    """`&&` is decided by false, `||` by true; what decides wins over an error, an error over the rest."""

    def decide(frame: Frame) -> bool:
        failed: EvaluationError | None = None
        for each in operands:
            try:
                value = each(frame)
            except EvaluationError as error:
                failed = failed or error
                continue
            if value is by:
                return by
            if value is not (not by):
                failed = failed or no_overload()
        if failed is not None:
            raise failed
        return not by

    return decide


def _choice(condition: Step, yes: Step, no: Step) -> Step:
    def choose(frame: Frame) -> Any:
        value = condition(frame)
        if value is True:
            return yes(frame)
        if value is False:
            return no(frame)
        raise no_overload()

    return choose


def _otherwise(first: Step, second: Step, *, unwrap: bool) -> Step:
    def choose(frame: Frame) -> Any:
        frame.charge(1)
        found = _optional(first(frame))
        if found.present:
            return found.value if unwrap else found
        return second(frame) if unwrap else _optional(second(frame))

    return choose


def _chooser(overloads: list[Overload]) -> Callable[[list[Any]], Callable[..., Any]]:
    """By the arguments; what Python's types alone decide is remembered."""
    known: dict[tuple[type, ...], Callable[..., Any]] = {}

    def choose(values: list[Any]) -> Callable[..., Any]:
        mark = tuple(map(type, values))
        found = known.get(mark)
        if found is not None:
            return found
        for overload in overloads:
            if overload.accepts(values):
                if Opaque not in mark and len(known) < 64:
                    known[mark] = overload.implementation
                return overload.implementation
        raise no_overload()

    return choose


def _binary(
    left: Step,
    right: Step,
    function: Callable[..., Any],
    choose: Callable[[list[Any]], Callable[..., Any]] | None,
    price: cost.Cost | None,
) -> Step:
    if choose is None and price is None:

        def direct(frame: Frame) -> Any:
            a, b = left(frame), right(frame)
            frame.cost += 1
            if frame.cost > frame.limit:
                raise BudgetExceeded
            return function(a, b)

        return direct

    def apply(frame: Frame) -> Any:
        values = [left(frame), right(frame)]
        chosen = function if choose is None else choose(values)
        frame.charge(1 if price is None else price(values))
        return chosen(*values)

    return apply


_PLANS: dict[type, Callable[[Planner, Any], Step]] = {
    Const: Planner.const,
    Ident: Planner.ident,
    Select: Planner.select,
    Call: Planner.call,
    ListNode: Planner.list_literal,
    MapNode: Planner.map_literal,
    ObjectNode: Planner.object_literal,
    Macro: Planner.macro,
    Bind: Planner.bind,
}
