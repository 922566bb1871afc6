"""A schema node: what one level of an `openAPIV3Schema` says, read once into attributes.

Nodes are made of the raw schema as they are first reached, so a definition of thousands of lines costs what its objects
use of it. The meaning of the attributes is that of structural schemas (KEP-1139, apiextensions `schema/structural.go`);
keywords that only restrict values are read by `values.py` into `checks`, when a value is first validated.
"""

from __future__ import annotations

from typing import Any, Final

Raw = dict[str, Any]

META_FIELDS: Final = ("apiVersion", "kind", "metadata")
OBJECT_META_RAW: Final[Raw] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
TYPE_META_RAW: Final[Raw] = {"type": "string"}


class Node:
    """Attributes are read-only; `child` and `item` give the nodes below, None where the schema says nothing."""

    __slots__ = (
        "_additional",
        "_fills",
        "_items",
        "_properties",
        "checks",
        "default",
        "embedded",
        "int_or_string",
        "list_keys",
        "list_type",
        "maps",
        "nullable",
        "preserve",
        "properties_raw",
        "raw",
        "rules",
        "type",
    )

    def __init__(self, raw: Raw) -> None:
        self.raw = raw
        self.type: str = raw.get("type") or ""
        self.nullable = bool(raw.get("nullable"))
        self.default: Any = raw.get("default")
        self.preserve = bool(raw.get("x-kubernetes-preserve-unknown-fields"))
        self.embedded = bool(raw.get("x-kubernetes-embedded-resource"))
        self.int_or_string = bool(raw.get("x-kubernetes-int-or-string"))
        self.list_type: str = raw.get("x-kubernetes-list-type") or "atomic"
        self.list_keys: list[str] = raw.get("x-kubernetes-list-map-keys") or []
        self.rules: list[Raw] = raw.get("x-kubernetes-validations") or []
        self.properties_raw: dict[str, Raw] = raw.get("properties") or {}
        additional = raw.get("additionalProperties")
        self.maps = additional is not None and additional is not False
        self.checks: Any = None
        self._properties: dict[str, Node] = {}
        self._additional: Node | None = None
        self._items: Node | None = None
        self._fills: bool | None = None

    def declared(self, name: str) -> Node | None:
        """The node of a declared property."""
        found = self._properties.get(name)
        if found is None:
            raw = self.properties_raw.get(name)
            if raw is None:
                return None
            found = self._properties[name] = Node(raw)
        return found

    @property
    def additional(self) -> Node | None:
        """The node of a map's values; None when there is none, or when anything goes."""
        if self._additional is None:
            raw = self.raw.get("additionalProperties")
            if not isinstance(raw, dict):
                return None
            self._additional = Node(raw)
        return self._additional

    @property
    def items(self) -> Node | None:
        if self._items is None:
            raw = self.raw.get("items")
            if not isinstance(raw, dict):
                return None
            self._items = Node(raw)
        return self._items

    def child(self, name: str) -> Node | None:
        """What a field of that name is held to: its own schema, else that of the map's values."""
        return self.declared(name) or self.additional

    @property
    def fills(self) -> bool:
        """Does this node or one below it have a default?"""
        if self._fills is None:
            self._fills = has_default(self.raw)
        return self._fills


def has_default(raw: Raw) -> bool:
    return any(each.get("default") is not None for each in structural_parts(raw))


def structural_parts(raw: Raw) -> list[Raw]:
    """The schema and all below it that describe values, without the junctors (allOf, anyOf, oneOf, not)."""
    found, waiting = [], [raw]
    while waiting:
        each = waiting.pop()
        found.append(each)
        waiting.extend((each.get("properties") or {}).values())
        for key in ("items", "additionalProperties"):
            inner = each.get(key)
            if isinstance(inner, dict):
                waiting.append(inner)
    return found


def every_part(raw: Raw) -> list[Raw]:
    """Every schema inside the schema, junctors included."""
    found, waiting = [], [raw]
    while waiting:
        each = waiting.pop()
        found.append(each)
        for key in ("properties", "patternProperties", "definitions"):
            waiting.extend(
                part for part in (each.get(key) or {}).values() if isinstance(part, dict)
            )
        for key in ("items", "additionalProperties", "additionalItems", "not"):
            inner = each.get(key)
            if isinstance(inner, dict):
                waiting.append(inner)
            elif isinstance(inner, list):
                waiting.extend(inner)
        for key in ("allOf", "anyOf", "oneOf"):
            waiting.extend(each.get(key) or ())
    return found
