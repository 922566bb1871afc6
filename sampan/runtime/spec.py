"""From CRI's messages to the sandbox contract's values: pure, one function a message.

Kubernetes' rules for entry point, environment, user and working directory of a container are applied here, against the
image's configuration, so that no kind has to know them.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from sampan.cri import api_pb2 as pb
from sampan.cri.errors import InvalidArgument
from sampan.network.pods import Attachment
from sampan.runtime.sandbox import (
    ContainerSpec,
    Device,
    IDMap,
    Mount,
    PortMapping,
    Resources,
    SandboxSpec,
    SecurityContext,
    UserNamespace,
)

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PROPAGATION = {0: "private", 1: "rslave", 2: "rshared"}
SECCOMP = {0: "runtime/default", 1: "unconfined"}


def sandbox_spec(
    identifier: str, config: Any, directory: Path, network: Attachment, resolv_conf: Path | None
) -> SandboxSpec:
    linux = config.linux
    namespaces = linux.security_context.namespace_options
    explicit = linux.security_context.HasField("namespace_options")
    return SandboxSpec(
        id=identifier,
        name=config.metadata.name,
        namespace=config.metadata.namespace,
        uid=config.metadata.uid,
        attempt=config.metadata.attempt,
        hostname=hostname(config),
        directory=directory,
        log_directory=Path(config.log_directory) if config.log_directory else directory,
        cgroup_parent=linux.cgroup_parent,
        network=network,
        ports=ports(config),
        labels=dict(config.labels),
        annotations=dict(config.annotations),
        resolv_conf=resolv_conf,
        hosts=directory / "hosts",
        sysctls=dict(linux.sysctls),
        host_pid=namespaces.pid == pb.NODE,
        host_ipc=namespaces.ipc == pb.NODE,
        host_network=namespaces.network == pb.NODE,
        # POD is also what an empty message says; only one that was filled in means it.
        share_processes=explicit and namespaces.pid == pb.POD,
        user_namespace=user_namespace(namespaces),
        overhead=resources(linux.overhead),
        resources=resources(linux.resources),
        security={
            "privileged": linux.security_context.privileged,
            "readonly_rootfs": linux.security_context.readonly_rootfs,
            "run_as_user": linux.security_context.run_as_user.value,
            "run_as_group": linux.security_context.run_as_group.value,
        },
    )


def ports(config: Any) -> tuple[PortMapping, ...]:
    return tuple(
        PortMapping(
            port.container_port, port.host_port, pb.Protocol.Name(port.protocol), port.host_ip
        )
        for port in config.port_mappings
    )


def user_namespace(namespaces: Any) -> UserNamespace | None:
    """KEP-127: one range of ids a pod, which begins with its root. Raises InvalidArgument."""
    field = "linux.security_context.namespace_options.userns_options"
    asked = namespaces.userns_options
    if not namespaces.HasField("userns_options") or asked.mode == pb.NODE:
        if asked.uids or asked.gids:
            raise InvalidArgument(f"{field}: the host's user namespace (NODE) takes no mappings")
        return None
    if asked.mode != pb.POD:
        name = pb.NamespaceMode.Name(asked.mode)
        raise InvalidArgument(f"{field}.mode: {name} is not possible; POD and NODE are")
    if namespaces.network == pb.NODE:
        raise InvalidArgument(f"{field}: a pod on the host's network cannot have its own users")
    return UserNamespace(
        id_map(asked.uids, f"{field}.uids"),
        id_map(asked.gids, f"{field}.gids"),
    )


def id_map(mappings: Any, field: str) -> IDMap:
    if len(mappings) != 1:
        raise InvalidArgument(f"{field}: must be one mapping, and there are {len(mappings)}")
    only = mappings[0]
    if only.container_id != 0 or only.length == 0:
        raise InvalidArgument(f"{field}: must map container id 0 and be longer than 0")
    return IDMap(only.host_id, only.length)


def container_spec(
    identifier: str, sandbox: Any, config: Any, image: dict[str, Any], directory: Path
) -> ContainerSpec:
    """`sandbox`: PodSandboxConfig; `image`: the `config` of the image's configuration. Raises InvalidArgument."""
    return ContainerSpec(
        id=identifier,
        name=config.metadata.name,
        attempt=config.metadata.attempt,
        args=arguments(config, image),
        env=environment(sandbox, config, image),
        cwd=config.working_dir or image.get("WorkingDir") or "/",
        directory=directory,
        log_path=log_path(sandbox, config),
        labels=dict(config.labels),
        annotations=dict(config.annotations),
        mounts=tuple(
            image_mount(item, image_volume(directory, number))
            if item.HasField("image")
            else mount(item)
            for number, item in enumerate(config.mounts)
        ),
        devices=tuple(
            Device(item.host_path, item.container_path or item.host_path, item.permissions or "rwm")
            for item in config.devices
        ),
        resources=resources(config.linux.resources),
        security=security(config, image),
        stdin=config.stdin,
        stdin_once=config.stdin_once,
        tty=config.tty,
        stop_signal=stop_signal(config, image),
    )


def arguments(config: Any, image: dict[str, Any]) -> tuple[str, ...]:
    """A pod's command replaces ENTRYPOINT and CMD; its args alone replace CMD. Empty: the image's only module, if wasm."""
    if config.command:
        words = [*config.command, *config.args]
    else:
        words = [*(image.get("Entrypoint") or ()), *(config.args or image.get("Cmd") or ())]
    return tuple(words)


def environment(sandbox: Any, config: Any, image: dict[str, Any]) -> dict[str, str]:
    merged = {"PATH": PATH}
    for item in image.get("Env") or ():
        name, _, value = item.partition("=")
        merged[name] = value
    merged["HOSTNAME"] = hostname(sandbox)
    merged.update((item.key, item.value) for item in config.envs)
    return merged


