"""kubelet's sockets: `device-plugins/kubelet.sock` for plug-ins, `pod-resources/kubelet.sock` for agents that ask who holds what.

Both are there whenever the node runs, and cost two file descriptors until somebody calls.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from sampan.node.context import Context
from sampan.node.lazysocket import LazySocket
from sampan.node.podspec import Object

log = logging.getLogger(__name__)


async def serve(
    ready: asyncio.Event, context: Context, pods: Callable[[], Iterable[Object]]
) -> None:
    """Once the node is ready for pods, until cancelled. `pods()`: those that hold something."""
    config, devices = context.config, context.devices
    plugins = config.device_plugins_dir

    async def registration(path: Path) -> Any:
        from sampan.node.devices import plugin_pb2, services

        service = plugin_pb2.DESCRIPTOR.services_by_name["Registration"]
        return await services.Server(service, services.Registration(devices, plugins)).start(path)

    async def resources(path: Path) -> Any:
        from sampan.node.devices import podresources_pb2, services

        service = podresources_pb2.DESCRIPTOR.services_by_name["PodResourcesLister"]
        return await services.Server(service, services.PodResources(devices, pods)).start(path)

    sockets = (
        LazySocket(plugins / "kubelet.sock", config.run_dir / "plugins.sock", registration),
        LazySocket(
            config.pod_resources_dir / "kubelet.sock",
            config.run_dir / "podresources.sock",
            resources,
        ),
    )
    await ready.wait()
    try:
        for socket in sockets:
            try:
                await socket.open()
            except OSError as error:
                log.warning("%s", error)
        await asyncio.get_running_loop().create_future()
    finally:
        for socket in sockets:
            await socket.close()
        await devices.close()
