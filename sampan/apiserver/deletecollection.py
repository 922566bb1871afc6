"""deletecollection: each object of a list is deleted as by its own DELETE, so many at a time."""

from __future__ import annotations

import asyncio

from sampan.apiserver import memory
from sampan.apiserver.call import Call
from sampan.apiserver.entries import Entry
from sampan.apiserver.registry import DeleteOptions, Registry
from sampan.apiserver.routes import RequestInfo
from sampan.kube.errors import ApiError

AT_ONCE = 64
MANY = 1000  # objects whose memory is worth giving back


async def delete_all(
    registry: Registry, call: Call, entries: list[Entry], options: DeleteOptions
) -> list[Entry]:
    """What was deleted, in the order of `entries`; those that vanish meanwhile are left out. ApiError of the first refusal."""
    left = iter(enumerate(entries))
    deleted: dict[int, Entry] = {}

    async def work() -> None:
        for index, entry in left:
            found = await _delete(registry, call, entry, options)
            if found is not None:
                deleted[index] = found

    workers = [asyncio.ensure_future(work()) for _ in range(min(AT_ONCE, len(entries)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
    if len(entries) > MANY:
        asyncio.get_running_loop().call_later(1.0, memory.give_back)  # after the answer has gone
    return [deleted[index] for index in sorted(deleted)]


async def _delete(
    registry: Registry, call: Call, entry: Entry, options: DeleteOptions
) -> Entry | None:
    parts = entry.key.split("/")
    asked = call.info
    info = RequestInfo("delete", asked.path, True, asked.group, asked.version, asked.resource)
    info.namespace = parts[4] if call.resource.namespaced else ""
    info.name = parts[-1]
    single = Call(call.request, info, call.resource, call.user, dry_run=call.dry_run)
    try:
        return (await registry.delete(single, options)).entry
    except ApiError as error:
        if error.reason == "NotFound":
            return None
        raise
