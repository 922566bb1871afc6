"""The two gRPC services that the node answers on unix sockets: Registration of plug-ins, and the pod resources API.

Loaded with the first caller. Methods are plain coroutines, found by the name that the .proto gives them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from google.protobuf.message_factory import GetMessageClass

from sampan.kube.names import qualified_name
from sampan.node import podspec
from sampan.node.devices import plugin_pb2, podresources_pb2
from sampan.node.devices.broker import Broker
from sampan.node.devices.plugin import Plugin, PluginError
from sampan.node.podspec import Object

if TYPE_CHECKING:
    from sampan.node.devices.plugin import Device

log = logging.getLogger(__name__)

VERSION = "v1beta1"
CLOSE_WITHIN = 0.5


class Refusal(Exception):
    """Told to the caller as it is."""

    def __init__(self, text: str, code: grpc.StatusCode = grpc.StatusCode.UNKNOWN) -> None:
        super().__init__(text)
        self.code = code


class Server:
    """One service on one socket, for this user alone."""

    def __init__(self, descriptor: Any, implementation: object) -> None:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        handlers = {
            method.name: grpc.unary_unary_rpc_method_handler(
                _answer(getattr(implementation, method.name)),
                request_deserializer=GetMessageClass(method.input_type).FromString,
                response_serializer=GetMessageClass(method.output_type).SerializeToString,
            )
            for method in descriptor.methods
        }
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(descriptor.full_name, handlers)]
        )

    async def start(self, path: Path) -> Server:
        path.unlink(missing_ok=True)
        mask = os.umask(0o177)
        try:
            self._server.add_insecure_port(f"unix://{path}")
        except RuntimeError as error:
            raise OSError(f"cannot listen on {path}: {error}") from error
        finally:
            os.umask(mask)
        await self._server.start()
        return self

    async def close(self) -> None:
        await self._server.stop(CLOSE_WITHIN)


def _answer(method: Callable[[Any], Any]) -> Any:
    async def answer(request: Any, context: Any) -> Any:
        try:
            return await method(request)
        except Refusal as refusal:
            await context.abort(refusal.code, str(refusal))
        except Exception as error:
            # Root of the call's task.
            log.exception("%s", method.__name__)
            await context.abort(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")

    return answer


class Registration:
    def __init__(self, broker: Broker, directory: Path) -> None:
        self._broker = broker
        self._directory = directory

    async def Register(self, request: Any) -> Any:
        if request.version != VERSION:
            raise Refusal(
                f'requested API version "{request.version}" is not supported by kubelet. '
                f'Supported version is "{VERSION}"'
            )
        if not is_extended(request.resource_name):
            raise Refusal(f'the ResourceName "{request.resource_name}" is invalid')
        if not request.endpoint or "/" in request.endpoint:
            raise Refusal(f'the endpoint "{request.endpoint}" is not the name of a socket')
        socket = self._directory / request.endpoint
        plugin = Plugin(socket, request.resource_name, request.options)
        try:
            await plugin.connect()
        except PluginError as error:
            await plugin.close()
            raise Refusal(str(error)) from error
        await self._broker.register(plugin)
        log.info("device plugin of %s at %s", request.resource_name, socket)
        return plugin_pb2.Empty()


def is_extended(name: str) -> bool:
    """Whether a device may be called so: with a domain, and not one of Kubernetes'."""
    domain, slash, _ = name.partition("/")
    own = domain == "kubernetes.io" or domain.endswith(".kubernetes.io")
    return bool(slash) and not own and not qualified_name(name)


class PodResources:
    """`pods()` are those that hold something: admitted and not ended."""

    def __init__(self, broker: Broker, pods: Callable[[], Iterable[Object]]) -> None:
        self._broker = broker
        self._pods = pods

    async def List(self, _request: Any) -> Any:
        told = [self._of(pod) for pod in self._pods()]
        return podresources_pb2.ListPodResourcesResponse(pod_resources=told)

    async def Get(self, request: Any) -> Any:
        for pod in self._pods():
            meta = pod["metadata"]
            if (meta["name"], meta["namespace"]) == (request.pod_name, request.pod_namespace):
                return podresources_pb2.GetPodResourcesResponse(pod_resources=self._of(pod))
        raise Refusal(f"pod {request.pod_name} in namespace {request.pod_namespace} not found")

    async def GetAllocatableResources(self, _request: Any) -> Any:
        healthy = [(name, device) for name, device in self._broker.offered() if device.healthy]
        return podresources_pb2.AllocatableResourcesResponse(devices=_grouped(healthy))

    def _of(self, pod: Object) -> Any:
        meta = pod["metadata"]
        known = {(name, device.id): device for name, device in self._broker.offered()}
        told = podresources_pb2.PodResources(name=meta["name"], namespace=meta["namespace"])
        for named in podspec.containers(pod):
            if named.kind not in (podspec.MAIN, podspec.SIDECAR):
                continue
            name = named.container["name"]
            devices = []
            gone = []
            for grant in self._broker.held(meta["uid"], name):
                found = [known.get((grant.resource, id)) for id in grant.ids]
                devices += [(grant.resource, device) for device in found if device]
                lost = [id for id in grant.ids if (grant.resource, id) not in known]
                if lost:
                    gone.append(_devices(grant.resource, lost, ()))
            told.containers.add(name=name, devices=[*_grouped(devices), *gone])
        return told


def _grouped(devices: Iterable[tuple[str, Device]]) -> list[Any]:
    """One entry for the devices of a resource on the same NUMA nodes."""
    groups: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for resource, device in devices:
        groups.setdefault((resource, device.numa), []).append(device.id)
    return [_devices(resource, ids, numa) for (resource, numa), ids in groups.items()]


def _devices(resource: str, ids: list[str], numa: tuple[int, ...]) -> Any:
    told = podresources_pb2.ContainerDevices(resource_name=resource, device_ids=ids)
    told.topology.nodes.extend(podresources_pb2.NUMANode(ID=each) for each in numa)
    return told
