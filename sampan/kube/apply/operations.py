"""What a write does to `metadata.managedFields`: the layers that Kubernetes puts around structured merge diff (KEP-555).

    created   an object that somebody makes
    updated   an object that has become another
    applied   an object as the applied configuration wants it

Objects come and go in the version of the request, without managedFields in them; managers come and go beside. The
metadata that the server itself sets is owned by nobody; an object that has no managers gets none until it is applied
to, and then "before-first-apply" owns what was there.
"""

from __future__ import annotations

from typing import Any, Final

from sampan.kube.apply import fields, last_applied
from sampan.kube.apply.compare import created as created_fields
from sampan.kube.apply.conflicts import Conflicts
from sampan.kube.apply.fields import SELF, Fields
from sampan.kube.apply.managers import (
    Managed,
    Owned,
    applier,
    cap,
    updater,
)
from sampan.kube.apply.types import FieldType
from sampan.kube.apply.updater import Kind, Steps, apply, update

Object = dict[str, Any]

BEFORE_FIRST_APPLY: Final = "before-first-apply"
_SERVERS: Final = (
    "name",
    "namespace",
    "creationTimestamp",
    "selfLink",
    "uid",
    "clusterName",
    "generation",
    "managedFields",
    "resourceVersion",
)
# Nobody owns these: what the object is, and what the server keeps.
SERVER_FIELDS: Final = fields.of(
    ("f:apiVersion",),
    ("f:kind",),
    ("f:metadata",),
    *(("f:metadata", f"f:{name}") for name in _SERVERS),
)
_SERVER_METADATA: Final = frozenset((SELF, *(f"f:{name}" for name in _SERVERS)))


def created(obj: Object, of: FieldType, reset: tuple[str, ...]) -> Fields:
    """What the creator of `obj` owns. `reset` names first-level fields that a create cannot set."""
    found = created_fields(obj, of)
    found.pop("f:apiVersion", None)
    found.pop("f:kind", None)
    for name in reset:
        found.pop(f"f:{name}", None)
    metadata = found.get("f:metadata")
    if metadata is not None:
        for name in _SERVER_METADATA.intersection(metadata):
            del metadata[name]
        if not metadata:
            del found["f:metadata"]
    return found


def updated(
    kind: Kind,
    live: Object,
    new: Object,
    managed: Managed,
    manager: str,
    version: str,
    subresource: str,
    now: str,
    *,
    exists: bool = True,
) -> Steps[Managed]:
    """The managers after `manager` has made `new` of `live`. `exists` False: this is a create."""
    if not managed and exists:
        return managed
    own = updater(manager, version, subresource)
    managed, changed = yield from update(kind, live, new, version, managed, own)
    if gained := fields.difference(changed, SERVER_FIELDS):
        before = managed.get(own)
        if before is not None:
            gained = fields.union(before.fields, gained)
        managed[own] = Owned(version, gained, now)
    cap(managed)
    return managed


def applied(
    kind: Kind,
    live: Object,
    config: Object,
    managed: Managed,
    manager: str,
    version: str,
    subresource: str,
    force: bool,
    now: str,
) -> Steps[tuple[Object, Managed]]:
    """The object and its managers after an apply. Raises Conflicts; TypeErrors for a configuration unlike its type."""
    if not managed:
        empty = {"apiVersion": version, "kind": config["kind"], "metadata": {}}
        managed = yield from updated(
            kind,
            empty,
            live,
            {},
            BEFORE_FIRST_APPLY,
            version,
            subresource,
            now,
            exists=False,
        )
    own = applier(manager, subresource)
    try:
        new, after = yield from apply(kind, live, config, version, managed, own, force)
    except Conflicts as conflicts:
        if manager != last_applied.KUBECTL:
            raise
        of = kind.type_of(version)
        allowed = last_applied.owned(live, version, of) if of is not None else None
        if allowed is None:
            raise
        if fields.difference(conflicts.fields(), allowed):
            raise conflicts.outside(allowed) from None
        new, after = yield from apply(kind, live, config, version, managed, own, True)
    if own in after:
        owned = fields.difference(after[own].fields, SERVER_FIELDS)
        if owned:
            # An apply that changes nothing leaves the time as it was, for there is nothing to write.
            was = managed[own].time if own in managed else ""
            after[own] = Owned(version, owned, was if new is None else now)
        else:
            del after[own]
    obj = live if new is None else new
    if manager == last_applied.KUBECTL and last_applied.annotated(obj):
        obj = last_applied.refreshed(obj, config)
    return obj, after
