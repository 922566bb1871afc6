"""What is decided without a machine: drives, kernels, filters, volumes, logs, sizes, settings, frames that may leave."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import stat
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.network.pods import Attachment
from sampan.runtime.container.seccomp import profile
from sampan.runtime.microvm import (
    erofs,
    kernels,
    modules,
    seccomp,
    settings,
    vmlinux,
    volumes,
    wiring,
)
from sampan.runtime.microvm.boot import BootFiles
from sampan.runtime.microvm.errors import BadArtifact, MissingPiece
from sampan.runtime.microvm.kind import refuse_host_namespaces, size_of
from sampan.runtime.microvm.log import Log
from sampan.runtime.microvm.protocol import Change, Key
from sampan.runtime.microvm.qemu import command
from sampan.runtime.microvm.settings import Settings
from sampan.runtime.microvm.syscalls import numbers
from sampan.runtime.microvm.vmm import DISKS, SLOTS, MachineSpec
from sampan.runtime.microvm.volumes import Treatment
from sampan.runtime.sandbox import CannotStart, Mount, Resources, SandboxSpec

# Drives


def read_tree(image: bytes) -> dict[str, tuple[int, bytes]]:
    """An EROFS image, read as the format says: path → (mode, content)."""
    head = erofs.SUPERBLOCK.unpack_from(image, 1024)
    assert head[0] == erofs.MAGIC
    found: dict[str, tuple[int, bytes]] = {}

    def read(slot: int) -> tuple[int, bytes]:
        at = head[10] * erofs.BLOCK + slot * erofs.SLOT
        form, _, mode, _, size, block, *_ = erofs.EXTENDED.unpack_from(image, at)
        assert form == 1
        return mode, image[block * erofs.BLOCK : block * erofs.BLOCK + size] if size else b""

    def walk(slot: int, path: str) -> None:
        mode, content = read(slot)
        found[path or "/"] = (mode, content if not stat.S_ISDIR(mode) else b"")
        if not stat.S_ISDIR(mode):
            return
        previous = b""
        for start in range(0, len(content), erofs.BLOCK):
            block = content[start : start + erofs.BLOCK]
            count = erofs.DIRENT.unpack_from(block)[1] // erofs.DIRENT.size
            entries = [erofs.DIRENT.unpack_from(block, n * erofs.DIRENT.size) for n in range(count)]
            ends = [entry[1] for entry in entries[1:]] + [len(block)]
            for (child, offset, _), end in zip(entries, ends, strict=True):
                name = block[offset:end].rstrip(b"\0")
                assert name > previous, "names are sorted through all blocks"
                previous = name
                if name not in (b".", b".."):
                    walk(child, f"{path}/{name.decode()}")

    walk(head[5], "")
    return found


def test_layers_become_one_drive(tmp_path: Path) -> None:
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    for layer in (lower, upper):
        (layer / "d").mkdir(parents=True)
    (lower / "d" / "kept").write_bytes(b"k" * 10_000)
    (lower / "d" / "gone").write_text("gone")
    (lower / "d" / "changed").write_text("old")
    (lower / "many").mkdir()
    for number in range(700):
        (lower / "many" / f"a-rather-long-name-{number:05}").write_text(str(number))
    (lower / "link").symlink_to("d/kept")
    os.link(lower / "d" / "kept", lower / "hard")
    (lower / "opaque").mkdir()
    (lower / "opaque" / "hidden").write_text("x")
    (upper / "d" / ".wh.gone").touch()
    (upper / "d" / "changed").write_text("new")
    (upper / "d" / "changed").chmod(0o4755)
    (upper / "opaque").mkdir()
    (upper / "opaque" / ".wh..wh..opq").touch()
    (upper / "empty").touch()
    target = tmp_path / "image"
    erofs.build(
        [lower, upper], target, ("etc/hosts", "proc/", "d/kept", "link/below", "d/changed/x")
    )
    tree = read_tree(target.read_bytes())
    assert tree["/etc/hosts"] == (stat.S_IFREG | 0o644, b"") and stat.S_ISDIR(tree["/proc"][0])
    assert not {"/link/below", "/d/changed/x"} & set(tree)  # behind a symlink, behind a file
    assert tree["/d/kept"][1] == tree["/hard"][1] == b"k" * 10_000
    assert tree["/d/changed"] == (stat.S_IFREG | 0o4755, b"new")
    assert tree["/link"][1] == b"d/kept" and stat.S_ISLNK(tree["/link"][0])
    assert tree["/empty"][1] == b""
    assert len([path for path in tree if path.startswith("/many/")]) == 700
    assert tree["/many/a-rather-long-name-00699"][1] == b"699"
    assert "/d/gone" not in tree and "/opaque/hidden" not in tree
    assert not any(".wh." in path for path in tree)
    if shutil.which("fsck.erofs"):
        subprocess.run(["fsck.erofs", target], check=True, capture_output=True)


# Kernels


def kernel_package(path: Path, broken: bool = False) -> Path:
    """A Debian package with a boot image whose kernel is a small ELF with Xen's note, packed by gzip."""
    import gzip
    import io
    import tarfile

    note = struct.pack("<III", 4, 8, vmlinux.PHYS32_ENTRY) + b"Xen\0" + bytes(8)
    elf = bytearray(64 + 56 + len(note))
    elf[:5] = b"\x7fELF\x02"
    struct.pack_into("<Q", elf, 32, 64)
    struct.pack_into("<HH", elf, 54, 56, 1)
    struct.pack_into("<IIQQQQ", elf, 64, 4, 0, 120, 0, 0, len(note))
    elf[120:] = note
    packed = gzip.compress(bytes(elf)) + struct.pack("<I", len(elf))
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
    files = {
        "./boot/vmlinuz-9.9-test": image,
        "./lib/modules/9.9-test/kernel/drivers/virtio/virtio_mmio.ko": signed,
        "./lib/modules/9.9-test/kernel/drivers/virtio/virtio-ring.ko": module(""),
        "./lib/modules/9.9-test/kernel/drivers/gpu/other.ko": module(""),
    }
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


