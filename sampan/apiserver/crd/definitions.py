"""Definitions: keeps the resource table in step with the CustomResourceDefinitions in the store.

Driven by the watch cache and not by the write, so a definition that came through another server, or was there before this one
started, is served like any other. Each change is applied as the cache applies it, before the write that made it is answered;
discovery and OpenAPI are made from the table and follow at their next request.

A definition whose spec or names changed gets new rows, and the cache of its objects is dropped: its watches end, as they do in
Kubernetes, and what is read next was fitted to the new schema.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import orjson

from sampan.apiserver.admission.chain import Admission
from sampan.apiserver.crd import conditions
from sampan.apiserver.crd.conversion import CallWebhook, Converter, WebhookConverter
from sampan.apiserver.crd.version import Definition, Version
from sampan.apiserver.entries import Entry, Event
from sampan.apiserver.resources import Resource, Table, version_priority
from sampan.apiserver.resources.model import SCALE, resource, status
from sampan.apiserver.watchcache import ResourceCache, WatchCache
from sampan.kube.structural.definition import condition, is_established

Object = dict[str, Any]

NAMES = ("plural", "singular", "kind", "listKind")
GROUP, PLURAL = "apiextensions.k8s.io", "customresourcedefinitions"


class Definitions:
    """`start` attaches to the cache; `changed` names the definitions that the controller has yet to look at."""

    revision = 0

    def __init__(
        self, caches: WatchCache, table: Table, admission: Admission, call_webhook: CallWebhook
    ) -> None:
        self.caches = caches
        self.table = table
        self.admission = admission
        self.call_webhook = call_webhook
        self.served: dict[str, Definition] = {}  # by the definition's name
        self.changed: set[str] = set()
        self.wake = asyncio.Event()
        # Called after the table has changed; must not await or fail.
        self.listeners: list[Callable[[], None]] = []
        self.cache: ResourceCache | None = None
        row = table.lookup(GROUP, "v1", PLURAL)
        assert row is not None
        self.row = row

    # Following the store

    async def start(self) -> None:
        """Serve what is in the store. Idempotent; also called again when the cache was reset."""
        cache = await self.caches.get(self.row)
        if cache is self.cache:
            return
        self.cache = cache
        for name in self.served.keys() - {entry.name for entry in cache.entries.values()}:
            self._withdraw(name)
        for entry in cache.entries.values():
            self._apply(entry)
        cache.watchers[self] = None  # type: ignore[index]  # it is offered events as a Watcher is

    async def sync(self) -> None:
        """Return when the table shows every definition that was acknowledged, by whichever server."""
        await self.caches.confirm()
        await self.start()

    def offer(self, event: Event) -> None:
        if event.entry is not None:
            self._apply(event.entry)
        elif event.previous is not None:
            name = event.previous.name
            self._withdraw(name)
            self._note(name)

    def end(self) -> None:
        """The cache was reset, or the server stops."""
        self.cache = None
        self.wake.set()

    def _note(self, name: str) -> None:
        self.changed.add(name)
        self.wake.set()

    def _apply(self, entry: Entry) -> None:
        crd: Object = orjson.loads(entry.data)
        name = entry.name
        present = self.served.get(name)
        uid = crd["metadata"]["uid"]
        if present is not None and present.uid != uid:
            self._withdraw(name)
            present = None
        accepted = is_established(crd) or condition(crd, "NamesAccepted") == "True"
        if accepted and is_complete(crd):
            self._serve(present or Definition(name, uid), crd, entry.data)
        elif present is not None:
            self._withdraw(name)
        self._note(name)

    # The table

    def _serve(self, definition: Definition, crd: Object, data: bytes) -> None:
        spec, found = crd["spec"], crd.get("status") or {}
        accepted = found.get("acceptedNames") or {}
        fingerprint = hashlib.sha256(
            orjson.dumps((crd["metadata"]["uid"], spec, accepted))
        ).hexdigest()
        terminating = conditions.is_terminating(crd)
        stored = found.get("storedVersions") or []
        if definition.fingerprint == fingerprint:
            definition.stored_versions = stored
            if terminating != definition.terminating:
                definition.terminating = terminating
                self.table.generation += 1
            return
        renewed = bool(definition.versions)
        for row in definition.rows:
            self.table.remove(row)
        for version in spec["versions"]:
            version.pop("schema", None)
        definition.spec, definition.accepted = spec, accepted
        definition.fingerprint = fingerprint
        definition.terminating = terminating
        definition.stored_versions = stored
        definition.converter = self._converter(spec)
        definition.versions = {
            each["name"]: Version(definition, data, each) for each in spec["versions"]
        }
        rows = {
            version.name: row_of(definition, version) for version in definition.versions.values()
        }
        definition.storage_row = rows[definition.storage_version.name]
        definition.overlaps = any(
            row.custom is None and row.storage == definition.storage_row.storage
            for row in self.table.rows.values()
        )
        definition.rows = [
            row
            for name, row in rows.items()
            if definition.versions[name].served and not definition.overlaps
        ]
        definition.forget()
        self.served[definition.name] = definition
        if renewed and not definition.overlaps:
            self.caches.drop(definition.storage_row.storage)
        for row in definition.rows:
            self.table.add(row)
        self._tell()

    def _converter(self, spec: Object) -> Converter:
        conversion = spec.get("conversion") or {}
        if conversion.get("strategy") == "Webhook" and len(spec["versions"]) > 1:
            return WebhookConverter(conversion, self.call_webhook)
        return Converter()

    def _withdraw(self, name: str) -> None:
        definition = self.served.pop(name, None)
        if definition is None:
            return
        for row in definition.rows:
            self.table.remove(row)
        if not definition.overlaps:
            self.caches.drop(definition.storage_row.storage)
        self._tell()

    def _tell(self) -> None:
        self.admission.forget()
        for listen in self.listeners:
            listen()

    # For the documents

    def in_version(self, group: str, version: str) -> Iterable[Version]:
        for definition in self.served.values():
            if definition.spec["group"] == group and version in definition.versions:
                found = definition.versions[version]
                if found.served:
                    yield found


def is_complete(crd: Object) -> bool:
    """Does it say all that serving needs? A status can be written by others than us, and then we write it again."""
    names = crd["status"].get("acceptedNames") or {}
    storing = [each for each in crd["spec"].get("versions") or () if each.get("storage")]
    return len(storing) == 1 and all(names.get(key) for key in NAMES)


def row_of(definition: Definition, version: Version) -> Resource:
    spec, names = definition.spec, definition.accepted
    storage = definition.storage_version
    kind = names["kind"]
    subresources = [status(kind)] if version.has_status else []
    if version.scale is not None:
        subresources.append(SCALE)
    return resource(
        spec["group"],
        version.name,
        names["plural"],
        kind,
        namespaced=spec["scope"] == "Namespaced",
        singular=names.get("singular") or "",
        list_kind=names.get("listKind") or "",
        short_names=tuple(names.get("shortNames") or ()),
        categories=tuple(names.get("categories") or ()),
        subresources=tuple(subresources),
        storage_version=storage.api_version,
        strategy="custom",
        selectable=version.selectable,
        generation=True,
        unconditional_update=False,
        deprecated=deprecation(spec, version.name, kind),
        custom=version,
    )


def schema_of(row: Resource) -> Object | None:
    """openAPIV3Schema of a custom kind, for those who must know its lists and maps."""
    return row.custom.raw if row.custom is not None else None


def replica_paths(row: Resource) -> dict[str, tuple[str, ...] | None]:
    """Where each version of a custom kind keeps its replicas; None where it has no scale subresource."""
    if row.custom is None:
        return {}
    found: dict[str, tuple[str, ...] | None] = {}
    for version in row.custom.definition.versions.values():
        path = (version.scale or {}).get("specReplicasPath")
        keys = path.removeprefix(".").split(".") if path else ()
        found[version.api_version] = tuple(f"f:{key}" for key in keys) or None
    return found


def deprecation(spec: Object, name: str, kind: str) -> str:
    """The warning on every answer of a deprecated version, "" when it is none."""
    versions = spec["versions"]
    found = next(each for each in versions if each["name"] == name)
    if not found.get("deprecated"):
        return ""
    if found.get("deprecationWarning") is not None:
        return str(found["deprecationWarning"])
    text = f"{spec['group']}/{name} {kind} is deprecated"
    newer = [
        each["name"]
        for each in versions
        if each.get("served")
        and not each.get("deprecated")
        and version_priority(each["name"]) > version_priority(name)
    ]
    if newer:
        text += f"; use {spec['group']}/{max(newer, key=version_priority)} {kind}"
    return text
