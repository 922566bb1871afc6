"""NetworkPolicies in the kernel: one nftables table `inet <instance>-policy`, there only while a policy is.

    forward, input ──> egress:  map of isolated addresses ──> chain of the pod's policies ──> chain of each policy
    forward        ──> ingress: the same

Each direction has base chains of its own: a packet that one accepts goes on to the next, so both must agree. In the filter
hooks a packet to a service has its pod's address already. A packet costs one map look-up a direction, and what its pod's
own policies ask; pods are elements of maps and sets, so one more or less changes no rule. What the node sends passes no
chain of these (probes, exec, services of the node's own processes), and conntrack lets answers through.

A refused connection is reset; what is no TCP, or goes to a service, is answered by ICMP: who may not learns so at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from sampan.network.kerneltable import KernelTable
from sampan.network.nftables import Chain, Map, Table
from sampan.network.policies import EGRESS, INGRESS, LAST_PORT, Grant, Object, Plan, Pod, plan

PRIORITY = {EGRESS: -10, INGRESS: -9}
VERDICTS = "type ipv4_addr : verdict;"
ADDRESSES = "type ipv4_addr;"
NETWORKS = "type ipv4_addr; flags interval;"
DESTINATIONS = "type ipv4_addr . inet_proto . inet_service;"
OWN = {INGRESS: "daddr", EGRESS: "saddr"}
PEER = {INGRESS: "saddr", EGRESS: "daddr"}
REFUSE = (
    # between ports of a bridge the kernel sends a reset past address translation: whoever asked a service would not know it
    "meta l4proto tcp ct status & dnat != dnat reject with tcp reset",
    "reject with icmpx admin-prohibited",
)


def _tag(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def build_table(name: str, made: Plan, bridge: str) -> Table:
    """The whole table of a plan: pure, and equal for equal plans."""
    alone = {
        f"{address} . {address}": ""
        for address in sorted({a for found in made.isolated.values() for a in found})
    }
    table = Table(name, {"self": Map("set", "type ipv4_addr . ipv4_addr;", alone)})
    for direction in (EGRESS, INGRESS):
        verdicts: dict[str, str] = {}
        table.maps[direction] = Map("map", VERDICTS, verdicts)
        for key, grants in sorted(made.grants[direction].items()):
            _policy(table, direction, key, grants)
        for address, keys in made.isolated[direction].items():
            chain = f"{direction}-of-{_tag(' '.join(keys))}"
            table.chains[chain] = Chain(
                (*(f"jump {direction}-{_tag(key)}" for key in keys), *REFUSE)
            )
            verdicts[address] = f"goto {chain}"
        table.chains[direction] = Chain(
            (
                "ct state established,related accept",
                "ip saddr . ip daddr @self accept",
                f"ip {OWN[direction]} vmap @{direction}",
            )
        )
        table.chains[f"{direction}-forward"] = Chain(
            (f"jump {direction}",), f"type filter hook forward priority {PRIORITY[direction]};"
        )
    # What a pod sends to the node itself. And pods have a link-local IPv6 address each, which no policy can name.
    six = f'iifname "{bridge}" meta nfproto ipv6'
    table.chains["egress-input"] = Chain(
        (f"{six} meta l4proto != ipv6-icmp drop", f"jump {EGRESS}"),
        f"type filter hook input priority {PRIORITY[EGRESS]};",
    )
    table.chains["six"] = Chain((f"{six} drop",), "type filter hook forward priority -11;")
    return table


def _policy(table: Table, direction: str, key: str, grants: Iterable[Grant]) -> None:
    name = f"{direction}-{_tag(key)}"
    rules: list[str] = []
    for index, grant in enumerate(grants):
        rules += _grant(table, direction, f"{name}-{index}", grant)
    table.chains[name] = Chain(tuple(rules))


def _grant(table: Table, direction: str, name: str, grant: Grant) -> Iterable[str]:
    peers = [""] if grant.everyone else []
    if not grant.everyone:
        table.maps[f"{name}-pods"] = Map("set", ADDRESSES, dict.fromkeys(sorted(grant.peers), ""))
        peers.append(f"ip {PEER[direction]} @{name}-pods ")
    if grant.blocks and not grant.everyone:
        # named by what is in it: intervals are never changed in place
        blocks = f"{name}-net-{_tag(' '.join(grant.blocks))}"
        table.maps[blocks] = Map("set", NETWORKS, dict.fromkeys(grant.blocks, ""))
        peers.append(f"ip {PEER[direction]} @{blocks} ")
    ports = [""] if grant.every_port else list(_ports(grant))
    for peer in peers:
        for port in ports:
            yield f"{peer}{port}accept"
    if grant.names_ports:
        named = {f"{d.address} . {d.protocol} . {d.port}": "" for d in sorted(grant.named)}
        table.maps[f"{name}-named"] = Map("set", DESTINATIONS, named)
        # of egress the destinations are the peers themselves
        for peer in peers if direction == INGRESS else [""]:
            yield f"{peer}ip daddr . meta l4proto . th dport @{name}-named accept"


def _ports(grant: Grant) -> Iterable[str]:
    for protocol in sorted({each.protocol for each in grant.ports}):
        ranges = [each for each in grant.ports if each.protocol == protocol]
        if (ranges[0].first, ranges[0].last) == (0, LAST_PORT):
            yield f"meta l4proto {protocol} "
            continue
        texts = [str(e.first) if e.first == e.last else f"{e.first}-{e.last}" for e in ranges]
        yield f"{protocol} dport {{ {', '.join(texts)} }} "


class PolicyTable:
    """What the node agent feeds with policies, pods and namespaces."""

    def __init__(self, instance: str, bridge: str = "") -> None:
        self.name = f"inet {instance}-policy"
        self.bridge = bridge or f"{instance}0"
        self._kernel = KernelTable(self.name)
        self._there = True  # perhaps, from before

    async def apply(
        self, policies: list[Object], pods: list[Pod], namespaces: list[Object]
    ) -> None:
        """The kernel enforces these on return; without a policy there is no table. Raises NetworkError."""
        if policies:
            self._there = True
            await self._kernel.put(
                build_table(self.name, plan(policies, pods, namespaces), self.bridge)
            )
        elif self._there:
            await self._kernel.remove()
            self._there = False

    async def close(self) -> None:
        """The table stays: pods are no more open while the node agent is away. `remove` takes it down."""
        await self._kernel.close()

    async def remove(self) -> None:
        """Delete the table. Idempotent."""
        await self._kernel.remove()
