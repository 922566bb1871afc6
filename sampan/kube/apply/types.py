"""What a value may be, in the eyes of a merge: scalar, list, map, and how its items belong together.

A `FieldType` is made lazily out of a schema node, for built-in kinds (`of_kind`, the generated schema) and for custom
resources (`of_custom`, a plain `openAPIV3Schema` dict) by the same rules, those of kube-openapi's `schemaconv`:

* lists: `x-kubernetes-list-type` map | set | atomic, else the old patch strategy, else atomic;
* maps and structs: granular unless `x-kubernetes-map-type: atomic`;
* no type, or `x-kubernetes-preserve-unknown-fields`: deduced, which is maps granular, lists and scalars whole.

A custom resource plugs in by its schema alone: `of_custom(schema)` once for each served version, kept for as long as
that schema stands. Nothing else of a CustomResourceDefinition is needed to merge, compare or own its fields.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from sampan.kube import schema
from sampan.kube.apply.present import PRESENT
from sampan.kube.types import GVK

Node = dict[str, Any]

NUMERIC: Final = "numeric"
STRING: Final = "string"
BOOLEAN: Final = "boolean"
UNTYPED: Final = "untyped"
_PRIMITIVES = {"integer": NUMERIC, "number": NUMERIC, "boolean": BOOLEAN}
_STRING_FORMATS = ("", "byte")  # a string with another format may come as another scalar
# What every object has, a custom resource as well as one that is embedded in another.
_RESOURCE: Node = {
    "apiVersion": {"type": "string"},
    "kind": {"type": "string"},
    "metadata": {"$ref": schema.OBJECT_META},
}
_ROOT_PRESENT = ("metadata", "spec", "status")


class FieldType:
    """One type. `scalar`, `is_map` and `is_list` say what its values may be; more than one is possible.

    `leaf`: whatever the value, it is owned whole. `exact`: Python's `==` on two values is equality as JSON.
    """

    __slots__ = (
        "_element",
        "_exact",
        "_items",
        "_known",
        "_plain",
        "_preserve",
        "_properties",
        "_strict",
        "atomic_list",
        "atomic_map",
        "deduced",
        "is_list",
        "is_map",
        "key_defaults",
        "keys",
        "leaf",
        "present",
        "scalar",
        "struct",
    )

    def __init__(
        self,
        scalar: str | None = None,
        *,
        properties: Node | None = None,
        element: Node | FieldType | None = None,
        items: Node | FieldType | None = None,
        keys: tuple[str, ...] = (),
        key_defaults: Node | None = None,
        atomic_map: bool = False,
        atomic_list: bool = True,
        is_map: bool = False,
        is_list: bool = False,
        preserve: bool = False,
        exact: bool = True,
        present: tuple[str, ...] = (),
    ) -> None:
        self.scalar = scalar
        self.is_map, self.is_list = is_map, is_list
        self.atomic_map, self.atomic_list = atomic_map, atomic_list
        self.keys = keys
        self.key_defaults = key_defaults or {}
        self.present = present
        self.deduced = False
        self._properties = properties or {}
        self._known: dict[str, FieldType | None] = {}
        self._element, self._items = element, items
        self._preserve, self._strict = preserve, exact
        self.struct = bool(self._properties)
        self.leaf = (not is_map or atomic_map) and (not is_list or atomic_list)
        self._exact: bool | None = None
        self._plain: dict[str, str] = {}

    def plain(self, key: str) -> str | None:
        """The path element of a field that is owned whole; None for others. Asked for each key of each new object."""
        name = self._plain.get(key)
        if name is None and key in self._properties and key not in self.present:
            child = self.child(key)
            if child is not None and child.leaf:
                name = self._plain[key] = f"f:{key}"
        return name

    @property
    def exact(self) -> bool:
        if self._exact is None:
            if not self._strict or (self.is_map and self.is_list):
                self._exact = False
            elif self.is_list:
                self._exact = self.items.exact
            elif self.is_map and not self.struct:
                self._exact = self.element is not None and self.element.exact
            else:
                self._exact = True
        return self._exact

    def declares(self, key: str) -> bool:
        """Is this a field of a struct, not a key of a map?"""
        return key in self._properties

    def child(self, key: str) -> FieldType | None:
        """The type of a field or of a map's value; None when there is no such field."""
        try:
            return self._known[key]
        except KeyError:
            pass
        node = self._properties.get(key)
        if node is None:
            return self.element
        found = self._known[key] = convert(node, self._preserve, self._strict)
        return found

    @property
    def element(self) -> FieldType | None:
        """The type of keys that are not declared; None when there may be none."""
        element = self._element
        if element is None or isinstance(element, FieldType):
            return element
        found = self._element = convert(element, self._preserve, self._strict)
        return found

    @property
    def items(self) -> FieldType:
        items = self._items
        if isinstance(items, FieldType):
            return items
        found = self._items = convert(items or {}, self._preserve, self._strict)
        return found


def _atomic() -> FieldType:
    found = FieldType(UNTYPED, is_map=True, is_list=True, atomic_map=True)
    found._element = found._items = found
    return found


def _deduced() -> FieldType:
    found = FieldType(UNTYPED, is_map=True, is_list=True, items=ATOMIC)
    found._element = found
    found.deduced = True
    return found


