"""Values of the language. JSON's own (bool, int, float, str, None, list, dict) stand for themselves; here are the rest.

Numbers compare by value across int, uint and double; nothing else of different types is ever equal. Python takes
True for 1, so every comparison goes through `equal`, and a bool as the key of a map is wrapped.
"""

from __future__ import annotations

import math
from typing import Any

from sampan.kube.cel import types
from sampan.kube.cel.errors import EvaluationError, no_overload
from sampan.kube.cel.types import Type

NANO = 1_000_000_000


class UInt(int):
    """uint: an int of 64 bits without sign."""

    __slots__ = ()


class Duration:
    """Nanoseconds."""

    __slots__ = ("nanos",)

    def __init__(self, nanos: int) -> None:
        self.nanos = nanos

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Duration) and self.nanos == other.nanos

    def __hash__(self) -> int:
        return hash(("duration", self.nanos))


class Timestamp:
    """Nanoseconds since 1970 UTC."""

    __slots__ = ("nanos",)

    def __init__(self, nanos: int) -> None:
        self.nanos = nanos

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Timestamp) and self.nanos == other.nanos

    def __hash__(self) -> int:
        return hash(("timestamp", self.nanos))


class Optional:
    """A value or none."""

    __slots__ = ("present", "value")

    def __init__(self, value: Any = None, *, present: bool = True) -> None:
        self.value = value
        self.present = present

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Optional) or self.present != other.present:
            return False
        return not self.present or equal(self.value, other.value)

    __hash__ = None  # type: ignore[assignment]


NONE = Optional(present=False)


class SetList(list[Any]):
    """A list of a schema with `x-kubernetes-list-type: set`: equal whatever the order; `+` is a union."""


class MapList(list[Any]):
    """`x-kubernetes-list-type: map`: items are known by their keys; equal whatever the order; `+` overwrites."""

    keys: tuple[str, ...] = ()


class ObjectValue(dict[str, Any]):
    """What `Object.spec{…}` makes: fields of a type with that name."""

    type_name = "Object"


class Opaque:
    """A value of a library's own type (url, quantity, ip …): `type` names it, `value` is the Python object."""

    __slots__ = ("type", "value")

    def __init__(self, type_: Type, value: Any) -> None:
        self.type = type_
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Opaque) and self.type == other.type and self.value == other.value

    def __hash__(self) -> int:
        return hash((self.type.name, self.value))


class BoolKey:
    """true or false as the key of a map, where Python would take 1 or 0 for it."""

    __slots__ = ("value",)

    def __init__(self, value: bool) -> None:
        self.value = value


_TRUE, _FALSE = BoolKey(True), BoolKey(False)
_KINDS: dict[type, str] = {
    bool: "bool",
    int: "int",
    UInt: "uint",
    float: "double",
    str: "string",
    bytes: "bytes",
    type(None): "null",
    list: "list",
    SetList: "list",
    MapList: "list",
    dict: "map",
    ObjectValue: "object",
    Duration: "duration",
    Timestamp: "timestamp",
    Optional: "opaque",
    Opaque: "opaque",
    Type: "type",
}
_NUMBERS = frozenset({int, UInt, float})
_TYPES = {
    "bool": types.BOOL,
    "int": types.INT,
    "uint": types.UINT,
    "double": types.DOUBLE,
    "string": types.STRING,
    "bytes": types.BYTES,
    "null": types.NULL,
    "duration": types.DURATION,
    "timestamp": types.TIMESTAMP,
    "list": types.TYPE_NAMES["list"],
    "map": types.TYPE_NAMES["map"],
    "type": types.TYPE,
}


def kind_of(value: Any) -> str:
    """The kind of the type of a value."""
    found = _KINDS.get(type(value))
    if found is None:
        for base in type(value).__mro__[1:]:
            if base in _KINDS:
                return _KINDS[base]
        raise no_overload()
    return found


def type_of(value: Any) -> Type:
    if isinstance(value, Opaque):
        return value.type
    if isinstance(value, Optional):
        return types.TYPE_NAMES["optional_type"]
    if isinstance(value, ObjectValue):
        return types.DynamicObject(value.type_name)
    return _TYPES[kind_of(value)]


