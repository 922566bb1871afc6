"""Whole objects inside an object (`x-kubernetes-embedded-resource`): their apiVersion, kind and metadata are real ones.

`coerce` fits embedded metadata to ObjectMeta, `validate` checks it; both also take the root of a default value, which is
checked as if it stood in an object (apiextensions `schema/objectmeta`).
"""

from __future__ import annotations

from typing import Any

from sampan.kube import conform, errors, names, schema
from sampan.kube.errors import Cause
from sampan.kube.structural.node import Node, every_part
from sampan.kube.validation.metadata import validate_metadata


class Malformed(ValueError):
    """Embedded metadata has a field of the wrong type; `cause` says where."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(str(cause))
        self.cause = cause


def present(raw: dict[str, Any]) -> bool:
    """Does the schema embed objects at all?"""
    return any(each.get("x-kubernetes-embedded-resource") for each in every_part(raw))


def coerce(
    value: Any,
    node: Node | None,
    *,
    path: str = "",
    unknown: list[str] | None = None,
    root: bool = False,
) -> None:
    """Drop unknown metadata fields, in place. Raises Malformed for a type that does not fit."""
    if node is None:
        return
    if type(value) is dict:
        if node.embedded or root:
            _coerce_one(value, path, unknown)
        for key, entry in value.items():
            if type(entry) is dict or type(entry) is list:
                inner = node.declared(key)
                if inner is not None:
                    coerce(entry, inner, path=_child(path, key), unknown=unknown)
                elif node.additional is not None:
                    coerce(entry, node.additional, path=f"{path}[{key}]", unknown=unknown)
    elif type(value) is list and node.items is not None:
        for index, entry in enumerate(value):
            coerce(entry, node.items, path=f"{path}[{index}]", unknown=unknown)


def _child(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _coerce_one(value: dict[str, Any], path: str, unknown: list[str] | None) -> None:
    for key in ("apiVersion", "kind"):
        if key in value and not isinstance(value[key], str):
            where = _child(path, key)
            raise Malformed(errors.invalid_value(where, value[key], "must be a string"))
    metadata = value.get("metadata")
    if "metadata" not in value:
        return
    where = _child(path, "metadata")
    if not isinstance(metadata, dict):
        text = f"json: cannot unmarshal {conform.described(metadata, False)} into Go value of type v1.ObjectMeta"
        raise Malformed(errors.invalid_value(where, metadata, text))
    try:
        found = conform.conform(metadata, schema.OBJECT_META)
    except conform.Mismatch as error:
        raise Malformed(errors.invalid_value(where, metadata, str(error))) from error
    if not metadata.get("creationTimestamp"):
        metadata.pop("creationTimestamp", None)
    if unknown is not None:
        unknown.extend(f"{where}.{text.split(chr(34))[1]}" for text in found)


def validate(value: Any, node: Node | None, *, path: str = "", root: bool = False) -> list[Cause]:
    causes: list[Cause] = []
    _validate(value, node, path, causes, root)
    return causes


def _validate(value: Any, node: Node | None, path: str, causes: list[Cause], root: bool) -> None:
    if node is None:
        return
    if type(value) is dict:
        if node.embedded or root:
            _validate_one(value, path, causes)
        for key, entry in value.items():
            inner = node.declared(key)
            if inner is not None:
                _validate(entry, inner, _child(path, key), causes, False)
            elif node.additional is not None:
                _validate(entry, node.additional, f"{path}[{key}]", causes, False)
    elif type(value) is list and node.items is not None:
        for index, entry in enumerate(value):
            _validate(entry, node.items, f"{path}[{index}]", causes, False)


def _validate_one(value: dict[str, Any], path: str, causes: list[Cause]) -> None:
    for key in ("apiVersion", "kind"):
        where = _child(path, key)
        if key not in value:
            causes.append(errors.required(where))
            continue
        found = value[key]
        if not isinstance(found, str):
            causes.append(errors.invalid_value(where, found, "must be a string"))
        elif not found:
            causes.append(errors.invalid_value(where, found, "must not be empty"))
        elif key == "apiVersion" and found.count("/") > 1:
            text = f"unexpected GroupVersion string: {found}"
            causes.append(errors.invalid_value(where, found, text))
        elif key == "kind" and (reasons := names.dns1035_label(found.lower())):
            text = "may have mixed case, but should otherwise match: " + ",".join(reasons)
            causes.append(errors.invalid_value(where, found, text))
    metadata = value.get("metadata")
    if isinstance(metadata, dict):
        given = {"name": "fakename", **metadata}
        given["name"] = given["name"] or "fakename"
        validate_metadata(
            given,
            causes,
            name_rule=names.path_segment,
            namespaced=bool(given.get("namespace")),
            path=_child(path, "metadata"),
            builtin=False,
        )
