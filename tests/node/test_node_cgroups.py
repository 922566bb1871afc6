"""Cgroups of pods and of classes of service: kubelet's values, in the kernel's own files."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from node_pods import container, make_pod

from sampan.linux.cgroups import Layout, inhabitants, layout, remove
from sampan.node import cgroups, containerconfig, resources
from sampan.node.cgroups import Groups, settings
from sampan.node.podspec import MAIN, Named

SMALL = {"requests": {"cpu": "250m"}, "limits": {"cpu": "500m", "memory": "64Mi"}}


def pod(uid: str, *amounts: dict[str, Any], **spec: Any) -> dict[str, Any]:
    containers = [container(f"c{n}", resources=each) for n, each in enumerate(amounts)]
    made = make_pod(*containers, **spec)
    made["metadata"]["uid"] = uid
    return made


def test_a_pod_has_limits_when_each_of_its_containers_has() -> None:
    wanted = cgroups.of_pod(pod("a", SMALL, SMALL))
    assert settings(wanted, unified=True) == [
        ("cpu", "cpu.weight", "20"), ("cpu", "cpu.max", "100000 100000"), ("memory", "memory.max", str(128 << 20)),
    ]  # fmt: skip
    assert settings(wanted, unified=False) == [
        ("cpu", "cpu.shares", "512"), ("cpu", "cpu.cfs_period_us", "100000"),
        ("cpu", "cpu.cfs_quota_us", "100000"), ("memory", "memory.limit_in_bytes", str(128 << 20)),
    ]  # fmt: skip
    partly = settings(cgroups.of_pod(pod("b", SMALL, {})), unified=True)
    assert partly[1:] == [("cpu", "cpu.max", "max 100000"), ("memory", "memory.max", "max")]
    own = {"requests": {"cpu": "1"}, "limits": {"cpu": "2", "memory": "96Mi"}}  # KEP-2837
    whole = cgroups.of_pod(pod("d", SMALL, {}, resources=own))
    assert settings(whole, unified=True)[1:] == [
        ("cpu", "cpu.max", "200000 100000"), ("memory", "memory.max", str(96 << 20)),
    ]  # fmt: skip
    assert whole["cpu_shares"] == 1024
    boxed = settings(cgroups.of_pod(pod("c", SMALL, overhead={"memory": "1Mi"})), unified=True)
    assert boxed[1:] == [("cpu", "cpu.max", "max 100000"), ("memory", "memory.max", "max")]


def test_what_a_pod_asks_for_counts_instead_of_its_containers() -> None:
    """KEP-2837: its limits hold for containers without, what is left of its memory counts against the OOM killer."""
    own = {"requests": {"cpu": "1", "memory": "512Mi"}, "limits": {"cpu": "2", "memory": "1Gi"}}
    made = pod("d", {"requests": {"cpu": "250m", "memory": "256Mi"}}, {}, resources=own)
    assert resources.requested(made, "cpu") == 1000
    first, second = (
        resources.container_resources(made, c, 1 << 30) for c in made["spec"]["containers"]
    )
    assert (first["cpu_shares"], second["cpu_shares"]) == (256, 2048)
    assert first["memory_limit_in_bytes"] == second["memory_limit_in_bytes"] == 1 << 30
    assert (first["oom_score_adj"], second["oom_score_adj"]) == (625, 875)


def test_what_every_container_gets_on_v2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubelet's defaults, for what the kernel has: one without swap has no file for it."""
    groups = Groups("boat", 2)
    (tmp_path / "boat").mkdir()
    monkeypatch.setattr(cgroups, "layout", lambda: Layout(True, {"": tmp_path}))
    assert groups.rules() == {}
    (tmp_path / "boat" / "memory.oom.group").touch()
    assert groups.rules() == {"memory.oom.group": "1"}
    (tmp_path / "boat" / "memory.swap.max").touch()
    rules = groups.rules()
    assert rules == {"memory.oom.group": "1", "memory.swap.max": "0"}
    assert Groups("", 2).rules() == {}
    made = pod("a", SMALL)
    named = Named(MAIN, made["spec"]["containers"][0])
    config = containerconfig.make(
        made, named, 0, containerconfig.ImageFacts("box"), {}, (), 1 << 30, rules=rules
    )
    assert dict(config.linux.resources.unified) == rules
    monkeypatch.setattr(cgroups, "layout", lambda: Layout(False, {"memory": tmp_path}))
    assert groups.rules() == {}


