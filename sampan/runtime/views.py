"""From entries to CRI's messages: what List and Status answer. Pure; the filters of the lists are here too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sampan.cri import api_pb2 as pb
from sampan.runtime.records import ContainerEntry, SandboxEntry
from sampan.runtime.sandbox import ContainerStats, SandboxStats


def sandbox_state(entry: SandboxEntry) -> int:
    return int(pb.SANDBOX_READY if entry.ready else pb.SANDBOX_NOTREADY)


def sandbox_item(entry: SandboxEntry) -> Any:
    return pb.PodSandbox(
        id=entry.id,
        metadata=entry.config.metadata,
        state=sandbox_state(entry),
        created_at=entry.created_at,
        labels=entry.config.labels,
        annotations=entry.config.annotations,
        runtime_handler=entry.handler,
    )


def sandbox_status(entry: SandboxEntry) -> Any:
    status = pb.PodSandboxStatus(
        id=entry.id,
        metadata=entry.config.metadata,
        state=sandbox_state(entry),
        created_at=entry.created_at,
        labels=entry.config.labels,
        annotations=entry.config.annotations,
        runtime_handler=entry.handler,
    )
    addresses = entry.network.addresses if entry.ready else ()
    status.network.ip = addresses[0] if addresses else ""
    status.network.additional_ips.extend(pb.PodIP(ip=address) for address in addresses[1:])
    status.linux.namespaces.options.CopyFrom(entry.config.linux.security_context.namespace_options)
    return status


def image_spec(entry: ContainerEntry) -> Any:
    spec = pb.ImageSpec()
    spec.CopyFrom(entry.config.image)
    spec.image = entry.image_reference or entry.config.image.image
    return spec


def container_item(entry: ContainerEntry) -> Any:
    return pb.Container(
        id=entry.id,
        pod_sandbox_id=entry.sandbox_id,
        metadata=entry.config.metadata,
        image=image_spec(entry),
        image_ref=entry.image_id,
        image_id=entry.image_id,
        state=entry.state,
        created_at=entry.created_at,
        labels=entry.config.labels,
        annotations=entry.config.annotations,
    )


def container_status(entry: ContainerEntry, log_path: str, stop_signal: int) -> Any:
    status = pb.ContainerStatus(
        id=entry.id,
        metadata=entry.config.metadata,
        state=entry.state,
        created_at=entry.created_at,
        started_at=entry.started_at,
        image=image_spec(entry),
        image_ref=entry.image_id,
        image_id=entry.image_id,
        labels=entry.config.labels,
        annotations=entry.config.annotations,
        mounts=entry.config.mounts,
        log_path=log_path,
        stop_signal=stop_signal,
    )
    # KEP-3619: who the first process is, of kinds whose containers have users.
    if (identity := getattr(entry.process, "identity", None)) is not None:
        uid, gid, groups = identity
        status.user.linux.uid, status.user.linux.gid = uid, gid
        status.user.linux.supplemental_groups.extend(groups)
    status.resources.linux.CopyFrom(entry.config.linux.resources)
    if entry.exit is not None:
        status.finished_at = entry.exit.finished_at
        status.exit_code = entry.exit.code
        status.reason = entry.exit.reason
        status.message = entry.exit.message
    return status


def has_labels(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return all(labels.get(name) == value for name, value in wanted.items())


def sandbox_matches(entry: SandboxEntry, wanted: Any) -> bool:
    return (
        (not wanted.id or entry.id.startswith(wanted.id))
        and (not wanted.HasField("state") or wanted.state.state == sandbox_state(entry))
        and has_labels(entry.config.labels, wanted.label_selector)
    )


def container_matches(entry: ContainerEntry, wanted: Any) -> bool:
    return (
        (not wanted.id or entry.id.startswith(wanted.id))
        and (not wanted.pod_sandbox_id or entry.sandbox_id == wanted.pod_sandbox_id)
        and (not wanted.HasField("state") or wanted.state.state == entry.state)
        and has_labels(entry.config.labels, wanted.label_selector)
    )


def number(value: int) -> Any:
    return pb.UInt64Value(value=max(0, value))


def container_stats(entry: ContainerEntry, stats: ContainerStats, now: int, mountpoint: str) -> Any:
    message = pb.ContainerStats()
    message.attributes.id = entry.id
    message.attributes.metadata.CopyFrom(entry.config.metadata)
    message.attributes.labels.update(entry.config.labels)
    message.attributes.annotations.update(entry.config.annotations)
    fill_usage(message, stats.cpu_nanoseconds, stats.memory_bytes, stats.memory_working_set, now)
    message.memory.rss_bytes.value = stats.memory_rss
    limit = entry.config.linux.resources.memory_limit_in_bytes
    if limit > 0:
        message.memory.available_bytes.value = max(0, limit - stats.memory_working_set)
    message.writable_layer.timestamp = now
    message.writable_layer.fs_id.mountpoint = mountpoint
    message.writable_layer.used_bytes.value = stats.filesystem_bytes
    return message


def fill_usage(message: Any, cpu: int, memory: int, working_set: int, now: int) -> None:
    message.cpu.timestamp = message.memory.timestamp = now
    message.cpu.usage_core_nano_seconds.value = cpu
    message.memory.usage_bytes.value = memory
    message.memory.working_set_bytes.value = working_set


def sandbox_stats(
    entry: SandboxEntry,
    stats: SandboxStats,
    containers: dict[str, ContainerEntry],
    now: int,
    mountpoint: str,
) -> Any:
    message = pb.PodSandboxStats()
    message.attributes.id = entry.id
    message.attributes.metadata.CopyFrom(entry.config.metadata)
    message.attributes.labels.update(entry.config.labels)
    message.attributes.annotations.update(entry.config.annotations)
    working_set = sum(item.memory_working_set for item in stats.containers.values())
    fill_usage(message.linux, stats.cpu_nanoseconds, stats.memory_bytes, working_set, now)
    message.linux.network.timestamp = now
    interface = message.linux.network.default_interface
    interface.name = entry.network.interface or "eth0"
    interface.rx_bytes.value = stats.rx_bytes
    interface.tx_bytes.value = stats.tx_bytes
    message.linux.process.timestamp = now
    message.linux.process.process_count.value = stats.pids
    for container_id, figures in stats.containers.items():
        if container := containers.get(container_id):
            message.linux.containers.append(container_stats(container, figures, now, mountpoint))
    return message
