"""The kind `container`: finds an engine that works by running a container, then makes and adopts pods."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from pathlib import Path

from sampan.runtime import kernel
from sampan.runtime.container import elf
from sampan.runtime.container.cgroups import Cgroup
from sampan.runtime.container.engine import PATH, Engine, candidates
from sampan.runtime.container.sandbox import ContainerSandbox, bare_configuration
from sampan.runtime.processes import run
from sampan.runtime.sandbox import CannotStart, Sandbox, SandboxRecord, SandboxSpec, Support

LOG = logging.getLogger(__name__)
INSTALL = "apt-get install crun conmon"
PROOF = 42  # exit code of the probe's container


class ContainerKind:
    name = "container"

    def __init__(self, directory: Path, run_directory: Path, instance: str) -> None:
        self.directory = directory
        self.run_directory = run_directory
        self.instance = instance
        self._engine: Engine | None = None
        self._support: Support | None = None

    async def probe(self) -> Support:
        if self._support is None:
            self._support = await self._probe()
        return self._support

    async def _probe(self) -> Support:
        if os.geteuid() != 0:
            return Support(False, why="containers need root")
        if shutil.which("conmon", path=PATH) is None:
            return Support(False, why="conmon is not installed", install=INSTALL)
        self.run_directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        failures = []
        for engine in candidates(self.run_directory):
            engine.root.mkdir(exist_ok=True, mode=0o700)
            engine.hidden.mkdir(exist_ok=True, mode=0o700)
            try:
                failure = await self._try(engine)
            except OSError as error:
                failure = str(error)
            if not failure:
                self._engine = engine
                return Support(True, detail=await version(engine))
            failures.append(f"{engine.name}: {failure}")
        if not failures:
            return Support(False, why="neither crun nor runc is installed", install=INSTALL)
        return Support(False, why="; ".join(failures))

    async def _try(self, engine: Engine) -> str:
        """Run a container that is one program of ours; what went wrong, "" when it did what it should."""
        with tempfile.TemporaryDirectory(prefix="probe-", dir=self.directory) as bundle:
            lower, root = Path(bundle, "lower"), Path(bundle, "rootfs")
            for path in (lower, Path(bundle, "upper"), Path(bundle, "work"), root, lower / "proc", lower / "dev"):
                path.mkdir()
            program = lower / "leave"
            program.write_bytes(elf.leave(PROOF))
            program.chmod(0o755)
            configuration = bare_configuration(root, ["/leave"])
            Path(bundle, "config.json").write_text(json.dumps(configuration))
            options = f"lowerdir={lower},upperdir={bundle}/upper,workdir={bundle}/work"
            kernel.mount("overlay", str(root), "overlay", 0, options)
            name = f"{self.instance}-{os.path.basename(bundle)}"
            try:
                async with engine.view() as view:
                    script = engine.script(view, (), ("run", "--bundle", bundle, name))
                    code, output = await run(["/bin/sh", "-c", script, "run"], env={"PATH": PATH})
            finally:
                kernel.unmount(root)
                engine.forget(name)
        if code == PROOF:
            return ""
        return (
            " ".join(output.decode(errors="replace").split()) or f"the container ended with {code}"
        )

    async def _ready(self) -> Engine:
        support = await self.probe()
        if self._engine is None:
            raise CannotStart(f"containers do not work here: {support.why}")
        return self._engine

    async def create(self, spec: SandboxSpec) -> Sandbox:
        sandbox = ContainerSandbox(spec, await self._ready(), self.run_directory, self.instance)
        await sandbox.create()
        return sandbox

    async def adopt(self, record: SandboxRecord) -> Sandbox | None:
        sandbox = ContainerSandbox(
            record.spec, await self._ready(), self.run_directory, self.instance
        )
        if sandbox.adopt(record.containers):
            return sandbox
        await sandbox.stop(0)
        return None

    async def collect(self, known: set[str], containers: set[str]) -> None:
        """Remove what belongs to no sandbox of `known` and no container of `containers`: a crash left it."""
        pods = self.run_directory / "pods"
        for path in pods.iterdir() if pods.is_dir() else ():
            if path.name not in known:
                LOG.info("removing namespaces of the unknown sandbox %s", path.name)
                from sampan.runtime.container.namespaces import PodNamespaces

                PodNamespaces(path).remove()
        own = Cgroup(f"/{self.instance}")
        for directory in own.directories():
            for path in directory.iterdir() if directory.is_dir() else ():
                if path.is_dir() and path.name not in known:
                    group = Cgroup(f"/{self.instance}/{path.name}")
                    for child in path.iterdir():
                        if child.is_dir():
                            Cgroup(f"{group.path}/{child.name}").kill()
                    group.kill()
                    group.remove()
        if self._engine is not None:
            for path in self._engine.root.iterdir():
                name = path.name.removesuffix("-pause")
                if len(name) == 64 and name not in known and name not in containers:
                    self._engine.forget(path.name)

    async def close(self) -> None:
        return


async def version(engine: Engine) -> str:
    _, output = await run([engine.path, "--version"], env={"PATH": PATH})
    first = output.decode(errors="replace").splitlines()[:1]
    return first[0].replace(" version", "") if first else engine.name
