"""EndpointSlice and Endpoints controllers: where the pods behind each Service can be reached, now.

The plan (`plan_slices`, `wanted_endpoints`) is pure: a Service, its pods and its slices in, what to write out. The controllers
write the difference. Slices hold at most 100 endpoints, one set a distinct list of port numbers (a named `targetPort` may
differ from pod to pod) and address family. An endpoint stays in its slice, so that a pod that becomes ready changes one
slice and not the ones after it, as KEP-752 asks.
"""

from __future__ import annotations

import hashlib
import ipaddress
import itertools
from collections.abc import Iterable
from typing import Any

import orjson

from sampan.client.resources import ENDPOINTS, ENDPOINTSLICES, PODS, SERVICES
from sampan.controllers.base import Context, Controller, Key, Object, Requeue, Watch
from sampan.kube.errors import ApiError
from sampan.kube.objects import condition_true, is_deleting, labels, owner_reference, pod_finished

SERVICE_NAME = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
MANAGER = "endpointslice-controller.k8s.io"
OVER_CAPACITY = "endpoints.kubernetes.io/over-capacity"
HEADLESS = "service.kubernetes.io/headless"
SLICE_SIZE = 100
ENDPOINTS_SIZE = 1000

Port = tuple[str, str, int, str]  # name, protocol, number, appProtocol


def addresses(pod: Object) -> list[str]:
    status = pod.get("status") or {}
    found = [item["ip"] for item in status.get("podIPs") or () if item.get("ip")]
    return found or ([status["podIP"]] if status.get("podIP") else [])


def family(address: str) -> str:
    return f"IPv{ipaddress.ip_address(address).version}"


def resolve_ports(service: Object, pod: Object) -> list[Port]:
    """The service's ports as numbers on this pod. A named port that the pod does not have is left out."""
    result = []
    for port in service["spec"].get("ports") or ():
        protocol = port.get("protocol", "TCP")
        target = port.get("targetPort") or port["port"]
        number = target if isinstance(target, int) else named_port(pod, target, protocol)
        if number is not None:
            result.append((port.get("name", ""), protocol, number, port.get("appProtocol", "")))
    return result


def named_port(pod: Object, name: str, protocol: str) -> int | None:
    spec = pod["spec"]
    sidecars = [c for c in spec.get("initContainers") or () if c.get("restartPolicy") == "Always"]
    for container in [*spec["containers"], *sidecars]:
        for port in container.get("ports") or ():
            if port.get("name") == name and port.get("protocol", "TCP") == protocol:
                return int(port["containerPort"])
    return None


def endpoint(service: Object, pod: Object, address: str) -> Object:
    """One endpoint of a slice. `ready` is never true of a terminating pod unless unready ones are published too."""
    publish = bool(service["spec"].get("publishNotReadyAddresses"))
    serving = condition_true(pod, "Ready")
    terminating = is_deleting(pod)
    metadata, spec = pod["metadata"], pod["spec"]
    result: Object = {
        "addresses": [address],
        "conditions": {
            "ready": publish or (serving and not terminating),
            "serving": serving,
            "terminating": terminating,
        },
        "targetRef": {
            "kind": "Pod",
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
        },
    }
    if spec.get("nodeName"):
        result["nodeName"] = spec["nodeName"]
    if spec.get("hostname") and spec.get("subdomain") == service["metadata"]["name"]:
        result["hostname"] = spec["hostname"]
    return result


def relevant(pod: Object) -> bool:
    return bool(addresses(pod)) and not pod_finished(pod)


Group = tuple[str, tuple[Port, ...]]  # address family, ports
Write = tuple[Object | None, Object]  # slice as it is (None: to be created), as it is wanted


def wanted_groups(service: Object, pods: Iterable[Object]) -> dict[Group, dict[str, Object]]:
    """Endpoints by (pod, address), one group a distinct kind of slice."""
    families = service["spec"].get("ipFamilies") or ["IPv4"]
    groups: dict[Group, dict[str, Object]] = {}
    for pod in sorted(pods, key=lambda p: p["metadata"]["name"]):
        if not relevant(pod):
            continue
        ports = tuple(resolve_ports(service, pod))
        for address in addresses(pod):
            kind = family(address)
            if kind in families:
                made = endpoint(service, pod, address)
                groups.setdefault((kind, ports), {})[identity(made)] = made
    return groups or {(kind, ()): {} for kind in families}


