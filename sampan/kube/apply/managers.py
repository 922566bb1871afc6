"""Who owns what: `metadata.managedFields` as a table of sets, and back.

A manager is told by name, operation, subresource and, when it updates, by API version; an applier keeps its one entry
when it goes to another version. Entries of a stranger are checked as Kubernetes checks them (`decode`); those that were
read from the store are taken as they are (`trusted`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from sampan.kube import errors
from sampan.kube.apply import fields
from sampan.kube.apply.fields import Fields, FieldsError

APPLY: Final = "Apply"
UPDATE: Final = "Update"
FIELDS_TYPE: Final = "FieldsV1"
MAX_UPDATERS: Final = 10
ANCIENT: Final = "ancient-changes"


class Manager(NamedTuple):
    """Identity. `version` is "" for an applier."""

    name: str
    operation: str
    version: str
    subresource: str

    def __str__(self) -> str:
        """As conflicts name it."""
        text = errors.quote(self.name)
        if self.subresource:
            text += f" with subresource {errors.quote(self.subresource)}"
        return f"{text} using {self.version}" if self.operation == UPDATE else text


@dataclass(slots=True)
class Owned:
    """What a manager owns, in terms of which API version, since when ("" when that is not known)."""

    version: str
    fields: Fields
    time: str = ""

    def having(self, owned: Fields) -> Owned:
        return Owned(self.version, owned, self.time)


Managed = dict[Manager, Owned]


def updater(name: str, version: str, subresource: str = "") -> Manager:
    return Manager(name or "unknown", UPDATE, version, subresource)


def applier(name: str, subresource: str = "") -> Manager:
    return Manager(name, APPLY, "", subresource)


def decode(entries: Any) -> Managed:
    """Entries of a stranger. Raises FieldsError for any that is not valid."""
    found: Managed = {}
    for index, entry in enumerate(entries):
        operation, version = entry.get("operation"), entry.get("apiVersion") or ""
        if operation not in (APPLY, UPDATE):
            raise FieldsError("operation must be `Apply` or `Update`")
        if not version:
            raise FieldsError("apiVersion must not be empty")
        kind = entry.get("fieldsType") or ""
        if not kind:
            raise FieldsError(f"missing fieldsType in managed fields entry {index}")
        if kind != FIELDS_TYPE:
            raise FieldsError(
                f"invalid fieldsType {errors.quote(kind)} in managed fields entry {index}"
            )
        manager, owned = _read(entry, fields.root(entry.get("fieldsV1") or {}))
        found[manager] = owned
    return found


def trusted(entries: Iterable[Any]) -> Managed:
    """Entries that this server has written."""
    return dict(_read(entry, entry.get("fieldsV1") or {}) for entry in entries)


def _read(entry: dict[str, Any], owned: Fields) -> tuple[Manager, Owned]:
    operation, version = entry["operation"], entry["apiVersion"]
    manager = Manager(
        entry.get("manager") or "",
        operation,
        "" if operation == APPLY else version,
        entry.get("subresource") or "",
    )
    return manager, Owned(version, owned, entry.get("time") or "")


def encode(managed: Managed) -> list[dict[str, Any]]:
    """`metadata.managedFields`, in the order in which Kubernetes keeps it."""
    listed = sorted(
        managed.items(),
        key=lambda each: (
            each[0].operation,
            each[1].time,
            each[0].name,
            each[1].version,
            each[0].subresource,
        ),
    )
    return [entry(manager, owned) for manager, owned in listed]


def entry(manager: Manager, owned: Owned) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if manager.name:
        found["manager"] = manager.name
    found["operation"] = manager.operation
    found["apiVersion"] = owned.version
    if owned.time:
        found["time"] = owned.time
    found["fieldsType"] = FIELDS_TYPE
    found["fieldsV1"] = fields.in_order(owned.fields)
    if manager.subresource:
        found["subresource"] = manager.subresource
    return found


def is_reset(entries: Any) -> bool:
    """Does a client ask, by `[]` or `[{}]`, for all to be forgotten?"""
    return isinstance(entries, list) and (not entries or entries == [{}])


def cap(managed: Managed) -> None:
    """Merge the oldest updaters into one per API version, until few enough are left."""
    if len(managed) <= MAX_UPDATERS:
        return
    updaters = [manager for manager in managed if manager.operation == UPDATE]
    count = len(updaters)
    updaters.sort(key=lambda manager: (managed[manager].time, manager))
    first: dict[str, Manager] = {}
    for manager in updaters:
        if count <= MAX_UPDATERS:
            break
        owned = managed[manager]
        if owned.version not in first:
            first[owned.version] = manager
            continue
        bucket = Manager(ANCIENT, UPDATE, owned.version, "")
        if bucket not in managed:
            managed[bucket] = managed.pop(first[owned.version])
        if manager == bucket:
            continue
        together = fields.union(owned.fields, managed[bucket].fields)
        managed[bucket] = Owned(owned.version, together, owned.time)
        managed.pop(manager, None)
        count -= 1
