"""Layers on disk: what they become, and that no archive writes outside its directory."""

from __future__ import annotations

import gzip
import io
import multiprocessing
import os
import stat
import tarfile
import tempfile
import threading
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_make import digest, directory, entry, hardlink, layer, symlink, zstd

from sampan.image.errors import BadImage
from sampan.image.lookup import find, resolve
from sampan.image.unpack import Limits, _Entry, unpack_layer
from sampan.linux.trees import remove_quietly

ROOT = os.geteuid() == 0


def unpack(tmp: Path, data: bytes, *, blob: bytes | None = None, **limits: int) -> Path:
    source = tmp / "blob"
    source.write_bytes(gzip.compress(data) if blob is None else blob)
    target = tmp / "layers" / f"l{len(list(tmp.glob('layers/l*')))}"
    unpack_layer(source, digest(data), target, Limits(**limits))
    return target


def test_files_directories_links_and_metadata(tmp_path: Path) -> None:
    data = layer(
        directory("etc", 0o750),
        entry("etc/shadow", b"secret", mode=0o640, mtime=1000),
        symlink("etc/link", "../../../../../outside"),
        hardlink("etc/hard", "etc/shadow"),
        entry("made/on/the/way", b"x"),
        entry("./dotted", b"y"),
        entry("/rooted", b"z"),
    )
    root = unpack(tmp_path, data)
    assert (root / "etc/shadow").read_bytes() == b"secret"
    assert stat.S_IMODE((root / "etc/shadow").stat().st_mode) == 0o640
    assert (root / "etc/shadow").stat().st_mtime == 1000
    assert (root / "etc/hard").stat().st_ino == (root / "etc/shadow").stat().st_ino
    assert os.readlink(root / "etc/link") == "../../../../../outside"
    assert (root / "made/on/the/way").read_bytes() == b"x"
    assert (root / "dotted").read_bytes() + (root / "rooted").read_bytes() == b"yz"


