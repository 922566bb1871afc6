"""Objects that a cluster has from its first moment: namespaces, priority classes, service range and service, roles.

All is written through the server's own pipeline, by a user of the server itself, so that it is defaulted and validated like
anything else. Idempotent: what is there stays as it is, but for the addresses of the `kubernetes` endpoints.
"""

from __future__ import annotations

import asyncio
import ipaddress
from typing import TYPE_CHECKING, Any

import orjson

from sampan.apiserver.ensure_rbac import ensure_rbac
from sampan.apiserver.flowcontrol import lay_down
from sampan.apiserver.strategies.repair import repair
from sampan.client.transport import Request, User
from sampan.kube.errors import ApiError

if TYPE_CHECKING:
    from sampan.apiserver.server import APIServer

SELF = User("system:apiserver", ("system:masters",))
NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
# The two classes of KEP-564; their values are above what users may set.
PRIORITIES = (
    (
        "system-node-critical",
        2000001000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        2000000000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
)
TRIES = 20
PAUSE = 0.1  # seconds
LABELS = {"component": "apiserver", "provider": "kubernetes"}


async def bootstrap(server: APIServer) -> None:
    """Write what is missing."""
    for name in NAMESPACES:
        await _ensure(
            server,
            "/api/v1/namespaces",
            {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name}},
        )
    for name, value, description in PRIORITIES:
        await _ensure(
            server,
            "/apis/scheduling.k8s.io/v1/priorityclasses",
            {
                "kind": "PriorityClass",
                "apiVersion": "scheduling.k8s.io/v1",
                "metadata": {"name": name},
                "value": value,
                "globalDefault": False,
                "description": description,
                "preemptionPolicy": "PreemptLowerPriority",
            },
        )
    await _service_range(server)
    await repair(server.registry)
    await _kubernetes_service(server)
    await lay_down(server)
    await server.aggregator.lay_down()
    if server.config.authorization:
        await ensure_rbac(server.handle)


async def _service_range(server: APIServer) -> None:
    """The configured range as the ServiceCIDR `kubernetes`, ready at once: the first Service needs it (KEP-1880)."""
    path = "/apis/networking.k8s.io/v1/servicecidrs"
    await _ensure(
        server,
        path,
        {
            "kind": "ServiceCIDR",
            "apiVersion": "networking.k8s.io/v1",
            "metadata": {"name": "kubernetes"},
            "spec": {"cidrs": [server.config.service_cidr]},
        },
    )


async def _kubernetes_service(server: APIServer) -> None:
    """The API server as pods see it: first address of the service range, port 443."""
    config = server.config
    network = ipaddress.ip_network(config.service_cidr)
    await _ensure(
        server,
        "/api/v1/namespaces/default/services",
        {
            "kind": "Service",
            "apiVersion": "v1",
            "metadata": {"name": "kubernetes", "labels": LABELS},
            "spec": {
                "type": "ClusterIP",
                "clusterIP": str(network.network_address + 1),
                "ports": [
                    {"name": "https", "protocol": "TCP", "port": 443, "targetPort": server.port}
                ],
                "sessionAffinity": "None",
            },
        },
    )
    await server.peers.join()


async def _ensure(server: APIServer, path: str, obj: dict[str, Any]) -> None:
    request = Request(
        "POST",
        path,
        headers={"content-type": "application/json"},
        body=orjson.dumps(obj),
        user=SELF,
    )
    name = obj["metadata"]["name"]
    for attempt in range(TRIES):
        found = await server.handle(Request("GET", f"{path}/{name}", user=SELF))
        if found.status == 200:
            return
        response = await server.handle(request)
        if response.status < 400 or response.status == 409:
            return
        if not server.store.shared or attempt == TRIES - 1:
            raise ApiError.from_status(response.json())
        # Another server, starting too, may hold the address of the Service that it is about to write.
        await asyncio.sleep(PAUSE)
