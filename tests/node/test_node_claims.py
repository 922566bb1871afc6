"""PersistentVolumes on the node: which claims a pod may mount, the directories behind them, and how they go."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path
from typing import Any

import orjson
import pytest
from node_pods import container, make_pod

from sampan.client.client import Client
from sampan.client.transport import Request, Response
from sampan.cri import api_pb2 as api
from sampan.linux import mounts
from sampan.node import exposition, stats
from sampan.node.cache import ObjectCache
from sampan.node.environment import NodeFacts
from sampan.node.errors import ClaimError, VolumeError
from sampan.node.machine import Usage
from sampan.node.volumes import claims, directories, places, usage
from sampan.node.volumes.pod import PodVolumes

Object = dict[str, Any]
FACTS = NodeFacts(("192.0.2.1",), {"cpu": "2"})
VOLUME = {"name": "data", "persistentVolumeClaim": {"claimName": "hold"}}


def claim(**changes: Any) -> Object:
    made: Object = {
        "metadata": {"namespace": "default", "name": "hold", "uid": "c-1"},
        "spec": {"volumeName": "pv", "accessModes": ["ReadWriteOnce"]},
        "status": {"phase": "Bound"},
    }
    for key, value in changes.items():
        made[key] = {**made[key], **value}
    return made


def volume(**spec: Any) -> Object:
    reference = {"namespace": "default", "name": "hold", "uid": "c-1"}
    return {"metadata": {"name": "pv"}, "spec": {"claimRef": reference, **spec}}


def pod(*mounts: Object, **spec: Any) -> Object:
    own = container(volumeMounts=[*mounts], volumeDevices=spec.pop("devices", []))
    return make_pod(containers=[own], volumes=[VOLUME], **spec)


async def prepare(volumes: PodVolumes, made: Object, found: Object) -> None:
    async def volume_of(pod: Object, volume: Object) -> Object:
        return found

    async def token(pod: Object, request: Object) -> str:
        return "token"

    await volumes.prepare(made, None, FACTS, token, volume_of)  # type: ignore[arg-type]


@pytest.fixture
def volumes(tmp_path: Path) -> PodVolumes:
    return PodVolumes(
        tmp_path / "pod",
        tmp_path / "volatile",
        root=os.geteuid() == 0,
        storage=tmp_path / "storage",
    )


def test_the_directory_is_made_when_first_mounted(tmp_path: Path, volumes: PodVolumes) -> None:
    path = tmp_path / "storage" / "pvc-1_default_hold"
    own = volume(local={"path": str(path)})
    before = os.umask(0o077)
    try:
        asyncio.run(prepare(volumes, pod(), own))
    finally:
        os.umask(before)
    assert volumes.paths["data"] == path
    assert stat.S_IMODE(path.stat().st_mode) == 0o777
    path.chmod(0o750)  # what a pod made of it stays
    directories.make(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o750


def test_a_directory_of_somebody_else_is_not_made(tmp_path: Path, volumes: PodVolumes) -> None:
    with pytest.raises(VolumeError, match=r'volume "data" : path ".*/disk" does not exist'):
        asyncio.run(prepare(volumes, pod(), volume(local={"path": str(tmp_path / "disk")})))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"nfs": {"server": "s", "path": "/"}}, "mounts hostPath and local volumes, not nfs"),
        ({"csi": {"driver": "d.example.com"}}, "driver name d.example.com not found in the list"),
    ],
)
def test_what_this_node_does_not_mount(volumes: PodVolumes, source: Object, said: str) -> None:
    with pytest.raises(VolumeError, match=said):
        asyncio.run(prepare(volumes, pod(), volume(**source)))


def test_a_claim_that_is_only_read(tmp_path: Path, volumes: PodVolumes) -> None:
    mount = {"name": "data", "mountPath": "/data"}
    made = pod(mount)
    made["spec"]["volumes"] = [
        {"name": "data", "persistentVolumeClaim": {"claimName": "hold", "readOnly": True}}
    ]
    path = tmp_path / "storage" / "pvc-1"
    asyncio.run(prepare(volumes, made, volume(local={"path": str(path)})))
    (point,) = volumes.mounts(made["spec"]["containers"][0], {})
    assert (point.source, point.readonly) == (str(path), True)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_the_group_owns_a_local_volume_and_no_host_path(tmp_path: Path) -> None:
    def given(kind: str, policy: str) -> list[int]:
        """The groups of the volume and of a file in it, after the volume was prepared anew."""
        path = tmp_path / kind
        path.mkdir(exist_ok=True)
        (path / "file").touch()
        fresh = PodVolumes(tmp_path / "pod", tmp_path / "volatile", root=True)
        shared = {"fsGroup": 2000, "fsGroupChangePolicy": policy}
        made = pod(securityContext=shared)
        asyncio.run(prepare(fresh, made, volume(**{kind: {"path": str(path)}})))
        return [each.stat().st_gid for each in (path, path / "file")]

    assert given("local", "OnRootMismatch") == [2000, 2000]
    os.chown(tmp_path / "local" / "file", 0, 0)
    assert given("local", "OnRootMismatch") == [2000, 0]
    assert given("local", "Always") == [2000, 2000]
    assert given("hostPath", "Always") == [0, 0]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="makes a device")
def test_a_block_volume_is_a_device(tmp_path: Path, volumes: PodVolumes) -> None:
    disk = tmp_path / "disk"
    os.mknod(disk, stat.S_IFBLK | 0o600, os.makedev(7, 200))
    made = pod(devices=[{"name": "data", "devicePath": "/dev/hold"}])
    found = volume(local={"path": str(disk)}, volumeMode="Block")
    asyncio.run(prepare(volumes, made, found))
    (device,) = volumes.devices(made["spec"]["containers"][0])
    assert (device.host_path, device.container_path, device.permissions) == (
        str(disk), "/dev/hold", "rwm",
    )  # fmt: skip
    found["spec"]["local"]["path"] = str(tmp_path)
    with pytest.raises(VolumeError, match="is not a block device"):
        places.persistent(found, tmp_path / "storage")


@pytest.mark.parametrize(
    ("given", "found", "why"),
    [
        ({}, volume(), None),
        ({"status": {"phase": "Pending"}}, None, "PVC is not bound"),
        ({"status": {"phase": "Lost"}}, None, "PVC is lost"),
        ({"metadata": {"deletionTimestamp": "now"}}, volume(), "PVC is being deleted"),
        ({"metadata": {"uid": "c-2"}}, volume(), 'PV "pv" is not bound to this PVC'),
        (
            {}, volume(volumeMode="Block"),
            "volume data has volumeMode Block, but is specified in volumeMounts",
        ),
    ],
)  # fmt: skip
def test_claims_that_are_mounted_and_not(given: Object, found: Object, why: str | None) -> None:
    made = pod({"name": "data", "mountPath": "/data"})
    made["status"] = {"phase": "Pending"}
    assert claims.problem(made, VOLUME, claim(**given), found) == why


def test_the_claim_of_an_ephemeral_volume_has_to_be_the_pods() -> None:
    made, ephemeral = pod(), {"name": "data", "ephemeral": {}}
    assert "pod is not owner" in (claims.problem(made, ephemeral, claim(), volume()) or "")
    owner = {"controller": True, "uid": made["metadata"]["uid"]}
    owned = claim(metadata={"ownerReferences": [owner]})
    assert claims.problem(made, ephemeral, owned, volume()) is None


async def test_a_known_claim_is_mounted_while_the_api_is_away(tmp_path: Path) -> None:
    class Wire:
        """A wire that breaks."""

        up = True

        async def send(self, request: Request) -> Response:
            if not self.up:
                raise ConnectionError("no route to host")
            found = claim() if "claims" in request.path else volume(local={"path": "/x"})
            return Response(200, body=orjson.dumps(found))

        async def close(self) -> None:
            return

    wire, cache = Wire(), ObjectCache(tmp_path / "cache.db")
    asked = claims.Claims(Client(wire), cache)
    made = pod()
    first = await asked.volume_of(made, VOLUME)
    wire.up = False
    assert await asked.volume_of(made, VOLUME) == first
    asked.forget(made)
    with pytest.raises(ClaimError, match="failed to fetch PVC from API server: no route to host"):
        await asked.volume_of(made, VOLUME)
    cache.close()


async def test_a_volume_that_is_given_back_goes_and_nothing_else(tmp_path: Path) -> None:
    base = tmp_path / "storage"
    for name in ("pvc-1", "pvc-2", "mine"):
        directories.make(base / name)
        (base / name / "file").write_text("cargo")
    async with asyncio.TaskGroup() as group:
        kept = directories.Directories(base, group)
        kept.remove("pvc-1")
        assert not (base / "pvc-1").exists()
        kept.remove("pvc-1")
        for name in ("mine", "..", "pvc-/../mine", "", "pvc-2/file"):
            with pytest.raises(ValueError, match="not the directory of a volume"):
                kept.remove(name)
    assert sorted(path.name for path in base.iterdir()) == ["mine", "pvc-2"]
    (base / f"{directories.GOING}x" / "volume").mkdir(parents=True)  # a crash in between
    async with asyncio.TaskGroup() as group:
        directories.Directories(base, group).finish()
    assert sorted(path.name for path in base.iterdir()) == ["mine", "pvc-2"]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
async def test_what_is_mounted_in_a_volume_is_spared(tmp_path: Path) -> None:
    place = tmp_path / "storage" / "pvc-1" / "foreign"
    place.mkdir(parents=True)
    mounts.mount("tmpfs", place, "tmpfs")
    try:
        (place / "file").touch()
        async with asyncio.TaskGroup() as group:
            kept = directories.Directories(tmp_path / "storage", group)
            with pytest.raises(OSError, match=r"still mounted: .*/foreign"):
                kept.remove("pvc-1")
        assert (place / "file").exists()
    finally:
        mounts.unmount(place)


def test_how_full_volumes_are(tmp_path: Path) -> None:
    of = usage.ClaimedVolume("u-1", "data", "default", "hold", tmp_path)
    gone = usage.ClaimedVolume("u-2", "data", "default", "gone", tmp_path / "gone")
    (measured,) = usage.measure([of, gone])
    whole = os.statvfs(tmp_path)
    assert measured.figures.capacity == whole.f_blocks * whole.f_frsize
    text = exposition.own_metrics(1, 1, [measured])[0].decode()
    labels = '{namespace="default",persistentvolumeclaim="hold"}'
    (line,) = [each for each in text.splitlines() if "volume_stats_capacity_bytes{" in each]
    assert line.startswith(f"kubelet_volume_stats_capacity_bytes{labels} ")
    assert float(line.rpartition(" ")[2]) == measured.figures.capacity
    running = api.PodSandboxStats(attributes={"metadata": {"name": "p", "uid": "u-1"}})
    (told,) = stats.summary("n", Usage(0, 0, 0, 0), [running], [measured])["pods"]
    (full,) = told["volume"]
    assert (full["name"], full["capacityBytes"]) == ("data", measured.figures.capacity)
    assert full["pvcRef"] == {"name": "hold", "namespace": "default"}
