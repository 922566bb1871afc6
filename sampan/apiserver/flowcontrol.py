"""FlowSchemas and PriorityLevelConfigurations in the store: the defaults are laid down, kept, and followed.

What a user has taken over (annotation `apf.kubernetes.io/autoupdate-spec: "false"`) stays as the user wants it; the two mandatory
ones of each kind never change, and what is deleted of the defaults comes back.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from sampan.apiserver import flowschemas
from sampan.apiserver.flowschemas import CATCH_ALL, EXEMPT
from sampan.client.transport import User
from sampan.kube import objects
from sampan.kube.errors import ApiError
from sampan.kube.types import GVR

if TYPE_CHECKING:
    from sampan.apiserver.fairness import Fairness
    from sampan.apiserver.server import APIServer

log = logging.getLogger(__name__)

GROUP = "flowcontrol.apiserver.k8s.io"
SCHEMAS = GVR(GROUP, "v1", "flowschemas")
LEVELS = GVR(GROUP, "v1", "prioritylevelconfigurations")

Object = dict[str, Any]


async def lay_down(server: APIServer) -> None:
    """The default objects exist on return. Written as they are: a new cluster should not start slower for them."""
    work = []
    for gvr, wanted in (
        (LEVELS, flowschemas.default_levels()),
        (SCHEMAS, flowschemas.default_schemas()),
    ):
        row = server.table.lookup(*gvr)
        assert row is not None
        cache = await server.caches.get(row)
        for obj in wanted:
            if row.key("", obj["metadata"]["name"]) not in cache.entries:
                obj["metadata"]["generation"] = 1
                obj["status"] = {}
                if gvr is SCHEMAS:
                    level = obj["spec"]["priorityLevelConfiguration"]["name"]
                    obj["status"] = {"conditions": [dangling_condition(level, exists=True)]}
                work.append(server.registry.place(row, obj))
    await asyncio.gather(*work)


async def follow(server: APIServer, fairness: Fairness) -> None:
    """Keep `fairness` as the stored objects say. One task of the server's group."""
    from sampan.client.client import Client
    from sampan.client.informer import Informer
    from sampan.client.inprocess import InProcess

    client = Client(InProcess(server, User("system:apiserver", ("system:masters",))))
    levels, schemas = Informer(client, LEVELS), Informer(client, SCHEMAS)
    changed = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for informer in (levels, schemas):
            informer.start(group)
            await informer.synced()
            informer.add_handler(lambda *_: changed.set())
        while True:
            changed.clear()
            await ensure(client, LEVELS, levels, flowschemas.default_levels())
            await ensure(client, SCHEMAS, schemas, flowschemas.default_schemas())
            fairness.configure(levels.list(), schemas.list())
            await tell_dangling(client, levels, schemas)
            await changed.wait()


async def ensure(client: Any, gvr: GVR, known: Any, wanted: list[Object]) -> None:
    """Make what is missing, and keep what is ours as it should be: the mandatory ones, and those whose annotation says so."""

    def ours(present: Object) -> bool:
        annotations = present["metadata"].get("annotations") or {}
        mandatory = present["metadata"]["name"] in (EXEMPT, CATCH_ALL)
        return mandatory or annotations.get(flowschemas.AUTO_UPDATE) == "true"

    async def one(obj: Object) -> None:
        present = known.get("", obj["metadata"]["name"])
        try:
            if present is None:
                await client.create(gvr, obj)
            elif present["spec"] != obj["spec"] and ours(present):
                await client.update(gvr, {**present, "spec": obj["spec"]})
        except ApiError as error:
            if error.code != 409:  # else another server does the same
                log.warning("%s %s: %s", gvr.resource, obj["metadata"]["name"], error)

    await asyncio.gather(*(one(obj) for obj in wanted))


async def tell_dangling(client: Any, levels: Any, schemas: Any) -> None:
    """The condition that says whether a schema's level exists."""
    for schema in schemas.list():
        level = schema["spec"]["priorityLevelConfiguration"]["name"]
        wanted = dangling_condition(level, exists=levels.get("", level) is not None)
        found = objects.condition(schema, "Dangling")
        if found is not None and found.get("status") == wanted["status"]:
            continue
        others = [
            each
            for each in (schema.get("status") or {}).get("conditions") or ()
            if each["type"] != "Dangling"
        ]
        try:
            await client.update(
                SCHEMAS, {**schema, "status": {"conditions": [*others, wanted]}}, "status"
            )
        except ApiError as error:
            if error.code not in (404, 409):
                log.warning("flowschemas %s: %s", schema["metadata"]["name"], error)


def dangling_condition(level: str, *, exists: bool) -> Object:
    what = "and it exists" if exists else "but there is no such object"
    return {
        "type": "Dangling",
        "status": "False" if exists else "True",
        "lastTransitionTime": objects.now(),
        "reason": "Found" if exists else "NotFound",
        "message": "This FlowSchema references the PriorityLevelConfiguration object named "
        f'"{level}" {what}',
    }
