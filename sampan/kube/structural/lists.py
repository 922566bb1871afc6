"""Lists of type set and map hold no item, or no key, twice (apiextensions `schema/listtype`)."""

from __future__ import annotations

from typing import Any

import orjson

from sampan.kube import errors
from sampan.kube.errors import Cause
from sampan.kube.structural.node import Node


def validate(value: Any, node: Node | None, path: str = "") -> list[Cause]:
    """A cause for every second appearance."""
    causes: list[Cause] = []
    _walk(value, node, path, causes)
    return causes


def _walk(value: Any, node: Node | None, path: str, causes: list[Cause]) -> None:
    if node is None:
        return
    if type(value) is dict:
        for key, entry in value.items():
            if type(entry) is not dict and type(entry) is not list:
                continue
            inner = node.declared(key)
            if inner is not None:
                _walk(entry, inner, f"{path}.{key}" if path else key, causes)
            elif node.additional is not None:
                _walk(entry, node.additional, f"{path}[{key}]", causes)
    elif type(value) is list:
        if node.list_type == "set":
            causes += [errors.duplicate(f"{path}[{i}]", value[i]) for i in _twice(value)]
        elif node.list_type == "map":
            causes += _map(value, node.list_keys, path)
        if node.items is not None:
            for index, entry in enumerate(value):
                if type(entry) is dict or type(entry) is list:
                    _walk(entry, node.items, f"{path}[{index}]", causes)


def _map(value: list[Any], keys: list[str], path: str) -> list[Cause]:
    for index, entry in enumerate(value):
        if entry is not None and not isinstance(entry, dict):
            text = "must be an object for an array of list-type map"
            return [errors.invalid_value(f"{path}[{index}]", entry, text)]
    named = [{key: each[key] for key in keys if key in each} if each else {} for each in value]
    return [errors.duplicate(f"{path}[{index}]", named[index]) for index in _twice(named)]


def _twice(values: list[Any]) -> list[int]:
    """Where each repeated value is seen for the second time."""
    seen: dict[bytes, int] = {}
    found = []
    for index, value in enumerate(values):
        key = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        times = seen[key] = seen.get(key, 0) + 1
        if times == 2:
            found.append(index)
    return found
