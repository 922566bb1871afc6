"""What the runtime says of itself, and its figures: Version, Status, RuntimeConfig, statistics."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from sampan.cri import api_pb2 as pb
from sampan.cri.errors import (
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    NotFound,
    Unimplemented,
)
from sampan.network.errors import NetworkError
from sampan.network.pods import Movable
from sampan.runtime import views
from sampan.runtime.inventory import Inventory
from sampan.runtime.records import ContainerEntry, SandboxEntry
from sampan.runtime.sandbox import (
    Checkpointed,
    ContainerStats,
    Measures,
    PodMeasures,
    Sandbox,
    SandboxError,
    SandboxStats,
)
from sampan.runtime.service import translated

VERSION = "0.1.0"
API_VERSION = "v1"
LONGEST_PREFIX = 30  # of a pod CIDR
NO_CHECKPOINTS = "checkpoints are of running microVMs; other kinds of sandboxes have none"


class ReportingService:
    def __init__(self, inventory: Inventory) -> None:
        self.inventory = inventory

    async def version(self, request: Any) -> Any:
        return pb.VersionResponse(
            version=request.version or "0.1.0",
            runtime_name="sampan",
            runtime_version=VERSION,
            runtime_api_version=API_VERSION,
        )

    async def status(self, request: Any) -> Any:
        kinds = {name: await self.inventory.support(name) for name in self.inventory.offered}
        usable = [name for name, support in kinds.items() if support.usable]
        why = "; ".join(f"{name}: {support.why}" for name, support in kinds.items() if support.why)
        # The handler without a name is the one that pods without a RuntimeClass get.
        kind = await self.inventory.kind_for("", "")
        default = [("", kind)] if kind in usable else []
        response = pb.StatusResponse(
            runtime_handlers=[
                pb.RuntimeHandler(
                    name=name,
                    features=pb.RuntimeHandlerFeatures(**dict.fromkeys(kinds[kind].features, True)),
                )
                for name, kind in [*default, *((name, name) for name in usable)]
            ],
            features=pb.RuntimeFeatures(supplemental_groups_policy="container" in usable),
        )
        response.status.conditions.add(
            type="RuntimeReady",
            status=bool(usable),
            reason="" if usable else "NoSandboxKindUsable",
            message="" if usable else why,
        )
        response.status.conditions.add(type="NetworkReady", status=True)
        if request.verbose:
            response.info["config"] = json.dumps(
                {
                    "directory": str(self.inventory.config.directory),
                    "network": self.inventory.config.network.name,
                    "kinds": {
                        name: {
                            "usable": item.usable,
                            "detail": item.detail,
                            "why": item.why,
                            "install": item.install,
                        }
                        for name, item in kinds.items()
                    },
                }
            )
        return response

    async def runtime_config(self, _: Any) -> Any:
        return pb.RuntimeConfigResponse(
            linux=pb.LinuxRuntimeConfiguration(cgroup_driver=pb.CGROUPFS)
        )

    async def update_runtime_config(self, request: Any) -> Any:
        """A kubelet tells its Node's pod CIDR: the built-in network's, where neither CNI nor a configuration has another.

        With two families they are separated by a comma; pods here have IPv4. Raises InvalidArgument, Internal.
        """
        config, told = self.inventory.config, request.runtime_config.network_config.pod_cidr
        if told and config.takes_pod_cidr and isinstance(config.network, Movable):
            cidr = ipv4_network(told)
            try:
                await config.network.move(cidr)
            except (NetworkError, OSError) as error:
                raise Internal(f"pod CIDR {cidr}: {error}") from error
        return pb.UpdateRuntimeConfigResponse()

    async def checkpoint_container(self, request: Any) -> Any:
        """KEP-2008; the file is one that only the kind which wrote it reads again. Raises CRIError."""
        entry = self.inventory.container(request.container_id)
        sandbox = self.inventory.sandboxes[entry.sandbox_id].sandbox
        if not isinstance(sandbox, Checkpointed):
            raise Unimplemented(NO_CHECKPOINTS)
        try:
            async with asyncio.timeout(request.timeout or None):
                await sandbox.checkpoint(entry.id, Path(request.location))
        except TimeoutError:
            raise DeadlineExceeded(f"no checkpoint within {request.timeout} s") from None
        except (SandboxError, OSError) as error:
            raise translated(error) from error
        return pb.CheckpointContainerResponse()

    async def update_pod_sandbox_resources(self, request: Any) -> Any:
        """Information for runtimes with a machine per pod; the pod's cgroup is kubelet's own. Raises NotFound."""
        entry = self.inventory.sandbox(request.pod_sandbox_id)
        entry.config.linux.overhead.CopyFrom(request.overhead)
        entry.config.linux.resources.CopyFrom(request.resources)
        entry.save()
        return pb.UpdatePodSandboxResourcesResponse()

    # statistics

    async def container_stats(self, request: Any) -> Any:
        entry = self.inventory.container(request.container_id)
        sandbox = self.inventory.sandboxes[entry.sandbox_id]
        figures = await self._figures(sandbox)
        if entry.id not in figures.containers:
            raise NotFound(f"container {entry.id} is not running")
        return pb.ContainerStatsResponse(stats=self._container(entry, figures.containers[entry.id]))

    async def list_container_stats(self, request: Any) -> Any:
        return pb.ListContainerStatsResponse(
            stats=[item async for item in self._containers(request.filter)]
        )

    async def stream_container_stats(self, request: Any) -> AsyncIterator[Any]:
        async for item in self._containers(request.filter):
            yield pb.StreamContainerStatsResponse(container_stats=[item])

    async def _containers(self, wanted: Any) -> AsyncIterator[Any]:
        for sandbox in list(self.inventory.sandboxes.values()):
            if wanted.pod_sandbox_id and sandbox.id != wanted.pod_sandbox_id:
                continue
            entries = [
                entry
                for entry in self.inventory.containers_of(sandbox)
                if (not wanted.id or entry.id.startswith(wanted.id))
                and views.has_labels(entry.config.labels, wanted.label_selector)
            ]
            if not entries:
                continue
            figures = await self._figures(sandbox)
            for entry in entries:
                if entry.id in figures.containers:
                    yield self._container(entry, figures.containers[entry.id])

    async def pod_sandbox_stats(self, request: Any) -> Any:
        entry = self.inventory.sandbox(request.pod_sandbox_id)
        return pb.PodSandboxStatsResponse(stats=await self._pod(entry))

    async def list_pod_sandbox_stats(self, request: Any) -> Any:
        return pb.ListPodSandboxStatsResponse(
            stats=[item async for item in self._pods(request.filter)]
        )

    async def stream_pod_sandbox_stats(self, request: Any) -> AsyncIterator[Any]:
        async for item in self._pods(request.filter):
            yield pb.StreamPodSandboxStatsResponse(pod_sandbox_stats=[item])

    async def _pods(self, wanted: Any) -> AsyncIterator[Any]:
        for entry in list(self.inventory.sandboxes.values()):
            if (
                entry.ready
                and (not wanted.id or entry.id.startswith(wanted.id))
                and views.has_labels(entry.config.labels, wanted.label_selector)
            ):
                yield await self._pod(entry)

    async def _pod(self, entry: SandboxEntry) -> Any:
        return views.sandbox_stats(
            entry,
            await self._figures(entry),
            self.inventory.containers,
            time.time_ns(),
            str(self.inventory.config.directory),
        )

    async def _figures(self, entry: SandboxEntry) -> SandboxStats:
        return await entry.sandbox.stats() if entry.sandbox is not None else SandboxStats()

    def _container(self, entry: ContainerEntry, figures: ContainerStats) -> Any:
        mountpoint = str(self.inventory.config.directory)
        return views.container_stats(entry, figures, time.time_ns(), mountpoint)

    # cAdvisor's metrics, for a kubelet that takes them from here; loaded when it asks

    async def list_metric_descriptors(self, _: Any) -> Any:
        from sampan.runtime import metrics

        return pb.ListMetricDescriptorsResponse(descriptors=metrics.descriptors())

    async def list_pod_sandbox_metrics(self, _: Any) -> Any:
        return pb.ListPodSandboxMetricsResponse(
            pod_metrics=[item async for item in self._pod_metrics()]
        )

    async def stream_pod_sandbox_metrics(self, _: Any) -> AsyncIterator[Any]:
        async for item in self._pod_metrics():
            yield pb.StreamPodSandboxMetricsResponse(pod_sandbox_metrics=[item])

    async def _pod_metrics(self) -> AsyncIterator[Any]:
        from sampan.runtime import metrics

        for entry in list(self.inventory.sandboxes.values()):
            if entry.ready and entry.sandbox is not None:
                measured = await measures_of(entry.sandbox)
                containers = self.inventory.containers_of(entry)
                yield metrics.of_sandbox(entry, containers, measured)


def ipv4_network(told: str) -> str:
    """Of a pod CIDR in one or two families. Raises InvalidArgument."""
    for part in told.split(","):
        try:
            network = ipaddress.ip_network(part.strip())
        except ValueError as error:
            raise InvalidArgument(f"pod CIDR {told}: {error}") from error
        if network.version == 4 and network.prefixlen <= LONGEST_PREFIX:
            return str(network)
    raise InvalidArgument(
        f"pod CIDR {told}: it has no IPv4 network with room for a gateway and a pod"
    )


async def measures_of(sandbox: Sandbox) -> PodMeasures:
    """All that the kind can measure; of one that has only the contract's figures, those."""
    if (own := getattr(sandbox, "measures", None)) is not None:
        measured: PodMeasures = await own()
        return measured
    figures = await sandbox.stats()
    return PodMeasures(containers={name: basic(item) for name, item in figures.containers.items()})


def basic(stats: ContainerStats) -> Measures:
    return {
        "cpu_usage_seconds_total": {("total",): stats.cpu_nanoseconds // 10**9},
        "memory_usage_bytes": {(): stats.memory_bytes},
        "memory_working_set_bytes": {(): stats.memory_working_set},
        "memory_rss": {(): stats.memory_rss},
        "fs_usage_bytes": {("",): stats.filesystem_bytes},
        "threads": {(): stats.pids},
    }
