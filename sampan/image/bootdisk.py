"""A disk that a PC boots: boot sectors, kernel and initial file system, raw or as QEMU's qcow2.

The BIOS reads the disk, once, into memory; the kernel never does, so it needs no driver for it and nothing is written to it.
The kernel is an ELF with a PVH entry; where everything goes is settled here and written into a table that the boot sectors
(native/boot/boot.S) follow. qcow2: docs/interop/qcow2.txt of QEMU.
"""

from __future__ import annotations

import os
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sampan.image.errors import BadImage

SECTOR = 512
LOADED = 14  # sectors that the first one brings in, itself included
BASE = 0x7C00
TABLE, INFO, MODULES, COMMAND_LINE, MAP = 0x8C00, 0x9000, 0x9100, 0x9200, 0x9800
SEGMENT = struct.Struct("<III")
START_INFO = struct.Struct("<4I4QII")  # Xen's public/arch-x86/hvm/start_info.h
MAGIC = 0x336EC578
PHYS32_ENTRY = 18
PAGE = 4096
CLUSTER = 1 << 16


@dataclass(frozen=True, slots=True)
class Segment:
    offset: int  # in the file
    size: int
    memory: int  # bytes in memory: what is more than `size` is zero
    address: int


def segments(kernel: bytes) -> list[Segment]:
    """What of the ELF is loaded, lowest address first."""
    table, size, count = (
        struct.unpack_from("<Q", kernel, 32)[0],
        *struct.unpack_from("<HH", kernel, 54),
    )
    found = []
    for number in range(count):
        kind, _, offset, _, address, filled, memory = struct.unpack_from(
            "<IIQQQQQ", kernel, table + number * size
        )
        if kind == 1 and memory:
            found.append(Segment(offset, filled, memory, address))
    return sorted(found, key=lambda each: each.address)


def entry_point(kernel: bytes) -> int:
    """The PVH entry, by Xen's note. Raises BadImage."""
    table, size, count = (
        struct.unpack_from("<Q", kernel, 32)[0],
        *struct.unpack_from("<HH", kernel, 54),
    )
    for number in range(count):
        kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", kernel, table + number * size)
        at, end = offset, offset + length
        while kind == 4 and at + 12 <= end:
            name, value, note = struct.unpack_from("<III", kernel, at)
            start = at + 12 + (name + 3 & ~3)
            if note == PHYS32_ENTRY and kernel[at + 12 : at + 12 + name].rstrip(b"\0") == b"Xen":
                return int(struct.unpack_from("<I", kernel, start)[0])
            at = start + (value + 3 & ~3)
    raise BadImage("this kernel has no PVH entry (CONFIG_PVH)")


def write(out: BinaryIO, boot: bytes, kernel: bytes, initrd: Path, command_line: str) -> None:
    """The raw disk, in whole sectors. Raises BadImage."""
    if len(boot) > TABLE - BASE or boot[510:512] != b"\x55\xaa":
        raise BadImage("the boot sectors are not what they should be")
    if len(command_line.encode()) >= MAP - COMMAND_LINE:
        raise BadImage(f"the command line is longer than {MAP - COMMAND_LINE - 1} bytes")
    loaded = segments(kernel)
    end = max(each.address + each.memory for each in loaded)
    place = -(-end // PAGE) * PAGE
    size = initrd.stat().st_size
    if place + size >= 1 << 32:
        raise BadImage("kernel and files do not fit below 4 GiB, where a PC is booted")
    head = bytearray(LOADED * SECTOR)
    head[: len(boot)] = boot
    table = [struct.pack("<I", entry_point(kernel))]
    sector = LOADED
    for each in loaded:
        table.append(SEGMENT.pack(sector, sectors(each.memory), each.address))
        sector += sectors(each.memory)
    table.append(SEGMENT.pack(sector, sectors(size), place) + SEGMENT.pack(0, 0, 0))
    for at, data in (
        (TABLE, b"".join(table)),
        (INFO, START_INFO.pack(MAGIC, 1, 0, 1, MODULES, COMMAND_LINE, 0, MAP, 0, 0)),
        (MODULES, struct.pack("<4Q", place, size, 0, 0)),
        (COMMAND_LINE, command_line.encode() + b"\0"),
    ):
        head[at - BASE : at - BASE + len(data)] = data
    out.write(head)
    for each in loaded:
        data = kernel[each.offset : each.offset + each.size]
        out.write(data.ljust(sectors(each.memory) * SECTOR, b"\0"))
    with initrd.open("rb") as file:
        shutil.copyfileobj(file, out, 1 << 20)
    out.write(b"\0" * (-size % SECTOR))


def sectors(count: int) -> int:
    return -(-count // SECTOR)


def to_qcow2(raw: Path, target: Path) -> None:
    """The same disk as qcow2, version 2: clusters of nothing but zeros take no room."""
    size = raw.stat().st_size
    clusters = -(-size // CLUSTER)
    per_table = CLUSTER // 8
    tables = -(-clusters // per_table)
    with raw.open("rb") as source, target.open("wb") as out:
        first = [0] * tables
        entries: list[list[int]] = [[0] * per_table for _ in range(tables)]
        at = 2  # header, first-level table; then data
        if tables * 8 > CLUSTER:
            raise BadImage("the disk is too large")
        for number in range(clusters):
            data = source.read(CLUSTER)
            if data.count(0) == len(data):
                continue
            out.seek(at * CLUSTER)
            out.write(data.ljust(CLUSTER, b"\0"))
            entries[number // per_table][number % per_table] = at * CLUSTER | 1 << 63
            at += 1
        for number, table in enumerate(entries):
            out.seek(at * CLUSTER)
            out.write(struct.pack(f">{per_table}Q", *table))
            first[number] = at * CLUSTER | 1 << 63
            at += 1
        # Every cluster is used once: the counts cover themselves and the table that leads to them.
        per_block = CLUSTER // 2
        blocks = 1
        while at + 1 + blocks > blocks * per_block:
            blocks += 1
        refcounts, total = at, at + 1 + blocks
        out.seek(refcounts * CLUSTER)
        places = [(refcounts + 1 + number) * CLUSTER for number in range(blocks)]
        out.write(struct.pack(f">{blocks}Q", *places).ljust(CLUSTER, b"\0"))
        counts = struct.pack(">H", 1) * total
        out.write(counts.ljust(blocks * CLUSTER, b"\0"))
        out.seek(CLUSTER)
        out.write(struct.pack(f">{tables}Q", *first))
        header = struct.pack(
            ">4sIQIIQIIQQIIQ", b"QFI\xfb", 2, 0, 0, 16, -(-size // SECTOR) * SECTOR, 0, tables,
            CLUSTER, refcounts * CLUSTER, 1, 0, 0,
        )  # fmt: skip
        out.seek(0)
        out.write(header)
        os.ftruncate(out.fileno(), total * CLUSTER)
