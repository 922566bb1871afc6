"""Objects that a cluster has from its first moment: namespaces, priority classes, service range and service, roles.

All is written through the server's own pipeline, by a user of the server itself, so that it is defaulted and validated like
anything else. Idempotent: what is there stays as it is, but for the addresses of the `kubernetes` endpoints.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

import orjson

from sampan.apiserver.ensure_rbac import ensure_rbac
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
    address = config.advertise or config.address
    if address in ("0.0.0.0", "::"):
        return  # which address others reach it at is not known
    endpoints = {
        "kind": "Endpoints",
        "apiVersion": "v1",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [
            {
                "addresses": [{"ip": address}],
                "ports": [{"name": "https", "port": server.port, "protocol": "TCP"}],
            }
        ],
    }
    piece = {
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": "IPv6" if ":" in address else "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
        "ports": [{"name": "https", "port": server.port, "protocol": "TCP"}],
    }
    # Loopback is no valid endpoint for others, yet it is where a cluster on one machine is reached.
    for path, row, obj in (
        ("/api/v1/namespaces/default/endpoints", ("", "v1", "endpoints"), endpoints),
        (
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
            ("discovery.k8s.io", "v1", "endpointslices"),
            piece,
        ),
    ):
        await _place(server, path, row, obj)


async def _place(
    server: APIServer, path: str, row: tuple[str, str, str], obj: dict[str, Any]
) -> None:
    """Make the object say exactly this, without validation: the server knows its own address."""
    resource = server.table.lookup(*row)
    assert resource is not None
    entry = await server.registry.find(resource, "default", "kubernetes")
    if entry is None:
        await server.registry.place(resource, obj)
        return
    present = entry.object()
    keys = ("subsets", "endpoints", "ports", "addressType")
    if any(present.get(key) != obj.get(key) for key in keys):
        await server.registry.place(
            resource, {**present, **{k: obj[k] for k in keys if k in obj}}, entry.revision
        )


async def _ensure(server: APIServer, path: str, obj: dict[str, Any]) -> None:
    request = Request(
        "POST",
        path,
        headers={"content-type": "application/json"},
        body=orjson.dumps(obj),
        user=SELF,
    )
    name = obj["metadata"]["name"]
    found = await server.handle(Request("GET", f"{path}/{name}", user=SELF))
    if found.status == 200:
        return
    response = await server.handle(request)
    if response.status >= 400 and response.status != 409:
        raise ApiError.from_status(response.json())