def test_a_kernel_out_of_a_debian_package(tmp_path: Path) -> None:
    made = kernels.unpack(kernel_package(tmp_path / "k.deb"), tmp_path / "kernels")
    assert made.release == "9.9-test"
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


# Seccomp


def run_filter(program: bytes, machine: str, number: int, *arguments: int) -> int:
    """The kernel's interpreter of classic BPF, for what seccomp uses of it."""
    data = struct.pack("<iIQ6Q", number, seccomp.AUDIT[machine], 0, *(arguments + (0,) * 6)[:6])
    code = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    at = accumulator = 0
    for _ in range(len(code) + 1):
        kind, yes, no, value = code[at]
        at += 1
        if kind == seccomp.LOAD:
            accumulator = struct.unpack_from("<I", data, value)[0]
        elif kind == seccomp.AND:
            accumulator &= value
        elif kind == seccomp.JUMP:
            at += value
        elif kind == seccomp.RETURN:
            return value
        else:
            true = {
                seccomp.EQUAL: accumulator == value, seccomp.GREATER: accumulator > value,
                seccomp.GREATER_EQUAL: accumulator >= value,
            }[kind]  # fmt: skip
            at += yes if true else no
    raise AssertionError("the program does not end")


ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_default_profile_compiled(machine: str) -> None:
    calls = numbers(machine)
    program = seccomp.compile(profile(()), machine)
    for name in ("read", "openat", "execve", "mmap", "socketpair"):
        assert run_filter(program, machine, calls[name]) == ALLOW, name
    for name in ("mount", "reboot", "init_module", "bpf", "ptrace", "setns", "keyctl"):
        wanted = ALLOW if name == "ptrace" else REFUSE
        assert run_filter(program, machine, calls[name]) == wanted, name
    assert run_filter(program, machine, calls["socket"], 2) == ALLOW
    assert run_filter(program, machine, calls["socket"], 40) == REFUSE, "AF_VSOCK"
    assert run_filter(program, machine, calls["clone"], 0x11) == ALLOW
    assert run_filter(program, machine, calls["clone"], 0x10000000) == REFUSE, "a user namespace"
    assert run_filter(program, machine, calls["clone3"]) == 0x00050000 | errno.ENOSYS
    assert run_filter(program, machine, calls["personality"], 0x20008) == ALLOW
    assert run_filter(program, machine, calls["personality"], 0x123) == REFUSE
    assert run_filter(program, machine, 5000) == REFUSE
    other = "aarch64" if machine == "x86_64" else "x86_64"
    assert run_filter(program, other, calls["read"]) == 0x80000000


