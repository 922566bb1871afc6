"""Service VIPs in the kernel: one nftables table `inet <instance>` for ClusterIP, NodePort, external IPs and affinity.

    prerouting, output ──> services ──vmap by (address, protocol, port)──> s-<service port> ──numgen──> dnat
                                    └─vmap by (protocol, port) if local──> x-<service port> (node port, external IP)

A packet costs two map look-ups whatever the number of services. Service ports without endpoints are refused in filter
chains, before translation. Affinity keeps a dynamic set for each endpoint. Masquerading: what came in through a node port, what
came from 127/8, and a pod that reaches itself (hairpin).

Changes are small transactions (kerneltable.py).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Iterable, Sequence

from sampan.network import conntrack
from sampan.network.errors import NetlinkError
from sampan.network.kerneltable import KernelTable
from sampan.network.nftables import Chain, Map, Table
from sampan.network.rtnetlink import Netlink, sysctl
from sampan.network.services import Endpoint, Object, Rule, plan

log = logging.getLogger(__name__)

MASQUERADE = "0x4000"  # kube-proxy's mark
VERDICTS = "type ipv4_addr . inet_proto . inet_service : verdict;"
PORT_VERDICTS = "type inet_proto . inet_service : verdict;"
_NODE_PORT = "fib daddr type local meta l4proto . th dport vmap"
_ADDRESS = "ip daddr . meta l4proto . th dport vmap"

BASE_CHAINS = {
    "services": Chain((f"{_ADDRESS} @service-ips", f"{_NODE_PORT} @node-ports")),
    # an address of the node's own (the cluster DNS, an external IP) is for its own sockets to refuse
    "refused": Chain(
        (f"fib daddr type != local {_ADDRESS} @refused-ips", f"{_NODE_PORT} @refused-ports")
    ),
    "refuse": Chain(("meta l4proto tcp reject with tcp reset", "reject")),
    "prerouting": Chain(("jump services",), "type nat hook prerouting priority dstnat;"),
    "output": Chain(("jump services",), "type nat hook output priority -100;"),
    "postrouting": Chain(
        (
            f"meta mark & {MASQUERADE} == {MASQUERADE} masquerade fully-random",
            # only what was translated: a node's own connections to an endpoint on 127/8 (the API server) are none of ours
            "ct status dnat ip saddr . ip daddr @hairpin masquerade fully-random",
        ),
        "type nat hook postrouting priority srcnat;",
    ),
    # reject is possible in these hooks only; the packet still has the service's address, as nothing translated it
    "refuse-input": Chain(("ct state new jump refused",), "type filter hook input priority -110;"),
    "refuse-forward": Chain(
        ("ct state new jump refused",), "type filter hook forward priority -110;"
    ),
    "refuse-output": Chain(
        ("ct state new jump refused",), "type filter hook output priority -110;"
    ),
}


def _tag(rule: Rule) -> str:
    return hashlib.sha256(rule.key.encode()).hexdigest()[:12]


def _choice(endpoints: Sequence[Endpoint], protocol: str) -> str:
    """One rule that sends a packet to a random endpoint. The protocol makes `port` meaningful to nft."""
    head = f"meta l4proto {protocol} dnat ip to"
    if len(endpoints) == 1:
        return f"{head} {endpoints[0].address}:{endpoints[0].port}"
    table = ", ".join(f"{i} : {e.address} . {e.port}" for i, e in enumerate(endpoints))
    return f"{head} numgen random mod {len(endpoints)} map {{ {table} }}"


def _balance(table: Table, name: str, rule: Rule, endpoints: Sequence[Endpoint]) -> None:
    """Chain `name` sends to one of `endpoints`, with affinity where the service wants it."""
    if not rule.affinity:
        table.chains[name] = Chain((_choice(endpoints, rule.protocol),))
        return
    known, chosen = [], []
    for index, endpoint in enumerate(endpoints):
        tag = hashlib.sha256(f"{rule.key} {endpoint}".encode()).hexdigest()[:12]
        seen, chain = f"a-{tag}", f"e-{tag}"
        table.maps[seen] = Map(
            "set", f"type ipv4_addr; flags dynamic,timeout; timeout {rule.affinity}s;"
        )
        table.chains[chain] = Chain(
            (f"update @{seen} {{ ip saddr }}", _choice([endpoint], rule.protocol))
        )
        known.append(f"ip saddr @{seen} goto {chain}")
        chosen.append(f"{index} : goto {chain}")
    pick = f"numgen random mod {len(endpoints)} vmap {{ {', '.join(chosen)} }}"
    table.chains[name] = Chain((*known, pick))


def build_table(name: str, rules: Iterable[Rule], pod_cidr: str) -> Table:
    """The whole table for `rules`: pure, and equal for equal input."""
    ips: dict[str, str] = {}
    ports: dict[str, str] = {}
    refused_ips: dict[str, str] = {}
    refused_ports: dict[str, str] = {}
    hairpin: dict[str, str] = {}
    table = Table(
        name,
        {
            "service-ips": Map("map", VERDICTS, ips),
            "node-ports": Map("map", PORT_VERDICTS, ports),
            "refused-ips": Map("map", VERDICTS, refused_ips),
            "refused-ports": Map("map", PORT_VERDICTS, refused_ports),
            "hairpin": Map("set", "type ipv4_addr . ipv4_addr;", hairpin),
        },
        dict(BASE_CHAINS),
    )
    for rule in rules:
        tag = _tag(rule)
        # a Local policy that finds nobody here drops: another node has endpoints, the sender may try again there
        refusal = "drop" if rule.everywhere else "goto refuse"
        for endpoint in rule.everywhere:
            hairpin[f"{endpoint.address} . {endpoint.address}"] = ""
        for address in rule.cluster_ips:
            place = f"{address} . {rule.protocol} . {rule.port}"
            if rule.internal:
                ips[place] = f"goto s-{tag}"
            else:
                refused_ips[place] = refusal
        if rule.internal:
            _balance(table, f"s-{tag}", rule, rule.internal)
        outside = [f"{ip} . {rule.protocol} . {rule.port}" for ip in rule.external_ips]
        if not outside and not rule.node_port:
            continue
        if rule.external:
            verdict = f"goto x-{tag}"
            _external(table, rule, tag, pod_cidr)
        else:
            verdict = refusal
        chosen_ips, chosen_ports = (ips, ports) if rule.external else (refused_ips, refused_ports)
        chosen_ips.update(dict.fromkeys(outside, verdict))
        if rule.node_port:
            chosen_ports[f"{rule.protocol} . {rule.node_port}"] = verdict
    return table


def _external(table: Table, rule: Rule, tag: str, pod_cidr: str) -> None:
    mark = f"meta mark set meta mark | {MASQUERADE}"
    inner = f"b-{tag}"
    if rule.external == rule.internal:
        inner = f"s-{tag}"
    else:
        _balance(table, inner, rule, rule.external)
    if not rule.external_local:
        table.chains[f"x-{tag}"] = Chain((mark, f"goto {inner}"))
        return
    # pods and the node itself are inside: any endpoint will do for them, and only 127/8 has to be masqueraded
    every = f"s-{tag}" if rule.everywhere == rule.internal else f"c-{tag}"
    if every.startswith("c-"):
        _balance(table, every, rule, rule.everywhere)
    table.chains[f"x-{tag}"] = Chain(
        (
            f"ip saddr {pod_cidr} goto {every}",
            f"fib saddr type local {mark}",
            f"fib saddr type local goto {every}",
            f"goto {inner}",
        )
    )


def udp_endpoints(rules: Iterable[Rule]) -> frozenset[Endpoint]:
    return frozenset(
        endpoint
        for rule in rules
        if rule.protocol == "udp"
        for endpoint in (*rule.internal, *rule.external)
    )


class NFTProxy:
    def __init__(
        self,
        instance: str,
        pod_cidr: str = "10.42.0.0/16",
        service_cidr: str = "10.43.0.0/16",
        node: str = "",
        bridge: str = "",
    ) -> None:
        """`bridge`: service addresses are routed there, so that the node reaches them also without a default route."""
        self.table = f"inet {instance}"
        self.pod_cidr, self.service_cidr, self.node = pod_cidr, service_cidr, node
        self.bridge = bridge or f"{instance}0"
        self._kernel = KernelTable(self.table, before=self._route)
        self._routed = False
        self._udp: frozenset[Endpoint] = frozenset()  # that flows may have been translated to

    async def apply(self, services: list[Object], slices: list[Object]) -> None:
        rules = plan(services, slices, self.node)
        await self._kernel.put(build_table(self.table, rules, self.pod_cidr))
        known = self._udp
        self._udp = udp_endpoints(rules)
        if gone := known - self._udp:
            try:
                await asyncio.to_thread(conntrack.forget_udp, gone)
            except NetlinkError as error:
                log.warning("UDP flows to endpoints that are gone: %s", error)

    def _route(self) -> None:
        """Node → service address: a route picks the bridge's own address as source, before translation."""
        if self._routed:
            return
        sysctl("net/ipv4/ip_forward", "1")
        with Netlink() as netlink:
            link = netlink.link(self.bridge)
            if link is None:
                return
            try:
                netlink.add_route(self.service_cidr, link.index)
            except NetlinkError as error:
                log.warning("%s", error)
        sysctl(f"net/ipv4/conf/{self.bridge}/route_localnet", "1")  # node ports on 127.0.0.1
        self._routed = True

    async def close(self) -> None:
        """The table stays: services go on while the node agent is away. `remove` takes it down."""
        await self._kernel.close()

    async def remove(self) -> None:
        """Delete the table. Idempotent."""
        await self._kernel.remove()
