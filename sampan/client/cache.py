"""ObjectCache: the objects that an informer knows, with indexes kept up to date on every change. No I/O.

Everything that it returns is shared: readers must not change an object, but copy it first.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import Any

from sampan.kube.objects import owners

Object = dict[str, Any]
IndexFunction = Callable[[Object], Iterable[str]]
CacheKey = tuple[str, str]  # namespace, name


def key_of(obj: Object) -> CacheKey:
    metadata = obj["metadata"]
    return metadata.get("namespace") or "", metadata["name"]


def owner_uids(obj: Object) -> list[str]:
    return [reference.get("uid", "") for reference in owners(obj)]


class Index:
    """Value → objects. An object may have any number of values."""

    __slots__ = ("buckets", "values_of")

    def __init__(self, values_of: IndexFunction) -> None:
        self.values_of = values_of
        self.buckets: dict[str, dict[CacheKey, Object]] = {}

    def put(self, key: CacheKey, old: Object | None, new: Object | None) -> None:
        after = set(self.values_of(new)) if new is not None else set()
        if old is not None:
            for value in self.values_of(old):
                if value not in after:
                    bucket = self.buckets.get(value)
                    if bucket is not None:
                        bucket.pop(key, None)
                        if not bucket:
                            del self.buckets[value]
        for value in after:
            self.buckets.setdefault(value, {})[key] = new  # type: ignore[assignment]

    def get(self, value: str) -> list[Object]:
        return list(self.buckets.get(value, {}).values())


class ObjectCache:
    def __init__(self, indexes: Mapping[str, IndexFunction]) -> None:
        self._objects: dict[CacheKey, Object] = {}
        self._by_namespace = Index(lambda obj: (key_of(obj)[0],))
        self._by_owner = Index(owner_uids)
        self._named = {name: Index(function) for name, function in indexes.items()}
        self._indexes = (self._by_namespace, self._by_owner, *self._named.values())

    def __len__(self) -> int:
        return len(self._objects)

    def __iter__(self) -> Iterator[Object]:
        return iter(self._objects.values())

    def get(self, key: CacheKey) -> Object | None:
        return self._objects.get(key)

    def absent_from(self, found: Container[CacheKey]) -> list[CacheKey]:
        return [key for key in self._objects if key not in found]

    def put(self, key: CacheKey, new: Object | None) -> Object | None:
        """Store `new` (None: remove) and return what was there."""
        old = self._objects.get(key)
        if new is not None:
            self._objects[key] = new
        elif old is not None:
            del self._objects[key]
        for index in self._indexes:
            index.put(key, old, new)
        return old

    def in_namespace(self, namespace: str | None) -> list[Object]:
        if namespace is None:
            return list(self._objects.values())
        return self._by_namespace.get(namespace)

    def owned_by(self, uid: str) -> list[Object]:
        return self._by_owner.get(uid)

    def by_index(self, name: str, value: str) -> list[Object]:
        """Raises KeyError when there is no index of that name."""
        return self._named[name].get(value)

    def add_index(self, name: str, values_of: IndexFunction) -> None:
        index = Index(values_of)
        for key, obj in self._objects.items():
            index.put(key, None, obj)
        self._named[name] = index
        self._indexes = (*self._indexes, index)
