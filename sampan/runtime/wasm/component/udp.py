"""wasi:sockets/udp: a socket, and the pair of datagram streams that it has at a time."""

from __future__ import annotations

import select
import socket

from sampan.runtime.wasm.component.guest import NEVER, Guest, Refused, Resource, Stop
from sampan.runtime.wasm.component.sockets import (
    Socket,
    common,
    guest_address,
    happens,
    hop_limit,
    host_address,
    make,
    peer_address,
    reads,
    refusing,
    writes,
)
from sampan.runtime.wasm.component.streams import Pollable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_LARGEST = 65535  # bytes of a datagram
_AT_ONCE = 16  # datagrams of one call


class UdpSocket(Socket):
    kind = "udp-socket"
    __slots__ = ("streams",)

    def __init__(self, family: str, made: socket.socket) -> None:
        super().__init__(family, made)
        self.streams: list[Datagrams] = []

    def close(self) -> None:
        super().close()
        self.streams = []

    def ready(self) -> bool:
        return True

    def event(self) -> tuple[int, int, float]:
        return -1, 0, 0.0


class Datagrams(Resource):
    """One direction of a socket; `remote` None: any."""

    mask = 0
    __slots__ = ("family", "over", "remote", "socket")

    def __init__(self, one: UdpSocket, remote: tuple[Any, ...] | None) -> None:
        self.family, self.remote = one.family, remote
        self.socket = one.socket.dup()
        self.over = False  # the socket has another pair of streams

    def close(self) -> None:
        self.socket.close()

    def ready(self) -> bool:
        return self.over or happens(self.socket.fileno(), self.mask)

    def event(self) -> tuple[int, int, float]:
        return (-1, 0, 0.0) if self.over else (self.socket.fileno(), self.mask, NEVER)


class Incoming(Datagrams):
    kind = "incoming-datagram-stream"
    mask = select.POLLIN
    __slots__ = ()


class Outgoing(Datagrams):
    kind = "outgoing-datagram-stream"
    mask = select.POLLOUT
    __slots__ = ("permitted",)

    def __init__(self, one: UdpSocket, remote: tuple[Any, ...] | None) -> None:
        super().__init__(one, remote)
        self.permitted = 0


def create(guest: Guest, family: str) -> UdpSocket:
    return UdpSocket(family, make(guest, family, socket.SOCK_DGRAM))


def stream(guest: Guest, one: UdpSocket, address: Any) -> list[Datagrams]:
    """A new pair; the one before has no more use."""
    one.expect("bound", "connected")
    for former in one.streams:
        former.over = True
    one.streams = []
    remote = peer_address(one.family, address) if address is not None else None
    if one.state == "connected":
        _disconnect(one)
    if remote is not None:
        one.socket.connect(remote)
        one.state = "connected"
    one.streams = [Incoming(one, remote), Outgoing(one, remote)]
    return one.streams


def _disconnect(one: UdpSocket) -> None:
    """connect(2) to AF_UNSPEC, which the socket module has no word for; a new socket on the same address does the same."""
    address = one.socket.getsockname()
    made = socket.socket(
        one.socket.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    )
    one.socket.close()
    one.socket = made
    one.state = "bound"
    made.bind(address)


def receive(guest: Guest, incoming: Incoming, most: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while len(found) < min(most, _AT_ONCE) and not incoming.over:
        try:
            data, sender = incoming.socket.recvfrom(_LARGEST)
        except BlockingIOError:
            break
        found.append({"data": data, "remote-address": guest_address(sender)})
    return found


def check_send(guest: Guest, outgoing: Outgoing) -> int:
    outgoing.permitted = _AT_ONCE if outgoing.ready() and not outgoing.over else 0
    return outgoing.permitted


def send(guest: Guest, outgoing: Outgoing, datagrams: list[dict[str, Any]]) -> int:
    if len(datagrams) > outgoing.permitted:
        raise Stop("more datagrams than check-send permitted")
    sent = 0
    for datagram in datagrams:
        address = datagram["remote-address"]
        try:
            remote = _remote(outgoing, address)
            if outgoing.remote is not None:
                outgoing.socket.send(datagram["data"])
            else:
                outgoing.socket.sendto(datagram["data"], remote)
        except BlockingIOError:
            break
        except OSError:
            if sent:
                break  # the next call says it
            raise
        sent += 1
    outgoing.permitted -= sent
    return sent


def _remote(outgoing: Outgoing, address: Any) -> tuple[Any, ...]:
    """Where a datagram goes: as it says, or, connected, where all go."""
    if address is None:
        if outgoing.remote is None:
            raise Refused("invalid-argument")
        return outgoing.remote
    if not address[1]["port"]:
        raise Refused("invalid-argument")
    remote = host_address(outgoing.family, address)
    if outgoing.remote is not None and remote[:2] != outgoing.remote[:2]:
        raise Refused("invalid-argument")
    return remote


_S = "[method]udp-socket"
INTERFACES: dict[str, dict[str, Callable[..., Any]]] = {
    "wasi:sockets/udp-create-socket": {"create-udp-socket": refusing(create)},
    "wasi:sockets/udp": {
        **common("udp-socket"),
        f"{_S}.stream": refusing(stream),
        f"{_S}.unicast-hop-limit": reads(hop_limit),
        f"{_S}.set-unicast-hop-limit": writes(hop_limit, 255),
        "[method]incoming-datagram-stream.receive": refusing(receive),
        "[method]incoming-datagram-stream.subscribe": lambda _, incoming: Pollable(incoming),
        "[method]outgoing-datagram-stream.check-send": check_send,
        "[method]outgoing-datagram-stream.send": refusing(send),
        "[method]outgoing-datagram-stream.subscribe": lambda _, outgoing: Pollable(outgoing),
    },
}
