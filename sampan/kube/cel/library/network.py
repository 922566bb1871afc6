"""`ip` and `cidr`: https://kubernetes.io/docs/reference/using-api/cel/#kubernetes-ip-address-library"""

from __future__ import annotations

import ipaddress
from typing import Any

from sampan.kube.cel.errors import EvaluationError
from sampan.kube.cel.functions import Library, function, method
from sampan.kube.cel.types import BOOL, INT, STRING, opaque
from sampan.kube.cel.values import Opaque

IP, CIDR = opaque("net.IP"), opaque("net.CIDR")
_BROADCAST = ipaddress.IPv4Address("255.255.255.255")


class Prefix:
    """An address and a length; the address keeps its host bits."""

    __slots__ = ("address", "length", "network")

    def __init__(self, address: Any, length: int) -> None:
        self.address = address
        self.length = length
        self.network = ipaddress.ip_network(f"{address}/{length}", strict=False)

    @property
    def size(self) -> int:
        return (self.length + 7) // 8

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Prefix) and (self.address, self.length) == (
            other.address,
            other.length,
        )

    def __hash__(self) -> int:
        return hash((self.address, self.length))

    def __str__(self) -> str:
        return f"{self.address}/{self.length}"


def _address(text: str) -> Any:
    if "%" in text:
        raise EvaluationError(f'IP address "{text}" with zone value is not allowed')
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        raise EvaluationError(
            f'IP Address "{text}" parse error during conversion from string: '
            f'ParseAddr("{text}"): unable to parse IP'
        ) from None
    if found.version == 6 and found.ipv4_mapped is not None:
        raise EvaluationError(f'IPv4-mapped IPv6 address "{text}" is not allowed')
    return found


def parse_ip(text: str) -> Opaque:
    return Opaque(IP, _address(text))


def parse_cidr(text: str) -> Opaque:
    address, slash, length = text.partition("/")
    prefix = "network address parse error during conversion from string: "
    if not slash:
        raise EvaluationError(f"{prefix}{prefix}netip.ParsePrefix(\"{text}\"): no '/'")
    try:
        found = _address(address)
    except EvaluationError as error:
        raise EvaluationError(f"{prefix}{error}") from None
    if (
        not (length.isascii() and length.isdigit())
        or (len(length) > 1 and length[0] == "0")
        or len(length) > 3
        or int(length) > found.max_prefixlen
    ):
        raise EvaluationError(
            f'{prefix}{prefix}netip.ParsePrefix("{text}"): bad bits after slash: "{length}"'
        )
    return Opaque(CIDR, Prefix(found, int(length)))


def _parses(parse: Any) -> Any:
    def test(text: str) -> bool:
        try:
            parse(text)
        except EvaluationError:
            return False
        return True

    return test


def _canonical(text: str) -> bool:
    return str(_address(text)) == text


def _link_local_multicast(ip: Opaque) -> bool:
    address = ip.value
    if address.version == 4:
        return bool(address in ipaddress.ip_network("224.0.0.0/24"))
    return bool((int(address) >> 112) & 0xFF0F == 0xFF02)


def _global_unicast(ip: Opaque) -> bool:
    address = ip.value
    return not (
        address == _BROADCAST
        or address.is_unspecified
        or address.is_loopback
        or address.is_multicast
        or address.is_link_local
    )


def _contains_ip(cidr: Opaque, ip: Opaque) -> bool:
    network = cidr.value.network
    return bool(ip.value.version == network.version and ip.value in network)


def _contains_cidr(cidr: Opaque, other: Opaque) -> bool:
    outer, inner = cidr.value.network, other.value.network
    return bool(outer.version == inner.version and inner.subnet_of(outer))


def _masked(cidr: Opaque) -> Opaque:
    return Opaque(CIDR, Prefix(cidr.value.network.network_address, cidr.value.length))


FUNCTIONS: Library = {
    "ip": [
        function("string_to_ip", (STRING,), IP, parse_ip),
        method("cidr_ip", (CIDR,), IP, lambda a: Opaque(IP, a.value.address)),
    ],
    "isIP": [function("is_ip", (STRING,), BOOL, _parses(_address))],
    "ip.isCanonical": [function("ip_is_canonical", (STRING,), BOOL, _canonical)],
    "family": [method("ip_family", (IP,), INT, lambda a: a.value.version)],
    "isUnspecified": [method("ip_is_unspecified", (IP,), BOOL, lambda a: a.value.is_unspecified)],
    "isLoopback": [method("ip_is_loopback", (IP,), BOOL, lambda a: a.value.is_loopback)],
    "isLinkLocalMulticast": [
        method("ip_is_link_local_multicast", (IP,), BOOL, _link_local_multicast)
    ],
    "isLinkLocalUnicast": [
        method("ip_is_link_local_unicast", (IP,), BOOL, lambda a: a.value.is_link_local)
    ],
    "isGlobalUnicast": [method("ip_is_global_unicast", (IP,), BOOL, _global_unicast)],
    "string": [
        function("ip_to_string", (IP,), STRING, lambda a: str(a.value)),
        function("cidr_to_string", (CIDR,), STRING, lambda a: str(a.value)),
    ],
    "cidr": [function("string_to_cidr", (STRING,), CIDR, parse_cidr)],
    "isCIDR": [function("is_cidr", (STRING,), BOOL, _parses(parse_cidr))],
    "containsIP": [
        method(
            "cidr_contains_ip_string",
            (CIDR, STRING),
            BOOL,
            lambda a, b: _contains_ip(a, parse_ip(b)),
        ),
        method("cidr_contains_ip_ip", (CIDR, IP), BOOL, _contains_ip),
    ],
    "containsCIDR": [
        method(
            "cidr_contains_cidr_string",
            (CIDR, STRING),
            BOOL,
            lambda a, b: _contains_cidr(a, parse_cidr(b)),
        ),
        method("cidr_contains_cidr", (CIDR, CIDR), BOOL, _contains_cidr),
    ],
    "masked": [method("cidr_masked", (CIDR,), CIDR, _masked)],
    "prefixLength": [method("cidr_prefix_length", (CIDR,), INT, lambda a: a.value.length)],
}
