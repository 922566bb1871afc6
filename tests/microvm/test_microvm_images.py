"""Drives: the layers of an image as one EROFS file, read again as the format says."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from sampan.image.unpack import unpack_layer
from sampan.runtime.microvm import (
    erofs,
)


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


def test_owners_outlive_an_unpacker_without_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who cannot give a file away notes whose it is; the drive's files are the image's again, set-id bits too."""
    entries = (("etc", 0o755, 0, 0), ("srv", 0o700, 33, 44), ("srv/su", 0o4755, 33, 0), ("plain", 0o640, 0, 0))  # fmt: skip
    with tarfile.open(tmp_path / "layer.tar", "w") as archive:
        for name, mode, uid, gid in entries:
            member = tarfile.TarInfo(name)
            member.mode, member.uid, member.gid = mode, uid, gid
            member.type = tarfile.REGTYPE if name in ("srv/su", "plain") else tarfile.DIRTYPE
            archive.addfile(member, io.BytesIO())
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    digest = hashlib.sha256((tmp_path / "layer.tar").read_bytes()).hexdigest()
    unpack_layer(tmp_path / "layer.tar", f"sha256:{digest}", tmp_path / "layer")
    assert not (tmp_path / "layer/srv/su").stat().st_mode & stat.S_ISUID
    erofs.build([tmp_path / "layer"], tmp_path / "image")
    assert owners((tmp_path / "image").read_bytes()) == {
        (mode | (stat.S_IFREG if name in ("srv/su", "plain") else stat.S_IFDIR), uid, gid)
        for name, mode, uid, gid in entries
    }


def owners(image: bytes) -> set[tuple[int, int, int]]:
    """(mode, user, group) of every inode."""
    head = erofs.SUPERBLOCK.unpack_from(image, 1024)
    found = set()
    for at in range(head[10] * erofs.BLOCK, len(image) - erofs.EXTENDED.size, erofs.SLOT):
        form, _, mode, _, _, _, number, uid, gid, *_ = erofs.EXTENDED.unpack_from(image, at)
        if form == 1 and number:
            found.add((mode, uid, gid))
    return found
