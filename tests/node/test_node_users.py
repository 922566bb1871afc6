"""Pods with users of their own: each has a range of ids, recorded, and its containers and volumes are told of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from node_pods import container, make_pod

from sampan.cri import api_pb2 as pb
from sampan.node import containerconfig, sandboxconfig, userranges
from sampan.node.containerconfig import ImageFacts, MountPoint
from sampan.node.errors import SandboxError
from sampan.node.podspec import MAIN, Named
from sampan.node.userranges import FIRST, LENGTH, UserRange, range_of


def test_no_two_pods_have_the_same_ids(tmp_path: Path) -> None:
    ranges = {uid: range_of(tmp_path, uid) for uid in ("a", "b", "c")}
    assert sorted(item.first for item in ranges.values()) == [
        FIRST,
        FIRST + LENGTH,
        FIRST + 2 * LENGTH,
    ]
    assert range_of(tmp_path, "b") == ranges["b"]  # also for another node agent: it is on disk
    shutil.rmtree(tmp_path / "b")
    assert range_of(tmp_path, "d") == ranges["b"]


def test_there_is_an_end_of_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(userranges, "LAST", FIRST + LENGTH)
    range_of(tmp_path, "a")
    with pytest.raises(SandboxError, match="no range"):
        range_of(tmp_path, "b")


def test_what_cri_is_told() -> None:
    pod = make_pod(hostUsers=False, securityContext={"supplementalGroupsPolicy": "Strict"})
    users = UserRange(FIRST)
    options = sandboxconfig.namespaces(pod, users=users).userns_options
    wanted = [pb.IDMapping(host_id=FIRST, container_id=0, length=LENGTH)]
    assert options.mode == pb.POD
    assert list(options.uids) == list(options.gids) == wanted
    assert not sandboxconfig.namespaces(make_pod()).HasField("userns_options")
    mount = MountPoint(source="/host", target="/data")
    config = containerconfig.make(
        pod, Named(MAIN, container()), 0, ImageFacts("i"), {}, [mount], 1 << 30, "", users
    )
    assert list(config.mounts[0].uidMappings) == list(config.mounts[0].gidMappings) == wanted
    context = config.linux.security_context
    assert context.namespace_options.userns_options == options
    assert context.supplemental_groups_policy == pb.Strict
