"""What a custom resource's row in the table carries: one version of one definition.

A `Definition` is one CustomResourceDefinition as it is now, a `Version` one of its versions as it was when the row was made.
Nothing of a schema is parsed until an object of the kind is met: a hundred large definitions cost little more than their bytes.

Stored objects are made to fit the present schema as they are read (`stored`), because a schema may have changed since they were
written: what it no longer names is dropped, what it newly defaults is filled in. A reader of another version gets them
converted (`presented`); where a webhook converts, `prepare` must have been awaited for the same objects.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import orjson

from sampan.apiserver.entries import Entry, encode
from sampan.kube import errors
from sampan.kube.errors import ApiError
from sampan.kube.structural import embedded, jsonpath
from sampan.kube.structural.resource import ResourceSchema

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sampan.apiserver.crd.conversion import Converter
    from sampan.apiserver.resources import Resource
    from sampan.apiserver.tables.model import Printer
    from sampan.store import Store

Object = dict[str, Any]

REMEMBERED = 2048  # converted objects of a kind, for readers and watchers of one version
REMEMBERED_BYTES = 4 << 20


class Definition:
    """One CustomResourceDefinition. `versions`, `rows` and `converter` are replaced when it changes."""

    def __init__(self, name: str, uid: str) -> None:
        self.name = name
        self.uid = uid
        self.spec: Object = {}  # without the schemas
        self.accepted: Object = {}
        self.stored_versions: list[str] = []
        self.fingerprint = ""  # changes whenever anything that clients can see of the kind changes
        self.terminating = False
        self.versions: dict[str, Version] = {}
        self.rows: list[Resource] = []  # those that are served
        self.storage_row: Resource
        self.converter: Converter
        self.overlaps = False  # a built-in kind has the name: nothing is served, nothing is deleted
        self._converted: dict[tuple[bytes, str], bytes] = {}
        self._converted_size = 0

    @property
    def storage_version(self) -> Version:
        return next(each for each in self.versions.values() if each.storage)

    @property
    def uniform(self) -> bool:
        """Every stored object can be taken for one of the storage version."""
        return not self.converter.is_remote or self.stored_versions == [self.storage_version.name]

    def forget(self) -> None:
        self._converted.clear()
        self._converted_size = 0

    def stored(self, value: bytes) -> bytes:
        """Bytes from the store, fitted to the schema of today; in the storage version when that needs no webhook."""
        obj: Object = orjson.loads(value)
        storage = self.storage_version
        version = self.version_of(obj)
        if version is not storage and not self.converter.is_remote:
            obj["apiVersion"] = storage.api_version
            version = storage
        elif version is None:
            return value
        version.repair(obj)
        fitted = encode(obj)
        return value if fitted == value else fitted

    def version_of(self, obj: Object) -> Version | None:
        return self.versions.get(str(obj.get("apiVersion")).rpartition("/")[2])

    # Conversion for readers

    def known(self, data: bytes, api_version: str) -> bytes | None:
        return self._converted.get((data, api_version))

    def remember(self, data: bytes, api_version: str, converted: bytes) -> bytes:
        self._converted[data, api_version] = converted
        self._converted_size += len(converted)
        return converted

    def make_room(self) -> None:
        if len(self._converted) > REMEMBERED or self._converted_size > REMEMBERED_BYTES:
            self.forget()


class Version:
    """One version of a definition; `crd` is the whole definition as bytes, parsed when the schema is needed."""

    def __init__(self, definition: Definition, crd: bytes, spec: Object) -> None:
        self.definition = definition
        self.crd = crd
        self.name: str = spec["name"]
        self.api_version = f"{definition.spec['group']}/{self.name}"
        self.storage = bool(spec.get("storage"))
        self.served = bool(spec.get("served"))
        found = spec.get("subresources") or {}
        self.has_status = found.get("status") is not None
        self.scale: Object | None = found.get("scale")
        self.columns: list[Object] | None = spec.get("additionalPrinterColumns")
        self.selectable = tuple(
            each["jsonPath"].removeprefix(".") for each in spec.get("selectableFields") or ()
        )
        self._prefix = b'{"apiVersion":"%s",' % self.api_version.encode()

    def read_schema(self) -> Object | None:
        """openAPIV3Schema as it was written; None when there is none. Not kept: OpenAPI asks for all of them, once."""
        if "schema" in self.__dict__:
            return self.schema.given
        for each in orjson.loads(self.crd)["spec"]["versions"]:
            if each["name"] == self.name:
                return (each.get("schema") or {}).get("openAPIV3Schema")  # type: ignore[no-any-return]
        return None

    @cached_property
    def schema(self) -> ResourceSchema:
        return ResourceSchema(self.read_schema(), self.scale)

    @cached_property
    def printer(self) -> Printer:
        from sampan.apiserver.crd.columns import printer

        return printer(self)

    @property
    def raw(self) -> Object | None:
        """openAPIV3Schema of a kind that is in use."""
        return self.schema.given

    @property
    def plain(self) -> bool:
        """The cache's bytes are this version's."""
        return self.storage and self.definition.uniform

    def repair(self, obj: Object) -> None:
        """Fit a stored object to this version's schema, in place; what cannot be fitted is left as it was."""
        try:
            self.schema.fit(obj)
        except embedded.Malformed:
            return

    @property
    def is_remote(self) -> bool:
        """Objects may have to be converted by a webhook before they can be read in this version."""
        return self.definition.converter.is_remote and not self.plain

    def field(self, entry: Entry, path: str) -> str:
        """The text that a field selector compares with. What a webhook converts must have been prepared."""
        data = entry.data
        if not self.is_remote or self.definition.known(data, self.api_version) is not None:
            data = self.presented(data)
        _, value = jsonpath.first(orjson.loads(data), f".{path}")
        if value is None:
            return ""
        return str(value).lower() if isinstance(value, bool) else str(value)

    # Other versions

    async def prepare(self, entries: Iterable[Entry]) -> None:
        """Convert what only a webhook can, all at once, so that `presented` can answer without waiting."""
        definition = self.definition
        if not definition.converter.is_remote:
            return
        definition.make_room()
        waiting = [
            entry.data
            for entry in entries
            if not entry.data.startswith(self._prefix)
            and definition.known(entry.data, self.api_version) is None
        ]
        if not waiting:
            return
        objects = [orjson.loads(data) for data in waiting]
        converted = await definition.converter.convert(objects, self.api_version)
        for data, obj in zip(waiting, converted, strict=True):
            self.repair(obj)
            definition.remember(data, self.api_version, serialized(obj))

    async def read(self, entry: Entry) -> Entry:
        """The entry in this version."""
        if entry.data.startswith(self._prefix):
            return entry
        await self.prepare((entry,))
        return Entry(entry.key, self.presented(entry.data), entry.revision)

    async def is_current(self, store: Store, entry: Entry) -> bool:
        """Is the object kept in the storage version? If not, even a write that changes nothing migrates it."""
        definition = self.definition
        storage = definition.storage_version
        if definition.stored_versions == [storage.name]:
            return True
        record = await store.get(entry.key)
        return record is None or record.value.startswith(storage._prefix)

    def presented(self, data: bytes) -> bytes:
        """An object's bytes in this version."""
        if data.startswith(self._prefix):
            return data
        definition = self.definition
        known = definition.known(data, self.api_version)
        if known is not None:
            return known
        if definition.converter.is_remote:
            raise errors.internal(
                f"an object of {definition.name} was read before it was converted"
            )
        obj: Object = orjson.loads(data)
        obj["apiVersion"] = self.api_version
        self.repair(obj)
        definition.make_room()
        return definition.remember(data, self.api_version, serialized(obj))

    async def to_storage(self, obj: Object) -> Object:
        """A complete object of this version in the version in which it is kept."""
        storage = self.definition.storage_version
        if storage.api_version == obj["apiVersion"]:
            return obj
        [converted] = await self.definition.converter.convert([obj], storage.api_version)
        return converted

    def refuse_create(self, resource: Resource, name: str) -> ApiError | None:
        if not self.definition.terminating:
            return None
        text = "create not allowed while custom resource definition is terminating"
        return errors.forbidden(resource.name, name, text, resource.group)


def serialized(obj: Object) -> bytes:
    """As the cache's bytes: apiVersion, kind and metadata first, and resourceVersion first in metadata."""
    metadata = obj["metadata"]
    ordered = {
        "apiVersion": obj["apiVersion"],
        "kind": obj["kind"],
        "metadata": {"resourceVersion": metadata.get("resourceVersion", ""), **metadata},
    }
    if not metadata.get("resourceVersion"):
        ordered["metadata"] = metadata
    return orjson.dumps({**ordered, **{k: v for k, v in obj.items() if k not in ordered}})
