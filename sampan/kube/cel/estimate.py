"""The most that an expression can cost, told from the sizes that a schema allows, before any object is seen.

A rule of a CustomResourceDefinition is refused when this bound is too high (`maxItems`, `maxProperties` and `maxLength`
bring it down). The reckoning is cel-go's `checker/cost.go` with Kubernetes' additions, upper bounds only; every number is
capped at 2^64 - 1, which stands for "nobody knows".
https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#resource-use-by-validation-functions
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from sampan.kube.cel import cost
from sampan.kube.cel.names import escape
from sampan.kube.cel.program import Program
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
from sampan.kube.cel.types import Type

UNKNOWN = (1 << 64) - 1
MAX_REQUEST = 3 * 1024 * 1024  # bytes
RULE_LIMIT = 10_000_000
TOTAL_LIMIT = 100_000_000
HINT = (
    "(try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and "
    "strings are declared)"
)
_SCALARS = frozenset({"bool", "int", "uint", "double", "null", "duration", "timestamp", "type"})
_FORMATS = {"duration": (32, 3), "date": (12, 12), "date-time": (32, 21)}  # longest, shortest


class Shape:
    """How large a value of a schema can be: `most` characters or items, `least` bytes of JSON, and its parts."""

    __slots__ = ("fields", "item", "key", "least", "most")

    def __init__(
        self,
        most: int,
        least: int,
        *,
        fields: Mapping[str, Shape] | None = None,
        item: Shape | None = None,
        key: Shape | None = None,
    ) -> None:
        self.most = most
        self.least = least
        self.fields = fields or {}
        self.item = item
        self.key = key


def shape_of(schema: Mapping[str, Any], *, root: bool = False) -> Shape:
    """The shape of a structural schema's values."""
    kind = schema.get("type")
    if schema.get("x-kubernetes-int-or-string"):
        return Shape(_length(schema, MAX_REQUEST - 2), 1)
    if kind == "array":
        item = shape_of(schema.get("items") or {})
        fits = (MAX_REQUEST - 2) // (item.least + 1)
        return Shape(_given(schema, "maxItems", fits), 2, item=item)
    if kind == "object":
        return _object(schema, root)
    if kind == "string":
        return _string(schema)
    return Shape(0, {"boolean": 4}.get(kind or "", 1))


def _object(schema: Mapping[str, Any], root: bool) -> Shape:
    more = schema.get("additionalProperties")
    properties: dict[str, Any] = dict(schema.get("properties") or {})
    if isinstance(more, Mapping) and not properties:
        value = shape_of(more)
        fits = (MAX_REQUEST - 2) // (value.least + 6)
        most = _given(schema, "maxProperties", fits)
        return Shape(most, 2, item=value, key=Shape(0, 2))  # as Kubernetes: keys are not counted
    if root or schema.get("x-kubernetes-embedded-resource"):
        text = {"type": "string"}
        given = (properties.get("metadata") or {}).get("properties") or {}
        names = {"name": text, "generateName": text, **given}
        meta = {"type": "object", "properties": names}
        properties = {**properties, "apiVersion": text, "kind": text, "metadata": meta}
    required = set(schema.get("required") or ())
    least = 2
    fields: dict[str, Shape] = {}
    for name, each in properties.items():
        shape = shape_of(each)
        if name in required and "default" not in each:
            least += len(name) + shape.least + 4
        if (identifier := escape(name)) is not None:
            fields[identifier] = shape
    return Shape(0, least, fields=fields)


def _string(schema: Mapping[str, Any]) -> Shape:
    form = schema.get("format") or ""
    if form in _FORMATS:
        return Shape(*_FORMATS[form])
    if "maxLength" not in schema and schema.get("enum"):
        return Shape(
            max((len(each) for each in schema["enum"] if isinstance(each, str)), default=0), 2
        )
    if form == "byte":
        return Shape(_given(schema, "maxLength", MAX_REQUEST - 2), 2)
    return Shape(_length(schema, MAX_REQUEST - 2), 2)


def _given(schema: Mapping[str, Any], key: str, otherwise: int) -> int:
    value = schema.get(key)
    return otherwise if value is None else max(int(value), 0)


def _length(schema: Mapping[str, Any], otherwise: int) -> int:
    """maxLength counts characters, of up to four bytes each."""
    return 4 * _given(schema, "maxLength", 0) if "maxLength" in schema else otherwise


