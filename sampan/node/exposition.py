"""`/metrics/resource` and `/metrics` of the node, under kubelet's names, written by prometheus-client.

Imported at the first scrape: the library takes 4 MB and a tenth of a second, and an edge node is rarely scraped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from sampan.node.volumes.usage import VolumeUsage

CONTAINER = ("container", "namespace", "pod")
POD = ("namespace", "pod")
CLAIM = ("namespace", "persistentvolumeclaim")
# Name behind kubelet_volume_stats_, what it is, and the field.
VOLUME_STATS = (
    ("capacity_bytes", "Capacity in bytes of the volume", "capacity"),
    ("available_bytes", "Number of available bytes in the volume", "available"),
    ("used_bytes", "Number of used bytes in the volume", "used"),
    ("inodes", "Maximum number of inodes in the volume", "inodes"),
    ("inodes_free", "Number of free inodes in the volume", "inodes_free"),
    ("inodes_used", "Number of used inodes in the volume", "inodes_used"),
)


class ResourceCollector(Collector):
    """What metrics-server reads (KEP-727), each value with the time at which it was measured."""

    def __init__(self, stats: Iterable[Any]) -> None:
        self.stats = stats

    def collect(self) -> Iterator[Metric]:
        cpu, memory = "cpu_usage_seconds", "memory_working_set_bytes"
        spent = "Cumulative cpu time consumed in core-seconds."
        held = "Working set in bytes."
        container_cpu = CounterMetricFamily(f"container_{cpu}", spent, labels=CONTAINER)
        container_memory = GaugeMetricFamily(f"container_{memory}", held, labels=CONTAINER)
        pod_cpu = CounterMetricFamily(f"pod_{cpu}", spent, labels=POD)
        pod_memory = GaugeMetricFamily(f"pod_{memory}", held, labels=POD)
        for item in self.stats:
            meta = item.attributes.metadata
            pod = (meta.namespace, meta.name)
            for part in item.linux.containers:
                labels = (part.attributes.metadata.name, *pod)
                add_seconds(container_cpu, labels, part.cpu)
                add_bytes(container_memory, labels, part.memory)
            add_seconds(pod_cpu, pod, item.linux.cpu)
            add_bytes(pod_memory, pod, item.linux.memory)
        yield from (container_cpu, container_memory, pod_cpu, pod_memory)
        yield GaugeMetricFamily("scrape_error", "1 when the runtime could not be asked.", value=0)


def add_seconds(family: CounterMetricFamily, labels: tuple[str, ...], cpu: Any) -> None:
    value = cpu.usage_core_nano_seconds.value / 1e9
    family.add_metric(labels, value, timestamp=cpu.timestamp / 1e9 or None)


def add_bytes(family: GaugeMetricFamily, labels: tuple[str, ...], memory: Any) -> None:
    family.add_metric(
        labels, memory.working_set_bytes.value, timestamp=memory.timestamp / 1e9 or None
    )


class NodeCollector(Collector):
    def __init__(self, pods: int, containers: int, volumes: Iterable[VolumeUsage]) -> None:
        self.pods = pods
        self.containers = containers
        # Two pods may share a claim; it is told once.
        self.volumes = {(each.of.namespace, each.of.claim): each.figures for each in volumes}

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("kubelet_running_pods", "Pods of this node.", value=self.pods)
        containers = GaugeMetricFamily(
            "kubelet_running_containers", "Containers by state.", labels=("container_state",)
        )
        containers.add_metric(("running",), self.containers)
        yield containers
        for name, said, field in VOLUME_STATS:
            family = GaugeMetricFamily(f"kubelet_volume_stats_{name}", said, labels=CLAIM)
            for claim, figures in self.volumes.items():
                family.add_metric(claim, getattr(figures, field))
            yield family


def resource_metrics(stats: Iterable[Any], accept: str = "") -> tuple[bytes, str]:
    """(document, its content type), in the format that the scraper's Accept header prefers."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ResourceCollector(stats))
    return _written(registry, accept)


def own_metrics(
    pods: int, containers: int, volumes: Iterable[VolumeUsage] = (), accept: str = ""
) -> tuple[bytes, str]:
    """The same for the node agent itself."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(NodeCollector(pods, containers, volumes))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return _written(registry, accept)


def _written(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type
