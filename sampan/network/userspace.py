"""Service addresses without privilege: this process listens on them and copies bytes to the endpoints.

Rootless services live on 127.x.y.z, which any process may bind. Round robin, session affinity, TCP and UDP. A listener
goes when its service goes; connections that are open are left to finish, also when their endpoint leaves.

A port below `ip_unprivileged_port_start` (1024 as a rule) cannot be bound without root: the service is then served at the
port + 10000 of the same address, and only there (80 → 10080). `address_of` says where a service port is.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from sampan.network.services import Endpoint, Object, Rule, plan

log = logging.getLogger(__name__)

SHIFT = 10000
CONNECT_TIMEOUT = 5.0  # seconds for one endpoint
UDP_IDLE = 60.0  # seconds until a UDP flow is forgotten
BUFFER = 1 << 16
FLOWS = 4096  # UDP flows of one service port
Place = tuple[str, str, int]  # protocol, address, port
Hook = Callable[[str, str, str], None]  # service, reason, message


def first_free_port() -> int:
    """The lowest port that this process may bind."""
    if os.geteuid() == 0:
        return 0
    try:
        return int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    except (OSError, ValueError):
        return 1024


@dataclass(slots=True)
class _Balance:
    """Who answers next. `endpoints` is replaced as a whole when the service changes."""

    endpoints: tuple[Endpoint, ...] = ()
    affinity: int = 0
    _next: int = 0
    _seen: dict[str, tuple[Endpoint, float]] = field(default_factory=dict)

    def set(self, endpoints: tuple[Endpoint, ...], affinity: int) -> None:
        self.endpoints, self.affinity = endpoints, affinity
        if not affinity:
            self._seen.clear()

    def order(self, client: str, now: float) -> list[Endpoint]:
        """All endpoints, the one to try first at the front."""
        if not self.endpoints:
            return []
        start = self._next % len(self.endpoints)
        self._next = start + 1
        ordered = [*self.endpoints[start:], *self.endpoints[:start]]
        if self.affinity and client in self._seen:
            endpoint, until = self._seen[client]
            if now < until and endpoint in self.endpoints:
                ordered.remove(endpoint)
                ordered.insert(0, endpoint)
        return ordered

    def chosen(self, client: str, endpoint: Endpoint, now: float) -> None:
        if self.affinity:
            if len(self._seen) > 10_000:
                self._seen = {c: entry for c, entry in self._seen.items() if entry[1] > now}
            self._seen[client] = (endpoint, now + self.affinity)


class _Listener:
    """One place that this process listens at."""

    def __init__(self, place: Place) -> None:
        self.place, self.balance = place, _Balance()

    async def open(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class _TCP(_Listener):
    def __init__(self, place: Place, connections: set[asyncio.Task[None]]) -> None:
        super().__init__(place)
        self._connections = connections
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        _, address, port = self.place
        self._server = await asyncio.start_server(
            self._accepted, address, port, limit=BUFFER, backlog=512, reuse_address=True
        )

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._connections.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = writer.get_extra_info("peername")[0]
        now = time.monotonic()
        for endpoint in self.balance.order(client, now):
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT):
                    back, forth = await asyncio.open_connection(
                        endpoint.address, endpoint.port, limit=BUFFER
                    )
            except (OSError, TimeoutError):
                continue
            self.balance.chosen(client, endpoint, now)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(_copy(reader, forth))
                    group.create_task(_copy(back, writer))
            except ExceptionGroup:  # one side broke: so does the other
                writer.transport.abort()
                forth.transport.abort()
            finally:
                forth.close()
                writer.close()
            return
        _reset(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Nobody answers: end with a reset, which clients see as an error, not with an empty answer."""
    found = writer.get_extra_info("socket")
    if found is not None:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(BUFFER):
        target.write(data)
        await target.drain()
    if target.can_write_eof():
        target.write_eof()


class _Flow(asyncio.DatagramProtocol):
    """Answers of one endpoint to one client."""

    def __init__(self, owner: _UDP, client: tuple[str, int]) -> None:
        self.owner, self.client = owner, client
        self.used = time.monotonic()
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        self.used = time.monotonic()
        self.owner.answer(data, self.client)

    def error_received(self, exc: Exception) -> None:
        self.owner.forget(self.client)  # the endpoint refused: choose anew with the next packet


