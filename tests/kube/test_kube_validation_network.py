"""Services, endpoints, ingresses, policies and address ranges: one thing changed, and what Kubernetes answers."""

from __future__ import annotations

from typing import Any

import pytest
from kube_tables import (
    DUPLICATE,
    FORBIDDEN,
    GONE,
    INVALID,
    LONG,
    MANY,
    REQUIRED,
    UNSUPPORTED,
    Object,
    Row,
    changed,
    check,
    of_create,
    of_update,
)


def of(
    api_version: str, kind: str, name: str = "x", *, cluster: bool = False, **more: Any
) -> Object:
    metadata = {"name": name} if cluster else {"name": name, "namespace": "default"}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **more}


SERVICE = of("v1", "Service", spec={
    "ports": [{"port": 80}], "clusterIP": "10.43.0.9", "clusterIPs": ["10.43.0.9"],
    "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
})  # fmt: skip
P = "spec.ports[0]"
SERVICES: list[Row] = [
    ({}, []),
    ({"metadata.name": "1a"}, []),
    ({"metadata.name": "a.b"}, [("metadata.name", INVALID)]),
    ({"spec.type": "x"}, [("spec.type", UNSUPPORTED)]),
    ({"spec.ports": []}, [("spec.ports", REQUIRED)]),
    ({"spec.ports": [], "spec.clusterIP": "None", "spec.clusterIPs": ["None"]}, []),
    ({f"{P}.port": 0}, [(f"{P}.port", INVALID), (f"{P}.targetPort", INVALID)]),
    ({f"{P}.port": 65536, f"{P}.targetPort": 1}, [(f"{P}.port", INVALID)]),
    ({f"{P}.targetPort": "a_b"}, [(f"{P}.targetPort", INVALID)]),
    ({f"{P}.protocol": "tcp"}, [(f"{P}.protocol", UNSUPPORTED)]),
    ({f"{P}.appProtocol": "a b"}, [(f"{P}.appProtocol", INVALID)]),
    ({f"{P}.name": "A"}, [(f"{P}.name", INVALID)]),
    ({"spec.ports[1]": {"port": 81}}, [(f"{P}.name", REQUIRED), ("spec.ports[1].name", REQUIRED)]),
    ({f"{P}.name": "a", "spec.ports[1]": {"port": 81, "name": "a"}},
     [("spec.ports[1].name", DUPLICATE)]),
    ({f"{P}.name": "a", "spec.ports[1]": {"port": 80, "name": "b"}}, [("spec.ports[1]", DUPLICATE)]),
    ({f"{P}.nodePort": 30000}, [(f"{P}.nodePort", FORBIDDEN)]),
    ({"spec.selector": {"a b": "c"}}, [("spec.selector", INVALID)]),
    ({"spec.sessionAffinity": "x"}, [("spec.sessionAffinity", UNSUPPORTED)]),
    ({"spec.sessionAffinity": "ClientIP", "spec.sessionAffinityConfig.clientIP.timeoutSeconds": 0},
     [("spec.sessionAffinityConfig.clientIP.timeoutSeconds", INVALID)]),
    ({"spec.sessionAffinityConfig.clientIP.timeoutSeconds": 5},
     []),  # taken away by defaulting
    ({"spec.clusterIPs": ["10.43.0.8"]}, [("spec.clusterIPs", INVALID)]),
    ({"spec.clusterIPs": ["10.43.0.9", "10.43.0.8"]}, [("spec.clusterIPs", INVALID)]),
    ({"spec.clusterIP": "x", "spec.clusterIPs": ["x"]}, [("spec.clusterIPs[0]", INVALID)]),
    ({"spec.ipFamilyPolicy": "x"}, [("spec.ipFamilyPolicy", UNSUPPORTED)]),
    ({"spec.ipFamilies": ["IPv5"]}, [("spec.ipFamilies[0]", UNSUPPORTED)]),
    ({"spec.ipFamilies": ["IPv4", "IPv4"]}, [("spec.ipFamilies[1]", DUPLICATE)]),
    ({"spec.ipFamilies": ["IPv6"]}, [("spec.clusterIPs[0]", INVALID)]),
    ({"spec.externalIPs": ["127.0.0.1"]}, [("spec.externalIPs[0]", INVALID)]),
    ({"spec.externalIPs": ["x"]}, [("spec.externalIPs[0]", INVALID)]),
    ({"spec.loadBalancerSourceRanges": ["10.0.0.0/8"]}, [("spec.LoadBalancerSourceRanges", FORBIDDEN)]),
    ({"spec.type": "LoadBalancer", "spec.loadBalancerSourceRanges": ["x"]},
     [("spec.LoadBalancerSourceRanges[0]", INVALID)]),
    ({"spec.loadBalancerClass": "a.b/c"}, [("spec.loadBalancerClass", FORBIDDEN)]),
    ({"spec.type": "LoadBalancer", "spec.loadBalancerClass": "a b"},
     [("spec.loadBalancerClass", INVALID)]),
    ({"spec.allocateLoadBalancerNodePorts": True},
     [("spec.allocateLoadBalancerNodePorts", FORBIDDEN)]),
    ({"spec.externalTrafficPolicy": "Local"}, [("spec.externalTrafficPolicy", INVALID)]),
    ({"spec.type": "NodePort", "spec.externalTrafficPolicy": "x"},
     [("spec.externalTrafficPolicy", UNSUPPORTED)]),
    ({"spec.internalTrafficPolicy": "x"}, [("spec.internalTrafficPolicy", UNSUPPORTED)]),
    ({"spec.healthCheckNodePort": 31000}, [("spec.healthCheckNodePort", INVALID)]),
    ({"spec.trafficDistribution": "x"}, [("spec.trafficDistribution", UNSUPPORTED)]),
    ({"spec.trafficDistribution": "PreferClose"}, []),
    ({"spec": {"type": "ExternalName", "externalName": "a.b"}}, []),
    ({"spec": {"type": "ExternalName"}}, [("spec.externalName", REQUIRED)]),
    ({"spec": {"type": "ExternalName", "externalName": "a_b"}}, [("spec.externalName", INVALID)]),
    ({"spec": {"type": "ExternalName", "externalName": "a", "clusterIP": "10.43.0.9",
               "clusterIPs": ["10.43.0.9"]}}, [("spec.clusterIPs", FORBIDDEN)]),
]  # fmt: skip
SERVICE_UPDATES: list[Row] = [
    ({"spec.selector": {"a": "b"}}, []),
    ({"spec.type": "NodePort"}, []),
    ({"spec.clusterIP": "10.43.0.8", "spec.clusterIPs": ["10.43.0.8"]},
     [("spec.clusterIPs[0]", INVALID)]),
    ({"spec.ipFamilies": ["IPv6"], "spec.clusterIP": "fd00::1", "spec.clusterIPs": ["fd00::1"]},
     [("spec.clusterIPs[0]", INVALID), ("spec.ipFamilies[0]", INVALID)]),
]  # fmt: skip

