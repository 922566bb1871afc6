"""Defaults of networking.k8s.io and discovery.k8s.io."""

from __future__ import annotations

from sampan.kube.defaulting.fill import Object, each, sub, unset


def _network_policy(policy: Object) -> None:
    spec = sub(policy, "spec")
    for rule in (*each(spec, "ingress"), *each(spec, "egress")):
        for port in each(rule, "ports"):
            unset(port, protocol="TCP")
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]


def _ingress_class(ingress_class: Object) -> None:
    if parameters := (ingress_class.get("spec") or {}).get("parameters"):
        unset(parameters, scope="Cluster")


def _endpoint_slice(endpoint_slice: Object) -> None:
    for port in each(endpoint_slice, "ports"):
        unset(port, name="", protocol="TCP")


DEFAULTS = {
    ("networking.k8s.io", "NetworkPolicy"): _network_policy,
    ("networking.k8s.io", "IngressClass"): _ingress_class,
    ("discovery.k8s.io", "EndpointSlice"): _endpoint_slice,
}
