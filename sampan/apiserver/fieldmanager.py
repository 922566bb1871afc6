"""`metadata.managedFields` of every write, and server-side apply: `kube.apply` with the server's kinds and versions.

The registry asks for the managers of what it is about to write (`created`, `updated`); an apply makes the object itself
(`applied`), and /scale is the workload in another shape (`scaled`, `scale_applied`). Writes of the server's own (a binding,
an eviction) leave the managers alone, as in Kubernetes.

Custom resources: `schemas` gives a row's `openAPIV3Schema` (None: no schema, all is deduced) and `scales` the path of the
replicas field in each version; both are set by whoever serves CustomResourceDefinitions. A row stands for one schema: a
changed schema is a new row.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeVar

import orjson

from sampan.apiserver import conversion, resetfields
from sampan.apiserver.call import MAX_MANAGER, Call, manager_causes
from sampan.apiserver.resources import Resource, Table
from sampan.kube import errors
from sampan.kube.apply import managers, operations, scale, types, updater
from sampan.kube.apply.conflicts import Conflicts
from sampan.kube.apply.fields import Fields, FieldsError, Path, in_order
from sampan.kube.apply.managers import Managed
from sampan.kube.apply.types import FieldType
from sampan.kube.apply.updater import Kind, Steps
from sampan.kube.apply.values import TypeErrors, check
from sampan.kube.crowds import Crowd
from sampan.kube.errors import ApiError
from sampan.kube.types import GVK, split_api_version

log = logging.getLogger(__name__)

T = TypeVar("T")
Object = dict[str, Any]
Entries = list[dict[str, Any]]

MAX_SUBRESOURCE = 256
SCALE = GVK("autoscaling", "v1", "Scale")
AFTER_ADMISSION = (
    ".metadata.managedFields was in an invalid state after admission; this could be caused by an outdated "
    "mutating admission controller; please fix your requests"
)
LOOPBACK = "system:apiserver"  # the user as whom the server speaks to itself
SERVER = "kube-apiserver"  # manager of what the server makes for itself


class _Known:
    """What is worked out once for a row."""

    __slots__ = ("direct", "kinds", "pods", "reset", "subject", "type", "version")

    def __init__(self, row: Resource, subject: object, of: FieldType) -> None:
        self.subject = (
            subject  # the row, or the version of the definition: another one is another schema
        )
        self.type = of
        self.version = row.api_version
        self.reset = resetfields.on_create(row)
        self.direct = row.custom is not None or row.storage_version == row.api_version
        self.pods = row.storage == "core/pods"
        self.kinds: dict[tuple[str, bool], Kind] = {}  # by subresource and stability


class FieldManager:
    def __init__(self, table: Table, now: Callable[[], str]) -> None:
        self.table = table
        self.now = now
        self.schemas: Callable[[Resource], Object | None] | None = None
        self.scales: Callable[[Resource], Mapping[str, Path | None]] | None = None
        self._known: dict[tuple[str, str, str], _Known] = {}
        self._pod_specs: Crowd[Fields] | None = None

    # Kinds

    def _of(self, row: Resource) -> _Known:
        """Found by name, because hashing a row costs more than a small object's walk."""
        key = (row.group, row.version, row.name)
        subject = row if row.custom is None else row.custom
        known = self._known.get(key)
        if known is not None and known.subject is subject:
            return known
        found = types.of_kind(GVK(row.group, row.version, row.kind))
        if found is None:
            found = types.of_custom(self.schemas(row) if self.schemas else None)
        known = self._known[key] = _Known(row, subject, found)
        return known

    def _row(self, row: Resource, version: str) -> Resource | None:
        """The same kind in another version."""
        if version == row.api_version:
            return row
        group, name = split_api_version(version)
        if row.custom is not None:
            # A version that the definition has is not gone, served or not.
            other = row.custom.definition.versions.get(name) if group == row.group else None
            return None if other is None else replace(row, version=name, custom=other)
        found = self.table.lookup(group, name, row.name)
        return found if found is not None and found.storage == row.storage else None

    def _kind(self, row: Resource, subresource: str, *, stable: bool = True) -> Kind:
        """`stable` False: the managers may be older than the schema, or come from a client."""
        known = self._of(row)
        custom = row.custom is not None
        stable = stable and not custom
        found = known.kinds.get((subresource, stable))
        if found is None:

            def type_of(version: str) -> FieldType | None:
                if version == known.version:
                    return known.type
                other = self._row(row, version)
                return None if other is None else self._of(other).type

            kept = resetfields.kept(row, subresource, custom=custom)
            found = known.kinds[subresource, stable] = Kind(type_of, kept, stable)
        return found

    async def _run(self, row: Resource, steps: Steps[T]) -> T:
        """The steps to their end, with whatever is to be converted on the way."""
        if row.custom is None:
            return updater.done(steps, lambda obj, version: self._convert(row, obj, version))
        try:
            wanted = next(steps)
            while True:
                wanted = steps.send(await self._convert_custom(row, *wanted))
        except StopIteration as finished:
            return finished.value  # type: ignore[no-any-return]

    def _convert(self, row: Resource, obj: Object, version: str) -> Object | None:
        source, target = self._row(row, obj["apiVersion"]), self._row(row, version)
        if source is None or target is None:
            return None
        return conversion.from_storage(target, conversion.to_storage(source, obj))

    @staticmethod
    async def _convert_custom(row: Resource, obj: Object, version: str) -> Object | None:
        assert row.custom is not None
        definition = row.custom.definition
        target = definition.versions.get(split_api_version(version)[1])
        if target is None:
            return None
        (found,) = await definition.converter.convert([obj], version)
        found = orjson.loads(orjson.dumps(found))
        target.repair(found)
        return found  # type: ignore[no-any-return]

    # Writes

    async def created(self, call: Call, obj: Object) -> Entries | None:
        """The managers of an object that `call` makes, in the version of storage and without server's metadata."""
        row = call.resource
        given = obj["metadata"].pop("managedFields", None)
        known = self._of(row)
        try:
            if given:
                return await self._created_with(call, obj, given)
            owned = self._owned(known, obj if known.direct else conversion.from_storage(row, obj))
        except ValueError:
            return None  # items of a list that cannot be told apart: validation says so better
        if not owned:
            return None
        entry = {
            "manager": manager_of(call),
            "operation": managers.UPDATE,
            "apiVersion": known.version,
            "time": self.now(),
            "fieldsType": managers.FIELDS_TYPE,
            "fieldsV1": owned,
        }
        return [entry]

    def _owned(self, known: _Known, obj: Object) -> Fields:
        """What the creator of an object owns. Pods of one template own the same of their specs."""
        of, reset = known.type, known.reset
        spec = obj.get("spec") if known.pods else None
        if not spec:
            return in_order(operations.created(obj, of, reset))
        if self._pod_specs is None:
            self._pod_specs = Crowd(
                lambda spec: in_order(operations.created({"spec": spec}, of, ()))
            )
        rest = {key: value for key, value in obj.items() if key != "spec"}
        return in_order(operations.created(rest, of, reset)) | self._pod_specs(spec)

    async def _created_with(self, call: Call, obj: Object, given: Any) -> Entries | None:
        """A client that creates an object with managers in it: what it writes is its own all the same."""
        row = call.resource
        managed = _decoded(call, given) or {}
        seen = conversion.from_storage(row, obj)
        empty = {"apiVersion": row.api_version, "kind": row.kind, "metadata": {}}
        steps = operations.updated(
            self._kind(row, ""),
            empty,
            seen,
            managed,
            manager_of(call),
            row.api_version,
            "",
            self.now(),
            exists=False,
        )
        return managers.encode(await self._run(row, steps)) or None

    def placed(self, row: Resource, obj: Object) -> Entries | None:
        """The managers of an object that the server makes for itself."""
        owned = self._owned(self._of(row), obj)
        if not owned:
            return None
        manager = managers.updater(SERVER, row.api_version)
        return [managers.entry(manager, managers.Owned(row.api_version, owned, self.now()))]

    async def updated(self, call: Call, old: Object, new: Object) -> Entries | None:
        """The managers after `call` has made `new` of `old`, both in the version of storage; takes them out of `new`."""
        entries = old["metadata"].get("managedFields")
        given = new["metadata"].pop("managedFields", None)
        row, subresource = call.resource, call.info.subresource
        if subresource or given is None or given == entries:
            if not entries:
                return None
            managed: Managed | None = None
        elif managers.is_reset(given):
            return None
        else:
            managed = _decoded(call, given)
        present = old["metadata"].pop("managedFields", None)
        try:
            kind = self._kind(row, subresource, stable=managed is None)
            if managed is None:
                managed = managers.trusted(entries or ())
            if not managed:
                return None
            steps = operations.updated(
                kind,
                conversion.from_storage(row, old),
                conversion.from_storage(row, new),
                managed,
                manager_of(call),
                row.api_version,
                subresource,
                self.now(),
            )
            return managers.encode(await self._run(row, steps)) or None
        except (TypeErrors, ValueError) as error:
            # A live object that its schema no longer describes is still written, with the managers it had.
            log.warning("managed fields of %s: %s", call.key, error)
            return entries
        finally:
            if present is not None:
                old["metadata"]["managedFields"] = present

    # Apply

    async def applied(self, call: Call, live: Object | None, config: Object, force: bool) -> Object:
        """What the configuration makes of the live object, in the version of the request, managers and all.

        Raises ApiError: 400 for another kind or version, 409 for conflicts, 500 for what is not of the kind's type.
        """
        row = call.resource
        self._check_config(call, config, call.gvk)
        kind = self._kind(row, call.info.subresource, stable=False)
        if live is None:
            live = {"apiVersion": row.api_version, "kind": row.kind, "metadata": {}}
        return await self._applied(call, row, kind, live, config, call.gvk, force)

    async def _applied(
        self,
        call: Call,
        row: Resource,
        kind: Kind,
        live: Object,
        config: Object,
        gvk: GVK,
        force: bool,
    ) -> Object:
        of = kind.type_of(gvk.api_version)
        assert of is not None, "the version of the request is served"
        metadata = dict(live["metadata"])
        entries = metadata.pop("managedFields", None) or ()
        live = {**live, "metadata": metadata}
        try:
            check(config, of)
        except TypeErrors as error:
            what = f"failed to create typed patch object ({_named(config)}): {error}"
            # Kubernetes says 500 in these words, though it is the request that is at fault.
            raise errors.bad_request(what) from None
        try:
            steps = operations.applied(
                kind,
                live,
                config,
                managers.trusted(entries),
                call.request.param("fieldManager"),
                gvk.api_version,
                call.info.subresource,
                force,
                self.now(),
            )
            new, managed = await self._run(row, steps)
        except Conflicts as conflicts:
            raise conflicts.error() from None
        except (TypeErrors, ValueError) as error:
            text = f"failed to create typed live object ({_named(live)}): {error}"
            raise ApiError(500, "", text) from None
        new = {**new, "metadata": dict(new["metadata"])}
        if found := managers.encode(managed):
            new["metadata"]["managedFields"] = found
        return new

    def _check_config(self, call: Call, config: Object, gvk: GVK) -> None:
        given = GVK.from_object(config)
        if given != gvk:
            raise errors.bad_request(f"invalid object type: {_shown(given)}")
        metadata = config.get("metadata")
        if isinstance(metadata, dict) and metadata.get("managedFields") is not None:
            raise errors.bad_request("metadata.managedFields must be nil")

    # Scale

    def _scale_kind(self) -> Kind:
        of = types.of_kind(SCALE)
        return Kind(
            lambda version: of if version == scale.VERSION else None,
            lambda found: found,
            stable=True,
        )

    def _paths(self, row: Resource) -> Mapping[str, Path | None]:
        if types.of_kind(GVK(row.group, row.version, row.kind)) is None and self.scales:
            return self.scales(row)
        return {row.api_version: scale.REPLICAS}

    def scaled(self, call: Call, workload: Object, before: Object, after: Object) -> Entries | None:
        """The workload's managers after an update or patch has made one Scale of the other."""
        entries = workload["metadata"].get("managedFields")
        if not entries:
            return None
        row, paths = call.resource, self._paths(call.resource)
        parent = managers.trusted(entries)
        steps = operations.updated(
            self._scale_kind(),
            before,
            after,
            scale.of_parent(parent, paths),
            manager_of(call),
            scale.VERSION,
            call.info.subresource,
            self.now(),
        )
        managed = updater.done(steps, _one_version)
        return managers.encode(scale.to_parent(parent, managed, row.api_version, paths)) or None

    async def scale_applied(
        self, call: Call, workload: Object, shown: Object, config: Object, force: bool
    ) -> tuple[Object, Entries | None]:
        """(the Scale that the configuration makes, the workload's managers)."""
        row, paths = call.resource, self._paths(call.resource)
        self._check_config(call, config, SCALE)
        parent = managers.trusted(workload["metadata"].get("managedFields") or ())
        live = {**shown, "metadata": dict(shown["metadata"])}
        live["metadata"]["managedFields"] = managers.encode(scale.of_parent(parent, paths))
        new = await self._applied(call, row, self._scale_kind(), live, config, SCALE, force)
        managed = managers.trusted(new["metadata"].pop("managedFields", ()))
        entries = managers.encode(scale.to_parent(parent, managed, row.api_version, paths))
        return new, entries or None


