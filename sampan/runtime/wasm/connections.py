"""The connections of an HTTP service: accepting, sending without waiting, closing without losing an answer, time limits.

All of it is done by the thread that leads (http.py). `busy` connections belong to a guest's thread meanwhile: they are not
polled here, and not closed by anybody else.
"""

from __future__ import annotations

import select
import socket
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sampan.runtime.wasm import wire

HEAD_TIMEOUT = 30.0  # s, for a whole request to arrive
IDLE_TIMEOUT = 75.0  # s, between requests
SWEEP = 5.0
LINGER = 2.0  # s, for a client to take its last answer and close
MAX_CONNECTIONS = 3000  # below the limit of descriptors


class Connection:
    __slots__ = (
        "busy", "closing", "data", "fd", "lingers", "out", "peer", "request", "seen", "socket", "start",
    )  # fmt: skip

    def __init__(self, connection: socket.socket, peer: bytes) -> None:
        self.socket = connection
        self.fd = connection.fileno()
        self.peer = peer
        self.data = bytearray()
        self.out = b""
        self.request: wire.Request | None = None  # its head is read, its body not yet
        self.start = 0  # where the body begins in `data`
        self.closing = False  # close once `out` is sent
        self.lingers = False  # the last answer is sent; what still comes is thrown away
        self.busy = False  # its guest runs in a thread that does not lead
        self.seen = time.monotonic()


class Connections:
    """Those that are open, by descriptor. `late`: the answer to a request that does not arrive."""

    def __init__(self, poll: select.epoll, late: Callable[[], bytes]) -> None:
        self.poll = poll
        self.late = late
        self.open: dict[int, Connection] = {}
        self.swept = time.monotonic()

    def accept(self, listener: socket.socket) -> None:
        for _ in range(64):
            try:
                connection, peer = listener.accept()
            except OSError:
                return
            if len(self.open) >= MAX_CONNECTIONS:
                connection.close()
                continue
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._add(connection, peer[0])

    def adopt(self, connection: socket.socket) -> None:
        """One that another process has accepted."""
        try:
            self._add(connection, connection.getpeername()[0])
        except OSError:
            connection.close()  # its client has gone

    def _add(self, connection: socket.socket, peer: str) -> None:
        connection.setblocking(False)
        known = Connection(connection, peer.removeprefix("::ffff:").encode())
        self.open[known.fd] = known
        self.poll.register(known.fd, select.EPOLLIN)

    def send(self, connection: Connection, data: bytes) -> None:
        if not connection.out:
            try:
                sent = connection.socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.close(connection)
                return
            if sent == len(data):
                if connection.closing:
                    self.finish_sending(connection)
                return
            data = data[sent:]
            self.poll.modify(connection.fd, select.EPOLLOUT)
        connection.out += data

    def flush(self, connection: Connection) -> bool:
        """Send what waits; True when all of it went and the connection goes on."""
        try:
            sent = connection.socket.send(connection.out)
        except BlockingIOError:
            return False
        except OSError:
            self.close(connection)
            return False
        connection.out = connection.out[sent:]
        connection.seen = time.monotonic()
        if connection.out:
            return False
        if connection.closing:
            self.finish_sending(connection)
            return False
        self.poll.modify(connection.fd, select.EPOLLIN)
        return True

    def finish_sending(self, connection: Connection) -> None:
        """Close without losing the answer: input that nobody reads would make the kernel reset the connection."""
        try:
            connection.socket.shutdown(socket.SHUT_WR)
            connection.lingers = True
            connection.seen = time.monotonic()
            self.poll.modify(connection.fd, select.EPOLLIN)
        except OSError:
            self.close(connection)

    def close(self, connection: Connection) -> None:
        if self.open.pop(connection.fd, None) is not None:
            if not connection.busy:
                self.poll.unregister(connection.fd)
            connection.socket.close()

    def sweep(self, now: float) -> None:
        """Close connections that idle too long; 408 for those that began a request and do not go on."""
        if now - self.swept < SWEEP:
            return
        self.swept = now
        for connection in list(self.open.values()):
            if connection.busy:
                continue
            begun = bool(connection.data) or connection.request is not None
            if begun and not connection.out and now - connection.seen > HEAD_TIMEOUT:
                connection.closing = True
                self.send(connection, self.late())
            elif now - connection.seen > (LINGER if connection.lingers else IDLE_TIMEOUT):
                self.close(connection)
