"""What CRI said about a pod, as plain values, and how fragments of news are merged.

News comes from answers, from events and from listings, in any order. A container only moves forward (created → running →
exited) and a sandbox only from ready to not ready, so the further of two reports is the newer one: merging needs no
clock. What is gone is told by a removal of ours or by a full listing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

CREATED, RUNNING, EXITED, UNKNOWN = "created", "running", "exited", "unknown"
_STATES = (CREATED, RUNNING, EXITED, UNKNOWN)  # by CRI's number
_RANK = {UNKNOWN: 0, CREATED: 1, RUNNING: 2, EXITED: 3}

# Labels and annotations that kubelet puts on what it makes; tools (crictl, log shippers) read them.
POD_NAME = "io.kubernetes.pod.name"
POD_NAMESPACE = "io.kubernetes.pod.namespace"
POD_UID = "io.kubernetes.pod.uid"
CONTAINER_NAME = "io.kubernetes.container.name"
RESTART_COUNT = "io.kubernetes.container.restartCount"
CONTAINER_HASH = "io.kubernetes.container.hash"
MESSAGE_POLICY = "io.kubernetes.container.terminationMessagePolicy"
MESSAGE_PATH = "io.kubernetes.container.terminationMessagePath"
POD_GRACE = "io.kubernetes.pod.terminationGracePeriod"


@dataclass(frozen=True, slots=True)
class SandboxState:
    id: str
    attempt: int
    ready: bool
    created_at: int  # ns
    addresses: tuple[str, ...] = ()
    handler: str = ""


@dataclass(frozen=True, slots=True)
class ContainerState:
    id: str
    name: str
    sandbox_id: str  # "" when the report did not say
    state: str
    restarts: int = 0
    created_at: int = 0  # ns
    started_at: int = 0
    finished_at: int = 0
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    image: str = ""
    image_id: str = ""
    hash: str = ""
    log_path: str = ""
    message_policy: str = ""


def sandbox_state(status: Any) -> SandboxState:
    """From a PodSandboxStatus, or from a listing's PodSandbox, which has no addresses."""
    addresses: tuple[str, ...] = ()
    network = getattr(status, "network", None)
    if network is not None and network.ip:
        addresses = (network.ip, *(extra.ip for extra in network.additional_ips))
    return SandboxState(
        id=status.id,
        attempt=status.metadata.attempt,
        ready=status.state == 0,
        created_at=status.created_at,
        addresses=addresses,
        handler=status.runtime_handler,
    )


def container_state(status: Any, sandbox_id: str = "") -> ContainerState:
    """From a ContainerStatus."""
    annotations = status.annotations
    return ContainerState(
        id=status.id,
        name=status.metadata.name,
        sandbox_id=sandbox_id,
        state=_STATES[status.state],
        restarts=int(annotations.get(RESTART_COUNT) or status.metadata.attempt),
        created_at=status.created_at,
        started_at=status.started_at,
        finished_at=status.finished_at,
        exit_code=status.exit_code,
        reason=status.reason,
        message=status.message,
        image=status.image.user_specified_image or status.image.image,
        image_id=status.image_ref or status.image_id,
        hash=annotations.get(CONTAINER_HASH, ""),
        log_path=status.log_path,
        message_policy=annotations.get(MESSAGE_POLICY, ""),
    )


@dataclass(slots=True)
class Observed:
    """Sandboxes and containers of one pod."""

    sandboxes: dict[str, SandboxState] = field(default_factory=dict)
    containers: dict[str, ContainerState] = field(default_factory=dict)

    def merge_sandbox(self, new: SandboxState) -> bool:
        """True when that changed anything."""
        old = self.sandboxes.get(new.id)
        if old is not None:
            if (not old.ready and new.ready) or old == new:
                return False
            if old.addresses and not new.addresses:
                new = replace(new, addresses=old.addresses)
                if new == old:
                    return False
        self.sandboxes[new.id] = new
        return True

    def merge_container(self, new: ContainerState) -> bool:
        old = self.containers.get(new.id)
        if old is not None:
            if _RANK[new.state] < _RANK[old.state] or old == new:
                return False
            if not new.sandbox_id and old.sandbox_id:
                new = replace(new, sandbox_id=old.sandbox_id)
                if new == old:
                    return False
        self.containers[new.id] = new
        return True

    def replace(
        self, sandboxes: Iterable[SandboxState], containers: Iterable[ContainerState]
    ) -> None:
        """A full listing: what is not in it is gone."""
        seen_sandboxes, seen_containers = list(sandboxes), list(containers)
        for new in seen_sandboxes:
            self.merge_sandbox(new)
        for item in seen_containers:
            self.merge_container(item)
        for gone in self.sandboxes.keys() - {s.id for s in seen_sandboxes}:
            del self.sandboxes[gone]
        for gone in self.containers.keys() - {c.id for c in seen_containers}:
            del self.containers[gone]

    def sandbox(self) -> SandboxState | None:
        """The newest."""
        return max(self.sandboxes.values(), key=lambda s: (s.attempt, s.created_at), default=None)

    def history(self) -> dict[str, list[ContainerState]]:
        """By container name, newest first."""
        found: dict[str, list[ContainerState]] = {}
        for item in sorted(
            self.containers.values(), key=lambda c: (c.restarts, c.created_at), reverse=True
        ):
            found.setdefault(item.name, []).append(item)
        return found


def stranger(sandbox: Any, uid: str) -> dict[str, Any]:
    """As much of a pod as ending it needs, from its sandbox's labels."""
    meta = sandbox.metadata
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": meta.name or sandbox.labels.get(POD_NAME, ""),
            "namespace": meta.namespace or sandbox.labels.get(POD_NAMESPACE, ""),
            "uid": uid,
        },
        "spec": {"containers": [], "terminationGracePeriodSeconds": 1},
    }