def cardinality(shape: Shape) -> int:
    """How often a value of this shape fits into one request, where nothing bounds the lists around it."""
    return MAX_REQUEST // (shape.least + 1)


def exceeds(what: str, found: int, limit: int) -> str:
    """The sentence for a bound that is too high."""
    factor = found / limit
    if factor > 100:
        shown = "more than 100x"
    elif factor < 1.5:
        shown = f"{factor:.6f}x"
    else:
        shown = f"{factor:.1f}x"
    return f"{what} exceeds budget by factor of {shown} {HINT}"


def estimate(program: Program, shapes: Mapping[str, Shape]) -> int:
    """The most that one evaluation can cost; `shapes` are those of the variables."""
    return _Estimator(shapes).of(program.root).cost


class _Found(NamedTuple):
    """Of one node: cost, size, where in a schema it is, and the size of its items."""

    cost: int
    size: int
    shape: Shape | None = None
    item: int = UNKNOWN

    def each(self) -> int:
        return self.shape.item.most if self.shape is not None and self.shape.item else self.item


def _sum(*parts: int) -> int:
    return min(sum(parts), UNKNOWN)


def _times(one: int, other: int) -> int:
    return min(one * other, UNKNOWN)


def _part(size: int, factor: float) -> int:
    return UNKNOWN if size >= UNKNOWN else min(math.ceil(size * factor), UNKNOWN)


def _unsized(type_: Type) -> int:
    return 1 if type_.kind in _SCALARS else UNKNOWN


class _Estimator:
    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        self.shapes = shapes
        self.locals: dict[int, _Found] = {}
        # Kubernetes takes an item of a list that an expression made (`self.split('/')[0]`) to be as large as `self`.
        self.whole = shapes["self"].most if "self" in shapes else UNKNOWN

    def each(self, found: _Found) -> int:
        """The size of one item."""
        known = found.each()
        return self.whole if known >= UNKNOWN else known

    def of(self, node: Node) -> _Found:
        return _KINDS[type(node)](self, node)

    def const(self, node: Const) -> _Found:
        value = node.value
        return _Found(0, len(value) if isinstance(value, str | bytes) else 1)

    def ident(self, node: Ident) -> _Found:
        if node.name.startswith("@"):
            return self.locals[int(node.name[1:])]._replace(cost=1)
        return self.at(1, self.shapes.get(node.name), node.type)

    @staticmethod
    def at(units: int, shape: Shape | None, type_: Type) -> _Found:
        return _Found(units, _unsized(type_) if shape is None else shape.most, shape)

    def select(self, node: Select) -> _Found:
        if node.resolved is not None:
            return self.ident(node.resolved)
        operand = self.of(node.operand)
        if node.test:
            return _Found(operand.cost, 1)
        kind = node.operand.type.kind
        units = _sum(operand.cost, 1 if kind in ("map", "object", "param") or node.optional else 0)
        inner: Shape | None = None
        if operand.shape is not None:
            inner = operand.shape.fields.get(node.field)
        return self.at(units, inner, node.type)

    def call(self, node: Call) -> _Found:
        args = [self.of(each) for each in node.args]
        name = node.function
        total = _sum(*(each.cost for each in args))
        if name in ("_&&_", "_||_"):
            return _Found(total, 1)
        if name == "_?_:_":
            condition, yes, no = args
            return _Found(
                _sum(condition.cost, max(yes.cost, no.cost)),
                max(yes.size, no.size),
                yes.shape if yes.shape is no.shape else None,
                max(yes.each(), no.each()),
            )
        if name in ("_[_]", "_[?_]"):
            inner = args[0].shape.item if args[0].shape is not None else None
            if inner is not None:
                return self.at(_sum(total, 1), inner, node.type)
            return _Found(_sum(total, 1), self.each(args[0]))
        units, size = self.function(node, args)
        scalar = _unsized(node.type)
        item = max(args[0].each(), args[1].each()) if name == "_+_" and len(args) == 2 else UNKNOWN
        if name in ("dyn", "reverse", "sort", "distinct", "slice"):
            return _Found(_sum(total, units), args[0].size, args[0].shape, args[0].each())
        return _Found(_sum(total, units), scalar if scalar == 1 else size, None, item)

    def function(self, node: Call, args: list[_Found]) -> tuple[int, int]:
        """(cost of the call, size of its result)."""
        found = _FUNCTIONS.get(node.function)
        if found is None:
            return 1, UNKNOWN
        return found(node, args)

    def items(self, node: ListNode) -> _Found:
        found = [self.of(each) for each in node.items]
        largest = max((each.size for each in found), default=0)
        total = _sum(cost.LIST, *(each.cost for each in found))
        return _Found(total, len(found), None, largest)

    def entries(self, node: MapNode) -> _Found:
        found = [self.of(each) for key, value, _ in node.entries for each in (key, value)]
        largest = max((each.size for each in found), default=0)
        total = _sum(cost.MAP, *(each.cost for each in found))
        return _Found(total, len(node.entries), None, largest)

    def built(self, node: ObjectNode) -> _Found:
        found = [self.of(value) for _, _, value, _ in node.entries]
        return _Found(_sum(cost.OBJECT, *(each.cost for each in found)), UNKNOWN)

    def macro(self, node: Macro) -> _Found:
        over = self.of(node.range)
        shape = over.shape
        key = _Found(1, shape.key.most if shape is not None and shape.key else 1)
        value = _Found(1, self.each(over), shape.item if shape is not None else None)
        is_map = node.range.type.kind == "map"
        if is_map and shape is None:
            key = _Found(1, self.each(over))
        if len(node.slots) == 2:
            self.locals[node.slots[0]], self.locals[node.slots[1]] = key, value
        else:
            self.locals[node.slots[0]] = key if is_map else value
        body = self.of(node.body)
        chosen = self.of(node.filter).cost if node.filter is not None else 0
        once, turn = _TURNS[node.kind]
        loop = _times(over.size, _sum(turn, body.cost, chosen))
        made = over.size if node.type.kind in ("list", "map") else 1
        item = value.size if node.kind in ("filter", "sortBy") else body.size
        kept = shape if node.kind in ("filter", "sortBy") else None
        return _Found(_sum(over.cost, once, loop), made, kept, item)

    def bind(self, node: Bind) -> _Found:
        given = self.of(node.value)
        self.locals[node.slot] = given._replace(cost=1)
        body = self.of(node.body)
        return _Found(_sum(given.cost, body.cost, 4), body.size, body.shape, body.item)


