"""Sets of fields, kept as what they look like on the wire: FieldsV1, a tree of path elements.

    {"f:spec": {"f:replicas": {}, "f:ports": {'k:{"port":80,"protocol":"TCP"}': {".": {}, "f:port": {}}}}}

`f:` names a field, `k:` an item of a list of type map, `v:` an item of a set, `i:` a position. A node is a member of
the set when it is empty or has the key "."; all else are its children. An object that was read from the store thus
has its sets ready, and the algebra of structured-merge-diff (`fieldpath.Set`) is a walk over dicts. Nodes are shared
between sets: nothing here changes one in place, and nobody else may.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import orjson

from sampan.kube import errors

Fields = dict[str, Any]  # str → Fields
Path = tuple[str, ...]

LEAF: Final[Fields] = {}
SELF: Final = "."
_MEMBER: Final[Fields] = {SELF: LEAF}

# Go's encoder escapes these in strings, and so do the keys that other servers have written.
_HTML = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


class FieldsError(ValueError):
    """Something that says it is FieldsV1 and is not."""


def in_order(fields: Fields) -> Fields:
    """The same set with its elements sorted, as others write it.

    Go's client keeps FieldsV1 as the bytes that came, and as sorted ones after it has been a map: only a sorted set is
    the same to it both ways.
    """
    return orjson.loads(orjson.dumps(fields, option=orjson.OPT_SORT_KEYS))  # type: ignore[no-any-return]


# --- path elements ----------------------------------------------------------------------------------


def scalar(value: Any) -> str:
    """A value as it stands in an element. Raises FieldsError for what JSON cannot say."""
    try:
        text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    except TypeError as error:
        raise FieldsError(str(error)) from None
    if "<" in text or ">" in text or "&" in text:
        return text.translate(_HTML)
    return text


def key_element(key: dict[str, Any]) -> str:
    return f"k:{scalar(key)}"


def value_element(value: Any) -> str:
    return f"v:{scalar(value)}"


def canonical(element: str) -> str | None:
    """The element as we would write it; None for a kind of element that is not known and so is dropped.

    Raises FieldsError for what is no element at all.
    """
    kind = element[:2]
    if kind == "f:":
        return element
    if len(element) < 2:
        raise FieldsError("key must be 2 characters long:")
    if element[1] != ":":
        raise FieldsError(f"missing colon: {element}")
    if kind == "i:":
        try:
            return f"i:{int(element[2:])}"
        except ValueError:
            raise FieldsError(f"invalid index: {element}") from None
    if kind not in ("k:", "v:"):
        return None
    try:
        value = orjson.loads(element[2:])
    except orjson.JSONDecodeError as error:
        raise FieldsError(f"parsing key as path element: {error}") from None
    if kind == "v:":
        return value_element(value)
    if not isinstance(value, dict):
        raise FieldsError(f"parsing key as path element: {element}")
    return key_element(value)


def shown(element: str) -> str:
    """The element as messages show it: `.name`, `[name="x"]`, `[="x"]`, `[3]`."""
    kind, rest = element[:2], element[2:]
    if kind == "f:":
        return f".{rest}"
    if kind == "i:":
        return f"[{rest}]"
    value = orjson.loads(rest)
    if kind == "v:":
        return f"[={_go(value)}]"
    return "[" + ",".join(f"{name}={_go(each)}" for name, each in sorted(value.items())) + "]"


def shown_path(path: Path) -> str:
    return "".join(map(shown, path))


def _go(value: Any) -> str:
    """A value as structured-merge-diff prints it in a path."""
    if isinstance(value, str):
        return errors.quote(value)
    if isinstance(value, list):
        return "[" + ",".join(map(_go, value)) + "]"
    if isinstance(value, dict):
        return "".join(f"{key}={_go(each)}" for key, each in value.items())
    return "null" if value is None else scalar(value)


# --- reading and writing ----------------------------------------------------------------------------


def parse(value: Any) -> Fields:
    """FieldsV1 of a stranger, checked and in our spelling. Raises FieldsError."""
    if not isinstance(value, dict):
        raise FieldsError("expected a map of path elements")
    found: Fields = {}
    for element, inner in value.items():
        if element == SELF:
            found[SELF] = LEAF
            continue
        name = canonical(element)
        if name is None:
            continue
        node = parse(inner)
        found[name] = union(found[name], node) if name in found else node
    return found


def root(value: Any) -> Fields:
    """`parse` for a whole set: nobody owns "the entire object"."""
    found = parse(value)
    found.pop(SELF, None)
    return found


def of(*paths: Path) -> Fields:
    """The set of these paths."""
    found: Fields = {}
    for path in paths:
        found = union(found, _single(path))
    return found


def _single(path: Path) -> Fields:
    node = LEAF
    for element in reversed(path):
        node = {element: node}
    return node


# --- asking -----------------------------------------------------------------------------------------


def member(node: Fields | None) -> bool:
    """Is the node of this name itself in the set?"""
    return node is not None and (not node or SELF in node)


def has(fields: Fields, path: Path) -> bool:
    node: Fields | None = fields
    for element in path:
        if node is None:
            return False
        node = node.get(element)
    return bool(path) and member(node)


def paths(fields: Fields, prefix: Path = ()) -> Iterator[Path]:
    """Every member: at each level the members of the level first, then what is in them."""
    names = sorted(name for name in fields if name != SELF)
    for name in names:
        if member(fields[name]):
            yield (*prefix, name)
    for name in names:
        if fields[name]:
            yield from paths(fields[name], (*prefix, name))


def leaves(fields: Fields) -> Fields:
    """The members that have no members in them."""
    found: Fields = {}
    for name, node in fields.items():
        if name == SELF:
            continue
        inner = leaves(node)
        if inner or not children(node):
            found[name] = inner or LEAF
    return found


def children(node: Fields) -> Fields:
    """What is in a node, without the node itself."""
    if SELF not in node:
        return node
    return {name: inner for name, inner in node.items() if name != SELF}


# --- algebra ----------------------------------------------------------------------------------------


def union(one: Fields, other: Fields) -> Fields:
    if not other or one is other:
        return one
    if not one:
        return other
    found = dict(one)
    for name, node in other.items():
        present = found.get(name)
        found[name] = node if present is None else _union_node(present, node)
    return found


def _union_node(one: Fields, other: Fields) -> Fields:
    """Nodes: an empty one is a member, which a plain union would forget."""
    if one is other or one == other:
        return one
    return union(one or _MEMBER, other or _MEMBER)


def intersection(one: Fields, other: Fields) -> Fields:
    found: Fields = {}
    for name, node in one.items():
        present = other.get(name)
        if present is None or name == SELF:
            continue
        inner = intersection(node, present)
        if member(node) and member(present):
            found[name] = {SELF: LEAF, **inner} if inner else LEAF
        elif inner:
            found[name] = inner
    return found


def difference(one: Fields, other: Fields) -> Fields:
    """What is in `one` and not in `other`. A parent is no part of its child, nor a child of its parent."""
    if not other:
        return one
    found: Fields = {}
    for name, node in one.items():
        present = other.get(name)
        if present is None:
            found[name] = node
            continue
        if name == SELF:
            continue
        inner = difference(children(node), children(present))
        if member(node) and not member(present):
            found[name] = {SELF: LEAF, **inner} if inner else LEAF
        elif inner:
            found[name] = inner
    return found


def without(one: Fields, other: Fields) -> Fields:
    """`one` without the members of `other` and all that is in them (SMD's recursive difference)."""
    if not other:
        return one
    found: Fields = {}
    for name, node in one.items():
        present = other.get(name)
        if present is None:
            found[name] = node
            continue
        if name == SELF or member(present):
            continue
        inner = without(children(node), children(present))
        if member(node):
            found[name] = {SELF: LEAF, **inner} if inner else LEAF
        elif inner:
            found[name] = inner
    return found


ANY: Final = "*"  # in a pattern, any element


def within(one: Fields, *patterns: Path) -> Fields:
    """Only the members whose path begins with, or is part of, one of these (SMD's prefix matchers)."""
    found: Fields = {}
    for name, node in one.items():
        if name == SELF:
            continue
        rest = [pattern[1:] for pattern in patterns if pattern[0] in (name, ANY)]
        if not rest:
            continue
        if any(not pattern for pattern in rest):
            found[name] = node
            continue
        inner = within(node, *rest)
        if member(node):
            found[name] = {SELF: LEAF, **inner} if inner else LEAF
        elif inner:
            found[name] = inner
    return found
