"""What wasi:sockets' TCP and UDP share: addresses, errors, options, and names asked of the pod's DNS.

A socket of a guest is one of the worker, which is in the pod's network namespace: the pod's rules hold for it. Without a
namespace of the pod there are none, as the host's network is nobody's to give.
"""

from __future__ import annotations

import errno
import select
import socket

from sampan.runtime.wasm.component.guest import Guest, Refused, Resource
from sampan.runtime.wasm.component.names import Lookup
from sampan.runtime.wasm.component.streams import Pollable
from sampan.runtime.wasm.component.types import CodedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sampan.runtime.wasm.component.names import Names

MAX_SOCKETS = 256  # of one instance
FAMILIES = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}
_MAPPED = bytes(10) + b"\xff\xff"  # IPv4 addresses as IPv6
_MOST = 1 << 24  # bytes of a buffer; the kernel has its own bounds within
_CODES = {
    errno.EACCES: "access-denied", errno.EPERM: "access-denied", errno.EOPNOTSUPP: "not-supported",
    errno.EAFNOSUPPORT: "not-supported", errno.EPROTONOSUPPORT: "not-supported", errno.EINVAL: "invalid-argument",
    errno.ENOMEM: "out-of-memory", errno.ENOBUFS: "out-of-memory", errno.ETIMEDOUT: "timeout", errno.EAGAIN: "would-block",
    errno.EALREADY: "concurrency-conflict", errno.EINPROGRESS: "would-block", errno.EISCONN: "invalid-state",
    errno.ENOTCONN: "invalid-state", errno.EMFILE: "new-socket-limit", errno.ENFILE: "new-socket-limit",
    errno.EADDRNOTAVAIL: "address-not-bindable", errno.EADDRINUSE: "address-in-use",
    errno.EHOSTUNREACH: "remote-unreachable", errno.ENETUNREACH: "remote-unreachable", errno.EHOSTDOWN: "remote-unreachable",
    errno.ENETDOWN: "remote-unreachable", errno.ECONNREFUSED: "connection-refused", errno.ECONNRESET: "connection-reset",
    errno.EPIPE: "connection-reset", errno.ECONNABORTED: "connection-aborted", errno.EMSGSIZE: "datagram-too-large",
}  # fmt: skip


def code(error: OSError) -> str:
    return _CODES.get(error.errno or 0, "unknown")


def refusing(serve: Callable[..., Any]) -> Callable[..., Any]:
    """A host function whose OSError is the error side of its result."""

    def call(guest: Guest, *arguments: Any) -> Any:
        try:
            return serve(guest, *arguments)
        except OSError as error:
            raise Refused(code(error)) from error

    return call


class Network(Resource):
    kind = "network"
    __slots__ = ()


class Socket(Resource):
    """A descriptor, and how far its guest is with the two steps that each thing takes."""

    __slots__ = ("closed", "family", "socket", "state")

    def __init__(self, family: str, made: socket.socket, state: str = "new") -> None:
        self.family = family
        self.socket = made
        self.state = state
        self.closed = False

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.socket.close()

    def expect(self, *states: str, otherwise: str = "invalid-state") -> None:
        if self.state not in states:
            raise Refused(otherwise)


def names(guest: Guest) -> Names:
    """The pod's DNS. Refuses where guests have no network."""
    found: Names | None = guest.world.setting.names
    if found is None:
        raise Refused("access-denied")
    return found