def hostname(sandbox: Any) -> str:
    """As asked; else the pod's name, of which the kernel takes 64 bytes and DNS 63."""
    name: str = sandbox.hostname or sandbox.metadata.name[:63].rstrip("-.")
    return name


def log_path(sandbox: Any, config: Any) -> Path | None:
    if not sandbox.log_directory or not config.log_path:
        return None
    return Path(sandbox.log_directory, config.log_path)


def mount(item: Any) -> Mount:
    """Raises InvalidArgument, also for what contradicts recursive read-only (KEP-3857)."""
    if not item.container_path.startswith("/"):
        raise InvalidArgument(f"mount {item.container_path!r}: container_path must be absolute")
    propagation = PROPAGATION.get(item.propagation, "private")
    if item.recursive_read_only and not item.readonly:
        raise InvalidArgument(f"mount {item.container_path}: recursive_read_only needs readonly")
    if item.recursive_read_only and propagation != "private":
        raise InvalidArgument(
            f"mount {item.container_path}: recursive_read_only needs private propagation"
        )
    return Mount(
        Path(item.host_path),
        item.container_path,
        item.readonly,
        propagation,
        item.recursive_read_only,
        bool(item.uidMappings or item.gidMappings),
    )


def image_volume(directory: Path, number: int) -> Path:
    """Where the image of the container's mount `number` is mounted."""
    return directory / "volumes" / str(number)


def image_mount(item: Any, source: Path) -> Mount:
    """KEP-4639. `source`: the mounted image; its sub-path was resolved when it was mounted. Raises InvalidArgument."""
    if not item.readonly:
        raise InvalidArgument(f"mount {item.container_path}: an image volume must be readonly")
    if not item.container_path.startswith("/"):
        raise InvalidArgument(f"mount {item.container_path!r}: container_path must be absolute")
    return Mount(source, item.container_path, True)


def resources(message: Any) -> Resources:
    return Resources(
        cpu_shares=message.cpu_shares,
        cpu_quota=message.cpu_quota,
        cpu_period=message.cpu_period,
        memory=message.memory_limit_in_bytes,
        memory_swap=message.memory_swap_limit_in_bytes,
        oom_score_adj=message.oom_score_adj,
        cpuset_cpus=message.cpuset_cpus,
        cpuset_mems=message.cpuset_mems,
        unified=dict(message.unified),
        hugepages={item.page_size: item.limit for item in message.hugepage_limits},
    )


def security(config: Any, image: dict[str, Any]) -> SecurityContext:
    context = config.linux.security_context
    user = image.get("User") or ""
    if context.HasField("run_as_user"):
        user = str(context.run_as_user.value)
    elif context.run_as_username:
        user = context.run_as_username
    if context.HasField("run_as_group"):
        if not (context.HasField("run_as_user") or context.run_as_username):
            raise InvalidArgument("run_as_group needs run_as_user or run_as_username")
        user = f"{user.partition(':')[0]}:{context.run_as_group.value}"
    number, _, group = user.partition(":")
    return SecurityContext(
        user=int(number) if number.isdecimal() else 0,
        group=int(group) if group.isdecimal() else 0,
        groups=tuple(context.supplemental_groups),
        username=user,
        strict_groups=context.supplemental_groups_policy == pb.Strict,
        privileged=context.privileged,
        readonly_root=context.readonly_rootfs,
        no_new_privileges=context.no_new_privs,
        add_capabilities=tuple(context.capabilities.add_capabilities),
        drop_capabilities=tuple(context.capabilities.drop_capabilities),
        # kubelet always sends its lists; a client that sends no context at all gets the usual ones.
        masked_paths=tuple(context.masked_paths) if context.masked_paths else None,
        readonly_paths=tuple(context.readonly_paths) if context.readonly_paths else None,
        seccomp=seccomp(context),
        pid_mode=pid_mode(context.namespace_options),
    )


def seccomp(context: Any) -> str:
    if not context.HasField("seccomp"):
        # The field that came before it, with the annotation's values; none at all is none (critest).
        return context.seccomp_profile_path or "unconfined"
    if context.seccomp.profile_type == pb.SecurityProfile.Localhost:
        return f"localhost/{context.seccomp.localhost_ref.removeprefix('localhost/')}"
    return SECCOMP.get(context.seccomp.profile_type, "runtime/default")


def pid_mode(namespaces: Any) -> str:
    if namespaces.pid == pb.TARGET:
        return f"target:{namespaces.target_id}"
    return {pb.POD: "pod", pb.CONTAINER: "container", pb.NODE: "node"}.get(namespaces.pid, "pod")


def stop_signal(config: Any, image: dict[str, Any]) -> str:
    if config.stop_signal:
        name: str = pb.Signal.Name(config.stop_signal)
        return name
    return image.get("StopSignal") or "SIGTERM"


def signal_number(name: str) -> int:
    """Of `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`, `SIGRTMINPLUS3`; SIGTERM for what is none of these."""
    text = name.upper()
    if text.isdecimal():
        return int(text) if 0 < int(text) < 65 else int(signal.SIGTERM)
    text = text if text.startswith("SIG") else f"SIG{text}"
    text = text.replace("PLUS", "+").replace("MINUS", "-")
    for base in ("SIGRTMIN", "SIGRTMAX"):
        offset = text.removeprefix(base)
        if text.startswith(base) and offset.lstrip("+-").isdecimal():
            number = int(getattr(signal, base)) + int(offset)
            return number if 0 < number < 65 else int(signal.SIGTERM)
    return int(getattr(signal, text, signal.SIGTERM))
