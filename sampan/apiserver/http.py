"""The listening side of HTTPS: the port, TLS, and the connections that came through it (`connection.py`)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from sampan.apiserver.connection import Connection
from sampan.client.transport import Response

if TYPE_CHECKING:
    from sampan.apiserver.pki import PKIPaths
    from sampan.apiserver.server import APIServer

SHUTDOWN = 5.0  # seconds that requests get to finish when the server stops


class HTTPServer:
    """`bind` takes the port, `accept` starts to answer, `close` ends all."""

    def __init__(self, api: APIServer) -> None:
        self.api = api
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.blocks: dict[bytes, dict[str, str]] = {}  # remembered header blocks
        self.connections: set[Connection] = set()
        self.closing = False
        self._writes: set[asyncio.Task[Response]] = set()
        self._socket: socket.socket | None = None
        self._listener: asyncio.Server | None = None

    def bind(self, address: str, port: int) -> int:
        """The port that will be served; connections wait in the kernel until `accept`."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.setblocking(False)
            listening.bind((address, port))
        except OSError:
            listening.close()
            raise
        self._socket = listening
        found: int = listening.getsockname()[1]
        return found

    async def accept(self, pki: PKIPaths) -> None:
        assert self._socket is not None
        self._listener = await self.loop.create_server(
            lambda: Connection(self), sock=self._socket, ssl=tls_context(pki), backlog=1024
        )

    def begin(self, work: Coroutine[Any, Any, Response]) -> asyncio.Task[Response]:
        """A write, which goes on when its client is gone. `close` waits for it."""
        task = self.loop.create_task(work)
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        return task

    async def close(self) -> None:
        self.closing = True
        if self._listener is not None:
            self._listener.close()
        elif self._socket is not None:
            self._socket.close()
        for connection in list(self.connections):
            connection.shut()
        busy = [connection.task for connection in self.connections if connection.task is not None]
        waiting: list[asyncio.Task[Any]] = [*busy, *self._writes]
        if waiting:
            await asyncio.wait(waiting, timeout=SHUTDOWN)
        for connection in list(self.connections):
            if connection.task is not None:
                connection.task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([connection.task])
            # One that is closing already may have let go of what `abort` needs (asyncio's TLS before Python 3.11.5).
            if connection.transport is not None and not connection.transport.is_closing():
                connection.transport.abort()


def tls_context(pki: PKIPaths) -> ssl.SSLContext:
    """TLS 1.2 and 1.3; a client certificate is welcome, and must then be of our authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(pki.apiserver.crt, pki.apiserver.key)
    context.load_verify_locations(pki.ca.crt)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_alpn_protocols(["http/1.1"])
    return context
