"""Defaults of the core group, pods apart."""

from __future__ import annotations

from base64 import b64encode
from typing import Any, Final

from sampan.kube import objects
from sampan.kube.defaulting import pods
from sampan.kube.defaulting.fill import Object, each, empty, sub, unset
from sampan.kube.defaulting.storage import default_claim, default_volume

SESSION_SECONDS: Final = 10_800
METADATA_NAME_LABEL: Final = "kubernetes.io/metadata.name"


def _service(service: Object) -> None:
    spec = sub(service, "spec")
    empty(spec, sessionAffinity="None", type="ClusterIP")
    if spec["sessionAffinity"] == "None":
        spec.pop("sessionAffinityConfig", None)
    elif spec["sessionAffinity"] == "ClientIP":
        client_ip = sub(sub(spec, "sessionAffinityConfig"), "clientIP")
        unset(client_ip, timeoutSeconds=SESSION_SECONDS)
    for port in each(spec, "ports"):
        empty(port, protocol="TCP", targetPort=port.get("port", 0))
    kind = spec["type"]
    if kind in ("NodePort", "LoadBalancer") or (kind == "ClusterIP" and spec.get("externalIPs")):
        empty(spec, externalTrafficPolicy="Cluster")
    if kind in ("ClusterIP", "NodePort", "LoadBalancer"):
        unset(spec, internalTrafficPolicy="Cluster")
    if kind == "LoadBalancer":
        unset(spec, allocateLoadBalancerNodePorts=True)
        balancer = (service.get("status") or {}).get("loadBalancer")
        for ingress in each(balancer, "ingress"):
            if ingress.get("ip"):
                unset(ingress, ipMode="VIP")
    unset(service, status={"loadBalancer": {}})


def _secret(secret: Object) -> None:
    empty(secret, type="Opaque")
    plain = secret.pop("stringData", None)
    if plain:
        data = sub(secret, "data")
        for key, text in plain.items():
            data[key] = b64encode(text.encode("utf-8", "surrogatepass")).decode()


def _endpoints(endpoints: Object) -> None:
    for subset in each(endpoints, "subsets"):
        for port in each(subset, "ports"):
            empty(port, protocol="TCP")


def _namespace(namespace: Object) -> None:
    if name := objects.name(namespace):
        sub(sub(namespace, "metadata"), "labels")[METADATA_NAME_LABEL] = name
    empty(sub(namespace, "status"), phase="Active")


def _node(node: Object) -> None:
    status = sub(node, "status")
    if status.get("allocatable") is None and status.get("capacity"):
        status["allocatable"] = dict(status["capacity"])


def _limit_range(limit_range: Object) -> None:
    """For containers: limits default to the maximum, requests to the limits, then to the minimum."""
    for item in each(limit_range.get("spec"), "limits"):
        if item.get("type") != "Container":
            continue
        limits, requests = dict(item.get("default") or {}), dict(item.get("defaultRequest") or {})
        for name, amount in (item.get("max") or {}).items():
            limits.setdefault(name, amount)
        for amounts in (limits, item.get("min") or {}):
            for name, amount in amounts.items():
                requests.setdefault(name, amount)
        if limits:
            item["default"] = limits
        if requests:
            item["defaultRequest"] = requests


def _replication_controller(controller: Object) -> None:
    spec = sub(controller, "spec")
    labels: dict[str, Any] = objects.labels(spec.get("template") or {})
    if labels:
        empty(spec, selector=labels)
        empty(sub(controller, "metadata"), labels=labels)
    unset(spec, replicas=1)
    if spec.get("template") is not None:  # here, and only here, a pointer
        pods.default_template(spec)


DEFAULTS = {
    ("", "Pod"): pods.default_pod,
    ("", "PodTemplate"): pods.default_template,
    ("", "Service"): _service,
    ("", "Secret"): _secret,
    ("", "Endpoints"): _endpoints,
    ("", "Namespace"): _namespace,
    ("", "Node"): _node,
    ("", "LimitRange"): _limit_range,
    ("", "ReplicationController"): _replication_controller,
    ("", "PersistentVolume"): default_volume,
    ("", "PersistentVolumeClaim"): default_claim,
}
