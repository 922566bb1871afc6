"""Numbers that one Service may hold at a time: cluster addresses and node ports, each a record in the store.

Taking a number is creating its record, which the store allows once: any number of API servers on one store can give out
numbers without speaking to each other (KEP-1880). The watch cache of the records only says which numbers are worth trying.
An address is recorded as the IPAddress object that the API serves; a node port, for which the API has no kind, in a record
of the same shape that is not served.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from sampan.apiserver.entries import Entry, encode
from sampan.apiserver.resources import Resource, networking
from sampan.apiserver.resources.model import resource
from sampan.kube import objects
from sampan.store import Conflict

if TYPE_CHECKING:
    from sampan.apiserver.registry import Registry

Object = dict[str, Any]

TRIES = 16  # at random, before the range is walked

ADDRESSES: Resource = next(row for row in networking.RESOURCES if row.name == "ipaddresses")
CIDRS: Resource = next(row for row in networking.RESOURCES if row.name == "servicecidrs")
NODE_PORTS: Resource = resource(
    "", "v1", "nodeports", "NodePort", namespaced=False, storage="ranges/nodeports"
)


class Band(NamedTuple):
    """Numbers from `low` to `high`, both included; users choose by hand below `dynamic`, we above (KEP-3070, KEP-3668)."""

    low: int
    high: int
    dynamic: int


def band(low: int, high: int, size: int, *, step: int, most: int) -> Band:
    """The static part is `size / step` numbers, at least 16 and at most `most`; a range of up to 16 has none."""
    static = 0 if size <= 16 else min(max(16, size // step), most)
    return Band(low, high, min(low + static, high))


class Owner(NamedTuple):
    namespace: str
    name: str

    @classmethod
    def of(cls, service: Object) -> Owner:
        metadata = service["metadata"]
        return cls(metadata.get("namespace") or "", metadata["name"])

    def reference(self) -> Object:
        return {
            "group": "",
            "resource": "services",
            "namespace": self.namespace,
            "name": self.name,
        }


def parent(record: Object) -> Owner | None:
    """The Service that a record names; None when it belongs to something else."""
    ref = (record.get("spec") or {}).get("parentRef") or {}
    if ref.get("resource") != "services" or ref.get("group"):
        return None
    return Owner(ref.get("namespace") or "", ref.get("name") or "")


class Claim(NamedTuple):
    row: Resource
    name: str
    revision: int  # of the record that we wrote


def free(taken: Callable[[int], bool], within: Band) -> Iterable[int]:
    """Numbers that nobody holds: some at random from the dynamic part, then each that there is."""
    low, high, dynamic = within
    if low > high:
        return
    for _ in range(TRIES):
        number = random.randint(dynamic, high)
        if not taken(number):
            yield number
    for first, last in ((dynamic, high), (low, dynamic - 1)):
        for number in range(first, last + 1):
            if not taken(number):
                yield number


class Claims:
    """What one write of a Service takes. `undo` gives it back when the write fails."""

    def __init__(self, registry: Registry, owner: Owner, dry_run: bool) -> None:
        self.registry = registry
        self.owner = owner
        self.dry_run = dry_run
        self.taken: list[Claim] = []

    async def holder(self, row: Resource, name: str) -> Entry | None:
        cache = await self.registry.caches.get(row)
        return cache.entries.get(row.key("", name))

    async def take(self, row: Resource, name: str, record: Object) -> bool:
        """Make the record; False when the number is held. One left behind by a Service that never came to be is taken over."""
        entry = await self.holder(row, name)
        if entry is not None and not await self._abandoned(entry):
            return False
        if self.dry_run:
            return True
        try:
            revision = await self.registry.store.put(
                row.key("", name), encode(record), expect=entry.revision if entry else 0
            )
        except Conflict:
            return False
        self.taken.append(Claim(row, name, revision))
        return True

    async def any(
        self,
        row: Resource,
        within: Band,
        name: Callable[[int], str],
        make: Callable[[str], Object],
    ) -> int | None:
        """Some free number of the band, taken; None when there is none."""
        entries = (await self.registry.caches.get(row)).entries
        for number in free(lambda number: row.key("", name(number)) in entries, within):
            if await self.take(row, name(number), make(name(number))):
                return number
        return None

    async def _abandoned(self, entry: Entry) -> bool:
        """Is it in this Service's name, while there is no such Service? Then a server died in the middle of making it."""
        if parent(entry.object()) != self.owner:
            return False
        return await self.registry.store.get(service_key(self.owner)) is None

    async def undo(self) -> None:
        if not self.taken:
            return
        record = await self.registry.store.get(service_key(self.owner))
        held = held_by(orjson.loads(record.value)) if record is not None else set()
        for claim in self.taken:
            # Another server may have made this very Service meanwhile, with what we took for it.
            if (claim.row, claim.name) not in held:
                await discard(self.registry, claim.row, claim.name, claim.revision)
        self.taken.clear()


def canonical(address: str) -> str:
    """The one way to write it, which names its record; "" for what is no address."""
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return ""


def held_by(service: Object) -> set[tuple[Resource, str]]:
    """The records that belong to the Service: their kinds and names."""
    spec = service.get("spec") or {}
    found: set[tuple[Resource, str]] = set()
    for address in spec.get("clusterIPs") or ():
        if name := canonical(address):
            found.add((ADDRESSES, name))
    for port in (*(spec.get("ports") or ()), {"nodePort": spec.get("healthCheckNodePort")}):
        if port.get("nodePort"):
            found.add((NODE_PORTS, str(port["nodePort"])))
    return found


def service_key(owner: Owner) -> str:
    return f"/registry/core/services/{owner.namespace}/{owner.name}"


async def discard(registry: Registry, row: Resource, name: str, revision: int) -> None:
    """Forget the record unless it was written again since."""
    try:
        await registry.store.delete(row.key("", name), expect=revision)
    except Conflict:
        return


async def release(registry: Registry, row: Resource, name: str, owner: Owner) -> None:
    """Give back what `owner` held."""
    entry = (await registry.caches.get(row)).entries.get(row.key("", name))
    if entry is not None and parent(entry.object()) == owner:
        await discard(registry, row, name, entry.revision)


def address_record(name: str, owner: Owner) -> Object:
    return {
        "apiVersion": ADDRESSES.api_version,
        "kind": ADDRESSES.kind,
        "metadata": {
            **_identity(name),
            "labels": {
                "ipaddress.kubernetes.io/ip-family": "IPv6" if ":" in name else "IPv4",
                "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
            },
        },
        "spec": {"parentRef": owner.reference()},
    }


def port_record(name: str, owner: Owner) -> Object:
    return {
        "apiVersion": NODE_PORTS.api_version,
        "kind": NODE_PORTS.kind,
        "metadata": _identity(name),
        "spec": {"parentRef": owner.reference()},
    }


def _identity(name: str) -> Object:
    from sampan.apiserver.registry import new_uid  # a cycle: the registry knows the strategies

    return {
        "name": name,
        "uid": new_uid(),
        "creationTimestamp": objects.now(),
        "generation": 1,
    }
