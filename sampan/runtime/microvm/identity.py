"""What makes a clone somebody: entropy before all else, then time, name and network; and the pod's own files."""

from __future__ import annotations

import secrets
import socket
import time

from sampan.runtime import kernel
from sampan.runtime.microvm import usernet, volumes, wiring
from sampan.runtime.microvm.protocol import Change, Field, Key
from sampan.runtime.sandbox import SandboxSpec

ENTROPY = 64


async def setup(spec: SandboxSpec, vmm: int) -> list[Field]:
    """SETUP for a pod; the tap in the VMM's namespace is joined to the pod's network on return. Raises OSError."""
    message: list[Field] = [
        (Key.ENTROPY, secrets.token_bytes(ENTROPY)),
        (Key.TIME, time.time_ns()),
        (Key.HOSTNAME, spec.hostname or spec.name),
        (Key.SHARE_PIDS, spec.share_processes),
    ]
    for name, value in spec.sysctls.items():
        # Both spellings occur: net.ipv4.ip_forward and net/ipv4/ip_forward.
        parts = name.split("/") if "/" in name else name.split(".")
        message.append((Key.SYSCTL, f"{'/'.join(parts)}={value}"))
    namespace = spec.network.namespace
    if namespace is None:
        return [
            *message,
            (Key.SYSCTL, "net/ipv4/conf/all/route_localnet=1"),
            (Key.ADDRESS, socket.inet_aton(usernet.ADDRESS)),
            (Key.NETMASK, usernet.MASK),
            (Key.MTU, usernet.MTU),
            (Key.LOOPBACK_MASK, usernet.LOOPBACK_MASK),
            (Key.GATEWAY, socket.inet_aton(usernet.GATEWAY)),
        ]
    interface = spec.network.interface or "eth0"
    card = await kernel.in_thread(
        lambda: wiring.connect(namespace, f"/proc/{vmm}/ns/net", interface)
    )
    message += [
        (Key.MAC, card.mac),
        (Key.ADDRESS, socket.inet_aton(card.address)),
        (Key.NETMASK, (0xFFFFFFFF << 32 - card.prefix & 0xFFFFFFFF).to_bytes(4, "big")),
        (Key.MTU, card.mtu),
    ]
    if card.gateway:
        message.append((Key.GATEWAY, socket.inet_aton(card.gateway)))
    return message


def pod_files(spec: SandboxSpec) -> list[list[Field]]:
    """Changes that put hostname, resolv.conf and hosts into the guest."""
    content = {"hostname": f"{spec.hostname or spec.name}\n".encode()}
    for name, path in (("resolv.conf", spec.resolv_conf), ("hosts", spec.hosts)):
        content[name] = path.read_bytes() if path is not None and path.exists() else b""
    return [
        [
            (Key.OP, Change.WHOLE),
            (Key.PATH, f"{volumes.GUEST}/{name}"),
            (Key.MODE, 0o644),
            (Key.CONTENT, data),
        ]
        for name, data in content.items()
    ]