ENDPOINTS = of("v1", "Endpoints", subsets=[
    {"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80, "protocol": "TCP"}]}
])  # fmt: skip
E = "subsets[0]"
ENDPOINT_ROWS: list[Row] = [
    ({}, []),
    ({f"{E}.addresses": []}, [(E, REQUIRED)]),
    ({f"{E}.addresses[0].ip": "x"}, [(f"{E}.addresses[0].ip", INVALID)]),
    ({f"{E}.addresses[0].ip": "127.0.0.1"}, []),  # where rootless pods live
    ({f"{E}.addresses[0].ip": "169.254.1.1"}, [(f"{E}.addresses[0].ip", INVALID)]),
    ({f"{E}.addresses[0].ip": "224.0.0.1"}, [(f"{E}.addresses[0].ip", INVALID)]),
    ({f"{E}.addresses[0].hostname": "a.b"}, [(f"{E}.addresses[0].hostname", INVALID)]),
    ({f"{E}.ports[0].port": 0}, [(f"{E}.ports[0].port", INVALID)]),
    ({f"{E}.ports[0].protocol": "x"}, [(f"{E}.ports[0].protocol", UNSUPPORTED)]),
    ({f"{E}.ports[1]": {"port": 81, "protocol": "TCP"}},
     [(f"{E}.ports[0].name", REQUIRED), (f"{E}.ports[1].name", REQUIRED)]),
]  # fmt: skip

SLICE = of("discovery.k8s.io/v1", "EndpointSlice", addressType="IPv4",
           endpoints=[{"addresses": ["10.0.0.1"]}], ports=[{"port": 80, "name": "a"}])  # fmt: skip
SLICES: list[Row] = [
    ({}, []),
    ({"addressType": "x"}, [("addressType", UNSUPPORTED)]),
    ({"addressType": GONE}, [("addressType", REQUIRED)]),
    ({"endpoints[0].addresses": []}, [("endpoints[0].addresses", REQUIRED)]),
    ({"endpoints[0].addresses": ["10.0.0.1"] * 101}, [("endpoints[0].addresses", MANY)]),
    ({"endpoints[0].addresses": ["::1"]}, [("endpoints[0].addresses", INVALID)]),
    ({"endpoints[0].addresses": ["127.0.0.1"]}, []),
    ({"endpoints[0].addresses": ["169.254.1.1"]}, [("endpoints[0].addresses[0]", INVALID)]),
    ({"endpoints": [{"addresses": ["10.0.0.1"]}] * 1001}, [("endpoints", MANY)]),
    ({"addressType": "FQDN", "endpoints[0].addresses": ["a"]},
     [("endpoints[0].addresses[0]", INVALID)]),
    ({"addressType": "FQDN", "endpoints[0].addresses": ["a.b."]}, []),
    ({"endpoints[0].hostname": "A"}, [("endpoints[0].hostname", INVALID)]),
    ({"endpoints[0].nodeName": "A"}, [("endpoints[0].nodeName", INVALID)]),
    ({"endpoints[0].hints.forZones": [{"name": "a"}] * 9}, [("endpoints[0].hints.forZones", MANY)]),
    ({"endpoints[0].hints.forZones": [{"name": "a"}, {"name": "a"}]},
     [("endpoints[0].hints.forZones[1].name", DUPLICATE)]),
    ({"ports[0].protocol": "x"}, [("ports[0].protocol", UNSUPPORTED)]),
    ({"ports[1]": {"port": 81, "name": "a"}}, [("ports[1].name", DUPLICATE)]),
    ({"ports[0].name": "A"}, [("ports[0].name", INVALID)]),
    ({"ports[0].appProtocol": "a b"}, [("ports[0].appProtocol", INVALID)]),
]  # fmt: skip

INGRESS = of("networking.k8s.io/v1", "Ingress", spec={"rules": [
    {"host": "a.b", "http": {"paths": [
        {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "s", "port": {"number": 80}}}}
    ]}}
]})  # fmt: skip
HTTP = "spec.rules[0].http.paths[0]"
INGRESSES: list[Row] = [
    ({}, []),
    ({"spec": {}}, [("spec", INVALID)]),
    ({"spec.rules[0].host": "10.0.0.1"}, [("spec.rules[0].host", INVALID)]),
    ({"spec.rules[0].host": "*.b"}, []),
    ({"spec.rules[0].host": "a.*.b"}, [("spec.rules[0].host", INVALID)]),
    ({"spec.rules[0].http.paths": []}, [("spec.rules[0].http.paths", REQUIRED)]),
    ({f"{HTTP}.pathType": GONE}, [(f"{HTTP}.pathType", REQUIRED)]),
    ({f"{HTTP}.pathType": "x"}, [(f"{HTTP}.pathType", UNSUPPORTED)]),
    ({f"{HTTP}.path": "a"}, [(f"{HTTP}.path", INVALID)]),
    ({f"{HTTP}.path": "/a//b"}, [(f"{HTTP}.path", INVALID)]),
    ({f"{HTTP}.path": "/a/.."}, [(f"{HTTP}.path", INVALID)]),
    ({f"{HTTP}.path": "/a/../b"}, [(f"{HTTP}.path", INVALID)]),
    ({f"{HTTP}.path": "/%2f"}, [(f"{HTTP}.path", INVALID)]),
    ({f"{HTTP}.path": GONE, f"{HTTP}.pathType": "ImplementationSpecific"}, []),
    ({f"{HTTP}.backend": {}}, [(f"{HTTP}.backend", INVALID)]),
    ({f"{HTTP}.backend.resource": {"kind": "a", "name": "b"}}, [(f"{HTTP}.backend", INVALID)]),
    ({f"{HTTP}.backend": {"resource": {"kind": "", "name": ""}}},
     [(f"{HTTP}.backend.resource.kind", REQUIRED), (f"{HTTP}.backend.resource.name", REQUIRED)]),
    ({f"{HTTP}.backend.service.name": ""}, [(f"{HTTP}.backend.service.name", REQUIRED)]),
    ({f"{HTTP}.backend.service.name": "1a"}, []),
    ({f"{HTTP}.backend.service.name": "A"}, [(f"{HTTP}.backend.service.name", INVALID)]),
    ({f"{HTTP}.backend.service.port": {}}, [(f"{HTTP}.backend", REQUIRED)]),
    ({f"{HTTP}.backend.service.port": {"name": "a", "number": 1}}, [(f"{HTTP}.backend", INVALID)]),
    ({f"{HTTP}.backend.service.port": {"name": "a_b"}}, [(f"{HTTP}.backend.service.port.name", INVALID)]),
    ({f"{HTTP}.backend.service.port": {"number": 65536}},
     [(f"{HTTP}.backend.service.port.number", INVALID)]),
    ({"spec.tls": [{"hosts": ["A"], "secretName": "B"}]},
     [("spec.tls[0].hosts[0]", INVALID), ("spec.tls[0].secretName", INVALID)]),
    ({"spec.ingressClassName": "A"}, [("spec.ingressClassName", INVALID)]),
    ({"spec.ingressClassName": "a", "metadata.annotations": {"kubernetes.io/ingress.class": "b"}},
     [("annotations.kubernetes.io/ingress.class", INVALID)]),
    ({"spec.ingressClassName": "a", "metadata.annotations": {"kubernetes.io/ingress.class": "a"}}, []),
]  # fmt: skip
INGRESS_STATUS: list[Row] = [
    ({"status.loadBalancer.ingress": [{"ip": "10.0.0.1"}, {"hostname": "a.b"}]}, []),
    ({"status.loadBalancer.ingress": [{"ip": "x"}]},
     [("status.loadBalancer.ingress[0].ip", INVALID)]),
    ({"status.loadBalancer.ingress": [{"hostname": "10.0.0.1"}]},
     [("status.loadBalancer.ingress[0].hostname", INVALID)]),
]  # fmt: skip