def identity(made: Object) -> str:
    """What makes an endpoint the same one while its conditions change."""
    return f"{(made.get('targetRef') or {}).get('uid', '')} {made['addresses'][0]}"


def plan_slices(
    service: Object, pods: Iterable[Object], existing: Iterable[Object]
) -> tuple[list[Write], list[Object]]:
    """(slices to write if they differ, slices to delete)."""
    return arrange(service, wanted_groups(service, pods), existing)


def arrange(
    service: Object, groups: dict[Group, dict[str, Object]], existing: Iterable[Object]
) -> tuple[list[Write], list[Object]]:
    """Put endpoints into slices: each stays where it is; newcomers fill what changes anyway, then what has room."""
    present = sorted(existing, key=lambda obj: obj["metadata"]["name"])
    taken = {obj["metadata"]["name"] for obj in present}
    spare = [obj for obj in present if not obj.get("endpoints")]
    writes: list[Write] = []
    for (kind, ports), wanted in sorted(groups.items()):
        left = dict(wanted)
        kept: list[tuple[Object | None, list[Object]]] = []
        for obj in present:
            if not obj.get("endpoints") or group_of(obj) != (kind, ports):
                continue
            stays = [left.pop(identity(old)) for old in obj["endpoints"] if identity(old) in left]
            if stays:
                kept.append((obj, stays))
            else:
                spare.append(obj)
        # Slices that change anyway come first, then the fuller ones.
        for _, room in sorted(kept, key=lambda s: (not changed_endpoints(s), -len(s[1]))):
            take(left, room)
        while left or not kept:
            fresh: list[Object] = []
            take(left, fresh)
            reused = next((obj for obj in spare if obj["addressType"] == kind), None)
            if reused is not None:
                spare.remove(reused)
            kept.append((reused, fresh))
        for old, endpoints in kept:
            name = old["metadata"]["name"] if old else free_name(service, kind, ports, taken)
            taken.add(name)
            writes.append((old, make_slice(service, name, kind, ports, endpoints)))
    used = {id(old) for old, _ in writes}
    return writes, [obj for obj in present if id(obj) not in used]


def take(left: dict[str, Object], into: list[Object]) -> None:
    into += [left.pop(key) for key in list(left)[: max(0, SLICE_SIZE - len(into))]]


def changed_endpoints(kept: tuple[Object | None, list[Object]]) -> bool:
    return kept[0] is None or kept[0]["endpoints"] != kept[1]


def group_of(obj: Object) -> Group:
    """Of a slice as the API gives it."""
    return obj["addressType"], tuple(
        (
            port.get("name") or "",
            port.get("protocol") or "TCP",
            port.get("port") or 0,
            port.get("appProtocol") or "",
        )
        for port in obj.get("ports") or ()
    )


def free_name(service: Object, kind: str, ports: tuple[Port, ...], taken: set[str]) -> str:
    """The same for the same input: after a crash a slice is not made twice under two names."""
    metadata = service["metadata"]
    for part in itertools.count():
        text = f"{metadata['uid']} {kind} {ports} {part}"
        name = f"{metadata['name'][:57]}-{hashlib.sha256(text.encode()).hexdigest()[:5]}"
        if name not in taken:
            return name
    raise AssertionError("unreachable")


def make_slice(
    service: Object, name: str, kind: str, ports: tuple[Port, ...], endpoints: list[Object]
) -> Object:
    metadata = service["metadata"]
    inherited = {
        k: v for k, v in labels(service).items() if k not in (HEADLESS, SERVICE_NAME, MANAGED_BY)
    }
    marks = {SERVICE_NAME: metadata["name"], MANAGED_BY: MANAGER}
    if (service.get("spec") or {}).get("clusterIP") == "None":
        marks[HEADLESS] = ""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": metadata["namespace"],
            "labels": {**inherited, **marks},
            "ownerReferences": [owner_reference(service)],
        },
        "addressType": kind,
        "endpoints": endpoints,
        "ports": [slice_port(port) for port in ports],
    }


