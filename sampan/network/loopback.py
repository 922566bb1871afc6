"""Loopback pod network: each pod its own address of 127.0.0.0/8, with no privilege and no namespace.

The kernel routes all of 127/8 to `lo`, so an address exists as soon as a process binds it; this only says who has which.
Pods are told apart by address, not isolated from each other: that is what a namespace is for (bridge.py).
"""

from __future__ import annotations

from pathlib import Path

from sampan.network.addresses import AddressPool
from sampan.network.pods import Attachment, PodRef

DEFAULT_CIDR = "127.42.0.0/16"


class LoopbackNetwork:
    name = "loopback"

    def __init__(self, directory: Path, cidr: str = DEFAULT_CIDR, services: str = "") -> None:
        """`services`: the network of the cluster's services, which is on 127/8 as well."""
        self._reach = (cidr, services) if services else (cidr,)
        self._pool = AddressPool(Path(directory) / "loopback", cidr)

    async def attach(self, pod: PodRef) -> Attachment:
        return self._attachment(self._pool.take(pod.sandbox_id))

    async def detach(self, pod: PodRef) -> None:
        self._pool.release(pod.sandbox_id)

    async def existing(self) -> dict[str, Attachment]:
        return {owner: self._attachment(a) for owner, a in self._pool.owners().items()}

    async def owners(self) -> list[str]:
        return sorted(self._pool.owners())

    def _attachment(self, address: str) -> Attachment:
        return Attachment(namespace=None, addresses=(address,), interface="lo", reach=self._reach)
