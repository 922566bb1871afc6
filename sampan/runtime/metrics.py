"""cAdvisor's metrics over CRI (KEP-2371): what there is, and each pod's values.

One table: a metric's name, what it says, its kind, the labels it has beyond the usual, and where its values come from: a
key of what the container's kind measured (`Measures`), in the unit of the metric. CRI carries whole numbers, so seconds are
whole seconds, as other runtimes send them. A kind that measures less sends fewer metrics; the descriptors are the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sampan.cri import api_pb2 as pb
from sampan.runtime.records import ContainerEntry, SandboxEntry
from sampan.runtime.sandbox import Measures, PodMeasures

LABELS = ("container", "id", "image", "name", "namespace", "pod")
COUNTER, GAUGE = pb.COUNTER, pb.GAUGE


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    help: str
    kind: int
    labels: tuple[str, ...] = ()
    pod: bool = False  # of the whole pod: its network

    def descriptor(self) -> Any:
        return pb.MetricDescriptor(
            name=f"container_{self.name}", help=self.help, label_keys=[*LABELS, *self.labels]
        )


NETWORK = ("interface",)
TABLE = (
    Row("blkio_device_usage_total", "Blkio device bytes usage", COUNTER, ("device", "major", "minor", "operation")),
    Row("cpu_cfs_periods_total", "Number of elapsed enforcement period intervals", COUNTER),
    Row("cpu_cfs_throttled_periods_total", "Number of throttled period intervals", COUNTER),
    Row("cpu_cfs_throttled_seconds_total", "Total time duration the container has been throttled", COUNTER),
    Row("cpu_system_seconds_total", "Cumulative system cpu time consumed in seconds", COUNTER),
    Row("cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds", COUNTER, ("cpu",)),
    Row("cpu_user_seconds_total", "Cumulative user cpu time consumed in seconds", COUNTER),
    Row("file_descriptors", "Number of open file descriptors for the container", GAUGE),
    Row("fs_inodes_free", "Number of available inodes", GAUGE, ("device",)),
    Row("fs_inodes_total", "Total number of inodes", GAUGE, ("device",)),
    Row("fs_limit_bytes", "Number of bytes that the container may take on this file system", GAUGE, ("device",)),
    Row("fs_reads_bytes_total", "Cumulative count of bytes read", COUNTER, ("device",)),
    Row("fs_reads_total", "Cumulative count of reads completed", COUNTER, ("device",)),
    Row("fs_usage_bytes", "Number of bytes that the container takes on this file system", GAUGE, ("device",)),
    Row("fs_writes_bytes_total", "Cumulative count of bytes written", COUNTER, ("device",)),
    Row("fs_writes_total", "Cumulative count of writes completed", COUNTER, ("device",)),
    Row("hugetlb_max_usage_bytes", "Maximum hugepage usage recorded", GAUGE, ("pagesize",)),
    Row("hugetlb_usage_bytes", "Current hugepage usage", GAUGE, ("pagesize",)),
    Row("last_seen", "Last time the container was seen", GAUGE),
    Row("memory_cache", "Total page cache memory", GAUGE),
    Row("memory_failcnt", "Number of times the memory limit was hit", COUNTER),
    Row("memory_failures_total", "Cumulative count of memory allocation failures", COUNTER, ("failure_type", "scope")),
    Row("memory_kernel_usage", "Size of kernel memory allocated", GAUGE),
    Row("memory_mapped_file", "Size of memory mapped files", GAUGE),
    Row("memory_max_usage_bytes", "Maximum memory usage recorded", GAUGE),
    Row("memory_rss", "Size of resident anonymous memory", GAUGE),
    Row("memory_swap", "Container swap usage", GAUGE),
    Row("memory_usage_bytes", "Current memory usage, whenever it was last accessed", GAUGE),
    Row("memory_working_set_bytes", "Current working set", GAUGE),
    Row("network_receive_bytes_total", "Cumulative count of bytes received", COUNTER, NETWORK, pod=True),
    Row("network_receive_errors_total", "Cumulative count of errors while receiving", COUNTER, NETWORK, pod=True),
    Row("network_receive_packets_dropped_total", "Cumulative count of packets dropped while receiving", COUNTER, NETWORK, pod=True),
    Row("network_receive_packets_total", "Cumulative count of packets received", COUNTER, NETWORK, pod=True),
    Row("network_transmit_bytes_total", "Cumulative count of bytes transmitted", COUNTER, NETWORK, pod=True),
    Row("network_transmit_errors_total", "Cumulative count of errors while transmitting", COUNTER, NETWORK, pod=True),
    Row("network_transmit_packets_dropped_total", "Cumulative count of packets dropped while transmitting", COUNTER, NETWORK, pod=True),
    Row("network_transmit_packets_total", "Cumulative count of packets transmitted", COUNTER, NETWORK, pod=True),
    Row("oom_events_total", "Count of out of memory events observed for the container", COUNTER),
    Row("pressure_cpu_stalled_seconds_total", "Time in which no process could run for want of cpu", COUNTER),
    Row("pressure_cpu_waiting_seconds_total", "Time in which processes waited for cpu", COUNTER),
    Row("pressure_io_stalled_seconds_total", "Time in which no process could run for want of io", COUNTER),
    Row("pressure_io_waiting_seconds_total", "Time in which processes waited for io", COUNTER),
    Row("pressure_memory_stalled_seconds_total", "Time in which no process could run for want of memory", COUNTER),
    Row("pressure_memory_waiting_seconds_total", "Time in which processes waited for memory", COUNTER),
    Row("processes", "Number of processes in the container", GAUGE),
    Row("sockets", "Number of open sockets for the container", GAUGE),
    Row("spec_cpu_period", "CPU period of the container", GAUGE),
    Row("spec_cpu_quota", "CPU quota of the container", GAUGE),
    Row("spec_cpu_shares", "CPU share of the container", GAUGE),
    Row("spec_memory_limit_bytes", "Memory limit of the container", GAUGE),
    Row("spec_memory_reservation_limit_bytes", "Memory reservation limit of the container", GAUGE),
    Row("spec_memory_swap_limit_bytes", "Memory swap limit of the container", GAUGE),
    Row("start_time_seconds", "Start time of the container since the epoch", GAUGE),
    Row("threads", "Number of threads in the container", GAUGE),
    Row("threads_max", "Maximum number of threads allowed in the container", GAUGE),
    Row("ulimits_soft", "Soft ulimit values of the container's first process", GAUGE, ("ulimit",)),
)  # fmt: skip


def descriptors() -> list[Any]:
    return [row.descriptor() for row in TABLE]


def of_sandbox(
    entry: SandboxEntry, containers: Iterable[ContainerEntry], measured: PodMeasures
) -> Any:
    """`measured`: what its kind found; containers that do not run are not in it."""
    now = time.time_ns()
    metadata = entry.config.metadata
    place = {"namespace": metadata.namespace, "pod": metadata.name}
    labels = {**place, "container": "POD", "id": entry.id, "image": "", "name": entry.id}
    message = pb.PodSandboxMetrics(pod_sandbox_id=entry.id)
    message.metrics.extend(values(measured.pod, labels, now, pod=True))
    for container in containers:
        found = measured.containers.get(container.id)
        if found is None:
            continue
        own = {
            **place,
            "container": container.config.metadata.name,
            "id": container.id,
            "image": container.image_reference,
            "name": container.id,
        }
        every = {**found, **of_record(container, now)}
        message.container_metrics.add(
            container_id=container.id, metrics=values(every, own, now, pod=False)
        )
    return message


def of_record(container: ContainerEntry, now: int) -> Measures:
    """What is known without measuring."""
    limits = container.config.linux.resources
    return {
        "last_seen": {(): now // 10**9},
        "start_time_seconds": {(): container.started_at // 10**9},
        "spec_cpu_period": {(): limits.cpu_period or 100_000},
        "spec_cpu_shares": {(): limits.cpu_shares},
        "spec_memory_limit_bytes": {(): limits.memory_limit_in_bytes},
        "spec_memory_swap_limit_bytes": {(): max(0, limits.memory_swap_limit_in_bytes)},
        "spec_memory_reservation_limit_bytes": {(): 0},
        **({"spec_cpu_quota": {(): limits.cpu_quota}} if limits.cpu_quota > 0 else {}),
    }


def values(measured: Measures, labels: Mapping[str, str], now: int, *, pod: bool) -> Iterator[Any]:
    usual = [labels[name] for name in LABELS]
    for row in TABLE:
        if row.pod is not pod:
            continue
        for own, value in measured.get(row.name, {}).items():
            yield pb.Metric(
                name=f"container_{row.name}",
                timestamp=now,
                metric_type=row.kind,
                label_values=[*usual, *own],
                value=pb.UInt64Value(value=max(0, value)),
            )
