"""A worker's output: the log file and whoever is attached, and its control socket.

The control socket takes SOCK_SEQPACKET connections from the runtime. The first packet says what for:

    L + a descriptor     go on logging in this file (rotation); answered with one packet L
    P<number>            be so many processes at most from now on, if it is a service; answered with one packet P
    A<flags>             attach; flags i, o, e. Output comes as packets `o…` and `e…`, input goes as packets of bytes;
                         shutting down the sending side ends the input

An attached client that does not read is dropped when a megabyte waits for it: it must not stop the container.
"""

from __future__ import annotations

import os
import select
import socket

from sampan.runtime.wasm.log import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

BACKLOG_LIMIT = 1 << 20
PACKET = 32 * 1024


class Client:
    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.flags = b""
        self.waiting: list[bytes] = []
        self.waiting_bytes = 0


class Console:
    """Owns the log, the control socket and its clients; driven by the worker's epoll loop."""

    def __init__(self, log: Log, listener: socket.socket | None, poll: select.epoll) -> None:
        self.log = log
        self._listener = listener
        self._poll = poll
        self._clients: dict[int, Client] = {}
        self.stdin = -1  # write end of the guest's standard input
        self.stdin_once = False
        self.allow: Callable[[int], None] = lambda _: None  # what P is for
        if listener is not None:
            listener.setblocking(False)
            poll.register(listener.fileno(), select.EPOLLIN)

    def write(self, stream: bytes, data: bytes) -> None:
        """`stream` is b"stdout" or b"stderr"."""
        self.log.write(stream, data)
        if self._clients:
            flag = b"o" if stream == b"stdout" else b"e"
            for client in list(self._clients.values()):
                if flag in client.flags:
                    for start in range(0, len(data), PACKET):
                        self._send(client, flag + data[start : start + PACKET])

    def handle(self, fd: int, events: int) -> bool:
        """Serve one event; False when the descriptor is not the console's."""
        if self._listener is not None and fd == self._listener.fileno():
            self._accept()
            return True
        client = self._clients.get(fd)
        if client is None:
            return False
        if events & select.EPOLLOUT:
            self._flush(client)
        if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR) and fd in self._clients:
            self._receive(client)
        return True

    def close(self) -> None:
        """The container has ended: what waits is sent if it can be, then clients see the end."""
        self.log.flush()
        for client in list(self._clients.values()):
            client.connection.settimeout(0.5)
            try:
                for packet in client.waiting:
                    client.connection.send(packet)
            except OSError:
                pass
            self._drop(client)

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        connection.setblocking(False)
        self._clients[connection.fileno()] = Client(connection)
        self._poll.register(connection.fileno(), select.EPOLLIN)

    def _receive(self, client: Client) -> None:
        try:
            data, ancillary, _, _ = client.connection.recvmsg(PACKET + 1, socket.CMSG_SPACE(4))
        except BlockingIOError:
            return
        except OSError:
            self._drop(client)
            return
        if client.flags:
            self._input(client, data)
        elif data[:1] == b"A":
            client.flags = b"a" + data[1:]
        elif data[:1] == b"L" and ancillary:
            self.log.reopen(int.from_bytes(ancillary[0][2][:4], "little"))
            self._send(client, b"L")
        elif data[:1] == b"P" and data[1:].isdigit():
            self.allow(int(data[1:]))
            self._send(client, b"P")
        else:
            self._drop(client)

    def _input(self, client: Client, data: bytes) -> None:
        if data:
            if b"i" in client.flags and self.stdin >= 0:
                try:
                    while data:
                        data = data[os.write(self.stdin, data) :]
                except OSError:
                    self.close_stdin()
            return
        if b"i" in client.flags and self.stdin_once:
            self.close_stdin()
        if b"o" in client.flags or b"e" in client.flags:
            if b"i" in client.flags:  # only its input has ended; output goes on until it hangs up
                client.flags = client.flags.replace(b"i", b"")
                self._poll.modify(client.connection.fileno(), 0)
                return
        self._drop(client)

    def close_stdin(self) -> None:
        if self.stdin >= 0:
            os.close(self.stdin)
            self.stdin = -1

    def _send(self, client: Client, packet: bytes) -> None:
        if not client.waiting:
            try:
                client.connection.send(packet)
                return
            except BlockingIOError:
                self._poll.modify(client.connection.fileno(), select.EPOLLIN | select.EPOLLOUT)
            except OSError:
                self._drop(client)
                return
        client.waiting.append(packet)
        client.waiting_bytes += len(packet)
        if client.waiting_bytes > BACKLOG_LIMIT:
            self._drop(client)

    def _flush(self, client: Client) -> None:
        while client.waiting:
            try:
                client.connection.send(client.waiting[0])
            except BlockingIOError:
                return
            except OSError:
                self._drop(client)
                return
            client.waiting_bytes -= len(client.waiting.pop(0))
        self._poll.modify(client.connection.fileno(), select.EPOLLIN)

    def _drop(self, client: Client) -> None:
        fd = client.connection.fileno()
        if self._clients.pop(fd, None) is not None:
            self._poll.unregister(fd)
            client.connection.close()
