"""A device plugin of our own, over real gRPC: boats that may be taken, with a say in which."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message_factory import GetMessageClass

from sampan.node.devices import plugin_pb2 as api

RESOURCE = "harbour.example/boat"


class BoatPlugin:
    def __init__(self, directory: Path, cdi: str = "") -> None:
        """`cdi`: the kind by which its devices are described (vendor/class); "" when they are not."""
        self.directory = directory
        self.cdi = cdi
        self.health = {"boat-a": "Healthy", "boat-b": "Healthy", "boat-c": "Healthy"}
        self.changed = asyncio.Event()
        self.allocated: list[list[str]] = []
        self.started: list[list[str]] = []
        self.asked: list[Any] = []

    async def start(self, name: str = "boats.sock") -> None:
        self.endpoint = name
        service = api.DESCRIPTOR.services_by_name["DevicePlugin"]
        handlers = {}
        for method in service.methods:
            make = (
                grpc.unary_stream_rpc_method_handler
                if method.server_streaming
                else grpc.unary_unary_rpc_method_handler
            )
            handlers[method.name] = make(
                getattr(self, method.name),
                request_deserializer=GetMessageClass(method.input_type).FromString,
                response_serializer=GetMessageClass(method.output_type).SerializeToString,
            )
        self.server = grpc.aio.server()
        generic = grpc.method_handlers_generic_handler(service.full_name, handlers)
        self.server.add_generic_rpc_handlers([generic])
        (self.directory / name).unlink(missing_ok=True)
        self.server.add_insecure_port(f"unix://{self.directory / name}")
        await self.server.start()

    async def register(self, version: str = "v1beta1", resource: str = RESOURCE) -> None:
        request = api.RegisterRequest(
            version=version,
            endpoint=self.endpoint,
            resource_name=resource,
            options=api.DevicePluginOptions(
                pre_start_required=True, get_preferred_allocation_available=True
            ),
        )
        await call(
            self.directory / "kubelet.sock", api, "Registration", "Register", request, api.Empty
        )

    async def set_health(self, **health: str) -> None:
        self.health |= {f"boat-{name}": value for name, value in health.items()}
        self.changed.set()

    async def stop(self) -> None:
        await self.server.stop(None)

    # The plug-in's own methods

    async def GetDevicePluginOptions(self, _request: Any, _context: Any) -> Any:
        return api.DevicePluginOptions(pre_start_required=True)

    async def ListAndWatch(self, _request: Any, _context: Any) -> AsyncIterator[Any]:
        while True:
            yield api.ListAndWatchResponse(
                devices=[
                    api.Device(
                        ID=name,
                        health=health,
                        topology=api.TopologyInfo(nodes=[api.NUMANode(ID=0)]),
                    )
                    for name, health in self.health.items()
                ]
            )
            await self.changed.wait()
            self.changed.clear()

    async def GetPreferredAllocation(self, request: Any, _context: Any) -> Any:
        (wanted,) = request.container_requests
        self.asked.append(wanted)
        ids = sorted(wanted.available_deviceIDs)[-wanted.allocation_size :]
        answer = api.ContainerPreferredAllocationResponse(deviceIDs=ids)
        return api.PreferredAllocationResponse(container_responses=[answer])

    async def Allocate(self, request: Any, _context: Any) -> Any:
        ids = [list(each.devices_ids) for each in request.container_requests]
        self.allocated += ids
        return api.AllocateResponse(
            container_responses=[
                api.ContainerAllocateResponse(
                    envs={"BOATS": ",".join(each)},
                    annotations={"harbour.example/boats": ",".join(each)},
                    cdi_devices=[
                        api.CDIDevice(name=f"{self.cdi}={one}") for one in each if self.cdi
                    ],
                )
                for each in ids
            ]
        )

    async def PreStartContainer(self, request: Any, _context: Any) -> Any:
        self.started.append(list(request.devices_ids))
        return api.PreStartContainerResponse()


async def call(
    socket: Path, module: Any, service: str, method: str, request: Any, answer: Any
) -> Any:
    """One unary call, as any gRPC client makes it."""
    name = module.DESCRIPTOR.services_by_name[service].full_name
    channel = grpc.aio.insecure_channel(
        f"unix://{socket}", options=[("grpc.default_authority", "localhost")]
    )
    async with channel:
        rpc = channel.unary_unary(
            f"/{name}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        return await rpc(request, timeout=10)
