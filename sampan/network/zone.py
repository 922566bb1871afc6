"""The cluster's DNS zone as data: names and records made from Services and EndpointSlices. Pure.

Follows "Kubernetes DNS-Based Service Discovery" (schema 1.1.0): A records for cluster IPs, per-endpoint records and host
names of headless services, SRV for named ports, PTR for service and endpoint addresses, CNAME for ExternalName, and
`1-2-3-4.<namespace>.pod` computed from the name. A name that only has names below it exists without records (RFC 8020).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sampan.network.services import SERVICE_LABEL, is_ipv4

SCHEMA_VERSION = "1.1.0"
Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SRV:
    port: int
    target: str  # absolute, lower case, without the last dot
    weight: int = 100


@dataclass(slots=True)
class Zone:
    """Names are lower case and without the last dot."""

    domain: str
    a: dict[str, list[str]] = field(default_factory=dict)
    srv: dict[str, list[SRV]] = field(default_factory=dict)
    cname: dict[str, str] = field(default_factory=dict)
    ptr: dict[str, str] = field(default_factory=dict)  # address → name
    exists: set[str] = field(default_factory=set)  # every owner name and each name above it
    namespaces: set[str] = field(default_factory=set)
    all_namespaces: bool = True  # pod names are answered in any namespace

    def add(self, name: str) -> None:
        while name not in self.exists and name.endswith(self.domain):
            self.exists.add(name)
            _, dot, name = name.partition(".")
            if not dot:
                return

    def pod_address(self, name: str) -> str | None:
        """`1-2-3-4.ns.pod.<domain>` → 1.2.3.4, whether or not there is such a pod."""
        labels = name.removesuffix(f".pod.{self.domain}").split(".")
        if len(labels) != 2 or not name.endswith(f".pod.{self.domain}"):
            return None
        if not self.all_namespaces and labels[1] not in self.namespaces:
            return None
        try:
            return str(ipaddress.IPv4Address(labels[0].replace("-", ".")))
        except ValueError:
            return None


def build(
    services: Iterable[Object],
    slices: Iterable[Object],
    domain: str = "cluster.local",
    namespaces: Iterable[str] | None = None,
) -> Zone:
    """The zone for these objects. With `namespaces`, pod names are answered in those and the services' own only."""
    domain = domain.lower().strip(".")
    known = {name.lower() for name in namespaces or ()}
    zone = Zone(domain, namespaces=known, all_namespaces=namespaces is None)
    for name in (domain, f"svc.{domain}", f"pod.{domain}"):
        zone.add(name)
    by_service: dict[str, list[Object]] = {}
    for piece in slices:
        metadata = piece.get("metadata") or {}
        owner = (metadata.get("labels") or {}).get(SERVICE_LABEL)
        if owner:
            by_service.setdefault(f"{metadata.get('namespace', '')}/{owner}", []).append(piece)
    for service in services:
        metadata, spec = service.get("metadata") or {}, service.get("spec") or {}
        namespace, name = metadata.get("namespace", ""), metadata.get("name", "")
        zone.namespaces.add(namespace)
        full = f"{name}.{namespace}.svc.{domain}"
        pieces = by_service.get(f"{namespace}/{name}", [])
        if spec.get("type") == "ExternalName":
            if target := str(spec.get("externalName") or "").lower().strip("."):
                zone.cname[full] = target
                zone.add(full)
        elif spec.get("clusterIP") == "None":
            publish = bool(spec.get("publishNotReadyAddresses"))
            _headless(zone, full, pieces, publish)
        elif spec.get("clusterIP"):
            _cluster_ip(zone, full, spec)
    for namespace in zone.namespaces:
        zone.add(f"{namespace}.svc.{domain}")
        zone.add(f"{namespace}.pod.{domain}")
    return zone


def _add_srv(zone: Zone, full: str, port: Object, target: str, number: int) -> None:
    if not port.get("name"):
        return
    protocol = str(port.get("protocol") or "TCP").lower()
    owner = f"_{port['name']}._{protocol}.{full}".lower()
    zone.srv.setdefault(owner, []).append(SRV(number, target))
    zone.add(owner)


def _cluster_ip(zone: Zone, full: str, spec: Object) -> None:
    addresses = [*(spec.get("clusterIPs") or []), spec.get("clusterIP")]
    zone.a[full] = list(dict.fromkeys(ip for ip in addresses if is_ipv4(ip)))
    zone.add(full)
    for address in zone.a[full]:
        zone.ptr[address] = full
    for port in spec.get("ports") or []:
        _add_srv(zone, full, port, full, int(port["port"]))


def _headless(zone: Zone, full: str, slices: Iterable[Object], publish: bool) -> None:
    zone.add(full)
    seen: set[tuple[str, str]] = set()
    for piece in slices:
        if piece.get("addressType", "IPv4") != "IPv4":
            continue
        for endpoint in piece.get("endpoints") or []:
            ready = (endpoint.get("conditions") or {}).get("ready") is not False
            if not ready and not publish:
                continue
            for address in endpoint.get("addresses") or []:
                if not is_ipv4(address):
                    continue
                host = endpoint.get("hostname") or address.replace(".", "-")
                name = f"{host}.{full}".lower()
                if (name, address) in seen:
                    continue
                seen.add((name, address))
                zone.a.setdefault(name, []).append(address)
                if address not in zone.a.setdefault(full, []):
                    zone.a[full].append(address)
                zone.add(name)
                zone.ptr.setdefault(address, name)
                for port in piece.get("ports") or []:
                    if port.get("port"):
                        _add_srv(zone, full, port, name, int(port["port"]))
