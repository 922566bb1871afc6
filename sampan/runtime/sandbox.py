"""Sandbox contract: what every kind (`wasm`, `container`, `microvm`) implements and all that `runtime/` knows of it.

A RuntimeClass handler names a kind. A kind makes a `Sandbox` per pod, a sandbox starts a `Process` per container. The
CRI service above turns kubelet's calls into these verbs, keeps the records on disk, and never asks which kind it has.

Crash-only: whatever a kind starts must outlive the runtime process (own session, no pipes held by the runtime). Logs go
on and exit codes are kept while the runtime is away; `adopt` picks both up again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from sampan.cri.streams import Streams
from sampan.image import UnpackedImage
from sampan.network.pods import Attachment


@dataclass(frozen=True, slots=True)
class Support:
    """Answer of a functional probe. `usable` False: `why` says what failed, `install` the command that mends it."""

    usable: bool
    detail: str = ""  # what was found: "crun 1.8.1", "wasmtime 50.0.1"
    why: str = ""
    install: str = ""
    features: frozenset[str] = frozenset()  # of FEATURES


# What a kind may be able to do beyond the contract; CRI's RuntimeHandlerFeatures tells kubelet.
USER_NAMESPACES = "user_namespaces"
RECURSIVE_READ_ONLY = "recursive_read_only_mounts"
FEATURES = frozenset({USER_NAMESPACES, RECURSIVE_READ_ONLY})


@dataclass(frozen=True, slots=True)
class PortMapping:
    container_port: int
    host_port: int = 0  # 0: not published on the host
    protocol: str = "TCP"
    host_ip: str = ""


@dataclass(slots=True)
class Resources:
    """Linux limits, 0 or empty: not set. Units as in CRI's LinuxContainerResources."""

    cpu_shares: int = 0
    cpu_quota: int = 0  # µs per period
    cpu_period: int = 0  # µs
    memory: int = 0  # bytes
    memory_swap: int = 0
    pids: int = 0
    oom_score_adj: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    unified: dict[str, str] = field(default_factory=dict)
    hugepages: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class IDMap:
    """`length` ids from 0 on inside are those from `host` on outside."""

    host: int
    length: int


@dataclass(frozen=True, slots=True)
class UserNamespace:
    uids: IDMap
    gids: IDMap


@dataclass(slots=True)
class SandboxSpec:
    id: str  # 64 hex
    name: str
    namespace: str
    uid: str
    attempt: int
    hostname: str
    directory: Path  # state of this sandbox, exists, 0700, survives restarts of the runtime
    log_directory: Path
    cgroup_parent: str  # kubelet's name of the pod cgroup, "" when cgroups are not used
    network: Attachment
    ports: tuple[PortMapping, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    resolv_conf: Path | None = None
    hosts: Path | None = None
    sysctls: dict[str, str] = field(default_factory=dict)
    host_pid: bool = False
    host_ipc: bool = False
    host_network: bool = False
    share_processes: bool = False  # one PID namespace for the pod
    user_namespace: UserNamespace | None = None  # None: the host's
    overhead: Resources = field(default_factory=Resources)
    resources: Resources = field(default_factory=Resources)
    security: dict[str, Any] = field(
        default_factory=dict
    )  # CRI LinuxSandboxSecurityContext as a dict


@dataclass(frozen=True, slots=True)
class Mount:
    source: Path  # on the host
    target: str  # in the container
    readonly: bool = False
    propagation: str = "private"  # private | rslave | rshared
    recursive_readonly: bool = False  # what is mounted below it is read-only too
    mapped: bool = False  # its owners are shown as the pod's user namespace maps them


@dataclass(frozen=True, slots=True)
class Device:
    source: str
    target: str
    permissions: str = "rwm"


@dataclass(slots=True)
class SecurityContext:
    user: int = 0
    group: int = 0
    groups: tuple[int, ...] = ()
    username: str = (
        ""  # "user[:group]", names or numbers, resolved in the image; wins over `user` and `group`
    )
    strict_groups: bool = False  # `groups` only, none from the image's /etc/group
    privileged: bool = False
    readonly_root: bool = False
    no_new_privileges: bool = False
    add_capabilities: tuple[str, ...] = ()  # without CAP_
    drop_capabilities: tuple[str, ...] = ()
    masked_paths: tuple[str, ...] | None = None  # None: the usual ones
    readonly_paths: tuple[str, ...] | None = None
    seccomp: str = "runtime/default"  # runtime/default | unconfined | localhost/<path>
    pid_mode: str = "container"  # pod | container | node | target:<container id>


@dataclass(slots=True)
class ContainerSpec:
    id: str  # 64 hex
    name: str
    attempt: int
    args: tuple[str, ...]  # final argv, image's ENTRYPOINT and CMD already applied
    env: Mapping[str, str]  # final, image's ENV already applied
    cwd: str
    directory: Path  # state of this container, exists, 0700
    log_path: Path | None  # CRI log format is written here; None: discard
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)  # of the container
    mounts: tuple[Mount, ...] = ()
    devices: tuple[Device, ...] = ()
    resources: Resources = field(default_factory=Resources)
    security: SecurityContext = field(default_factory=SecurityContext)
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    stop_signal: str = "SIGTERM"


