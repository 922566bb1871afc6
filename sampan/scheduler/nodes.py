"""Nodes as the scheduler sees them: what they have, what is taken, by whom, and what is promised to whom."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from sampan.scheduler.pods import PodClass, PodInfo, Port, amount

Object = dict[str, Any]


@dataclass(slots=True, eq=False)
class NodeInfo:
    """One node. `node` is None while only its pods are known (the pod came before the node, or outlives it)."""

    name: str
    node: Object | None = None
    labels: dict[str, str] = field(default_factory=dict)
    taints: list[Object] = field(default_factory=list)
    profile: bytes = b""  # equal for nodes with equal taints and schedulability
    allocatable: dict[str, int] = field(default_factory=dict)
    requested: dict[str, int] = field(default_factory=dict)
    weight: list[int] = field(default_factory=lambda: [0, 0])  # CPU, memory, with defaults
    pods: dict[str, PodInfo] = field(default_factory=dict)  # by uid
    classes: dict[PodClass, int] = field(default_factory=dict)  # how many pods of each
    nominated: dict[str, PodInfo] = field(default_factory=dict)  # room is promised to these
    ports: dict[Port, int] = field(default_factory=dict)  # how many pods hold each
    images: frozenset[str] = frozenset()
    slot: int = -1  # position among the nodes of the snapshot
    generation: int = 0  # moves when labels, taints or images change

    def set_node(self, node: Object) -> None:
        status, spec = node.get("status") or {}, node.get("spec") or {}
        self.node = node
        self.labels = node["metadata"].get("labels") or {}
        self.taints = spec.get("taints") or []
        self.profile = orjson.dumps([self.taints, bool(spec.get("unschedulable"))])
        stated = status.get("allocatable") or status.get("capacity") or {}
        self.allocatable = {name: amount(name, quantity) for name, quantity in stated.items()}
        self.images = frozenset(
            n for image in status.get("images") or () for n in image.get("names") or ()
        )
        self.generation += 1

    @property
    def unschedulable(self) -> bool:
        assert self.node is not None
        return bool(self.node["spec"].get("unschedulable"))

    def add(self, pod: PodInfo) -> None:
        if pod.uid in self.pods:
            self.remove(pod.uid)
        self.pods[pod.uid] = pod
        self.count(pod.group, 1)

    def remove(self, uid: str) -> PodInfo | None:
        pod = self.pods.pop(uid, None)
        if pod is not None:
            self.count(pod.group, -1)
        return pod

    def count(self, group: PodClass, sign: int) -> None:
        for name, quantity in group.requests.items():
            self.requested[name] = self.requested.get(name, 0) + sign * quantity
        self.weight[0] += sign * group.weight[0]
        self.weight[1] += sign * group.weight[1]
        for port in group.ports:
            left = self.ports.get(port, 0) + sign
            if left:
                self.ports[port] = left
            else:
                del self.ports[port]
        left = self.classes.get(group, 0) + sign
        if left:
            self.classes[group] = left
        else:
            del self.classes[group]
