"""Strategic merge patch: a merge patch that knows from the schema which lists are sets, and of what.

A list marked `merge` is merged item by item: objects by their merge key, scalars as a set. A patch may carry directives:

    $patch: delete | replace        on an object: empty it, or take the patch as it is; on a list item: drop that item,
                                    or (alone in the list) replace the whole list
    $retainKeys: [a, b]             all other fields of the object go away
    $setElementOrder/f: [...]       the order that the items of list `f` shall have
    $deleteFromPrimitiveList/f: []  values to take out of the set `f`

Items that only the server has keep their place relative to the rest. Rules: apimachinery `util/strategicpatch`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sampan.kube import errors, schema
from sampan.kube.objects import clone
from sampan.kube.patch.failures import does_not_apply, malformed

PATCH: Final = "$patch"
RETAIN_KEYS: Final = "$retainKeys"
SET_ORDER: Final = "$setElementOrder/"
DELETE_VALUES: Final = "$deleteFromPrimitiveList/"

Map = dict[str, Any]


def strategic_merge_patch(obj: Map, patch: Any, schema_name: str) -> Map:
    """The object with the patch merged in by the definition `schema_name`.

    ApiError 400 for malformed directives, 422 for a patch that this object refuses.
    """
    if not isinstance(patch, dict):
        raise malformed(
            "json: cannot unmarshal the patch into Go value of type map[string]interface {}"
        )
    return _merge_map(clone(obj), clone(patch), schema_name)


def _merge_map(original: Map, patch: Map, name: str | None) -> Map:
    """`name` is the definition of the object, None for a free map or an unknown type."""
    match patch.pop(PATCH, "merge"):
        case "replace":
            return patch
        case "delete":
            return {}
        case "merge":
            pass
        case other:
            raise does_not_apply(f"unknown patch type {other} in map")
    known = schema.fields(name) if name else {}
    _retain_keys(original, patch)
    _apply_orders(original, patch, known)
    for key, value in patch.items():
        if key.startswith(DELETE_VALUES):
            _delete_values(original, key.removeprefix(DELETE_VALUES), value)
            continue
        if value is None:
            original.pop(key, None)
            continue
        present = original.get(key)
        node = known.get(key) or {}
        if isinstance(present, dict) and isinstance(value, dict):
            replace = "replace" in schema.patch_strategy(node)
            original[key] = value if replace else _merge_map(present, value, node.get("$ref"))
        elif isinstance(present, list) and isinstance(value, list):
            original[key] = _merge_list(present, value, node)
        else:
            original[key] = _without_directives(value)
    return original


def _retain_keys(original: Map, patch: Map) -> None:
    if RETAIN_KEYS not in patch:
        return
    retained = patch.pop(RETAIN_KEYS)
    if not isinstance(retained, list):
        raise malformed("invalid patch format of retainKeys")
    kept = {_hashable(key) for key in retained}
    for key, value in patch.items():
        if value is not None and not key.startswith((DELETE_VALUES, SET_ORDER)) and key not in kept:
            raise malformed("invalid patch format of retainKeys")
    for key in [key for key in original if key not in kept]:
        del original[key]


def _delete_values(original: Map, key: str, values: Any) -> None:
    if not isinstance(values, list) or not key:
        raise malformed("invalid patch format of primitive list")
    present = original.get(key)
    if isinstance(present, list):
        gone = {_hashable(value) for value in values}
        original[key] = [item for item in present if _hashable(item) not in gone]


def _apply_orders(original: Map, patch: Map, known: dict[str, schema.Node]) -> None:
    """Settle every list that comes with `$setElementOrder`, and take both out of the patch."""
    for directive in [key for key in patch if key.startswith(SET_ORDER)]:
        order = patch.pop(directive)
        key = directive.removeprefix(SET_ORDER)
        if not isinstance(order, list) or not key:
            raise malformed("invalid patch format of setElementOrder list")
        present, wanted = original.get(key), patch.pop(key, None)
        if not isinstance(present, list | None) or not isinstance(wanted, list | None):
            raise malformed("invalid patch format of setElementOrder list")
        node = known.get(key) or {}
        merge_key = schema.patch_merge_key(node)
        identity = _identity(merge_key)
        if wanted:
            _check_order(wanted, order, identity)
        if present is None and wanted is None:
            continue
        if present is None:
            merged = _without_directives(wanted)
        elif wanted is None:
            merged = present
        else:
            merged = _merge_list(list(present), wanted, node)
        original[key] = _ordered(merged, order, present or [], identity)


def _check_order(wanted: list[Any], order: list[Any], identity: Callable[[Any], Any]) -> None:
    """Every item of the patch, in the same relative order, must be in the order list."""
    places = iter([identity(item) for item in order])
    for item in wanted:
        if isinstance(item, dict) and item.get(PATCH) == "delete":
            continue
        if identity(item) not in places:
            raise malformed(
                f"The order in patch list:\n{errors.render(wanted)}\n doesn't match "
                f"$setElementOrder list:\n{errors.render(order)}\n"
            )


def _identity(merge_key: str | None) -> Callable[[Any], Any]:
    """What names an item of the list: the value of its merge key, or the scalar itself."""

    def of_map(item: Any) -> Any:
        if not isinstance(item, dict):
            raise does_not_apply(f"expected a map in the list, found {errors.render(item)}")
        if merge_key not in item:
            text = f"map: {errors.render(item)} does not contain declared merge key: {merge_key}"
            raise does_not_apply(text)
        return item[merge_key]

    return of_map if merge_key else lambda item: item


def _merge_list(original: list[Any], patch: list[Any], node: schema.Node) -> list[Any]:
    if "merge" not in schema.patch_strategy(node):
        return patch
    merge_key = schema.patch_merge_key(node)
    if any(isinstance(item, list) for item in (*original, *patch)):
        raise does_not_apply("lists of lists are not supported")
    maps = [isinstance(item, dict) for item in (*original, *patch)]
    if any(maps) and not all(maps):
        raise does_not_apply("expected all items of the list to be of one type")
    if not any(maps):
        merged = list(dict.fromkeys([*original, *patch]))
        return _ordered(merged, patch, original, _identity(None))
    if not merge_key:
        raise does_not_apply(
            f"cannot merge lists without merge key for {schema.ref(node) or 'this list'}"
        )
    return _merge_maps(original, patch, merge_key, schema.ref(node))


def _merge_maps(
    original: list[Any], patch: list[Any], merge_key: str, name: str | None
) -> list[Any]:
    identity = _identity(merge_key)
    plain: list[Map] = []
    dropped: set[Any] = set()
    replace = False
    for item in patch:
        match item.get(PATCH, "merge"):
            case "merge":
                plain.append({key: value for key, value in item.items() if key != PATCH})
            case "delete":
                dropped.add(_hashable(identity(item)))
            case "replace":
                replace = True
            case other:
                raise does_not_apply(f"unknown patch type {other} in map")
    if replace:
        return plain
    kept = [item for item in original if _hashable(identity(item)) not in dropped]
    merged = list(kept)
    places = _places(merged, identity)
    for item in plain:
        wanted = _hashable(identity(item))
        place = places.get(wanted)
        if place is None:
            places[wanted] = len(merged)
            merged.append(_without_directives(item))
        else:
            merged[place] = _merge_map(merged[place], item, name)
    return _ordered(merged, plain, kept, identity)


def _ordered(
    merged: list[Any], order: list[Any], server_order: list[Any], identity: Callable[[Any], Any]
) -> list[Any]:
    """Items named by `order` in that order; the others keep their place before or after them as the server had it."""
    asked = _places(order, identity)
    before = _places(server_order, identity)
    named = [item for item in merged if _hashable(identity(item)) in asked]
    named.sort(key=lambda item: asked[_hashable(identity(item))])
    others = [item for item in merged if _hashable(identity(item)) not in asked]
    others.sort(key=lambda item: before.get(_hashable(identity(item)), len(before)))
    result: list[Any] = []
    left = iter(others)
    other = next(left, None)
    for item in named:
        place = before.get(_hashable(identity(item)))
        while other is not None and place is not None:
            if before.get(_hashable(identity(other)), place) >= place:
                break
            result.append(other)
            other = next(left, None)
        result.append(item)
    if other is not None:
        result.append(other)
    return result + list(left)


def _places(items: list[Any], identity: Callable[[Any], Any]) -> dict[Any, int]:
    places: dict[Any, int] = {}
    for place, item in enumerate(items):
        places.setdefault(_hashable(identity(item)), place)
    return places


def _hashable(value: Any) -> Any:
    # A hostile patch may put an object where a key's value belongs.
    return errors.render(value) if isinstance(value, dict | list) else value


def _without_directives(value: Any) -> Any:
    """A patch value that becomes part of the object: no directive, no null, no item that asks to be deleted."""
    if isinstance(value, dict):
        if value.get(PATCH) == "delete":
            return {}
        return {
            key: _without_directives(item)
            for key, item in value.items()
            if item is not None
            and key not in (PATCH, RETAIN_KEYS)
            and not key.startswith((SET_ORDER, DELETE_VALUES))
        }
    if isinstance(value, list):
        return [
            _without_directives(item)
            for item in value
            if not (isinstance(item, dict) and item.get(PATCH) in ("delete", "replace"))
        ]
    return value
