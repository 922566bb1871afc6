"""The two operations of structured-merge-diff: an update that has happened, and an apply that is to happen.

Both are generators: whenever an object is needed in another API version they yield `(object, version)` and are sent
the converted object, or None when that version is gone. So one algorithm serves kinds that convert in a function and
custom resources that ask a webhook. `done` runs one to its end with a plain function.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from sampan.kube.apply import fields
from sampan.kube.apply.compare import Comparison, compare, equal
from sampan.kube.apply.conflicts import Conflicts
from sampan.kube.apply.fields import LEAF, SELF, Fields
from sampan.kube.apply.managers import Managed, Manager, Owned
from sampan.kube.apply.merge import merge, remove
from sampan.kube.apply.reconcile import reconcile
from sampan.kube.apply.types import FieldType
from sampan.kube.apply.values import field_set

T = TypeVar("T")
Object = dict[str, Any]
Steps = Generator[tuple[Object, str], Object | None, T]
Filter = Callable[[Fields], Fields]


def done(steps: Steps[T], convert: Callable[[Object, str], Object | None]) -> T:
    """The result of a generator above."""
    answer: Object | None = None
    try:
        wanted = next(steps)
        while True:
            answer = convert(*wanted)
            wanted = steps.send(answer)
    except StopIteration as finished:
        return finished.value  # type: ignore[no-any-return]


@dataclass(slots=True)
class Kind:
    """What the operations must know of a kind: the type of each version, and which fields a write may touch.

    `kept` gives, of a set, what the endpoint does not reset: a plain write resets status, a status write all else.
    `stable`: the managers were written under today's schema, and need not be reconciled with it.
    """

    type_of: Callable[[str], FieldType | None]
    kept: Filter
    stable: bool = False


def _converted(kind: Kind, obj: Object, version: str) -> Steps[tuple[Object, FieldType] | None]:
    """The object in that version and its type, None when there is no such version."""
    of = kind.type_of(version)
    if of is None:
        return None
    if obj.get("apiVersion") != version:
        found = yield obj, version
        if found is None:
            return None
        obj = found
    return obj, of


def _compared(kind: Kind, old: Object, new: Object, version: str) -> Steps[Comparison | None]:
    before = yield from _converted(kind, old, version)
    after = yield from _converted(kind, new, version)
    if before is None or after is None:
        return None
    found = compare(before[0], after[0], before[1])
    kept = kind.kept
    return Comparison(kept(found.added), kept(found.removed), kept(found.modified))


def _settle(
    kind: Kind,
    old: Object,
    new: Object,
    version: str,
    managed: Managed,
    own: Manager,
    force: bool,
) -> Steps[tuple[Managed, Comparison]]:
    """What the change takes from the other managers. Raises Conflicts unless forced."""
    mine = yield from _compared(kind, old, new, version)
    assert mine is not None, "the version of the request is served"
    comparisons: dict[str, Comparison | None] = {version: mine}
    left: Managed = {}
    taken: dict[Manager, Fields] = {}
    for manager, owned in managed.items():
        if manager == own:
            left[manager] = owned
            continue
        if owned.version not in comparisons:
            comparisons[owned.version] = yield from _compared(kind, old, new, owned.version)
        comparison = comparisons[owned.version]
        if comparison is None:
            continue  # its version is gone, and so is what it said
        conflict = fields.intersection(owned.fields, comparison.changed)
        if conflict:
            taken[manager] = conflict
            owned = owned.having(fields.difference(owned.fields, conflict))
        if comparison.removed:
            owned = owned.having(fields.difference(owned.fields, comparison.removed))
        if owned.fields:
            left[manager] = owned
    if taken and not force:
        raise Conflicts.between(taken)
    return left, mine


def _reconciled(kind: Kind, managed: Managed) -> Managed:
    """The sets in terms of today's schema; versions that are gone are left out."""
    if kind.stable:
        return dict(managed)
    found: Managed = {}
    for manager, owned in managed.items():
        of = kind.type_of(owned.version)
        if of is not None:
            found[manager] = owned.having(reconcile(owned.fields, of))
    return found


