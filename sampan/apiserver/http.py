"""The listening side of HTTPS: the port, TLS, and aiohttp's low-level server behind it.

aiohttp speaks HTTP (framing, keep-alive, pipelining, limits); its router, middlewares and application stay out, because
every path belongs to the pipeline. `connection.py` is one client, `exchange.py` one request of it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import TYPE_CHECKING

from aiohttp.web_server import Server

from sampan.apiserver.connection import LIMITS, Connection
from sampan.apiserver.exchange import Exchange

if TYPE_CHECKING:
    from aiohttp.web_request import BaseRequest
    from aiohttp.web_response import StreamResponse

    from sampan.apiserver.pki import PKIPaths
    from sampan.apiserver.server import APIServer

SHUTDOWN = 5.0  # seconds that requests get to finish when the server stops
HANDSHAKE = 10.0  # seconds for TLS, of a client that says nothing or nonsense too


class Door(Server):
    """aiohttp's server, which makes connections of ours."""

    def __init__(self, exchange: Exchange) -> None:
        super().__init__(_unasked, loop=exchange.loop)
        self.exchange = exchange

    def __call__(self) -> Connection:
        connection = Connection(self, loop=self._loop, **LIMITS)
        connection.exchange = self.exchange
        return connection


async def _unasked(request: BaseRequest) -> StreamResponse:
    raise AssertionError("connections of ours ask the exchange themselves")


class HTTPServer:
    """`bind` takes the port, `accept` starts to answer, `close` ends all."""

    def __init__(self, api: APIServer) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.exchange = Exchange(api, self.loop)
        self.door = Door(self.exchange)
        self._socket: socket.socket | None = None
        self._listener: asyncio.Server | None = None
        self._tls: ssl.SSLContext | None = None

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
        self._tls = tls_context(pki)
        self._listener = await self.loop.create_server(
            self.door,
            sock=self._socket,
            ssl=self._tls,
            ssl_handshake_timeout=HANDSHAKE,
            backlog=1024,
        )

    def reload(self, pki: PKIPaths) -> None:
        """Show the certificate that is on disk now, from the next handshake on."""
        if self._tls is not None:
            self._tls.load_cert_chain(pki.apiserver.crt, pki.apiserver.key)

    async def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        elif self._socket is not None:
            self._socket.close()
        self.door.pre_shutdown()
        await self.door.shutdown(SHUTDOWN)
        self.exchange.close()


def tls_context(pki: PKIPaths) -> ssl.SSLContext:
    """TLS 1.2 and 1.3; a client certificate is welcome, and must then be of our authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(pki.apiserver.crt, pki.apiserver.key)
    context.load_verify_locations(pki.ca.crt)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_alpn_protocols(["http/1.1"])
    return context
