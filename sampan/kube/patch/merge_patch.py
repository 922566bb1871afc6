"""JSON merge patch, RFC 7396: objects merge, null deletes, everything else replaces."""

from __future__ import annotations

from typing import Any

from sampan.kube.objects import clone
from sampan.kube.patch.failures import malformed


def merge_patch(obj: dict[str, Any], patch: Any) -> dict[str, Any]:
    """The object with the patch merged in. ApiError 400 when the patch is no object."""
    if not isinstance(patch, dict):
        raise malformed(
            "json: cannot unmarshal the patch into Go value of type map[string]interface {}"
        )
    merged: dict[str, Any] = _merge(clone(obj), clone(patch))
    return merged


def _merge(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    result: dict[str, Any] = target if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            result[key] = _merge(result.get(key), value)
        else:
            result[key] = value
    return result


def create_merge_patch(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The smallest patch that makes `new` of `old`; a null inside `new` cannot be said and reads as absent."""
    patch: dict[str, Any] = {key: None for key in old if key not in new}
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            if inner := create_merge_patch(before, value):
                patch[key] = inner
        elif key not in old or not _same(before, value):
            patch[key] = clone(value)
    return patch


def _same(one: Any, other: Any) -> bool:
    """Equality that tells True from 1, also deep inside lists."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return bool(one == other)
