"""Pods as the scheduler sees them. Pods that ask for the same are one `PodClass`: what is worked out for one holds for all.

Units are the smallest whole ones: CPU in millicores, everything else in its base unit (bytes, counts). A Deployment's
pods differ only in name, node and the random name of a token volume, so a cluster has few classes, and a decision about
a pod mostly finds the answers of its class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from sampan.kube.persistent import claim_of
from sampan.kube.quantity import parse
from sampan.scheduler.terms import Spread, Term, read_spreads, read_terms

Object = dict[str, Any]
Port = tuple[str, str, int]  # host IP, protocol, host port

# A container without requests still weighs something when nodes are compared (not when they are filtered).
DEFAULT_CPU = 100  # millicores
DEFAULT_MEMORY = 200 * 1024 * 1024
CLASSES_KEPT = 4096
NO_CLAIMS: tuple[tuple[str, ...], frozenset[str]] = ((), frozenset())


@dataclass(slots=True, eq=False)
class PodClass:
    namespace: str
    labels: dict[str, str]
    spec: Object  # of the first pod of the class
    deleting: bool
    requests: dict[str, int]
    weight: tuple[int, int]  # CPU and memory with defaults, for scores
    ports: tuple[Port, ...]
    images: tuple[str, ...]
    claims: tuple[str, ...]  # PersistentVolumeClaims, in the pod's namespace
    ephemeral: frozenset[str]  # those of them that are made for the pod
    constraints: (
        bytes  # what of the spec the static filters and scores read; equal ones share answers
    )
    priority: int
    preempts: bool
    affinity: tuple[Term, ...]  # required
    anti_affinity: tuple[Term, ...]  # required
    preferred: tuple[Term, ...]  # of both kinds; a negative weight is anti-affinity
    spreads: tuple[Spread, ...]

    @property
    def looks_around(self) -> bool:
        """Where other pods run matters to it."""
        return bool(self.affinity or self.anti_affinity or self.preferred or self.spreads)


@dataclass(slots=True, eq=False)
class PodInfo:
    pod: Object
    key: tuple[str, str]
    uid: str
    group: PodClass

    @property
    def requests(self) -> dict[str, int]:
        return self.group.requests

    @property
    def priority(self) -> int:
        return self.group.priority


_classes: dict[bytes, PodClass] = {}


def describe(pod: Object) -> PodInfo:
    metadata = pod["metadata"]
    key = metadata["namespace"], metadata["name"]
    return PodInfo(pod, key, metadata["uid"], classify(pod))


def classify(pod: Object) -> PodClass:
    spec, metadata = pod["spec"], pod["metadata"]
    claims, ephemeral = claim_names(pod)
    deleting = "deletionTimestamp" in metadata
    key = orjson.dumps(
        [
            metadata["namespace"],
            metadata.get("labels"),
            [(c.get("image"), c.get("resources"), c.get("ports")) for c in spec["containers"]],
            spec.get("initContainers"),
            spec.get("nodeSelector"),
            spec.get("affinity"),
            spec.get("tolerations"),
            spec.get("topologySpreadConstraints"),
            spec.get("overhead"),
            spec.get("resources"),
            spec.get("priority"),
            spec.get("preemptionPolicy"),
            claims and [claims, sorted(ephemeral)],
            deleting,
        ]
    )
    found = _classes.get(key)
    if found is None:
        if len(_classes) >= CLASSES_KEPT:
            _classes.clear()
        found = _classes[key] = make_class(pod, claims, ephemeral, deleting)
    return found


def make_class(
    pod: Object, claims: tuple[str, ...], ephemeral: frozenset[str], deleting: bool
) -> PodClass:
    spec, metadata = pod["spec"], pod["metadata"]
    namespace, labels = metadata["namespace"], metadata.get("labels") or {}
    requests, weight = pod_requests(spec)
    affinity = spec.get("affinity") or {}
    images = tuple(container.get("image", "") for container in spec["containers"])
    constraints = [
        spec.get("nodeSelector"), affinity.get("nodeAffinity"), spec.get("tolerations"), images,
        [namespace, claims] if claims else None,
    ]  # fmt: skip
    near, far = affinity.get("podAffinity") or {}, affinity.get("podAntiAffinity") or {}
    required, wished = (
        f"{how}DuringSchedulingIgnoredDuringExecution" for how in ("required", "preferred")
    )
    return PodClass(
        namespace=namespace,
        labels=labels,
        spec=spec,
        deleting=deleting,
        requests=requests,
        weight=weight,
        ports=host_ports(spec),
        images=images,
        claims=claims,
        ephemeral=ephemeral,
        constraints=orjson.dumps(constraints, option=orjson.OPT_SORT_KEYS),
        priority=spec.get("priority") or 0,
        preempts=spec.get("preemptionPolicy") != "Never",
        affinity=read_terms(near.get(required), namespace, labels),
        anti_affinity=read_terms(far.get(required), namespace, labels),
        preferred=(
            *read_terms(near.get(wished), namespace, labels),
            *read_terms(far.get(wished), namespace, labels, sign=-1),
        ),
        spreads=read_spreads(spec.get("topologySpreadConstraints"), labels),
    )


def claim_names(pod: Object) -> tuple[tuple[str, ...], frozenset[str]]:
    """(all claims, those of ephemeral volumes)"""
    volumes = [
        volume
        for volume in pod["spec"].get("volumes") or ()
        if "persistentVolumeClaim" in volume or "ephemeral" in volume
    ]
    if not volumes:
        return NO_CLAIMS
    ephemeral = (claim_of(pod, volume) for volume in volumes if "ephemeral" in volume)
    return tuple(claim_of(pod, volume) for volume in volumes), frozenset(ephemeral)


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


def add(total: dict[str, int], more: Mapping[str, int]) -> None:
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
