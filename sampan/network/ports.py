"""Whose frames a port of the bridge takes: only those of its pod, by hardware address and by IPv4 address.

A pod with CAP_NET_RAW (containers have it by default) or a kernel of its own can send whatever it likes: answers to ARP
for its neighbour, frames with its neighbour's hardware address, which the bridge would learn and send the neighbour's
traffic after, packets with its neighbour's address, which a NetworkPolicy would take for the neighbour's. All of that ends at
the port, on the host's side, where no pod has a say.

Nothing is done per pod. The port's group (IFLA_GROUP, which the pod's end neither sees nor changes) is the pod's address as
a number, and the pod's hardware address is made from it too, as CNI's bridge plugin once did. So one table of the bridge
family holds every triple that is true in this network, a block of 256 addresses at a time, from before there is a pod.
Pods have IPv4 addresses: frames that are neither IPv4 nor ARP, IPv6 and tagged ones among them, are nobody's and end here as well.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from sampan.network import nftables

BLOCK = 256
_PREFIX = b"\x0a\x58"  # locally administered


def group_of(address: str) -> int:
    return int(ipaddress.IPv4Address(address))


def hardware_address(address: str) -> bytes:
    return _PREFIX + ipaddress.IPv4Address(address).packed


class PortGuard:
    """The table `bridge <instance>-ports` of a bridge with pods of these networks, none of which is inside another."""

    def __init__(self, instance: str, *networks: ipaddress.IPv4Network) -> None:
        self.table = f"bridge {instance}-ports"
        self.networks = networks
        self._blocks: set[int] = set()

    def script(self, addresses: Iterable[str]) -> str:
        """For `nft -f`: the table anew, with each network's first block and those of `addresses`, which are in use."""
        self._blocks = {self._block(address) for address in addresses}
        self._blocks |= {self._block(str(each.network_address)) for each in self.networks}
        elements = ", ".join(each for block in sorted(self._blocks) for each in self._true(block))
        ranges = (
            f"{int(each.network_address)}-{int(each.broadcast_address)}" for each in self.networks
        )
        return (
            f"table {self.table}\ndelete table {self.table}\n"
            f"table {self.table} {{\n"
            "  set own {\n"
            "    type devgroup . ether_addr . ipv4_addr\n"
            f"    elements = {{ {elements} }}\n"
            "  }\n"
            "  chain frames {\n"
            # before the bridge learns an address, and before br_netfilter shows the packet to other tables
            "    type filter hook prerouting priority -300; policy accept;\n"
            f"    iifgroup != {{ {', '.join(ranges)} }} accept\n"
            "    ether type ip iifgroup . ether saddr . ip saddr @own accept\n"
            "    ether type arp iifgroup . ether saddr . arp saddr ip @own"
            " iifgroup . arp saddr ether . arp saddr ip @own accept\n"
            "    counter drop\n"
            "  }\n"
            "}\n"
        )

    def admit(self, address: str) -> None:
        """Frames of `address` pass at its own port, on return. A call of nft for the first of a block, else nothing."""
        block = self._block(address)
        if block not in self._blocks:
            elements = ", ".join(self._true(block))
            nftables.run(f"add element {self.table} own {{ {elements} }}\n")
            self._blocks.add(block)

    def removal(self) -> str:
        """For `nft -f`: no such table. Idempotent."""
        return f"table {self.table}\ndelete table {self.table}\n"

    @staticmethod
    def _block(address: str) -> int:
        return int(ipaddress.IPv4Address(address)) // BLOCK

    def _true(self, block: int) -> Iterator[str]:
        begin, end = block * BLOCK, block * BLOCK + BLOCK - 1
        for network in self.networks:
            first, last = int(network.network_address), int(network.broadcast_address)
            for number in range(max(begin, first), min(end, last) + 1):
                address = str(ipaddress.IPv4Address(number))
                yield f"{number} . {hardware_address(address).hex(':')} . {address}"
