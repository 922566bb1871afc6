"""The generic verbs that write: create, update, delete. Every kind goes through these, steered by its row and its strategy.

An update is a function from the present object to the new one, run again when somebody else wrote in between, unless
the caller pinned a resourceVersion: then it is a Conflict. The store's compare-and-swap is the only lock.
Objects come and go as dicts in the version in which they are stored; `Entry` holds the bytes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from sampan.apiserver.admission.chain import Admission
from sampan.apiserver.call import Call
from sampan.apiserver.entries import Entry, encode, respliced
from sampan.apiserver.fieldmanager import FieldManager, after_admission, times_only
from sampan.apiserver.resources import Resource
from sampan.apiserver.stamps import Clock, generated_name, new_uid
from sampan.apiserver.strategies import Strategies, Strategy
from sampan.apiserver.watchcache import ResourceCache, WatchCache
from sampan.kube import errors, objects
from sampan.kube.errors import ApiError
from sampan.store import Conflict, Record, Store

Object = dict[str, Any]
Change = Callable[[Object], Object | Awaitable[Object]]  # an apply may ask a conversion webhook

NAME_TRIES = 8
# Of a patch or an unconditional update that lost a race. Somebody else has won each time, so it is not in vain;
# Kubernetes goes on until the request's time is over.
RETRIES = 100
STALE = (
    "the object has been modified; please apply your changes to the latest version and try again"
)
FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"


@dataclass(slots=True)
class DeleteOptions:
    grace: int | None = None
    policy: str = ""  # Foreground | Background | Orphan
    uid: str | None = None
    resource_version: str | None = None


@dataclass(slots=True)
class Deleted:
    entry: Entry  # the last state, or the present one when it is not gone yet
    gone: bool


class Registry:
    def __init__(
        self,
        store: Store,
        caches: WatchCache,
        strategies: Strategies,
        admission: Admission,
        fields: FieldManager,
    ) -> None:
        self.store = store
        self.caches = caches
        self.strategies = strategies
        self.admission = admission
        self.fields = fields
        # Keys that shall be written again though nothing changes: an older key encrypted them.
        self.stale: Container[str] = getattr(store, "stale", ())
        # Called after a durable write of a kind that expires, with its key.
        self.on_event_written: Callable[[str], None] | None = None

    # Reading one

    async def find(self, resource: Resource, namespace: str, name: str) -> Entry | None:
        cache = await self.caches.get(resource)
        return cache.entries.get(resource.key(namespace, name))

    async def get(self, call: Call) -> Entry:
        entry = await self.find(call.resource, call.info.namespace, call.info.name)
        if entry is None:
            raise call.not_found()
        return entry

    # Create

    async def create(self, call: Call, obj: Object) -> Entry:
        """Write a decoded, defaulted object. Raises ApiError: AlreadyExists, Invalid, Forbidden …"""
        metadata = obj["metadata"]
        generated = metadata.get("generateName") if not metadata.get("name") else None
        if metadata.get("resourceVersion"):
            raise errors.bad_request("resourceVersion should not be set on objects to be created")
        pristine = orjson.dumps(obj) if generated else b""
        for attempt in range(NAME_TRIES if generated else 1):
            if attempt:
                obj = orjson.loads(pristine)
            if generated:
                obj["metadata"]["name"] = generated_name(generated)
            try:
                return await self._create(call, obj)
            except ApiError as error:
                if error.reason != "AlreadyExists" or not generated:
                    raise
                if attempt == NAME_TRIES - 1:
                    error.message += (
                        ", the server was not able to generate a unique name for the object"
                    )
                    error.details["retryAfterSeconds"] = 1
                    raise
        raise AssertionError("unreachable")

    async def _create(self, call: Call, obj: Object) -> Entry:
        resource = call.resource
        metadata = obj["metadata"]
        name = metadata.get("name") or ""
        strategy = self.strategies.of(resource)
        for key in ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"):
            metadata.pop(key, None)
        if call.tracked:
            managed = metadata.get("managedFields")
        elif managed := await self.fields.created(call, obj):
            metadata["managedFields"] = managed
        metadata["uid"] = new_uid()
        metadata["creationTimestamp"] = Clock.now()
        if resource.generation:
            metadata["generation"] = 1
        else:
            metadata.pop("generation", None)
        strategy.prepare_create(call, obj)
        await self.admission.create(call, obj)
        strategy.complete(call, obj)
        after_admission(call, obj["metadata"], managed)
        if not name:
            required = errors.required("metadata.name", "name or generateName is required")
            raise call.invalid([required], "")
        rollback = await strategy.reserve(self, call, obj, None)
        try:
            found = strategy.validate_create(call, obj)
            causes = found if isinstance(found, list) else await found
            if causes:
                raise call.invalid(causes, name)
            call.warnings += strategy.warn(call, obj, None)
            await self.admission.validate_create(call, obj)
            cache = await self.caches.get(resource)
            key = resource.key(metadata.get("namespace", ""), name)
            if call.dry_run:
                if key in cache.entries:
                    raise errors.already_exists(resource.name, name, resource.group)
                if rollback:
                    await rollback()
                return Entry(key, orjson.dumps(ordered(obj)), 0)
            kept = obj if resource.custom is None else await resource.custom.to_storage(obj)
            value = encode(kept)
            try:
                revision = await self.store.put(key, value, expect=0)
            except Conflict as conflict:
                current = conflict.current
                if current is not None and b'"deletionTimestamp":' in current.value:
                    error = errors.already_exists(resource.name, name, resource.group)
                    error.message = f"object is being deleted: {error.message}"
                    raise error from None
                raise errors.already_exists(resource.name, name, resource.group) from None
        except BaseException:
            if rollback:
                await rollback()
            raise
        if resource.storage == "core/events" and self.on_event_written:
            self.on_event_written(key)
        return written(cache, key, value, revision)

    async def place(self, resource: Resource, obj: Object, expect: int = 0) -> None:
        """Write an object of the server's own as it is. Whoever was quicker wins."""
        metadata = obj["metadata"]
        metadata.setdefault("uid", new_uid())
        metadata.setdefault("creationTimestamp", objects.now())
        if not expect and "managedFields" not in metadata:
            if managed := self.fields.placed(resource, obj):
                metadata["managedFields"] = managed
        key = resource.key(metadata.get("namespace", ""), metadata["name"])
        try:
            await self.store.put(key, encode(obj), expect=expect)
        except Conflict:
            return

    # Update

    async def update(
        self,
        call: Call,
        change: Change,
        *,
        status: bool = False,
        retry: bool = True,
        create: Callable[[], Object | Awaitable[Object]] | None = None,
        prepare: Callable[[Call, Object, Object], None] | None = None,
        validate: bool = True,
    ) -> tuple[Entry, bool]:
        """Replace the object by `change(object)`; (what is stored now, whether it was created).

        `change` gets a dict of its own that carries resourceVersion and returns the new object. `create` gives the
        object for kinds that a PUT may create. `prepare` replaces the strategy's (a subresource's own rule).
        """
        resource = call.resource
        key = call.key
        await self.caches.confirm()
        cache = await self.caches.get(resource)
        entry = cache.entries.get(key)
        for attempt in range(RETRIES + 1):
            if entry is None:
                if create is None:
                    raise call.not_found()
                made = create()
                obj = made if isinstance(made, dict) else await made
                return await self.create(call, obj), True
            seen = entry if resource.custom is None else await resource.custom.read(entry)
            old = seen.object()
            made = change(seen.object())
            new = made if isinstance(made, dict) else await made
            try:
                return await self._replace(
                    call, cache, entry, old, new, status, prepare, validate
                ), False
            except Conflict as conflict:
                pinned = new["metadata"].get("resourceVersion")
                if (pinned and not retry) or attempt == RETRIES:
                    raise call.conflict(STALE) from None
                entry = from_record(cache, conflict.current)
        raise AssertionError("unreachable")

    async def _replace(
        self,
        call: Call,
        cache: ResourceCache,
        entry: Entry,
        old: Object,
        new: Object,
        status: bool,
        prepare: Callable[[Call, Object, Object], None] | None,
        validate: bool,
    ) -> Entry:
        resource = call.resource
        strategy = self.strategies.of(resource)
        before, after = old["metadata"], new["metadata"]
        self._check_identity(call, before, after)
        for name in ("uid", "creationTimestamp", "name", "namespace", "generateName", "generation"):
            if before.get(name) is not None:
                after[name] = before[name]
            else:
                after.pop(name, None)
        for name in ("deletionTimestamp", "deletionGracePeriodSeconds"):
            if name not in after and name in before:
                after[name] = before[name]
        after.pop("selfLink", None)
        managed = await self._managers(call, old, new, validate)
        new["apiVersion"], new["kind"] = old["apiVersion"], old["kind"]
        if prepare is not None:
            prepare(call, new, old)
        elif status:
            strategy.prepare_status(call, new, old)
        else:
            strategy.prepare_update(call, new, old)
        after = new["metadata"]  # a subresource may have put back the old one
        if managed:
            after["managedFields"] = managed
        else:
            after.pop("managedFields", None)
        await self.admission.update(call, new, old)
        after_admission(call, new["metadata"], managed)
        if not status and resource.generation and wants_differ(resource, new, old):
            after["generation"] = before.get("generation", 0) + 1
        rollback = None if status else await strategy.reserve(self, call, new, old)
        try:
            after["resourceVersion"] = before["resourceVersion"]
            if validate:
                found = strategy.validate_update(call, new, old)
                causes = found if isinstance(found, list) else await found
                if causes:
                    raise call.invalid(causes)
                if not status:
                    call.warnings += strategy.warn(call, new, old)
            await self.admission.validate_update(call, new, old)
            managed = after.get("managedFields")
            if times_only(managed, before.get("managedFields")):
                # Who writes again what is there already has not written (KEP-555).
                after["managedFields"] = before["managedFields"]
                if new != old:
                    after["managedFields"] = managed
            if same(new, old) and entry.key not in self.stale:
                if resource.custom is None or await resource.custom.is_current(self.store, entry):
                    return entry
            if "deletionTimestamp" in before and self._may_go(strategy, new, before):
                return (await self._remove(call, entry, new, old)).entry
            if call.dry_run:
                if rollback:
                    await rollback()
                return Entry(entry.key, orjson.dumps(ordered(new)), entry.revision)
            kept = new if resource.custom is None else await resource.custom.to_storage(new)
            value = encode(kept)
            revision = await self.store.put(entry.key, value, expect=entry.revision)
        except BaseException:
            if rollback:
                await rollback()
            raise
        if strategy.allocates:
            await strategy.settle(self, new, old)
        if resource.storage == "core/events" and self.on_event_written:
            self.on_event_written(entry.key)
        return written(cache, entry.key, value, revision)

    async def _managers(self, call: Call, old: Object, new: Object, track: bool) -> Any:
        """metadata.managedFields of what is to be written; a write of the server's own leaves it alone."""
        if call.tracked:
            return new["metadata"].pop("managedFields", None)
        if not track:
            return old["metadata"].get("managedFields")
        return await self.fields.updated(call, old, new)

    def _check_identity(self, call: Call, before: Object, after: Object) -> None:
        revision = after.get("resourceVersion") or ""
        if revision and revision not in (before["resourceVersion"], "0"):
            raise call.conflict(STALE)
        if (not revision or revision == "0") and not call.resource.unconditional_update:
            cause = errors.invalid_value(
                "metadata.resourceVersion", 0, "must be specified for an update"
            )
            raise call.invalid([cause._replace(message=cause.message.replace(" 0:", " 0x0:"))])
        uid = after.get("uid")
        if uid and uid != before.get("uid"):
            raise call.conflict(
                f"Precondition failed: UID in precondition: {uid}, UID in object meta: {before.get('uid')}"
            )

    @staticmethod
    def _may_go(strategy: Strategy, new: Object, before: Object) -> bool:
        return (
            not new["metadata"].get("finalizers")
            and not before.get("deletionGracePeriodSeconds")
            and strategy.may_remove(new)
        )

    # Delete

    async def delete(self, call: Call, options: DeleteOptions) -> Deleted:
        """Delete, or mark as being deleted when finalizers or a grace period ask for it."""
        await self.caches.confirm()
        cache = await self.caches.get(call.resource)
        entry = cache.entries.get(call.key)
        for _ in range(RETRIES):
            if entry is None:
                raise call.not_found()
            old = entry.object()
            self._check_preconditions(call, options, old["metadata"])
            custom = call.resource.custom
            seen = old if custom is None else (await custom.read(entry)).object()
            await self.admission.delete(call, seen)
            try:
                return await self._delete(call, cache, entry, old, options)
            except Conflict as conflict:
                entry = from_record(cache, conflict.current)
        raise call.conflict(STALE)

    def _check_preconditions(self, call: Call, options: DeleteOptions, metadata: Object) -> None:
        if options.uid is not None and options.uid != metadata.get("uid"):
            raise call.conflict(
                f"Precondition failed: UID in precondition: {options.uid}, UID in object meta: {metadata.get('uid')}"
            )
        wanted = options.resource_version
        if wanted is not None and wanted != metadata["resourceVersion"]:
            raise call.conflict(
                f"Precondition failed: ResourceVersion in precondition: {wanted}, "
                f"ResourceVersion in object meta: {metadata['resourceVersion']}"
            )

    async def _delete(
        self, call: Call, cache: ResourceCache, entry: Entry, old: Object, options: DeleteOptions
    ) -> Deleted:
        strategy = self.strategies.of(call.resource)
        new = entry.object()
        metadata = new["metadata"]
        grace = strategy.grace_period(new, options.grace)
        deleting = "deletionTimestamp" in metadata
        set_deletion_finalizers(metadata, options.policy, strategy.orphan_by_default)
        if deleting and grace is not None:
            # A second delete may shorten the wait, never lengthen it.
            left = metadata.get("deletionGracePeriodSeconds") or 0
            grace = left if grace >= left else grace
        held = bool(metadata.get("finalizers")) or not strategy.may_remove(new)
        if not held and not grace:
            return await self._remove(call, entry, new, old)
        period = grace or 0
        if not deleting or (
            grace is not None and period < (metadata.get("deletionGracePeriodSeconds") or 0)
        ):
            moment = datetime.now(UTC)
            if deleting:
                moment = objects.parse_time(metadata["deletionTimestamp"]) - timedelta(
                    seconds=metadata.get("deletionGracePeriodSeconds") or 0
                )
            metadata["deletionTimestamp"] = (moment + timedelta(seconds=period)).strftime(
                "%Y-%m-%dT%H:%M:%SZ"
            )
            metadata["deletionGracePeriodSeconds"] = period
            if metadata.get("generation"):
                metadata["generation"] += 1
            strategy.begin_delete(new)
        if same(new, old):
            return Deleted(entry, gone=False)
        if call.dry_run:
            return Deleted(Entry(entry.key, orjson.dumps(ordered(new)), entry.revision), gone=False)
        value = encode(new)
        revision = await self.store.put(entry.key, value, expect=entry.revision)
        return Deleted(Entry(entry.key, cache.splice(value, revision), revision), gone=False)

    async def _remove(self, call: Call, entry: Entry, new: Object, old: Object) -> Deleted:
        """Take the object out of the store."""
        data = orjson.dumps(ordered(new))
        if call.dry_run:
            return Deleted(Entry(entry.key, data, entry.revision), gone=True)
        revision = await self.store.delete(entry.key, expect=entry.revision)
        strategy = self.strategies.of(call.resource)
        if strategy.allocates:
            await strategy.settle(self, None, old)
        return Deleted(Entry(entry.key, respliced(data, revision), revision), gone=True)