def slice_port(port: Port) -> Object:
    name, protocol, number, app = port
    return {"name": name, "protocol": protocol, "port": number} | (
        {"appProtocol": app} if app else {}
    )


def wanted_endpoints(service: Object, pods: Iterable[Object]) -> Object:
    """The v1 Endpoints of a Service, at most 1,000 addresses, pods with equal ports in one subset."""
    metadata = service["metadata"]
    publish = bool(service["spec"].get("publishNotReadyAddresses"))
    groups: dict[tuple[Port, ...], tuple[list[Object], list[Object]]] = {}
    count = 0
    over = False
    for pod in sorted(pods, key=lambda p: p["metadata"]["name"]):
        if not relevant(pod) or (is_deleting(pod) and not publish):
            continue
        if count == ENDPOINTS_SIZE:
            over = True
            break
        count += 1
        ready, unready = groups.setdefault(tuple(resolve_ports(service, pod)), ([], []))
        (ready if publish or condition_true(pod, "Ready") else unready).append(
            endpoints_address(service, pod)
        )
    marks = dict(labels(service))
    if service["spec"].get("clusterIP") == "None":
        marks[HEADLESS] = ""
    result: Object = {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "labels": {**marks, "endpoints.kubernetes.io/managed-by": "endpoint-controller"},
        },
        "subsets": [subset(ports, *both) for ports, both in sorted(groups.items()) if any(both)],
    }
    if over:
        result["metadata"]["annotations"] = {OVER_CAPACITY: "truncated"}
    return result


def endpoints_address(service: Object, pod: Object) -> Object:
    reference = endpoint(service, pod, addresses(pod)[0])
    result = {"ip": reference["addresses"][0], "targetRef": reference["targetRef"]}
    for field in ("nodeName", "hostname"):
        if field in reference:
            result[field] = reference[field]
    return result


def subset(ports: tuple[Port, ...], ready: list[Object], unready: list[Object]) -> Object:
    result: Object = {}
    for field, addresses in (("addresses", ready), ("notReadyAddresses", unready)):
        if addresses:  # by number, so that an order never is a change
            result[field] = sorted(
                addresses, key=lambda each: ipaddress.ip_address(each["ip"]).packed
            )
    result["ports"] = [
        {k: v for k, v in slice_port(port).items() if k != "name" or v} for port in ports
    ]
    return result


def selects(service: Object, pod: Object) -> bool:
    selector = service["spec"].get("selector")
    return bool(selector) and selector.items() <= labels(pod).items()


def moved(old: Object, new: Object) -> bool:
    """An update of a pod that its endpoints show."""
    return (
        addresses(old) != addresses(new)
        or condition_true(old, "Ready") != condition_true(new, "Ready")
        or is_deleting(old) != is_deleting(new)
        or pod_finished(old) != pod_finished(new)
        or labels(old) != labels(new)
        or old["spec"].get("nodeName") != new["spec"].get("nodeName")
    )


