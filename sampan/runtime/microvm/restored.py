"""A pod whose machine goes on from a snapshot: where the other one was paused, its programs run on.

The machine is restored and held: CRI tells what a container mounts only when it is started, and no instruction may run
before the disk is in its drive. Then the machine is let go, with its container frozen (it was when the snapshot was
taken), until the guest has entropy, time and a network of its own. A second container of the pod, and a second start of this
one, are as in any pod; so is a second sandbox of it, since its disk has gone on.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from pathlib import Path

from sampan.image import UnpackedImage
from sampan.linux import trees
from sampan.runtime.microvm import channel, disks, log, protocol, snapshots
from sampan.runtime.microvm.clones import Started
from sampan.runtime.microvm.errors import MicroVMError
from sampan.runtime.microvm.images import Drives
from sampan.runtime.microvm.process import POSITIONS, MicroProcess
from sampan.runtime.microvm.protocol import Key, Type
from sampan.runtime.microvm.requests import THAW
from sampan.runtime.microvm.sandbox import MicroSandbox
from sampan.runtime.microvm.snapshots import Snapshot
from sampan.runtime.sandbox import CannotStart, ContainerSpec, SandboxSpec

NOTING = 0.05  # seconds, of which a guest takes a few thousandths


class RestoredSandbox(MicroSandbox):
    def __init__(
        self,
        spec: SandboxSpec,
        drives: Drives,
        instance: str,
        snapshot: Snapshot,
        scratch: Path,
        *,
        driver: str,
        edition: str,
    ) -> None:
        super().__init__(
            spec, drives, instance, sharing=snapshot.sharing, driver=driver, edition=edition
        )
        self._snapshot: Snapshot | None = snapshot
        self._scratch = scratch  # holds the disk, until it is where it belongs

    async def create(self, started: Started) -> None:
        """The machine is this pod's own, and held. Raises OSError; the machine is stopped then."""
        self._take(started)
        try:
            await asyncio.to_thread(self._confine, started)
            self._save()
        except BaseException:
            await asyncio.shield(self.stop(0))
            raise

    def expect(self, image: UnpackedImage) -> None:
        if self._snapshot is None:
            super().expect(image)

    async def start(self, container: ContainerSpec, image: UnpackedImage) -> MicroProcess:
        async with self._starting:
            snapshot, self._snapshot = self._snapshot, None
        if snapshot is None:
            return await super().start(container, image)
        try:
            return await self._go_on(container, image, snapshot)
        except (MicroVMError, OSError) as error:
            raise CannotStart(f"snapshot of {snapshot.pod}: {error}") from error
        finally:
            await asyncio.to_thread(trees.remove_quietly, self._scratch)

    async def stop(self, grace: float) -> None:
        await super().stop(grace)
        trees.remove_quietly(self._scratch)

    async def _go_on(
        self, container: ContainerSpec, image: UnpackedImage, snapshot: Snapshot
    ) -> MicroProcess:
        assert self._machine is not None
        key = self._drives.key(image)
        if key != snapshot.image:
            raise CannotStart(f"its container runs another image than {image.reference} is now")
        file = await self._drives.open(image)
        try:
            await self._machine.attach_drive(0, file)
        finally:
            os.close(file)
        self._facts.slots.append(key)
        await self._put_disk(container)
        process = self._process_of(container, snapshot)
        await self._machine.resume()
        link = await channel.reconnect(self._machine.dial, self.spec.id[:12], pause=NOTING)
        self._channel = link
        link.used(snapshot.numbers)
        process.connect(link)
        seen = zip((Key.OUT_SEEN, Key.ERR_SEEN), snapshot.seen, strict=True)
        answer = await link.hello([(Key.CHANNEL, snapshot.number), *seen])
        process.stdin.begin_at(protocol.number(protocol.decode(answer).get(Key.IN_TAKEN)))
        # Its processes were made long ago, and share what they share.
        await self._introduce(link, self._machine.pid, but=(Key.SHARE_PIDS,))
        assert self._volumes is not None
        await self._volumes.renew(container, snapshot.volumes)
        await link.call(Type.UPDATE, [(Key.TARGET, snapshot.number), THAW])
        self._save()
        self._own(self._await_end(), "microVM")
        return process

    def _process_of(self, container: ContainerSpec, snapshot: Snapshot) -> MicroProcess:
        assert self._machine is not None
        log.begin_at(container.directory / POSITIONS, snapshot.seen)
        process = MicroProcess(
            container,
            snapshot.number,
            self._machine.pid,
            time.time_ns(),
            self._finish,
            snapshot.init,
        )
        self._facts.channels[container.id] = snapshot.number
        self._facts.started[container.id] = process.started_at
        self._facts.users[container.id] = snapshot.user
        self._facts.present = list(snapshot.present)
        if snapshot.init:
            self._facts.inits[container.id] = snapshot.init
        self._save()
        self._processes[container.id] = process
        return process

    async def _put_disk(self, container: ContainerSpec) -> None:
        """The disk as it was at that moment, in the volume of this pod's that is to hold it."""
        disk = self._scratch / snapshots.DISK
        if not disk.exists():
            return
        assert self._machine is not None
        path = disks.path_in(self.spec.annotations, container)
        if path is None:
            raise CannotStart("it has a disk, and this pod has no volume for one")
        if path.exists():
            raise CannotStart(f"{path} is there already, and its files are of another time")
        await asyncio.to_thread(shutil.move, disk, path)
        await disks.Disks(self.spec, self._facts, self._machine, None).attach(path)
