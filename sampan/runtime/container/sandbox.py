"""One pod of the kind `container`: its namespaces, its cgroup, and its containers.

A pod without a running container is no process at all: UTS and IPC are pinned files, the network is the caller's. Only a
pod that shares one PID namespace has a process of its own, a static program of 200 bytes as its process 1.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from sampan.cri.streams import Streams
from sampan.image import UnpackedImage
from sampan.runtime import files, groups, kernel
from sampan.runtime.container import elf, measures, oci, rootfs, view
from sampan.runtime.container.capabilities import available
from sampan.runtime.container.cgroups import CGROUP_FILES, Cgroup
from sampan.runtime.container.engine import ENVIRONMENT, Engine
from sampan.runtime.container.execution import execute
from sampan.runtime.container.launch import launch
from sampan.runtime.container.namespaces import PodNamespaces
from sampan.runtime.container.process import ContainerProcess, Facts
from sampan.runtime.container.users import identity
from sampan.runtime.processes import ended, kill, spawn
from sampan.runtime.sandbox import (
    CannotStart,
    ContainerSpec,
    ExecRequest,
    Gone,
    Measures,
    PodMeasures,
    Process,
    Resources,
    SandboxSpec,
    SandboxStats,
    UserNamespace,
)

CONNECT_LIMIT = 10.0
UNDO_TRIES = 64  # a program of a start that is undone may fork while it is being killed


class ContainerSandbox:
    def __init__(
        self, spec: SandboxSpec, engine: Engine, run_directory: Path, instance: str
    ) -> None:
        self.spec = spec
        self.namespaces = PodNamespaces(run_directory / "pods" / spec.id)
        parent = spec.cgroup_parent or f"/{instance}/{spec.id}"
        self._own_parent = not spec.cgroup_parent
        self._cgroup = Cgroup(parent)
        self._instance_cgroup = Cgroup(f"/{instance}")
        self._engine = engine
        self._processes: dict[str, ContainerProcess] = {}
        self._containers: dict[str, ContainerSpec] = {}

    # life

    async def create(self) -> None:
        try:
            await kernel.in_thread(lambda: self.namespaces.create(self.spec))
            files.put(self.spec.directory / "hostname", f"{self.spec.hostname}\n", 0o644)
            if self.spec.share_processes and not self.spec.host_pid:
                await self._start_pause()
        except OSError as error:
            await self.stop(0)
            raise CannotStart(f"sandbox {self.spec.id}: {error.strerror or error}") from error
        except BaseException:
            await self.stop(0)
            raise

    async def adopt(self, containers: dict[str, ContainerSpec]) -> bool:
        """Take up what runs, or ran and ended unseen; False when nothing of the pod is left (after a reboot)."""
        for container in containers.values():
            facts = Facts.load(container.directory)
            if facts is None:
                own_pids = container.security.pid_mode == "container"
                facts = Facts.find(container, f"{self._cgroup.path}/{container.id}", own_pids)
            if facts is None:
                await self._undo_start(container)
            else:
                self._containers[container.id] = container
                self._processes[container.id] = ContainerProcess(container, facts, self._engine)
        pinned = self.spec.host_network or os.path.ismount(self.namespaces.uts)
        pause = self._pause() if self.spec.share_processes and not self.spec.host_pid else 1
        return pinned and pause > 0

    async def _undo_start(self, container: ContainerSpec) -> None:
        """Of a container whose start failed, or was cut short with the runtime, nothing is left. Idempotent."""
        cgroup = Cgroup(f"{self._cgroup.path}/{container.id}")
        for _ in range(UNDO_TRIES):
            # conmon and the engine, which name their bundle and may join the group yet, and what is in there.
            alive = {*kernel.named(str(container.directory)), *cgroup.members()}
            if not alive:
                break
            await asyncio.gather(*(kill(pid) for pid in alive))
        rootfs.unmount(container.directory)
        self._engine.forget(container.id)
        await groups.end(cgroup.path)

    async def start(self, container: ContainerSpec, image: UnpackedImage) -> Process:
        cgroup = Cgroup(f"{self._cgroup.path}/{container.id}")
        users, owner = self._users()
        try:
            root = await kernel.in_thread(
                lambda: rootfs.mount(container.directory, image.layers, users, owner)
            )
            joined: tuple[Path, ...] = ()
            if not self._engine.makes_cgroups:
                allowed = None if container.security.privileged else container.devices
                joined = cgroup.create(container.resources, devices=allowed)
            place = self._place(container, cgroup)
            configuration = oci.configuration(
                self.spec, container, identity(root, container.security), place, root
            )
            make_sources(container)
            stage, binds = self._stage(configuration, container, users)
            files.put(container.directory / "config.json", json.dumps(configuration))
            own_pids = place.pid == ""
            facts = await launch(
                self._engine, container, cgroup.path, joined, own_pids, binds, stage
            )
        except BaseException as error:
            await self._undo_start(container)
            if isinstance(error, OSError):
                raise CannotStart(f"{error.strerror or error}") from error
            raise
        facts.save(container.directory)
        process = ContainerProcess(container, facts, self._engine)
        self._containers[container.id] = container
        self._processes[container.id] = process
        return process

    async def stop(self, grace: float) -> None:
        running = [process for process in self._processes.values() if process.running]
        for process in running:
            await process.signal(
                getattr(signal, process.spec.stop_signal, signal.SIGTERM)
                if grace > 0
                else signal.SIGKILL
            )
        if running and grace > 0:
            waits = [asyncio.ensure_future(process.wait()) for process in running]
            _, late = await asyncio.wait(waits, timeout=grace)
            for wait in late:
                wait.cancel()
        for process in self._processes.values():
            await process.remove()
        await self._stop_pause()
        await asyncio.to_thread(self.namespaces.remove)
        if self._own_parent:
            await groups.end(self._cgroup.path)
            self._instance_cgroup.remove_if_empty()

    # what a container gets from its pod

    def _users(self) -> tuple[Path | None, tuple[int, int]]:
        """The pod's user namespace, and its root's ids on the host."""
        users = self.spec.user_namespace
        if users is None:
            return None, (0, 0)
        return self.namespaces.user, (users.uids.host, users.gids.host)

    def _stage(
        self, configuration: dict[str, Any], container: ContainerSpec, users: Path | None
    ) -> tuple[Path | None, list[view.Bind]]:
        if users is None and all(mount.propagation != "rshared" for mount in container.mounts):
            return None, []
        stage = view.stage(container.directory, self._engine.root)
        return stage, oci.staged(configuration, stage, container, users)

    def _place(self, container: ContainerSpec, cgroup: Cgroup) -> oci.Place:
        spec = self.spec
        files = {"/etc/hostname": spec.directory / "hostname"}
        if spec.resolv_conf is not None:
            files["/etc/resolv.conf"] = spec.resolv_conf
        if spec.hosts is not None:
            files["/etc/hosts"] = spec.hosts
        network = None if spec.host_network else spec.network.namespace
        shown = []
        if not self._engine.makes_cgroups:
            for path in map(str, cgroup.directories()):
                if os.path.isdir(path):
                    below = path.removeprefix(f"{CGROUP_FILES}/")
                    name = below.partition("/")[0]
                    # A view with a stage shows it from there, any other where the engine's view has hidden it.
                    seen = CGROUP_FILES if spec.user_namespace else str(self._engine.hidden)
                    shown.append((f"{seen}/{below}", f"{CGROUP_FILES}/{name}"))
                    (self._engine.skeleton / name).mkdir(parents=True, exist_ok=True)
        return oci.Place(
            network=network,
            ipc=None if spec.host_ipc else str(self.namespaces.ipc),
            uts=None if spec.host_network else str(self.namespaces.uts),
            pid=self._pid_namespace(container),
            shm="/dev/shm" if spec.host_ipc else str(self.namespaces.shm),
            files=files,
            cgroup=cgroup.path if self._engine.makes_cgroups else "",
            # As containerd has it: with v2 a container sees its own group, not those of its neighbours.
            own_cgroups=cgroup.unified and not container.security.privileged,
            cgroup_mounts=tuple(shown),
            cgroup_skeleton=str(self._engine.skeleton),
            least_oom_score=least_oom_score(),
            user=str(self.namespaces.user) if spec.user_namespace else "",
            sys=str(self.namespaces.sys) if spec.user_namespace and network else "",
        )

    def _pid_namespace(self, container: ContainerSpec) -> str | None:
        mode = container.security.pid_mode
        if mode == "node" or (mode == "pod" and self.spec.host_pid):
            return None
        if mode.startswith("target:"):
            process = self._processes.get(mode.removeprefix("target:"))
            if process is None or not process.running:
                raise CannotStart(
                    f"the container to share processes with is not running: {mode[7:]}"
                )
            return f"/proc/{process.pid}/ns/pid"
        if mode == "pod" and self.spec.share_processes:
            pause = self._pause()
            if not pause:
                raise CannotStart("the pod's process 1 has ended")
            return f"/proc/{pause}/ns/pid"
        return ""

    # process 1 of a shared PID namespace

    @property
    def _pause_directory(self) -> Path:
        return self.spec.directory / "pause"

    async def _start_pause(self) -> None:
        bundle = self._pause_directory
        root = bundle / "rootfs"
        for path in (root, root / "proc", root / "dev"):
            path.mkdir(parents=True, exist_ok=True)
        (root / "pause").write_bytes(elf.pause())
        (root / "pause").chmod(0o755)
        configuration = bare_configuration(root, ["/pause"])
        if self._engine.makes_cgroups:
            # Without a path the engine would make one of its own choice, which nobody removes.
            configuration["linux"]["cgroupsPath"] = self._pause_cgroup.path
        stage, binds = None, []
        if users := self.spec.user_namespace:
            join(configuration, users, self.namespaces.user)
            stage = view.stage(bundle, self._engine.root)
            binds = [view.Bind(root, "root", self.namespaces.user)]
            configuration["root"] = {"path": str(stage / "root"), "readonly": True}
        (bundle / "config.json").write_text(json.dumps(configuration))
        name = f"{self.spec.id}-pause"
        async with self._engine.view(binds, stage) as seen:
            verb = (
                "run",
                "--detach",
                "--bundle",
                str(bundle),
                "--pid-file",
                str(bundle / "pid"),
                name,
            )
            with open(bundle / "engine.log", "wb") as log:
                child = spawn(
                    ["/bin/sh", "-c", self._engine.script(seen, (), verb), "run"],
                    env=ENVIRONMENT,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                )
            if await ended(child) != 0:
                said = (bundle / "engine.log").read_text(errors="replace").strip()
                raise CannotStart(f"{self._engine.name} did not start the pod's process 1: {said}")
        pid = int((bundle / "pid").read_text())
        (bundle / "ticks").write_text(str(kernel.start_ticks(pid)))

    def _pause(self) -> int:
        """Its pid, 0 when it does not run."""
        try:
            pid = int((self._pause_directory / "pid").read_text())
            ticks = int((self._pause_directory / "ticks").read_text())
        except (OSError, ValueError):
            return 0
        return pid if ticks and kernel.start_ticks(pid) == ticks else 0

    @property
    def _pause_cgroup(self) -> Cgroup:
        return Cgroup(f"{self._cgroup.path}/pause")

    async def _stop_pause(self) -> None:
        if pause := self._pause():
            await kill(pause)
        if self._pause_directory.exists():
            await groups.end(self._pause_cgroup.path)
            self._engine.forget(f"{self.spec.id}-pause")
            await asyncio.to_thread(shutil.rmtree, self._pause_directory, True)

    # the living pod

    async def process(self, container_id: str) -> Process | None:
        return self._processes.get(container_id)

    def forget(self, container_id: str) -> None:
        self._processes.pop(container_id, None)
        self._containers.pop(container_id, None)

    async def exec(self, container_id: str, request: ExecRequest, streams: Streams) -> int:
        process = self._processes.get(container_id)
        if process is None or not process.running:
            raise Gone(f"container {container_id} is not running")
        joined: tuple[Path, ...] = ()
        if not self._engine.makes_cgroups:
            joined = tuple(path for path in process.cgroup.directories() if path.is_dir())
        return await execute(self._engine, process.spec, joined, request, streams)

    async def update(self, container_id: str, resources: Resources) -> None:
        process = self._processes.get(container_id)
        if process is None:
            raise Gone(f"container {container_id} was not started")
        process.cgroup.update(resources)

    async def stats(self) -> SandboxStats:
        result = SandboxStats()
        for container_id, process in self._processes.items():
            if not process.running:
                continue
            figures = process.cgroup.stats()
            figures.filesystem_bytes = await asyncio.to_thread(
                rootfs.written, self._containers[container_id].directory
            )
            result.containers[container_id] = figures
            result.cpu_nanoseconds += figures.cpu_nanoseconds
            result.memory_bytes += figures.memory_bytes
            result.pids += figures.pids
        namespace = self.spec.network.namespace
        if namespace is not None and result.containers:
            result.rx_bytes, result.tx_bytes = await kernel.in_thread(
                lambda: traffic(namespace, self.spec.network.interface)
            )
        return result

    async def measures(self) -> PodMeasures:
        """What cAdvisor would measure; dearer than `stats`."""
        result = PodMeasures()
        for container_id, process in list(self._processes.items()):
            if process.running:
                result.containers[container_id] = await asyncio.to_thread(measure, process)
        namespace = self.spec.network.namespace
        if namespace is not None:
            result.pod = await kernel.in_thread(lambda: measures.of_network(namespace))
        return result

    async def port(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        connection = await kernel.in_thread(lambda: self._connect(port))
        connection.setblocking(False)
        return await asyncio.open_connection(sock=connection)

    def _connect(self, port: int) -> socket.socket:
        network = self.spec.network
        addresses = ("127.0.0.1", "::1", *network.addresses)
        if not self.spec.host_network:
            if network.namespace is not None:
                kernel.enter(network.namespace, kernel.CLONE_NEWNET)
            else:
                # On the host's network with an address of its own: the host's loopback is not the pod's.
                addresses = network.addresses
        refused: OSError | None = None
        for address in addresses:
            try:
                return socket.create_connection((address, port), timeout=CONNECT_LIMIT)
            except OSError as error:
                refused = refused or error
        raise Gone(f"failed to connect to localhost:{port} inside the pod: {refused}")


def make_sources(container: ContainerSpec) -> None:
    """A volume's missing source becomes a directory: hostPath without a type relies on it."""
    for mount in container.mounts:
        if not os.path.lexists(mount.source):
            mount.source.mkdir(parents=True, mode=0o755, exist_ok=True)


