"""What the scheduler needs of a pod, computed once when it is first seen: requests, ports, and what kinds of node it takes.

Units are the smallest whole ones: CPU in millicores, everything else in its base unit (bytes, counts).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from sampan.kube.quantity import parse

Object = dict[str, Any]
Port = tuple[str, str, int]  # host IP, protocol, host port

# A container without requests still weighs something when nodes are compared (not when they are filtered).
DEFAULT_CPU = 100  # millicores
DEFAULT_MEMORY = 200 * 1024 * 1024


@dataclass(slots=True)
class PodInfo:
    pod: Object
    key: tuple[str, str]
    uid: str
    requests: dict[str, int]
    weight: tuple[int, int]  # CPU and memory with defaults, for scores
    ports: tuple[Port, ...]
    constraints: bytes  # what of the spec decides which nodes are acceptable at all; equal pods share answers
    priority: int

    @property
    def spec(self) -> Object:
        spec: Object = self.pod["spec"]
        return spec


def describe(pod: Object) -> PodInfo:
    spec, metadata = pod["spec"], pod["metadata"]
    requests, weight = pod_requests(spec)
    constraints = [
        spec.get("nodeSelector"),
        (spec.get("affinity") or {}).get("nodeAffinity"),
        spec.get("tolerations"),
        spec.get("nodeName"),
    ]
    return PodInfo(
        pod=pod,
        key=(metadata["namespace"], metadata["name"]),
        uid=metadata["uid"],
        requests=requests,
        weight=weight,
        ports=host_ports(spec),
        constraints=orjson.dumps(constraints, option=orjson.OPT_SORT_KEYS),
        priority=spec.get("priority") or 0,
    )


def amount(resource: str, quantity: Any) -> int:
    value = parse(quantity)
    return value.milli() if resource == "cpu" else value.value()


def container_requests(container: Object) -> dict[str, int]:
    resources = container.get("resources") or {}
    stated = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {name: amount(name, quantity) for name, quantity in stated.items()}


def pod_requests(spec: Object) -> tuple[dict[str, int], tuple[int, int]]:
    """(requests, weight): containers and sidecars add up; an init container needs its own beside the sidecars before it.

    KEP-753 for sidecars, KEP-688 for overhead, KEP-2837 for requests of the whole pod.
    """
    total: dict[str, int] = {}
    sidecars: dict[str, int] = {}
    peak: dict[str, int] = {}
    cpu = memory = 0
    for container in spec["containers"]:
        own = container_requests(container)
        add(total, own)
        cpu += own.get("cpu", DEFAULT_CPU)
        memory += own.get("memory", DEFAULT_MEMORY)
    for container in spec.get("initContainers") or ():
        own = container_requests(container)
        if container.get("restartPolicy") == "Always":
            add(sidecars, own)
            raise_to(peak, sidecars)
        else:
            raise_to(peak, added(sidecars, own))
    add(total, sidecars)
    raise_to(total, peak)
    for name, quantity in ((spec.get("resources") or {}).get("requests") or {}).items():
        total[name] = amount(name, quantity)
    for name, quantity in (spec.get("overhead") or {}).items():
        add(total, {name: amount(name, quantity)})
    weight = max(cpu, total.get("cpu", 0)), max(memory, total.get("memory", 0))
    return {name: count for name, count in total.items() if count}, weight


def add(total: dict[str, int], more: dict[str, int]) -> None:
    for name, count in more.items():
        total[name] = total.get(name, 0) + count


def added(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    result = dict(one)
    add(result, other)
    return result


def raise_to(total: dict[str, int], floor: dict[str, int]) -> None:
    for name, count in floor.items():
        total[name] = max(total.get(name, 0), count)


def host_ports(spec: Object) -> tuple[Port, ...]:
    sidecars = [c for c in spec.get("initContainers") or () if c.get("restartPolicy") == "Always"]
    return tuple(
        (port.get("hostIP") or "0.0.0.0", port.get("protocol") or "TCP", port["hostPort"])
        for container in [*spec["containers"], *sidecars]
        for port in container.get("ports") or ()
        if port.get("hostPort")
    )
