"""What the kind asks of a virtual machine monitor, whichever it is: a driver starts machines, a machine does the rest.

Files are handed over as open descriptors, never as paths: a jailed VMM has no path to anything of the host.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sampan.runtime.sandbox import Support

SLOTS = 8  # drives for images: the number of different images of one pod
DISKS = 2  # drives behind those, which may be written to
PLACEHOLDER = 64 << 30  # bytes: what a template believes its empty drives to hold


@dataclass(slots=True)
class MachineSpec:
    """One machine. Descriptors stay the caller's, who may close them once `start` has returned."""

    name: str
    directory: Path  # its sockets `agent` and `control`, its log; exists, 0700
    memory: int  # MiB
    cpus: int = 1
    kernel: Path | None = None  # None: restored from `state`
    initial_files: Path | None = None
    command_line: str = ""
    ram: int = -1  # the guest's memory: a file of that size
    ram_shared: bool = (
        False  # writes go to the file (a template in the making), else they stay private
    )
    state: int = -1  # devices' state, of a template; and memory that is not in `ram`, of a snapshot
    held: bool = False  # restored, and not to run before `resume`
    tap: int = -1  # a descriptor to become a tap, in the VMM's own network namespace
    ports: Mapping[tuple[str, int, int], str] = field(default_factory=dict)
    reach: tuple[str, ...] = ()  # without a tap: networks of 127/8 that are the cluster's
    uid: int = 0  # whom the VMM runs as; 0: as we do
    copied: bool = False  # it will stand still, and others are copies of it


class Machine(Protocol):
    """A virtual machine, seen from the process that started or adopted it."""

    pid: int
    directory: Path
    halted: asyncio.Event  # the guest has reset or powered off: it runs no more

    async def dial(self) -> socket.socket:
        """A connection to the guest's agent. Raises OSError, VMMError."""
        ...

    async def dial_files(self) -> socket.socket:
        """A connection to the guest's port for file requests, for a server. Raises OSError, VMMError."""
        ...

    async def wait(self) -> None:
        """Return when the VMM has ended."""
        ...

    async def pause(self) -> None: ...

    async def resume(self) -> None: ...

    async def snapshot(self, state: int) -> None:
        """Write the devices' state to a descriptor, and private memory with it (`ram_shared` False). The machine is
        paused; where the driver `keeps_memory` it may go on, elsewhere it is only good for its end."""
        ...

    async def attach_drive(self, slot: int, file: int) -> None:
        """Swap a read-only file into a drive that is a placeholder."""
        ...

    async def attach_disk(self, slot: int, file: int) -> None:
        """Give a writable file or block device to one of the drives that may be written to."""
        ...

    async def console(self) -> str:
        """The end of what the guest's kernel printed: why it panicked."""
        ...

    def log(self) -> str:
        """The end of what the VMM itself has said."""
        ...

    async def stop(self) -> None:
        """The VMM has ended on return. Idempotent."""
        ...

    def close(self) -> None:
        """Let go of a machine that goes on. Idempotent."""
        ...


class Live(Protocol):
    """A template that is a process: a machine that stands still, of which others are made."""

    @property
    def machine(self) -> Machine:
        """Runs until it is told to be still."""
        ...

    async def still(self) -> None:
        """It runs no more, and nobody is connected: ready to be copied."""
        ...

    async def copy(self, spec: MachineSpec) -> Machine:
        """A machine of its own, which runs, in a jail as any. Raises VMMError."""
        ...

    async def stop(self) -> None:
        """It has ended on return; its copies go on. Idempotent."""
        ...


StartLive = Callable[[MachineSpec], Awaitable[Live]]


class Driver(Protocol):
    name: str
    accelerator: str  # kvm | tcg
    shares_files: (
        bool  # its machines have the port for file requests, and drives that may be written to
    )

    bus: str  # mmio | pci: where its machines have their devices
    keeps_memory: bool  # its machines can be snapshot while they run, and go on

    @property
    def start_live(self) -> StartLive | None:
        """As `start`, of a machine with `copied` set; None where nothing is gained by it. Whether it works, copying tells."""
        ...

    def probe(self) -> Support:
        """Is the program here? Whether it boots a guest is found out by booting one."""
        ...

    def edition(self) -> str:
        """Differs whenever state that was written by one cannot be read by the other."""
        ...

    async def start(self, spec: MachineSpec) -> Machine:
        """Boot, or restore and run. The agent's socket takes connections on return."""
        ...

    async def adopt(self, directory: Path) -> Machine | None:
        """The machine whose directory this is, when it still runs."""
        ...
