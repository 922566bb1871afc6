"""What happens in the runtime: its event stream, and a full listing whenever the stream had to be opened anew.

The stream is opened before the listing is asked for, so nothing falls between them. While the runtime is away nothing is
concluded about its pods: they keep running, and the next listing tells what became of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from sampan.cri import api_pb2 as api
from sampan.cri.client import CRIClient
from sampan.cri.errors import CRIError, NotFound
from sampan.node.observed import (
    POD_UID,
    ContainerState,
    SandboxState,
    container_state,
    sandbox_state,
)

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
PARALLEL = 16
CREATED, DELETED = 0, 3  # ContainerEventType

PodNews = tuple[list[SandboxState], list[ContainerState]]


class RuntimeWatch:
    """`event(uid, sandboxes, containers)` merges; `listing(pods)` replaces; `connected(bool)` tells of the runtime."""

    def __init__(self, cri: CRIClient) -> None:
        self._cri = cri
        self.event: Callable[[str, list[SandboxState], list[ContainerState]], None] | None = None
        self.listing: Callable[[dict[str, PodNews], dict[str, Any]], None] | None = None
        self.connected: Callable[[bool], None] | None = None

    async def run(self) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                async with asyncio.TaskGroup() as group:
                    reader = group.create_task(self._read())
                    await self._list_all()
                    if self.connected:
                        self.connected(True)
                    pause = FIRST_PAUSE
                    await reader
            except* CRIError as errors:
                log.info("the runtime is away: %s", errors.exceptions[0])
            # Python 3.11's TaskGroup forgets a cancellation that comes while it fails: node and runtime stop together.
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise asyncio.CancelledError
            if self.connected:
                self.connected(False)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _read(self) -> None:
        async for event in self._cri.get_container_events():
            self._take(event)

    def _take(self, event: Any) -> None:
        if event.container_event_type in (CREATED, DELETED):
            return  # by us, who know it from the answer
        if not event.HasField("pod_sandbox_status"):
            return
        sandbox = event.pod_sandbox_status
        uid = sandbox.metadata.uid or sandbox.labels.get(POD_UID, "")
        if uid and self.event:
            containers = [container_state(s, sandbox.id) for s in event.containers_statuses]
            self.event(uid, [sandbox_state(sandbox)], containers)

    async def _list_all(self) -> None:
        pods: dict[str, PodNews] = {}
        metadata: dict[str, Any] = {}
        sandboxes = (await self._cri.list_pod_sandbox()).items
        owners = {item.id: item.metadata.uid for item in sandboxes if POD_UID in item.labels}
        for state in await self._sandbox_states(sandboxes):
            if uid := owners.get(state.id):
                pods.setdefault(uid, ([], []))[0].append(state)
        for item in sandboxes:
            if item.id in owners:
                metadata[item.metadata.uid] = item
        containers = (await self._cri.list_containers()).containers
        for item, found in await self._container_states(containers):
            uid = item.labels.get(POD_UID, "")
            if uid:
                pods.setdefault(uid, ([], []))[1].append(found)
        if self.listing:
            self.listing(pods, metadata)

    async def listed(self, uid: str) -> list[Any]:
        """The pod's sandboxes as a listing shows them."""
        wanted = api.PodSandboxFilter(label_selector={POD_UID: uid})
        return list((await self._cri.list_pod_sandbox(filter=wanted)).items)

    async def of_pod(self, uid: str) -> PodNews:
        """Everything of one pod, now."""
        sandboxes = await self._sandbox_states(await self.listed(uid))
        wanted = api.ContainerFilter(label_selector={POD_UID: uid})
        answer = await self._cri.list_containers(filter=wanted)
        containers = [state for _, state in await self._container_states(answer.containers)]
        return sandboxes, containers

    async def _sandbox_states(self, items: Any) -> list[SandboxState]:
        """With addresses, which a listing does not have."""
        slots = asyncio.Semaphore(PARALLEL)

        async def look(item: Any) -> SandboxState | None:
            async with slots:
                try:
                    answer = await self._cri.pod_sandbox_status(pod_sandbox_id=item.id)
                except NotFound:
                    return None
            return sandbox_state(answer.status)

        return [s for s in await asyncio.gather(*map(look, items)) if s is not None]

    async def _container_states(self, items: Any) -> list[tuple[Any, ContainerState]]:
        slots = asyncio.Semaphore(PARALLEL)

        async def look(item: Any) -> tuple[Any, ContainerState] | None:
            async with slots:
                try:
                    answer = await self._cri.container_status(container_id=item.id)
                except NotFound:
                    return None
            return item, container_state(answer.status, item.pod_sandbox_id)

        return [pair for pair in await asyncio.gather(*map(look, items)) if pair is not None]
