"""What a pod's containers mount, brought into its guest: copies by the agent, directories of the host by the file server.

The server is started when the first container needs it, and its end is the machine's: what programs have open would be
lost without their knowing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from sampan.runtime.microvm import disks, jail, shares, volumes
from sampan.runtime.microvm.channel import Channel, GuestError
from sampan.runtime.microvm.errors import MicroVMError, MissingPiece, VMMError
from sampan.runtime.microvm.facts import Facts
from sampan.runtime.microvm.guestfiles import GuestFiles
from sampan.runtime.microvm.protocol import Change, Type
from sampan.runtime.microvm.shares import Shares
from sampan.runtime.microvm.vmm import Machine
from sampan.runtime.microvm.volumes import Treatment, Volume
from sampan.runtime.sandbox import CannotStart, ContainerSpec, Mount, SandboxSpec

Placed = tuple[Volume, str]  # and where in the container


class Provision:
    """`started` hears the pid of the file server when there is one; `lost`, that it has ended."""

    def __init__(
        self,
        spec: SandboxSpec,
        facts: Facts,
        machine: Machine,
        channel: Channel,
        started: Callable[[int], None],
        lost: Callable[[str], None],
    ) -> None:
        self.files = GuestFiles(channel)
        self._own = tuple(path for path in (spec.hosts, spec.resolv_conf) if path is not None)
        self._disk = spec.annotations.get(disks.PLACE)
        self._facts = facts
        self._channel = channel
        self._placed: dict[str, list[Placed]] = {}
        uid = jail.uid_of(Path(facts.directory).name) if facts.jailed else 0
        self._shares = Shares(machine, uid)
        self._started, self._lost = started, lost
        self._waiting: asyncio.Task[None] | None = None

    async def adopt(self, containers: list[ContainerSpec]) -> None:
        """Go on with what a former runtime has provided."""
        if self._facts.shares:
            if not self._shares.adopt():
                raise VMMError("the file server of the pod's volumes has ended")
            self._watch()
        for container in containers:
            await self.provide(container, present=True)

    async def provide(self, container: ContainerSpec, *, present: bool = False) -> list[Placed]:
        """Volumes of a container, in the guest on return. Raises CannotStart, MicroVMError, OSError."""
        mounts = Path("/proc/self/mountinfo").read_text()
        placed: list[Placed] = []
        for mount in container.mounts:
            if mount.target == self._disk:
                continue  # it holds the disk, which is attached as a drive
            try:
                volume = self._plan(mount, mounts)
            except CannotStart:
                if present:
                    continue
                raise
            if guest := self._facts.places.get(container.id, {}).get(mount.target):
                volume = replace(volume, guest=guest)
            if volume.treatment is Treatment.SHARED:
                volume = replace(volume, guest=await self._share(volume))
            else:
                known = volume.guest in self._facts.present and volume.treatment is Treatment.LOCAL
                await self.files.provide(volume, present=present or known)
                if volume.guest not in self._facts.present:
                    self._facts.present.append(volume.guest)
            placed.append((volume, mount.target))
        self._placed[container.id] = placed
        return placed

    async def renew(self, container: ContainerSpec, places: Mapping[str, str]) -> None:
        """A guest that was restored has these volumes at `places`, by target, as they were then: they become as they are.

        Raises CannotStart for one that it did not have, MicroVMError, OSError.
        """
        mounts = Path("/proc/self/mountinfo").read_text()
        placed: list[Placed] = []
        for mount in container.mounts:
            if mount.target == self._disk:
                continue
            volume = self._plan(mount, mounts)
            guest = places.get(mount.target)
            if guest is None or volume.treatment is Treatment.SHARED:
                raise CannotStart(
                    f"{mount.source}, to be mounted at {mount.target}, was not there when the snapshot was taken"
                )
            volume = replace(volume, guest=guest)
            if volume.treatment is Treatment.FILE:
                await self.files.put(volumes.put_file(volume.source, volume.guest, Change.IN_PLACE))
            await self.files.provide(volume, present=volume.treatment is not Treatment.PAYLOAD)
            placed.append((volume, mount.target))
        self._placed[container.id] = placed
        self._facts.places[container.id] = dict(places)

    def _plan(self, mount: Mount, mounts: str) -> Volume:
        return volumes.plan(mount, mounts, self._own, sharing=self._facts.sharing)

    def places(self, container_id: str) -> dict[str, str]:
        """Where the volumes of a container are in the guest, by target."""
        return {target: volume.guest for volume, target in self._placed.get(container_id, ())}

    async def _share(self, volume: Volume) -> str:
        """Where the directory (or file) is in the guest."""
        share = [str(volume.source), volume.readonly]
        if share not in self._facts.shares:
            if not self._shares.running:
                await self._serve()
            number = await self._shares.add(volume.source, volume.readonly)
            if number != len(self._facts.shares):
                raise VMMError(f"the file server calls a share {number} that is another")
            self._facts.shares.append(share)
        return f"{shares.GUEST}/{self._facts.shares.index(share)}"

    async def _serve(self) -> None:
        try:
            await self._shares.start()
            self._started(self._shares.pid)
            await self._channel.call(Type.SHARE)
        except (GuestError, MissingPiece, VMMError) as error:
            await self._shares.stop()
            raise CannotStart(
                f"directories of the host cannot be shared with this microVM: {error}"
            ) from error
        self._watch()

    def _watch(self) -> None:
        self._waiting = asyncio.create_task(self._await_end(), name="microVM file server")

    async def _await_end(self) -> None:
        await self._shares.wait()
        self._lost("the file server of the pod's volumes has ended")

    async def take_back(self, container_id: str) -> None:
        """What an ended container wrote into the pod's files becomes visible on the host."""
        for volume, _ in self._placed.get(container_id, ()):
            if volume.returned:
                with suppress(MicroVMError, OSError):
                    await self.files.take_back(volume)

    async def close(self) -> None:
        """Let go; the machine and its server go on."""
        await self._let_go()
        self._shares.close()

    async def stop(self) -> None:
        """No file server is left. Idempotent."""
        await self._let_go()
        await self._shares.stop()

    async def _let_go(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            await asyncio.gather(self._waiting, return_exceptions=True)
            self._waiting = None
        await self.files.close()
