"""Defaults in a schema are values too: they are valid by the schema around them and hold nothing that pruning would drop.

Checked when a definition is written (apiextensions `schema/defaulting/validation.go`). A default inside the metadata of an
embedded object is checked as part of an object made around it.
"""

from __future__ import annotations

from typing import Any

from sampan.kube import errors
from sampan.kube.errors import Cause
from sampan.kube.objects import clone
from sampan.kube.structural import embedded, fit, rules, values
from sampan.kube.structural.node import META_FIELDS, Node, Raw
from sampan.kube.structural.values import equal

Causes = list[Cause]
Steps = tuple[str | int, ...]


def validate(raw: Raw, path: str) -> Causes:
    causes: Causes = []
    _walk(raw, path, raw, (), False, causes, root=True)
    return causes


def _walk(
    raw: Raw,
    path: str,
    outermost: Raw,
    steps: Steps,
    in_metadata: bool,
    causes: Causes,
    *,
    root: bool = False,
) -> None:
    inside = bool(raw.get("x-kubernetes-embedded-resource"))
    if inside:
        outermost, steps, in_metadata = raw, (), False
    value = raw.get("default")
    if value is not None:
        where = f"{path}.default"
        if in_metadata:
            _in_metadata(value, outermost, steps, where, causes)
        else:
            _plain(value, raw, where, inside, causes)
    if isinstance(raw.get("items"), dict):
        _walk(raw["items"], f"{path}.items", outermost, (*steps, 0), in_metadata, causes)
    for name, each in (raw.get("properties") or {}).items():
        meta = in_metadata or ((inside or root) and name in META_FIELDS)
        below = f"{path}.properties[{name}]"
        _walk(each, below, outermost, (*steps, name), meta, causes)


def _plain(value: Any, raw: Raw, path: str, inside: bool, causes: Causes) -> None:
    node = Node(raw)
    pruned = clone(value)
    fit.prune(pruned, node, root=inside)
    if not equal(pruned, value):
        causes.append(errors.invalid_value(path, value, "must not have unknown fields"))
    try:
        embedded.coerce(clone(value), node, path=path, root=inside)
    except embedded.Malformed as error:
        causes.append(error.cause)
        return
    found = embedded.validate(value, node, path=path, root=inside)
    found = found or values.validate(value, node, field=path)
    if not found:
        checker = rules.compiled(node)
        if checker is not None:
            found = checker.validate(value, value, path) or checker.validate(value, None, path)
    causes += found


def _in_metadata(value: Any, outermost: Raw, steps: Steps, path: str, causes: Causes) -> None:
    surrounding: Any = clone(value)
    for step in reversed(steps):
        surrounding = [surrounding] if step == 0 else {step: surrounding}
    if isinstance(surrounding, dict):
        surrounding = {"apiVersion": "validation/v1", "kind": "Validation", **surrounding}
    node = Node(outermost)
    try:
        embedded.coerce(surrounding, node, root=True)
    except embedded.Malformed as error:
        text = f"must result in valid metadata: {error.cause}"
        causes.append(errors.invalid_value(path, value, text))
        return
    found = embedded.validate(surrounding, node, root=True)
    if found:
        text = f"must result in valid metadata: {', '.join(str(each) for each in found)}"
        causes.append(errors.invalid_value(path, value, text))
