"""At start: the records of addresses and node ports are made to agree with the Services that hold them.

A server that dies between taking a number and writing the Service, or between removing a Service and giving its numbers
back, leaves a record that nobody holds; a data directory from before there were records has none at all. A young record
is left alone: another server may be about to write its Service.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sampan.apiserver.resources import core
from sampan.apiserver.strategies import claims
from sampan.apiserver.strategies.claims import ADDRESSES, NODE_PORTS, Claims, Owner, held_by, parent
from sampan.kube import objects

if TYPE_CHECKING:
    from sampan.apiserver.registry import Registry

log = logging.getLogger(__name__)

YOUNG = 60.0  # seconds that a Service may take from its first record to being written
SERVICES = next(row for row in core.RESOURCES if row.name == "services")
_MAKE = {ADDRESSES: claims.address_record, NODE_PORTS: claims.port_record}


async def repair(registry: Registry) -> None:
    """Make missing records, drop those of no Service. Idempotent; several servers may do it at once."""
    services = [entry.object() for entry in (await registry.caches.get(SERVICES)).entries.values()]
    wanted = {held: Owner.of(service) for service in services for held in held_by(service)}
    for row in (ADDRESSES, NODE_PORTS):
        cache = await registry.caches.get(row)
        for entry in list(cache.entries.values()):
            record = entry.object()
            owner = parent(record)
            if owner is None or wanted.get((row, entry.name)) == owner:
                continue
            made = objects.parse_time(record["metadata"]["creationTimestamp"])
            if (datetime.now(UTC) - made).total_seconds() > YOUNG:
                await claims.discard(registry, row, entry.name, entry.revision)
    for (row, name), owner in wanted.items():
        cache = await registry.caches.get(row)
        if row.key("", name) in cache.entries:
            continue
        if not await Claims(registry, owner, dry_run=False).take(
            row, name, _MAKE[row](name, owner)
        ):
            log.error("%s %s: two Services hold it; %s is one", row.kind, name, "/".join(owner))
