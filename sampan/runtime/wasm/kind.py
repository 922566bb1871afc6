"""The `wasm` kind: pods whose containers are WebAssembly modules, with or without root."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from weakref import WeakValueDictionary

from sampan.image import UnpackedImage
from sampan.network.pods import Attachment
from sampan.runtime.sandbox import (
    ContainerSpec,
    NotSupported,
    SandboxError,
    SandboxRecord,
    SandboxSpec,
    Support,
)
from sampan.runtime.wasm import capi, execution, exits
from sampan.runtime.wasm.aot import Cache
from sampan.runtime.wasm.cgroups import Cgroup
from sampan.runtime.wasm.link import Link
from sampan.runtime.wasm.process import WasmProcess
from sampan.runtime.wasm.sandbox import WasmSandbox

# (module (func (export "_start")) (memory (export "memory") 0))
SMALLEST = bytes.fromhex(
    "0061736d 01000000 01040160 0000 03020100 05030100 00 0713 02 06 5f7374617274 0000 06 6d656d6f7279 0200"
    "0a040102000b"
)


class WasmKind:
    """`directory` holds the AOT cache and the zygote's log, `run_directory` sockets; `instance` is not needed."""

    name = "wasm"

    def __init__(self, directory: Path, run_directory: Path, instance: str) -> None:
        self.directory = directory
        self.run_directory = run_directory / "wasm"
        self.instance = instance
        self._link = Link(self.run_directory, directory / "zygote.log")
        self._cache = Cache(directory / "aot")
        # Weak: who made a pod lets go of it when it is removed, and nothing of it stays here.
        self._sandboxes: WeakValueDictionary[str, WasmSandbox] = WeakValueDictionary()

    async def probe(self) -> Support:
        """Compile the smallest command, fork a worker for it and see it end with 0."""
        try:
            detail = f"wasmtime {capi.version()}"
        except ModuleNotFoundError as error:
            return Support(False, why=str(error), install="pip install 'wasmtime>=50'")
        try:
            with tempfile.TemporaryDirectory(prefix="probe-", dir=self._prepare()) as name:
                code = await self._try(Path(name))
        except (SandboxError, OSError, AttributeError) as error:
            return Support(False, detail, why=str(error), install="pip install -U 'wasmtime>=50'")
        if code != 0:
            return Support(False, detail, why=f"a module that does nothing ended with {code}")
        return Support(True, detail)

    async def _try(self, directory: Path) -> int:
        module = directory / "probe.wasm"
        module.write_bytes(SMALLEST)
        image = UnpackedImage("", "probe", "wasip1", "wasm", (), (module,), {})
        pod = SandboxSpec(
            *(
                "0" * 64,
                "probe",
                "",
                "probe",
                0,
                "probe",
                directory,
                directory,
                "",
                Attachment(None, ()),
            )
        )
        container = ContainerSpec("probe", "probe", 0, (), {}, "/", directory, None)
        process = await WasmSandbox(pod, self._link, self._cache, self.run_directory).start(
            container, image
        )
        try:
            return (await process.wait()).code
        finally:
            await process.remove()

    async def create(self, spec: SandboxSpec) -> WasmSandbox:
        self._prepare()
        await self._link.connect()
        sandbox = WasmSandbox(spec, self._link, self._cache, self.run_directory)
        self._sandboxes[spec.id] = sandbox
        return sandbox

    async def adopt(self, record: SandboxRecord) -> WasmSandbox | None:
        """A sandbox without containers needs nothing to live on, so only a missing directory means that it is gone."""
        spec = record.spec
        if not spec.directory.exists():
            return None
        self._prepare()
        await self._link.connect()
        sandbox = WasmSandbox(spec, self._link, self._cache, self.run_directory)
        for container in record.containers.values():
            process = self._find(sandbox, container)
            if process is None:
                continue
            sandbox.processes[container.id] = process
            try:
                sandbox.images[container.id] = container, execution.recall(container.directory)
            except NotSupported:
                continue  # exec will say that the container is gone; all else works
        self._sandboxes[spec.id] = sandbox
        return sandbox

    def _find(self, sandbox: WasmSandbox, container: ContainerSpec) -> WasmProcess | None:
        """The container's process: still running, or ended with a record; None when it was never started."""
        try:
            pid, ticks, started_at = exits.identity(str(container.directory))
        except (OSError, ValueError):
            return None
        pidfd = -1
        try:
            pidfd = os.pidfd_open(pid)
            ended = exits.read(str(container.directory)) is not None
            if ended or exits.start_ticks(pid) != ticks:
                os.close(pidfd)
                pidfd = -1
        except (ProcessLookupError, FileNotFoundError):
            if pidfd >= 0:
                os.close(pidfd)
                pidfd = -1
        return WasmProcess(
            container,
            pid,
            started_at,
            pidfd,
            self._link,
            sandbox.control(container.id),
            Cgroup(sandbox.spec.cgroup_parent, container.id),
        )

    async def close(self) -> None:
        for sandbox in list(self._sandboxes.values()):
            for process in sandbox.processes.values():
                process.release()
        self._sandboxes.clear()
        self._link.close()

    def _prepare(self) -> Path:
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.run_directory / "root").mkdir(parents=True, exist_ok=True, mode=0o700)
        return self.directory