COMPARE = {
    "SCMP_CMP_EQ": lambda a, b, _: a == b, "SCMP_CMP_NE": lambda a, b, _: a != b,
    "SCMP_CMP_LT": lambda a, b, _: a < b, "SCMP_CMP_LE": lambda a, b, _: a <= b,
    "SCMP_CMP_GT": lambda a, b, _: a > b, "SCMP_CMP_GE": lambda a, b, _: a >= b,
    "SCMP_CMP_MASKED_EQ": lambda a, b, c: a & b == c,
}  # fmt: skip
words = st.one_of(
    st.integers(0, 2**64 - 1),
    st.integers(0, 3),
    st.sampled_from([2**32 - 1, 2**32, 2**32 + 1, 2**63]),
)


@given(st.sampled_from(sorted(COMPARE)), words, words, words)
def test_conditions_on_64_bits(operator: str, argument: int, value: int, second: int) -> None:
    rule = {"names": ["read"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 2, "value": value, "valueTwo": second, "op": operator}]}  # fmt: skip
    program = seccomp.compile({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule]}, "x86_64")
    wanted = ALLOW if COMPARE[operator](argument, value, second) else REFUSE
    assert run_filter(program, "x86_64", 0, 7, 7, argument) == wanted


def test_a_profile_with_an_unknown_word_is_refused() -> None:
    with pytest.raises(CannotStart, match="SCMP_ACT_PRAY"):
        seccomp.compile({"defaultAction": "SCMP_ACT_PRAY"}, "x86_64")


# Volumes


def plan(source: Path, mounts: str = "", **fields: Any) -> volumes.Volume:
    return volumes.plan(Mount(source, "/there", **fields), mounts)


def test_what_is_copied_made_inside_or_refused(tmp_path: Path) -> None:
    pod = tmp_path / "pods" / "1234"
    config = pod / "volumes" / "configMap" / "settings"
    empty = pod / "volumes" / "emptyDir" / "share" / "sub"
    kubelets = pod / "volumes" / "kubernetes.io~empty-dir" / "cache"
    secret = tmp_path / "run" / "volumes" / "1234" / "secret" / "key"
    elsewhere = tmp_path / "srv"
    for directory in (config, empty, kubelets, secret, elsewhere):
        directory.mkdir(parents=True)
    hosts, message = pod / "etc-hosts", pod / "termination-box-0"
    for file in (hosts, message, elsewhere / "file"):
        file.write_text("x")
    assert plan(config).treatment is plan(secret).treatment is Treatment.PAYLOAD
    assert plan(config).readonly
    assert plan(empty).guest == "/run/v/e-share/sub" and not plan(empty).readonly
    assert plan(kubelets).guest == "/run/v/e-cache"
    assert plan(message) == volumes.Volume(
        Treatment.FILE, message, plan(message).guest, False, True
    )
    assert not plan(hosts, readonly=True).returned
    assert plan(elsewhere, readonly=True).treatment is Treatment.COPY
    for source in (elsewhere, elsewhere / "file"):
        with pytest.raises(
            CannotStart,
            match="cannot be mounted writable at /there: the kernel of this microVM has no FUSE",
        ):
            plan(source)
    with pytest.raises(CannotStart, match="No such file"):
        plan(tmp_path / "missing")


def test_a_sub_path_is_what_it_was_bound_from(tmp_path: Path) -> None:
    place = tmp_path / "pods" / "1" / "subpaths" / "box" / "0"
    place.mkdir(parents=True)
    volume = f"{tmp_path}/pods/1/volumes/emptyDir/share/inner"
    mounts = (
        f"20 1 8:1 / / rw - ext4 /dev/sda rw\n30 20 8:1 {volume} {place} rw - ext4 /dev/sda rw\n"
    )
    assert plan(place, mounts).guest == "/run/v/e-share/inner"
    memory = (
        f"20 1 8:1 / / rw - ext4 /dev/sda rw\n25 20 0:9 / {tmp_path}/pods/1/volumes/emptyDir/share rw - tmpfs tmpfs rw\n"
        f"30 20 0:9 /inner {place} rw - tmpfs tmpfs rw\n"
    )
    assert plan(place, memory).guest == "/run/v/e-share/inner"


