"""The networks that a bridge has pods in: that of the pods to come, and former ones for as long as a pod is left in them.

A kubelet tells the pod CIDR once its Node has one (CRI's UpdateRuntimeConfig), which may be after the first pods came; and whoever
runs Sampan may start it with another. Pods that are there keep their address, gateway and rules. The file has one network a
line, that of the pods to come first; there is none while the network is the one that the configuration names.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, collapse_addresses
from pathlib import Path


class Subnets:
    def __init__(self, path: Path, cidr: str, *, follow: bool) -> None:
        """`follow`: what was told last counts, and `cidr` only until then."""
        self._path = path
        configured, known = IPv4Network(cidr), _read(path)
        current = known[0] if follow and known else configured
        self.all = [current, *(network for network in known if network != current)]

    @property
    def current(self) -> IPv4Network:
        return self.all[0]

    @property
    def merged(self) -> list[IPv4Network]:
        """All of them, none inside another."""
        return list(collapse_addresses(self.all))

    @property
    def gateways(self) -> list[str]:
        return [gateway(network) for network in self.all]

    def of(self, address: str) -> IPv4Network:
        found = IPv4Address(address)
        return next((network for network in self.all if found in network), self.current)

    def move(self, network: IPv4Network) -> None:
        """Pods to come are in `network`. On disk on return."""
        former = [each for each in self.all if each != network]
        beside = self._path.with_name(f"{self._path.name}.new")
        beside.write_text("".join(f"{each}\n" for each in (network, *former)))
        os.replace(beside, self._path)
        self.all = [network, *former]

    def retire(self, addresses: Iterable[str]) -> list[IPv4Network]:
        """Forget former networks that have none of these addresses; they are returned. The file may know them a while longer."""
        used = {self.of(address) for address in addresses}
        gone = [network for network in self.all[1:] if network not in used]
        self.all = [network for network in self.all if network not in gone]
        return gone


def gateway(network: IPv4Network) -> str:
    return str(network.network_address + 1)


def _read(path: Path) -> list[IPv4Network]:
    try:
        return [IPv4Network(line) for line in path.read_text().split()]
    except FileNotFoundError:
        return []