def make(guest: Guest, family: str, kind: socket.SocketKind) -> socket.socket:
    names(guest)
    if sum(isinstance(one, Socket) for one in guest.handles.values()) >= MAX_SOCKETS:
        raise Refused("new-socket-limit")
    made = socket.socket(FAMILIES[family], kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    if family == "ipv6":
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return made


# -- addresses ----------------------------------------------------------------------------------------------------


def host_address(expected: str, value: tuple[str, dict[str, Any]]) -> tuple[Any, ...]:
    """WIT's ip-socket-address as the socket module has it; refuses one of another family than `expected`."""
    family, fields = value
    if family != expected:
        raise Refused("invalid-argument")
    if family == "ipv4":
        return ".".join(map(str, fields["address"])), fields["port"]
    packed = b"".join(part.to_bytes(2, "big") for part in fields["address"])
    if packed.startswith(_MAPPED):
        raise Refused("invalid-argument")
    text = socket.inet_ntop(socket.AF_INET6, packed)
    return text, fields["port"], fields["flow-info"], fields["scope-id"]


def guest_ip(text: str) -> tuple[str, list[int]]:
    """WIT's ip-address."""
    if ":" not in text:
        return "ipv4", list(socket.inet_aton(text))
    packed = socket.inet_pton(socket.AF_INET6, text.partition("%")[0])
    return "ipv6", [int.from_bytes(packed[i : i + 2], "big") for i in range(0, 16, 2)]


def guest_address(address: tuple[Any, ...]) -> tuple[str, dict[str, Any]]:
    """WIT's ip-socket-address."""
    family, parts = guest_ip(address[0])
    fields: dict[str, Any] = {"port": address[1], "address": parts}
    if family == "ipv6":
        fields |= {"flow-info": address[2], "scope-id": address[3]}
    return family, fields


def local_address(guest: Guest, one: Socket) -> tuple[str, dict[str, Any]]:
    if one.state in ("new", "binding"):
        raise Refused("invalid-state")
    return guest_address(one.socket.getsockname())


def remote_address(guest: Guest, one: Socket) -> tuple[str, dict[str, Any]]:
    return guest_address(one.socket.getpeername())


# -- options ------------------------------------------------------------------------------------------------------


def reads(option: Callable[[Socket], tuple[int, int]], scale: int = 1) -> Callable[..., Any]:
    """A getter of `option(socket)`; `scale`: the guest's units in one of the kernel's."""
    return refusing(lambda _, one: one.socket.getsockopt(*option(one)) * scale)


def writes(
    option: Callable[[Socket], tuple[int, int]], most: int, scale: int = 1
) -> Callable[..., Any]:
    """A setter likewise. Zero is refused, what is too much is `most` (WIT: values may be clamped)."""

    def put(_: Guest, one: Socket, value: int) -> None:
        if value == 0:
            raise Refused("invalid-argument")
        one.socket.setsockopt(*option(one), min(most, max(1, value // scale)))

    return refusing(put)


def hop_limit(one: Socket) -> tuple[int, int]:
    if one.family == "ipv4":
        return socket.IPPROTO_IP, socket.IP_TTL
    return socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS


def fixed(level: int, option: int) -> Callable[[Socket], tuple[int, int]]:
    """An option that is the same for both families."""
    return lambda _: (level, option)


def start_bind(guest: Guest, one: Socket, network: Network, address: Any) -> None:
    one.expect("new")
    one.socket.bind(host_address(one.family, address))
    one.state = "binding"


def finish_bind(guest: Guest, one: Socket) -> None:
    one.expect("binding", otherwise="not-in-progress")
    one.state = "bound"


def peer_address(family: str, address: Any) -> tuple[Any, ...]:
    """Where to connect, which must be somewhere."""
    remote = host_address(family, address)
    if not remote[1] or remote[0] in ("0.0.0.0", "::"):
        raise Refused("invalid-argument")
    return remote


def happens(fd: int, mask: int) -> bool:
    poll = select.poll()
    poll.register(fd, mask)
    return bool(poll.poll(0))


def common(resource: str) -> dict[str, Callable[..., Any]]:
    """The methods that both kinds of socket have."""
    found: dict[str, Callable[..., Any]] = {
        "start-bind": refusing(start_bind),
        "finish-bind": finish_bind,
        "local-address": refusing(local_address),
        "remote-address": refusing(remote_address),
        "address-family": lambda _, one: one.family,
        "subscribe": lambda _, one: Pollable(one),
    }
    for name, number in (("receive", socket.SO_RCVBUF), ("send", socket.SO_SNDBUF)):
        option = fixed(socket.SOL_SOCKET, number)
        found[f"{name}-buffer-size"] = reads(option)
        found[f"set-{name}-buffer-size"] = writes(option, _MOST)
    return {f"[method]{resource}.{name}": serve for name, serve in found.items()}


# -- names --------------------------------------------------------------------------------------------------------


class Addresses(Resource):
    """resolve-address-stream: one address, or why there is none."""

    kind = "resolve-address-stream"
    __slots__ = ("given", "lookup", "text")

    def __init__(self, text: str, lookup: Lookup | None) -> None:
        self.text, self.lookup, self.given = text, lookup, False

    def ready(self) -> bool:
        return self.lookup is None or self.lookup.ready()

    def event(self) -> tuple[int, int, float]:
        return self.lookup.event() if self.lookup is not None else (-1, 0, 0.0)

    def close(self) -> None:
        if self.lookup is not None:
            self.lookup.close()


def resolve(guest: Guest, network: Network, name: str) -> Addresses:
    known = names(guest)
    text = _numeric(name.removeprefix("[").removesuffix("]"))
    if not text and (not name or len(name) > 253 or any(c in name for c in " /:@[]")):
        raise Refused("invalid-argument")
    return Addresses(text, None if text else Lookup(known, name))


def _numeric(name: str) -> str:
    """The name, if it is an address."""
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in name else socket.AF_INET, name)
    except (OSError, ValueError):
        return ""
    return name


def next_address(guest: Guest, stream: Addresses) -> Any:
    if not stream.ready():
        raise Refused("would-block")
    if stream.lookup is not None and stream.lookup.error is not None:
        error = stream.lookup.error
        late = isinstance(error, CodedError) and error.code[0] == "DNS-timeout"
        raise Refused("temporary-resolver-failure" if late else "name-unresolvable")
    if stream.given:
        return None
    stream.given = True
    return guest_ip(stream.text or (stream.lookup.address if stream.lookup is not None else ""))


INTERFACES: dict[str, dict[str, Callable[..., Any]]] = {
    "wasi:sockets/instance-network": {"instance-network": lambda _: Network()},
    "wasi:sockets/network": {},
    "wasi:sockets/ip-name-lookup": {
        "resolve-addresses": resolve,
        "[method]resolve-address-stream.resolve-next-address": next_address,
        "[method]resolve-address-stream.subscribe": lambda _, stream: Pollable(stream),
    },
}
