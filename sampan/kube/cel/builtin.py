"""Built-in kinds as types, from the generated schema: what the type check of policies reasons with.

Definitions refer to each other, some to themselves, so a type's fields are made when they are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from sampan.kube import schema
from sampan.kube.cel.names import escape
from sampan.kube.cel.schema import from_schema
from sampan.kube.cel.types import (
    DYN,
    STRING,
    TIMESTAMP,
    Field,
    ObjectType,
    Type,
    list_of,
    map_of,
)
from sampan.kube.types import GVK

_KNOWN = {
    schema.QUANTITY: STRING,
    schema.INT_OR_STRING: DYN,
    "io.k8s.apimachinery.pkg.apis.meta.v1.Time": TIMESTAMP,
    "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime": TIMESTAMP,
}


class _Fields(Mapping[str, Field]):
    """The fields of a definition, each made at its first look."""

    def __init__(self, properties: Mapping[str, Any]) -> None:
        self._nodes = {escape(name): (name, node) for name, node in properties.items()}
        self._made: dict[str, Field] = {}

    def __getitem__(self, name: str) -> Field:
        found = self._made.get(name)
        if found is None:
            original, node = self._nodes[name]
            found = self._made[name] = Field(original, _type(node))
        return found

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._nodes if name is not None)

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, name: object) -> bool:
        return name in self._nodes


class _Definition(ObjectType):
    __slots__ = ()

    def __init__(self, name: str, fields: Mapping[str, Field]) -> None:
        super().__init__(name, {})
        self.fields = fields
        self.plain = True  # never evaluated: only checked


@cache
def _definition(name: str) -> Type:
    known = _KNOWN.get(name)
    if known is not None:
        return known
    properties = schema.fields(name)
    return _Definition(name, _Fields(properties)) if properties else DYN


def _type(node: Mapping[str, Any]) -> Type:
    name = node.get("$ref")
    if name:
        return _definition(name)
    if schema.is_int_or_string(dict(node)):
        return DYN
    kind = node.get("type")
    if kind == "array":
        return list_of(_type(node.get("items") or {}))
    if kind == "object":
        values = node.get("additionalProperties")
        return map_of(STRING, _type(values)) if isinstance(values, Mapping) else DYN
    return from_schema(node)


def type_of(gvk: GVK) -> Type | None:
    """None for a kind that the schema does not know."""
    name = schema.for_gvk(gvk)
    return None if name is None else _definition(name)