ATOMIC: Final = _atomic()
DEDUCED: Final = _deduced()
_SCALARS: Final = {kind: FieldType(kind) for kind in (NUMERIC, STRING, BOOLEAN, UNTYPED)}
_BY_NAME: Final = {
    schema.QUANTITY: _SCALARS[UNTYPED],
    schema.RAW_EXTENSION: ATOMIC,
}


def of_kind(gvk: GVK) -> FieldType | None:
    """The type of a built-in kind, None when the schema does not know it."""
    name = schema.for_gvk(gvk)
    return None if name is None else _root(name)


@cache
def _root(name: str) -> FieldType:
    return _convert(
        schema.definition(name) or {}, False, present=_ROOT_PRESENT + PRESENT.get(name, ())
    )


def of_custom(openapi: Node | None) -> FieldType:
    """The type of a custom resource from its version's `openAPIV3Schema`; without one all is deduced."""
    if not openapi:
        return DEDUCED
    strict = not _is_loose(openapi)
    return convert({**openapi, "x-kubernetes-embedded-resource": True}, False, strict)


def _is_loose(node: Any) -> bool:
    """May some value below be of several types, so that `==` alone would not tell 1 from true?"""
    if isinstance(node, list):
        return any(map(_is_loose, node))
    if not isinstance(node, dict):
        return False
    return bool(node.get("x-kubernetes-preserve-unknown-fields")) or any(
        map(_is_loose, node.values())
    )


@cache
def _of_definition(name: str) -> FieldType:
    if found := _BY_NAME.get(name):
        return found
    return _convert(schema.definition(name) or {}, False, present=PRESENT.get(name, ()))


@cache
def _of_definition_atomic(name: str) -> FieldType:
    return _convert({**(schema.definition(name) or {}), "x-kubernetes-map-type": "atomic"}, False)


@cache
def _of_definition_granular(name: str) -> FieldType:
    node = {**(schema.definition(name) or {}), "x-kubernetes-map-type": "granular"}
    return _convert(node, False, present=PRESENT.get(name, ()))


def convert(node: Node, preserve: bool, strict: bool = True) -> FieldType:
    """The type of a schema node. `preserve`: a parent keeps unknown fields, and so do all below it.

    `strict` False: equal structs are compared value by value all the same.
    """
    name = node.get("$ref")
    if name is None:
        return _convert(node, preserve, strict=strict)
    relation = node.get("x-kubernetes-map-type")
    if relation is None:
        return _of_definition(name)
    return _of_definition_atomic(name) if relation == "atomic" else _of_definition_granular(name)


def _convert(
    node: Node, preserve: bool, present: tuple[str, ...] = (), strict: bool = True
) -> FieldType:
    preserve = preserve or bool(node.get("x-kubernetes-preserve-unknown-fields"))
    kind = node.get("type") or ""
    if kind in _PRIMITIVES:
        return _SCALARS[_PRIMITIVES[kind]]
    if kind == "string":
        return _SCALARS[STRING if (node.get("format") or "") in _STRING_FORMATS else UNTYPED]
    scalar = None if kind else UNTYPED
    items = node.get("items")
    properties = node.get("properties") or {}
    if node.get("x-kubernetes-embedded-resource"):
        properties = {**properties, **_RESOURCE}
    keys, atomic_list = _list_relation(node)
    is_list = kind in ("", "array")
    return FieldType(
        scalar,
        is_map=kind in ("", "object"),
        is_list=is_list,
        properties=properties,
        element=_element(node, properties, preserve),
        items=items if isinstance(items, dict) else ATOMIC,
        keys=keys,
        key_defaults=_key_defaults(items, keys) if is_list and isinstance(items, dict) else None,
        atomic_map=node.get("x-kubernetes-map-type") == "atomic",
        atomic_list=atomic_list,
        preserve=preserve,
        exact=strict,
        present=present,
    )


def _element(node: Node, properties: Node, preserve: bool) -> Node | FieldType | None:
    more = node.get("additionalProperties")
    if isinstance(more, dict):
        return more
    if more is None:
        return DEDUCED if preserve or not properties else None
    return DEDUCED if more else None


def _list_relation(node: Node) -> tuple[tuple[str, ...], bool]:
    """(map keys, is it atomic?)"""
    kind = node.get("x-kubernetes-list-type")
    if kind == "map":
        return tuple(node.get("x-kubernetes-list-map-keys") or ()), False
    if kind is not None:
        return (), kind != "set"
    if node.get("x-kubernetes-patch-strategy") in ("merge", "merge,retainKeys"):
        key = node.get("x-kubernetes-patch-merge-key")
        return (key,) if key else (), False
    return (), True


def _key_defaults(items: Node, keys: tuple[str, ...]) -> Node:
    """What a key is when an item leaves it out.

    Kubernetes' own OpenAPI has a default for every field that its Go type cannot leave out; of those, keys alone matter
    here, and a built-in's required key has its zero value.
    """
    builtin = "$ref" in items
    target = schema.resolve(items)
    properties, required = target.get("properties") or {}, target.get("required") or ()
    found = {}
    for key in keys:
        node = properties.get(key) or {}
        if "default" in node:
            found[key] = node["default"]
        elif builtin and (key in required or key == "name"):
            found[key] = 0 if node.get("type") == "integer" else ""
    return found
