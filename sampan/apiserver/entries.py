"""One object as the bytes that are sent, and one change of it, whose wire forms all watchers share.

A stored object begins with its apiVersion, kind and metadata, and without a resourceVersion: that is the revision of its write,
which is known only afterwards, and is put in at a constant offset. No object is parsed to be sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from sampan.apiserver.resources import Resource

ADDED, MODIFIED, DELETED, BOOKMARK, ERROR = "ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"
_FRAMES = {
    kind: b'{"type":"%s","object":' % kind.encode()
    for kind in (ADDED, MODIFIED, DELETED, BOOKMARK, ERROR)
}


def object_prefix(resource: Resource) -> bytes:
    """How every stored object of the kind begins; resourceVersion is put right after it."""
    return b'{"apiVersion":"%s","kind":"%s","metadata":{' % (
        resource.storage_version.encode(),
        resource.kind.encode(),
    )


def encode(obj: dict[str, Any]) -> bytes:
    """The stored form: apiVersion, kind and metadata first, no resourceVersion."""
    metadata = obj["metadata"]
    if "resourceVersion" in metadata:
        metadata = {key: value for key, value in metadata.items() if key != "resourceVersion"}
    ordered = {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "metadata": metadata}
    for key, value in obj.items():
        if key not in ordered:
            ordered[key] = value
    return orjson.dumps(ordered)


def frame(kind: str, data: bytes) -> bytes:
    """One event as a watch sends it."""
    return _FRAMES[kind] + data + b"}\n"


class Entry:
    """One object: the bytes that are sent. Labels and fields are read out of them when first asked for."""

    __slots__ = ("_fields", "_labels", "data", "key", "revision")

    def __init__(self, key: str, data: bytes, revision: int) -> None:
        self.key = key
        self.data = data
        self.revision = revision
        self._labels: dict[str, str] | None = None
        self._fields: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    def object(self) -> dict[str, Any]:
        """A fresh dict that the caller may change."""
        return orjson.loads(self.data)  # type: ignore[no-any-return]

    @property
    def labels(self) -> dict[str, str]:
        if self._labels is None:
            if b'"labels":{' in self.data:
                self._labels = self.object()["metadata"].get("labels") or _NOTHING
            else:
                self._labels = _NOTHING
        return self._labels

    def field(self, resource: Resource, path: str) -> str:
        """The value of a selectable field, "" when it is not set."""
        if path == "metadata.name":
            return self.name
        if path == "metadata.namespace":
            return self.key.split("/")[4] if resource.namespaced else ""
        if resource.custom is not None:
            return resource.custom.field(self, path)
        if self._fields is None:
            obj = self.object()
            self._fields = tuple(selectable_value(obj, each) for each in resource.selectable)
        try:
            return self._fields[resource.selectable.index(path)]
        except ValueError:
            return ""


_NOTHING: dict[str, str] = {}
_DERIVED: dict[str, Callable[[dict[str, Any]], str]] = {
    "name": lambda obj: obj["metadata"]["name"],
    "source": lambda obj: (
        (obj.get("source") or {}).get("component") or obj.get("reportingComponent") or ""
    ),
    "status.podIPs": lambda obj: ",".join(
        each.get("ip", "") for each in (obj.get("status") or {}).get("podIPs") or ()
    ),
    "status.successful": lambda obj: str((obj.get("status") or {}).get("succeeded", 0)),
    "status.replicas": lambda obj: str((obj.get("status") or {}).get("replicas", 0)),
    "spec.unschedulable": lambda obj: (
        "true" if (obj.get("spec") or {}).get("unschedulable") else "false"
    ),
    "spec.hostNetwork": lambda obj: (
        "true" if (obj.get("spec") or {}).get("hostNetwork") else "false"
    ),
}


def selectable_value(obj: dict[str, Any], path: str) -> str:
    """The text that a field selector compares with."""
    derived = _DERIVED.get(path)
    if derived is not None:
        return derived(obj)
    value: Any = obj
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


class Event:
    """One change of one object, shared by all watchers; each wire form is made once, when first asked for."""

    __slots__ = ("_gone", "entry", "frames", "previous", "revision")

    def __init__(self, revision: int, entry: Entry | None, previous: Entry | None) -> None:
        self.revision = revision
        self.entry = entry
        self.previous = previous
        self.frames: dict[Any, bytes] = {}
        self._gone: Entry | None = None

    @property
    def key(self) -> str:
        return (self.entry or self.previous).key  # type: ignore[union-attr]

    def gone(self) -> Entry:
        """The last state with the revision of the deletion, which is what DELETED carries."""
        if self._gone is None:
            assert self.previous is not None
            data = respliced(self.previous.data, self.revision)
            self._gone = Entry(self.previous.key, data, self.revision)
        return self._gone

    def frame(self, kind: str) -> bytes:
        found = self.frames.get(kind)
        if found is None:
            entry = self.gone() if kind == DELETED else self.entry
            assert entry is not None
            found = self.frames[kind] = frame(kind, entry.data)
        return found


def respliced(data: bytes, revision: int) -> bytes:
    """`data` with another resourceVersion."""
    start = data.index(b'"resourceVersion":"') + 19
    end = data.index(b'"', start)
    return b"%s%d%s" % (data[:start], revision, data[end:])
