"""The resource table's row: everything generic code must know about one kind of object.

One file per API group holds rows made by `resource()`; `resources/__init__.py` joins them and answers look-ups. Discovery,
OpenAPI, tables, authorization and the registry are all driven by these rows: serving one more kind is one more row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sampan.apiserver.crd.version import Version

STANDARD = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
READ_ONLY = ("get", "list")
CREATE_ONLY = ("create",)
MODIFY = ("get", "patch", "update")
STREAM = ("create", "get")
PROXY = ("create", "delete", "get", "patch", "update")


@dataclass(frozen=True, slots=True)
class Subresource:
    """`group`/`version` are set when the body is of another group than the parent's (Scale, Eviction, TokenRequest)."""

    name: str
    kind: str
    verbs: tuple[str, ...]
    group: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class Resource:
    group: str  # "" is the core group
    version: str
    name: str  # plural, as in paths
    kind: str
    namespaced: bool = True
    singular: str = ""
    list_kind: str = ""
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    verbs: tuple[str, ...] = STANDARD
    subresources: tuple[Subresource, ...] = ()
    storage: str = (
        ""  # "<group or core>/<plural>": rows with the same storage are versions of one kind
    )
    storage_version: str = (
        ""  # group/version in which the object is stored, when it is not this row's
    )
    strategy: str = ""  # row of `strategies.STRATEGIES`; "" is the generic one
    selectable: tuple[str, ...] = ()  # field selectors beside metadata.name and metadata.namespace
    generation: bool = (
        False  # metadata.generation is kept and counts changes of what the user wants
    )
    create_on_update: bool = False
    unconditional_update: bool = True
    graceful: bool = False  # DELETE honours gracePeriodSeconds (pods)
    deprecated: str = ""  # the warning that every answer about this version carries
    # What a CustomResourceDefinition says of the kind; None for built-in kinds.
    custom: Version | None = field(default=None, compare=False, repr=False)

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """`deployments.apps`: how error messages name the resource."""
        return f"{self.name}.{self.group}" if self.group else self.name

    @property
    def prefix(self) -> str:
        """All keys of the kind in the store begin so."""
        return f"/registry/{self.storage}/"

    @property
    def plain(self) -> bool:
        """Objects are sent in the version in which they are kept, as they are kept."""
        if self.custom is not None:
            return self.custom.plain
        return self.storage_version == self.api_version

    @property
    def has_status(self) -> bool:
        return any(sub.name == "status" for sub in self.subresources)

    def subresource(self, name: str) -> Subresource | None:
        for sub in self.subresources:
            if sub.name == name:
                return sub
        return None

    def key(self, namespace: str, name: str) -> str:
        """The object's key in the store."""
        if self.namespaced:
            return f"/registry/{self.storage}/{namespace}/{name}"
        return f"/registry/{self.storage}/{name}"


def status(kind: str) -> Subresource:
    return Subresource("status", kind, MODIFY)


SCALE = Subresource("scale", "Scale", MODIFY, "autoscaling", "v1")


def resource(
    group: str,
    version: str,
    name: str,
    kind: str,
    *,
    namespaced: bool = True,
    singular: str = "",
    list_kind: str = "",
    short_names: tuple[str, ...] = (),
    categories: tuple[str, ...] = (),
    verbs: tuple[str, ...] = STANDARD,
    subresources: tuple[Subresource, ...] = (),
    storage: str = "",
    storage_version: str = "",
    strategy: str = "",
    selectable: tuple[str, ...] = (),
    generation: bool = False,
    create_on_update: bool = False,
    unconditional_update: bool = True,
    graceful: bool = False,
    deprecated: str = "",
    custom: Version | None = None,
) -> Resource:
    """A row with what follows from the rest filled in."""
    return Resource(
        group=group,
        version=version,
        name=name,
        kind=kind,
        namespaced=namespaced,
        singular=singular or kind.lower(),
        list_kind=(list_kind or f"{kind}List") if "list" in verbs else "",
        short_names=short_names,
        categories=categories,
        verbs=verbs,
        subresources=subresources,
        storage=storage or f"{group or 'core'}/{name}",
        storage_version=storage_version or (f"{group}/{version}" if group else version),
        strategy=strategy,
        selectable=selectable,
        generation=generation,
        create_on_update=create_on_update,
        unconditional_update=unconditional_update,
        graceful=graceful,
        deprecated=deprecated,
        custom=custom,
    )