CLASS = of("networking.k8s.io/v1", "IngressClass", cluster=True, spec={"controller": "a.b/c"})
R = "spec.parameters"
CLASSES: list[Row] = [
    ({}, []),
    ({"spec.controller": ""}, [("spec.controller", REQUIRED)]),
    ({"spec.controller": "a"}, [("spec.controller", INVALID)]),
    ({"spec.controller": "a.b/" + "c" * 250}, [("spec.controller", LONG)]),
    ({R: {"kind": "A", "name": "b"}}, []),
    ({R: {"kind": "", "name": ""}}, [(f"{R}.kind", REQUIRED), (f"{R}.name", REQUIRED)]),
    ({R: {"kind": "A", "name": "b", "scope": "x"}}, [(f"{R}.scope", UNSUPPORTED)]),
    ({R: {"kind": "A", "name": "b", "scope": "Namespace"}}, [(f"{R}.namespace", REQUIRED)]),
    ({R: {"kind": "A", "name": "b", "namespace": "c"}}, [(f"{R}.namespace", FORBIDDEN)]),
]
CLASS_UPDATES: list[Row] = [({"spec.controller": "a.b/d"}, [("spec.controller", INVALID)])]

POLICY = of("networking.k8s.io/v1", "NetworkPolicy", spec={
    "podSelector": {}, "ingress": [{"from": [{"podSelector": {}}], "ports": [{"port": 80}]}]
})  # fmt: skip
N = "spec.ingress[0]"
POLICIES: list[Row] = [
    ({}, []),
    ({"spec.podSelector": {"matchLabels": {"a b": "c"}}}, [("spec.podSelector.matchLabels", INVALID)]),
    ({f"{N}.ports[0].port": 0}, [(f"{N}.ports[0].port", INVALID)]),
    ({f"{N}.ports[0].port": "a_b"}, [(f"{N}.ports[0].port", INVALID)]),
    ({f"{N}.ports[0].protocol": "x"}, [(f"{N}.ports[0].protocol", UNSUPPORTED)]),
    ({f"{N}.ports[0].endPort": 79}, [(f"{N}.ports[0].endPort", INVALID)]),
    ({f"{N}.ports[0].endPort": 90}, []),
    ({f"{N}.ports[0]": {"endPort": 90}}, [(f"{N}.ports[0].endPort", INVALID)]),
    ({f"{N}.ports[0]": {"port": "http", "endPort": 90}}, [(f"{N}.ports[0].endPort", INVALID)]),
    ({f"{N}.from[0]": {}}, [(f"{N}.from[0]", REQUIRED)]),
    ({f"{N}.from[0].ipBlock": {"cidr": "10.0.0.0/8"}}, [(f"{N}.from[0]", FORBIDDEN)]),
    ({f"{N}.from[0]": {"ipBlock": {"cidr": ""}}}, [(f"{N}.from[0].ipBlock.cidr", REQUIRED)]),
    ({f"{N}.from[0]": {"ipBlock": {"cidr": "x"}}}, [(f"{N}.from[0].ipBlock.cidr", INVALID)]),
    ({f"{N}.from[0]": {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}}, []),
    ({f"{N}.from[0]": {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}},
     [(f"{N}.from[0].ipBlock.except[0]", INVALID)]),
    ({f"{N}.from[0]": {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}}},
     [(f"{N}.from[0].ipBlock.except[0]", INVALID)]),
    ({"spec.policyTypes": ["x"]}, [("spec.policyTypes[0]", UNSUPPORTED)]),
    ({"spec.policyTypes": ["Ingress", "Egress", "Ingress"]}, [("spec.policyTypes", INVALID)]),
]  # fmt: skip