def _one_version(obj: Object, version: str) -> Object | None:
    return None


def _decoded(call: Call, given: Any) -> Managed | None:
    """Managers that a client sent, None for those that cannot be read. Raises ApiError 422 for bad names."""
    causes = []
    for index, entry in enumerate(given):
        path = f"metadata.managedFields[{index}]"
        causes += manager_causes(entry.get("manager") or "", f"{path}.manager")
        if len(entry.get("subresource") or "") > MAX_SUBRESOURCE:
            causes.append(errors.too_long(f"{path}.subresource", "", MAX_SUBRESOURCE))
    try:
        found = managers.decode(given)
    except FieldsError:
        return None
    if causes:
        raise call.invalid(causes)
    return found or None


def manager_of(call: Call) -> str:
    """The `fieldManager` of the request, else the first word of its User-Agent."""
    request = call.request
    name = request.param("fieldManager") if request.query else ""
    if not name and call.user.name == LOOPBACK:
        return SERVER
    return name or _from_agent(request.headers.get("user-agent", ""))


@lru_cache(maxsize=256)
def _from_agent(agent: str) -> str:
    name = "".join(each for each in agent.partition("/")[0] if each.isprintable())
    while len(name.encode()) > MAX_MANAGER:
        name = name[:-1]
    return name or "unknown"


