"""Pod networks: the contract, and the choice of an implementation.

`loopback` gives every pod its own 127.x.y.z address and needs no privilege; `bridge` gives every pod a network namespace
on a bridge; `cni` asks the plugins that the user has configured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from sampan.network import netns


@dataclass(frozen=True, slots=True)
class PodRef:
    """Names a pod sandbox; `sandbox_id` is the key, the rest is for people and for CNI."""

    sandbox_id: str
    namespace: str
    name: str
    uid: str = ""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A pod's place on the network, made by `PodNetwork.attach`."""

    namespace: (
        str | None
    )  # path of the network namespace; None: the host's (rootless, or hostNetwork)
    addresses: tuple[str, ...]  # first is the pod IP
    interface: str = ""  # name inside the namespace
    reach: tuple[
        str, ...
    ] = ()  # without a namespace: networks of 127/8 where the cluster's pods and services are

    def let_go(self) -> None:
        """After `detach`: one made by an older build may have a name that no network would give it now. Idempotent."""
        directory, _, name = (self.namespace or "").rpartition("/")
        if directory == str(netns.DIRECTORY):
            netns.delete(name)


class PodNetwork(Protocol):
    name: str

    async def attach(self, pod: PodRef) -> Attachment:
        """Addresses are up, and reachable from the node, on return. The same pod again gives the same answer."""
        ...

    async def detach(self, pod: PodRef) -> None:
        """Namespace, interfaces and addresses are gone, or will be without further help. Idempotent."""
        ...

    async def existing(self) -> dict[str, Attachment]:
        """By sandbox id, what is attached now, read from disk and kernel: for adoption."""
        ...

    async def owners(self) -> list[str]:
        """Sandbox ids that hold anything here, attached or half-made by a process that was killed: for collecting."""
        ...


@runtime_checkable
class Movable(Protocol):
    """A pod network whose addresses can become others while it runs."""

    async def move(self, cidr: str) -> None:
        """Pods that come are in `cidr`, also after a restart; those that are there stay as they are. Idempotent."""
        ...
