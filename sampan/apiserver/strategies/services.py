"""Services: cluster addresses and node ports are taken before the write and given back when it fails.

Addresses come out of the ServiceCIDRs (KEP-1880). What is taken is a record in the store (`claims`), so several API servers
can write Services at once. An update keeps what it does not mention, and drops what its new type has no use for.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

from sampan.apiserver.call import Call
from sampan.apiserver.resources import Resource
from sampan.apiserver.strategies import claims
from sampan.apiserver.strategies.base import Object, Rollback, Strategy
from sampan.apiserver.strategies.claims import (
    ADDRESSES,
    CIDRS,
    NODE_PORTS,
    Claims,
    Owner,
    canonical,
    held_by,
)
from sampan.apiserver.strategies.families import link_addresses, settle_families
from sampan.kube import errors, objects
from sampan.kube.errors import Cause

if TYPE_CHECKING:
    from sampan.apiserver.registry import Registry

FULL = "range is full"
ALLOCATED_IP = "provided IP is already allocated"
ALLOCATED_PORT = "provided port is already allocated"
NO_RANGE = "the provided network does not match the current range"
Held = set[tuple[Resource, str]]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
ADDRESS_FIELDS = ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy")


class ServiceStrategy(Strategy):
    returns_deleted = True
    allocates = True

    def __init__(self, cidr: str, node_ports: tuple[int, int]) -> None:
        self.family = f"IPv{ipaddress.ip_network(cidr).version}"
        low, high = node_ports
        self.ports = claims.band(low, high, high - low + 1, step=32, most=128)

    def prepare_update(self, call: Call, new: Object, old: Object) -> None:
        super().prepare_update(call, new, old)
        drop_unused(new["spec"], old["spec"])
        carry_over(new["spec"], old["spec"])

    async def reserve(
        self, registry: Registry, call: Call, new: Object, old: Object | None
    ) -> Rollback | None:
        taken = Claims(registry, Owner.of(new), call.dry_run)
        held = held_by(old) if old is not None else set()
        try:
            spec, before = new["spec"], old["spec"] if old is not None else None
            link_addresses(spec, before)
            if causes := settle_families(spec, before, self.family):
                raise _Refused(*causes)
            fixed = before is not None and keeps_address(before)
            await self._reserve_address(spec, taken, held, fixed)
            await self._reserve_ports(spec, taken, held)
        except _Refused as refused:
            await taken.undo()
            raise call.invalid(refused.causes, new["metadata"].get("name", "")) from None
        except BaseException:
            await taken.undo()
            raise
        return taken.undo

    # Addresses

    async def _reserve_address(self, spec: Object, taken: Claims, held: Held, fixed: bool) -> None:
        if spec.get("type") == "ExternalName":
            return
        asked = spec.get("clusterIP") or (spec.get("clusterIPs") or [""])[0]
        if asked == "None":
            spec["clusterIP"], spec["clusterIPs"] = "None", ["None"]
            return
        if not asked:
            asked = await self._any_address(taken)
        elif not fixed and (ADDRESSES, canonical(asked)) not in held:
            await self._claim_address(asked, taken)
        spec["clusterIP"] = asked
        spec["clusterIPs"] = [asked, *(spec.get("clusterIPs") or [])[1:]]

    async def _networks(self, registry: Registry) -> list[Network]:
        """Ranges that addresses may be taken from, in the order of their names."""
        cache = await registry.caches.get(CIDRS)
        found: list[Network] = []
        for key in cache.keys(CIDRS.key("", "")):
            found += ready_networks(cache.entries[key].object())
        return found

    async def _any_address(self, taken: Claims) -> str:
        version = int(self.family[-1])
        for network in await self._networks(taken.registry):
            if network.version != version:
                continue
            base = network.network_address.__class__
            number = await taken.any(
                ADDRESSES,
                address_band(network),
                lambda number, base=base: str(base(number)),  # type: ignore[misc]
                lambda name: claims.address_record(name, taken.owner),
            )
            if number is not None:
                return str(base(number))
        raise errors.internal(f"failed to allocate a serviceIP: {FULL}")

    async def _claim_address(self, asked: str, taken: Claims) -> None:
        name = canonical(asked)
        if not name:
            return  # validation says what is wrong with it
        address = ipaddress.ip_address(name)
        detail = ""
        networks = [
            each for each in await self._networks(taken.registry) if within(each, int(address))
        ]
        inside = [each for each in networks if each.version == address.version]
        if not inside:
            detail = NO_RANGE
        elif not any(has_host(each, int(address)) for each in inside):
            detail = (
                f"the provided IP ({asked}) is not in the valid range. "
                f"The range of valid IPs is {inside[0]}"
            )
        elif not await taken.take(ADDRESSES, name, claims.address_record(name, taken.owner)):
            detail = ALLOCATED_IP
        if detail:
            text = f"failed to allocate IP {asked}: {detail}"
            raise _Refused(errors.invalid_value("spec.clusterIPs", [asked], text))

    # Node ports

    async def _reserve_ports(self, spec: Object, taken: Claims, held: Held) -> None:
        if spec.get("type") not in ("NodePort", "LoadBalancer"):
            return
        allocate = needs_node_ports(spec)
        mine: set[tuple[str, int]] = set()
        owned: set[int] = set()  # by this write
        ports = spec.get("ports") or []
        for index, port in enumerate(ports):
            protocol, number = port.get("protocol", "TCP"), port.get("nodePort") or 0
            path = f"spec.ports[{index}].nodePort"
            if not number:
                if not allocate:
                    continue
                number = twin(ports[:index], port, mine) or await self._any_port(taken)
                port["nodePort"] = number
            else:
                if (NODE_PORTS, str(number)) not in held and number not in owned:
                    await self._claim_port(path, number, taken)
                if (protocol, number) in mine:
                    raise _Refused(errors.duplicate(path, number))
            owned.add(number)
            mine.add((protocol, number))
        if needs_health_port(spec):
            number = spec.get("healthCheckNodePort") or 0
            if not number:
                spec["healthCheckNodePort"] = await self._any_port(taken)
            elif (NODE_PORTS, str(number)) not in held:
                await self._claim_port("spec.healthCheckNodePort", number, taken)

    async def _any_port(self, taken: Claims) -> int:
        number = await taken.any(
            NODE_PORTS, self.ports, str, lambda name: claims.port_record(name, taken.owner)
        )
        if number is None:
            raise errors.internal(f"failed to allocate a nodePort: {FULL}")
        return number

    async def _claim_port(self, path: str, number: int, taken: Claims) -> None:
        if not self.ports.low <= number <= self.ports.high:
            text = (
                "provided port is not in the valid range. "
                f"The range of valid ports is {self.ports.low}-{self.ports.high}"
            )
            raise _Refused(errors.invalid_value(path, number, text))
        record = claims.port_record(str(number), taken.owner)
        if not await taken.take(NODE_PORTS, str(number), record):
            raise _Refused(errors.invalid_value(path, number, ALLOCATED_PORT))

    async def settle(self, registry: Registry, new: Object | None, old: Object) -> None:
        """The write is durable: what the Service no longer says, it no longer holds."""
        kept = held_by(new) if new is not None else set()
        for row, name in held_by(old) - kept:
            await claims.release(registry, row, name, Owner.of(old))


def keeps_address(before: Object) -> bool:
    """Of an update: what has an address, or `None`, keeps it. Validation says so of another that is asked for."""
    return before.get("type") != "ExternalName" and bool(before.get("clusterIP"))


class _Refused(Exception):
    def __init__(self, *causes: Cause) -> None:
        super().__init__("; ".join(map(str, causes)))
        self.causes = list(causes)


# --- addresses as numbers ---------------------------------------------------------------------------


def ready_networks(cidr: Object) -> list[Network]:
    """Without a condition a ServiceCIDR is taken for ready: its controller may not run yet."""
    condition = objects.condition(cidr, "Ready")
    if objects.is_deleting(cidr) or (condition is not None and condition.get("status") != "True"):
        return []
    return [ipaddress.ip_network(each) for each in (cidr.get("spec") or {}).get("cidrs") or ()]


def within(network: Network, number: int) -> bool:
    return int(network.network_address) <= number <= int(network.broadcast_address)


def has_host(network: Network, number: int) -> bool:
    """Neither the network's own address nor IPv4's broadcast address is given to a Service."""
    last = int(network.broadcast_address) - (network.version == 4)
    return int(network.network_address) < number <= last


def address_band(network: Network) -> claims.Band:
    low = int(network.network_address) + 1
    high = int(network.broadcast_address) - (network.version == 4)
    return claims.band(low, high, network.num_addresses, step=16, most=256)


# --- what a Service holds, and keeps ----------------------------------------------------------------


def needs_node_ports(spec: Object) -> bool:
    kind = spec.get("type")
    return kind == "NodePort" or (
        kind == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts") is not False
    )


def needs_health_port(spec: Object) -> bool:
    return spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"


def _reachable(spec: Object) -> bool:
    kind = spec.get("type")
    return kind in ("NodePort", "LoadBalancer") or (
        kind == "ClusterIP" and bool(spec.get("externalIPs"))
    )


def _is_balancer(spec: Object) -> bool:
    return spec.get("type") == "LoadBalancer"


def _has_address(spec: Object) -> bool:
    return spec.get("type") != "ExternalName"


def twin(before: list[Object], port: Object, mine: set[tuple[str, int]]) -> int:
    """A port that is served over two protocols gets one node port: that of the other protocol, 0 when there is none."""
    protocol = port.get("protocol", "TCP")
    for other in before:
        number = other.get("nodePort") or 0
        if number and other.get("port") == port.get("port") and (protocol, number) not in mine:
            return int(number)
    return 0


# Fields that only some types have: when the type has no use for them any more, an unchanged value goes with it.
_BY_TYPE: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (_has_address, ADDRESS_FIELDS),
    (needs_health_port, ("healthCheckNodePort",)),
    (_is_balancer, ("allocateLoadBalancerNodePorts", "loadBalancerClass")),
    (_reachable, ("externalTrafficPolicy",)),
    (_has_address, ("internalTrafficPolicy",)),
)


def drop_unused(spec: Object, before: Object) -> None:
    """A change of type wipes what the old type had and the new one must not have, unless the user changed it too."""
    for needs, fields in _BY_TYPE:
        if needs(before) and not needs(spec):
            for field in fields:
                if spec.get(field) == before.get(field):
                    spec.pop(field, None)
    if needs_node_ports(before) and not needs_node_ports(spec):
        held = [port.get("nodePort") for port in before.get("ports") or ()]
        if [port.get("nodePort") for port in spec.get("ports") or ()] == held:
            for port in spec.get("ports") or ():
                port.pop("nodePort", None)


def carry_over(spec: Object, before: Object) -> None:
    """An update that does not mention what was allocated keeps it, as long as the type still wants it."""
    if needs_node_ports(before) and needs_node_ports(spec):
        known = {port.get("name", ""): port.get("nodePort") for port in before.get("ports") or ()}
        used = {port.get("nodePort") for port in spec.get("ports") or ()} & set(known.values())
        for port in spec.get("ports") or ():
            number = known.get(port.get("name", ""))
            if not port.get("nodePort") and number and number not in used:
                port["nodePort"] = number
                used.add(number)
    if needs_health_port(before) and needs_health_port(spec):
        if not spec.get("healthCheckNodePort") and before.get("healthCheckNodePort"):
            spec["healthCheckNodePort"] = before["healthCheckNodePort"]