RANGE = of("networking.k8s.io/v1", "ServiceCIDR", cluster=True, spec={"cidrs": ["10.0.0.0/16"]})
RANGES: list[Row] = [
    ({}, []),
    ({"spec.cidrs": ["10.0.0.0/16", "fd00::/64"]}, []),
    ({"spec.cidrs": []}, [("spec.cidrs", REQUIRED)]),
    ({"spec.cidrs": ["10.0.0.0/16", "10.1.0.0/16"]}, [("spec.cidrs", INVALID)]),
    ({"spec.cidrs": ["10.0.0.0/16"] * 3}, [("spec.cidrs", INVALID)]),
    ({"spec.cidrs": ["10.0.0.1/16"]}, [("spec.cidrs[0]", INVALID)]),
    ({"spec.cidrs": ["x"]}, [("spec.cidrs[0]", INVALID)]),
]
RANGE_UPDATES: list[Row] = [
    ({"spec.cidrs": ["10.0.0.0/16", "fd00::/64"]}, []),
    ({"spec.cidrs": ["10.1.0.0/16", "fd00::/64"]}, [("spec.cidrs[0]", INVALID)]),
    ({"spec.cidrs": ["10.1.0.0/16"]}, [("spec.cidrs[0]", INVALID)]),
]
ADDRESS = of("networking.k8s.io/v1", "IPAddress", "10.0.0.1", cluster=True, spec={
    "parentRef": {"resource": "services", "namespace": "default", "name": "s"}
})  # fmt: skip
ADDRESSES: list[Row] = [
    ({}, []),
    ({"metadata.name": "fd00::1"}, []),
    ({"metadata.name": "fd00:0::1"}, [("metadata.name", INVALID)]),
    ({"metadata.name": "a"}, [("metadata.name", INVALID)]),
    ({"spec.parentRef": GONE}, [("spec.parentRef", REQUIRED)]),
    ({"spec.parentRef.resource": ""}, [("spec.parentRef.resource", REQUIRED)]),
    ({"spec.parentRef.name": "a/b"}, [("spec.parentRef.name", INVALID)]),
    ({"spec.parentRef.group": "A"}, [("spec.parentRef.group", INVALID)]),
]
ADDRESS_UPDATES: list[Row] = [({"spec.parentRef.name": "t"}, [("spec.parentRef", INVALID)])]


