"""RuntimeService: CRI's verbs for sandboxes and containers.

A verb changes one sandbox at a time, under that sandbox's lock; stopping is outside of it, so that a second, harder stop
is not held up by the first. What a verb has done is on disk before it is answered. The end of a container is seen by a
watcher task, which this service owns; nothing here asks a kind twice whether something happened.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from sampan.cri import api_pb2 as pb
from sampan.cri.errors import (
    AlreadyExists,
    CRIError,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
)
from sampan.image import UnpackedImage
from sampan.image.errors import ImageError, ImageNotFound
from sampan.linux import trees
from sampan.network.pods import Attachment, PodRef
from sampan.runtime import cdi, endings, imagevolumes, spec, views
from sampan.runtime.config import RuntimeConfig
from sampan.runtime.hostports import HostPorts
from sampan.runtime.inventory import Inventory, kind_of_image
from sampan.runtime.podfiles import write_files
from sampan.runtime.records import ContainerEntry, SandboxEntry
from sampan.runtime.sandbox import (
    USER_NAMESPACES,
    CannotStart,
    Exit,
    Expectant,
    Process,
    SandboxError,
)

LOG = logging.getLogger(__name__)

IMAGE_OS = "sampan.dev/image-os"


class RuntimeService:
    def __init__(self, config: RuntimeConfig) -> None:
        self.config = config
        self.inventory = Inventory(config)
        self.host_ports = HostPorts(config.instance, config.directory / "hostports")
        self._creating: set[bytes] = set()  # metadata of sandboxes that are under way
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def start(self) -> None:
        """Take up what a former runtime left: adopt what runs, record what ended, remove what belongs to nobody."""
        from sampan.runtime.adoption import adopt

        for path in (self.config.directory, self.config.run_directory):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in ("sandboxes", "containers"):
            (self.config.directory / name).mkdir(exist_ok=True, mode=0o700)
        await adopt(self)

    async def close(self) -> None:
        """Stop watching. Pods keep running."""
        containers, sandboxes = self.inventory.containers, self.inventory.sandboxes
        watchers = [entry.watcher for entry in containers.values() if entry.watcher]
        watchers += [entry.attendant for entry in sandboxes.values() if entry.attendant]
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)
        for kind in self.inventory.loaded_kinds():
            await kind.close()

    # sandboxes

    async def run_pod_sandbox(self, request: Any) -> Any:
        config = request.config
        metadata = config.metadata
        if not metadata.name or not metadata.uid:
            raise InvalidArgument("config.metadata: name and uid must be set")
        key = metadata.SerializeToString(deterministic=True)
        for other in self.inventory.sandboxes.values():
            if other.config.metadata == metadata:
                raise AlreadyExists(
                    f"sandbox {metadata.namespace}/{metadata.name} attempt {metadata.attempt} exists: {other.id}"
                )
        if key in self._creating:
            raise AlreadyExists(f"sandbox {metadata.namespace}/{metadata.name} is being made")
        self._creating.add(key)
        try:
            return await self._run_pod_sandbox(request)
        finally:
            self._creating.discard(key)

    async def _run_pod_sandbox(self, request: Any) -> Any:
        config = request.config
        metadata = config.metadata
        kind = await self.inventory.kind_for(
            request.runtime_handler, config.annotations.get(IMAGE_OS, "")
        )
        if spec.user_namespace(config.linux.security_context.namespace_options) is not None:
            if USER_NAMESPACES not in (await self.inventory.support(kind)).features:
                raise FailedPrecondition(f"pods of the kind {kind} have no user namespaces here")
        identifier = secrets.token_hex(32)
        directory = self.config.directory / "sandboxes" / identifier
        directory.mkdir(mode=0o700)
        entry = SandboxEntry(
            identifier,
            directory,
            config,
            request.runtime_handler,
            kind,
            time.time_ns(),
            Attachment(None, ()),
        )
        reference = PodRef(identifier, metadata.namespace, metadata.name, metadata.uid)
        try:
            # A crash before the record is written leaves what has no record: the next start removes it.
            if config.linux.security_context.namespace_options.network != pb.NODE:
                entry.network = await self.config.network.attach(reference)
            sandbox = self._sandbox_spec(entry)
            if entry.network.namespace is not None:
                await self.host_ports.add(identifier, entry.network.addresses[0], sandbox.ports)
            entry.sandbox = await self.inventory.kind(kind).create(sandbox)
            entry.save()
            endings.attend(self.inventory, entry)
        except BaseException as error:
            await self.host_ports.remove(identifier)
            await self.config.network.detach(reference)
            await asyncio.to_thread(trees.remove_quietly, directory)
            raise translated(error) from error
        self.inventory.sandboxes[identifier] = entry
        self.inventory.tell(pb.CONTAINER_CREATED_EVENT, identifier, entry)
        self.inventory.tell(pb.CONTAINER_STARTED_EVENT, identifier, entry)
        return pb.RunPodSandboxResponse(pod_sandbox_id=identifier)

    def _sandbox_spec(self, entry: SandboxEntry) -> Any:
        resolv_conf = write_files(entry)
        return spec.sandbox_spec(
            entry.id, entry.config, entry.directory, entry.network, resolv_conf
        )

    async def stop_pod_sandbox(self, request: Any) -> Any:
        try:
            entry = self.inventory.sandbox(request.pod_sandbox_id)
        except NotFound:
            return pb.StopPodSandboxResponse()
        async with self._locks[entry.id]:
            await self._stop_sandbox(entry)
        return pb.StopPodSandboxResponse()

    async def _stop_sandbox(self, entry: SandboxEntry) -> None:
        if entry.attendant is not None:
            entry.attendant.cancel()
        was_ready = entry.ready
        try:
            if entry.sandbox is not None:
                await entry.sandbox.stop(0)
                for container in self.inventory.containers_of(entry):
                    if container.watcher is not None:
                        await container.watcher
                entry.sandbox = None
            await self.host_ports.remove(entry.id)
            await self.config.network.detach(reference_of(entry))
            entry.network.let_go()
        except SandboxError as error:
            raise translated(error) from error
        if was_ready:
            entry.ready = False
            entry.save()
            self.inventory.tell(pb.CONTAINER_STOPPED_EVENT, entry.id, entry)

    async def remove_pod_sandbox(self, request: Any) -> Any:
        try:
            entry = self.inventory.sandbox(request.pod_sandbox_id)
        except NotFound:
            return pb.RemovePodSandboxResponse()
        async with self._locks[entry.id]:
            await self._stop_sandbox(entry)
            for container in self.inventory.containers_of(entry):
                await self._remove_container(container)
            await asyncio.to_thread(trees.remove_quietly, entry.directory)
            self.inventory.sandboxes.pop(entry.id, None)
            self.inventory.tell(pb.CONTAINER_DELETED_EVENT, entry.id, entry)
        self._locks.pop(entry.id, None)
        return pb.RemovePodSandboxResponse()

    async def pod_sandbox_status(self, request: Any) -> Any:
        entry = self.inventory.sandbox(request.pod_sandbox_id)
        return pb.PodSandboxStatusResponse(
            status=views.sandbox_status(entry),
            info={"kind": entry.kind, "directory": str(entry.directory)} if request.verbose else {},
            containers_statuses=[
                self.inventory.status_of(item) for item in self.inventory.containers_of(entry)
            ],
            timestamp=time.time_ns(),
        )

    async def list_pod_sandbox(self, request: Any) -> Any:
        return pb.ListPodSandboxResponse(items=self._sandbox_items(request.filter))

    async def stream_pod_sandboxes(self, request: Any) -> AsyncIterator[Any]:
        for item in self._sandbox_items(request.filter):
            yield pb.StreamPodSandboxesResponse(pod_sandboxes=[item])

    def _sandbox_items(self, wanted: Any) -> list[Any]:
        return [
            views.sandbox_item(entry)
            for entry in self.inventory.sandboxes.values()
            if views.sandbox_matches(entry, wanted)
        ]

    # containers

    async def create_container(self, request: Any) -> Any:
        sandbox = self.inventory.sandbox(request.pod_sandbox_id)
        config = request.config
        if not config.metadata.name:
            raise InvalidArgument("config.metadata.name must be set")
        reference = config.image.image
        if not reference:
            raise InvalidArgument("config.image.image must be set")
        for other in self.inventory.containers_of(sandbox):
            if other.config.metadata == config.metadata:
                raise AlreadyExists(
                    f"container {config.metadata.name} attempt {config.metadata.attempt} exists: {other.id}"
                )
        try:
            image = await self.config.images.unpack(reference)
            cdi.inject(config, self.config.cdi_directories)
        except ImageNotFound as error:
            raise NotFound(str(error)) from error
        except ImageError as error:
            raise Internal(str(error)) from error
        except cdi.BadDevice as error:
            raise FailedPrecondition(str(error)) from error
        identifier = secrets.token_hex(32)
        directory = self.config.directory / "containers" / identifier
        entry = ContainerEntry(
            identifier,
            sandbox.id,
            directory,
            config,
            image.id,
            config.image.user_specified_image or image.reference,
            image.config,
            time.time_ns(),
            image=image,
        )
        container = spec.container_spec(identifier, sandbox.config, config, image.config, directory)
        if not container.args and not image.modules:
            raise InvalidArgument(
                "no command specified: neither the container nor its image names one"
            )
        async with self._locks[sandbox.id]:
            if not sandbox.ready or sandbox.sandbox is None:
                raise FailedPrecondition(f"sandbox {sandbox.id} is not running")
            await self._settle_kind(sandbox, image)
            directory.mkdir(mode=0o700)
            try:
                await imagevolumes.mount_all(self.config.images, config.mounts, directory)
                if container.log_path is not None:
                    container.log_path.parent.mkdir(parents=True, exist_ok=True)
                entry.save()
            except BaseException as error:
                await asyncio.to_thread(discard, directory)
                raise translated(error) from error
            entry.spec = container
            self.inventory.containers[identifier] = entry
            if isinstance(sandbox.sandbox, Expectant):
                sandbox.sandbox.expect(image)
        self.inventory.tell(pb.CONTAINER_CREATED_EVENT, identifier, sandbox)
        return pb.CreateContainerResponse(container_id=identifier)

    async def _settle_kind(self, sandbox: SandboxEntry, image: UnpackedImage) -> None:
        """The image has to fit the pod's kind; a pod that named none, and has started nothing, takes the image's."""
        wanted = kind_of_image(image.os)
        if sandbox.kind in (wanted, "microvm"):
            return
        if wanted == "container" and self.config.engine(sandbox.kind):
            return
        if sandbox.handler or sandbox.started:
            raise FailedPrecondition(
                f"image {image.reference} is for {image.os}, and this pod runs as {sandbox.kind}"
            )
        assert sandbox.sandbox is not None
        try:
            await sandbox.sandbox.stop(0)
            sandbox.kind = wanted
            sandbox.sandbox = await self.inventory.kind(wanted).create(self._sandbox_spec(sandbox))
        except SandboxError as error:
            raise translated(error) from error
        sandbox.save()

    async def start_container(self, request: Any) -> Any:
        entry = self.inventory.container(request.container_id)
        sandbox = self.inventory.sandboxes[entry.sandbox_id]
        async with self._locks[sandbox.id]:
            if entry.state != pb.CONTAINER_CREATED:
                raise FailedPrecondition(
                    f"container {entry.id} is in {pb.ContainerState.Name(entry.state)} state"
                )
            if sandbox.sandbox is None:
                raise FailedPrecondition(f"sandbox {sandbox.id} is not running")
            container = entry.spec or self.container_spec(entry)
            try:
                async with self.config.images.using(entry.image_id, entry.image) as image:
                    sandbox.started = True
                    process = await sandbox.sandbox.start(container, image)
            except (SandboxError, ImageError) as error:
                reason = error.reason if isinstance(error, CannotStart) else "StartError"
                self._record_exit(entry, Exit(128, time.time_ns(), reason, str(error)))
                raise translated(error) from error
            self.watch(entry, process)
            if entry.spec is not None:
                entry.save_start()
            else:  # the record is a former process's, perhaps of an older version
                entry.save()
            entry.image = entry.spec = None
        self.inventory.tell(pb.CONTAINER_STARTED_EVENT, entry.id, sandbox)
        return pb.StartContainerResponse()

    def container_spec(self, entry: ContainerEntry) -> Any:
        sandbox = self.inventory.sandboxes[entry.sandbox_id]
        return spec.container_spec(
            entry.id, sandbox.config, entry.config, entry.image_config, entry.directory
        )

    def watch(self, entry: ContainerEntry, process: Process) -> None:
        entry.process = process
        entry.started_at = process.started_at
        entry.watcher = asyncio.create_task(self._watch(entry, process), name=f"watch {entry.id}")

    async def _watch(self, entry: ContainerEntry, process: Process) -> None:
        try:
            exit_ = await process.wait()
        except Exception as error:
            LOG.exception("container %s (%s)", entry.id, entry.config.metadata.name)
            exit_ = Exit(255, time.time_ns(), "Error", str(error))
        self._record_exit(entry, exit_)

    def _record_exit(self, entry: ContainerEntry, exit_: Exit) -> None:
        entry.exit = exit_
        if entry.directory.exists():
            entry.save()
        sandbox = self.inventory.sandboxes.get(entry.sandbox_id)
        if sandbox is not None:
            self.inventory.tell(pb.CONTAINER_STOPPED_EVENT, entry.id, sandbox)

    async def stop_container(self, request: Any) -> Any:
        try:
            entry = self.inventory.container(request.container_id)
        except NotFound:
            return pb.StopContainerResponse()
        if entry.state == pb.CONTAINER_CREATED:
            return pb.StopContainerResponse()
        if entry.exit is None and entry.process is not None and entry.watcher is not None:
            if request.timeout > 0:
                name = spec.stop_signal(entry.config, entry.image_config)
                with suppress(TimeoutError):
                    async with asyncio.timeout(request.timeout):
                        await entry.process.signal(spec.signal_number(name))
                        await asyncio.wait([entry.watcher])
            if entry.exit is None:
                await entry.process.kill()
                await asyncio.shield(entry.watcher)
        return pb.StopContainerResponse()

    async def remove_container(self, request: Any) -> Any:
        try:
            entry = self.inventory.container(request.container_id)
        except NotFound:
            return pb.RemoveContainerResponse()
        async with self._locks[entry.sandbox_id]:
            await self._remove_container(entry)
        return pb.RemoveContainerResponse()

    async def _remove_container(self, entry: ContainerEntry) -> None:
        if self.inventory.containers.get(entry.id) is not entry:
            return
        if entry.process is not None:
            await entry.process.kill()
            if entry.watcher is not None:
                await entry.watcher
            await entry.process.remove()
        del self.inventory.containers[entry.id]
        await asyncio.to_thread(discard, entry.directory)
        sandbox = self.inventory.sandboxes.get(entry.sandbox_id)
        if sandbox is not None:
            self.inventory.tell(pb.CONTAINER_DELETED_EVENT, entry.id, sandbox)

    async def container_status(self, request: Any) -> Any:
        entry = self.inventory.container(request.container_id)
        info = {}
        if request.verbose:
            pid = entry.process.pid if entry.process and entry.exit is None else 0
            info = {"pid": str(pid), "directory": str(entry.directory)}
        return pb.ContainerStatusResponse(status=self.inventory.status_of(entry), info=info)

    async def list_containers(self, request: Any) -> Any:
        return pb.ListContainersResponse(containers=self._container_items(request.filter))

    async def stream_containers(self, request: Any) -> AsyncIterator[Any]:
        for item in self._container_items(request.filter):
            yield pb.StreamContainersResponse(containers=[item])

    def _container_items(self, wanted: Any) -> list[Any]:
        return [
            views.container_item(entry)
            for entry in self.inventory.containers.values()
            if views.container_matches(entry, wanted)
        ]

    async def update_container_resources(self, request: Any) -> Any:
        entry = self.inventory.container(request.container_id)
        sandbox = self.inventory.sandboxes[entry.sandbox_id]
        if entry.exit is not None or sandbox.sandbox is None:
            raise FailedPrecondition(f"container {entry.id} is not running")
        if entry.process is not None:
            try:
                await sandbox.sandbox.update(entry.id, spec.resources(request.linux))
            except SandboxError as error:
                raise translated(error) from error
        merge_resources(entry.config.linux.resources, request.linux)
        entry.save()
        return pb.UpdateContainerResourcesResponse()

    async def reopen_container_log(self, request: Any) -> Any:
        entry = self.inventory.container(request.container_id)
        if entry.process is None or entry.exit is not None:
            raise FailedPrecondition(f"container {entry.id} is not running")
        try:
            await entry.process.reopen_log()
        except (SandboxError, OSError) as error:
            raise translated(error) from error
        return pb.ReopenContainerLogResponse()

    async def get_container_events(self, _: Any) -> AsyncIterator[Any]:
        async for event in self.inventory.events():
            yield event


def discard(directory: Path) -> None:
    """A container's directory, with what is mounted in it. Idempotent."""
    imagevolumes.unmount_all(directory)
    trees.remove_quietly(directory)


def merge_resources(current: Any, change: Any) -> None:
    """What the change does not set stays."""
    for descriptor, value in change.ListFields():
        if descriptor.name in ("unified", "hugepage_limits"):
            current.ClearField(descriptor.name)
            current.MergeFrom(pb.LinuxContainerResources(**{descriptor.name: value}))
        else:
            setattr(current, descriptor.name, value)


def reference_of(entry: SandboxEntry) -> PodRef:
    metadata = entry.config.metadata
    return PodRef(entry.id, metadata.namespace, metadata.name, metadata.uid)


def translated(error: BaseException) -> BaseException:
    """The room's and the image's errors as CRI's; anything else as it is."""
    if isinstance(error, CRIError) or not isinstance(error, (SandboxError, ImageError, OSError)):
        return error
    reason = getattr(error, "reason", "")
    if reason == "NotFound":
        return NotFound(str(error))
    if reason == "NotSupported":
        from sampan.cri.errors import Unimplemented

        return Unimplemented(str(error))
    return Internal(str(error))


__all__ = ["RuntimeConfig", "RuntimeService"]
