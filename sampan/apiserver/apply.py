"""Server-side apply (KEP-555), as a request: merge the configuration into the object, or make the object of it.

An apply to what does not exist creates it, and asks for the right to. Who is quicker, a creator or a deleter in between,
changes what is to be done, so it is then tried again; at a subresource there is nothing to create.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from sampan.apiserver import conversion
from sampan.apiserver.body import applied_configuration, conforming
from sampan.apiserver.call import Call, boolean
from sampan.apiserver.entries import Entry
from sampan.apiserver.registry import RETRIES, STALE, Object
from sampan.kube.errors import ApiError

if TYPE_CHECKING:
    from sampan.apiserver.server import APIServer

Prepare = Callable[[Call, Object, Object], None]


async def apply(
    server: APIServer,
    call: Call,
    check: Callable[[Call, Object], None],
    status: bool,
    prepare: Prepare | None,
) -> tuple[Entry, bool]:
    """(what is stored now, whether it was created). `check` holds the new object against the request's path."""
    row, info = call.resource, call.info
    config = applied_configuration(call)
    force = bool(boolean(call.request, "force"))
    call.tracked = True

    async def merged(live: Object | None) -> Object:
        new = await server.fields.applied(call, live, config, force)
        conforming(call, call.gvk, new)
        check(call, new)
        return conversion.to_storage(row, new)

    async def change(stored: Object) -> Object:
        return await merged(conversion.from_storage(row, stored))

    async def made() -> Object:
        obj = await merged(None)
        metadata = obj["metadata"]
        if metadata.get("uid"):
            problem = (
                f"uid mismatch: the provided object specified uid {metadata['uid']}, "
                "and no existing object was found"
            )
            raise call.conflict(problem)
        metadata.pop("resourceVersion", None)
        return obj

    for _ in range(RETRIES):
        absent = await _is_absent(server, call)
        create = made if absent and not info.subresource else None
        if create is not None:
            await server.access.check(call.user, replace(info, verb="create"))
        try:
            return await server.registry.update(
                call, change, status=status, create=create, prepare=prepare
            )
        except ApiError as error:
            appeared = create is not None and error.reason == "AlreadyExists"
            vanished = not absent and error.reason == "NotFound" and await _is_absent(server, call)
            if info.subresource or not (appeared or vanished):
                raise
    raise call.conflict(STALE)


async def _is_absent(server: APIServer, call: Call) -> bool:
    return await server.registry.find(call.resource, call.info.namespace, call.info.name) is None
