"""Guest kernels out of packages, what they are compressed with, and the initial files of a guest."""

from __future__ import annotations

import gzip
import io
import lzma
import shutil
import struct
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.image.decompress import zstandard
from sampan.runtime.microvm import kernels, modules, vmlinux
from sampan.runtime.microvm.boot import BootFiles
from sampan.runtime.microvm.errors import BadArtifact


def kernel_package(path: Path, broken: bool = False, like: int = 12) -> Path:
    """A Debian package with a boot image whose kernel is a small ELF with Xen's note: as Debian 12 has it, packed by gzip
    and with plain modules, or as 13: by zstd, modules by xz, FUSE built in.
    """
    new = like == 13
    note = struct.pack("<III", 4, 8, vmlinux.PHYS32_ENTRY) + b"Xen\0" + bytes(8)
    elf = bytearray(64 + 56 + len(note))
    elf[:5] = b"\x7fELF\x02"
    struct.pack_into("<Q", elf, 32, 64)
    struct.pack_into("<HH", elf, 54, 56, 1)
    struct.pack_into("<IIQQQQ", elf, 64, 4, 0, 120, 0, 0, len(note))
    elf[120:] = note + (modules.EXTRAS["fuse"] if new else b"")
    squeezed = zstandard().compress(bytes(elf)) if new else gzip.compress(bytes(elf))
    packed = squeezed + struct.pack("<I", len(elf))
    boot = bytearray(1024)
    boot[0x1F1] = 1
    boot[0x1FE:0x200] = b"\x55\xaa"
    boot[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", boot, 0x206, 0x020F)
    struct.pack_into("<II", boot, 0x248, 0, len(packed))
    image = bytes(boot) + (packed[:40] if broken else packed)

    def module(depends: str) -> bytes:
        return b"\x7fELF.modinfo\0depends=" + depends.encode() + b"\0rest"

    signed = module("virtio-ring") + bytes(30) + bytes(8) + struct.pack(">I", 30) + modules.SIGNED
    drivers = {
        "virtio/virtio_mmio.ko": signed,
        "virtio/virtio-ring.ko": module(""),
        "gpu/other.ko": module(""),
    }
    files = {"./boot/vmlinuz-9.9-test": image}
    place = f"./{'usr/' if new else ''}lib/modules/9.9-test/kernel/drivers"
    for name, content in drivers.items():
        packed = lzma.compress(content) if new else content
        files[f"{place}/{name}{'.xz' if new else ''}"] = packed
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    body = data.getvalue()
    out = b"!<arch>\n"
    for name, content in (("debian-binary", b"2.0\n"), ("data.tar.xz", body)):
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
        out += content + b"\n" * (len(content) % 2)
    path.write_bytes(out)
    return path


@pytest.mark.parametrize("like", [12, 13])
def test_a_kernel_out_of_a_debian_package(tmp_path: Path, like: int) -> None:
    made = kernels.unpack(kernel_package(tmp_path / "k.deb", like=like), tmp_path / "kernels")
    assert made.release == "9.9-test" and made.shares_files == (like == 13)
    assert made.modules == ("virtio_ring", "virtio_mmio")
    assert made.image.read_bytes().startswith(b"\x7fELF")
    assert modules.SIGNED not in made.module_files()[1]
    assert kernels.load(made.directory) == made


def test_a_damaged_kernel_is_refused_by_name(tmp_path: Path) -> None:
    made = kernels.unpack(kernel_package(tmp_path / "k.deb"), tmp_path / "kernels")
    with made.image.open("r+b") as file:
        file.seek(70)
        file.write(b"?")
    with pytest.raises(BadArtifact, match=r"has changed on disk.*kernels fetch"):
        kernels.load(made.directory)
    with pytest.raises(BadArtifact, match="has changed on disk"):
        BootFiles(made, b"agent").initial_files()
    with pytest.raises(BadArtifact, match="not a Linux boot image"):
        kernels.unpack(kernel_package(tmp_path / "b.deb", broken=True), tmp_path / "other")
    (tmp_path / "no.deb").write_bytes(b"<html>")
    with pytest.raises(BadArtifact, match="not a Debian kernel package"):
        kernels.unpack(tmp_path / "no.deb", tmp_path / "other")


def lz4_legacy(data: bytes) -> bytes:
    """One block of literals and of matches with themselves, as the kernel's build makes."""
    block = bytearray()
    at = 0
    while at < len(data):
        literal = data[at : at + 7]
        at += len(literal)
        run = 0
        while literal and at + run < len(data) and data[at + run] == literal[-1] and run < 300:
            run += 1
        if run < 4 or at + run >= len(data):
            run = 0
        if not run:
            rest = data[at:] if at >= len(data) - 8 else b""
            literal += rest
            at += len(rest)
        block.append(min(15, len(literal)) << 4 | (min(15, run - 4) if run else 0))
        if len(literal) >= 15:
            block.append(len(literal) - 15)
        block += literal
        if at >= len(data):
            break
        if run:
            block += (1).to_bytes(2, "little")
            left = run - 4 - 15
            if left >= 0:
                block += b"\xff" * (left // 255) + bytes([left % 255])
            at += run
        else:
            block += (1).to_bytes(2, "little")
            copied = literal[-1:] * 4
            if data[at : at + 4] != copied:
                return lz4_literals(data)
            at += 4
    return (
        b"\x02\x21\x4c\x18"
        + len(block).to_bytes(4, "little")
        + bytes(block)
        + len(data).to_bytes(4, "little")
    )


def lz4_literals(data: bytes) -> bytes:
    count = len(data)
    block = bytearray([min(15, count) << 4])
    if count >= 15:
        left = count - 15
        block += b"\xff" * (left // 255) + bytes([left % 255])
    block += data
    return (
        b"\x02\x21\x4c\x18"
        + len(block).to_bytes(4, "little")
        + bytes(block)
        + count.to_bytes(4, "little")
    )


def test_zstd_ends_where_its_frame_does() -> None:
    packed = zstandard().compress(b"kernel" * 100)
    assert vmlinux.unpack(packed + struct.pack("<I", 600)) == b"kernel" * 100
    with pytest.raises(ValueError, match="cut short"):
        vmlinux.unpack(packed[:-4])
    with pytest.raises(ValueError, match="damaged zstd"):
        vmlinux.unpack(packed[:6] + b"\xff" * 60)


@pytest.mark.parametrize("ending", ["", ".gz", ".xz", ".zst"])
def test_modules_are_read_however_they_are_packed(ending: str) -> None:
    pack = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard().compress}
    packed = pack.get(ending, bytes)(b"\x7fELF and so on")
    assert modules.opened(f"a/b.ko{ending}", packed) == b"\x7fELF and so on"
    assert modules.name_of(f"a/b-c.ko{ending}") == "b_c"
    with pytest.raises(ValueError, match=r"not read here \(\.bz2\)"):
        modules.opened("b.ko.bz2", packed)
    if ending:
        with pytest.raises(ValueError, match="a damaged module"):
            modules.opened(f"b.ko{ending}", packed[: len(packed) // 2] + b"?")


@given(st.binary(min_size=1, max_size=2000))
def test_lz4_of_plain_bytes(data: bytes) -> None:
    assert vmlinux.unpack_lz4(lz4_literals(data)) == data


@given(
    st.lists(
        st.tuples(st.binary(min_size=7, max_size=7), st.integers(8, 400)), min_size=1, max_size=8
    )
)
def test_lz4_of_runs(parts: list[tuple[bytes, int]]) -> None:
    data = b"".join(head + head[-1:] * count for head, count in parts) + b"the end of it"
    assert vmlinux.unpack_lz4(lz4_legacy(data)) == data


@given(st.binary(max_size=300))
def test_lz4_of_anything_ends(data: bytes) -> None:
    try:
        vmlinux.unpack_lz4(b"\x02\x21\x4c\x18" + data + (100).to_bytes(4, "little"))
    except (ValueError, IndexError):
        return


def test_the_initial_files_are_a_cpio_archive(tmp_path: Path) -> None:
    archive = modules.initial_files(b"agent", [b"first", b"second!"])
    if shutil.which("busybox"):
        subprocess.run(
            ["busybox", "cpio", "-i", "-d"],
            input=archive,
            cwd=tmp_path,
            check=True,
            capture_output=True,
        )
        assert (tmp_path / "init").read_bytes() == b"agent"
        assert (tmp_path / "init").stat().st_mode & 0o111
        assert (tmp_path / "modules" / "1").read_bytes() == b"second!"
    assert archive.startswith(b"070701") and b"TRAILER!!!" in archive
