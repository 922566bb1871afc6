"""One pod of the kind `microvm`: its machine, the agent in it, and the containers that the agent runs.

    <sandbox>/machine.json   which machine, its drives, its channels: enough to go on after a restart of the runtime

The machine is watched: when it ends, or its guest does, every container has ended with it, and says why.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from sampan.cri.streams import Streams
from sampan.image import UnpackedImage
from sampan.linux import trees
from sampan.runtime import groups
from sampan.runtime.container.cgroups import Cgroup
from sampan.runtime.container.users import Identity
from sampan.runtime.microvm import (
    attendant,
    channel,
    checkpoint,
    confine,
    figures,
    identity,
    inits,
    protocol,
    rehearsal,
    requests,
    session,
)
from sampan.runtime.microvm.channel import Channel, GuestError
from sampan.runtime.microvm.clones import Started
from sampan.runtime.microvm.disks import Disks
from sampan.runtime.microvm.errors import ChannelLost, MicroVMError
from sampan.runtime.microvm.facts import RECORD, Facts
from sampan.runtime.microvm.images import Drives
from sampan.runtime.microvm.process import MicroProcess
from sampan.runtime.microvm.protocol import Field, Key, Type
from sampan.runtime.microvm.provision import Provision
from sampan.runtime.microvm.session import Execution
from sampan.runtime.microvm.vmm import Machine
from sampan.runtime.sandbox import (
    CannotStart,
    ContainerSpec,
    ExecRequest,
    Exit,
    Gone,
    NotSupported,
    Resources,
    SandboxSpec,
    SandboxStats,
)

LOG = logging.getLogger(__name__)
START_LIMIT = 60.0
SYNC_LIMIT = 60.0  # seconds; a busy host's disk may take many
EXPECTED = rehearsal.SLOT - 1  # drives at most for containers that may never be started


class MicroSandbox:
    def __init__(
        self,
        spec: SandboxSpec,
        drives: Drives,
        instance: str,
        *,
        sharing: bool = False,
        driver: str = "qemu",
        edition: str = "",
    ) -> None:
        self.spec = spec
        self._driver, self._edition = driver, edition
        self._sharing = sharing  # its guest's kernel can have directories of the host
        self._drives = drives
        parent = spec.cgroup_parent or f"/{instance}/{spec.id}"
        self._own_parent = not spec.cgroup_parent
        self._cgroup = Cgroup(f"{parent}/vmm")
        self._parent = Cgroup(parent)
        self._instance_cgroup = Cgroup(f"/{instance}")
        self._machine: Machine | None = None
        self._channel: Channel | None = None
        self._volumes: Provision | None = None
        self._facts = Facts("", 0, 0)
        self._processes: dict[str, MicroProcess] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting = asyncio.Lock()
        self._why = ""  # it ended, once that is known
        self.lost = asyncio.Event()  # that is, by itself, with all that was in it
        self._closing = False

    # life

    async def create(self, started: Started) -> None:
        """Make a machine this pod's own. Raises MicroVMError, OSError; the machine is stopped then."""
        self._take(started)
        assert self._channel is not None
        # Beside the rest: the kernel moves a process to another cgroup when all processors have taken note.
        confined = asyncio.ensure_future(asyncio.to_thread(self._confine, started))
        try:
            try:
                await self._introduce(self._channel, started.machine.pid)
            finally:
                await confined
            self._save()
        except BaseException:
            await asyncio.shield(self.stop(0))
            raise
        self._own(self._await_end(), "microVM")

    def _take(self, started: Started) -> None:
        self._machine = started.machine
        self._channel = started.channel if started.channel.connected else None
        self._facts = Facts(
            str(started.directory),
            started.memory,
            started.cpus,
            sharing=self._sharing,
            jailed=confine.usable(),
            driver=self._driver,
            edition=self._edition,
        )

    def _confine(self, started: Started) -> None:
        if confine.usable():
            confine.confine(self._cgroup, started.machine.pid, self.spec, started.memory)

    async def _introduce(self, link: Channel, vmm: int, but: tuple[int, ...] = ()) -> None:
        """The guest knows who it is, and has the pod's own files. `but`: what of SETUP it is not told."""
        setup = [each for each in await identity.setup(self.spec, vmm) if each[0] not in but]
        self._volumes = self._provision()
        files = self._volumes.files.put(identity.pod_files(self.spec))
        await session.in_order(link.call(Type.SETUP, setup), files)

    async def adopt(
        self, machine: Machine, facts: Facts, containers: dict[str, ContainerSpec]
    ) -> None:
        """Go on with a machine that ran all the while. Raises MicroVMError, OSError when its agent does not answer."""
        self._machine, self._facts = machine, facts
        seen: list[Field] = []
        for identifier, number in facts.channels.items():
            if (container := containers.get(identifier)) is None:
                continue
            process = MicroProcess(
                container,
                number,
                machine.pid,
                facts.started[identifier],
                self._finish,
                facts.inits.get(identifier, ""),
            )
            self._processes[identifier] = process
            seen += [
                (Key.CHANNEL, number),
                (Key.OUT_SEEN, process.seen[0]),
                (Key.ERR_SEEN, process.seen[1]),
            ]
        if machine.halted.is_set():
            await self._ended(await self._last_words())
            return
        link = await channel.reconnect(machine.dial, self.spec.id[:12])
        self._channel = link
        for process in self._processes.values():
            process.connect(link)
        found = await link.hello(seen)
        self._volumes = self._provision()
        taken, current = {}, 0
        for key, value in protocol.fields(found):
            if key == Key.TASK:
                current = protocol.number(value)
                link.used(current)
            elif key == Key.IN_TAKEN:
                taken[current] = protocol.number(value)
        for process in self._processes.values():
            if process.number in taken:
                process.stdin.begin_at(taken[process.number])
            elif process.running:
                process.ends(
                    Exit(255, time.time_ns(), "Unknown", "the guest knows no such container"),
                    silent=True,
                )
        await self._volumes.adopt([containers[identifier] for identifier in self._processes])
        self._own(self._await_end(), "microVM")

    def _provision(self) -> Provision:
        assert self._machine is not None and self._channel is not None
        return Provision(
            self.spec, self._facts, self._machine, self._channel, self._join, self._volumes_lost
        )

    def _join(self, pid: int) -> None:
        if confine.usable():
            confine.join(self._cgroup, pid)

    def _volumes_lost(self, why: str) -> None:
        if not self._closing:
            self._own(self._ended(f"the microVM has ended: {why}"), "end of microVM")

    def _own(self, work: Any, name: str) -> None:
        task = asyncio.create_task(work, name=f"{name} {self.spec.id[:12]}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _await_end(self) -> None:
        assert self._machine is not None and self._channel is not None
        await session.any_of(
            self._machine.wait(), self._machine.halted.wait(), self._channel.closed.wait()
        )
        if not self._closing:
            await self._ended(await self._last_words())

    async def _last_words(self) -> str:
        """Why the guest runs no more, from what its kernel printed, or from the VMM."""
        assert self._machine is not None
        text = (
            await self._machine.console() if self._machine.halted.is_set() else self._machine.log()
        )
        why = attendant.telling(text, "its VMM was killed")
        return f"the microVM has ended: {why}"

    async def _ended(self, why: str) -> None:
        if self._why:
            return
        self._why = why
        self.lost.set()  # first, so that nobody starts a container here again when its end is told
        LOG.warning("pod %s/%s: %s", self.spec.namespace, self.spec.name, why)
        for process in self._processes.values():
            process.ends(Exit(137, time.time_ns(), "Error", why), silent=True)
        if self._machine is not None:
            await self._machine.stop()

    async def stop(self, grace: float) -> None:
        running = [process for process in self._processes.values() if process.running]
        if grace > 0 and running and not self._why:
            ends = [asyncio.ensure_future(process.terminate()) for process in running]
            _, late = await asyncio.wait(ends, timeout=grace)
            for end in late:
                end.cancel()
        self._closing = True
        for process in running:
            process.ends(Exit(137, time.time_ns(), "Error"), silent=True)
            await process.wait()
        if self._facts.disks and not self._why:
            await self._power_off()
        self._why = self._why or f"pod {self.spec.name} was stopped"
        await self._let_go()
        if self._volumes is not None:
            await self._volumes.stop()
        if self._machine is not None:
            await self._machine.stop()
        if self._facts.directory:
            await asyncio.to_thread(trees.remove_quietly, Path(self._facts.directory))
        (self.spec.directory / RECORD).unlink(missing_ok=True)
        if confine.usable():
            await groups.end(self._cgroup.path)
            if self._own_parent:
                await groups.end(self._parent.path)
                self._instance_cgroup.remove_if_empty()

    async def _power_off(self) -> None:
        """What a guest has written and not yet put on its disks gets there."""
        assert self._machine is not None
        try:
            self.channel.send(Type.POWEROFF, self.channel.number(), [])
            async with asyncio.timeout(SYNC_LIMIT):
                await session.any_of(self._machine.wait(), self._machine.halted.wait())
        except (Gone, MicroVMError, TimeoutError) as error:
            LOG.warning("pod %s: its disk may lack what it wrote last: %r", self.spec.name, error)

    async def _let_go(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._channel is not None:
            self._channel.close()
        for process in self._processes.values():
            await process.close()

    async def close(self) -> None:
        """The runtime goes, the machine stays."""
        self._closing = True
        await self._let_go()
        if self._volumes is not None:
            await self._volumes.close()
        if self._machine is not None:
            self._machine.close()

    def _save(self) -> None:
        self._facts.save(self.spec.directory)

    @property
    def place(self) -> str:
        """The machine's directory."""
        return self._facts.directory

    @property
    def channel(self) -> Channel:
        if self._why or self._channel is None or not self._channel.connected:
            raise Gone(self._why or "the microVM does not answer")
        return self._channel

    # containers

    def expect(self, image: UnpackedImage) -> None:
        self._own(self._fetch(image), "drive for microVM")

    async def _fetch(self, image: UnpackedImage) -> None:
        async with self._starting:
            if len(self._facts.slots) < EXPECTED:
                # Its start tries again, and tells.
                with suppress(CannotStart, MicroVMError, Gone, OSError):
                    await self._drive(image)
                    self._save()

    async def start(self, container: ContainerSpec, image: UnpackedImage) -> MicroProcess:
        who = requests.who_runs(container, image)
        try:
            async with self._starting:
                slot = await self._drive(image)
                assert self._volumes is not None
                placed = await self._volumes.provide(container)
                assert self._machine is not None
                disks = Disks(self.spec, self._facts, self._machine, self.channel)
                layer, devices = await disks.layer(container), await disks.devices(container)
            init = inits.init_of(container.args, image.layers)
            target = self._target(container)
            message = requests.start(
                self.spec, container, who, slot, placed, target, init, layer, devices
            )
            return await self._launch(container, who, message, init)
        except GuestError as error:
            raise CannotStart(requests.explain(error, container.args)) from error
        except (MicroVMError, OSError) as error:
            raise CannotStart(str(error)) from error

    async def _launch(
        self, container: ContainerSpec, who: Identity, message: list[Field], init: str
    ) -> MicroProcess:
        link = self.channel
        assert self._machine is not None
        number = link.number()
        process = MicroProcess(
            container, number, self._machine.pid, time.time_ns(), self._finish, init
        )
        process.connect(link)
        # Written first: a container that a killed runtime was starting is found by the next one.
        self._facts.channels[container.id] = number
        self._facts.started[container.id] = process.started_at
        if init:
            self._facts.inits[container.id] = init
        self._facts.users[container.id] = [who.uid, who.gid, list(who.groups), who.home]
        self._save()
        try:
            answer = await link.call(Type.START, message, channel=number, limit=START_LIMIT)
        except BaseException:
            link.listeners.pop(number, None)
            del self._facts.channels[container.id]
            await process.close()
            raise
        if (Key.PID_MODE, requests.PIDS_OWN) in message:
            process.guest_pid = protocol.number(protocol.decode(answer).get(Key.PID))
        self._processes[container.id] = process
        return process

    def _target(self, container: ContainerSpec) -> int:
        mode = container.security.pid_mode
        if not mode.startswith("target:"):
            return 0
        process = self._processes.get(mode.removeprefix("target:"))
        if process is None or not process.running:
            raise CannotStart(f"the container to share processes with is not running: {mode[7:]}")
        return process.number

    async def _drive(self, image: UnpackedImage) -> int:
        """The drive that holds the image, which is mounted in the guest on return."""
        key = self._drives.key(image)
        if key in self._facts.slots:
            return self._facts.slots.index(key)
        if len(self._facts.slots) == rehearsal.SLOT:
            raise CannotStart(
                f"a microVM has drives for {rehearsal.SLOT} images, and this pod has used them"
            )
        slot = len(self._facts.slots)
        file = await self._drives.open(image)
        try:
            assert self._machine is not None
            await self._machine.attach_drive(slot, file)
        finally:
            os.close(file)
        await self.channel.call(Type.IMAGE, [(Key.SLOT, slot)])
        self._facts.slots.append(key)
        return slot

    async def _finish(self, process: MicroProcess) -> None:
        if self._volumes is not None and not self._why:
            await self._volumes.take_back(process.spec.id)

    async def process(self, container_id: str) -> MicroProcess | None:
        return self._processes.get(container_id)

    async def exec(self, container_id: str, request: ExecRequest, streams: Streams) -> int:
        process = self._processes.get(container_id)
        if process is None or not process.running:
            raise Gone(f"container {container_id} is not running")
        uid, gid, groups, home = self._facts.users[container_id]
        link = self.channel
        number = link.number()
        execution = Execution(number, link)
        link.listeners[number] = execution
        try:
            async with asyncio.timeout(request.timeout or None):
                who = Identity(uid, gid, tuple(groups), home)
                stdin = streams.stdin is not None
                message = requests.execute(process.spec, who, request, process.number, stdin)
                try:
                    await link.call(Type.EXEC, message, channel=number, limit=START_LIMIT)
                except GuestError as error:
                    writer = streams.stderr or streams.stdout
                    if writer is not None:
                        writer.write(f"{requests.explain(error, request.args)}\n".encode())
                    return requests.shell_code(error)
                return await execution.run(streams, tty=request.tty)
        finally:
            link.listeners.pop(number, None)
            with suppress(ChannelLost):
                link.send_raw(Type.CLOSE, number)

    async def checkpoint(self, container_id: str, location: Path) -> None:
        process = self._processes.get(container_id)
        if process is None or not process.running or self._machine is None:
            raise Gone(f"container {container_id} is not running")
        async with self._starting:  # no drive is changed meanwhile
            checkpoint.refuse(self._facts, len(self._processes))
            assert self._volumes is not None
            places = self._volumes.places(container_id)
            await checkpoint.take(
                self.spec, self._facts, self._machine, self.channel, process, places, location
            )

    async def port(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        ends, carrying = await session.connect(self.channel, port)
        self._own(carrying, "port-forward")
        return ends

    # figures and limits

    async def stats(self) -> SandboxStats:
        result = SandboxStats()
        try:
            answer = await self.channel.call(Type.STATS)
        except (MicroVMError, Gone):
            return result
        names = {process.number: name for name, process in self._processes.items()}
        figures.read(answer, names, result)
        # The pod is what its machine takes from the host.
        if self._machine is not None:
            pid = self._machine.pid
            result.cpu_nanoseconds, result.memory_bytes = confine.taken(self._cgroup, pid)
        result.pids = sum(each.pids for each in result.containers.values())
        return result

    async def update(self, container_id: str, resources: Resources) -> None:
        process = self._processes.get(container_id)
        if process is None:
            raise Gone(f"container {container_id} was not started")
        room = self._facts.memory << 20
        if resources.memory > room:
            raise NotSupported(
                f"memory: this microVM has {self._facts.memory} MiB, which cannot grow while it runs"
            )
        if any(resources.hugepages.values()) or resources.cpuset_cpus or resources.cpuset_mems:
            raise NotSupported(
                "hugepages and CPU sets of a running container cannot change in a microVM"
            )
        settings: list[Field] = [(Key.TARGET, process.number)]
        settings += [(Key.CGROUP, f"{name}={value}") for name, value in requests.limits(resources)]
        try:
            await self.channel.call(Type.UPDATE, settings)
        except GuestError as error:
            raise NotSupported(str(error)) from error