def after_admission(call: Call, metadata: Object, managed: Entries | None) -> None:
    """Put back the managers when a webhook has left nonsense in their place."""
    after = metadata.get("managedFields")
    if after is managed or after == managed or after is None:
        return
    try:
        managers.decode(after)
    except (FieldsError, AttributeError, TypeError) as error:
        call.warnings.append(f"{AFTER_ADMISSION}: {error}")
        if managed:
            metadata["managedFields"] = managed
        else:
            del metadata["managedFields"]


def times_only(new: Entries | None, old: Entries | None) -> bool:
    """Do the two tell the same managers, but at other times?"""
    if not new or not old or len(new) != len(old) or new == old:
        return False
    return all(
        one.get("manager") == other.get("manager")
        and one["operation"] == other["operation"]
        and one["apiVersion"] == other["apiVersion"]
        and one.get("subresource") == other.get("subresource")
        and one["fieldsV1"] == other.get("fieldsV1")
        for one, other in zip(new, old, strict=True)
    )


def _shown(gvk: GVK) -> str:
    return f"{gvk.group}/{gvk.version}, Kind={gvk.kind}"


def _named(obj: Object) -> str:
    metadata = obj.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    name = f"{metadata.get('namespace') or ''}/{metadata.get('name') or ''}"
    return f"{name}; {_shown(GVK.from_object(obj))}"
