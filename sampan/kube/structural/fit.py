"""Fitting an object to its structural schema, in place: unknown fields go, nulls go or become defaults, defaults are filled in.

Three steps as in apiextensions (`schema/pruning`, `schema/defaulting`), each idempotent, in this order:

    prune      what the schema does not name, unless x-kubernetes-preserve-unknown-fields keeps it
    nulls      a null where the schema is not nullable and has no default
    defaults   what is missing, or null and not nullable

The fields of an object's type and metadata belong to no schema; they are left alone at the root and in embedded resources.
"""

from __future__ import annotations

from typing import Any

from sampan.kube.objects import clone
from sampan.kube.structural.node import META_FIELDS, Node

Unknown = list[str]


def prune(value: Any, node: Node | None, unknown: Unknown | None = None, *, root: bool) -> None:
    """Remove what the schema does not know. `unknown` gets the paths of what went."""
    _prune(value, node, unknown, "", root)
    if unknown:
        unknown.sort()


def _prune(
    value: Any, node: Node | None, unknown: Unknown | None, path: str, embedded: bool
) -> None:
    if type(value) is dict:
        preserve = node is not None and node.preserve
        for key in list(value):
            if embedded and key in META_FIELDS:
                continue
            entry = value[key]
            inner = node.declared(key) if node is not None else None
            if inner is None and (node is None or not node.maps):
                if not preserve:
                    if unknown is not None and (path or key not in META_FIELDS):
                        unknown.append(f"{path}.{key}" if path else key)
                    del value[key]
                continue
            kind = type(entry)
            if kind is dict or kind is list:
                if inner is None and node is not None:
                    inner = node.additional
                where = f"{path}.{key}" if path else key
                _prune(entry, inner, unknown, where, inner is not None and inner.embedded)
    elif type(value) is list:
        item = node.items if node is not None else None
        if node is not None and node.preserve:
            if item is None:
                return
            # What is below a list that preserves is preserved as well, but for what its items declare.
            for index, entry in enumerate(value):
                _skip(entry, item, unknown, f"{path}[{index}]")
            return
        for index, entry in enumerate(value):
            kind = type(entry)
            if kind is dict or kind is list:
                inside = item is not None and item.embedded
                _prune(entry, item, unknown, f"{path}[{index}]", inside)


def _skip(value: Any, node: Node, unknown: Unknown | None, path: str) -> None:
    """Inside a preserved list: unknown fields stay, declared ones are pruned below."""
    if type(value) is dict:
        for key, entry in value.items():
            if node.embedded and key in META_FIELDS:
                continue
            inner = node.child(key)
            if inner is not None:
                _prune(entry, inner, unknown, f"{path}.{key}", inner.embedded)
    elif type(value) is list and node.items is not None:
        for index, entry in enumerate(value):
            _skip(entry, node.items, unknown, f"{path}[{index}]")


def drop_nulls(value: Any, node: Node | None) -> None:
    """Remove nulls that the schema neither allows nor replaces by a default."""
    if type(value) is dict:
        for key in list(value):
            inner = node.child(key) if node is not None else None
            entry = value[key]
            if entry is None:
                if inner is not None and not inner.nullable and inner.default is None:
                    del value[key]
            else:
                drop_nulls(entry, inner)
    elif type(value) is list:
        item = node.items if node is not None else None
        for entry in value:
            drop_nulls(entry, item)


def default(value: Any, node: Node | None) -> None:
    """Fill in what is missing, and replace nulls that are not allowed."""
    if node is None or not node.fills:
        return
    if type(value) is dict:
        for name, raw in node.properties_raw.items():
            wanted = raw.get("default")
            if wanted is None:
                continue
            if name not in value or (value[name] is None and not raw.get("nullable")):
                value[name] = clone(wanted)
        for key, entry in value.items():
            inner = node.declared(key)
            if inner is None:
                inner = node.additional
                if entry is None and inner is not None and not inner.nullable:
                    entry = value[key] = clone(inner.default)
            if inner is not None:
                default(entry, inner)
    elif type(value) is list:
        item = node.items
        if item is None:
            return
        for index, entry in enumerate(value):
            if entry is None and not item.nullable:
                entry = value[index] = clone(item.default)
            default(entry, item)
