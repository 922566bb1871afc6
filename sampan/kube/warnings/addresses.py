"""Addresses that are read and should be written otherwise. Source: apimachinery util/validation/ip.go."""

from __future__ import annotations

import ipaddress

from sampan.kube.errors import quote


def of_ip(path: str, value: str) -> list[str]:
    if ":" not in value:
        return []
    try:
        address = ipaddress.IPv6Address(value)
    except ValueError:
        return []
    if address.ipv4_mapped is not None:
        return [_future(path, "IP address", value, str(address.ipv4_mapped))]
    if str(address) != value:
        return [
            f"{path}: IPv6 address {quote(value)} should be in RFC 5952 canonical format "
            f"({quote(str(address))})"
        ]
    return []


def of_cidr(path: str, value: str) -> list[str]:
    try:
        network = ipaddress.ip_network(value, strict=False)
    except ValueError:
        return []
    address = ipaddress.ip_interface(value).ip
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    if mapped is not None:
        better = f"{mapped}/{max(network.prefixlen - 96, 0)}"
        return [_future(path, "CIDR value", value, better)]
    if address != network.network_address:
        return [
            f"{path}: CIDR value {quote(value)} is ambiguous in this context (should be "
            f"{quote(str(network))} or {quote(f'{address}/{address.max_prefixlen}')}?)"
        ]
    if ":" in value and str(network) != value:
        return [
            f"{path}: IPv6 CIDR value {quote(value)} should be in RFC 5952 canonical format "
            f"({quote(str(network))})"
        ]
    return []


def _future(path: str, what: str, value: str, better: str) -> str:
    return (
        f"{path}: non-standard {what} {quote(value)} will be considered invalid in a future "
        f"Kubernetes release: use {quote(better)}"
    )
