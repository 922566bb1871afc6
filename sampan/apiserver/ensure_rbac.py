"""Makes the default roles and bindings at start: one list per kind, then only what is missing or lacks rules."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from sampan.apiserver.bootstrap_rbac import objects, reconciled
from sampan.apiserver.rbac import KINDS, RBAC_GROUP
from sampan.client.transport import Request, Response, User
from sampan.kube.errors import ApiError

BASE = f"/apis/{RBAC_GROUP}/v1"
SYSTEM = User("system:apiserver", ("system:masters",))
JSON = {"content-type": "application/json"}

Handle = Callable[[Request], Awaitable[Response]]


async def ensure_rbac(handle: Handle) -> int:
    """How many objects were written through `handle` (the API server's pipeline). Idempotent.

    Namespaces kube-system and kube-public must be there. Raises ApiError when a write is refused for another reason
    than that somebody else was quicker.
    """
    present: dict[tuple[str, str, str], dict[str, Any]] = {}
    for plural in KINDS:
        response = await _send(handle, "GET", f"{BASE}/{plural}")
        for item in orjson.loads(await response.read())["items"]:
            metadata = item["metadata"]
            present[plural, metadata.get("namespace", ""), metadata["name"]] = item
    writes: list[tuple[str, str, dict[str, Any]]] = []
    for plural, wanted in objects():
        metadata = wanted["metadata"]
        namespace, name = metadata.get("namespace", ""), metadata["name"]
        path = f"{BASE}/namespaces/{namespace}/{plural}" if namespace else f"{BASE}/{plural}"
        found = present.get((plural, namespace, name))
        if found is None:
            writes.append(("POST", path, wanted))
        elif (changed := reconciled(wanted, found)) is not None:
            writes.append(("PUT", f"{path}/{name}", changed))
    async with asyncio.TaskGroup() as group:
        for method, path, body in writes:
            group.create_task(_write(handle, method, path, body))
    return len(writes)


async def _write(handle: Handle, method: str, path: str, body: dict[str, Any]) -> None:
    try:
        await _send(handle, method, path, orjson.dumps(body))
    except ApiError as error:
        if error.code != 409:
            raise


async def _send(handle: Handle, method: str, path: str, body: bytes = b"") -> Response:
    response = await handle(Request(method, path, headers=dict(JSON), body=body, user=SYSTEM))
    if response.status >= 400:
        raise ApiError.from_status(orjson.loads(await response.read()))
    return response
