"""Snapshots of running machines: memory, devices and disk of one moment, from which another machine goes on."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from micropods import KIND, run, until
from runtime_fixture import Runtime

from sampan.cri.errors import CRIError
from sampan.runtime.microvm import disks, snapshots
from sampan.runtime.microvm.errors import BadArtifact, MissingPiece
from sampan.runtime.microvm.snapshots import Snapshot

# Counts in memory alone, and says where it is; its log goes on where the other one's ended.
COUNT = (
    "echo begun >/root-note; echo in memory >/dev/shm/note; n=0; trap 'echo bye; exit 5' TERM;"
    "while :; do n=$((n+1)); echo $n; sleep 0.05; done"
)


def known(**fields: Any) -> Snapshot:
    values: dict[str, Any] = {
        "edition": "qemu", "processor": "p", "memory": 128, "cpus": 1, "sharing": True, "image": "i", "number": 2,
        "numbers": 9, "user": [0, 0, [], "/"], "init": "", "terminal": False, "seen": [3, 0], "volumes": {}, "present": [],
        "pod": "default/boat", "taken_at": 1.0,
    }  # fmt: skip
    return Snapshot(**values | fields)


def sparse(path: Path, *parts: tuple[int, bytes]) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    os.ftruncate(descriptor, 9 << 20)
    for at, data in parts:
        os.pwrite(descriptor, data, at)
    return descriptor


def test_a_snapshot_is_one_file_and_what_is_damaged_is_refused(tmp_path: Path) -> None:
    state = sparse(tmp_path / "s", (0, b"QEVM" * 5000), (5 << 20, b"x"), ((9 << 20) - 3, b"end"))
    disk = sparse(tmp_path / "d", (3 << 20, bytes(range(256))))
    path = tmp_path / "noon.tar"
    snapshots.write(path, known(), state, disk)
    assert path.stat().st_size < 6 << 20, "holes take room"
    out = tmp_path / "out"
    out.mkdir()
    found = snapshots.unpack(path, out)
    assert found.pod == "default/boat" and found.seen == [3, 0]
    for name, original in (("state", "s"), ("disk", "d")):
        assert (out / name).read_bytes() == (tmp_path / original).read_bytes()
    # GNU tar knows the format too.
    again = tmp_path / "again"
    again.mkdir()
    assert os.spawnlp(os.P_WAIT, "tar", "tar", "-C", str(again), "-xf", str(path)) == 0
    assert (again / "disk").read_bytes() == (tmp_path / "d").read_bytes()
    with tarfile.open(path) as whole, tarfile.open(tmp_path / "linked.tar", "w") as linked:
        record = whole.getmember(snapshots.RECORD)
        linked.addfile(record, whole.extractfile(record))
        leads_out = tarfile.TarInfo("state")
        leads_out.type, leads_out.linkname = tarfile.SYMTYPE, "/etc/passwd"
        linked.addfile(leads_out)
    with pytest.raises(BadArtifact, match="'state' that is not known here"):
        snapshots.unpack(tmp_path / "linked.tar", again)
    data = bytearray(path.read_bytes())
    data[data.index(b"QEVMQEVM") + 9] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadArtifact, match="its state has changed on disk"):
        snapshots.unpack(path, out)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(BadArtifact, match="damaged snapshot"):
        snapshots.unpack(path, out)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(BadArtifact, match="not a snapshot"):
        snapshots.read_record(path)


def test_a_snapshot_has_a_name_and_no_path(tmp_path: Path) -> None:
    snapshots.place(tmp_path).mkdir()
    (snapshots.place(tmp_path) / "noon.tar").touch()
    assert snapshots.path_of(tmp_path, "noon").stem == "noon"
    for name in ("../snapshots/noon", "evening", "", "Noon"):
        with pytest.raises(MissingPiece, match="this node; it has: noon"):
            snapshots.path_of(tmp_path, name)


async def counted(runtime: Runtime, container: str, least: int) -> list[str]:
    """The lines of its log, once it has counted so far."""
    path = Path((await runtime.status(container)).log_path)
    await until(lambda: f" F {least}\n" in path.read_text(), f"{least} in the log")
    return (await runtime.log(container)).splitlines()


@pytest.mark.root
async def test_a_machine_goes_on_where_it_was(runtime: Runtime, home: Path, tmp_path: Path) -> None:
    def volume(name: str) -> dict[str, Any]:
        place = tmp_path / name
        place.mkdir()
        return {"mounts": [{"host_path": str(place), "container_path": "/run/disk"}]}

    await runtime.pod(KIND)
    # From here on machines are copies of a live template: those can be snapshot as well.
    await until(lambda: [*(home / "run" / "microvm").glob("*/ready")], "a live template")
    annotations = {disks.PLACE: "/run/disk", disks.SIZE: "32Mi"}
    pod = await runtime.pod(KIND, annotations=annotations, hostname="first")
    container = await runtime.container(pod, "sh", "-c", COUNT, **volume("one"))
    await counted(runtime, container, 3)
    place = snapshots.place(home / "state" / "microvm")
    place.mkdir(exist_ok=True)
    await runtime.client.checkpoint_container(
        container_id=container, location=str(place / "noon.tar")
    )
    reached = len(await counted(runtime, container, 4))
    # It goes on, and what it does now is none of the other's.
    await counted(runtime, container, reached + 3)
    await runtime.exec(container, "sh", "-c", "echo later >/root-note")
    await runtime.clean()
    await runtime.stop()
    await runtime.start()  # a snapshot outlives the runtime that took it

    annotations |= {snapshots.ANNOTATION: "noon"}
    pod = await runtime.pod(KIND, annotations=annotations, hostname="second")
    container = await runtime.container(pod, "sh", "-c", COUNT, **volume("two"))
    lines = await counted(runtime, container, reached + 10)
    numbers = [int(line) for line in lines]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "each number once"
    assert 3 < numbers[0] <= reached + 1, "it began where it was, not anew"
    answer = await runtime.exec(container, "sh", "-c", "cat /root-note /dev/shm/note; hostname")
    assert answer.stdout == b"begun\nin memory\nsecond\n"
    # Its end, its signals and its log are those of any container.
    await runtime.client.stop_container(container_id=container, timeout=10)
    status = await runtime.ended(container)
    assert status.exit_code == 5
    assert (await runtime.log(container)).splitlines()[-1] == "bye"
    # Started once more it is a container like any other, on the disk that it has.
    status, text = await run(
        runtime, pod, "cat /root-note; cat /dev/shm/note",
        mounts=[{"host_path": str(tmp_path / "two"), "container_path": "/run/disk"}],
    )  # fmt: skip
    assert text.splitlines()[0] == "begun"


@pytest.mark.root
async def test_what_cannot_be_kept_or_restored_says_why(
    runtime: Runtime, home: Path, tmp_path: Path
) -> None:
    (tmp_path / "shared").mkdir()
    pod = await runtime.pod(KIND)
    mounts = [{"host_path": str(tmp_path / "shared"), "container_path": "/data"}]
    container = await runtime.container(pod, "sleep", "1000", mounts=mounts)
    with pytest.raises(
        CRIError, match=r"stay the host's: .*/shared\. .* without --volume .* --files"
    ):
        await runtime.client.checkpoint_container(
            container_id=container, location=str(tmp_path / "x.tar")
        )
    assert list(tmp_path.iterdir()) == [tmp_path / "shared"]
    place = snapshots.place(home / "state" / "microvm")
    place.mkdir(exist_ok=True)
    (place / "torn.tar").write_bytes(b"no tar at all")
    for name, says in (("torn", "torn.tar: not a snapshot"), ("never", "there is no snapshot")):
        with pytest.raises(CRIError, match=says):
            await runtime.pod(KIND, annotations={snapshots.ANNOTATION: name})
