"""What became of an object: the fields that were added, removed and modified, as sets.

Most of two versions of an object is equal, and Python compares dicts in C: equal parts are passed over without a step.
`created` is the comparison with an empty object, which every create asks for, in one walk.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from sampan.kube.apply import fields
from sampan.kube.apply.fields import LEAF, SELF, Fields
from sampan.kube.apply.types import ATOMIC, FieldType
from sampan.kube.apply.values import item_element, kind_of


@dataclass(slots=True)
class Comparison:
    added: Fields = field(default_factory=dict)
    removed: Fields = field(default_factory=dict)
    modified: Fields = field(default_factory=dict)
    changed: Fields = field(init=False)  # what the new object says anew

    def __post_init__(self) -> None:
        self.changed = fields.union(self.modified, self.added)


ABSENT: Final = object()
_NOTHING: Final = (None, None, None)
# (added, removed, modified): a node each, or None
Nodes = tuple[Fields | None, Fields | None, Fields | None]


def compare(old: Any, new: Any, of: FieldType) -> Comparison:
    if _same(old, new, of):
        return Comparison()
    added, removed, modified = _compare(old, new, of)
    return Comparison(added or {}, removed or {}, modified or {})


def equal(one: Any, other: Any) -> bool:
    """Equal as JSON: Python alone takes 1 and true for the same."""
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and one.keys() == other.keys()
            and all(equal(value, other[key]) for key, value in one.items())
        )
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _same(old: Any, new: Any, of: FieldType) -> bool:
    return bool(old == new) and (of.exact or equal(old, new))


def _compare(old: Any, new: Any, of: FieldType) -> Nodes:
    """Of values that are known to differ, or not to be there."""
    before = kind_of(old, of) if old is not ABSENT else ""
    after = kind_of(new, of) if new is not ABSENT else before
    before = before or after
    if old is None or new is None:  # null takes the form of the other
        before = after = before if new is None else after
    if before != after:
        return _reshaped(old, new, of)
    if before == "map":
        old_map = old if isinstance(old, dict) else None
        new_map = new if isinstance(new, dict) else None
        if of.atomic_map or not (old_map or new_map):
            return _leaf(old, new)
        nodes = _compare_maps(old_map, new_map, of)
    elif before == "list":
        old_list = old if isinstance(old, list) else None
        new_list = new if isinstance(new, list) else None
        if of.atomic_list or not (old_list or new_list):
            return _leaf(old, new)
        nodes = _compare_lists(old_list or [], new_list or [], of)
    else:
        return _leaf(old, new)
    added, removed, modified = nodes
    if old is ABSENT:
        return ({SELF: LEAF, **added} if added else LEAF), removed, modified
    if new is ABSENT:
        return added, ({SELF: LEAF, **removed} if removed else LEAF), modified
    return nodes


LEAF_MODIFIED: Final[Nodes] = (None, None, LEAF)


def _leaf(old: Any, new: Any) -> Nodes:
    if old is ABSENT:
        return LEAF, None, None
    if new is ABSENT:
        return None, LEAF, None
    return LEAF_MODIFIED


def _reshaped(old: Any, new: Any, of: FieldType) -> Nodes:
    """A value that was, say, a map and is a scalar: what was in it is gone, and it is modified itself."""

    def inside(value: Any) -> Fields | None:
        if isinstance(value, dict) and value and of.is_map and not of.atomic_map:
            return _compare_maps(None, value, of)[0]
        if isinstance(value, list) and value and of.is_list and not of.atomic_list:
            return _compare_lists([], value, of)[0]
        return None

    removed, added = inside(old), inside(new)
    return added, removed, None if added and removed else LEAF


class _Level:
    """The three nodes of one container while they are made."""

    __slots__ = ("added", "modified", "removed")

    def __init__(self) -> None:
        self.added: Fields = {}
        self.removed: Fields = {}
        self.modified: Fields = {}

    def put(self, element: str, nodes: Nodes) -> None:
        added, removed, modified = nodes
        if added is not None:
            self.added[element] = added
        if removed is not None:
            self.removed[element] = removed
        if modified is not None:
            self.modified[element] = modified

    def nodes(self) -> Nodes:
        return self.added or None, self.removed or None, self.modified or None


def _compare_maps(old: Fields | None, new: Fields | None, of: FieldType) -> Nodes:
    """None: there is no such map, so that not even what every one of its kind has is there."""
    level = _Level()
    there = of.present if old is not None else ()
    here = of.present if new is not None else ()
    old, new = old or {}, new or {}
    for key, item in new.items():
        before = old.get(key, ABSENT)
        if before is item or (type(item) is str and before == item):
            continue
        child = of.child(key) or ATOMIC
        if before == item and (child.exact or equal(before, item)):
            continue
        if before is ABSENT and key in there:
            before = {} if child.is_map else None
        level.put(f"f:{key}", _compare(before, item, child))
    for key, item in old.items():
        if key not in new:
            child = of.child(key) or ATOMIC
            after: Any = ABSENT
            if key in here:
                after = {} if child.is_map else None
            level.put(f"f:{key}", _compare(item, after, child))
    return level.nodes()


def _indexed(items: list[Any], of: FieldType) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for item in items:
        found.setdefault(item_element(of, item), []).append(item)
    return found


def _compare_lists(old: list[Any], new: list[Any], of: FieldType) -> Nodes:
    """Items by key. Those that are there twice cannot be told apart, and count as one."""
    level = _Level()
    before, after = _indexed(old, of), _indexed(new, of)
    items = of.items
    for element in {**before, **after}:
        ours, theirs = before.get(element, ()), after.get(element, ())
        one, other = (ours[0] if ours else ABSENT), (theirs[0] if theirs else ABSENT)
        if len(ours) <= 1 and len(theirs) <= 1:
            if one is other or _same(one, other, items):
                continue
            level.put(element, _compare(one, other, items))
        elif len(ours) > 1 and len(theirs) > 1:
            if not equal(ours, theirs):
                level.put(element, LEAF_MODIFIED)
        elif len(ours) > 1:
            added, _, modified = _NOTHING if other is ABSENT else _compare(ABSENT, other, items)
            level.put(element, (added, LEAF, modified))
        else:
            _, removed, modified = _NOTHING if one is ABSENT else _compare(one, ABSENT, items)
            level.put(element, (LEAF, removed, modified))
    return level.nodes()


# --- the comparison with nothing --------------------------------------------------------------------


def created(obj: Fields, of: FieldType) -> Fields:
    """`compare(<an empty object>, obj).added`: what the creator of an object owns."""
    return _created_fields(obj, of, True)


def _created(value: Any, of: FieldType, present: bool) -> Fields | None:
    """The node of a new value; None for one that adds nothing to what was there (`present`, but empty)."""
    if type(value) is dict and of.is_map:
        if of.atomic_map or not value:
            return None if present and not value else LEAF
        inner = _created_fields(value, of, present)
    elif type(value) is list and of.is_list:
        if of.atomic_list or not value:
            return LEAF
        inner = _created_items(value, of)
    else:
        return LEAF
    if present:
        return inner or None
    return {SELF: LEAF, **inner} if inner else LEAF


def _created_fields(value: Fields, of: FieldType, exists: bool) -> Fields:
    """`exists`: the map was there, empty, before."""
    if not of.struct and of.element is not None and of.element.leaf:
        return {f"f:{key}": LEAF for key in value}
    found: Fields = {}
    names, present = of._plain, of.present if exists else ()
    for key, item in value.items():
        name = names.get(key) or of.plain(key)
        if name is not None:
            found[name] = LEAF
        else:
            node = _created(item, of.child(key) or ATOMIC, key in present)
            if node is not None:
                found[f"f:{key}"] = node
    return found


def _created_items(value: list[Any], of: FieldType) -> Fields:
    found: Fields = {}
    items = of.items
    for item in value:
        element = item_element(of, item)
        if element in found:
            found[element] = LEAF
            continue
        node = _created(item, items, False)
        found[element] = LEAF if node is None else node
    return found
