"""Putting a default where nothing was said.

Two notions of "nothing", because the API's own types have two: a pointer field is unset only when absent (`replicas: 0`
stays), a plain field is unset when it has its zero value (`type: ""` is filled).
"""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]


def unset(obj: Object, **defaults: Any) -> None:
    """For pointer fields: fill what is absent or null. A dict or list is copied, so that no two objects share it."""
    for field, value in defaults.items():
        if obj.get(field) is None:
            obj[field] = value.copy() if isinstance(value, dict | list) else value


def empty(obj: Object, **defaults: Any) -> None:
    """For plain fields: fill what is absent, null or zero."""
    for field, value in defaults.items():
        if not obj.get(field):
            obj[field] = value.copy() if isinstance(value, dict | list) else value


def sub(obj: Object, field: str) -> Object:
    """The object in that field, made when it is absent."""
    found = obj.get(field)
    if found is None:
        found = obj[field] = {}
    return found


def each(obj: Object | None, field: str) -> list[Object]:
    """The objects listed in that field; none when it, or `obj`, is absent."""
    return (obj or {}).get(field) or []