class EndpointsBase(Controller):
    """What both share: the pods of a Service, and the Services of a pod."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.services = self.informer(SERVICES)
        self.pods = self.informer(PODS)

    def services_of(self, pod: Object) -> list[Key]:
        namespace = pod["metadata"]["namespace"]
        return [
            Key(namespace, service["metadata"]["name"])
            for key, value in labels(pod).items()
            for service in self.services.by_index("selector", f"{namespace}/{key}={value}")
            if selects(service, pod)
        ]

    def service_pods(self, service: Object) -> list[Object]:
        return [
            pod for pod in self.pods.list(service["metadata"]["namespace"]) if selects(service, pod)
        ]


class EndpointSliceController(EndpointsBase):
    name = "endpointslice-controller"
    watches = (
        Watch(SERVICES),
        Watch(PODS, keys=lambda self, pod: self.services_of(pod), matters=moved),
        Watch(ENDPOINTSLICES, keys=lambda self, obj: service_of_slice(obj)),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.slices = self.informer(ENDPOINTSLICES)
        # Slices as last written, until the informer shows them: a slow watch must not make us create twice.
        self.written: dict[Key, dict[str, Object]] = {}

    async def reconcile(self, key: Key) -> Requeue | None:
        service = self.services.get(*key)
        if service is None or not service["spec"].get("selector") or is_deleting(service):
            self.written.pop(key, None)
            return None  # the garbage collector takes the slices of a deleted Service
        writes, stale = plan_slices(service, self.service_pods(service), self.present(key).values())
        for old, wanted in writes:
            await self.write(key, old, wanted)
        for obj in stale:
            await self.remove(key, obj)
        return None

    def present(self, key: Key) -> dict[str, Object]:
        shown = {
            obj["metadata"]["name"]: obj
            for obj in self.slices.by_index("service", f"{key.namespace}/{key.name}")
            if labels(obj).get(MANAGED_BY) == MANAGER
        }
        written = self.written.get(key, {})
        for name, obj in list(written.items()):
            if name in shown and revision(shown[name]) >= revision(obj):
                del written[name]
            else:
                shown[name] = obj
        return shown

    async def write(self, key: Key, present: Object | None, wanted: Object) -> None:
        if present is None:
            written = await self.client.create(ENDPOINTSLICES, wanted, key.namespace)
        elif same(present, wanted, ("endpoints", "ports")):
            return
        else:
            metadata = {**present["metadata"], "labels": wanted["metadata"]["labels"]}
            written = await self.client.update(ENDPOINTSLICES, {**wanted, "metadata": metadata})
        self.written.setdefault(key, {})[wanted["metadata"]["name"]] = written

    async def remove(self, key: Key, stale: Object) -> None:
        self.written.get(key, {}).pop(stale["metadata"]["name"], None)
        try:
            await self.client.delete(
                ENDPOINTSLICES,
                stale["metadata"]["name"],
                key.namespace,
                uid=stale["metadata"]["uid"],
            )
        except ApiError as error:
            if error.code not in (404, 409):
                raise


class EndpointsController(EndpointsBase):
    name = "endpoint-controller"
    watches = (
        Watch(SERVICES),
        Watch(PODS, keys=lambda self, pod: self.services_of(pod), matters=moved),
        Watch(ENDPOINTS),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.endpoints = self.informer(ENDPOINTS)

    async def reconcile(self, key: Key) -> Requeue | None:
        service = self.services.get(*key)
        present = self.endpoints.get(*key)
        if service is None:
            # A Service's Endpoints go with it; those that somebody made by hand have no Service to begin with.
            mark = labels(present).get("endpoints.kubernetes.io/managed-by") if present else None
            if present is not None and mark == "endpoint-controller":
                await self.client.delete(
                    ENDPOINTS, key.name, key.namespace, uid=present["metadata"]["uid"]
                )
            return None
        if not service["spec"].get("selector") or is_deleting(service):
            return None
        wanted = wanted_endpoints(service, self.service_pods(service))
        if present is None:
            await self.client.create(ENDPOINTS, wanted, key.namespace)
        elif not same(present, wanted, ("subsets",)):
            annotations = dict(present["metadata"].get("annotations") or {})
            annotations.pop(OVER_CAPACITY, None)
            annotations |= wanted["metadata"].get("annotations", {})
            metadata = {
                **present["metadata"],
                "labels": wanted["metadata"]["labels"],
                "annotations": annotations,
            }
            await self.client.update(ENDPOINTS, {**wanted, "metadata": metadata})
        return None


def service_of_slice(obj: Object) -> list[Key]:
    name = labels(obj).get(SERVICE_NAME)
    return [Key(obj["metadata"]["namespace"], name)] if name else []


def revision(obj: Object) -> int:
    return int(obj["metadata"]["resourceVersion"])


def same(present: Object, wanted: Object, fields: tuple[str, ...]) -> bool:
    """Equal in labels and in `fields`, absent and empty being the same."""

    def canonical(obj: Object) -> bytes:
        chosen: dict[str, Any] = {field: obj.get(field) or [] for field in fields}
        return orjson.dumps([labels(obj), chosen], option=orjson.OPT_SORT_KEYS)

    return canonical(present) == canonical(wanted)
