"""A value and its type together: is it valid, what does it say of which fields, and how are items of a list told apart.

The wording of what is wrong is structured-merge-diff's, because an apply that names an unknown field is answered with
it, whatever `fieldValidation` says.
"""

from __future__ import annotations

from typing import Any, Final

from sampan.kube.apply.fields import (
    LEAF,
    SELF,
    Fields,
    key_element,
    shown,
    value_element,
)
from sampan.kube.apply.types import (
    ATOMIC,
    BOOLEAN,
    NUMERIC,
    STRING,
    UNTYPED,
    FieldType,
)
from sampan.kube.gotext import plain


class TypeErrors(ValueError):
    """A value that is not of its type: all that is wrong with it."""

    def __init__(self, problems: list[str]) -> None:
        text = problems[0] if len(problems) == 1 else "\n  ".join(["errors:", *problems])
        super().__init__(text)


class _NoKey(ValueError):
    """An item of a list that cannot be told from others."""


# --- items of lists ---------------------------------------------------------------------------------


def item_element(list_type: FieldType, item: Any) -> str:
    """How the item is named in a path. Raises ValueError."""
    if not list_type.keys:
        if isinstance(item, dict):
            raise _NoKey("associative list without keys has an element that's a map type")
        if isinstance(item, list):
            raise _NoKey("not supported: associative list with lists as elements")
        if item is None:
            raise _NoKey("associative list without keys has an element that's an explicit null")
        return value_element(item)
    if not isinstance(item, dict):
        kind = "a null element" if item is None else "non-map elements"
        raise _NoKey(f"associative list with keys may not have {kind}")
    key = {}
    defaults = list_type.key_defaults
    for name in list_type.keys:
        if name in item:
            key[name] = item[name]
        elif name in defaults:
            key[name] = defaults[name]
    if not key:
        names = "[" + " ".join(f'"{name}"' for name in list_type.keys) + "]"
        raise _NoKey(
            f"associative list with keys has an element that omits all key fields {names} "
            "(and doesn't have default values for any key fields)"
        )
    return key_element(key)


# --- is it of its type? -----------------------------------------------------------------------------


def check(value: Any, of: FieldType, *, duplicates: bool = False) -> None:
    """Raises TypeErrors. `duplicates`: items that cannot be told apart are tolerated, as in a live object."""
    problems: list[str] = []
    _check(value, of, "", duplicates, problems)
    if problems:
        raise TypeErrors(problems)


def kind_of(value: Any, of: FieldType) -> str:
    """map | scalar | list: which of its type's possibilities a value is to be read as."""
    if isinstance(value, dict):
        if of.is_map:
            return "map"
    elif isinstance(value, list):
        if of.is_list:
            return "list"
    elif value is not None and of.scalar:
        return "scalar"
    return "map" if of.is_map else "scalar" if of.scalar else "list"


def _check(value: Any, of: FieldType, path: str, duplicates: bool, problems: list[str]) -> None:
    kind = kind_of(value, of)
    if value is None:
        return
    if kind == "scalar":
        problem = _scalar_problem(value, of.scalar)
        if problem:
            problems.append(_at(path, problem))
    elif kind == "map":
        if not isinstance(value, dict):
            problems.append(_at(path, f"expected map, got &{{{plain(value)}}}"))
            return
        for key, item in value.items():
            child = of.child(key)
            if child is None:
                problems.append(f"{path}.{key}: field not declared in schema")
                return
            _check(item, child, f"{path}.{key}", duplicates, problems)
    elif not isinstance(value, list):
        problems.append(_at(path, f"expected list, got &{{{plain(value)}}}"))
    else:
        _check_items(value, of, path, duplicates, problems)


def _check_items(
    value: list[Any], of: FieldType, path: str, duplicates: bool, problems: list[str]
) -> None:
    seen: set[str] = set()
    items = of.items
    for index, item in enumerate(value):
        if of.atomic_list:
            if items is not ATOMIC:
                _check(item, items, f"{path}[{index}]", duplicates, problems)
            continue
        try:
            element = item_element(of, item)
        except ValueError as error:
            problems.append(_at(path, f"element {index}: {error}"))
            return
        name = shown(element)
        if element in seen and not duplicates:
            problems.append(_at(path, f"duplicate entries for key {name}"))
        seen.add(element)
        _check(item, items, path + name, duplicates, problems)


def _at(path: str, problem: str) -> str:
    return f"{path}: {problem}" if path else problem


def _scalar_problem(value: Any, scalar: str | None) -> str:
    if scalar == STRING and not isinstance(value, str):
        return f"expected string, got &value.valueUnstructured{{Value:{_syntax(value)}}}"
    if scalar == NUMERIC and (isinstance(value, bool) or not isinstance(value, int | float)):
        return f"expected numeric (int or float), got {_go_type(value)}"
    if scalar == BOOLEAN and not isinstance(value, bool):
        return f"expected boolean, got &{{{plain(value)}}}"
    if scalar == UNTYPED and isinstance(value, dict | list):
        return f"expected any scalar, got &{{{plain(value)}}}"
    return ""


_GO_TYPES: Final = {
    dict: "map[string]interface {}",
    list: "[]interface {}",
    str: "string",
    bool: "bool",
    int: "int64",
    float: "float64",
}


def _go_type(value: Any) -> str:
    return _GO_TYPES.get(type(value), "<nil>")


def _syntax(value: Any) -> str:
    """As Go's %#v prints it."""
    if isinstance(value, dict):
        inner = ", ".join(f'"{key}":{_syntax(value[key])}' for key in sorted(value))
        return f"map[string]interface {{}}{{{inner}}}"
    if isinstance(value, list):
        return f"[]interface {{}}{{{', '.join(map(_syntax, value))}}}"
    if isinstance(value, str):
        return f'"{value}"'
    return "interface {}(nil)" if value is None else plain(value)


# --- the fields that a value mentions ---------------------------------------------------------------


def field_set(value: Any, of: FieldType) -> Fields:
    """Every leaf and every item that the value mentions: what an applier of it owns."""
    return _children(value, of) or {}


def _children(value: Any, of: FieldType) -> Fields | None:
    """What is in a value; None when it is owned whole."""
    kind = kind_of(value, of)
    if kind == "map":
        if of.atomic_map:
            return None
        return {} if value is None else _fields(value, of)
    if kind == "scalar":
        return None
    if of.atomic_list:
        return None
    return {} if value is None else _items(value, of)


def _fields(value: Fields, of: FieldType) -> Fields:
    found: Fields = {}
    for key, item in value.items():
        child = of.child(key) or ATOMIC
        inner = _children(item, child)
        if inner is None:
            found[f"f:{key}"] = LEAF
        elif item is None or item == {} or not of.declares(key):
            found[f"f:{key}"] = {SELF: LEAF, **inner} if inner else LEAF
        elif inner:
            found[f"f:{key}"] = inner
    return found


def _items(value: list[Any], of: FieldType) -> Fields:
    found: Fields = {}
    duplicates: set[str] = set()
    for item in value:
        element = item_element(of, item)
        if element in found:
            duplicates.add(element)
            continue
        inner = _children(item, of.items)
        found[element] = {SELF: LEAF, **inner} if inner else LEAF
    for element in duplicates:
        found[element] = LEAF
    return found