def key(value: Any) -> Any:
    """A value as the key of a dict. Raises EvaluationError for what cannot be one."""
    kind = type(value)
    if kind is str or kind is int or kind is UInt:
        return value
    if kind is bool:
        return _TRUE if value else _FALSE
    if kind is float:
        if value.is_integer():
            return int(value)
        raise EvaluationError(f"no such key: {value}")
    raise EvaluationError(f"unsupported key type: {type_of(value)}")


def unkey(value: Any) -> Any:
    return value.value if type(value) is BoolKey else value


def equal(left: Any, right: Any) -> bool:
    a, b = type(left), type(right)
    if a is b:
        if a is list:
            return len(left) == len(right) and all(map(equal, left, right))
        if a is SetList:
            return len(left) == len(right) and _same_members(left, right)
        if a is MapList:
            return len(left) == len(right) and _same_items(left, right)
        if a is dict or a is ObjectValue:
            return len(left) == len(right) and all(
                name in right and equal(value, right[name]) for name, value in left.items()
            )
        return bool(left == right)
    if a in _NUMBERS and b in _NUMBERS:
        return bool(left == right)
    if isinstance(left, list) and isinstance(right, list):
        # A literal beside a list of the object: the object's kind of list decides.
        chosen = SetList if SetList in (a, b) else MapList
        return equal(_as(chosen, left, right), _as(chosen, right, left))
    if isinstance(left, dict) and isinstance(right, dict):
        return equal(dict(left), dict(right))
    return False


def _as(kind: type, values: list[Any], other: list[Any]) -> Any:
    if isinstance(values, kind):
        return values
    made = kind(values)
    if kind is MapList:
        made.keys = getattr(other, "keys", ())
    return made


def _hashable(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_hashable(each) for each in value)
    if isinstance(value, dict):
        return frozenset((name, _hashable(each)) for name, each in value.items())
    return (kind_of(value), value) if isinstance(value, bool) else value


def _same_members(left: list[Any], right: list[Any]) -> bool:
    return {_hashable(each) for each in left} == {_hashable(each) for each in right}


def _item_key(item: Any, keys: tuple[str, ...]) -> Any:
    return tuple(_hashable(item.get(name)) for name in keys) if isinstance(item, dict) else None


def _same_items(left: MapList, right: MapList) -> bool:
    others = {_item_key(each, left.keys): each for each in right}
    return all(
        (found := _item_key(each, left.keys)) in others and equal(each, others[found])
        for each in left
    )


def joined(left: list[Any], right: list[Any]) -> list[Any]:
    """`left + right`; sets and maps keep one of each."""
    if isinstance(left, SetList):
        seen = {_hashable(each) for each in left}
        made = SetList(left)
        for each in right:
            mark = _hashable(each)
            if mark not in seen:
                seen.add(mark)
                made.append(each)
        return made
    if isinstance(left, MapList):
        found = {_item_key(each, left.keys): each for each in left}
        found.update((_item_key(each, left.keys), each) for each in right)
        merged = MapList(found.values())
        merged.keys = left.keys
        return merged
    return [*left, *right]


def compare(left: Any, right: Any) -> int:
    """-1, 0 or 1. Raises EvaluationError for what has no order."""
    a, b = type(left), type(right)
    if (a in _NUMBERS and b in _NUMBERS) or (a is b and a in (str, bytes, bool)):
        if (a is float and math.isnan(left)) or (b is float and math.isnan(right)):
            raise EvaluationError("NaN values cannot be ordered")
        return (left > right) - (left < right)
    if a is b and a in (Duration, Timestamp):
        return (left.nanos > right.nanos) - (left.nanos < right.nanos)
    raise no_overload()


def size(value: Any) -> int:
    """What costs are reckoned by: characters, bytes, items; 1 for all that has no size."""
    if isinstance(value, str | bytes | list | dict):
        return len(value)
    if isinstance(value, Optional) and value.present:
        return size(value.value)
    if isinstance(value, Opaque):
        return getattr(value.value, "size", 1)
    return 1