# What a macro costs once, and each turn beside its body: as cel-go expands it.
_TURNS = {
    "all": (1, 3),
    "exists": (1, 4),
    "exists_one": (2, 2),
    "map": (cost.LIST + 1, cost.LIST + 2),
    "filter": (cost.LIST + 1, cost.LIST + 3),
    "transformList": (cost.LIST + 1, cost.LIST + 2),
    "transformMap": (cost.MAP + 1, 3),
    "transformMapEntry": (cost.MAP + 1, 2),
    "sortBy": (cost.LIST + 1, cost.LIST + 2),
}

Reckon = Callable[[Call, list[_Found]], tuple[int, int]]


def _text(factor: float = cost.TEXT, *, keeps: bool = False) -> Reckon:
    def reckon(node: Call, args: list[_Found]) -> tuple[int, int]:
        size = args[0].size
        return _part(size, factor), size if keeps else UNKNOWN

    return reckon


def _prefix(node: Call, args: list[_Found]) -> tuple[int, int]:
    return _part(args[1].size, cost.TEXT), 1


def _order(node: Call, args: list[_Found]) -> tuple[int, int]:
    """Only text takes longer the longer it is."""
    if all(each.type.kind in ("string", "bytes") for each in node.args):
        return _equality(node, args)
    return 1, 1


def _equality(node: Call, args: list[_Found]) -> tuple[int, int]:
    return _part(min(args[0].size, args[1].size), cost.TEXT), 1


def _add(node: Call, args: list[_Found]) -> tuple[int, int]:
    kind = node.type.kind
    size = _sum(args[0].size, args[1].size)
    if kind in ("string", "bytes", "dyn"):
        return _part(size, cost.TEXT), size
    return 1, size


def _within(node: Call, args: list[_Found]) -> tuple[int, int]:
    return (1 if node.args[1].type.kind == "map" else args[1].size), 1


def _pattern(node: Call, args: list[_Found]) -> tuple[int, int]:
    if node.function == "matches" and node.target is None:
        return 1, 1  # Kubernetes reckons only with the method
    text = _part(_sum(args[0].size, 1), cost.TEXT)
    return _times(text, _part(args[1].size, 0.25)), args[0].size


def _contains(node: Call, args: list[_Found]) -> tuple[int, int]:
    return _times(_part(args[0].size, cost.TEXT), _part(args[1].size, cost.TEXT)), 1


