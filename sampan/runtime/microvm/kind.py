"""The kind `microvm`: finds what it takes, proves it by booting, makes and adopts pods."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from contextlib import suppress
from pathlib import Path
from weakref import WeakValueDictionary

from sampan.linux import trees
from sampan.runtime.microvm import (
    attendant,
    boot,
    drivers,
    kernels,
    presence,
    snapshots,
    templates,
)
from sampan.runtime.microvm.boot import BootFiles
from sampan.runtime.microvm.clones import clone
from sampan.runtime.microvm.errors import (
    BadArtifact,
    ChannelLost,
    MicroVMError,
    MissingPiece,
    VMMError,
)
from sampan.runtime.microvm.facts import Facts
from sampan.runtime.microvm.images import Drives
from sampan.runtime.microvm.pool import Pool
from sampan.runtime.microvm.rehearsal import Rehearsal
from sampan.runtime.microvm.restored import RestoredSandbox
from sampan.runtime.microvm.sandbox import MicroSandbox
from sampan.runtime.microvm.settings import Settings
from sampan.runtime.microvm.templates import Template, Templates
from sampan.runtime.microvm.vmm import Driver
from sampan.runtime.sandbox import CannotStart, SandboxRecord, SandboxSpec, Support

LOG = logging.getLogger(__name__)
# Annotations of a pod: a quantity, and the release of a guest kernel that the node has.
MEMORY, KERNEL = "sampan.dev/vm-memory", "sampan.dev/vm-kernel"
USER_NETWORK = (
    "user-mode network: of a pod's ports those that it declares are reached, no NetworkPolicies"
)
GUEST_OWN = 64  # MiB that the guest's kernel takes for itself, at least
VMM_OWN = 48  # MiB of a pod's overhead that are not the guest's
LEAST, STEP, MOST = 128, 64, 1 << 20  # MiB


class MicroVMKind:
    name = "microvm"

    def __init__(self, directory: Path, run_directory: Path, instance: str) -> None:
        self.directory = directory
        self.run_directory = run_directory
        self.instance = instance
        self.drives = Drives(directory / "images")
        self._rehearse = Rehearsal(directory)
        self.templates = Templates(directory / "templates", run_directory, self._rehearse)
        self.settings = Settings()
        self._machines = run_directory / "machines"
        self._pool: Pool | None = None
        self._files: BootFiles | None = None
        self._driver: Driver | None = None
        self._proving = asyncio.Lock()
        # Weak: who made a pod lets go of it when it is removed, and nothing of it stays here.
        self._sandboxes: WeakValueDictionary[str, MicroSandbox] = WeakValueDictionary()

    # what it takes

    async def glance(self) -> Support:
        """Whether all pieces are here; nothing is booted."""
        support = presence.glance(self.directory)
        if not support.usable:
            return support
        try:
            self._settle()
        except (MissingPiece, BadArtifact) as error:
            return Support(False, why=str(error), install=getattr(error, "install", kernels.FETCH))
        try:
            found = drivers.named(drivers.chosen(self.settings)).probe()
        except MissingPiece as error:
            return Support(False, why=str(error), install=error.install)
        if not found.usable:
            return found
        proven = drivers.proven(self.directory, self.settings)
        how = accelerated(proven.accelerator) if proven else "not booted yet"
        by = "" if self.settings.driver == "auto" else " (as --microvm-vmm says)"
        release = self._boot_files.kernel.release
        net = "" if os.geteuid() == 0 else f"; {USER_NETWORK}"
        return Support(True, f"{found.detail}{by}, Linux {release}, {how}{net}")

    async def probe(self) -> Support:
        """Boot a guest to its agent."""
        support = await self.glance()
        if not support.usable:
            return support
        try:
            driver, template = await self.template(LEAST, 1)
        except (MicroVMError, OSError, TimeoutError) as error:
            return Support(False, support.detail, why=f"a guest does not boot: {error}")
        what, semicolon, limits = support.detail.partition("; ")
        what = what.replace("not booted yet", accelerated(driver.accelerator))
        return Support(True, f"{what}, boots in {template.boot_seconds:.1f} s{semicolon}{limits}")

    def _settle(self) -> None:
        self.settings = Settings.load(self.directory)
        if self._files is None:
            named = self.settings.kernel
            # Checked by digest before it is booted; what is started from a template boots no kernel.
            found = (
                kernels.load(Path(named), check=False)
                if named
                else kernels.find(self.directory / "kernels", check=False)
            )
            self._files = BootFiles(found, boot.agent())

    @property
    def _boot_files(self) -> BootFiles:
        if self._files is None:
            self._settle()
        assert self._files is not None
        return self._files

    def _files_for(self, spec: SandboxSpec) -> BootFiles:
        release = spec.annotations.get(KERNEL, "")
        if release in ("", self._boot_files.kernel.release):
            return self._boot_files
        return BootFiles(kernels.named(self.directory / "kernels", release), boot.agent())

    async def template(
        self, memory: int, cpus: int, boot_files: BootFiles | None = None
    ) -> tuple[Driver, Template]:
        """The first that is asked for settles which accelerator works here."""
        async with self._proving:
            if self._driver is None:
                self._driver = await self._prove(memory, cpus)
        files_ = boot_files or self._boot_files
        return self._driver, await self.templates.get(self._driver, files_, memory, cpus)

    async def _prove(self, memory: int, cpus: int) -> Driver:
        """A driver with which a guest has booted, found out once after each boot of the host."""
        files_ = self._boot_files
        known = drivers.proven(self.directory, self.settings)
        failures = []
        for driver in [known] if known else drivers.candidates(self.settings):
            try:
                await self.templates.get(driver, files_, memory, cpus)
            except (VMMError, ChannelLost, TimeoutError, OSError) as error:
                LOG.info("%s, %s: no guest boots: %s", driver.name, driver.accelerator, error)
                failures.append(f"{driver.accelerator}: {error}")
                continue
            drivers.prove(self.directory, driver)
            return driver
        (self.directory / drivers.PROVEN).unlink(missing_ok=True)
        raise VMMError("; ".join(failures))

    # pods

    async def create(self, spec: SandboxSpec) -> MicroSandbox:
        refuse_host_namespaces(spec)
        # Whoever makes a second sandbox of a pod has lost the first, and with it what came after the snapshot.
        if (name := spec.annotations.get(snapshots.ANNOTATION)) and not spec.attempt:
            return await self._restore(spec, name)
        try:
            self._settle()
            memory, cpus = size_of(spec, self.settings)
            boot_files = self._files_for(spec)
            ports = None if os.geteuid() == 0 else forwards(spec)
            if boot_files is self._boot_files:
                self.pool.reach = spec.network.reach
                started = await self.pool.take(memory, cpus, ports)
            else:
                # A kernel of the pod's own: no other asks for its like.
                driver, template = await self.template(memory, cpus, boot_files)
                started = await clone(
                    driver.start, template, self._machines, ports, reach=spec.network.reach
                )
        except MissingPiece as error:
            raise CannotStart(f"microVM: {error.remedied()}") from error
        except MicroVMError as error:
            raise CannotStart(f"microVM: {error}") from error
        except OSError as error:
            raise CannotStart(f"microVM: {error.strerror or error}") from error
        driver_ = self._driver
        assert driver_ is not None
        sandbox = MicroSandbox(
            spec,
            self.drives,
            self.instance,
            sharing=boot_files.kernel.shares_files and driver_.shares_files,
            driver=driver_.name,
            edition=driver_.edition(),
        )
        try:
            await sandbox.create(started)
        except (MicroVMError, OSError) as error:
            raise CannotStart(f"microVM: {error}") from error
        self._sandboxes[spec.id] = sandbox
        return sandbox

    async def _restore(self, spec: SandboxSpec, name: str) -> MicroSandbox:
        """A machine that is to go on from a snapshot, of the size that it had."""
        scratch = self.run_directory / "restoring" / spec.id
        ram = -1
        try:
            self._settle()
            path = snapshots.path_of(self.directory, name)
            async with self._proving:
                if self._driver is None:
                    known = drivers.proven(self.directory, self.settings)
                    self._driver = known or await self._prove(LEAST, 1)
            driver = self._driver
            found = snapshots.read_record(path)
            if (found.edition, found.processor) != (driver.edition(), templates.processor()):
                raise BadArtifact(
                    path, f"it was taken with another VMM or processor ({found.edition})"
                )
            scratch.mkdir(parents=True, mode=0o700)
            await asyncio.to_thread(snapshots.unpack, path, scratch)
            ram = os.memfd_create("restored", os.MFD_CLOEXEC)
            os.ftruncate(ram, found.memory << 20)
            whole = Template(name, found.memory, found.cpus, ram, scratch, 0.0)
            started = await clone(driver.start, whole, self._machines, forwards(spec), held=True)
            (scratch / snapshots.STATE).unlink()
            sandbox = RestoredSandbox(
                spec, self.drives, self.instance, found, scratch,
                driver=driver.name, edition=found.edition,
            )  # fmt: skip
            await sandbox.create(started)
        except (MicroVMError, OSError) as error:
            await asyncio.to_thread(trees.remove_quietly, scratch)
            raise CannotStart(f"microVM: snapshot {name}: {error}") from error
        finally:
            if ram >= 0:
                os.close(ram)
        self._sandboxes[spec.id] = sandbox
        return sandbox

    @property
    def pool(self) -> Pool:
        if self._pool is None:
            self._pool = Pool(
                self._machines,
                self.settings.pool if os.geteuid() == 0 else 0,
                self.template,
                self._rehearse,
                live=self.settings.live,
            )
        return self._pool

    async def adopt(self, record: SandboxRecord) -> MicroSandbox | None:
        spec = record.spec
        try:
            facts = Facts.load(spec.directory)
        except (OSError, ValueError, TypeError):
            return None
        sandbox = MicroSandbox(spec, self.drives, self.instance)
        machine = await drivers.named(facts.driver).adopt(Path(facts.directory))
        if machine is None:
            await sandbox.stop(0)
            trees.remove_quietly(Path(facts.directory))
            return None
        try:
            await sandbox.adopt(machine, facts, record.containers)
        except (MicroVMError, OSError) as error:
            LOG.warning("pod %s/%s cannot be adopted: %s", spec.namespace, spec.name, error)
            await sandbox.stop(0)
            return None
        self._sandboxes[spec.id] = sandbox
        return sandbox

    async def collect(self, sandboxes: set[str], strays: list[Path]) -> None:
        """End machines that belong to no sandbox, warm ones of a former runtime among them, and remove what they left."""
        kept = set()
        for identifier in sandboxes & set(self._sandboxes):
            kept.add(self._sandboxes[identifier].place)
        for path in [*self._machines.glob("*"), *self.run_directory.glob("template-*")]:
            if str(path) not in kept:
                end(path)
        for path in (self.run_directory / "restoring").glob("*"):
            if path.name not in sandboxes:
                trees.remove_quietly(path)
        self.templates.collect()
        self.drives.collect()

    async def close(self) -> None:
        if self._pool is not None:
            await self._pool.close()
            self._pool = None
        for sandbox in list(self._sandboxes.values()):
            await sandbox.close()
        self._sandboxes.clear()
        self.templates.close()


def accelerated(accelerator: str) -> str:
    return "KVM" if accelerator == "kvm" else "emulated (no usable KVM)"


def refuse_host_namespaces(spec: SandboxSpec) -> None:
    for name, asked in (
        ("hostNetwork", spec.host_network),
        ("hostPID", spec.host_pid),
        ("hostIPC", spec.host_ipc),
    ):
        if asked:
            raise CannotStart(
                f"{name}: a microVM has a kernel of its own, and no part in the host's"
            )


def size_of(spec: SandboxSpec, settings: Settings) -> tuple[int, int]:
    """MiB and processors: the pod's limits and what the guest's own kernel takes; without limits, the settings."""
    from sampan.kube.quantity import parse

    memory = settings.memory
    if asked := spec.annotations.get(MEMORY):
        try:
            memory = parse(asked).value() >> 20
        except ValueError as error:
            raise CannotStart(f"annotation {MEMORY}: {error}") from error
    elif spec.resources.memory > 0:
        # The pod's overhead is for the guest's own kernel and for the VMM around it.
        own = max(GUEST_OWN, (spec.overhead.memory >> 20) - VMM_OWN)
        memory = (spec.resources.memory >> 20) + own
    memory = min(MOST, max(LEAST, -(-memory // STEP) * STEP))
    cpus = settings.cpus
    if spec.resources.cpu_quota > 0 and spec.resources.cpu_period > 0:
        cpus = -(-spec.resources.cpu_quota // spec.resources.cpu_period)
    return memory, max(1, min(cpus, os.cpu_count() or 1))


def forwards(spec: SandboxSpec) -> dict[tuple[str, int, int], str]:
    """Ports of a pod without a namespace, on its own loopback address: (address, port there, port inside) → protocol."""
    address = spec.network.addresses[0] if spec.network.addresses else "127.0.0.1"
    return {
        (address, port.container_port, port.container_port): port.protocol.lower()
        for port in spec.ports
        if port.protocol in ("TCP", "UDP")
    }


def end(directory: Path) -> None:
    """Kill the VMM of a machine that nobody knows, and remove its directory."""
    record = directory / attendant.VMM_RECORD
    if record.exists():
        pids = [attendant.recorded(record)]
    else:
        pids = attendant.unrecorded(directory)
    for pid in filter(None, pids):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    trees.remove_quietly(directory)
