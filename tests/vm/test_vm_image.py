"""Machines that run by themselves: the archive, what is started, and one booted by plain QEMU."""

from __future__ import annotations

import io
import os
import shutil
import stat
import struct
import subprocess

import pytest

from sampan.cli import vmimage
from sampan.image import bootdisk, microvm
from sampan.image.errors import BadImage, BuildError, ImageError
from sampan.image.store import ImageStore
from sampan.runtime.microvm import erofs, kernels, presence
from sampan.runtime.microvm.errors import MicroVMError


def tree(path):
    (path / "etc").mkdir(parents=True)
    (path / "etc" / "passwd").write_text(
        "root:x:0:0::/root:/bin/sh\nsailor:x:7:8::/home/s:/bin/sh\n"
    )
    (path / "etc" / "group").write_text("root:x:0:\ndeck:x:9:\n")
    (path / "a").write_bytes(b"content")
    os.link(path / "a", path / "b")
    (path / "link").symlink_to("etc/passwd")
    (path / "a").chmod(0o751)
    return erofs.merge([path])


@pytest.mark.parametrize(
    ("user", "ids"),
    [("", (0, 0, "/root")), ("sailor", (7, 8, "/home/s")), ("7", (7, 8, "/home/s")), ("sailor:deck", (7, 9, "/home/s")), ("55:66", (55, 66, "/"))],
)  # fmt: skip
def test_users_are_those_of_the_image(tmp_path, user, ids):
    assert microvm.user_of(user, tree(tmp_path / "t")) == ids


def test_a_user_nobody_knows_is_named(tmp_path):
    with pytest.raises(BadImage, match="unable to find user pilot"):
        microvm.user_of("pilot", tree(tmp_path / "t"))


def test_what_is_started(tmp_path):
    config = {
        "Entrypoint": ["run"],
        "Cmd": ["a b", ""],
        "Env": ["PATH=/x"],
        "User": "sailor",
        "WorkingDir": "/w",
    }
    texts = microvm.start_file(config, tree(tmp_path / "t"), "boat").decode().split("\0")
    assert texts == [
        "boat",
        "/w",
        "7",
        "8",
        "3",
        "run",
        "a b",
        "",
        "PATH=/x",
        "HOME=/home/s",
        "TERM=linux",
        "",
    ]
    with pytest.raises(BadImage, match="neither ENTRYPOINT nor CMD"):
        microvm.start_file({}, tree(tmp_path / "u"), "boat")


@pytest.mark.skipif(
    shutil.which("cpio") is None and shutil.which("busybox") is None, reason="no cpio"
)
def test_the_archive_is_read_by_cpio_as_it_was(tmp_path):
    out = io.BytesIO()
    root = tree(tmp_path / "t")
    size = microvm.write(out, root, b"INIT", b"START", [b"M0", b"M1"], home=False)
    assert size == len(out.getvalue()) and size % 4 == 0
    place = tmp_path / "out"
    place.mkdir()
    program = ["cpio"] if shutil.which("cpio") else ["busybox", "cpio"]
    subprocess.run(
        [*program, "-i", "-d"], cwd=place, input=out.getvalue(), check=True, capture_output=True
    )
    assert (place / "b").read_bytes() == b"content"
    assert (place / "a").stat().st_ino == (place / "b").stat().st_ino
    assert stat.S_IMODE((place / "a").stat().st_mode) == 0o751
    assert os.readlink(place / "link") == "etc/passwd"
    assert (place / ".sampan/modules/1").read_bytes() == b"M1"
    again = io.BytesIO()
    microvm.write(
        again, erofs.merge([tmp_path / "t"]), b"INIT", b"START", [b"M0", b"M1"], home=False
    )
    assert again.getvalue() == out.getvalue()


def test_run_without_buildah_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "Dockerfile").write_text("FROM scratch\nRUN true\n")
    with pytest.raises(BuildError, match=r"apt-get install .* buildah"):
        vmimage.build_image(ImageStore(tmp_path / "images"), tmp_path, "x:1", None)