class _UDP(_Listener, asyncio.DatagramProtocol):
    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._transport: asyncio.DatagramTransport | None = None
        self._flows: dict[tuple[str, int], tuple[Endpoint, _Flow]] = {}
        self._opening: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._expiry: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        _, address, port = self.place
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(
            lambda: self, local_addr=(address, port)
        )

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
        for task in self._opening.values():
            task.cancel()
        for client in list(self._flows):
            self.forget(client)
        if self._expiry is not None:
            self._expiry.cancel()

    def answer(self, data: bytes, client: tuple[str, int]) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(data, client)

    def forget(self, client: tuple[str, int]) -> None:
        found = self._flows.pop(client, None)
        if found is not None and found[1].transport is not None:
            found[1].transport.close()

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        client = (str(addr[0]), addr[1])
        flow = self._flows.get(client)
        if flow is not None and flow[0] not in self.balance.endpoints:
            self.forget(client)
            flow = None
        if flow is not None and flow[1].transport is not None:
            flow[1].used = time.monotonic()
            flow[1].transport.sendto(data)
            return
        if client in self._opening or len(self._flows) >= FLOWS:
            return  # UDP may lose packets; its users send again
        task = asyncio.get_running_loop().create_task(self._open_flow(client, data))
        self._opening[client] = task
        task.add_done_callback(lambda _: self._opening.pop(client, None))

    async def _open_flow(self, client: tuple[str, int], data: bytes) -> None:
        now = time.monotonic()
        for endpoint in self.balance.order(client[0], now):
            try:
                transport, flow = await asyncio.get_running_loop().create_datagram_endpoint(
                    lambda: _Flow(self, client), remote_addr=(endpoint.address, endpoint.port)
                )
            except OSError as error:
                log.debug("udp endpoint %s: %s", endpoint, error)
                continue
            self.balance.chosen(client[0], endpoint, now)
            self._flows[client] = (endpoint, flow)
            transport.sendto(data)
            self._expire_later()
            return

    def _expire_later(self) -> None:
        if self._expiry is None:
            self._expiry = asyncio.get_running_loop().call_later(UDP_IDLE, self._expire)

    def _expire(self) -> None:
        self._expiry = None
        oldest = time.monotonic() - UDP_IDLE
        for client, (_, flow) in list(self._flows.items()):
            if flow.used < oldest:
                self.forget(client)
        if self._flows:
            self._expire_later()


class UserspaceProxy:
    def __init__(
        self,
        node: str = "",
        node_addresses: Iterable[str] = ("127.0.0.1",),
        unbound: Hook | None = None,
    ) -> None:
        """`unbound(service, reason, message)` is told of each service port that is not served where it should be."""
        self.node, self.node_addresses = node, tuple(node_addresses)
        self._unbound = unbound
        self._first_port = first_free_port()
        self._listeners: dict[Place, _Listener] = {}
        self._connections: set[asyncio.Task[None]] = set()
        self._lock = asyncio.Lock()
        self._addresses: dict[tuple[str, int, str], tuple[str, int]] = {}
        self._told: dict[Place, str] = {}
        self._closed = False

    def address_of(self, service: str, port: int, protocol: str = "TCP") -> tuple[str, int] | None:
        """Where `namespace/name` and its port are served; None when they are not."""
        return self._addresses.get((service, port, protocol.lower()))

    async def apply(self, services: list[Object], slices: list[Object]) -> None:
        async with self._lock:
            if self._closed:
                return
            wanted = self._wanted(plan(services, slices, self.node))
            served = {place for place, (_, endpoints, _) in wanted.items() if endpoints}
            for place in [place for place in self._listeners if place not in served]:
                self._listeners.pop(place).close()
            addresses: dict[tuple[str, int, str], tuple[str, int]] = {}
            for place, (rule, endpoints, is_cluster_ip) in wanted.items():
                if endpoints:
                    listener = self._listeners.get(place) or await self._open(place, rule)
                    if listener is None:
                        continue
                    listener.balance.set(endpoints, rule.affinity)
                if is_cluster_ip:
                    addresses.setdefault((rule.service, rule.port, rule.protocol), place[1:])
            self._addresses = addresses
            self._told = {place: text for place, text in self._told.items() if place in wanted}

    def _wanted(
        self, rules: Iterable[Rule]
    ) -> dict[Place, tuple[Rule, tuple[Endpoint, ...], bool]]:
        """A service port without endpoints has its place too, but nobody listens there: connections are refused."""
        wanted: dict[Place, tuple[Rule, tuple[Endpoint, ...], bool]] = {}
        for rule in rules:
            places = [(address, rule.port, rule.internal, True) for address in rule.cluster_ips]
            if rule.node_port:
                places += [
                    (address, rule.node_port, rule.external, False)
                    for address in self.node_addresses
                ]
            for address, port, endpoints, is_cluster_ip in places:
                if not address.startswith("127.") and is_cluster_ip:
                    self._tell((rule.protocol, address, port), rule, "not an address of this host")
                    continue
                bound = port if port >= self._first_port else port + SHIFT
                wanted.setdefault((rule.protocol, address, bound), (rule, endpoints, is_cluster_ip))
        return wanted

    async def _open(self, place: Place, rule: Rule) -> _Listener | None:
        protocol, address, port = place
        listener: _Listener
        if protocol == "tcp":
            listener = _TCP(place, self._connections)
        elif protocol == "udp":
            listener = _UDP(place)
        else:
            self._tell(place, rule, f"{protocol} needs root")
            return None
        try:
            await listener.open()
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, "")
            self._tell(place, rule, f"{name} {error.strerror or error}".strip())
            return None
        self._listeners[place] = listener
        if port not in (rule.port, rule.node_port):
            self._tell(
                place,
                rule,
                f"ports below {self._first_port} need root: served at {address}:{port} instead",
            )
        return listener

    def _tell(self, place: Place, rule: Rule, why: str) -> None:
        """Once for each place and reason."""
        if self._told.get(place) == why:
            return
        self._told[place] = why
        message = f"service {rule.service} port {rule.port}/{rule.protocol}: {why}"
        log.warning("%s", message)
        if self._unbound is not None:
            self._unbound(rule.service, "PortNotBound", message)

    async def close(self) -> None:
        """Stop listening and end open connections. Idempotent."""
        async with self._lock:
            self._closed = True
            for listener in self._listeners.values():
                listener.close()
            self._listeners.clear()
            self._addresses = {}
            tasks = list(self._connections)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
