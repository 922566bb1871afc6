"""One wasm pod: its containers, each a worker process; what they share is network, cgroup parent and uid."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import signal
from pathlib import Path
from typing import Any

from sampan.cri.streams import Streams
from sampan.image import UnpackedImage, lookup
from sampan.runtime.sandbox import (
    CannotStart,
    ContainerSpec,
    ContainerStats,
    ExecRequest,
    Gone,
    NotSupported,
    Resources,
    SandboxSpec,
    SandboxStats,
)
from sampan.runtime.wasm import execution, launch, modules, network, usage
from sampan.runtime.wasm.aot import Cache
from sampan.runtime.wasm.cgroups import Cgroup, remove_parent
from sampan.runtime.wasm.link import Link
from sampan.runtime.wasm.process import WasmProcess, remove_cgroup

logger = logging.getLogger("sampan.runtime.wasm")
NO_SHELL = "this pod is WebAssembly: there is no shell in it; name a .wasm module of its image"
# Files that the node mounts everywhere and that mean nothing to a WASI guest.
NODE_FILES = {"/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev/termination-log"}
FIRST_UID = 200_000  # pods' users are this and the next 2²⁸; no account has them


class WasmSandbox:
    def __init__(self, spec: SandboxSpec, link: Link, cache: Cache, run_directory: Path) -> None:
        self.spec = spec
        self.link = link
        self.cache = cache
        self.run_directory = run_directory
        self.processes: dict[str, WasmProcess] = {}
        self.images: dict[str, tuple[ContainerSpec, UnpackedImage]] = {}
        self._stopped = False

    async def start(self, container: ContainerSpec, image: UnpackedImage) -> WasmProcess:
        if self._stopped:
            raise Gone(f"pod {self.spec.name} was stopped")
        if container.devices:
            raise CannotStart(
                f"container {container.name} asks for {container.devices[0].target} (volumeDevices, or a device plugin's): "
                "this pod is WebAssembly, and there are no devices in it; mount a volume that has a file system"
            )
        what = await self.plan(container, image, container.args, launch.RUN)
        cgroup = Cgroup(self.spec.cgroup_parent, container.id)
        control = self.control(container.id)
        what["directory"], what["control"] = str(container.directory), str(control)
        what["log"] = str(container.log_path or "")
        try:
            what["cgroups"] = cgroup.create(container.resources)
            started = await self.link.start(
                what, meanwhile=lambda: execution.remember(container.directory, image)
            )
        except BaseException as error:
            control.unlink(missing_ok=True)
            await remove_cgroup(cgroup)
            if isinstance(error, OSError):
                raise CannotStart(f"{container.name}: {error}") from error
            raise
        started.status.close()
        process = WasmProcess(
            *(container, started.pid, started.started_at, started.pidfd),
            *(self.link, control, cgroup),
        )
        self.processes[container.id] = process
        self.images[container.id] = container, image
        return process

    async def plan(
        self, container: ContainerSpec, image: UnpackedImage, args: tuple[str, ...], mode: str
    ) -> dict[str, Any]:
        """The launch of `args` in this container, but for what only its first process has."""
        module, argv = modules.find(image, args, container.cwd)
        compiled = await self.cache.get(module)
        served = None
        if mode == launch.RUN:
            served = modules.service(image, self.spec, container, compiled.handler)
        security, privileged = container.security, os.geteuid() == 0
        if mode == launch.RUN and not privileged:
            warn_of_files(container)
        uid = security.user or self.uid()
        env = {"HOSTNAME": self.spec.hostname, **container.env}
        http: dict[str, object] = {}
        if served is not None:
            machine = len(os.sched_getaffinity(0))
            http = {
                "protocol": served.protocol,
                "address": network.bind_address(self.spec),
                "port": served.port,
                "timeout": served.timeout,
                "max_body": served.max_body,
                "concurrency": served.concurrency,
                "processes": modules.processes(served, container.resources, machine),
                "most": modules.processes(served, Resources(), machine),
            }
        return {
            "mode": launch.HTTP if served is not None else mode,
            "id": container.id,
            "program": str(compiled.path),
            "component": compiled.component,
            "args": argv,
            "env": list(env.items()),
            "directory": "",
            "control": "",
            "log": "",
            "stdin": container.stdin,
            "stdin_once": container.stdin_once,
            "namespace": self.spec.network.namespace or "",
            "cgroups": [],
            "root": str(self.run_directory / "root") if privileged else "",
            "layers": [str(layer) for layer in image.layers],
            "mounts": [(str(m.source), m.target, m.readonly) for m in container.mounts],
            "uid": uid if privileged else 0,
            "gid": (security.group or uid) if privileged else 0,
            "groups": list(security.groups) if privileged else [],
            "limits": modules.limits(image, self.spec, container),
            "network": bool(self.spec.network.namespace) and compiled.component,
            "http": http,
            "slot": 0,
        }

    async def exec(self, container_id: str, request: ExecRequest, streams: Streams) -> int:
        process = self.processes.get(container_id)
        if process is None or container_id not in self.images:
            raise Gone(f"container {container_id[:12]} is not running in pod {self.spec.name}")
        container, image = self.images[container_id]
        if not request.args:
            raise NotSupported(NO_SHELL)
        if not (request.args[0].endswith(".wasm") or lookup.find(image.layers, request.args[0])):
            raise NotSupported(NO_SHELL)
        try:
            what = await self.plan(container, image, request.args, launch.EXEC)
        except CannotStart as error:
            raise NotSupported(f"{error}; {NO_SHELL}") from error
        what["cgroups"] = [str(path) for path in process.cgroup.directories.values()]
        return await execution.run(
            self.link, what, streams, request.timeout, process.execs, request.tty
        )

    async def stats(self) -> SandboxStats:
        total = SandboxStats()
        for container_id, process in self.processes.items():
            found = (
                usage.of_container(process.pid, process.cgroup)
                if process.running
                else ContainerStats()
            )
            total.containers[container_id] = found
            total.cpu_nanoseconds += found.cpu_nanoseconds
            total.memory_bytes += found.memory_bytes
            total.pids += found.pids
        running = next((p.pid for p in self.processes.values() if p.running), 0)
        if running and self.spec.network.namespace:
            total.rx_bytes, total.tx_bytes = usage.of_network(running)
        return total

    async def update(self, container_id: str, resources: Resources) -> None:
        process = self.processes.get(container_id)
        if process is None:
            raise Gone(f"no container {container_id[:12]} in pod {self.spec.name}")
        if not process.cgroup.directories:
            raise NotSupported(
                "limits of a running container cannot change here: there is no cgroup for it"
            )
        process.cgroup.limit(resources)
        if resources.cpu_quota:  # 0: as it was
            await process.allow(modules.cores(resources, len(os.sched_getaffinity(0))))

    async def port(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await network.connect(self.spec, port)

    async def process(self, container_id: str) -> WasmProcess | None:
        return self.processes.get(container_id)

    async def stop(self, grace: float) -> None:
        self._stopped = True
        running = [process for process in self.processes.values() if process.running]
        for process in running:
            await process.signal(signal.SIGTERM)
        if running and grace > 0:
            waits = [asyncio.ensure_future(process.wait()) for process in running]
            _, late = await asyncio.wait(waits, timeout=grace)
            for wait in late:
                wait.cancel()
        for process in list(self.processes.values()):
            await process.remove()
        remove_parent(self.spec.cgroup_parent)

    def uid(self) -> int:
        """The pod's own user, the same for every attempt of the pod, so that its volumes stay its own."""
        digest = hashlib.sha256((self.spec.uid or self.spec.id).encode()).digest()
        return FIRST_UID + int.from_bytes(digest[:4], "little") % (1 << 28)

    def control(self, container_id: str) -> Path:
        return self.run_directory / f"{container_id[:24]}.sock"


def warn_of_files(container: ContainerSpec) -> None:
    """Without root there is no tree to mount in, and WASI can give a guest directories only."""
    files = [
        m.target for m in container.mounts if m.target not in NODE_FILES and m.source.is_file()
    ]
    if files:
        logger.warning(
            "container %s will not see %s: without root a wasm container is given directories, no single files",
            container.name,
            ", ".join(files),
        )
