"""What an admission plug-in is, and what it may read. The chain that runs them: `chain.py`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import orjson

from sampan.apiserver.admission.measures import Measures
from sampan.apiserver.call import Call
from sampan.apiserver.entries import Entry, encode
from sampan.apiserver.resources import Resource, Table
from sampan.apiserver.watchcache import WatchCache
from sampan.client.transport import Request, User
from sampan.store import Conflict

if TYPE_CHECKING:
    from sampan.apiserver.access import Access

Object = dict[str, Any]

MIRROR_ANNOTATION = "kubernetes.io/config.mirror"

# (user, resource, new, old) → raises ApiError 403 for a role that grants more than its writer holds.
CheckGrant = Callable[[User, str, Mapping[str, Any], Mapping[str, Any] | None], Awaitable[None]]


# (user, "approve" or "sign", signer's name) → may they?
MayUseSigner = Callable[[User, str, str], Awaitable[bool]]


async def _anyone(user: User, verb: str, signer: str) -> bool:
    return True


# (clientConfig, review, seconds) → the answer. Raises ConnectionError.
CallWebhook = Callable[[Object, Object, float], Awaitable[Object]]
Annotate = Callable[[Request, str, str], None]


async def _no_webhooks(config: Object, review: Object, timeout: float) -> Object:
    raise ConnectionError("webhooks are not called by this server")


def _no_audit(request: Request, key: str, value: str) -> None:
    """No audit log is kept."""


def _nobody() -> None:
    """Nobody needs to know."""


async def _no_check(
    user: User, resource: str, new: Mapping[str, Any], old: Mapping[str, Any] | None
) -> None:
    """Authorization is off."""


class Lookup:
    """Reads of other kinds for the plug-ins."""

    def __init__(self, caches: WatchCache, table: Table) -> None:
        self.caches = caches
        self.table = table
        self.check_grant: CheckGrant = _no_check
        self.may_use_signer: MayUseSigner = _anyone
        # Of webhooks and policies: who is authorized, how a webhook is called, who writes down audit annotations, and
        # whom to tell that other hooks may be needed now.
        self.access: Access | None = None
        self.call_webhook: CallWebhook = _no_webhooks
        self.annotate: Annotate = _no_audit
        self.changed: Callable[[], None] = _nobody
        self.measures = Measures()

    async def entry(
        self, group: str, version: str, plural: str, namespace: str, name: str
    ) -> Entry | None:
        found = self.seen(group, version, plural, namespace, name)
        if found is not None:
            return found
        row = self.table.rows[group, version, plural]
        cache = await self.caches.get(row)
        found = cache.entries.get(row.key(namespace, name))
        if found is None and self.caches.store.shared:
            await self.caches.confirm()  # another server may just have made it
            cache = await self.caches.get(row)
            found = cache.entries.get(row.key(namespace, name))
        return found

    def seen(
        self, group: str, version: str, plural: str, namespace: str, name: str
    ) -> Entry | None:
        """What `entry` gives, when it can be told without waiting."""
        row = self.table.rows[group, version, plural]
        cache = self.caches.ready(row)
        return cache.entries.get(row.key(namespace, name)) if cache is not None else None

    async def all(self, group: str, version: str, plural: str, having: bytes = b"") -> list[Object]:
        """Every object of the kind in whose JSON `having` occurs."""
        row = self.table.lookup(group, version, plural)
        assert row is not None
        cache = self.caches.ready(row) or await self.caches.get(row)
        return [entry.object() for entry in cache.entries.values() if having in entry.data]

    async def within(self, group: str, version: str, plural: str, namespace: str) -> list[Entry]:
        """Every object of the kind in one namespace."""
        row = self.table.lookup(group, version, plural)
        assert row is not None
        cache = self.caches.ready(row) or await self.caches.get(row)
        if not cache.entries:
            return []
        return [cache.entries[key] for key in cache.keys(f"{row.prefix}{namespace}/")]

    async def swap(
        self,
        group: str,
        version: str,
        plural: str,
        key: str,
        change: Callable[[Object], Object | None],
        tries: int,
    ) -> bool:
        """Replace a stored object by `change` of it, again when another writer was quicker.

        True when it is written, is gone, or `change` gave None (nothing to do); False after so many tries. `change` may
        raise to give up.
        """
        row = self.table.lookup(group, version, plural)
        assert row is not None
        store = self.caches.store
        for _ in range(tries):
            record = await store.get(key)
            if record is None:
                return True
            new = change(orjson.loads(record.value))
            if new is None:
                return True
            try:
                await store.put(key, encode(new), expect=record.revision)
            except Conflict:
                continue
            return True
        return False


class Plugin:
    """Hooks that a plug-in does not define are never called. Each raises ApiError to refuse."""

    storages: tuple[str, ...] = ()  # kinds that it looks at; none: all
    subresources: tuple[str, ...] = ("",)  # "" is the object itself; "*": every subresource too

    def __init__(self, lookup: Lookup) -> None:
        self.lookup = lookup

    def concerns(self, row: Resource, subresource: str) -> bool:
        """Asked once per kind and subresource, and again after `Admission.forget`."""
        return (not self.storages or row.storage in self.storages) and (
            subresource in self.subresources or "*" in self.subresources
        )

    # Mutating phase: may change the new object in place.

    async def create(self, call: Call, obj: Object) -> None: ...

    async def update(self, call: Call, new: Object, old: Object) -> None: ...

    async def delete(self, call: Call, obj: Object) -> None: ...

    async def connect(self, call: Call, options: Object) -> None: ...

    async def act(self, call: Call, body: Object) -> None: ...

    # Validating phase: the object is complete and valid; may only refuse.

    async def validate_create(self, call: Call, obj: Object) -> None: ...

    async def validate_update(self, call: Call, new: Object, old: Object) -> None: ...

    async def validate_act(self, call: Call, body: Object) -> None: ...
