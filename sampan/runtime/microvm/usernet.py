"""The network of a machine without root: QEMU's user-mode network, and what keeps it off the host's loopback.

libslirp makes a guest's connections in the host's own network, as the user. It would connect to 127.0.0.1 for whoever
asks, so a small library (`native/guard`) is loaded before it and refuses what is on loopback and not the cluster's: pods
and services have their addresses on 127/8 here, and the guest calls them by those. A QEMU in which the library cannot be, or
that brings a libslirp of its own inside, gets a network without a way out.
"""

from __future__ import annotations

from pathlib import Path

from sampan.network.userspace import first_free_port
from sampan.runtime.microvm import presence
from sampan.runtime.microvm.errors import VMMError
from sampan.runtime.microvm.vmm import MachineSpec

# Of QEMU's user-mode network, as it is documented.
ADDRESS, GATEWAY, MASK, MTU = "10.0.2.15", "10.0.2.2", b"\xff\xff\xff\0", 1500
# The guest's own loopback. The rest of 127/8 is the host's, where the cluster's networks are.
LOOPBACK_MASK = b"\xff\xff\0\0"
LIBRARY = "libslirp.so"


def leads_out(spec: MachineSpec) -> bool:
    return bool(spec.reach) and presence.agent_file("guard").exists()


def device(spec: MachineSpec, forwards: list[str]) -> str:
    """QEMU's option: ports of the pod are forwarded in."""
    restrict = "off" if leads_out(spec) else "on"
    ports = "".join(f",hostfwd={forward}" for forward in forwards)
    return f"user,id=net,ipv6=off,restrict={restrict}{ports}"


def environment(spec: MachineSpec) -> dict[str, str]:
    """With which QEMU has the library; empty when no way leads out."""
    if spec.tap >= 0 or not leads_out(spec):
        return {}
    return {
        "LD_PRELOAD": str(presence.agent_file("guard")),
        "SAMPAN_REACH": ",".join(spec.reach),
        "SAMPAN_SHIFT": str(first_free_port()),
    }


def verify(spec: MachineSpec, pid: int) -> None:
    """Before the guest runs. VMMError when nothing stands between it and the host's loopback."""
    if spec.tap >= 0 or not leads_out(spec):
        return
    maps = Path(f"/proc/{pid}/maps").read_text()
    if str(presence.agent_file("guard")) not in maps or LIBRARY not in maps:
        raise VMMError(
            "QEMU's user-mode network cannot be kept off the host's loopback: the library that does it was not loaded"
        )
