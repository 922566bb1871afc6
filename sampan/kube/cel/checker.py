"""Type check: every node gets its type, every call its overloads, every name its variable. As cel-go's checker does it.

Type parameters are unified in one table; what stays open at the end is `dyn`. All faults are collected, so that a
user sees them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sampan.kube.cel import moments
from sampan.kube.cel.errors import CompileError, EvaluationError, Issue
from sampan.kube.cel.functions import Overload, registry
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
from sampan.kube.cel.types import (
    BOOL,
    DYN,
    ERROR,
    INT,
    TYPE_NAMES,
    DynamicObject,
    ObjectType,
    Type,
    assignable,
    is_dyn,
    list_of,
    map_of,
    optional_of,
    param,
    substituted,
    type_of,
)

# The type of an object literal's name, None when there is none.
ObjectTypes = Callable[[str], Type | None]


def no_objects(name: str) -> Type | None:
    return None


class Checker:
    """One expression. `slots` afterwards is how many variables a frame holds, the given ones first."""

    def __init__(self, source: str, variables: Mapping[str, Type], objects: ObjectTypes) -> None:
        self.source = source
        self.variables = variables
        self.objects = objects
        self.slots = len(variables)
        self.slot_of = {name: index for index, name in enumerate(variables)}
        self.issues: list[Issue] = []
        self.used: set[str] = set()
        self.scopes: list[dict[str, tuple[Type, int]]] = []
        self.bound: dict[str, Type] = {}
        self.fresh = 0

    def run(self, root: Node) -> Type:
        """The type of the whole. Raises CompileError."""
        try:
            self.check(root)
            if not self.issues:
                self.finish(root)
        except RecursionError:
            self.issues.append(Issue(-1, "expression recursion limit exceeded"))
        if self.issues:
            raise CompileError(self.source, self.issues)
        return root.type

    def fault(self, position: int, message: str) -> Type:
        self.issues.append(Issue(position, message))
        return ERROR

    def undeclared(self, position: int, name: str) -> Type:
        return self.fault(position, f"undeclared reference to '{name}' (in container '')")

    def variable(self) -> Type:
        self.fresh += 1
        return param(f"_var{self.fresh}")

    def shown(self, type_: Type) -> str:
        return str(substituted(type_, self.bound, rest=DYN))

    def settled(self, type_: Type) -> Type:
        return substituted(type_, self.bound)

    def check(self, node: Node) -> Type:
        kind = type(node)
        if kind is Const:
            return node.type
        found = _CHECKS[kind](self, node)
        node.type = found
        return found

    # Names

    def scoped(self, name: str) -> tuple[Type, int] | None:
        for scope in reversed(self.scopes):
            found = scope.get(name)
            if found is not None:
                return found
        return None

    def named(self, name: str) -> tuple[Type, Any] | None:
        """The declared variable or type that a (dotted) name stands for."""
        name = name.removeprefix(".")
        declared = self.variables.get(name)
        if declared is not None:
            return declared, None
        found = TYPE_NAMES.get(name)
        return (type_of(found), found) if found is not None else None

    def ident(self, node: Ident) -> Type:
        local = self.scoped(node.name)
        if local is not None:
            node.constant = None
            node.name = f"@{local[1]}"
            return local[0]
        found = self.named(node.name)
        if found is None:
            return self.undeclared(node.position, node.name)
        node.name = node.name.removeprefix(".")
        node.constant = found[1]
        if found[1] is None:
            self.used.add(node.name)
        return found[0]

    def dotted(self, node: Node) -> str | None:
        """`a.b.c` as one name, unless `a` is a variable of a macro."""
        if isinstance(node, Ident):
            return None if self.scoped(node.name) or node.name.startswith("@") else node.name
        if isinstance(node, Select) and not node.test and not node.optional:
            before = self.dotted(node.operand)
            return None if before is None else f"{before}.{node.field}"
        return None

    def select(self, node: Select) -> Type:
        if not node.test and not node.optional:
            name = self.dotted(node)
            found = self.named(name) if name is not None else None
            if found is not None and name is not None:
                node.resolved = Ident(node.position, name.removeprefix("."))
                node.resolved.type, node.resolved.constant = found
                if found[1] is None:
                    self.used.add(node.resolved.name)
                return found[0]
        operand = self.settled(self.check(node.operand))
        wrapped = node.optional
        if operand.name == "optional_type" and operand.kind == "opaque":
            operand, wrapped = self.settled(operand.params[0]), True
        found_type = self.field_type(node, operand)
        if node.test:
            return BOOL
        return optional_of(found_type) if wrapped and found_type is not ERROR else found_type

    def field_type(self, node: Select, operand: Type) -> Type:
        if isinstance(operand, ObjectType):
            field = operand.fields.get(node.field)
            if field is None:
                return self.fault(node.position, f"undefined field '{node.field}'")
            node.raw = field.name
            return field.type
        if isinstance(operand, DynamicObject) or is_dyn(operand) or operand.kind == "param":
            return DYN
        if operand.kind == "map":
            return operand.params[1]
        return self.fault(
            node.position, f"type '{self.shown(operand)}' does not support field selection"
        )

    # Calls

    def call(self, node: Call) -> Type:
        name = node.function
        if name in ("_&&_", "_||_"):
            return self.logical(node)
        if name == "_?_:_":
            return self.conditional(node)
        qualified = None
        if node.target is not None and name not in _OPERATORS:
            before = self.dotted(node.target)
            if before is not None and f"{before}.{name}".removeprefix(".") in registry():
                qualified = f"{before}.{name}".removeprefix(".")
        for arg in node.args:
            self.check(arg)
        if qualified is not None:
            node.function, node.target = qualified, None
        elif node.target is not None:
            self.check(node.target)
        else:
            node.function = name.removeprefix(".")
        overloads = registry().get(node.function)
        if overloads is None:
            return self.undeclared(node.position, node.function)
        if node.target is not None:
            node.args = [node.target, *node.args]
        return self.resolve(node, overloads)

    def resolve(self, node: Call, overloads: list[Overload]) -> Type:
        member = node.target is not None
        given = [self.settled(arg.type) for arg in node.args]
        if any(each is ERROR for each in given):
            return ERROR
        result: Type | None = None
        for overload in overloads:
            if overload.member != member or len(overload.params) != len(given):
                continue
            renamed: dict[str, Type] = {}
            wanted = [self.renamed(each, renamed) for each in overload.params]
            attempt = dict(self.bound)
            if not all(assignable(attempt, a, b) for a, b in zip(given, wanted, strict=True)):
                continue
            self.bound = attempt
            node.overloads.append(overload)
            found = substituted(self.renamed(overload.result, renamed), attempt)
            if result is None:
                result = found
            elif not is_dyn(result) and found != result:
                result = DYN
        if result is None:
            shown = ", ".join(self.shown(each) for each in (given[1:] if member else given))
            before = f"{self.shown(given[0])}." if member else ""
            return self.fault(
                node.position,
                f"found no matching overload for '{node.function}' applied to '{before}({shown})'",
            )
        self.check_literals(node)
        return result

    def renamed(self, type_: Type, fresh: dict[str, Type]) -> Type:
        """The overload's own type parameters, new for this call."""
        if type_.kind == "param":
            return fresh.setdefault(type_.name, self.variable())
        if not type_.params:
            return type_
        return Type(
            type_.kind, type_.name, tuple(self.renamed(each, fresh) for each in type_.params)
        )

    def check_literals(self, node: Call) -> None:
        """Durations, times and patterns that are written out are judged now."""
        parse = _LITERALS.get(node.function)
        if parse is None:
            return
        arg = node.args[-1] if node.function == "matches" else node.args[0]
        if isinstance(arg, Const) and isinstance(arg.value, str):
            try:
                parse(arg.value)
            except EvaluationError:
                self.fault(arg.position, f"invalid {node.function} argument")

    def logical(self, node: Call) -> Type:
        given = [self.settled(self.check(arg)) for arg in node.args]
        for each in given:
            if each.kind == "param":
                assignable(self.bound, each, BOOL)
            elif each.kind != "bool" and not is_dyn(each):
                pair = (given[0], each) if each is not given[0] else (each, given[1])
                shown = ", ".join(self.shown(one) for one in pair)
                return self.fault(
                    node.position,
                    f"found no matching overload for '{node.function}' applied to '({shown})'",
                )
        return BOOL

    def conditional(self, node: Call) -> Type:
        condition, yes, no = (self.settled(self.check(arg)) for arg in node.args)
        if ERROR in (condition, yes, no):
            return ERROR
        result = self.variable()
        attempt = dict(self.bound)
        if (
            assignable(attempt, condition, BOOL)
            and assignable(attempt, yes, result)
            and assignable(attempt, no, result)
        ):
            self.bound = attempt
            return substituted(result, attempt)
        shown = ", ".join(self.shown(each) for each in (condition, yes, no))
        return self.fault(
            node.position, f"found no matching overload for '_?_:_' applied to '({shown})'"
        )

    # Literals

    def join(self, so_far: Type | None, node: Node, given: Type) -> Type:
        """The type of a literal's items, which must agree."""
        given = self.settled(given)
        if so_far is None:
            return given
        if is_dyn(so_far) or is_dyn(given):
            return DYN if so_far is not ERROR else given
        attempt = dict(self.bound)
        if assignable(attempt, given, so_far):
            self.bound = attempt
            return so_far
        attempt = dict(self.bound)
        if assignable(attempt, so_far, given):
            self.bound = attempt
            return given
        self.fault(
            node.position,
            f"expected type '{self.shown(so_far)}' but found '{self.shown(given)}'",
        )
        return so_far

    def unwrapped(self, node: Node, optional: bool) -> Type:
        given = self.settled(self.check(node))
        if not optional or is_dyn(given):
            return given
        if given.name == "optional_type":
            return given.params[0]
        return self.fault(
            node.position,
            f"expected type 'optional_type({self.shown(given)})' but found '{self.shown(given)}'",
        )

    def list_literal(self, node: ListNode) -> Type:
        item: Type | None = None
        for index, each in enumerate(node.items):
            item = self.join(item, each, self.unwrapped(each, index in node.optional))
        return list_of(item or self.variable())

    def map_literal(self, node: MapNode) -> Type:
        name: Type | None = None
        value: Type | None = None
        for key, each, optional in node.entries:
            name = self.join(name, key, self.check(key))
            value = self.join(value, each, self.unwrapped(each, optional))
        return map_of(name or self.variable(), value or self.variable())

    def object_literal(self, node: ObjectNode) -> Type:
        node.name = node.name.removeprefix(".")
        made = self.objects(node.name)
        for position, field, value, optional in node.entries:
            given = self.unwrapped(value, optional)
            if made is None or isinstance(made, DynamicObject) or is_dyn(given):
                continue
            assert isinstance(made, ObjectType)
            declared = made.fields.get(field)
            if declared is None:
                self.fault(position, f"undefined field '{field}'")
            elif not assignable(self.bound, given, declared.type):
                self.fault(
                    position,
                    f"expected type of field '{field}' is '{self.shown(declared.type)}' "
                    f"but provided type is '{self.shown(given)}'",
                )
        return made if made is not None else self.undeclared(node.position, node.name)

    # Macros

    def macro(self, node: Macro) -> Type:
        over = self.settled(self.check(node.range))
        if over is ERROR:
            return ERROR
        double = len(node.names) == 2
        seen: tuple[Type, ...]
        if over.kind == "list":
            seen = (INT, over.params[0]) if double else (over.params[0],)
        elif over.kind == "map":
            seen = over.params if double else (over.params[0],)
        elif is_dyn(over) or over.kind == "param":
            seen = (DYN, DYN)[: len(node.names)]
        else:
            return self.fault(
                node.range.position,
                f"expression of type '{self.shown(over)}' cannot be range of a comprehension "
                "(must be list, map, or dynamic)",
            )
        node.slots = tuple(range(self.slots, self.slots + len(seen)))
        self.slots += len(seen)
        self.scopes.append(
            {
                name: (type_, slot)
                for name, type_, slot in zip(node.names, seen, node.slots, strict=True)
            }
        )
        try:
            if node.filter is not None:
                self.need_bool(node, node.filter, self.check(node.filter), "_?_:_")
            body = self.settled(self.check(node.body))
        finally:
            self.scopes.pop()
        return self.macro_result(node, over, seen, body)

    def need_bool(self, node: Node, part: Node, given: Type, function: str) -> None:
        given = self.settled(given)
        if (
            given.kind != "bool"
            and not is_dyn(given)
            and not (given.kind == "param" and assignable(self.bound, given, BOOL))
        ):
            applied = (
                f"(bool, {self.shown(given)})" if function != "_?_:_" else f"({self.shown(given)})"
            )
            self.fault(
                part.position if function == "_?_:_" else node.position,
                f"found no matching overload for '{function}' applied to '{applied}'",
            )

    def macro_result(self, node: Macro, over: Type, seen: tuple[Type, ...], body: Type) -> Type:
        kind = node.kind
        if kind in ("all", "exists", "exists_one", "filter"):
            function = {"all": "_&&_", "exists": "_||_"}.get(kind, "_?_:_")
            self.need_bool(node, node.body, body, function)
            return list_of(seen[0]) if kind == "filter" else BOOL
        if kind in ("map", "transformList"):
            return list_of(body)
        if kind == "sortBy":
            return over if over.kind == "list" else list_of(DYN)
        if kind == "transformMap":
            return map_of(seen[0], body)
        return body if body.kind == "map" else map_of(DYN, DYN)

    def bind(self, node: Bind) -> Type:
        given = self.settled(self.check(node.value))
        if given.name == "optional_type":
            inner = given.params[0]
        elif is_dyn(given):
            inner = DYN
        elif given is ERROR:
            return ERROR
        else:
            name = "optFlatMap" if node.flat else "optMap"
            return self.fault(
                node.position,
                f"found no matching overload for '{name}' applied to '{self.shown(given)}.()'",
            )
        node.slot = self.slots
        self.slots += 1
        self.scopes.append({node.name: (inner, node.slot)})
        try:
            body = self.settled(self.check(node.body))
        finally:
            self.scopes.pop()
        return body if node.flat else optional_of(body)

    # The end

    def finish(self, node: Node) -> None:
        """No parameters are left open."""
        node.type = substituted(node.type, self.bound, rest=DYN)
        for child in children(node):
            self.finish(child)


