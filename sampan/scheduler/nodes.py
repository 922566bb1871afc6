"""Nodes as the scheduler sees them: what they have, what is taken, and by whom."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sampan.scheduler.pods import PodInfo, Port, amount

Object = dict[str, Any]


@dataclass(slots=True)
class NodeInfo:
    """One node. `node` is None while only its pods are known (the pod came before the node, or outlives it)."""

    name: str
    node: Object | None = None
    labels: dict[str, str] = field(default_factory=dict)
    allocatable: dict[str, int] = field(default_factory=dict)
    requested: dict[str, int] = field(default_factory=dict)
    weight: list[int] = field(default_factory=lambda: [0, 0])  # CPU, memory, with defaults
    pods: dict[str, PodInfo] = field(default_factory=dict)  # by uid
    ports: dict[Port, int] = field(default_factory=dict)  # how many pods hold each
    images: frozenset[str] = frozenset()
    generation: int = 0  # moves when labels, taints or capacity change

    def set_node(self, node: Object) -> None:
        status = node.get("status") or {}
        self.node = node
        self.labels = node["metadata"].get("labels") or {}
        stated = status.get("allocatable") or status.get("capacity") or {}
        self.allocatable = {name: amount(name, quantity) for name, quantity in stated.items()}
        self.images = frozenset(
            n for image in status.get("images") or () for n in image.get("names") or ()
        )
        self.generation += 1

    def add(self, pod: PodInfo) -> None:
        if pod.uid in self.pods:
            self.remove(pod.uid)
        self.pods[pod.uid] = pod
        self.count(pod, 1)

    def remove(self, uid: str) -> PodInfo | None:
        pod = self.pods.pop(uid, None)
        if pod is not None:
            self.count(pod, -1)
        return pod

    def count(self, pod: PodInfo, sign: int) -> None:
        for name, quantity in pod.requests.items():
            self.requested[name] = self.requested.get(name, 0) + sign * quantity
        self.weight[0] += sign * pod.weight[0]
        self.weight[1] += sign * pod.weight[1]
        for port in pod.ports:
            left = self.ports.get(port, 0) + sign
            if left:
                self.ports[port] = left
            else:
                del self.ports[port]
