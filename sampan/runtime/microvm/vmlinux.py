"""An ELF kernel out of a Linux boot image (bzImage): what a VMM starts directly, by the PVH entry that is noted in it.

The boot image carries the kernel compressed, and would unpack it at every boot, inside the guest. Here it is unpacked
once. Formats: Documentation/arch/x86/boot.rst, LZ4's legacy frame (doc/lz4_Frame_format.md), Xen's ELF notes.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
from collections.abc import Callable
from pathlib import Path

from sampan.image.decompress import ZSTD, zstandard
from sampan.runtime.microvm.errors import BadArtifact

ELF = b"\x7fELF"
PHYS32_ENTRY = 18  # Xen's note with the PVH entry point
LARGEST = 512 << 20


def extract(path: Path) -> bytes:
    """The ELF kernel in `path`, which may be one already. Raises BadArtifact."""
    data = path.read_bytes()
    if not data.startswith(ELF):
        try:
            data = unpack(payload(data))
        except (ValueError, IndexError, EOFError, OSError, lzma.LZMAError, struct.error) as error:
            raise BadArtifact(path, f"not a Linux boot image: {error}") from error
    if not has_pvh_entry(data):
        raise BadArtifact(
            path, "this kernel cannot be booted directly: it has no PVH entry (CONFIG_PVH)"
        )
    return data


def payload(image: bytes) -> bytes:
    if (
        image[0x202:0x206] == b""
        or image[0x1FE:0x200] != b"\x55\xaa"
        or image[0x202:0x204] < b"\x08\x02"
    ):
        raise ValueError("it has no boot header of protocol 2.08 or newer")
    sectors = image[0x1F1] or 4
    offset, size = struct.unpack_from("<II", image, 0x248)
    start = (sectors + 1) * 512 + offset
    if start + size > len(image):
        raise ValueError("it is cut short")
    return image[start : start + size]


def unpack(packed: bytes) -> bytes:
    methods: tuple[tuple[bytes, Callable[[bytes], bytes]], ...] = (
        (b"\x1f\x8b", lambda data: gzip.decompress(data[:-4])),
        (b"\xfd7zXZ", lambda data: lzma.LZMADecompressor().decompress(data, LARGEST)),
        (ZSTD, unpack_zstd),
        (b"BZh", lambda data: bz2.BZ2Decompressor().decompress(data, LARGEST)),
        (b"\x02\x21\x4c\x18", unpack_lz4),
        (b"\x5d\x00\x00", lambda data: lzma.LZMADecompressor().decompress(data, LARGEST)),
        (ELF, bytes),
    )
    for magic, method in methods:
        if packed.startswith(magic):
            return method(packed)
    raise ValueError(f"its compression is not known here (it begins with {packed[:4].hex()})")


def unpack_zstd(data: bytes) -> bytes:
    """The first frame: what follows is the kernel's size word."""
    zstd = zstandard()
    engine = zstd.ZstdDecompressor()
    try:
        out = bytes(engine.decompress(data, LARGEST))
    except zstd.ZstdError as error:
        raise ValueError(f"damaged zstd: {error}") from error
    if not engine.eof:
        raise ValueError("it is cut short")
    return out


def unpack_lz4(data: bytes) -> bytes:
    """LZ4's legacy frame: blocks, each after its length, until the data or the kernel's size word ends."""
    size = int.from_bytes(data[-4:], "little")
    if size > LARGEST:
        raise ValueError("its size is not believable")
    out = bytearray()
    position = 4
    while position + 4 < len(data) and len(out) < size:
        length = int.from_bytes(data[position : position + 4], "little")
        position += 4
        if length > len(data) - position:
            raise ValueError("it is cut short")
        unpack_block(data, position, position + length, out)
        position += length
    if len(out) != size:
        raise ValueError(f"it unpacks to {len(out)} bytes where {size} are announced")
    return bytes(out)


def unpack_block(data: bytes, at: int, end: int, out: bytearray) -> None:
    while at < end:
        token = data[at]
        at += 1
        count = token >> 4
        if count == 15:
            while True:
                more = data[at]
                at += 1
                count += more
                if more != 255:
                    break
        if count:
            out += data[at : at + count]
            at += count
        if at >= end:
            return
        back = data[at] | data[at + 1] << 8
        at += 2
        count = (token & 15) + 4
        if count == 19:
            while True:
                more = data[at]
                at += 1
                count += more
                if more != 255:
                    break
        start = len(out) - back
        if start < 0 or back == 0:
            raise ValueError("it refers to what was never there")
        if back >= count:
            out += out[start : start + count]
        else:
            out += (out[start:] * (count // back + 1))[:count]


def has_pvh_entry(data: bytes) -> bool:
    """Whether one of the ELF's notes is Xen's PHYS32_ENTRY."""
    if len(data) < 64 or data[4] != 2:
        return False
    table, size, count = struct.unpack_from("<Q", data, 32)[0], *struct.unpack_from("<HH", data, 54)
    for index in range(count):
        at = table + index * size
        if at + 56 > len(data):
            return False
        kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", data, at)
        if kind == 4 and any(
            number == PHYS32_ENTRY for number in notes(data, offset, offset + length)
        ):
            return True
    return False


def notes(data: bytes, at: int, end: int) -> list[int]:
    """Types of Xen's notes between two offsets."""
    found = []
    while at + 12 <= min(end, len(data)):
        name, size, kind = struct.unpack_from("<III", data, at)
        if data[at + 12 : at + 12 + name].rstrip(b"\0") == b"Xen":
            found.append(kind)
        at += 12 + (name + 3 & ~3) + (size + 3 & ~3)
    return found
