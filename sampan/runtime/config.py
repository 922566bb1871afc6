"""What the runtime is told by the one who starts it. It reads no environment and computes no paths of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sampan.image.store import ImageStore
from sampan.network.pods import PodNetwork
from sampan.runtime.cdi import DIRECTORIES
from sampan.runtime.kinds import KINDS

OCI_RUNTIMES = ("crun", "runc")  # what a RuntimeClass made for another engine often names


@dataclass(slots=True)
class RuntimeConfig:
    directory: Path  # records and writable layers, survives a reboot
    run_directory: Path  # sockets, namespaces, shm: gone after one
    socket: Path  # CRI
    instance: str  # names kernel objects, so that two clusters can share a host
    network: PodNetwork
    images: ImageStore
    kinds: tuple[str, ...] = tuple(KINDS)
    default_kind: str = ""  # "": container where it works, else wasm
    # OCI runtimes by handler, as a name or a path: "container" has its engine named, any other name is a handler more.
    engines: dict[str, str] = field(default_factory=dict)
    takes_pod_cidr: bool = (
        False  # the network's addresses are a kubelet's to tell: none were configured
    )
    cdi_directories: tuple[Path, ...] = DIRECTORIES  # where device vendors describe their devices

    @property
    def known(self) -> tuple[str, ...]:
        """`handlers`, and the OCI runtimes by their own names, which are tried when the first pod asks for one."""
        own = OCI_RUNTIMES if "container" in self.kinds else ()
        return tuple(dict.fromkeys((*self.handlers, *own)))

    def engine(self, handler: str) -> str:
        """The OCI runtime behind a handler; "" for a kind that chooses, or has none."""
        return self.engines.get(handler) or (handler if handler in OCI_RUNTIMES else "")

    @property
    def handlers(self) -> tuple[str, ...]:
        """What is offered: probed at start, and told to whoever asks for the status."""
        return tuple(dict.fromkeys((*self.kinds, *self.engines)))
