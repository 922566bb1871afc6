"""APIService objects as pure data: which server answers for a group version, and what is said of it.

A local one stands for what this server serves itself, and always says Available. A remote one names a Service; requests
for its group version are passed on to it. (https://kubernetes.io/docs/concepts/extend-kubernetes/api-extension/)
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sampan.kube import objects
from sampan.kube.types import GVR

Object = dict[str, Any]
GROUP = "apiregistration.k8s.io"
APISERVICES = GVR(GROUP, "v1", "apiservices")
AUTOMANAGED = "kube-aggregator.kubernetes.io/automanaged"
AVAILABLE = "Available"
DEFAULT_PORT = 443

# group → (groupPriorityMinimum, version → versionPriority; 15 when not named), as kube-apiserver registers them.
PRIORITIES: dict[str, tuple[int, dict[str, int]]] = {
    "": (18000, {"v1": 1}),
    "apps": (17800, {}),
    "events.k8s.io": (17750, {}),
    "authentication.k8s.io": (17700, {}),
    "authorization.k8s.io": (17600, {}),
    "autoscaling": (17500, {"v2": 30}),
    "batch": (17400, {}),
    "certificates.k8s.io": (17300, {}),
    "networking.k8s.io": (17200, {}),
    "policy": (17100, {}),
    "rbac.authorization.k8s.io": (17000, {}),
    "storage.k8s.io": (16800, {}),
    "apiextensions.k8s.io": (16700, {}),
    "admissionregistration.k8s.io": (16700, {}),
    "scheduling.k8s.io": (16600, {}),
    "coordination.k8s.io": (16500, {}),
    "node.k8s.io": (16300, {}),
    "discovery.k8s.io": (16200, {}),
    "flowcontrol.apiserver.k8s.io": (16100, {"v1": 21}),
    "resource.k8s.io": (16000, {}),
    "metrics.k8s.io": (100, {"v1beta1": 100}),
}
CUSTOM_PRIORITY = (1000, 100)  # of groups that CustomResourceDefinitions bring


@dataclass(frozen=True, slots=True)
class Remote:
    """A server that answers for a group version."""

    name: str
    group: str
    version: str
    namespace: str
    service: str
    port: int
    bundle: bytes  # PEM of its authorities; none: those of the system
    insecure: bool
    group_priority: int
    version_priority: int

    @property
    def server_name(self) -> str:
        """What its certificate must say."""
        return f"{self.service}.{self.namespace}.svc"

    @property
    def path(self) -> str:
        return f"/apis/{self.group}/{self.version}"


def remote_of(obj: Object) -> Remote | None:
    """None for a local one."""
    spec = obj.get("spec") or {}
    service = spec.get("service")
    if not service:
        return None
    try:
        bundle = base64.b64decode(spec.get("caBundle") or "", validate=True)
    except (binascii.Error, ValueError):
        bundle = b""
    return Remote(
        objects.name(obj),
        spec.get("group", ""),
        spec.get("version", ""),
        service.get("namespace", ""),
        service.get("name", ""),
        service.get("port") or DEFAULT_PORT,
        bundle,
        bool(spec.get("insecureSkipTLSVerify")),
        spec.get("groupPriorityMinimum", 0),
        spec.get("versionPriority", 0),
    )


def service_name(group: str, version: str) -> str:
    return f"{version}.{group}"


def local_services(
    served: Iterable[tuple[str, list[str]]], custom: Iterable[str]
) -> dict[str, Object]:
    """By name: what this server serves, as APIServices. `served` is in the order of preference."""
    found: dict[str, Object] = {}
    groups = set(custom)
    for group, versions in served:
        for place, version in enumerate(versions):
            minimum, priorities = PRIORITIES.get(group, (CUSTOM_PRIORITY[0], {}))
            priority = priorities.get(version, 15)
            if group in groups:
                minimum, priority = CUSTOM_PRIORITY[0], CUSTOM_PRIORITY[1] - place
            name = service_name(group, version)
            found[name] = {
                "apiVersion": f"{GROUP}/v1",
                "kind": "APIService",
                "metadata": {
                    "name": name,
                    "labels": {AUTOMANAGED: "true" if group in groups else "onstart"},
                },
                "spec": {
                    **({"group": group} if group else {}),
                    "version": version,
                    "groupPriorityMinimum": minimum,
                    "versionPriority": max(1, priority),
                },
                "status": {"conditions": [local_condition()]},
            }
    return found


def local_condition() -> Object:
    return condition(True, "Local", "Local APIServices are always available")


def condition(available: bool, reason: str, message: str) -> Object:
    return {
        "type": AVAILABLE,
        "status": "True" if available else "False",
        "lastTransitionTime": objects.now(),
        "reason": reason,
        "message": message,
    }


def is_local(obj: Object) -> bool:
    return not (obj.get("spec") or {}).get("service")


def is_automanaged(obj: Object) -> bool:
    return AUTOMANAGED in objects.labels(obj)


def reachable(
    remote: Remote, service: Object | None, slices: Iterable[Object]
) -> tuple[str, str] | None:
    """Why the Service leads nowhere: reason and message of the condition; None when it leads somewhere."""
    where = f'service/{remote.service} in "{remote.namespace}"'
    if service is None:
        return "ServiceNotFound", f"{where} is not present"
    spec = service.get("spec") or {}
    if spec.get("type") == "ExternalName":
        return None
    ports = [each for each in spec.get("ports") or () if each.get("port") == remote.port]
    if not ports:
        return "ServicePortError", f"{where} is not listening on port {remote.port}"
    known = list(slices)
    if not known:
        return "EndpointsNotFound", f"cannot find endpointslices for {where}"
    name = ports[0].get("name") or ""
    for piece in known:
        named = any((each.get("name") or "") == name for each in piece.get("ports") or ())
        ready = any(
            (each.get("conditions") or {}).get("ready") is not False
            for each in piece.get("endpoints") or ()
        )
        if named and ready:
            return None
    return (
        "MissingEndpoints",
        f'endpointslices for {where} have no addresses with port name "{name}"',
    )
