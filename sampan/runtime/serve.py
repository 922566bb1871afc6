"""The runtime as a running part: service, image service and streaming behind one CRI socket."""

from __future__ import annotations

import asyncio

from sampan.cri.server import CRIServer
from sampan.runtime.config import RuntimeConfig
from sampan.runtime.images import ImageService
from sampan.runtime.reporting import ReportingService
from sampan.runtime.service import RuntimeService
from sampan.runtime.sessions import SessionService


async def serve(config: RuntimeConfig, ready: asyncio.Event | None = None) -> None:
    """Serve until cancelled. `ready` is set when the socket answers. Pods keep running afterwards."""
    service = RuntimeService(config)
    sessions = SessionService(service.inventory)
    server = CRIServer(
        config.socket,
        service,
        sessions,
        ReportingService(service.inventory),
        ImageService(config.images),
    )
    try:
        await service.start()
        await server.start()
        if ready is not None:
            ready.set()
        await asyncio.get_running_loop().create_future()
    finally:
        await server.close()
        await sessions.close()
        await service.close()