@dataclass(frozen=True, slots=True)
class Exit:
    code: int  # 128 + signal when killed by one
    finished_at: int  # ns since the epoch
    reason: str  # Completed | Error | OOMKilled | ContainerCannotRun
    message: str = ""


class Process(Protocol):
    """One started container."""

    pid: int
    started_at: int  # ns since the epoch

    async def wait(self) -> Exit:
        """Return when the container has ended; at once when it already has. Any number of callers."""
        ...

    async def signal(self, number: int) -> None:
        """Send a signal to the container's first process. Nothing happens when it has ended."""
        ...

    async def kill(self) -> None:
        """End every process of the container now. Idempotent."""
        ...

    async def remove(self) -> None:
        """Release what the ended container still holds (mounts, cgroup, runtime state). Idempotent."""
        ...

    async def attach(self, streams: Streams) -> None:
        """Copy the container's live output to `streams` and its stdin from it until either side ends."""
        ...

    async def reopen_log(self) -> None:
        """Open the log path again after a rotation; no line is lost."""
        ...


@dataclass(frozen=True, slots=True)
class ExecRequest:
    args: tuple[str, ...]
    tty: bool = False
    timeout: float = 0.0  # seconds, 0: none


@dataclass(slots=True)
class ContainerStats:
    cpu_nanoseconds: int = 0
    memory_bytes: int = 0  # usage
    memory_working_set: int = 0
    memory_rss: int = 0
    filesystem_bytes: int = 0  # writable layer
    pids: int = 0


@dataclass(slots=True)
class SandboxStats:
    containers: dict[str, ContainerStats] = field(default_factory=dict)  # by container id
    cpu_nanoseconds: int = 0
    memory_bytes: int = 0
    rx_bytes: int = 0
    tx_bytes: int = 0
    pids: int = 0


# By metric (cAdvisor's name without `container_`), the values by the labels that it has beyond the usual ones.
Measures = dict[str, dict[tuple[str, ...], int]]


@dataclass(slots=True)
class PodMeasures:
    pod: Measures = field(default_factory=dict)  # of its network
    containers: dict[str, Measures] = field(default_factory=dict)  # by id, those that run


@dataclass(slots=True)
class SandboxRecord:
    """What the runtime keeps of a sandbox on disk; enough to adopt it after a restart."""

    spec: SandboxSpec
    kind: str
    containers: dict[str, ContainerSpec] = field(default_factory=dict)  # those that were started


class SandboxError(Exception):
    """Root of this room's errors; `reason` is what CRI and `kubectl describe` show.

    SandboxError
    ├── CannotStart    the container cannot run (bad entry point, bad module): reason ContainerCannotRun
    ├── NotSupported   the kind cannot do this (exec into wasm without a module): a clear sentence
    └── Gone           the sandbox or container is no longer there
    """

    reason = "Error"


class CannotStart(SandboxError):
    reason = "ContainerCannotRun"


class NotSupported(SandboxError):
    reason = "NotSupported"


class Gone(SandboxError):
    reason = "NotFound"


class Sandbox(Protocol):
    """One pod."""

    spec: SandboxSpec

    async def start(self, container: ContainerSpec, image: UnpackedImage) -> Process:
        """The container's first process runs on return (its entry point was executed). Raises CannotStart."""
        ...

    async def exec(self, container_id: str, request: ExecRequest, streams: Streams) -> int:
        """Run another process in the container to its end; its exit code. Cancelled: the process is killed."""
        ...

    async def stats(self) -> SandboxStats: ...

    async def update(self, container_id: str, resources: Resources) -> None:
        """Change limits of a running container. Raises NotSupported naming the limit that cannot change."""
        ...

    async def port(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to `port` on the pod's loopback or address, made inside its network."""
        ...

    async def process(self, container_id: str) -> Process | None:
        """The adopted or started process, None when the sandbox has no such container."""
        ...

    async def stop(self, grace: float) -> None:
        """End all processes (SIGTERM, `grace` seconds, SIGKILL) and leave nothing behind. Idempotent.

        The network is detached by the caller afterwards.
        """
        ...


@runtime_checkable
class Expectant(Protocol):
    """A sandbox that can begin with a container's start before it is asked for it."""

    def expect(self, image: UnpackedImage) -> None:
        """A container of this image was created: what its start will need may be fetched meanwhile. Never fails."""
        ...


@runtime_checkable
class Checkpointed(Protocol):
    """A sandbox whose containers can be kept as they are at a moment, to go on from there."""

    async def checkpoint(self, container_id: str, location: Path) -> None:
        """Write it to a new file; the container goes on. Raises NotSupported saying why not, Gone."""
        ...


class SandboxKind(Protocol):
    name: str

    async def probe(self) -> Support:
        """Usable here? Decided by doing it once, cached by the caller."""
        ...

    async def create(self, spec: SandboxSpec) -> Sandbox:
        """Cgroup and isolation of the pod are up on return; the network in `spec.network` already is."""
        ...

    async def adopt(self, record: SandboxRecord) -> Sandbox | None:
        """After a restart of the runtime: pick up what still runs; None when nothing is left of it."""
        ...

    async def close(self) -> None:
        """Release what the kind itself holds in this process (not its sandboxes). Idempotent."""
        ...
