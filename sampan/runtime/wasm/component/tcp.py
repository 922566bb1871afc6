"""wasi:sockets/tcp: a socket's states as WIT draws them, and its two streams.

A bind, a listen and a connect take two steps each, of which only connecting can wait.
"""

from __future__ import annotations

import errno
import os
import select
import socket

from sampan.runtime.wasm.component.guest import NEVER, Guest, Refused
from sampan.runtime.wasm.component.sockets import (
    Network,
    Socket,
    common,
    fixed,
    happens,
    hop_limit,
    make,
    peer_address,
    reads,
    refusing,
    writes,
)
from sampan.runtime.wasm.component.streams import PERMIT, InputStream, OutputStream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Streams = list[Any]  # input and output

_BACKLOG = 128
_MOST_BACKLOG = 4096
_SECOND = 1_000_000_000
_HOW = {"receive": socket.SHUT_RD, "send": socket.SHUT_WR, "both": socket.SHUT_RDWR}


class TcpSocket(Socket):
    """States: new, binding, bound, listening-started, listening, connecting, connected, closed."""

    kind = "tcp-socket"
    __slots__ = ("backlog",)

    def __init__(self, family: str, made: socket.socket, state: str = "new") -> None:
        super().__init__(family, made, state)
        self.backlog = _BACKLOG

    def ready(self) -> bool:
        fd, mask, _ = self.event()
        return not mask or self.closed or happens(fd, mask)

    def event(self) -> tuple[int, int, float]:
        masks = {"connecting": select.POLLOUT, "listening": select.POLLIN}
        mask = masks.get(self.state, 0)
        return (self.socket.fileno(), mask, NEVER) if mask else (-1, 0, 0.0)


class _Receiver:
    """What arrives, as a streams.Reader; a descriptor of its own, so that it outlives the socket's handle."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection.dup()

    def ready(self) -> bool:
        return happens(self.socket.fileno(), select.POLLIN)

    def event(self) -> tuple[int, int, float]:
        return self.socket.fileno(), select.POLLIN, NEVER

    def read(self, size: int) -> bytes | None:
        if not size:
            return b""
        try:
            return self.socket.recv(size) or None
        except BlockingIOError:
            return b""

    def dropped(self) -> None:
        self.socket.close()


class _Sender:
    """What is sent, as a streams.Writer; up to PERMIT bytes wait for the kernel."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection.dup()
        self.out = b""

    def ready(self) -> bool:
        try:
            self.flush()
        except OSError:
            return True  # which writing will say
        return len(self.out) < PERMIT

    def event(self) -> tuple[int, int, float]:
        return self.socket.fileno(), select.POLLOUT, NEVER

    def room(self) -> int:
        self.flush()
        return PERMIT - len(self.out)

    def write(self, data: bytes) -> None:
        self.out += data
        self.flush()

    def flush(self) -> None:
        while self.out:
            try:
                sent = self.socket.send(self.out)
            except BlockingIOError:
                return
            self.out = self.out[sent:]

    def dropped(self) -> None:
        try:
            self.flush()
        except OSError:
            pass  # nobody is there to be told
        self.socket.close()


def create(guest: Guest, family: str) -> TcpSocket:
    made = make(guest, family, socket.SOCK_STREAM)
    made.setsockopt(
        socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
    )  # WIT: a port can be bound again at once
    return TcpSocket(family, made)


def start_connect(guest: Guest, one: TcpSocket, network: Network, address: Any) -> None:
    one.expect("new", "bound")
    remote = peer_address(one.family, address)
    result = one.socket.connect_ex(remote)
    if result not in (0, errno.EINPROGRESS):
        one.state = "closed"
        raise OSError(result, os.strerror(result))
    one.state = "connecting"


def finish_connect(guest: Guest, one: TcpSocket) -> Streams:
    one.expect("connecting", otherwise="not-in-progress")
    if not one.ready():
        raise Refused("would-block")
    result = one.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if result:
        one.state = "closed"
        raise OSError(result, os.strerror(result))
    one.state = "connected"
    return [InputStream(_Receiver(one.socket)), OutputStream(_Sender(one.socket))]


def start_listen(guest: Guest, one: TcpSocket) -> None:
    one.expect("bound")
    one.socket.listen(one.backlog)
    one.state = "listening-started"


def finish_listen(guest: Guest, one: TcpSocket) -> None:
    one.expect("listening-started", otherwise="not-in-progress")
    one.state = "listening"


def accept(guest: Guest, one: TcpSocket) -> list[Any]:
    one.expect("listening")
    connection, _ = one.socket.accept()
    connection.setblocking(False)
    taken = TcpSocket(one.family, connection, "connected")
    return [taken, InputStream(_Receiver(connection)), OutputStream(_Sender(connection))]


def set_backlog(guest: Guest, one: TcpSocket, size: int) -> None:
    if not size:
        raise Refused("invalid-argument")
    one.expect("new", "binding", "bound", "listening-started", "listening")
    one.backlog = min(size, _MOST_BACKLOG)
    if one.state == "listening":
        one.socket.listen(one.backlog)


def shutdown(guest: Guest, one: TcpSocket, how: str) -> None:
    one.expect("connected")
    one.socket.shutdown(_HOW[how])


def _keep_alive(one: Socket) -> tuple[int, int]:
    return socket.SOL_SOCKET, socket.SO_KEEPALIVE


def set_keep_alive(guest: Guest, one: TcpSocket, on: bool) -> None:
    one.socket.setsockopt(*_keep_alive(one), int(on))


_MOST_TIME, _MOST_COUNT = 32767, 127  # the kernel's bounds, tcp(7)
_S = "[method]tcp-socket"
INTERFACES: dict[str, dict[str, Callable[..., Any]]] = {
    "wasi:sockets/tcp-create-socket": {"create-tcp-socket": refusing(create)},
    "wasi:sockets/tcp": {
        **common("tcp-socket"),
        f"{_S}.start-connect": refusing(start_connect),
        f"{_S}.finish-connect": refusing(finish_connect),
        f"{_S}.start-listen": refusing(start_listen),
        f"{_S}.finish-listen": finish_listen,
        f"{_S}.accept": refusing(accept),
        f"{_S}.is-listening": lambda _, one: one.state == "listening",
        f"{_S}.set-listen-backlog-size": refusing(set_backlog),
        f"{_S}.keep-alive-enabled": refusing(
            lambda _, one: bool(one.socket.getsockopt(*_keep_alive(one)))
        ),
        f"{_S}.set-keep-alive-enabled": refusing(set_keep_alive),
        f"{_S}.keep-alive-idle-time": reads(
            fixed(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE), _SECOND
        ),
        f"{_S}.set-keep-alive-idle-time": writes(
            fixed(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE), _MOST_TIME, _SECOND
        ),
        f"{_S}.keep-alive-interval": reads(
            fixed(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL), _SECOND
        ),
        f"{_S}.set-keep-alive-interval": writes(
            fixed(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL), _MOST_TIME, _SECOND
        ),
        f"{_S}.keep-alive-count": reads(fixed(socket.IPPROTO_TCP, socket.TCP_KEEPCNT)),
        f"{_S}.set-keep-alive-count": writes(
            fixed(socket.IPPROTO_TCP, socket.TCP_KEEPCNT), _MOST_COUNT
        ),
        f"{_S}.hop-limit": reads(hop_limit),
        f"{_S}.set-hop-limit": writes(hop_limit, 255),
        f"{_S}.shutdown": refusing(shutdown),
    },
}
