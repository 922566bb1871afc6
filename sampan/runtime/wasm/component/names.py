"""Host names, asked of the pod's DNS: resolv.conf(5), hosts(5) and the question for an IPv4 address, RFC 1035.

libc's resolver reads files that a worker cannot reach any more, and waits; this one is told the files' text and is asked
whether it is `ready`, so that a guest's calls wait together.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 — the codec of names that are not ASCII: its file is out of reach later
import os
import select
import socket
import struct
import time

from sampan.runtime.wasm.component.types import CodedError

_TRIES = 2  # of each server
_TIMEOUT = 2.0  # s, for an answer
_TYPE_A, _CLASS_IN, _RECURSION = 1, 1, 0x0100


class Names:
    """What resolv.conf and hosts say."""

    def __init__(self, resolv_conf: str, hosts: str) -> None:
        self.servers: list[str] = []
        self.search: list[str] = []
        self.dots = 1
        self.hosts: dict[str, str] = {"localhost": "127.0.0.1"}
        for line in resolv_conf.splitlines():
            words = line.split("#")[0].split()
            if words[:1] == ["nameserver"] and len(words) > 1 and ":" not in words[1]:
                self.servers.append(words[1])
            elif words[:1] in (["search"], ["domain"]):
                self.search = words[1:]
            elif words[:1] == ["options"]:
                dots = [word[6:] for word in words if word.startswith("ndots:")]
                self.dots = int(dots[0]) if dots and dots[0].isdigit() else self.dots
        for line in hosts.splitlines():
            words = line.split("#")[0].split()
            if words and ":" not in words[0]:
                for name in words[1:]:
                    self.hosts.setdefault(name.lower(), words[0])

    def candidates(self, name: str) -> list[str]:
        """Full names to ask for, in order, resolv.conf(5): `ndots` decides whether the name itself is first or last."""
        if name.endswith("."):
            return [name[:-1]]
        searched = [f"{name}.{domain.rstrip('.')}" for domain in self.search]
        return [name, *searched] if name.count(".") >= self.dots else [*searched, name]


class Lookup:
    """The question for one name's address. `address` is there when it is ready, or `error`."""

    def __init__(self, names: Names, name: str) -> None:
        self.address = names.hosts.get(name.lower().rstrip("."), "")
        self.error: OSError | None = None
        self._socket: socket.socket | None = None
        self._until = 0.0
        self._left = [
            (candidate, server)
            for candidate in names.candidates(name)
            for server in names.servers * _TRIES
        ]
        if not self.address:
            self._ask()

    def ready(self) -> bool:
        while not self.address and self.error is None:
            assert self._socket is not None
            try:
                answer = self._socket.recv(4096)
            except BlockingIOError:
                if time.monotonic() < self._until:
                    return False
                self._left.pop(0)
                self._ask()
                continue
            except OSError:  # nobody listens there
                self._left.pop(0)
                self._ask()
                continue
            self._take(answer)
        return True

    def event(self) -> tuple[int, int, float]:
        return self._socket.fileno() if self._socket else -1, select.POLLIN, self._until

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _ask(self) -> None:
        self.close()
        if not self._left:
            self.error = CodedError("DNS-timeout")
            return
        name, server = self._left[0]
        self._id = os.urandom(2)
        try:
            self._socket = socket.socket(
                socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            )
            self._socket.connect((server, 53))
            self._socket.send(question(self._id, name))
        except (OSError, UnicodeError) as error:
            self.close()
            self.error = CodedError("DNS-error", {"rcode": str(error), "info-code": None})
        self._until = time.monotonic() + _TIMEOUT

    def _take(self, answer: bytes) -> None:
        if answer[:2] != self._id:
            return
        try:
            code, address = read_answer(answer)
        except (IndexError, struct.error):
            return
        if address:
            self.address = address
            self.close()
            return
        asked = self._left[0][0]
        self._left = [pair for pair in self._left if pair[0] != asked]
        if not self._left:
            rcode = {0: "NODATA", 3: "NXDOMAIN"}.get(code, f"RCODE{code}")
            self.close()
            self.error = CodedError("DNS-error", {"rcode": rcode, "info-code": None})
            return
        self._ask()


def question(number: bytes, name: str) -> bytes:
    """A query for `name`'s address. Raises UnicodeError for a name that cannot be one."""
    labels = name.encode("idna" if not name.isascii() else "ascii").split(b".")
    if any(not 0 < len(label) < 64 for label in labels):
        raise UnicodeError(f"{name} is not a host name")
    encoded = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    return (
        struct.pack("!2s5H", number, _RECURSION, 1, 0, 0, 0)
        + encoded
        + struct.pack("!2H", _TYPE_A, _CLASS_IN)
    )


def read_answer(message: bytes) -> tuple[int, str]:
    """(response code, the first address or ""). Raises IndexError or struct.error for what is no message."""
    _, flags, questions, answers = struct.unpack_from("!2s3H", message)
    place = 12
    for _ in range(questions):
        place = _skip_name(message, place) + 4
    for _ in range(answers):
        place = _skip_name(message, place)
        kind, klass, _, size = struct.unpack_from("!HHIH", message, place)
        place += 10
        if (kind, klass, size) == (_TYPE_A, _CLASS_IN, 4):
            return flags & 15, socket.inet_ntoa(message[place : place + 4])
        place += size
    return flags & 15, ""


def _skip_name(message: bytes, place: int) -> int:
    while message[place]:
        if message[place] >= 0xC0:
            return place + 2
        place += 1 + message[place]
    return place + 1
