"""ServiceCIDR controller: a range that addresses were taken from cannot go while they are in use (KEP-1880).

Each ServiceCIDR gets a finalizer and the condition Ready. One that is being deleted is let go when other ranges hold all
its addresses, or none is left; until then Ready says why it stays. Servers stop taking addresses from a range as soon as
they see it being deleted, so letting go waits a few seconds for those that have not seen it yet.
"""

from __future__ import annotations

import ipaddress
from typing import ClassVar

from sampan.client.resources import IPADDRESSES, SERVICECIDRS
from sampan.controllers.base import Controller, Key, Object, Requeue, Watch
from sampan.kube.objects import condition, finalizers, is_deleting, parse_time, set_condition

FINALIZER = "networking.k8s.io/service-cidr-finalizer"
GRACE = 10.0  # seconds between the deletion and letting go
_HELD = (
    "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new "
    "ServiceCIDR"
)


def networks(cidr: Object) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    return [ipaddress.ip_network(each) for each in (cidr.get("spec") or {}).get("cidrs") or ()]


def may_go(cidr: Object, others: list[Object], addresses: list[str]) -> bool:
    """Is every address in use inside another range as well?"""
    mine = networks(cidr)
    rest = [network for other in others for network in networks(other)]
    if all(
        any(
            network.version == wider.version
            and int(wider.network_address) <= int(network.network_address)
            and int(network.broadcast_address) <= int(wider.broadcast_address)
            for wider in rest
        )
        for network in mine
    ):
        return True
    return not any(
        any(address in network for network in mine)
        and not any(address in network for network in rest)
        for address in map(ipaddress.ip_address, addresses)
    )


class ServiceCIDRController(Controller):
    name = "servicecidr"
    watches: ClassVar[tuple[Watch, ...]] = (
        Watch(SERVICECIDRS, keys=lambda self, obj: self.overlapping(obj)),
        Watch(IPADDRESSES, keys=lambda self, obj: self.being_deleted()),
    )
    workers = 1

    def being_deleted(self) -> list[Key]:
        """Only a range on its way out waits for addresses."""
        found = self.informer(SERVICECIDRS).list()
        return [Key("", each["metadata"]["name"]) for each in found if is_deleting(each)]

    def overlapping(self, cidr: Object) -> list[Key]:
        return [Key("", cidr["metadata"]["name"]), *self.being_deleted()]

    async def reconcile(self, key: Key) -> Requeue | None:
        cidr = self.informer(SERVICECIDRS).get(*key)
        if cidr is None:
            return None
        if not is_deleting(cidr):
            if FINALIZER in finalizers(cidr):
                await self._ready(cidr, "True", "", "Kubernetes Service CIDR is ready")
            else:
                await self._finalizers(cidr, [*finalizers(cidr), FINALIZER])
            return None
        if FINALIZER not in finalizers(cidr):
            return None
        others = [each for each in self.informer(SERVICECIDRS).list() if each is not cidr]
        alive = [each for each in others if not is_deleting(each)]
        names = [each["metadata"]["name"] for each in self.informer(IPADDRESSES).list()]
        if not may_go(cidr, alive, names):
            await self._ready(cidr, "False", "Terminating", _HELD)
            return None
        asked = parse_time(cidr["metadata"]["deletionTimestamp"]).timestamp()
        left = GRACE - (self.clock() - asked)
        if left > 0:
            return Requeue(left)
        await self._finalizers(cidr, [each for each in finalizers(cidr) if each != FINALIZER])
        return None

    async def _finalizers(self, cidr: Object, names: list[str]) -> None:
        await self._patch(cidr, {"metadata": {"finalizers": names or None}})

    async def _ready(self, cidr: Object, status: str, reason: str, message: str) -> None:
        present = condition(cidr, "Ready")
        if present is not None and present["status"] == status:
            return
        conditions = [dict(each) for each in (cidr.get("status") or {}).get("conditions") or ()]
        obj: Object = {"status": {"conditions": conditions}}
        set_condition(obj, "Ready", status, reason=reason, message=message)
        await self._patch(cidr, obj, "status")

    async def _patch(self, cidr: Object, patch: Object, subresource: str = "") -> None:
        # With its revision: what we decided on must still be so. The change comes back through the watch.
        metadata = cidr["metadata"]
        patch.setdefault("metadata", {})["resourceVersion"] = metadata["resourceVersion"]
        await self.client.patch(SERVICECIDRS, metadata["name"], patch, subresource=subresource)
