"""networking.k8s.io/v1 and discovery.k8s.io/v1."""

from __future__ import annotations

from sampan.apiserver.resources.model import Resource, resource, status

GROUP = "networking.k8s.io"

RESOURCES: tuple[Resource, ...] = (
    resource(
        GROUP,
        "v1",
        "ingressclasses",
        "IngressClass",
        namespaced=False,
        generation=True,
    ),
    resource(
        GROUP,
        "v1",
        "ingresses",
        "Ingress",
        short_names=("ing",),
        subresources=(status("Ingress"),),
        generation=True,
    ),
    resource(
        GROUP,
        "v1",
        "ipaddresses",
        "IPAddress",
        namespaced=False,
        short_names=("ip",),
        selectable=("spec.parentRef",),
    ),
    resource(
        GROUP, "v1", "networkpolicies", "NetworkPolicy", short_names=("netpol",), generation=True
    ),
    resource(
        GROUP,
        "v1",
        "servicecidrs",
        "ServiceCIDR",
        namespaced=False,
        subresources=(status("ServiceCIDR"),),
    ),
    resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", generation=True),
)
