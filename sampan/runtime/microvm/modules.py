"""Kernel modules for the guest: which ones, in which order, and an initial file system with them and the agent.

The agent loads them by number, so the order is settled here, by the `depends` that each module states of itself.
Signatures are cut off: nothing checks them in a guest, and checking them is what takes longest (RSA, under emulation).
"""

from __future__ import annotations

import gzip
import lzma
import stat
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping

from sampan.image.decompress import zstandard

WANTED = ("virtio_mmio", "virtio_console", "virtio_blk", "virtio_net", "erofs", "overlay", "fuse")
# What a guest needs of its VMM's bus, and no other does.
BUSES = {"mmio": ("virtio_mmio",), "pci": ("virtio_pci", "virtio_pci_modern_dev", "virtio_pci_legacy_dev")}  # fmt: skip
VSOCK = ("vmw_vsock_virtio_transport",)  # where the VMM has no serial port of virtio
# Directories of a kernel package in which these and what they need are found.
PLACES = (
    "drivers/virtio/", "drivers/block/virtio", "drivers/char/virtio", "drivers/net/virtio",
    "drivers/net/net_failover", "net/core/", "net/vmw_vsock/", "fs/erofs/", "fs/overlayfs/", "fs/fuse/",
    "lib/", "crypto/",
)  # fmt: skip
# What guests can do without. A name as short as `fuse` ends others, so this is known by what it says (fs/fuse/inode.c).
EXTRAS = {"fuse": b"init (API version "}
SIGNED = b"~Module signature appended~\n"


# How distributions compress them.
OPENERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.decompress,
    ".xz": lzma.decompress,
    ".zst": lambda data: bytes(zstandard().decompress(data)),
}


def built_in(image: bytes) -> tuple[str, ...]:
    return tuple(name for name, mark in EXTRAS.items() if mark in image)


def is_module(path: str) -> bool:
    return ".ko" in path.rpartition("/")[2]


def name_of(path: str) -> str:
    """A module's own name: its file's, with `-` as `_`."""
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def opened(path: str, data: bytes) -> bytes:
    """The module in a file of that name, uncompressed. Raises ValueError."""
    ending = path.rpartition("/")[2].partition(".ko")[2]
    opener = OPENERS.get(ending)
    if opener is None:
        raise ValueError(f"a module compressed in a way that is not read here ({ending})")
    damage: tuple[type[Exception], ...] = (OSError, EOFError, lzma.LZMAError, zlib.error)
    if ending == ".zst":
        damage = (*damage, zstandard().ZstdError)
    try:
        return opener(data)
    except damage as error:
        raise ValueError(f"a damaged module: {error}") from error


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


def for_bus(names: Iterable[str], bus: str) -> tuple[str, ...]:
    """Those of a kernel's modules that a guest on that bus is given, in their order."""
    others = {name for each, needed in BUSES.items() if each != bus for name in needed}
    return tuple(name for name in names if name not in others)


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