def written(cache: ResourceCache, key: str, value: bytes, revision: int) -> Entry:
    """What was just stored, as it is sent. The cache has most often made it already, for those who watch."""
    entry = cache.entries.get(key)
    if entry is not None and entry.revision == revision:
        return entry
    return Entry(key, cache.splice(value, revision), revision)


def from_record(cache: ResourceCache, record: Record | None) -> Entry | None:
    if record is None:
        return None
    return Entry(record.key, cache.splice(record.value, record.revision), record.revision)


def ordered(obj: Object) -> Object:
    """resourceVersion first in metadata, where `respliced` finds it first."""
    metadata = obj["metadata"]
    if "resourceVersion" in metadata:
        metadata = {"resourceVersion": metadata["resourceVersion"], **metadata}
    return {"apiVersion": obj["apiVersion"], "kind": obj["kind"], **obj, "metadata": metadata}


def same(new: Object, old: Object) -> bool:
    """Equal as JSON: Python alone takes 1, 1.0 and true for the same."""
    if new != old:
        return False
    return orjson.dumps(new, option=orjson.OPT_SORT_KEYS) == orjson.dumps(
        old, option=orjson.OPT_SORT_KEYS
    )


def wants_differ(resource: Resource, new: Object, old: Object) -> bool:
    """Did what the user wants change? That is all but metadata and status; a Deployment's annotations count too."""
    apart = ("metadata", "status")
    if resource.custom is not None and not resource.has_status:
        apart = ("metadata", "")  # without a subresource, status is a field like any other
    for key in {*new, *old}:
        if key not in apart and new.get(key) != old.get(key):
            return True
    return resource.kind == "Deployment" and objects.annotations(new) != objects.annotations(old)


def set_deletion_finalizers(metadata: Object, policy: str, orphan_by_default: bool) -> None:
    """The garbage collector's finalizers for this policy, in place of those of an earlier one."""
    present = metadata.get("finalizers") or []
    if not policy:
        if any(each in (ORPHAN, FOREGROUND) for each in present):
            return
        policy = "Orphan" if orphan_by_default else "Background"
    kept = [each for each in present if each not in (ORPHAN, FOREGROUND)]
    if policy == "Orphan":
        kept.append(ORPHAN)
    elif policy == "Foreground":
        kept.append(FOREGROUND)
    if kept:
        metadata["finalizers"] = kept
    else:
        metadata.pop("finalizers", None)