@pytest.mark.parametrize(
    ("base", "rows"),
    [(SERVICE, SERVICES), (ENDPOINTS, ENDPOINT_ROWS), (SLICE, SLICES), (INGRESS, INGRESSES),
     (CLASS, CLASSES), (POLICY, POLICIES), (RANGE, RANGES), (ADDRESS, ADDRESSES)],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)  # fmt: skip
def test_new(base: Object, rows: list[Row]) -> None:
    check(rows, of_create, base)


@pytest.mark.parametrize(
    ("base", "rows"),
    [(SERVICE, SERVICE_UPDATES), (CLASS, CLASS_UPDATES), (RANGE, RANGE_UPDATES),
     (ADDRESS, ADDRESS_UPDATES), (SLICE, [({"addressType": "FQDN", "endpoints": []},
                                           [("addressType", INVALID)])])],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)  # fmt: skip
def test_changed(base: Object, rows: list[Row]) -> None:
    check(rows, of_update, base)


def test_a_policy_keeps_networks_in_old_forms() -> None:
    """A form that is refused by now may stay, and be used again, where the policy had it."""
    old = {"cidr": "10.0.0.1/8", "except": ["10.1.0.1/16"]}
    had = of_create(POLICY, {f"{N}.from[0]": {"ipBlock": old}})
    assert [cause.field for cause in had] == [
        f"{N}.from[0].ipBlock.cidr",
        f"{N}.from[0].ipBlock.except[0]",
    ]
    base = changed(POLICY, {f"{N}.from[0]": {"ipBlock": old}})
    more = {**old, "except": ["10.1.0.1/16", "10.2.0.1/16", "11.0.0.0/16"]}
    fields = [cause.field for cause in of_update(base, {f"{N}.from[0]": {"ipBlock": more}})]
    assert fields == [f"{N}.from[0].ipBlock.except[1]", f"{N}.from[0].ipBlock.except[2]"]


def test_a_slice_keeps_endpoints_in_old_forms() -> None:
    old = changed(SLICE, {"endpoints": [{"addresses": ["010.0.0.1"]}]})
    assert [cause.field for cause in of_create(old, {})] == ["endpoints[0].addresses[0]"]
    assert of_update(old, {"metadata.labels": {"a": "b"}}) == []
    more = {"endpoints": [{"addresses": ["010.0.0.1"]}, {"addresses": ["10.0.0.2"]}]}
    assert [cause.field for cause in of_update(old, more)] == ["endpoints[0].addresses[0]"]


def test_status_of_an_ingress() -> None:
    check(INGRESS_STATUS, lambda base, changes: of_update(base, changes, "status"), INGRESS)
