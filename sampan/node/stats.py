"""`/stats/summary`: what CRI measures, in the shape that consumers of kubelet know. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sampan.node.machine import Usage
from sampan.node.podspec import Object
from sampan.node.status import timestamp
from sampan.node.volumes.usage import VolumeUsage


def summary(
    node: str, usage: Usage, stats: Iterable[Any], volumes: Iterable[VolumeUsage] = ()
) -> Object:
    """kubelet's Summary API (stats/v1alpha1)."""
    time = timestamp(usage.time)
    by_pod: dict[str, list[Object]] = {}
    for each in volumes:
        by_pod.setdefault(each.of.pod, []).append(_volume(each, time))
    return {
        "node": {
            "nodeName": node,
            "cpu": {"time": time, "usageCoreNanoSeconds": usage.cpu},
            "memory": {
                "time": time,
                "availableBytes": usage.available,
                "workingSetBytes": usage.working_set,
            },
        },
        "pods": [_pod(item, by_pod) for item in stats],
    }


def _volume(usage: VolumeUsage, time: str) -> Object:
    figures = usage.figures
    return {
        "time": time,
        "name": usage.of.volume,
        "pvcRef": {"name": usage.of.claim, "namespace": usage.of.namespace},
        "capacityBytes": figures.capacity,
        "availableBytes": figures.available,
        "usedBytes": figures.used,
        "inodes": figures.inodes,
        "inodesFree": figures.inodes_free,
        "inodesUsed": figures.inodes_used,
    }


def _pod(stats: Any, volumes: Mapping[str, list[Object]]) -> Object:
    meta = stats.attributes.metadata
    linux = stats.linux
    told: Object = {
        "podRef": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid},
        "containers": [_container(item) for item in linux.containers],
    }
    if meta.uid in volumes:
        told["volume"] = volumes[meta.uid]
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
    told = {
        "time": timestamp(cpu.timestamp),
        "usageCoreNanoSeconds": cpu.usage_core_nano_seconds.value,
    }
    if cpu.HasField("usage_nano_cores"):
        told["usageNanoCores"] = cpu.usage_nano_cores.value
    return told


def _memory(memory: Any) -> Object:
    return {
        "time": timestamp(memory.timestamp),
        "usageBytes": memory.usage_bytes.value,
        "workingSetBytes": memory.working_set_bytes.value,
        "rssBytes": memory.rss_bytes.value,
    }
