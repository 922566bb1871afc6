"""Volumes on the real file system: content, atomic updates, sub-paths that cannot escape, and nothing left behind."""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from node_pods import container, make_pod

from sampan.linux import mounts
from sampan.node.environment import NodeFacts
from sampan.node.errors import ClaimError, ContainerError, VolumeError
from sampan.node.volumes import atomic, places, subpath
from sampan.node.volumes.atomic import File
from sampan.node.volumes.pod import PodVolumes, prepare_volatile, release

FACTS = NodeFacts(("192.0.2.1",), {"cpu": "2"})
ROOT = os.geteuid() == 0


class Objects:
    def __init__(self) -> None:
        self.maps: dict[str, dict[str, Any]] = {
            "charts": {"data": {"north": "ice", "south": "sun"}}
        }
        self.secrets = {"chest": {"data": {"key": base64.b64encode(b"gold").decode()}}}

    def configmap(self, name: str) -> dict[str, Any] | None:
        return self.maps.get(name)

    def secret(self, name: str) -> dict[str, Any] | None:
        return self.secrets.get(name)


async def token(pod: dict[str, Any], request: dict[str, Any]) -> str:
    return f"token-for-{request.get('audience', 'api')}"


async def claim(pod: dict[str, Any], volume: dict[str, Any]) -> dict[str, Any]:
    name = volume["persistentVolumeClaim"]["claimName"]
    raise ClaimError(
        f'error processing PVC default/{name}: persistentvolumeclaim "{name}" not found'
    )


@pytest.fixture
def volumes(tmp_path: Path) -> PodVolumes:
    return PodVolumes(tmp_path / "pod", tmp_path / "volatile", root=False)


async def prepare(
    volumes: PodVolumes, objects: Objects, *given: dict[str, Any], **spec: Any
) -> None:
    await volumes.prepare(make_pod(volumes=list(given), **spec), objects, FACTS, token, claim)


async def test_configmap_is_files_and_follows_updates(volumes: PodVolumes) -> None:
    objects = Objects()
    volume = {"name": "v", "configMap": {"name": "charts", "defaultMode": 0o440}}
    await prepare(volumes, objects, volume)
    path = volumes.paths["v"]
    assert (path / "north").read_text() == "ice"
    assert stat.S_IMODE((path / "north").stat().st_mode) == 0o440
    before = os.readlink(path / "..data")
    await prepare(volumes, objects, volume)
    assert os.readlink(path / "..data") == before, "the same content is not written again"
    objects.maps["charts"] = {"data": {"north": "melting", "east": "tea"}}
    await prepare(volumes, objects, volume)
    assert (path / "north").read_text() == "melting"
    assert sorted(p.name for p in path.iterdir() if not p.name.startswith("..")) == [
        "east",
        "north",
    ]
    assert len([p for p in path.iterdir() if p.name.startswith("..2")]) == 1


async def test_items_modes_binary_and_optional(volumes: PodVolumes) -> None:
    objects = Objects()
    objects.maps["charts"]["binaryData"] = {"raw": base64.b64encode(b"\xff\x00").decode()}
    items = [{"key": "north", "path": "deep/n.txt", "mode": 0o400}, {"key": "raw", "path": "raw"}]
    await prepare(
        volumes,
        objects,
        {"name": "v", "configMap": {"name": "charts", "items": items}},
        {"name": "none", "secret": {"secretName": "lost", "optional": True}},
    )
    assert stat.S_IMODE((volumes.paths["v"] / "deep/n.txt").stat().st_mode) == 0o400
    assert (volumes.paths["v"] / "raw").read_bytes() == b"\xff\x00"
    assert volumes.paths["none"].is_dir()


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        ({"configMap": {"name": "lost"}}, 'configmap "lost" not found'),
        ({"secret": {"secretName": "lost"}}, 'secret "lost" not found'),
        (
            {"configMap": {"name": "charts", "items": [{"key": "west", "path": "w"}]}},
            "references non-existent config key: west",
        ),
        ({"nfs": {"server": "x", "path": "/"}}, "no volume plugin matched"),
        ({"hostPath": {"path": "/etc/hostname", "type": "Directory"}}, "is not a directory"),
    ],
)
async def test_what_cannot_be_mounted(
    volumes: PodVolumes, volume: dict[str, Any], message: str
) -> None:
    with pytest.raises(VolumeError) as caught:
        await prepare(volumes, Objects(), {"name": "v", **volume})
    assert str(caught.value).startswith('MountVolume.SetUp failed for volume "v" : ')
    assert message in str(caught.value)


