"""Types of the language: what the checker reasons with and what `type(x)` gives.

A type is a kind, a name and parameters. Simple ones are constants here; `ObjectType` is a record with declared fields, made
from a structural schema or by hand. A `plain` type is one whose JSON is its value: nothing has to be converted
before an expression reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Type:
    __slots__ = ("kind", "name", "params", "plain")

    plain: bool

    def __init__(self, kind: str, name: str = "", params: tuple[Type, ...] = ()) -> None:
        self.kind = kind
        self.name = name or kind
        self.params = params
        self.plain = kind in _PLAIN and all(each.plain for each in params)

    def __str__(self) -> str:
        if self.kind == "param":
            return self.name
        if self.params:
            return f"{self.name}({', '.join(str(each) for each in self.params)})"
        return self.name

    def __repr__(self) -> str:
        return str(self)

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Type)
            and self.kind == other.kind
            and self.name == other.name
            and self.params == other.params
        )

    def __hash__(self) -> int:
        return hash((self.kind, self.name, len(self.params)))


_PLAIN = frozenset({"dyn", "null", "bool", "int", "string", "list", "map", "object"})

DYN = Type("dyn")
ERROR = Type("error", "!error!")
NULL = Type("null", "null")
BOOL = Type("bool")
INT = Type("int")
UINT = Type("uint")
DOUBLE = Type("double")
STRING = Type("string")
BYTES = Type("bytes")
DURATION = Type("duration", "google.protobuf.Duration")
TIMESTAMP = Type("timestamp", "google.protobuf.Timestamp")
TYPE = Type("type")


def list_of(item: Type) -> Type:
    return Type("list", "list", (item,))


def map_of(key: Type, value: Type) -> Type:
    return Type("map", "map", (key, value))


def optional_of(value: Type) -> Type:
    return Type("opaque", "optional_type", (value,))


def type_of(value: Type) -> Type:
    return Type("type", "type", (value,))


def opaque(name: str) -> Type:
    return Type("opaque", name)


def param(name: str) -> Type:
    return Type("param", name)


class ListType(Type):
    """A list of a schema that says how its items are told apart: equality and `+` follow that."""

    __slots__ = ("keys", "merge")

    def __init__(self, item: Type, merge: str, keys: tuple[str, ...] = ()) -> None:
        super().__init__("list", "list", (item,))
        self.merge = merge  # set | map
        self.keys = keys
        self.plain = False


class Field:
    """A property: how the object's JSON names it, and its type."""

    __slots__ = ("name", "type")

    def __init__(self, name: str, type_: Type) -> None:
        self.name = name
        self.type = type_


class ObjectType(Type):
    """A record. `fields` are keyed by the name that expressions use (see `names.escape`)."""

    __slots__ = ("fields",)

    def __init__(self, name: str, fields: Mapping[str, Field]) -> None:
        super().__init__("object", name)
        self.fields: Mapping[str, Field] = fields
        self.plain = all(each.type.plain for each in fields.values())

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, ObjectType) and self.name == other.name)

    def __hash__(self) -> int:
        return hash(self.name)


def record(name: str, /, **fields: Type) -> ObjectType:
    """An object type by hand: `record("kubernetes.UserInfo", username=STRING)`."""
    return ObjectType(
        name, {key.rstrip("_"): Field(key.rstrip("_"), each) for key, each in fields.items()}
    )


class DynamicObject(Type):
    """A type that is built in an expression, `Object.spec{…}`: any field, of any type."""

    __slots__ = ()

    def __init__(self, name: str) -> None:
        super().__init__("object", name)
        self.plain = True


TYPE_NAMES: dict[str, Type] = {
    "bool": BOOL,
    "int": INT,
    "uint": UINT,
    "double": DOUBLE,
    "string": STRING,
    "bytes": BYTES,
    "null_type": NULL,
    "type": TYPE,
    "list": list_of(DYN),
    "map": map_of(DYN, DYN),
    "dyn": DYN,
    "google.protobuf.Duration": DURATION,
    "google.protobuf.Timestamp": TIMESTAMP,
    "optional_type": optional_of(DYN),
}


def is_dyn(type_: Type) -> bool:
    return type_.kind in ("dyn", "error")


def substituted(type_: Type, bound: Mapping[str, Type], *, rest: Type | None = None) -> Type:
    """The type with its parameters replaced; those that nothing is known of become `rest` (or stay)."""
    if type_.kind == "param":
        found = bound.get(type_.name)
        if found is None:
            return rest if rest is not None else type_
        return substituted(found, bound, rest=rest)
    if not type_.params or isinstance(type_, ObjectType):
        return type_
    params = tuple(substituted(each, bound, rest=rest) for each in type_.params)
    if params == type_.params:
        return type_
    if isinstance(type_, ListType):
        return ListType(params[0], type_.merge, type_.keys)
    return Type(type_.kind, type_.name, params)


def assignable(bound: dict[str, Type], given: Type, wanted: Type) -> bool:
    """May a value of `given` be used where `wanted` is? Parameters are bound on the way (also when the answer is no)."""
    if given is wanted:
        return True
    if wanted.kind == "param":
        return _bind(bound, wanted, given, given_first=True)
    if given.kind == "param":
        return _bind(bound, given, wanted, given_first=False)
    if is_dyn(given) or is_dyn(wanted):
        return True
    if given.kind == "null":
        return wanted.kind in ("null", "object", "opaque", "duration", "timestamp")
    if given.kind != wanted.kind:
        return False
    if given.kind == "type" or not (given.params or wanted.params):
        return given.kind in ("type", "list", "map") or given.name == wanted.name
    if given.name != wanted.name or len(given.params) != len(wanted.params):
        return False
    return all(
        assignable(bound, left, right)
        for left, right in zip(given.params, wanted.params, strict=True)
    )


def _bind(bound: dict[str, Type], variable: Type, other: Type, *, given_first: bool) -> bool:
    present = bound.get(variable.name)
    if present is None:
        if _occurs(variable.name, other, bound):
            return other.kind == "param"
        bound[variable.name] = other
        return True
    if assignable(bound, other, present) if given_first else assignable(bound, present, other):
        if is_dyn(other) or (present.kind == "null" and other.kind != "param"):
            bound[variable.name] = other
        return True
    if present.kind == "null" and assignable(bound, present, other):
        bound[variable.name] = other
        return True
    return False


def _occurs(name: str, type_: Type, bound: Mapping[str, Type]) -> bool:
    if type_.kind == "param":
        if type_.name == name:
            return True
        found = bound.get(type_.name)
        return found is not None and _occurs(name, found, bound)
    return any(_occurs(name, each, bound) for each in type_.params)


Bindings = Mapping[str, Any]
