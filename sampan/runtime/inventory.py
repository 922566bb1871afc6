"""Everything the runtime has: sandboxes, containers, kinds, and who listens to events. Shared by the services.

Look-ups take an id or the unique beginning of one, as every CRI runtime does, and raise `cri.errors.NotFound`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

from sampan.cri import api_pb2 as pb
from sampan.cri.errors import InvalidArgument, NotFound, ResourceExhausted
from sampan.runtime import views
from sampan.runtime.config import RuntimeConfig
from sampan.runtime.kinds import glance, load
from sampan.runtime.records import ContainerEntry, SandboxEntry
from sampan.runtime.sandbox import SandboxKind, Support
from sampan.runtime.spec import log_path, stop_signal

LOG = logging.getLogger(__name__)

# A listener that is this far behind is gone or stuck; kubelet relists when its stream breaks.
BACKLOG = 4096


class Inventory:
    def __init__(self, config: RuntimeConfig) -> None:
        self.config = config
        self.sandboxes: dict[str, SandboxEntry] = {}
        self.containers: dict[str, ContainerEntry] = {}
        self._kinds: dict[str, SandboxKind] = {}
        self._support: dict[str, Support] = {}
        self._probing = asyncio.Lock()
        self._listeners: set[asyncio.Queue[Any]] = set()

    # kinds

    def kind(self, name: str) -> SandboxKind:
        if name not in self._kinds:
            self._kinds[name] = load(
                name,
                self.config.directory / name,
                self.config.run_directory / name,
                self.config.instance,
                self.config.engine(name),
            )
        return self._kinds[name]

    async def support(self, name: str) -> Support:
        """Probed once; after that from memory."""
        async with self._probing:
            if name not in self._support:
                try:
                    # A probe that takes seconds is left to the first pod: a node is not Ready before this answers.
                    seen = glance(name, self.config.directory / name)
                    self._support[name] = seen or await self.kind(name).probe()
                except ImportError as error:
                    self._support[name] = Support(False, why=str(error))
                except Exception as error:
                    LOG.exception("probe of the kind %r", name)
                    self._support[name] = Support(False, why=str(error))
            return self._support[name]

    @property
    def offered(self) -> tuple[str, ...]:
        """Handlers that are told to whoever asks: the configured ones, and OCI runtimes that somebody has asked for."""
        used = (entry.kind for entry in self.sandboxes.values())
        return tuple(dict.fromkeys((*self.config.handlers, *self._support, *used)))

    async def kind_for(self, handler: str, image_os: str) -> str:
        """The kind that a handler names; without one, that of the image's platform, else the host's best."""
        if handler:
            if handler not in self.config.known:
                raise InvalidArgument(f'no runtime for "{handler}" is configured')
            return handler
        if image_os:
            return kind_of_image(image_os)
        if self.config.default_kind:
            return self.config.default_kind
        if "container" in self.config.kinds and (await self.support("container")).usable:
            return "container"
        return "wasm" if "wasm" in self.config.kinds else self.config.kinds[0]

    def loaded_kinds(self) -> list[SandboxKind]:
        return list(self._kinds.values())

    # look-ups

    def sandbox(self, identifier: str) -> SandboxEntry:
        entry: SandboxEntry = find(self.sandboxes, identifier, "sandbox")
        return entry

    def container(self, identifier: str) -> ContainerEntry:
        entry: ContainerEntry = find(self.containers, identifier, "container")
        return entry

    def containers_of(self, sandbox: SandboxEntry) -> list[ContainerEntry]:
        return [entry for entry in self.containers.values() if entry.sandbox_id == sandbox.id]

    def status_of(self, entry: ContainerEntry) -> Any:
        sandbox = self.sandboxes[entry.sandbox_id]
        path = log_path(sandbox.config, entry.config)
        name = stop_signal(entry.config, entry.image_config)
        number = (
            pb.Signal.Value(name)
            if name in pb.Signal.DESCRIPTOR.values_by_name
            else pb.RUNTIME_DEFAULT
        )
        return views.container_status(entry, str(path or ""), number)

    # events

    def tell(self, kind: int, identifier: str, sandbox: SandboxEntry) -> None:
        if not self._listeners:
            return
        event = pb.ContainerEventResponse(
            container_id=identifier,
            container_event_type=kind,
            created_at=time.time_ns(),
            pod_sandbox_status=views.sandbox_status(sandbox),
            containers_statuses=[self.status_of(entry) for entry in self.containers_of(sandbox)],
        )
        for queue in list(self._listeners):
            try:
                queue.put_nowait(event)
            except asyncio.QueueFull:
                self._listeners.discard(queue)

    async def events(self) -> AsyncIterator[Any]:
        """Raises ResourceExhausted when the reader is too slow."""
        queue: asyncio.Queue[Any] = asyncio.Queue(BACKLOG)
        self._listeners.add(queue)
        try:
            while queue in self._listeners or not queue.empty():
                yield await queue.get()
            raise ResourceExhausted("this reader of events fell too far behind: list again")
        finally:
            self._listeners.discard(queue)


def kind_of_image(image_os: str) -> str:
    return "wasm" if image_os.startswith("wasi") or image_os == "wasm" else "container"


def find(entries: dict[str, Any], identifier: str, what: str) -> Any:
    if not identifier:
        raise InvalidArgument(f"{what} id is empty")
    if (entry := entries.get(identifier)) is not None:
        return entry
    matches = [entry for key, entry in entries.items() if key.startswith(identifier)]
    if len(matches) > 1:
        raise InvalidArgument(f"{what} id {identifier!r} is the beginning of more than one")
    if not matches:
        raise NotFound(f"{what} {identifier!r}: not found")
    return matches[0]