def children(node: Node) -> list[Node]:
    if isinstance(node, Select):
        return [node.operand] if node.resolved is None else []
    if isinstance(node, Call):
        return node.args
    if isinstance(node, ListNode):
        return node.items
    if isinstance(node, MapNode):
        return [each for key, value, _ in node.entries for each in (key, value)]
    if isinstance(node, ObjectNode):
        return [value for _, _, value, _ in node.entries]
    if isinstance(node, Macro):
        return [node.range, node.body, *([node.filter] if node.filter is not None else [])]
    if isinstance(node, Bind):
        return [node.value, node.body]
    return []


def _pattern(text: str) -> object:
    from sampan.kube.cel.library.regex import compiled

    return compiled(text)


_LITERALS: dict[str, Callable[[str], object]] = {
    "duration": moments.parse_duration,
    "timestamp": moments.parse_timestamp,
    "matches": _pattern,
}
_OPERATORS = frozenset({"_[_]", "_[?_]", "@in"})
_CHECKS: dict[type, Callable[[Checker, Any], Type]] = {
    Ident: Checker.ident,
    Select: Checker.select,
    Call: Checker.call,
    ListNode: Checker.list_literal,
    MapNode: Checker.map_literal,
    ObjectNode: Checker.object_literal,
    Macro: Checker.macro,
    Bind: Checker.bind,
}
