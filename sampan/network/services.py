"""What a Service means on one node: pure planning from Service and EndpointSlice objects to rules; and the proxy contract.

A rule is one service port with the addresses where it is asked for and the endpoints that answer. Endpoint choice follows
KEP-1669 and KEP-2086: ready ones; when there are none, those that still serve while terminating; `Local` policies narrow
both to this node first.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

SERVICE_LABEL = "kubernetes.io/service-name"
PROXY_NAME = "service.kubernetes.io/service-proxy-name"  # another proxy serves it
DEFAULT_AFFINITY = 10800  # seconds
Object = dict[str, Any]


class ServiceProxy(Protocol):
    async def apply(self, services: list[Object], slices: list[Object]) -> None:
        """The node answers on every service address as these objects say, on return. Raises NetworkError."""
        ...

    async def close(self) -> None:
        """What only this process serves is closed; what the kernel does goes on. Idempotent."""
        ...


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Rule:
    """One port of one Service."""

    service: str  # namespace/name
    port_name: str
    protocol: str  # tcp | udp | sctp
    port: int
    cluster_ips: tuple[str, ...]
    external_ips: tuple[str, ...]  # spec.externalIPs and load balancer addresses
    node_port: int  # 0: none
    affinity: int  # seconds, 0: none
    internal: tuple[Endpoint, ...]  # for traffic to cluster IPs
    external: tuple[Endpoint, ...]  # for traffic to external IPs and the node port
    everywhere: tuple[Endpoint, ...]  # without regard to policies
    external_local: bool  # externalTrafficPolicy: Local; the client's address is kept

    @property
    def key(self) -> str:
        return f"{self.service}/{self.protocol}/{self.port}"


def is_ipv4(text: Any) -> bool:
    """By inet_pton, ten times as fast as `ipaddress`: this is asked for every endpoint at every change."""
    try:
        socket.inet_pton(socket.AF_INET, text)
    except (OSError, TypeError, ValueError):
        return False
    return True


@dataclass(frozen=True, slots=True)
class _Candidate:
    endpoint: Endpoint
    ready: bool
    serving: bool
    terminating: bool
    local: bool


def _candidates(
    slices: Iterable[Object], port_name: str, protocol: str, node: str
) -> list[_Candidate]:
    found: dict[Endpoint, _Candidate] = {}
    for piece in slices:
        if piece.get("addressType", "IPv4") != "IPv4":
            continue
        for port in piece.get("ports") or []:
            if (port.get("name") or "") != port_name or not port.get("port"):
                continue
            if (port.get("protocol") or "TCP") != protocol:
                continue
            for entry in piece.get("endpoints") or []:
                conditions = entry.get("conditions") or {}
                ready = conditions.get("ready") is not False
                serving = conditions.get("serving")
                addresses = entry.get("addresses") or []
                if not addresses or not is_ipv4(addresses[0]):
                    continue
                endpoint = Endpoint(addresses[0], int(port["port"]))
                candidate = _Candidate(
                    endpoint,
                    ready,
                    ready if serving is None else bool(serving),
                    bool(conditions.get("terminating")),
                    not node or entry.get("nodeName") == node,
                )
                if endpoint not in found or (ready and not found[endpoint].ready):
                    found[endpoint] = candidate
    return list(found.values())


def _usable(candidates: Iterable[_Candidate]) -> tuple[Endpoint, ...]:
    known = list(candidates)
    ready = [each.endpoint for each in known if each.ready]
    if not ready:
        ready = [each.endpoint for each in known if each.serving and each.terminating]
    return tuple(sorted(ready, key=lambda e: (socket.inet_aton(e.address), e.port)))


def plan(services: Iterable[Object], slices: Iterable[Object], node: str = "") -> list[Rule]:
    """Rules in a stable order. Headless and ExternalName services have none. `node` is this node's name."""
    by_service: dict[str, list[Object]] = {}
    for piece in slices:
        metadata = piece.get("metadata") or {}
        name = (metadata.get("labels") or {}).get(SERVICE_LABEL)
        if name:
            by_service.setdefault(f"{metadata.get('namespace', '')}/{name}", []).append(piece)
    rules = [
        rule
        for service in services
        if PROXY_NAME not in ((service.get("metadata") or {}).get("labels") or {})
        for rule in _plan_service(service, by_service, node)
    ]
    return sorted(rules, key=lambda rule: rule.key)


def _plan_service(service: Object, slices: Mapping[str, list[Object]], node: str) -> Iterable[Rule]:
    spec, metadata = service.get("spec") or {}, service.get("metadata") or {}
    cluster_ips = [*(spec.get("clusterIPs") or []), spec.get("clusterIP")]
    addresses = tuple(dict.fromkeys(ip for ip in cluster_ips if is_ipv4(ip)))
    if spec.get("type") == "ExternalName" or not addresses:
        return
    key = f"{metadata.get('namespace', '')}/{metadata.get('name', '')}"
    status = (service.get("status") or {}).get("loadBalancer") or {}
    external = [
        *(spec.get("externalIPs") or []),
        *(entry.get("ip") for entry in status.get("ingress") or []),
    ]
    affinity = 0
    if spec.get("sessionAffinity") == "ClientIP":
        client = (spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}
        affinity = int(client.get("timeoutSeconds") or DEFAULT_AFFINITY)
    internal_local = spec.get("internalTrafficPolicy") == "Local"
    external_local = spec.get("externalTrafficPolicy") == "Local"
    for port in spec.get("ports") or []:
        protocol = port.get("protocol") or "TCP"
        name = port.get("name") or ""
        candidates = _candidates(slices.get(key, ()), name, protocol, node)
        everywhere = _usable(candidates)
        here = _usable(each for each in candidates if each.local)
        yield Rule(
            service=key,
            port_name=name,
            protocol=protocol.lower(),
            port=int(port["port"]),
            cluster_ips=addresses,
            external_ips=tuple(dict.fromkeys(ip for ip in external if is_ipv4(ip))),
            node_port=int(port.get("nodePort") or 0),
            affinity=affinity,
            internal=here if internal_local else everywhere,
            external=here if external_local else everywhere,
            everywhere=everywhere,
            external_local=external_local,
        )
