"""Sandboxes that end by themselves: a machine whose guest panics, or whose VMM is killed, takes all its containers along.

Before their ends are told the sandbox is NOTREADY, so whoever wants the pod makes it anew at once, with another sandbox and
another address, and does not try to start a container in what is gone. Of kinds whose containers live apart, each by its own process, no sandbox ends so.
"""

from __future__ import annotations

import asyncio

from sampan.cri import api_pb2 as pb
from sampan.runtime.inventory import Inventory
from sampan.runtime.records import SandboxEntry


def attend(inventory: Inventory, entry: SandboxEntry) -> None:
    """From now on. The entry holds the task, which is cancelled with the sandbox's stop and the runtime's."""
    lost: asyncio.Event | None = getattr(entry.sandbox, "lost", None)
    if lost is not None:
        entry.attendant = asyncio.create_task(
            _attend(inventory, entry, lost), name=f"end of sandbox {entry.id}"
        )


async def _attend(inventory: Inventory, entry: SandboxEntry, lost: asyncio.Event) -> None:
    await lost.wait()
    entry.ready = False
    entry.save()
    for container in inventory.containers_of(entry):
        if container.watcher is not None:
            await container.watcher
    inventory.tell(pb.CONTAINER_STOPPED_EVENT, entry.id, entry)
