"""ContainerConfig from a pod's container: command, environment, mounts, security and limits, as kubelet fills them in.

Pure: what needs the disk (volumes) or the network (images, objects) was done before and is passed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sampan.cri import api_pb2 as api
from sampan.kube import podresources
from sampan.node import environment, localstorage, podspec, sandboxconfig
from sampan.node.environment import CONFIG_ERROR
from sampan.node.errors import ContainerError
from sampan.node.observed import (
    CONTAINER_HASH,
    CONTAINER_NAME,
    MESSAGE_PATH,
    MESSAGE_POLICY,
    POD_GRACE,
    POD_NAME,
    POD_NAMESPACE,
    POD_UID,
    RESTART_COUNT,
)
from sampan.node.podspec import Named, Object
from sampan.node.resources import container_resources
from sampan.node.userranges import UserRange

STORAGE_LIMIT = "sampan.dev/storage-limit"  # annotation of a container: bytes
IMAGE_VOLUMES = (
    "sampan.dev/image-volumes"  # annotation of a container: ids of images, with commas between
)

# What a container must not see or change of /proc and /sys (moby's and Kubernetes' default lists).
MASKED = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
PROPAGATION = {"None": 0, "HostToContainer": 1, "Bidirectional": 2}


@dataclass(frozen=True, slots=True)
class MountPoint:
    """A prepared mount: `source` exists on the host, or is an image whose files are mounted (KEP-4639)."""

    source: str
    target: str
    readonly: bool = False
    propagation: int = 0
    is_image: bool = False
    sub_path: str = ""  # in the image


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What CRI told of the image."""

    ref: str  # what CreateContainer is given
    uid: int | None = None
    username: str = ""
    size: int = 0
    platform: str = ""  # linux, wasip1 …; empty when the runtime does not tell


def _mount(mount: MountPoint, ids: Any) -> Any:
    if mount.is_image:
        return api.Mount(
            image=api.ImageSpec(image=mount.source),
            image_sub_path=mount.sub_path,
            container_path=mount.target,
            readonly=True,
        )
    return api.Mount(
        host_path=mount.source,
        container_path=mount.target,
        readonly=mount.readonly,
        propagation=mount.propagation,
        uidMappings=ids,
        gidMappings=ids,
    )


def image_volumes(mounts: Iterable[MountPoint]) -> dict[str, str]:
    """So that whoever deletes unused images knows these."""
    found = ",".join(sorted({mount.source for mount in mounts if mount.is_image}))
    return {IMAGE_VOLUMES: found} if found else {}


def make(
    pod: Object,
    named: Named,
    restarts: int,
    image: ImageFacts,
    env: Mapping[str, str],
    mounts: Sequence[MountPoint],
    machine_memory: int,
    target: str = "",
    users: UserRange | None = None,
    rules: Mapping[str, str] | None = None,
) -> Any:
    """A ContainerConfig. `target`: container id whose processes an ephemeral container shall see. `rules`: files of cgroup
    v2 that every container gets.
    """
    ids = sandboxconfig.mapping(users)
    container = named.container
    meta = pod["metadata"]
    command, args = environment.arguments(container, env)
    config = api.ContainerConfig(
        metadata=api.ContainerMetadata(name=container["name"], attempt=restarts),
        image=api.ImageSpec(image=image.ref, user_specified_image=container.get("image", "")),
        command=command,
        args=args,
        working_dir=environment.expand(container.get("workingDir") or "", env),
        envs=[api.KeyValue(key=key, value=_wire(value)) for key, value in env.items()],
        mounts=[_mount(mount, ids) for mount in mounts],
        labels={
            CONTAINER_NAME: container["name"],
            POD_NAME: meta["name"],
            POD_NAMESPACE: meta["namespace"],
            POD_UID: meta["uid"],
        },
        annotations={
            CONTAINER_HASH: podspec.container_hash(container),
            RESTART_COUNT: str(restarts),
            MESSAGE_PATH: container.get("terminationMessagePath") or "/dev/termination-log",
            MESSAGE_POLICY: container.get("terminationMessagePolicy") or "File",
            POD_GRACE: str(podspec.termination_grace(pod)),
            **image_volumes(mounts),
            **storage_limit(container),
        },
        log_path=f"{container['name']}/{restarts}.log",
        stdin=bool(container.get("stdin")),
        stdin_once=bool(container.get("stdinOnce")),
        tty=bool(container.get("tty")),
        linux=api.LinuxContainerConfig(
            resources=api.LinuxContainerResources(
                **container_resources(pod, container, machine_memory), unified=rules
            ),
            security_context=security(pod, container, image, target, users),
        ),
    )
    if name := (container.get("lifecycle") or {}).get("stopSignal"):
        config.stop_signal = api.Signal.Value(name)
    return config


def storage_limit(container: Object) -> dict[str, str]:
    """CRI has no field for it. A machine cannot write more than this; of any kind, who has written more is evicted."""
    stated = (container.get("resources") or {}).get("limits") or {}
    limit = podresources.amounts(stated).get(localstorage.RESOURCE)
    return {STORAGE_LIMIT: str(limit.value())} if limit is not None else {}


def _wire(value: str) -> str:
    """Protobuf strings are UTF-8; a Secret may hold other bytes, which cannot travel."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def security(
    pod: Object,
    container: Object,
    image: ImageFacts,
    target: str = "",
    users: UserRange | None = None,
) -> Any:
    """LinuxContainerSecurityContext: the container's own settings win over the pod's."""
    own = container.get("securityContext") or {}
    shared = pod["spec"].get("securityContext") or {}

    def chosen(key: str) -> Any:
        return own[key] if own.get(key) is not None else shared.get(key)

    privileged = bool(own.get("privileged"))
    capabilities = own.get("capabilities") or {}
    escalation = own.get("allowPrivilegeEscalation")
    unmasked = privileged or own.get("procMount") == "Unmasked"
    context = api.LinuxContainerSecurityContext(
        capabilities=api.Capability(
            add_capabilities=capabilities.get("add") or (),
            drop_capabilities=capabilities.get("drop") or (),
        ),
        privileged=privileged,
        namespace_options=sandboxconfig.namespaces(pod, target, users),
        readonly_rootfs=bool(own.get("readOnlyRootFilesystem")),
        supplemental_groups=sandboxconfig.groups(pod),
        supplemental_groups_policy=sandboxconfig.groups_policy(pod),
        no_new_privs=escalation is False and not privileged,
        masked_paths=() if unmasked else MASKED,
        readonly_paths=() if unmasked else READONLY,
        seccomp=sandboxconfig.seccomp(chosen("seccompProfile"), privileged=privileged),
    )
    user, group = chosen("runAsUser"), chosen("runAsGroup")
    if user is not None:
        context.run_as_user.value = user
    if group is not None:
        context.run_as_group.value = group
    if chosen("runAsNonRoot"):
        _check_not_root(pod, container, user, image)
    return context


def _check_not_root(pod: Object, container: Object, user: int | None, image: ImageFacts) -> None:
    who = f'(pod: "{podspec.full_name(pod)}", container: {container["name"]})'
    if user is not None:
        if user == 0:
            raise ContainerError(
                f"container's runAsUser breaks non-root policy {who}", CONFIG_ERROR
            )
        return
    if image.uid is None and image.username:
        raise ContainerError(
            f"container has runAsNonRoot and image has non-numeric user ({image.username}), "
            f"cannot verify user is non-root {who}",
            CONFIG_ERROR,
        )
    if not image.uid:
        raise ContainerError(
            f"container has runAsNonRoot and image will run as root {who}", CONFIG_ERROR
        )