def test_something_that_is_not_ours_is_not_replaced(tmp_path):
    (tmp_path / "precious").mkdir()
    with pytest.raises(ImageError, match="no machine of ours"):
        vmimage.remove_former(tmp_path / "precious")
    assert (tmp_path / "precious").is_dir()


def missing() -> str:
    if presence.qemu() is None:
        return f"{presence.QEMU} is not installed: {presence.INSTALL_QEMU}"
    try:
        kernels.find(presence.SHARED, check=False)
        vmimage.init_program()
    except (MicroVMError, ImageError) as error:
        return str(error)
    return "" if shutil.which("busybox") else "busybox is not installed"


@pytest.mark.parametrize("machine_format", vmimage.FORMATS)
def test_a_dockerfile_boots_by_plain_qemu_and_speaks(tmp_path, machine_format):
    """TCG, no Sampan, no disk that is written to: what is said on the console comes from the image's program."""
    if why := missing():
        pytest.skip(why)
    context = tmp_path / "context"
    context.mkdir()
    shutil.copy(shutil.which("busybox"), context / "busybox")
    (context / "passwd").write_text("root:x:0:0::/:/bin/sh\nsailor:x:7:8::/:/bin/sh\n")
    script = "echo I am $(/bin/busybox id -u) in $(/bin/busybox pwd) on $(/bin/busybox hostname) with $WORD; /bin/busybox cat /made; exit 3"
    # RUN is buildah's to do, and a format is as good as another for that.
    runs = machine_format == "qcow2" and shutil.which("buildah") is not None and os.geteuid() == 0
    step = 'RUN ["/bin/sh", "-c", "echo RUN was here >/made"]\n' if runs else ""
    (context / "Dockerfile").write_text(
        "FROM scratch\nCOPY busybox /bin/busybox\nCOPY busybox /bin/sh\nCOPY passwd /etc/passwd\n"
        f"{step}"
        f'USER sailor\nWORKDIR /tmp\nENV WORD=ahoy\nENTRYPOINT ["/bin/sh", "-c", "{script}"]\n'
    )
    target = tmp_path / "boat.microvm"
    done = vmimage.build_machine(
        tmp_path / "data", context, "boat:1", None, machine_format, target, None
    )
    assert done == 0
    booted = subprocess.run(
        [str(target / "run")], env={**os.environ, "ACCEL": "tcg"}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    said = booted.stdout + booted.stderr
    assert "I am 7 in /tmp on boat with ahoy" in said
    assert ("RUN was here" in said) == runs
    assert "ended with code 3" in said
    assert booted.returncode == 0


def test_qcow2_holds_the_disk_and_leaves_zeros_out(tmp_path):
    raw, target = tmp_path / "raw", tmp_path / "qcow2"
    pieces = [b"A" * bootdisk.CLUSTER, bytes(bootdisk.CLUSTER), b"B" * 512]
    raw.write_bytes(b"".join(pieces))
    bootdisk.to_qcow2(raw, target)
    data = target.read_bytes()
    magic, version, _, _, bits, size, _, tables, first = struct.unpack_from(">4sIQIIQIIQ", data)
    assert (magic, version, bits, size, tables) == (b"QFI\xfb", 2, 16, len(raw.read_bytes()), 1)
    (second,) = struct.unpack_from(">Q", data, first)
    places = struct.unpack_from(">3Q", data, second & ~(1 << 63))
    found = [data[p & ~(1 << 63) :][: len(piece)] if p else bytes(len(piece)) for p, piece in zip(places, pieces, strict=True)]  # fmt: skip
    assert found == pieces and places[1] == 0
    (counts,) = struct.unpack_from(">Q", data, struct.unpack_from(">Q", data, 48)[0])
    used = struct.unpack_from(f">{len(data) // bootdisk.CLUSTER + 1}H", data, counts)
    assert used == (1,) * (len(data) // bootdisk.CLUSTER) + (0,)


def test_boot_sectors_of_another_kind_are_refused(tmp_path):
    with pytest.raises(BadImage, match="boot sectors"):
        bootdisk.write(io.BytesIO(), bytes(512), b"", tmp_path, "quiet")
