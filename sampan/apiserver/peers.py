"""The servers of one cluster know of each other by Leases, and the Service `kubernetes` leads to those that live.

Each server of a shared store renews a Lease `apiserver-…` in kube-system, as Kubernetes' servers do (KEP-1965), with the address
at which it serves in an annotation. A Lease counts as long as this server has seen it change within `ALIVE` seconds by its own
clock, so clocks need not agree. Whoever finds the endpoints other than that writes them; a server that stops in order takes
its Lease and its endpoint away. A server whose store is its own is alone: it writes its endpoint at start and no Lease.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import socket
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sampan.kube import objects
from sampan.kube.errors import ApiError
from sampan.store import Conflict, StoreError

if TYPE_CHECKING:
    from sampan.apiserver.resources import Resource
    from sampan.apiserver.server import APIServer

log = logging.getLogger(__name__)

RENEW = 5.0  # seconds
ALIVE = 15.0
FORGET = 3600.0  # seconds after which the Lease of a server that never came back is deleted
NAMESPACE = "kube-system"
IDENTITY_LABEL = "apiserver.kubernetes.io/identity"
SERVES_AT = "sampan.dev/serves-at"
SERVICE = "kubernetes"
Address = tuple[str, int]
Object = dict[str, Any]


class Peers:
    def __init__(self, server: APIServer) -> None:
        self.server = server
        self._seen: dict[str, tuple[str, float]] = {}  # lease → its renewTime, since when it is so
        self._holder = ""
        self.problem = ""  # why the last renewal failed

    @property
    def own(self) -> Address | None:
        """Where others reach this server; None when that is not known."""
        config = self.server.config
        address = config.advertise or config.address
        return None if address in ("0.0.0.0", "::") else (address, self.server.port)

    @property
    def name(self) -> str:
        """The same in each life of this server, so that a restart takes its own Lease over."""
        text = f"{socket.gethostname()}/{self.server.config.address}:{self.server.port}"
        return "apiserver-" + hashlib.sha256(text.encode()).hexdigest()[:26]

    async def join(self) -> None:
        """Be among the endpoints on return."""
        if self.server.store.shared:
            await self._renew()
            await self._publish(await self._live())
        elif self.own is not None:
            await self._publish({self.own})

    async def run(self) -> None:
        """Renew and look after the others until cancelled. One task of the server's group, when the store is shared."""
        while True:
            await asyncio.sleep(RENEW)
            try:
                async with asyncio.timeout(ALIVE):
                    await self._renew()
                    await self._publish(await self._live())
                self.problem = ""
            except (StoreError, ApiError, TimeoutError) as error:
                self.problem = f"the lease cannot be renewed: {error or 'no answer'}"
                log.warning("%s: %s", self.name, self.problem)

    async def leave(self) -> None:
        """Others are told at once that this server is gone."""
        if not self.server.store.shared:
            return
        try:
            async with asyncio.timeout(RENEW):
                row = self._row("coordination.k8s.io", "leases")
                await self.server.store.delete(row.key(NAMESPACE, self.name), expect=None)
                await self._publish(await self._live() - {self.own})
        except (StoreError, TimeoutError) as error:
            log.info("%s: the lease was not taken away: %s", self.name, error)

    # Leases

    def _row(self, group: str, plural: str) -> Resource:
        row = self.server.table.lookup(group, "v1", plural)
        assert row is not None
        return row

    async def _renew(self) -> None:
        self._holder = self._holder or f"{self.name}_{uuid.uuid4()}"
        row = self._row("coordination.k8s.io", "leases")
        entry = await self.server.registry.find(row, NAMESPACE, self.name)
        own = self.own
        lease: Object = (
            entry.object()
            if entry
            else {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": self.name, "namespace": NAMESPACE},
            }
        )
        lease["metadata"]["labels"] = {
            IDENTITY_LABEL: "kube-apiserver",
            "kubernetes.io/hostname": socket.gethostname(),
        }
        lease["metadata"]["annotations"] = {SERVES_AT: f"{own[0]} {own[1]}"} if own else {}
        lease["spec"] = {
            "holderIdentity": self._holder,
            "leaseDurationSeconds": round(ALIVE),
            "renewTime": objects.micro_now(),
        }
        await self.server.registry.place(row, lease, entry.revision if entry else 0)

    async def _live(self) -> set[Address]:
        """Addresses of the servers whose Leases have changed of late."""
        row = self._row("coordination.k8s.io", "leases")
        await self.server.caches.confirm()
        cache = await self.server.caches.get(row)
        now = time.monotonic()
        live: set[Address] = set()
        seen: dict[str, tuple[str, float]] = {}
        for entry in list(cache.select(f"{row.prefix}{NAMESPACE}/apiserver-")):
            lease = entry.object()
            if IDENTITY_LABEL not in objects.labels(lease):
                continue
            renewed = lease["spec"].get("renewTime", "")
            before = self._seen.get(entry.name)
            since = before[1] if before and before[0] == renewed else now
            seen[entry.name] = (renewed, since)
            if time.time() - objects.parse_time(renewed).timestamp() > FORGET:
                await self._forget(entry.key, entry.revision)
            elif now - since < ALIVE:
                address, _, port = objects.annotations(lease).get(SERVES_AT, "").partition(" ")
                if address:
                    live.add((address, int(port)))
        self._seen = seen
        return live

    async def _forget(self, key: str, revision: int) -> None:
        try:
            await self.server.store.delete(key, expect=revision)
        except Conflict:
            return  # it lives, or another server was quicker

    # Endpoints

    async def _publish(self, live: Iterable[Address | None]) -> None:
        """The endpoints of `kubernetes` say exactly this on return, unless another server writes at the same moment."""
        by_port: dict[int, list[str]] = defaultdict(list)
        for address, port in sorted(filter(None, live)):
            by_port[port].append(address)
        endpoints = self._row("", "endpoints")
        await self._place(
            endpoints,
            {
                "kind": "Endpoints",
                "apiVersion": "v1",
                "metadata": {
                    "name": SERVICE,
                    "namespace": "default",
                    "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
                },
                "subsets": [
                    {
                        "addresses": [{"ip": address} for address in addresses],
                        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
                    }
                    for port, addresses in sorted(by_port.items())
                ],
            },
        )
        slices = self._row("discovery.k8s.io", "endpointslices")
        wanted = {
            self._slice_name(number, port): (port, addresses)
            for number, (port, addresses) in enumerate(sorted(by_port.items()))
        }
        for name, (port, addresses) in wanted.items():
            await self._place(slices, piece(name, port, addresses))
        cache = await self.server.caches.get(slices)
        for entry in list(cache.select(f"{slices.prefix}default/{SERVICE}-port-")):
            if entry.name not in wanted:
                await self._forget(entry.key, entry.revision)

    @staticmethod
    def _slice_name(number: int, port: int) -> str:
        """A slice has one set of ports; servers on other ports than the first are in slices of their own."""
        return f"{SERVICE}-port-{port}" if number else SERVICE

    async def _place(self, row: Resource, obj: Object) -> None:
        """Without validation: loopback is no valid endpoint for others, yet it is where a cluster on one machine is reached."""
        registry = self.server.registry
        entry = await registry.find(row, "default", obj["metadata"]["name"])
        if entry is None:
            await registry.place(row, obj)
            return
        present = entry.object()
        keys = ("subsets", "endpoints", "ports", "addressType")
        if any(present.get(key) != obj.get(key) for key in keys):
            wanted = {**present, **{key: obj[key] for key in keys if key in obj}}
            await registry.place(row, wanted, entry.revision)


def piece(name: str, port: int, addresses: list[str]) -> Object:
    return {
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": SERVICE},
        },
        "addressType": "IPv6" if ":" in addresses[0] else "IPv4",
        "endpoints": [
            {"addresses": [address], "conditions": {"ready": True}} for address in addresses
        ],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    }
