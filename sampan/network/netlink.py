"""Netlink (man 7 netlink, RFC 3549): a request and its answer, and the attributes that both are made of."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from sampan.network.errors import NetlinkError

# <linux/netlink.h>
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLA_F_NESTED = 0x8000
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")


def attribute(kind: int, value: bytes | int | str) -> bytes:
    """One attribute, padded to four bytes. An int is 32 bits, a str ends with a NUL."""
    if isinstance(value, int):
        value = struct.pack("=I", value)
    elif isinstance(value, str):
        value = value.encode() + b"\0"
    size = 4 + len(value)
    return _ATTRIBUTE.pack(size, kind) + value + b"\0" * (-size % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if size < 4:
            break
        found[kind & 0x3FFF] = data[at + 4 : at + size]
        at += (size + 3) & ~3
    return found


class NetlinkSocket:
    """A socket of one netlink family, in the present network namespace."""

    def __init__(self, protocol: int) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol
        )
        self._socket.bind((0, 0))
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def request(self, what: str, kind: int, flags: int, body: bytes) -> list[tuple[int, bytes]]:
        """Send one message; the messages of the answer (empty for a plain acknowledgement).

        Raises NetlinkError with the kernel's errno, saying `what` was asked for.
        """
        flags |= NLM_F_REQUEST
        if flags & NLM_F_DUMP != NLM_F_DUMP:
            flags |= NLM_F_ACK
        self._socket.send(self._message(kind, flags, body))
        answer: list[tuple[int, bytes]] = []
        while True:
            for number, sequence, payload in self._receive(1 << 18):
                if sequence != self._sequence:
                    continue
                if number == NLMSG_DONE:
                    return answer
                if number == NLMSG_ERROR:
                    _check(what, payload)
                    return answer
                answer.append((number, payload))

    def request_all(self, requests: Sequence[tuple[str, int, int, bytes]]) -> None:
        """Several changes, each as for `request`, in one system call: the kernel makes them in this order.

        It goes on after one that fails; the first failure is raised when all are done.
        """
        first = self._sequence + 1
        self._socket.send(
            b"".join(
                self._message(kind, flags | NLM_F_REQUEST | NLM_F_ACK, body)
                for _, kind, flags, body in requests
            )
        )
        failed: NetlinkError | None = None
        while True:
            for number, sequence, payload in self._receive(1 << 14):
                if number != NLMSG_ERROR or sequence < first:
                    continue
                try:
                    _check(requests[sequence - first][0], payload)
                except NetlinkError as error:
                    failed = failed or error
                if sequence == self._sequence:
                    if failed is not None:
                        raise failed
                    return

    def _message(self, kind: int, flags: int, body: bytes) -> bytes:
        self._sequence += 1
        padding = b"\0" * (-len(body) % 4)
        return _HEADER.pack(16 + len(body), kind, flags, self._sequence, 0) + body + padding

    def _receive(self, size: int) -> Iterator[tuple[int, int, bytes]]:
        """(type, sequence number, payload) of each message of one datagram."""
        data = self._socket.recv(size)
        at = 0
        while at + 16 <= len(data):
            size, number, _, sequence, _ = _HEADER.unpack_from(data, at)
            yield number, sequence, data[at + 16 : at + size]
            at += (size + 3) & ~3


def _check(what: str, payload: bytes) -> None:
    """The error number of an NLMSG_ERROR; 0 is an acknowledgement."""
    code = -struct.unpack_from("=i", payload)[0]
    if code:
        raise NetlinkError(what, code)
