"""Services: cluster addresses and node ports are taken from pools before the write and given back when it fails.

The pools are what the stored services say: read once when the first service is written, and kept in step with every
write after that (this process is the only writer). Random choice starts above a small static range, as Kubernetes
does (KEP-3070), so that addresses which users choose by hand seldom collide with those given out.
"""

from __future__ import annotations

import ipaddress
import random
from typing import TYPE_CHECKING

from sampan.apiserver.call import Call
from sampan.apiserver.strategies.base import Object, Rollback, Strategy
from sampan.kube import errors
from sampan.kube.errors import Cause

if TYPE_CHECKING:
    from sampan.apiserver.registry import Registry

FULL = "range is full"


class Pool:
    """Numbers in [low, high]; `owners` says which object holds each."""

    def __init__(self, low: int, high: int) -> None:
        self.low = low
        self.high = high
        size = high - low + 1
        self.static = min(max(16, size // 16), 256) if size > 32 else 0
        self.owners: dict[int, str] = {}

    def take(self, owner: str) -> int | None:
        """Any free number, those above the static range first; None when all are taken."""
        for low, high in (
            (self.low + self.static, self.high),
            (self.low, self.low + self.static - 1),
        ):
            if high < low:
                continue
            for _ in range(16):
                number = random.randint(low, high)
                if number not in self.owners:
                    self.owners[number] = owner
                    return number
            for number in range(low, high + 1):
                if number not in self.owners:
                    self.owners[number] = owner
                    return number
        return None


class ServiceStrategy(Strategy):
    returns_deleted = True

    def __init__(self, cidr: str, node_ports: tuple[int, int]) -> None:
        self.network = ipaddress.ip_network(cidr)
        first = int(self.network.network_address)
        self.addresses = Pool(first + 1, first + self.network.num_addresses - 2)
        self.ports = Pool(*node_ports)
        self._loaded = False

    async def reserve(
        self, registry: Registry, call: Call, new: Object, old: Object | None
    ) -> Rollback | None:
        if not self._loaded:
            cache = await registry.caches.get(call.resource)
            if not self._loaded:
                for entry in cache.entries.values():
                    service = entry.object()
                    self._hold(service, owner_of(service))
                self._loaded = True
        taken: list[tuple[Pool, int]] = []

        def rollback() -> None:
            for pool, number in taken:
                pool.owners.pop(number, None)

        try:
            if old is not None:
                carry_over(new, old)
            self._reserve_address(new, taken)
            self._reserve_ports(new, taken)
        except _Refused as refused:
            rollback()
            raise call.invalid([refused.cause], new["metadata"].get("name", "")) from None
        return rollback

    def _reserve_address(self, new: Object, taken: list[tuple[Pool, int]]) -> None:
        spec = new["spec"]
        if spec.get("type") == "ExternalName":
            for key in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
                spec.pop(key, None)
            return
        version = "IPv4" if self.network.version == 4 else "IPv6"
        spec.setdefault("ipFamilies", [version])
        spec.setdefault("ipFamilyPolicy", "SingleStack")
        if spec["ipFamilyPolicy"] == "RequireDualStack":
            raise _Refused(
                errors.invalid_value(
                    "spec.ipFamilyPolicy",
                    "RequireDualStack",
                    "this cluster is not configured for dual-stack services",
                )
            )
        if spec["ipFamilies"] != [version]:
            wrong = next((each for each in spec["ipFamilies"] if each != version), "")
            raise _Refused(
                errors.invalid_value("spec.ipFamilies[0]", wrong, "not configured on this cluster")
            )
        asked = spec.get("clusterIP") or (spec.get("clusterIPs") or [""])[0]
        if asked == "None":
            spec["clusterIP"], spec["clusterIPs"] = "None", ["None"]
            return
        owner = owner_of(new)
        if not asked:
            number = self.addresses.take(owner)
            if number is None:
                raise _Refused(
                    errors.invalid_value(
                        "spec.clusterIPs", [], f"failed to allocate a serviceIP: {FULL}"
                    )
                )
            taken.append((self.addresses, number))
            asked = str(ipaddress.ip_address(number))
        else:
            self._claim_address(asked, owner, taken)
        spec["clusterIP"], spec["clusterIPs"] = asked, [asked]

    def _claim_address(self, asked: str, owner: str, taken: list[tuple[Pool, int]]) -> None:
        try:
            address = ipaddress.ip_address(asked)
        except ValueError:
            return  # validation says what is wrong with it
        number = int(address)
        holder = self.addresses.owners.get(number)
        if holder == owner:
            return
        detail = ""
        if (
            address.version != self.network.version
            or not self.addresses.low <= number <= self.addresses.high
        ):
            detail = f"the provided IP ({asked}) is not in the valid range. The range of valid IPs is {self.network}"
        elif holder is not None:
            detail = "provided IP is already allocated"
        if detail:
            raise _Refused(
                errors.invalid_value(
                    "spec.clusterIPs", [asked], f"failed to allocate IP {asked}: {detail}"
                )
            )
        self.addresses.owners[number] = owner
        taken.append((self.addresses, number))

    def _reserve_ports(self, new: Object, taken: list[tuple[Pool, int]]) -> None:
        spec = new["spec"]
        if not needs_node_ports(spec):
            return
        owner = owner_of(new)
        mine: set[tuple[str, int]] = set()
        for index, port in enumerate(spec.get("ports") or ()):
            protocol = port.get("protocol", "TCP")
            number = port.get("nodePort") or 0
            if not number:
                # A port that is served over two protocols gets one node port.
                twin = next(
                    (
                        other["nodePort"]
                        for other in spec["ports"][:index]
                        if other.get("port") == port.get("port")
                        and (protocol, other["nodePort"]) not in mine
                    ),
                    0,
                )
                number = twin or self.ports.take(owner)
                if number is None:
                    raise _Refused(
                        errors.invalid_value(
                            f"spec.ports[{index}].nodePort", 0, f"failed to allocate: {FULL}"
                        )
                    )
                if not twin:
                    taken.append((self.ports, number))
                port["nodePort"] = number
            elif isinstance(number, int):
                self._claim_port(index, number, owner, taken)
                if (protocol, number) in mine:
                    raise _Refused(errors.duplicate(f"spec.ports[{index}].nodePort", number))
            mine.add((protocol, number))
        if spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local":
            if not spec.get("healthCheckNodePort"):
                health = self.ports.take(owner)
                if health is not None:
                    taken.append((self.ports, health))
                    spec["healthCheckNodePort"] = health

    def _claim_port(
        self, index: int, number: int, owner: str, taken: list[tuple[Pool, int]]
    ) -> None:
        holder = self.ports.owners.get(number)
        if holder == owner:
            return
        detail = ""
        if not self.ports.low <= number <= self.ports.high:
            detail = (
                "provided port is not in the valid range. "
                f"The range of valid ports is {self.ports.low}-{self.ports.high}"
            )
        elif holder is not None:
            detail = "provided port is already allocated"
        if detail:
            raise _Refused(errors.invalid_value(f"spec.ports[{index}].nodePort", number, detail))
        self.ports.owners[number] = owner
        taken.append((self.ports, number))

    def committed(self, new: Object | None, old: Object | None) -> None:
        if not self._loaded:
            return
        kept = numbers(new) if new is not None else set()
        for kind, number in (numbers(old) if old is not None else set()) - kept:
            (self.addresses if kind == "ip" else self.ports).owners.pop(number, None)

    def _hold(self, service: Object, owner: str) -> None:
        for kind, number in numbers(service):
            (self.addresses if kind == "ip" else self.ports).owners[number] = owner


class _Refused(Exception):
    def __init__(self, cause: Cause) -> None:
        super().__init__(str(cause))
        self.cause = cause


def owner_of(service: Object) -> str:
    return f"{service['metadata'].get('namespace')}/{service['metadata'].get('name')}"


def needs_node_ports(spec: Object) -> bool:
    kind = spec.get("type")
    return kind == "NodePort" or (
        kind == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts") is not False
    )


def numbers(service: Object) -> set[tuple[str, int]]:
    """What the service holds of the pools."""
    spec = service.get("spec") or {}
    found: set[tuple[str, int]] = set()
    for address in spec.get("clusterIPs") or ():
        if address and address != "None":
            try:
                found.add(("ip", int(ipaddress.ip_address(address))))
            except ValueError:
                continue
    for port in spec.get("ports") or ():
        if port.get("nodePort"):
            found.add(("port", port["nodePort"]))
    if spec.get("healthCheckNodePort"):
        found.add(("port", spec["healthCheckNodePort"]))
    return found


def carry_over(new: Object, old: Object) -> None:
    """An update that does not mention what was allocated keeps it, as long as the type still wants it."""
    spec, before = new["spec"], old["spec"]
    has_address = before.get("type") != "ExternalName"
    if has_address and spec.get("type") != "ExternalName":
        for key in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
            if not spec.get(key) and before.get(key):
                spec[key] = before[key]
    if needs_node_ports(before) and needs_node_ports(spec):
        known = {port.get("name", ""): port for port in before.get("ports") or ()}
        asked = {port.get("nodePort") for port in spec.get("ports") or ()}
        for port in spec.get("ports") or ():
            same = known.get(port.get("name", ""))
            if not port.get("nodePort") and same and same.get("nodePort") not in asked:
                port["nodePort"] = same["nodePort"]
    elif needs_node_ports(before):
        held = {port.get("nodePort") for port in before.get("ports") or ()}
        for port in spec.get("ports") or ():
            if port.get("nodePort") in held:
                del port["nodePort"]
    if before.get("healthCheckNodePort") and spec.get("type") == "LoadBalancer":
        if spec.get("externalTrafficPolicy") == "Local":
            spec.setdefault("healthCheckNodePort", before["healthCheckNodePort"])
        else:
            spec.pop("healthCheckNodePort", None)