async def test_a_claim_that_is_missing(volumes: PodVolumes) -> None:
    given = {"name": "v", "persistentVolumeClaim": {"claimName": "c"}}
    with pytest.raises(VolumeError) as caught:
        await prepare(volumes, Objects(), given)
    assert str(caught.value) == (
        "Unable to attach or mount volumes: unmounted volumes=[v], unattached volumes=[], failed to "
        'process volumes=[v]: error processing PVC default/c: persistentvolumeclaim "c" not found'
    )


async def test_projected_token_and_downward(volumes: PodVolumes) -> None:
    sources = [
        {"serviceAccountToken": {"path": "token", "audience": "sea"}},
        {"configMap": {"name": "charts", "items": [{"key": "north", "path": "n"}]}},
        {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
        {"secret": {"name": "chest"}},
    ]
    await prepare(volumes, Objects(), {"name": "v", "projected": {"sources": sources}})
    path = volumes.paths["v"]
    assert (path / "token").read_text() == "token-for-sea"
    assert [(path / f).read_text() for f in ("n", "name", "key")] == ["ice", "boat", "gold"]
    assert volumes.volatile in path.parents, "secrets are kept apart from what is on disk"


async def test_labels_as_a_file(volumes: PodVolumes) -> None:
    pod = make_pod(
        volumes=[
            {
                "name": "v",
                "downwardAPI": {
                    "items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]
                },
            }
        ]
    )
    pod["metadata"]["labels"] = {"b": 'say "ahoy"', "a": "1"}
    await volumes.prepare(pod, Objects(), FACTS, token, claim)
    assert (volumes.paths["v"] / "l").read_text() == 'a="1"\nb="say \\"ahoy\\""'


async def test_empty_dir_is_shared_and_survives_another_look(volumes: PodVolumes) -> None:
    await prepare(volumes, Objects(), {"name": "v", "emptyDir": {}})
    path = volumes.paths["v"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o777
    (path / "kept").write_text("x")
    path.chmod(0o755)
    again = PodVolumes(volumes.directory, volumes.volatile, root=False)
    await prepare(again, Objects(), {"name": "v", "emptyDir": {}})
    assert (path / "kept").exists() and stat.S_IMODE(path.stat().st_mode) == 0o755


@pytest.mark.parametrize(
    ("kind", "make", "good"),
    [
        ("", "none", True),
        ("DirectoryOrCreate", "none", True),
        ("Directory", "none", False),
        ("File", "directory", False),
        ("FileOrCreate", "none", True),
        ("Directory", "directory", True),
        ("Socket", "file", False),
    ],
)
def test_host_path_types(tmp_path: Path, kind: str, make: str, good: bool) -> None:
    path = tmp_path / "place"
    if make == "directory":
        path.mkdir()
    elif make == "file":
        path.touch()
    source = {"path": str(path), "type": kind}
    if good:
        assert places.host_path(source) == path and path.exists()
    else:
        with pytest.raises(VolumeError, match="hostPath type check failed"):
            places.host_path(source)


async def test_mounts_with_subpaths(volumes: PodVolumes) -> None:
    await prepare(
        volumes,
        Objects(),
        {"name": "data", "emptyDir": {}},
        {"name": "conf", "configMap": {"name": "charts"}},
        {"name": "files", "image": {"reference": "x"}},
    )
    held = container(
        volumeMounts=[
            {"name": "files", "mountPath": "/f", "subPath": "a"},
            {"name": "data", "mountPath": "/d", "subPathExpr": "$(WHO)/logs"},
            {"name": "conf", "mountPath": "/c", "subPath": "north", "readOnly": True},
            {"name": "data", "mountPath": "/p", "mountPropagation": "HostToContainer"},
        ]
    )
    image, first, second, third = volumes.mounts(held, {"WHO": "crew"}, {"files": "sha256:2"})
    assert (image.source, image.sub_path, image.is_image) == ("sha256:2", "a", True)
    assert first.source == str(volumes.paths["data"] / "crew" / "logs")
    assert Path(second.source).read_text() == "ice" and second.readonly
    assert third.propagation == 1


@pytest.mark.parametrize("target", ["/etc", "../../..", "inside/../../.."])
def test_a_subpath_cannot_lead_out(tmp_path: Path, target: str) -> None:
    root = tmp_path / "volume"
    (root / "inside").mkdir(parents=True)
    (root / "trap").symlink_to(target)
    with pytest.raises(VolumeError, match="leads out of the volume"):
        subpath.open_beneath(root, "trap", create=False)
    with pytest.raises(VolumeError, match="leads out of the volume"):
        subpath.open_beneath(root, "trap/passwd", create=True)
    with pytest.raises(VolumeError, match="must be relative"):
        subpath.open_beneath(root, "../x", create=True)


def test_a_subpath_through_a_link_inside_is_fine(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    descriptor = subpath.open_beneath(tmp_path, "link", create=False)
    assert os.readlink(f"/proc/self/fd/{descriptor}") == str(tmp_path / "real")
    os.close(descriptor)


async def test_an_unknown_volume_is_a_config_error(volumes: PodVolumes) -> None:
    with pytest.raises(ContainerError) as caught:
        volumes.mounts(container(volumeMounts=[{"name": "x", "mountPath": "/x"}]), {})
    assert caught.value.reason == "CreateContainerConfigError"


@pytest.mark.parametrize("name", ["../up", "/abs", "..data", "a/../../b"])
def test_reserved_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="invalid path"):
        atomic.write(tmp_path, {name: File(b"x")})


async def test_removal_leaves_nothing(volumes: PodVolumes) -> None:
    await prepare(volumes, Objects(), {"name": "v", "secret": {"secretName": "chest"}})
    volumes.message_mount(container(), 0)
    volumes.hosts("127.0.0.1 localhost\n")
    volumes.remove()
    assert not volumes.directory.exists() and not volumes.volatile.exists()
    volumes.remove()


def test_termination_message_is_bounded(volumes: PodVolumes) -> None:
    mount = volumes.message_mount(container(), 2)
    assert mount.target == "/dev/termination-log"
    Path(mount.source).write_bytes(b"x" * 5000)
    assert len(volumes.read_message("web", 2)) == 4096
    Path(mount.source).unlink()
    Path(mount.source).symlink_to("/etc/passwd")
    assert volumes.read_message("web", 2) == "", "a link planted by the container is not followed"


@pytest.mark.root
@pytest.mark.skipif(not ROOT, reason="needs root: mounts")
async def test_as_root_memory_and_fixed_subpaths(tmp_path: Path) -> None:
    volumes = PodVolumes(tmp_path / "pod", tmp_path / "volatile", root=True)
    memory = {"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}
    data = {"name": "d", "hostPath": {"path": str(tmp_path / "host")}}
    secret = {"name": "s", "secret": {"secretName": "chest"}}
    await prepare(volumes, Objects(), memory, data, secret, securityContext={"fsGroup": 4242})
    assert mounts.is_in_memory(volumes.paths["m"])
    assert volumes.paths["m"].stat().st_gid == 4242
    found = (volumes.paths["s"] / "key").stat()
    assert found.st_gid == 4242 and found.st_mode & 0o040
    (tmp_path / "host" / "keep").write_text("precious")
    held = container(volumeMounts=[{"name": "d", "mountPath": "/d", "subPath": "sub"}])
    (mount,) = volumes.mounts(held, {})
    assert mounts.mounts_below(Path(mount.source)) == [mount.source]
    (mount,) = volumes.mounts(held, {})
    assert mounts.mounts_below(Path(mount.source)) == [mount.source], "a restart does not pile up"
    (tmp_path / "host" / "sub").rename(tmp_path / "host" / "moved")
    (tmp_path / "host" / "sub").symlink_to("/etc")
    assert not (Path(mount.source) / "passwd").exists(), "what was mounted is what was opened"
    volumes.remove()
    assert (tmp_path / "host" / "keep").read_text() == "precious"
    assert mounts.mounts_below(tmp_path) == []


@pytest.mark.root
@pytest.mark.skipif(not ROOT, reason="needs root: mounts")
async def test_release_takes_down_what_a_dead_agent_left(tmp_path: Path) -> None:
    run = tmp_path / "run"
    place = prepare_volatile(run, root=True)
    assert mounts.is_in_memory(place)
    assert prepare_volatile(run, root=True) == place, "once, however often it is asked for"
    volumes = PodVolumes(tmp_path / "pods" / "u", place / "u", root=True)
    data = {"name": "d", "hostPath": {"path": str(tmp_path / "host")}}
    memory = {"name": "m", "emptyDir": {"medium": "Memory"}}
    await prepare(
        volumes, Objects(), data, memory, {"name": "s", "secret": {"secretName": "chest"}}
    )
    (tmp_path / "host" / "keep").write_text("precious")
    volumes.mounts(container(volumeMounts=[{"name": "d", "mountPath": "/d", "subPath": "."}]), {})
    release(tmp_path / "pods", run, root=True)
    assert mounts.mounts_below(tmp_path) == [] and not place.exists()
    assert (tmp_path / "host" / "keep").read_text() == "precious"
    release(tmp_path / "pods", run, root=True)