@pytest.fixture
def root() -> Iterator[str]:
    name = f"sptest{os.getpid()}n"
    yield name
    remove(name)
    assert not [path for path in layout().everywhere(name) if path.exists()]


def value(group: str, *names: str) -> str:
    """Of the first of these files that there is: v2's name for it, or v1's."""
    tops = layout().every(group)
    (found,) = [top / name for top in tops for name in names if (top / name).exists()]
    return found.read_text().strip()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="cgroups need root")
def test_what_the_kernel_is_told(root: str) -> None:
    groups = Groups(root, 2)
    kubepods = f"{root}/kubepods"
    one, two = pod("one", SMALL), pod("two", SMALL, SMALL)
    group = f"/{kubepods}/burstable/podone"
    for each in (one, two, pod("idle", {})):
        groups.count(each)
    shares = value(f"{kubepods}/burstable", "cpu.weight", "cpu.shares")
    assert shares in ("30", "768")
    assert value(f"{kubepods}/besteffort", "cpu.weight", "cpu.shares") in ("1", "2")
    groups.set_pod(group, one)
    assert value(group[1:], "memory.max", "memory.limit_in_bytes") == str(64 << 20)
    assert value(group[1:], "cpu.max", "cpu.cfs_quota_us") in ("50000 100000", "50000")

    # A resize, by a process that did not make the group.
    groups = Groups(root, 2)
    larger = pod("one", {**SMALL, "limits": {"cpu": "1", "memory": "128Mi"}})
    groups.lift(group, larger)
    assert value(group[1:], "memory.max", "memory.limit_in_bytes") != str(64 << 20)
    assert value(group[1:], "cpu.max", "cpu.cfs_quota_us") in ("max 100000", "-1")
    groups.set_pod(group, larger)
    assert value(group[1:], "memory.max", "memory.limit_in_bytes") == str(128 << 20)

    groups.count(one)
    assert groups.remove("one")
    groups.count(two)
    assert value(f"{kubepods}/burstable", "cpu.weight", "cpu.shares") in ("20", "512")
    assert not [directory for directory in layout().every(group) if directory.exists()]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="cgroups need root")
async def test_a_group_goes_also_when_it_is_busy_at_first(root: str) -> None:
    """A runtime that was killed left a program in it, and no record: nobody else would end it or remove the group."""
    groups = Groups(root, 2)
    group = f"/{root}/kubepods/burstable/podone"
    groups.set_pod(group, pod("one", SMALL))
    left = subprocess.Popen(["sleep", "1000"])
    try:
        for top in layout().every(group):
            if top.is_dir():
                inside = top / "container"
                inside.mkdir()
                (inside / "cgroup.procs").write_text(str(left.pid))
        assert left.pid in inhabitants(group)
        assert not groups.remove("one")
        # Another agent finds it by its group; pods that it knows are let alone.
        groups = Groups(root, 2)
        assert groups.strays({"one"}) == set()
        assert groups.strays({"two"}) == {"one"}
        async with asyncio.timeout(20):
            reaped = asyncio.create_task(asyncio.to_thread(left.wait))
            await groups.clear("one")
            await reaped
        assert left.returncode == -9
    finally:
        left.kill()
        left.wait()
    assert groups.strays(()) == set()
    assert not [directory for directory in layout().everywhere(group) if directory.exists()]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="cgroups need root")
def test_a_group_that_was_removed_between_two_sandboxes_has_its_limits_again(root: str) -> None:
    groups = Groups(root, 2)
    group = f"/{root}/kubepods/burstable/podone"
    for _ in range(2):
        groups.set_pod(group, pod("one", SMALL))
        assert value(group[1:], "memory.max", "memory.limit_in_bytes") == str(64 << 20)
        assert remove(group)  # as the runtime does with an empty one when it stops a sandbox
