"""Host ports of pods (`hostPort`, CRI's PortMapping): one nftables table that sends them to the pods' addresses.

Kept whole in memory and handed to the kernel as differences; after a restart of the runtime it is rebuilt from the records
of the sandboxes that live. Nothing is loaded before the first pod asks for a port. Only pods on networks with addresses of
their own have host ports: on the host's network, and without root, a program's port is the host's anyway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from sampan.cri.errors import FailedPrecondition
from sampan.runtime.sandbox import PortMapping

if TYPE_CHECKING:
    from sampan.network.nftables import Table

PROTOCOLS = ("TCP", "UDP", "SCTP")
EVERYWHERE = ("", "0.0.0.0", "::")
ANY = "type inet_proto . inet_service : ipv4_addr . inet_service;"
ONE = "type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service;"


class HostPorts:
    def __init__(self, instance: str, marker: Path) -> None:
        """`marker`: a file that is there while the kernel may hold the table."""
        self.name = f"inet {instance}-hostports"
        self._marker = marker
        self._pods: dict[str, tuple[str, tuple[PortMapping, ...]]] = {}
        self._applied: Table | None = None
        self._changing = asyncio.Lock()

    async def restore(self, pods: Iterable[tuple[str, str, tuple[PortMapping, ...]]]) -> None:
        """(sandbox id, address, ports) of every pod that lives."""
        for sandbox, address, ports in pods:
            if wanted := published(ports):
                self._pods[sandbox] = (address, wanted)
        if self._pods or self._marker.exists():
            await self._apply()

    async def add(self, sandbox: str, address: str, ports: tuple[PortMapping, ...]) -> None:
        """The ports lead to the pod on return. Raises FailedPrecondition when another pod has one of them."""
        wanted = published(ports)
        if not wanted or not address:
            return
        for _, others in self._pods.values():
            for port in wanted:
                if any(clash(port, other) for other in others):
                    raise FailedPrecondition(
                        f"host port {port.host_port}/{port.protocol} belongs to another pod"
                    )
        self._pods[sandbox] = (address, wanted)
        try:
            await self._apply()
        except BaseException:
            self._pods.pop(sandbox, None)
            raise

    async def remove(self, sandbox: str) -> None:
        """Idempotent."""
        if self._pods.pop(sandbox, None) is not None:
            await self._apply()

    async def _apply(self) -> None:
        from sampan.network import nftables

        async with self._changing:
            if not self._pods:
                script = f"add table {self.name}\ndelete table {self.name}\n"
                await asyncio.to_thread(nftables.run, script)
                self._applied = None
                self._marker.unlink(missing_ok=True)
                return
            wanted = table(self.name, self._pods.values())
            self._marker.touch(mode=0o600)
            if script := nftables.transition(self._applied, wanted):
                await asyncio.to_thread(nftables.run, script)
            self._applied = wanted


def published(ports: tuple[PortMapping, ...]) -> tuple[PortMapping, ...]:
    return tuple(port for port in ports if port.host_port > 0 and port.protocol in PROTOCOLS)


def clash(one: PortMapping, other: PortMapping) -> bool:
    same = (one.host_port, one.protocol) == (other.host_port, other.protocol)
    everywhere = one.host_ip in EVERYWHERE or other.host_ip in EVERYWHERE
    return same and (everywhere or one.host_ip == other.host_ip)


def table(name: str, pods: Iterable[tuple[str, tuple[PortMapping, ...]]]) -> Table:
    """Pure. IPv4, as the pods' networks are."""
    from sampan.network.nftables import Chain, Map, Table

    anywhere: dict[str, str] = {}
    bound: dict[str, str] = {}
    own: dict[str, str] = {}
    for address, ports in pods:
        for port in ports:
            key = f"{port.protocol.lower()} . {port.host_port}"
            target = f"{address} . {port.container_port}"
            if port.host_ip in EVERYWHERE:
                anywhere[key] = target
            elif ":" not in port.host_ip:
                bound[f"{port.host_ip} . {key}"] = target
            own[f"{address} . {address}"] = ""
    found = "meta l4proto . th dport map @anywhere"
    return Table(
        name,
        {
            "anywhere": Map("map", ANY, anywhere),
            "bound": Map("map", ONE, bound),
            "own": Map("set", "type ipv4_addr . ipv4_addr;", own),
        },
        {
            "ports": Chain(
                (
                    "meta l4proto { tcp, udp, sctp } dnat ip to ip daddr . meta l4proto . th dport map @bound",
                    f"meta l4proto {{ tcp, udp, sctp }} dnat ip to {found}",
                )
            ),
            "prerouting": Chain(
                ("meta nfproto ipv4 fib daddr type local jump ports",),
                "type nat hook prerouting priority dstnat;",
            ),
            "output": Chain(
                ("meta nfproto ipv4 fib daddr type local jump ports",),
                "type nat hook output priority -100;",
            ),
            # The answer must come back here: from the host's loopback, and from a pod that calls its own host port.
            "postrouting": Chain(
                (
                    "ct status dnat ip saddr 127.0.0.0/8 masquerade",
                    "ct status dnat ip saddr . ip daddr @own masquerade",
                ),
                "type nat hook postrouting priority srcnat;",
            ),
        },
    )
