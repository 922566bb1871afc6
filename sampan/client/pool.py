"""Connections to one server: made when needed, kept for the next request, the one used last taken first.

Taking the last one lets the others grow old: a burst opens many, and those that are not needed afterwards are closed after
a minute. Through a proxy (`proxy-url`), TLS is spoken with the server inside of a CONNECT tunnel (RFC 9110 §9.3.6).
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import socket
import ssl
from urllib.parse import SplitResult, unquote, urlsplit

from sampan.client.connection import Broken, Connection

CONNECT_TIMEOUT = 10.0  # seconds, TLS included
IDLE = 60.0  # seconds that a connection is kept
# A peer that vanished without a word is noticed on an idle watch after about a minute.
KEEPALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))
PORTS = {"http": 80, "https": 443}


class Pool:
    """`tls` None: plain HTTP. `name` is what the server's certificate has to be for, when it is not the host."""

    def __init__(
        self, server: str, tls: ssl.SSLContext | None, *, name: str = "", proxy: str = ""
    ) -> None:
        self._server = urlsplit(server)
        self._tls = tls
        self._name = name
        self._proxy = urlsplit(proxy) if proxy else None
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._retired = False

    @property
    def host(self) -> str:
        """What the Host header says."""
        return self._server.netloc.rpartition("@")[2]

    async def take(self, *, fresh: bool = False) -> Connection:
        """A connection of the caller's own, until it is given back. Raises OSError, TimeoutError, ssl.SSLError."""
        while self._idle and not fresh:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        async with asyncio.timeout(CONNECT_TIMEOUT):
            connection = await self._connect()
        self._all.add(connection)
        return connection

    def give_back(self, connection: Connection) -> None:
        """Kept when it can be used again; whatever else becomes of it, nobody waits for it any more."""
        if not connection.usable or self._retired:
            connection.close() if connection.usable else connection.abort()
            return
        now = asyncio.get_running_loop().time()
        connection.idle_since = now
        self._idle.append(connection)
        while self._idle[0].idle_since < now - IDLE:
            self._idle.pop(0).close()

    def retire(self) -> None:
        """No new requests: what is idle is closed, what is under way ends in peace."""
        self._retired = True
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def close(self) -> None:
        self.retire()
        for connection in list(self._all):
            connection.abort()

    def _gone(self, connection: Connection) -> None:
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    async def _connect(self) -> Connection:
        host, port = self._server.hostname or "", _port(self._server)
        name = (self._name or host) if self._tls is not None else None
        if self._proxy is None:
            connection = await self._dial(host, port, self._tls, name)
        else:
            connection = await self._tunnel(self._proxy, host, port, name)
        return connection

    async def _dial(
        self, host: str, port: int, tls: ssl.SSLContext | None, name: str | None
    ) -> Connection:
        """The first of the host's addresses that answers."""
        loop = asyncio.get_running_loop()
        addresses = [host]
        if not is_address(host):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
        for address in addresses:
            try:
                transport, connection = await loop.create_connection(
                    lambda: Connection(self._gone), address, port, ssl=tls, server_hostname=name
                )
            except OSError:
                if address == addresses[-1]:
                    raise
            else:
                _notice_death(transport)
                return connection
        raise OSError(f"{host} has no address")

    async def _tunnel(
        self, proxy: SplitResult, host: str, port: int, name: str | None
    ) -> Connection:
        if proxy.scheme != "http":
            raise OSError(f"a proxy is reached over http, not {proxy.scheme}")
        loop = asyncio.get_running_loop()
        greeter = _Greeter()
        transport, _ = await loop.create_connection(
            lambda: greeter, proxy.hostname or "", _port(proxy)
        )
        try:
            target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            transport.write(
                f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{_basic(proxy)}\r\n".encode()
            )
            await greeter.accepted
            _notice_death(transport)
            connection = Connection(self._gone)
            if self._tls is None:
                transport.set_protocol(connection)
                connection.connection_made(transport)
            else:
                inner = await loop.start_tls(transport, connection, self._tls, server_hostname=name)
                assert inner is not None
                connection.connection_made(inner)
        except BaseException:
            transport.abort()
            raise
        return connection


class _Greeter(asyncio.Protocol):
    """Reads a proxy's answer to CONNECT."""

    def __init__(self) -> None:
        self.accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._data = b""

    def data_received(self, data: bytes) -> None:
        self._data += data
        if b"\r\n\r\n" not in self._data and len(self._data) < 65536:
            return
        line = self._data.partition(b"\r\n")[0].decode("latin-1")
        if not self.accepted.done():
            if line.split(" ")[1:2] == ["200"]:
                self.accepted.set_result(None)
            else:
                self.accepted.set_exception(Broken(f"the proxy refused: {line}"))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.accepted.done():
            self.accepted.set_exception(exc or Broken("the proxy closed the connection"))


def is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _port(url: SplitResult) -> int:
    return url.port or PORTS.get(url.scheme, 80)


def _basic(proxy: SplitResult) -> str:
    if not proxy.username:
        return ""
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
    return f"Proxy-Authorization: Basic {base64.b64encode(pair).decode()}\r\n"


def _notice_death(transport: asyncio.BaseTransport) -> None:
    found = transport.get_extra_info("socket")
    if found is not None and found.family in (socket.AF_INET, socket.AF_INET6):
        found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE:
            found.setsockopt(socket.IPPROTO_TCP, option, value)
