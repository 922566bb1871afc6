"""Lifecycle hooks: what is run in a container right after its start and before its end."""

from __future__ import annotations

import asyncio

from sampan.cri.client import CRIClient
from sampan.node.errors import HookError
from sampan.node.podspec import Object
from sampan.node.probes.runners import Unanswered, ask

HTTP_TIMEOUT = 60.0  # a hook has no time-out of its own


async def run(
    handler: Object, container: Object, container_id: str, address: str, cri: CRIClient
) -> None:
    """Raises HookError with what the handler said."""
    if (sleep := handler.get("sleep")) is not None:
        await asyncio.sleep(sleep.get("seconds") or 0)
        return
    timeout = 0.0 if handler.get("exec") else HTTP_TIMEOUT
    try:
        answer = await ask(handler, container, container_id, address, timeout, cri)
    except Unanswered as error:
        raise HookError(f"lifecycle hook for Container {container['name']!r}: {error}") from error
    if answer.ok:
        return
    if command := (handler.get("exec") or {}).get("command"):
        raise HookError(
            f"Exec lifecycle hook ({command}) for Container {container['name']!r} failed: {answer.text}"
        )
    raise HookError(f"lifecycle hook for Container {container['name']!r} failed: {answer.text}")
