"""Two values made into one, and values with items taken out: what an apply does to the object.

`merge` adds and overrides, and never removes. Items of a granular list keep the live order where the applied
configuration does not touch it, and the configuration's order where it does. `remove` takes out the members of a set.
"""

from __future__ import annotations

from typing import Any, Final

from sampan.kube.apply import fields
from sampan.kube.apply.fields import Fields
from sampan.kube.apply.types import ATOMIC, FieldType
from sampan.kube.apply.values import TypeErrors, item_element, kind_of

ABSENT: Final = object()


def merge(live: Any, applied: Any, of: FieldType) -> Any:
    """`applied` laid over `live`. Neither is changed; the result may share parts with both. Raises TypeErrors."""
    if applied is ABSENT:
        return live
    if live is ABSENT:
        live = None
    before, after = kind_of(live, of), kind_of(applied, of)
    if applied is None:
        return _over_null(live, before, of)
    if after == "map":
        if of.atomic_map or not applied:
            # An empty map over a granular one changes nothing; over nothing it is kept.
            return live if _granular_items(live, of) and not applied else applied
        return _merge_maps(live if before == "map" and isinstance(live, dict) else {}, applied, of)
    if after == "list":
        if of.atomic_list or not applied:
            return live if _granular_items(live, of) and not applied else applied
        return _merge_lists(live if isinstance(live, list) else [], applied, of)
    return applied


def _granular_items(live: Any, of: FieldType) -> bool:
    """Does `live` hold items that are owned one by one?"""
    if isinstance(live, dict):
        return bool(live) and of.is_map and not of.atomic_map
    if isinstance(live, list):
        return bool(live) and of.is_list and not of.atomic_list
    return False


def _over_null(live: Any, kind: str, of: FieldType) -> Any:
    """An explicit null: it replaces what is owned whole, and touches none of the items of a granular value."""
    return live if _granular_items(live, of) else None


def _merge_maps(live: Fields, applied: Fields, of: FieldType) -> Fields:
    found = dict(live)
    for key, item in applied.items():
        child = of.child(key) or ATOMIC
        found[key] = merge(live[key], item, child) if key in live else _alone(item, child)
    return found


def _alone(applied: Any, of: FieldType) -> Any:
    return merge(ABSENT, applied, of)


def _merge_lists(live: list[Any], applied: list[Any], of: FieldType) -> list[Any]:
    """The walk of structured-merge-diff: two cursors, meeting at the items that both have."""
    theirs: dict[str, Any] = {}
    for item in applied:
        element = item_element(of, item)
        if element in theirs:
            raise TypeErrors([f"duplicate entries for key {fields.shown(element)}"])
        theirs[element] = item
    order = list(theirs)
    ours: dict[str, Any] = {}
    elements = [item_element(of, item) for item in live]
    for element, item in zip(elements, live, strict=True):
        ours[element] = None if element in ours else item  # a duplicate is merged with nothing
    shared = [element for element in order if element in ours]
    shared.reverse()
    awaited = shared.pop() if shared else None
    merged: set[str] = set()
    found = []
    left = right = 0
    while left < len(live) or right < len(order):
        if left < len(live) and right < len(order):
            element = elements[left]
            if element == order[right]:
                merged.add(element)
                found.append(merge(ours[element], theirs[element], of.items))
                left, right = left + 1, right + 1
                awaited = shared.pop() if shared else None
                continue
            if element in theirs and awaited is not None and awaited != element:
                left += 1  # shared, but not the one whose turn it is
                continue
        if left < len(live):
            element = elements[left]
            if element not in theirs:
                found.append(live[left])
                left += 1
                continue
            if element in merged:
                left += 1
        if right < len(order):
            element = order[right]
            merged.add(element)
            found.append(merge(ours.get(element, ABSENT), theirs[element], of.items))
            right += 1
            if awaited == element:
                awaited = shared.pop() if shared else None
    return found


# --- taking out -------------------------------------------------------------------------------------


def remove(value: Any, items: Fields, of: FieldType) -> Any:
    """The value without the members of `items`. What is left empty is null, and what is atomic goes whole or stays.

    A null that this leaves is dropped by the caller that reads the object into its schema.
    """
    kind = kind_of(value, of)
    if kind == "map" and isinstance(value, dict):
        return _remove_fields(value, items, of)
    if kind == "list" and isinstance(value, list):
        return _remove_items(value, items, of)
    return value


def _remove_fields(value: Fields, items: Fields, of: FieldType) -> Fields | None:
    if not value or of.atomic_map:
        return None
    found = {}
    for key, item in value.items():
        node = items.get(f"f:{key}")
        if fields.member(node):
            continue
        if node:
            item = remove(item, node, of.child(key) or ATOMIC)
        found[key] = item
    return found or None


def _remove_items(value: list[Any], items: Fields, of: FieldType) -> list[Any] | None:
    if not value or of.atomic_list:
        return None
    found = []
    for item in value:
        node = items.get(item_element(of, item))
        if fields.member(node):
            continue
        if node:
            item = remove(item, node, of.items)
        found.append(item)
    return found or None
