"""Which volume is shared, copied, made inside or refused, and what an update of a copy sends."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from sampan.runtime.microvm import (
    volumes,
)
from sampan.runtime.microvm.protocol import Change, Key
from sampan.runtime.microvm.volumes import Treatment
from sampan.runtime.sandbox import CannotStart, Mount


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