def _traversal(node: Call, args: list[_Found]) -> tuple[int, int]:
    target = node.args[0].type
    if target.kind == "string":
        return _part(args[0].size, cost.TEXT), 1
    one = 1
    if target.params and target.params[0].kind in ("string", "bytes"):
        one = _sum(1, _part(args[0].each(), cost.TEXT))
    return _times(args[0].size, one), args[0].each()


def _replace(node: Call, args: list[_Found]) -> tuple[int, int]:
    text, old, new = args[:3]
    least = old.size if isinstance(node.args[1], Const) else 0
    if least == 0:
        made = _sum(_times(_sum(text.size, 1), new.size), text.size)
    elif new.size <= least:
        made = text.size
    else:
        made = _times(_part(text.size, 1 / least), new.size)
    return _part(text.size, 2 * cost.TEXT), made


def _join(node: Call, args: list[_Found]) -> tuple[int, int]:
    items = args[0]
    separator = args[1].size if len(args) > 1 else 0
    size = _sum(_times(items.size, items.each()), _times(items.size, separator))
    return _part(size, cost.TEXT), size


def _split(node: Call, args: list[_Found]) -> tuple[int, int]:
    text = args[0].size
    limit = node.args[2] if len(node.args) > 2 else None
    most = text
    if isinstance(limit, Const) and isinstance(limit.value, int) and limit.value >= 0:
        most = limit.value
    return _part(text, 2 * cost.TEXT), most


def _to_text(node: Call, args: list[_Found]) -> tuple[int, int]:
    if node.args[0].type.kind != "bytes":
        return 1, UNKNOWN
    return _part(args[0].size, cost.TEXT), args[0].size


def _ip(node: Call, args: list[_Found]) -> tuple[int, int]:
    if node.args[0].type.kind != "string":
        return 1, UNKNOWN  # that of a CIDR
    return _part(args[0].size, cost.TEXT), UNKNOWN


def _product(node: Call, args: list[_Found]) -> tuple[int, int]:
    return _sum(1, _times(args[0].size, args[1].size)), 1


def _validate(node: Call, args: list[_Found]) -> tuple[int, int]:
    return _times(_part(_sum(args[1].size, 1), cost.TEXT), math.ceil(128 * 0.25)), UNKNOWN


_FUNCTIONS: dict[str, Reckon] = {
    **dict.fromkeys(("_==_", "_!=_"), _equality),
    **dict.fromkeys(("_<_", "_<=_", "_>_", "_>=_"), _order),
    "_+_": _add,
    "@in": _within,
    **dict.fromkeys(("matches", "find", "findAll"), _pattern),
    "contains": _contains,
    **dict.fromkeys(("bytes", "strings.quote", "format"), _text()),
    **dict.fromkeys(("startsWith", "endsWith"), _prefix),
    **dict.fromkeys(
        ("url", "lowerAscii", "upperAscii", "substring", "trim", "jsonpatch.escapeKey"),
        _text(keeps=True),
    ),
    **dict.fromkeys(
        ("quantity", "isQuantity", "isIP", "cidr", "isCIDR", "semver", "isSemver"), _text()
    ),
    "ip.isCanonical": _text(2 * cost.TEXT),
    "split": _split,
    "string": _to_text,
    "ip": _ip,
    **dict.fromkeys(("isSorted", "sum", "min", "max", "indexOf", "lastIndexOf"), _traversal),
    "replace": _replace,
    "join": _join,
    **dict.fromkeys(("sets.contains", "sets.equivalent", "sets.intersects"), _product),
    "validate": _validate,
    "check": lambda node, args: (350_000, 1),
    **dict.fromkeys(
        ("reverse", "slice", "flatten"), lambda node, args: (_sum(1, args[0].size), UNKNOWN)
    ),
    **dict.fromkeys(
        ("sort", "distinct"), lambda node, args: (_times(args[0].size, args[0].size), UNKNOWN)
    ),
    "orValue": lambda node, args: (1, max(args[0].size, args[1].size)),
    "value": lambda node, args: (1, args[0].size),
    "optional.of": lambda node, args: (1, args[0].size),
}

_KINDS: dict[type, Callable[[_Estimator, Any], _Found]] = {
    Const: _Estimator.const,
    Ident: _Estimator.ident,
    Select: _Estimator.select,
    Call: _Estimator.call,
    ListNode: _Estimator.items,
    MapNode: _Estimator.entries,
    ObjectNode: _Estimator.built,
    Macro: _Estimator.macro,
    Bind: _Estimator.bind,
}