def measure(process: ContainerProcess) -> Measures:
    directory = process.spec.directory
    return measures.of_container(process.cgroup, process.pid, directory, rootfs.written(directory))


def traffic(namespace: str, interface: str) -> tuple[int, int]:
    """Bytes received and sent; runs in a thread of its own."""
    kernel.enter(namespace, kernel.CLONE_NEWNET)
    for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
        name, _, figures = line.partition(":")
        if figures and name.strip() == (interface or "eth0"):
            columns = figures.split()
            return int(columns[0]), int(columns[8])
    return 0, 0


@cache
def least_oom_score() -> int:
    """Lowering it below our own takes CAP_SYS_RESOURCE, which a runtime in a container often lacks."""
    if "SYS_RESOURCE" in available():
        return -1000
    return int(Path("/proc/self/oom_score_adj").read_text())


def bare_configuration(root: Path, args: list[str]) -> dict[str, Any]:
    """config.json of a process that needs nothing: no network, no capability, nothing to write."""
    return {
        "ociVersion": "1.0.2",
        "root": {"path": str(root), "readonly": True},
        "process": {
            "user": {"uid": 65534, "gid": 65534},
            "args": args,
            "env": [],
            "cwd": "/",
            "noNewPrivileges": True,
        },
        "mounts": [oci.special("/proc", "proc", "proc", "nosuid", "noexec", "nodev")],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("mount", "pid", "ipc", "uts", "network")],
            "maskedPaths": list(oci.MASKED[:1]),
        },
    }


def join(configuration: dict[str, Any], users: UserNamespace, path: Path) -> None:
    """Put a bare configuration into a user namespace."""
    linux = configuration["linux"]
    linux["namespaces"].append({"type": "user", "path": str(path)})
    linux["uidMappings"] = [oci.mapping(users.uids)]
    linux["gidMappings"] = [oci.mapping(users.gids)]
    configuration["process"]["user"] = {"uid": 0, "gid": 0}
