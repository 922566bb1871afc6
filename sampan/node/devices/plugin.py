"""One device plug-in, as kubelet speaks with it: gRPC on the socket that it registered. Loaded with the first one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import grpc.aio
from google.protobuf.message_factory import GetMessageClass

from sampan.node.devices import plugin_pb2 as api

CONNECT_WITHIN = 10.0  # seconds, as kubelet
ANSWER_WITHIN = 30.0  # to PreStartContainer, as kubelet; Allocate and GetPreferredAllocation alike
HEALTHY = "Healthy"


class PluginError(Exception):
    """The plug-in refused, or cannot be reached."""


class Device(NamedTuple):
    id: str
    healthy: bool
    numa: tuple[int, ...]


class Plugin:
    """Every method raises PluginError."""

    def __init__(self, socket: Path, resource: str, options: Any) -> None:
        self.resource = resource
        self.prefers = options.get_preferred_allocation_available
        self.pre_starts = options.pre_start_required
        self._channel = grpc.aio.insecure_channel(
            f"unix://{socket}", options=[("grpc.default_authority", "localhost")]
        )
        self._calls: dict[str, Any] = {
            method.name: (
                self._channel.unary_stream if method.server_streaming else self._channel.unary_unary
            )(
                f"/{method.containing_service.full_name}/{method.name}",
                request_serializer=GetMessageClass(method.input_type).SerializeToString,
                response_deserializer=GetMessageClass(method.output_type).FromString,
            )
            for method in api.DESCRIPTOR.services_by_name["DevicePlugin"].methods
        }

    async def connect(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_WITHIN):
                await self._channel.channel_ready()
        except TimeoutError:
            text = f"failed to dial device plugin of {self.resource}: context deadline exceeded"
            raise PluginError(text) from None

    async def devices(self) -> AsyncIterator[list[Device]]:
        """All of the plug-in's devices, now and whenever one of them changes, until it goes away."""
        try:
            async for answer in self._calls["ListAndWatch"](api.Empty()):
                yield [
                    Device(d.ID, d.health == HEALTHY, tuple(n.ID for n in d.topology.nodes))
                    for d in answer.devices
                ]
        except grpc.aio.AioRpcError as error:
            raise _worded(error) from None

    async def allocate(self, ids: Iterable[str]) -> Any:
        """A ContainerAllocateResponse."""
        request = api.AllocateRequest(
            container_requests=[api.ContainerAllocateRequest(devices_ids=ids)]
        )
        answer = await self._call("Allocate", request)
        if len(answer.container_responses) != 1:
            raise PluginError(f"no containers return in allocation response {answer}")
        return answer.container_responses[0]

    async def preferred(
        self, available: Iterable[str], must: Iterable[str], size: int
    ) -> list[str]:
        """Which of the available devices the plug-in would take; empty when it does not mind."""
        wanted = api.ContainerPreferredAllocationRequest(
            available_deviceIDs=available, must_include_deviceIDs=must, allocation_size=size
        )
        request = api.PreferredAllocationRequest(container_requests=[wanted])
        answer = await self._call("GetPreferredAllocation", request)
        return [id for each in answer.container_responses[:1] for id in each.deviceIDs]

    async def pre_start(self, ids: Iterable[str]) -> None:
        await self._call("PreStartContainer", api.PreStartContainerRequest(devices_ids=ids))

    async def _call(self, name: str, request: Any) -> Any:
        try:
            return await self._calls[name](request, timeout=ANSWER_WITHIN)
        except grpc.aio.AioRpcError as error:
            raise _worded(error) from None

    async def close(self) -> None:
        await self._channel.close(None)


def _worded(error: grpc.aio.AioRpcError) -> PluginError:
    code = error.code().name.title().replace("_", "")
    return PluginError(f"rpc error: code = {code} desc = {error.details() or ''}")
