"""The copies that a guest has of the host's files: made before a container starts, renewed when the originals change."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from sampan.runtime.microvm import protocol, volumes
from sampan.runtime.microvm.channel import Channel
from sampan.runtime.microvm.errors import MicroVMError
from sampan.runtime.microvm.protocol import Change, Field, Key, Type
from sampan.runtime.microvm.session import in_order
from sampan.runtime.microvm.volumes import Treatment, Volume
from sampan.runtime.microvm.watch import Watch

LOG = logging.getLogger(__name__)


class GuestFiles:
    """`known`: by guest path, what is there already (an adopted guest): kept on disk by the sandbox."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._have: dict[str, Volume] = {}
        self._names: dict[str, set[str]] = {}
        self._watch = Watch(self._changed)
        self._stale: dict[str, Volume] = {}
        self._renewing: asyncio.Task[None] | None = None

    async def provide(self, volume: Volume, *, present: bool = False) -> None:
        """It is in the guest on return. `present`: it is known to be; only watch it. Raises MicroVMError, OSError."""
        if volume.guest in self._have:
            return
        self._have[volume.guest] = volume
        watched = {Treatment.PAYLOAD: volume.source, Treatment.FILE: volume.source}.get(
            volume.treatment
        )
        if watched is not None:
            self._watch.add(watched)
        if volume.treatment is Treatment.PAYLOAD:
            self._names[volume.guest] = volumes.names_in(volume.source)
        if not present:
            try:
                await self.put(changes(volume))
            except BaseException:
                del self._have[volume.guest]
                raise

    async def put(self, messages: Iterable[list[Field]]) -> None:
        """All of them, in order, without waiting for each; the first that failed is raised."""
        await in_order(*(self.channel.call(Type.PUT, message) for message in messages))

    async def take_back(self, volume: Volume) -> None:
        """The guest's version of a file becomes the host's."""
        answer = await self.channel.call(Type.GET, [(Key.PATH, volume.guest)])
        content = protocol.decode(answer).get(Key.CONTENT, b"")
        descriptor = os.open(volume.source, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.write(descriptor, content)
        finally:
            os.close(descriptor)

    def _changed(self, path: Path, name: str) -> None:
        for volume in self._have.values():
            if volume.source != path:
                continue
            if volume.treatment is Treatment.FILE or name == volumes.DATA:
                self._stale[volume.guest] = volume
        if self._stale and (self._renewing is None or self._renewing.done()):
            self._renewing = asyncio.create_task(self._renew(), name="renew files")

    async def _renew(self) -> None:
        while self._stale:
            _, volume = self._stale.popitem()
            try:
                if volume.treatment is Treatment.FILE:
                    # A bind mount of it in a container shows the file that was mounted: it is rewritten, not replaced.
                    await self.put(volumes.put_file(volume.source, volume.guest, Change.IN_PLACE))
                else:
                    before = self._names[volume.guest]
                    await self.put(
                        list(volumes.update_payload(volume.source, volume.guest, before))
                    )
                    self._names[volume.guest] = volumes.names_in(volume.source)
            except (MicroVMError, OSError) as error:
                LOG.warning(
                    "renewing %s in microVM %s: %s", volume.source, self.channel.name, error
                )

    async def close(self) -> None:
        self._watch.close()
        if self._renewing is not None:
            self._renewing.cancel()
            with suppress(asyncio.CancelledError):
                await self._renewing


def changes(volume: Volume) -> list[list[Field]]:
    if volume.treatment is Treatment.FILE:
        return list(volumes.put_file(volume.source, volume.guest))
    if volume.treatment is Treatment.LOCAL:
        return [volumes.put_directory(volume.guest, volume.source.stat())]
    return list(volumes.put_tree(volume.source, volume.guest))