def update(
    kind: Kind, live: Object, new: Object, version: str, managed: Managed, own: Manager
) -> Steps[tuple[Managed, Fields]]:
    """The managers after `live` has become `new` by the hand of `own`, and what that manager has changed or added.

    It owns this now; adding it to its entry is left to the caller, who knows what nobody owns.
    """
    managed = _reconciled(kind, managed)
    managed, comparison = yield from _settle(kind, live, new, version, managed, own, True)
    before = managed.get(own)
    if before is not None and comparison.removed:
        if left := fields.difference(before.fields, comparison.removed):
            managed[own] = before.having(left)
        else:
            del managed[own]
    return managed, comparison.changed


def apply(
    kind: Kind,
    live: Object,
    config: Object,
    version: str,
    managed: Managed,
    own: Manager,
    force: bool,
) -> Steps[tuple[Object | None, Managed]]:
    """`config` merged into `live` (None when that changes nothing), and the managers. Raises Conflicts, TypeErrors."""
    managed = _reconciled(kind, managed)
    of = kind.type_of(version)
    assert of is not None, "the version of the request is served"
    new = merge(live, config, of)
    last = managed.get(own)
    managed[own] = Owned(version, kind.kept(field_set(config, of)))
    new = yield from _prune(kind, new, managed, own, last)
    managed, _ = yield from _settle(kind, live, new, version, managed, own, force)
    if not managed[own].fields:
        del managed[own]
    return (None if equal(live, new) else new), managed


# --- what the applier has dropped -------------------------------------------------------------------


def _prune(
    kind: Kind, merged: Object, managed: Managed, own: Manager, last: Owned | None
) -> Steps[Object]:
    """Without what `own` applied last time, does not apply now, and nobody else owns."""
    if last is None or not last.fields:
        return merged
    at_last = yield from _converted(kind, merged, last.version)
    if at_last is None:
        return merged
    merged, of = at_last
    pruned = remove(merged, named(last.fields, of), of) or {}
    pruned = _identified(pruned, merged)
    pruned = yield from _with_owned(kind, merged, pruned, last.version, managed)
    pruned = yield from _with_dangling(kind, merged, pruned, last, of)
    final = yield from _converted(kind, pruned, managed[own].version)
    assert final is not None, "the version of the request is served"
    return final[0]


def _identified(pruned: Object, merged: Object) -> Object:
    """An object says what it is, whatever was taken out of it: conversion asks."""
    if "apiVersion" in pruned and "kind" in pruned:
        return pruned
    return {"apiVersion": merged["apiVersion"], "kind": merged["kind"], **pruned}


def _with_owned(
    kind: Kind, merged: Object, pruned: Object, pruned_version: str, managed: Managed
) -> Steps[Object]:
    """What others, or the new configuration, claim is put back."""
    by_version: dict[str, Fields] = {}
    for owned in managed.values():
        by_version[owned.version] = fields.union(by_version.get(owned.version, {}), owned.fields)
    # The version of the pruned object first: what is missing from it may be needed to convert it.
    for version in sorted(by_version, key=lambda each: each != pruned_version):
        there = yield from _converted(kind, merged, version)
        if there is None:
            continue
        here = yield from _converted(kind, pruned, version)
        if here is None:
            continue
        (merged, of), (pruned, _) = there, here
        kept = fields.union(named(field_set(pruned, of), of), named(by_version[version], of))
        dropped = fields.difference(named(field_set(merged, of), of), kept)
        pruned = _identified(remove(merged, dropped, of) or {}, merged)
    return pruned


def _with_dangling(
    kind: Kind, merged: Object, pruned: Object, last: Owned, of: FieldType
) -> Steps[Object]:
    """What nobody owns, or an updater does, was not the applier's to drop."""
    here = yield from _converted(kind, pruned, last.version)
    if here is None:
        return merged
    gone = fields.difference(named(field_set(merged, of), of), named(field_set(here[0], of), of))
    mine = fields.intersection(gone, named(last.fields, of))
    return _identified(remove(merged, mine, of) or {}, merged)


def named(owned: Fields, of: FieldType | None) -> Fields:
    """The set with every struct field on the way to a member a member too, so that none is left behind empty."""
    found: Fields = {}
    for element, node in owned.items():
        if element == SELF:
            continue
        child, declared = None, False
        if of is not None and element.startswith("f:"):
            name = element[2:]
            declared = of.declares(name)
            child = of.child(name) if of.is_map else None
        elif of is not None and element.startswith("k:") and of.is_list:
            child = of.items
        inner = named(node, child)
        if inner and (declared or SELF in node):
            found[element] = {SELF: LEAF, **inner}
        else:
            found[element] = inner or LEAF
    return found