@pytest.mark.root
@pytest.mark.skipif(not ROOT, reason="needs root: ownership, devices, set-id bits")
def test_ownership_devices_and_set_id(tmp_path: Path) -> None:
    data = layer(
        entry("su", b"#!", mode=0o4755, uid=0, gid=5),
        entry("mine", b"", uid=1000, gid=1001),
        entry("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
        entry("pipe", type=tarfile.FIFOTYPE, mode=0o600),
    )
    root = unpack(tmp_path, data)
    assert stat.S_IMODE((root / "su").stat().st_mode) == 0o4755
    assert ((root / "mine").stat().st_uid, (root / "mine").stat().st_gid) == (1000, 1001)
    assert (root / "null").stat().st_rdev == os.makedev(1, 3)
    assert stat.S_ISFIFO((root / "pipe").stat().st_mode)


def test_whiteouts_become_what_overlayfs_reads(tmp_path: Path) -> None:
    lower = unpack(
        tmp_path, layer(entry("a/one", b"1"), entry("a/two", b"2"), entry("b/three", b"3"))
    )
    upper = unpack(
        tmp_path,
        layer(entry("a/.wh.one"), directory("b"), entry("b/.wh..wh..opq"), entry("b/new", b"n")),
    )
    status = os.lstat(upper / "a/one")
    assert stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
    assert find([lower, upper], "a/one") is None and find([lower, upper], "b/three") is None
    assert find([lower, upper], "a/two") == lower / "a/two"
    assert find([lower, upper], "/b/../b/new") == upper / "b/new"


@pytest.mark.root
@pytest.mark.skipif(not ROOT, reason="needs root: overlay mount")
def test_the_kernel_agrees_with_lookup(tmp_path: Path) -> None:
    """The same layers, mounted: every path is seen by `resolve` as overlayfs shows it."""
    layers = [
        layer(entry("a/one", b"1"), entry("a/two", b"2"), entry("b/c/d", b"3"), entry("f", b"f")),
        layer(entry("a/.wh.one"), entry("b/.wh.c"), symlink("to-a", "a"), entry(".wh.f")),
        layer(entry("b/c/e", b"4"), directory("f"), entry("f/g", b"5"), symlink("s", "/to-a/two")),
        layer(directory("a"), entry("a/.wh..wh..opq"), entry("a/three", b"6")),
    ]
    unpacked = [unpack(tmp_path, data) for data in layers]
    merged = tmp_path / "merged"
    merged.mkdir()
    import ctypes

    lower = ":".join(str(path) for path in reversed(unpacked))
    libc = ctypes.CDLL(None, use_errno=True)
    target = str(merged).encode()
    mounted = libc.mount(b"overlay", target, b"overlay", 1, f"lowerdir={lower}".encode())
    if mounted != 0:
        pytest.skip(f"overlayfs is not available: {os.strerror(ctypes.get_errno())}")
    try:
        paths = ["a/one", "a/two", "a/three", "b/c/d", "b/c/e", "f/g", "f", "s", "to-a/three"]
        for path in paths:
            found = find(unpacked, path)
            real = merged / path
            if path == "s":  # an absolute link: the kernel would start at the host's root
                assert found is None
                continue
            assert (found is not None) == real.is_file(), path
            if found is not None:
                assert found.read_bytes() == real.read_bytes()
    finally:
        libc.umount2(target, 2)


def test_lookup_resolves_links_inside(tmp_path: Path) -> None:
    base = unpack(
        tmp_path,
        layer(entry("usr/lib/x", b"x"), symlink("lib", "usr/lib"), symlink("abs", "/lib/x")),
    )
    assert find([base], "abs") == base / "usr/lib/x"
    assert resolve([base], "/lib/new/file").path == "usr/lib"
    assert resolve([base], "/lib/new/file").rest == "new/file"
    loop = unpack(tmp_path, layer(symlink("a", "b"), symlink("b", "a")))
    assert find([loop], "a") is None


def test_links_within_an_archive_stay_inside(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    data = layer(
        symlink("abs", str(outside)),
        entry("abs/file", b"1"),
        symlink("up", "../../../outside"),
        entry("up/file", b"2"),
        symlink("self", "."),
        entry("self/self/self/deep", b"3"),
    )
    root = unpack(tmp_path, data)
    assert list(outside.iterdir()) == []
    assert (root / str(outside).lstrip("/") / "file").read_bytes() == b"1"
    assert (root / "outside/file").read_bytes() == b"2"
    assert (root / "deep").read_bytes() == b"3"


@pytest.mark.parametrize(
    "entries",
    [
        [entry("../evil", b"x")],
        [entry("a/../../evil", b"x")],
        [hardlink("h", "../../etc/passwd")],
        [hardlink("h", "nothing")],
        [directory("d"), hardlink("h", "d")],
        [symlink("l", "/etc/passwd"), hardlink("h", "l/x")],
        [entry("x" * 300, b"")],
        [entry("f", b""), hardlink("h", "f/x")],
        [symlink("a", "b"), symlink("b", "a"), entry("a/f", b"")],
        [entry("a/.wh...", b"")],
    ],
)
def test_refused(tmp_path: Path, entries: list) -> None:
    with pytest.raises(BadImage):
        unpack(tmp_path, layer(*entries))
    assert list((tmp_path / "layers").iterdir()) == []  # nothing of it stays


def test_a_hard_link_to_a_symlink_links_the_link(tmp_path: Path) -> None:
    root = unpack(tmp_path, layer(symlink("l", "/etc/passwd"), hardlink("h", "l")))
    assert os.readlink(root / "h") == "/etc/passwd"


def test_later_entries_win(tmp_path: Path) -> None:
    data = layer(
        entry("x/y", b"1"),
        entry("x", b"2"),
        entry("x/z", b"3"),
        symlink("x/l", "/nowhere"),
        entry("x/l", b"4"),
        directory("x/z"),
    )
    root = unpack(tmp_path, data)
    assert sorted(p.name for p in (root / "x").iterdir()) == ["l", "z"]
    assert (root / "x/l").read_bytes() == b"4" and (root / "x/z").is_dir()


def test_overlay_attributes_never_come_from_an_archive(tmp_path: Path) -> None:
    info, _ = directory("d")
    info.pax_headers = {
        "SCHILY.xattr.trusted.overlay.redirect": "/etc",
        "SCHILY.xattr.user.overlay.opaque": "y",
        "SCHILY.xattr.user.kept": "1",
    }
    root = unpack(tmp_path, layer((info, b"")))
    names = os.listxattr(root / "d")
    assert not [name for name in names if "overlay" in name]


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ({"size": 1 << 20}, "larger than"),
        ({"ratio": 10, "ratio_from": 1 << 20}, "refused as a bomb"),
        ({"entries": 1}, "more than 1 entries"),
    ],
)
def test_bounds(tmp_path: Path, limits: dict[str, int], text: str) -> None:
    data = layer(entry("zeros", bytes(4 << 20)), entry("b", b""))
    with pytest.raises(BadImage, match=text):
        unpack(tmp_path, data, **limits)
    assert list((tmp_path / "layers").iterdir()) == []


def test_damage_is_found(tmp_path: Path) -> None:
    data = layer(entry("file", os.urandom(5000)), entry("other", b"x"))
    packed = gzip.compress(data)
    for blob in (packed[:-20], packed[:100], b"\x1f\x8bnonsense", data[:1700], data + b"x"):
        with pytest.raises(BadImage):
            unpack(tmp_path, data, blob=blob)
    garbled = bytearray(data)
    garbled[5700] ^= 0xFF  # within the second header
    with pytest.raises(BadImage):
        unpack(tmp_path, bytes(garbled))


