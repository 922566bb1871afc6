"""Local APIServices: one object for every group version that this server answers itself, custom resources' among them.

They are always Available. One that a user deletes comes back; one whose group version is no longer served goes.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from sampan.apiserver.aggregation import services, trust
from sampan.apiserver.aggregation.services import APISERVICES
from sampan.kube import objects
from sampan.kube.errors import ApiError

if TYPE_CHECKING:
    from sampan.apiserver.aggregation.aggregator import Aggregator
    from sampan.apiserver.resources import Resource
    from sampan.apiserver.server import APIServer
    from sampan.client.client import Client
    from sampan.client.informer import Informer

log = logging.getLogger(__name__)

Object = dict[str, Any]


def wanted(aggregator: Aggregator) -> dict[str, Object]:
    """What is served here, as APIServices by name."""
    table = aggregator.server.table
    custom = {row.group for row in table.rows.values() if row.custom is not None}
    served = table.groups()
    for group, version in aggregator.extensions:
        served.append((group, [version]))
    return services.local_services(served, custom)


def row_of(server: APIServer) -> Resource:
    row = server.table.lookup(*APISERVICES)
    assert row is not None
    return row


async def lay_down(aggregator: Aggregator) -> None:
    """They exist on return, and so does what others must know to trust us. Written as they are: a new cluster should not start
    slower for them."""
    server = aggregator.server
    row = row_of(server)
    cache = await server.caches.get(row)
    await asyncio.gather(
        *(
            server.registry.place(row, obj)
            for name, obj in wanted(aggregator).items()
            if row.key("", name) not in cache.entries
        ),
        trust.publish(server),
    )


async def keep(aggregator: Aggregator, client: Client, found: Informer) -> None:
    """One for every group version that is served here; none of ours for what no longer is."""
    served = wanted(aggregator)
    row = row_of(aggregator.server)
    for name, obj in served.items():
        if found.get("", name) is None:
            await aggregator.server.registry.place(row, obj)
    for obj in found.list():
        name = objects.name(obj)
        if services.is_local(obj) and services.is_automanaged(obj) and name not in served:
            try:
                await client.delete(APISERVICES, name, uid=objects.uid(obj))
            except ApiError as error:
                if error.code not in (404, 409):
                    log.warning("apiservices %s: %s", name, error)
