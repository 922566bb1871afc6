"""Kernel modules for the guest: which ones, in which order, and an initial file system with them and the agent.

The agent loads them by number, so the order is settled here, by the `depends` that each module states of itself.
Signatures are cut off: nothing checks them in a guest, and checking them is what takes longest (RSA, under emulation).
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterable, Mapping

WANTED = ("virtio_mmio", "virtio_console", "virtio_blk", "virtio_net", "erofs", "overlay", "fuse")
VSOCK = ("vmw_vsock_virtio_transport",)  # where the VMM has no serial port of virtio
# Directories of a kernel package in which these and what they need are found.
PLACES = (
    "drivers/virtio/", "drivers/block/virtio", "drivers/char/virtio", "drivers/net/virtio",
    "drivers/net/net_failover", "net/core/", "net/vmw_vsock/", "fs/erofs/", "fs/overlayfs/", "fs/fuse/",
    "lib/", "crypto/",
)  # fmt: skip
SIGNED = b"~Module signature appended~\n"


def name_of(path: str) -> str:
    """A module's own name: its file's, with `-` as `_`."""
    return path.rpartition("/")[2].removesuffix(".ko").replace("-", "_")


def dependencies(module: bytes) -> list[str]:
    """What `.modinfo` says after `depends=`."""
    at = module.find(b"\0depends=")
    if at < 0:
        return []
    text = module[at + 9 : module.index(b"\0", at + 9)].decode()
    return [name.replace("-", "_") for name in text.split(",") if name]


def in_order(modules: Mapping[str, bytes], wanted: Iterable[str]) -> list[str]:
    """`wanted` and what they depend on, each after what it needs. What is not there is built in: left out."""
    ordered: list[str] = []

    def visit(name: str) -> None:
        if name in ordered or name not in modules:
            return
        for needed in dependencies(modules[name]):
            visit(needed)
        ordered.append(name)

    for name in wanted:
        visit(name)
    return ordered


def without_signature(module: bytes) -> bytes:
    """struct module_signature ends with the signature's length, big endian (scripts/sign-file.c)."""
    if not module.endswith(SIGNED):
        return module
    end = len(module) - len(SIGNED)
    size = struct.unpack_from(">I", module, end - 4)[0]
    return module[: end - 12 - size] if size < end - 12 else module


def initial_files(agent: bytes, modules: Iterable[bytes]) -> bytes:
    """A cpio archive (the kernel's `newc`) that holds the agent as /init and the modules as /modules/0, 1, …"""
    entries = [(name, stat.S_IFDIR | 0o755, b"") for name in ("dev", "modules")]
    entries.append(("init", stat.S_IFREG | 0o755, agent))
    entries += [
        (f"modules/{number}", stat.S_IFREG | 0o644, data) for number, data in enumerate(modules)
    ]
    return b"".join(
        entry(index, *each) for index, each in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1)
    )


def entry(inode: int, name: str, mode: int, data: bytes) -> bytes:
    raw = name.encode() + b"\0"
    fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0)
    header = b"070701" + b"".join(b"%08X" % value for value in fields) + raw
    return padded(header) + padded(data)


def padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