def test_empty_multi_member_and_plain(tmp_path: Path) -> None:
    assert list(unpack(tmp_path, b"", blob=gzip.compress(b"")).iterdir()) == []
    data = layer(entry("file", b"hello" * 1000))
    half = len(data) // 2
    members = gzip.compress(data[:half]) + gzip.compress(data[half:])
    assert (unpack(tmp_path, data, blob=members) / "file").stat().st_size == 5000
    assert (unpack(tmp_path, data, blob=data) / "file").stat().st_size == 5000


def test_zstd(tmp_path: Path) -> None:
    data = layer(entry("file", b"hello" * 1000))
    blob = zstd(data)
    assert (unpack(tmp_path, data, blob=blob) / "file").stat().st_size == 5000
    half = len(data) // 2
    frames = zstd(data[:half]) + zstd(data[half:])
    assert (unpack(tmp_path, data, blob=frames) / "file").stat().st_size == 5000
    for damaged in (blob[:-10], blob[:30] + b"junk" + blob[34:], b"\x28\xb5\x2f\xfd rest"):
        with pytest.raises(BadImage):
            unpack(tmp_path, data, blob=damaged)


def test_sparse_files_keep_their_holes(tmp_path: Path) -> None:
    source = tmp_path / "sparse"
    with source.open("wb") as file:
        file.seek(8 << 20)
        file.write(b"end")
    archive = tmp_path / "a.tar"
    done = os.spawnlp(
        os.P_WAIT, "tar", "tar", "-C", str(tmp_path), "-S", "-cf", str(archive), "sparse"
    )
    assert done == 0
    root = unpack(tmp_path, archive.read_bytes())
    assert (root / "sparse").stat().st_size == (8 << 20) + 3
    assert (root / "sparse").read_bytes() == source.read_bytes()
    assert (root / "sparse").stat().st_blocks * 512 < 1 << 20


# Hundreds of hostile archives

NAMES = ["a", "b", "c", "..", ".", "", "/", ".wh.a", ".wh..wh..opq", ".wh.", ".wh..wh.x", "\n"]
NAMES += [".wh...", ".wh..", "x" * 255, "y" * 256, "\udcff", "a" * 99]
PATHS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=5).map("/".join)
TARGETS = st.one_of(PATHS, st.sampled_from(["/", "/etc", "../../..", "CANARY", "CANARY/x", "/a"]))
KINDS = st.sampled_from(
    [
        tarfile.REGTYPE,
        tarfile.DIRTYPE,
        tarfile.SYMTYPE,
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.FIFOTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.CONTTYPE,
        b"Z",
    ]
)
ENTRIES = st.lists(st.tuples(KINDS, PATHS, TARGETS, st.integers(0, 0o7777)), max_size=12)