def test_what_a_guest_with_a_file_server_shares(tmp_path: Path) -> None:
    def shared(source: Path, mounts: str = "", **fields: Any) -> volumes.Volume:
        return volumes.plan(Mount(source, "/there", **fields), mounts, sharing=True)

    empty = tmp_path / "pods" / "1" / "volumes" / "emptyDir" / "cache"
    empty.mkdir(parents=True)
    file = tmp_path / "settings"
    file.touch()
    for source in (tmp_path, empty, file):
        for readonly in (False, True):
            found = shared(source, readonly=readonly)
            assert (found.treatment, found.readonly) == (Treatment.SHARED, readonly)
    memory = f"25 20 0:9 / {empty} rw - tmpfs tmpfs rw\n"
    assert shared(empty, memory).treatment is Treatment.LOCAL
    place = tmp_path / "subpath"
    place.mkdir()
    bound = f"{memory}30 20 0:9 /inner {place} rw - tmpfs tmpfs rw\n"
    assert shared(place, bound).guest == "/run/v/e-cache/inner"
    with pytest.raises(CannotStart, match="device or socket"):
        shared(Path("/dev/null"))


def test_too_much_is_not_copied(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        os.truncate(file.fileno(), volumes.COPY_LIMIT + 1)
    with pytest.raises(CannotStart, match="holds more than 64 MiB"):
        plan(tmp_path, readonly=True)


def test_an_update_changes_all_files_in_one_step(tmp_path: Path) -> None:
    def version(stamp: str, names: list[str]) -> None:
        (tmp_path / stamp).mkdir()
        for name in names:
            (tmp_path / stamp / name).write_text(stamp)
        (tmp_path / "..data").unlink(missing_ok=True)
        (tmp_path / "..data").symlink_to(stamp)

    version("..1", ["a", "b"])
    for name in ("a", "b"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    before = volumes.names_in(tmp_path)
    assert list(volumes.update_payload(tmp_path, "/v", before)) == []
    version("..2", ["b", "c"])
    shutil.rmtree(tmp_path / "..1")
    (tmp_path / "a").unlink()
    (tmp_path / "c").symlink_to("..data/c")
    steps = [dict(step) for step in volumes.update_payload(tmp_path, "/v", before)]
    done = [(step[Key.OP], step[Key.PATH]) for step in steps]
    flip = done.index((Change.RENAME, "/v/..data_tmp"))
    assert done.index((Change.WHOLE, "/v/..2/c")) < flip
    assert done.index((Change.REMOVE_TREE, "/v/..1")) > flip
    assert (Change.LINK, "/v/c") in done and (Change.REMOVE_TREE, "/v/a") in done


# Logs


def texts(path: Path) -> list[str]:
    return [line.split(" ", 3)[3] for line in path.read_text().splitlines()]


def test_a_killed_runtime_loses_no_line_and_doubles_none(tmp_path: Path) -> None:
    path, state = tmp_path / "log", tmp_path / "state"
    output = b"".join(b"line %d\n" % number for number in range(50))
    log = Log(path, state)
    seen = log.write(0, output[:100])
    log.write(1, b"complaint\n")
    with path.open("ab") as file:  # written, and killed before it was noted how far
        file.write(b"2026-01-01T00:00:00Z stdout F line 12\n")
    again = Log(path, state)
    assert again.seen == [seen, 10]
    again.write(0, output[seen:])
    again.flush()
    found = [text for text in texts(path) if text != "complaint"]
    assert found == output.decode().splitlines()


def test_a_rotated_log_is_not_cut(tmp_path: Path) -> None:
    path, state = tmp_path / "log", tmp_path / "state"
    log = Log(path, state)
    log.write(0, b"before\nbeg")
    path.rename(tmp_path / "log.1")
    path.write_text("2026-01-01T00:00:00Z stdout F somebody's\n")
    again = Log(path, state)
    again.write(0, b"un\nlast")
    again.flush()
    assert texts(path) == ["somebody's", "begun", "last"]
    assert path.read_text().splitlines()[-1].split(" ")[2] == "P"


# Sizes, settings, command line, network


def pod(**fields: Any) -> SandboxSpec:
    return SandboxSpec(
        "a" * 64, "p", "n", "u", 0, "p", Path("/x"), Path("/x"), "", Attachment(None, ()), **fields
    )


@pytest.mark.parametrize(
    ("limits", "annotations", "wanted"),
    [
        (Resources(), {}, (256, 1)),
        (Resources(memory=64 << 20), {}, (128, 1)),
        (Resources(memory=300 << 20), {}, (384, 1)),
        (Resources(memory=300 << 20), {"overhead": "300"}, (576, 1)),
        (Resources(), {"sampan.dev/vm-memory": "1Gi"}, (1024, 1)),
        (Resources(cpu_quota=50_000, cpu_period=100_000), {}, (256, 1)),
        (Resources(cpu_quota=10_000_000, cpu_period=100_000), {}, (256, os.cpu_count())),
    ],
)
def test_the_size_of_a_machine(
    limits: Resources, annotations: dict[str, str], wanted: tuple[int, int]
) -> None:
    overhead = Resources(memory=int(annotations.pop("overhead", 0)) << 20)
    made = pod(resources=limits, annotations=annotations, overhead=overhead)
    assert size_of(made, Settings()) == wanted


@pytest.mark.parametrize("field", ["host_network", "host_pid", "host_ipc"])
def test_no_part_in_the_hosts_namespaces(field: str) -> None:
    with pytest.raises(CannotStart, match="no part in the host's"):
        refuse_host_namespaces(pod(**{field: True}))


def test_settings_are_checked(tmp_path: Path) -> None:
    assert Settings.load(tmp_path) == Settings()
    path = tmp_path / settings.NAME
    path.write_text(json.dumps({"pool": 3, "accelerator": "tcg"}))
    assert Settings.load(tmp_path) == Settings(pool=3, accelerator="tcg")
    for wrong, why in (
        ({"pool": "3"}, "not a int"),
        ({"pol": 1}, "unknown setting"),
        ({"driver": "bochs"}, "not one of"),
    ):
        path.write_text(json.dumps(wrong))
        with pytest.raises(BadArtifact, match=why):
            Settings.load(tmp_path)


def test_no_kernel_is_said_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "places", lambda own: [own])
    with pytest.raises(MissingPiece) as caught:
        kernels.find(tmp_path)
    assert caught.value.install == kernels.FETCH


def test_a_clone_has_the_devices_of_its_template() -> None:
    base = {"agent": 3, "files": 12, "control": 4, "empty": 5, "kernel": 6, "initial_files": 7}
    made = MachineSpec(
        "a" * 64,
        Path("/x"),
        128,
        kernel=Path("/k"),
        initial_files=Path("/i"),
        ram=8,
        ram_shared=True,
    )
    clone = MachineSpec("b" * 64, Path("/y"), 128, ram=8, state=9, tap=10)

    def devices(argv: list[str]) -> list[str]:
        return [value for option, value in itertools.pairwise(argv) if option == "-device"]

    first, second = command("qemu", "tcg", made, base), command("qemu", "tcg", clone, base)
    assert devices(first) == devices(second)
    assert len([name for name in devices(first) if name.startswith("virtio-blk")]) == SLOTS + DISKS
    assert "-kernel" in first and "-kernel" not in second
    assert not [
        word
        for word in second
        if word.startswith("/") and not word.startswith(("/proc/self/fd/", "/dev/fdset/"))
    ]
    assert "share=off" in " ".join(second)
    assert "-sandbox" in second


def matches(frame: bytes, wanted: tuple[wiring.Match, ...]) -> bool:
    return all(
        int.from_bytes(frame[14 + match.offset :][:4].ljust(4, b"\0"), "big") & match.mask
        == match.value & match.mask
        for match in wanted
    )


def test_only_own_frames_may_leave() -> None:
    mac, other = bytes.fromhex("0242ac110002"), bytes.fromhex("0242ac110003")
    own = wiring.Identity(mac, "10.42.0.7", 24, "10.42.0.1", 1500)
    filters = wiring.own_frames(own)
    ours, theirs = bytes([10, 42, 0, 7]), bytes([10, 42, 0, 8])

    def ip(hardware: bytes, address: bytes) -> bytes:
        return bytes(6) + hardware + b"\x08\x00" + b"\x45" + bytes(11) + address + bytes(4)

    def arp(hardware: bytes, sender: bytes, address: bytes) -> bytes:
        return (
            b"\xff" * 6
            + hardware
            + b"\x08\x06"
            + bytes.fromhex("0001080006040002")
            + sender
            + address
            + bytes(10)
        )

    assert matches(ip(mac, ours), filters[wiring.ETH_P_IP])
    assert not matches(ip(mac, theirs), filters[wiring.ETH_P_IP])
    assert not matches(ip(other, ours), filters[wiring.ETH_P_IP])
    assert matches(arp(mac, mac, ours), filters[wiring.ETH_P_ARP])
    for forged in (arp(mac, mac, theirs), arp(other, mac, ours), arp(mac, other, ours)):
        assert not matches(forged, filters[wiring.ETH_P_ARP])
    assert set(filters) == {wiring.ETH_P_IP, wiring.ETH_P_ARP}
