"""The kind `container`: finds an engine that works by running a container, then makes and adopts pods."""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import signal
import tempfile
from pathlib import Path

from sampan.linux import mounts
from sampan.runtime import groups, kernel
from sampan.runtime.container import elf, oci, rootfs, view
from sampan.runtime.container.cgroups import Cgroup
from sampan.runtime.container.engine import PATH, Engine, candidates
from sampan.runtime.container.namespaces import PodNamespaces, pin
from sampan.runtime.container.sandbox import ContainerSandbox, bare_configuration, join
from sampan.runtime.processes import run
from sampan.runtime.sandbox import (
    FEATURES,
    RECURSIVE_READ_ONLY,
    CannotStart,
    IDMap,
    Sandbox,
    SandboxError,
    SandboxRecord,
    SandboxSpec,
    Support,
    UserNamespace,
)

LOG = logging.getLogger(__name__)
INSTALL = "apt-get install crun conmon"
# OCI runtimes by the name of their program, and how one comes by them.
RUNTIMES = {
    "crun": "apt-get install crun",
    "runc": "apt-get install runc",
    "runsc": "apt-get install runsc, or a release of gVisor",
    "youki": "a release of youki-dev/youki",
    "kata-runtime": "nothing: Kata Containers has no OCI command line since 2.0; use the handler microvm",
    "containerd-shim-kata-v2": "nothing: a shim of containerd's is no OCI runtime; use the handler microvm",
}
PROOF = 42  # exit code of the probe's container
PROBE_DEVICES = (
    {"allow": False, "access": "rwm"},
    {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
)
PROBE_USERS = UserNamespace(IDMap(1 << 20, 1 << 16), IDMap(1 << 20, 1 << 16))


class ContainerKind:
    name = "container"

    def __init__(
        self, directory: Path, run_directory: Path, instance: str, engine: str = ""
    ) -> None:
        """`engine`: name or path of the OCI runtime; "": the best that works."""
        self.directory = directory
        self.run_directory = run_directory
        self.instance = instance
        self._asked = engine
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
        for engine in candidates(self.run_directory, self._asked):
            engine.root.mkdir(exist_ok=True, mode=0o700)
            engine.hidden.mkdir(exist_ok=True, mode=0o700)
            try:
                failure = await self._try(engine)
            except OSError as error:
                failure = str(error)
            if not failure:
                self._engine = engine
                found = await self._features(engine)
                return Support(True, detail=await version(engine), features=found)
            failures.append(f"{engine.name}: {failure}")
        if not failures and self._asked:
            name = os.path.basename(shlex.split(self._asked)[0])
            return Support(
                False,
                why=f"the OCI runtime {self._asked} is not installed",
                install=RUNTIMES.get(name, f"the program {name}, anywhere in {PATH}"),
            )
        if not failures:
            return Support(False, why="neither crun nor runc is installed", install=INSTALL)
        return Support(False, why="; ".join(failures))

    async def _features(self, engine: Engine) -> frozenset[str]:
        """What this engine and kernel can do beyond a plain container: found by doing it."""
        for users, found in ((PROBE_USERS, FEATURES), (None, frozenset({RECURSIVE_READ_ONLY}))):
            try:
                failure = await self._try(engine, users, recursive=True)
            except (OSError, SandboxError) as error:
                failure = str(error)
            if not failure:
                return found
            LOG.info("%s is without %s: %s", engine.name, ", ".join(sorted(found)), failure)
        return frozenset()

    async def _try(
        self, engine: Engine, users: UserNamespace | None = None, *, recursive: bool = False
    ) -> str:
        """Run a container that is one program of ours; what went wrong, "" when it did what it should.

        With `users`: as root of a user namespace, its root file system and a volume idmapped. `recursive`: that volume
        is read-only with all that is mounted in it.
        """
        with tempfile.TemporaryDirectory(prefix="probe-", dir=self.directory) as name:
            bundle = Path(name)
            lower, volume = bundle / "layer", bundle / "volume"
            for path in (lower, volume, *(lower / name for name in ("proc", "dev", "volume"))):
                path.mkdir(parents=True)
            program = lower / "leave"
            program.write_bytes(elf.leave(PROOF))
            program.chmod(0o755)
            configuration = bare_configuration(bundle / "rootfs", ["/leave"])
            namespaces = PodNamespaces(bundle / "namespaces")
            network = bundle / "network"
            stage, binds = None, []
            name = f"{self.instance}-{bundle.name}"
            cgroup = Cgroup(f"/{self.instance}/{bundle.name}")
            if engine.makes_cgroups:
                # What every container has; v2 wants a BPF program for it, which some hosts keep even from root.
                configuration["linux"]["cgroupsPath"] = cgroup.path
                configuration["linux"]["resources"] = {"devices": list(PROBE_DEVICES)}
            try:
                if users is None:
                    await kernel.in_thread(lambda: rootfs.mount(bundle, (lower,)))
                else:
                    await kernel.in_thread(lambda: namespaces.make_users(users))
                    owner = (users.uids.host, users.gids.host)
                    await kernel.in_thread(
                        lambda: rootfs.mount(bundle, (lower,), namespaces.user, owner)
                    )
                    join(configuration, users, namespaces.user)
                    # A pod's network belongs to the host: runc 1.1 cannot join it once it is in the pod's users.
                    await kernel.in_thread(lambda: pin_network(network))
                    for entry in configuration["linux"]["namespaces"]:
                        if entry["type"] == "network":
                            entry["path"] = str(network)
                    stage = view.stage(bundle, engine.root)
                    binds = [
                        view.Bind(bundle / "rootfs", "root"),
                        view.Bind(volume, "volume", namespaces.user),
                    ]
                    configuration["root"]["path"] = str(stage / "root")
                if recursive:
                    source = str(stage / "volume" if stage else volume)
                    options = ("rbind", "rprivate", "rro")
                    configuration["mounts"].append(oci.special("/volume", "bind", source, *options))
                (bundle / "config.json").write_text(json.dumps(configuration))
                async with engine.view(binds, stage) as seen:
                    script = engine.script(seen, (), ("run", "--bundle", str(bundle), name))
                    code, output = await run(["/bin/sh", "-c", script, "run"], env={"PATH": PATH})
            finally:
                rootfs.unmount(bundle)
                namespaces.remove()
                mounts.unmount(network)
                engine.forget(name)
                await groups.end(cgroup.path)
                Cgroup(f"/{self.instance}").remove_if_empty()
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
        if await sandbox.adopt(record.containers):
            return sandbox
        await sandbox.stop(0)
        return None

    async def collect(self, sandboxes: set[str], strays: list[Path]) -> None:
        """Remove what belongs to none of these sandboxes: a crash left it.

        `strays`: directories of containers without a readable record, about to be deleted by the caller.
        """
        for directory in strays:
            end_stray(directory)
        for probe in self.directory.glob("probe-*"):
            mounts.unmount_below(probe)
            shutil.rmtree(probe, ignore_errors=True)
        pods = self.run_directory / "pods"
        for path in pods.iterdir() if pods.is_dir() else ():
            if path.name not in sandboxes:
                LOG.info("removing the namespaces of sandbox %s, which does not run", path.name)
                PodNamespaces(path).remove()
        for engine in candidates(self.run_directory):
            for path in engine.root.iterdir() if engine.root.is_dir() else ():
                if path.name in {stray.name for stray in strays}:
                    engine.forget(path.name)

    async def close(self) -> None:
        return


def end_stray(directory: Path) -> None:
    """Kill the container that runs in `directory`; conmon follows. Idempotent."""
    try:
        conmon = int((directory / "conmon.pid").read_text())
        if directory.name.encode() in Path(f"/proc/{conmon}/cmdline").read_bytes():
            os.kill(int((directory / "container.pid").read_text()), signal.SIGKILL)
    except (OSError, ValueError):
        return


def pin_network(path: Path) -> None:
    """Runs in a thread of its own."""
    kernel.unshare(kernel.CLONE_NEWNET)
    pin("/proc/thread-self/ns/net", path)


async def version(engine: Engine) -> str:
    _, output = await run([engine.path, "--version"], env={"PATH": PATH})
    first = output.decode(errors="replace").splitlines()[:1]
    return first[0].replace(" version", "") if first else engine.name