@given(ENTRIES, st.integers(0, 1 << 30))
@settings(
    max_examples=int(os.environ.get("HOSTILE_TARS", "300")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
def test_no_archive_writes_outside(entries: list, damage: int) -> None:
    with tempfile.TemporaryDirectory(prefix="image-hostile-") as scratch:
        top = Path(scratch)
        canary = top / "canary"
        canary.mkdir()
        (canary / "x").write_bytes(b"untouched")
        os.chmod(canary / "x", 0o600)
        before = _state(canary), sorted(os.listdir("/")), os.stat("/etc").st_mtime_ns
        items = [
            entry(
                name,
                b"data" if kind == tarfile.REGTYPE else b"",
                type=kind,
                mode=mode,
                linkname=target.replace("CANARY", str(canary)),
            )
            for kind, name, target, mode in entries
        ]
        data = bytearray(layer(*items))
        if damage % 3 == 0 and data:
            data[damage % len(data)] ^= 1 + damage % 255
        blob = top / "blob"
        blob.write_bytes(data)
        target = top / "store" / "layer"
        try:
            unpack_layer(blob, digest(bytes(data)), target)
        except BadImage:
            assert not target.exists()
        assert (_state(canary), sorted(os.listdir("/")), os.stat("/etc").st_mtime_ns) == before
        assert sorted(os.listdir(top)) == ["blob", "canary", "store"]
        assert [name for name in os.listdir(top / "store") if name != "layer"] == []
        remove_quietly(target)
        assert not target.exists()


def _state(path: Path) -> list[tuple]:
    found = []
    for item in [path, *sorted(path.rglob("*"))]:
        status = item.lstat()
        content = item.read_bytes() if item.is_file() else b""
        found.append((str(item), status.st_mode, status.st_uid, status.st_nlink, content))
    return found


@given(st.binary(max_size=3000))
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_noise_is_refused_or_empty(noise: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="image-noise-") as scratch:
        blob = Path(scratch) / "blob"
        blob.write_bytes(noise)
        try:
            unpack_layer(blob, digest(noise), Path(scratch) / "store" / "layer")
        except BadImage:
            return
        assert io.BytesIO(noise).read(257).strip(b"\0") == b""


def _as_nobody(work: Path, archives: list[bytes], answer: Connection) -> None:
    """In a forked child, modules loaded: all privileges dropped for good."""
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    try:
        answer.send([unpack(work, data) for data in archives])
    except BaseException as error:
        answer.send(repr(error))


NUMBERS = st.integers(0, 0o7777777)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=120)


@settings(max_examples=150, deadline=None)
@given(
    TEXTS, TEXTS, NUMBERS, NUMBERS, st.sampled_from(b"0125g\0S"),
    st.lists(st.tuples(st.integers(0, 511), st.integers(0, 255)), max_size=2), st.booleans(),
)  # fmt: skip
def test_a_header_read_at_once_is_what_tarfile_reads(
    name: str, link: str, mode: int, size: int, kind: int, damage: list, mend: bool
) -> None:
    info = tarfile.TarInfo(name)
    info.linkname, info.mode, info.size, info.type = link, mode, size, bytes([kind])
    try:
        header = bytearray(info.tobuf(tarfile.GNU_FORMAT)[-512:])
    except ValueError:
        return
    for place, value in damage:
        header[place] = value
    if mend:
        header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 8 * 32)

    def read(kind: type[tarfile.TarInfo]) -> dict | type[Exception]:
        try:
            found = kind.frombuf(bytes(header), "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError) as error:  # type: ignore[attr-defined]
            return type(error)
        return {
            key: getattr(found, key)
            for key in ("name", "mode", "uid", "gid", "size", "mtime", "type", "linkname")
        }

    assert read(_Entry) == read(tarfile.TarInfo)


def test_damage_behind_the_reader_reaches_it_and_ends_the_thread(tmp_path: Path) -> None:
    """Large enough to be decompressed in a thread, which is in front of the place that matters."""
    noise = [entry(f"f{number}", os.urandom(1 << 20)) for number in range(12)]
    data = layer(*noise, entry("../out", b""), *noise)
    for blob, text in (
        (gzip.compress(layer(*noise), 1)[: 9 << 20], "ends too early"),
        (gzip.compress(data, 1), "outside the image"),
    ):
        with pytest.raises(BadImage, match=text):
            unpack(tmp_path, data, blob=blob)
    assert not [found for found in threading.enumerate() if found.name == "read-ahead"]
    assert not list((tmp_path / "layers").iterdir())


@pytest.mark.root
@pytest.mark.skipif(not ROOT, reason="needs root: only root can become nobody")
def test_without_privilege() -> None:
    """Ownership, set-id bits and devices are left out; all else is there, whiteouts too, and can be removed."""
    with tempfile.TemporaryDirectory(prefix="image-nobody-") as scratch:
        work = Path(scratch)
        os.chown(work, 65534, 65534)
        lower = layer(entry("a/one", b"1"), entry("b/two", b"2"))
        upper = layer(
            entry("a/.wh.one"),
            entry("b/.wh..wh..opq"),
            entry("su", b"x", mode=0o6755, uid=0),
            entry("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
            directory("closed", 0o000),
            entry("closed/file", b"c", mode=0o000),
        )
        here, there = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")
        child = context.Process(target=_as_nobody, args=(work, [lower, upper], there))
        child.start()
        assert here.poll(30)
        layers = here.recv()
        child.join(10)
        assert isinstance(layers, list), layers
        assert find(layers, "a/one") is None and find(layers, "b/two") is None
        su = (layers[1] / "su").stat()
        assert (su.st_uid, stat.S_IMODE(su.st_mode)) == (65534, 0o755)
        assert not (layers[1] / "null").exists()
        assert (layers[1] / "closed/file").read_bytes() == b"c"
        assert stat.S_IMODE((layers[1] / "closed").stat().st_mode) == 0o700


def test_extension_records_are_bounded(tmp_path: Path) -> None:
    """Ten thousand nested PAX headers, and one that claims to be a gigabyte."""
    header = entry("x")[0]
    header.type, header.size = tarfile.XHDTYPE, 512
    record = b"12 path=abc\n".ljust(512, b"\0")
    nested = (header.tobuf(tarfile.USTAR_FORMAT) + record) * 10_000
    header.size = 1 << 30
    for data in (nested, header.tobuf(tarfile.USTAR_FORMAT) + bytes(4096)):
        with pytest.raises(BadImage, match="damaged tar archive"):
            unpack(tmp_path, data)
