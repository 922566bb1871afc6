"""A set of fields after its schema has changed: what has become atomic is owned whole or not at all.

A CustomResourceDefinition may turn a granular list or map into an atomic one while objects exist. Who owned something
within it then owns the field itself. The other direction needs nothing (structured-merge-diff treats the field as if
it had always been granular).
"""

from __future__ import annotations

from sampan.kube.apply import fields
from sampan.kube.apply.fields import LEAF, SELF, Fields
from sampan.kube.apply.types import FieldType


def reconcile(owned: Fields, of: FieldType) -> Fields:
    """The same set when nothing has changed, which is the usual case."""
    found = None
    for element, node in owned.items():
        if element == SELF:
            continue
        child = _type_at(of, element)
        if child is None or child.deduced:
            continue
        fixed = _node(node, child)
        if fixed is not node:
            found = found if found is not None else dict(owned)
            found[element] = fixed
    return owned if found is None else found


def _type_at(of: FieldType, element: str) -> FieldType | None:
    if element.startswith("f:"):
        return of.child(element[2:]) if of.is_map else None
    return of.items if of.is_list else None


def _node(node: Fields, of: FieldType) -> Fields:
    inner = fields.children(node)
    if not inner:
        return node
    if (of.is_map and of.atomic_map) or (not of.is_map and of.is_list and of.atomic_list):
        return LEAF
    fixed = reconcile(inner, of)
    if fixed is inner:
        return node
    return {SELF: LEAF, **fixed} if SELF in node else fixed
