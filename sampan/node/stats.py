"""`/stats/summary`, `/metrics/resource` and `/metrics`: what CRI measures, in the shapes that consumers know. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from sampan.node.machine import Machine
from sampan.node.podspec import Object
from sampan.node.status import timestamp


def summary(node: str, machine: Machine, stats: Iterable[Any]) -> Object:
    """kubelet's Summary API (stats/v1alpha1)."""
    return {
        "node": {"nodeName": node, "memory": {"availableBytes": machine.memory}},
        "pods": [_pod(item) for item in stats],
    }


def _pod(stats: Any) -> Object:
    meta = stats.attributes.metadata
    linux = stats.linux
    told: Object = {
        "podRef": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid},
        "containers": [_container(item) for item in linux.containers],
    }
    if linux.HasField("cpu"):
        told["cpu"] = _cpu(linux.cpu)
    if linux.HasField("memory"):
        told["memory"] = _memory(linux.memory)
    if linux.HasField("network"):
        first = linux.network.default_interface
        told["network"] = {
            "time": timestamp(linux.network.timestamp),
            "name": first.name,
            "rxBytes": first.rx_bytes.value,
            "txBytes": first.tx_bytes.value,
        }
    if linux.HasField("process"):
        told["process_stats"] = {"process_count": linux.process.process_count.value}
    return told


def _container(stats: Any) -> Object:
    told: Object = {
        "name": stats.attributes.metadata.name,
        "cpu": _cpu(stats.cpu),
        "memory": _memory(stats.memory),
    }
    if stats.HasField("writable_layer"):
        told["rootfs"] = {"usedBytes": stats.writable_layer.used_bytes.value}
    return told


def _cpu(cpu: Any) -> Object:
    return {
        "time": timestamp(cpu.timestamp),
        "usageNanoCores": cpu.usage_nano_cores.value,
        "usageCoreNanoSeconds": cpu.usage_core_nano_seconds.value,
    }


def _memory(memory: Any) -> Object:
    return {
        "time": timestamp(memory.timestamp),
        "usageBytes": memory.usage_bytes.value,
        "workingSetBytes": memory.working_set_bytes.value,
        "rssBytes": memory.rss_bytes.value,
    }


def resource_metrics(stats: Iterable[Any]) -> str:
    """`/metrics/resource`, as metrics-server reads it (KEP-727)."""
    cpu, memory, pod_cpu, pod_memory = [], [], [], []
    for item in stats:
        meta = item.attributes.metadata
        where = f'namespace="{meta.namespace}",pod="{meta.name}"'
        for part in item.linux.containers:
            labels = f'{{container="{part.attributes.metadata.name}",{where}}}'
            cpu.append(_seconds("container_cpu_usage_seconds_total", labels, part.cpu))
            memory.append(_bytes("container_memory_working_set_bytes", labels, part.memory))
        pod_cpu.append(_seconds("pod_cpu_usage_seconds_total", f"{{{where}}}", item.linux.cpu))
        pod_memory.append(_bytes("pod_memory_working_set_bytes", f"{{{where}}}", item.linux.memory))
    lines: list[str] = []
    for name, kind, rows in (
        ("container_cpu_usage_seconds_total", "counter", cpu),
        ("container_memory_working_set_bytes", "gauge", memory),
        ("pod_cpu_usage_seconds_total", "counter", pod_cpu),
        ("pod_memory_working_set_bytes", "gauge", pod_memory),
    ):
        lines += [f"# TYPE {name} {kind}", *rows]
    return "\n".join([*lines, "scrape_error 0", ""])


def _seconds(name: str, labels: str, cpu: Any) -> str:
    value = cpu.usage_core_nano_seconds.value / 1e9
    return f"{name}{labels} {value:.9g} {cpu.timestamp // 10**6}"


def _bytes(name: str, labels: str, memory: Any) -> str:
    return f"{name}{labels} {memory.working_set_bytes.value} {memory.timestamp // 10**6}"


def own_metrics(pods: int, containers: int) -> str:
    """`/metrics` of the node agent itself."""
    return "\n".join(_own(pods, containers)) + "\n"


def _own(pods: int, containers: int) -> Iterator[str]:
    from os import sysconf

    page = sysconf("SC_PAGE_SIZE")
    with open("/proc/self/statm", encoding="ascii") as file:
        resident = int(file.read().split()[1]) * page
    for name, value in (
        ("kubelet_running_pods", pods),
        ("kubelet_running_containers", containers),
        ("process_resident_memory_bytes", resident),
    ):
        yield f"# TYPE {name} gauge"
        yield f"{name} {value}"
