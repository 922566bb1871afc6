"""What a pod may ask of its containers, each option by what it does: profiles, propagation, devices, limits of processes."""

from __future__ import annotations

import json
import os
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from runtime_fixture import Runtime
from runtime_kinds import either
from test_runtime_container import RUNTIME_DEFAULT

from sampan.cri import api_pb2 as pb
from sampan.cri.errors import CRIError
from sampan.linux import mounts

pytestmark = pytest.mark.root

MS_SHARED = 1 << 20
STATUS = ("grep", "Seccomp:", "/proc/self/status")


@either
async def test_seccomp_profiles(runtime: Runtime, tmp_path: Path) -> None:
    """The runtime's own, none, and one of the node's files, which says what is refused and how."""
    refuse = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 110}],
    }
    (tmp_path / "no-mkdir.json").write_text(json.dumps(refuse))
    (tmp_path / "broken.json").write_text("{")
    profiles = {
        "usual": {"profile_type": "RuntimeDefault"},
        "none": {"profile_type": "Unconfined"},
        "file": {"profile_type": "Localhost", "localhost_ref": str(tmp_path / "no-mkdir.json")},
        "broken": {"profile_type": "Localhost", "localhost_ref": str(tmp_path / "broken.json")},
        "missing": {"profile_type": "Localhost", "localhost_ref": str(tmp_path / "nothing.json")},
    }
    pod = await runtime.pod()
    made = {}
    for name, profile in profiles.items():
        linux = {"security_context": {"seccomp": profile}}
        start = name not in ("broken", "missing")
        made[name] = await runtime.container(pod, "sleep", "1000", linux=linux, start=start)
    for name, mode in (("usual", b"2"), ("none", b"0"), ("file", b"2")):
        assert (await runtime.exec(made[name], *STATUS)).stdout.split() == [b"Seccomp:", mode]
    tried = await runtime.exec(made["file"], "busybox", "mkdir", "/tmp/new")
    assert tried.exit_code == 1 and os.strerror(110).encode() in tried.stderr
    for name in ("usual", "none"):
        assert (await runtime.exec(made[name], "busybox", "mkdir", "/tmp/new")).exit_code == 0
    # What the usual one keeps from a container that may do everything else to mounts.
    for name in ("broken", "missing"):
        with pytest.raises(CRIError, match=profiles[name]["localhost_ref"]):
            await runtime.client.start_container(container_id=made[name])


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory of the host whose mounts are shared with whoever mounts it so."""
    with tempfile.TemporaryDirectory(prefix="sampan-shared-") as name:
        mounts.mount(name, name, flags=mounts.MS_BIND)
        mounts.mount("none", name, flags=MS_SHARED)
        try:
            yield Path(name)
        finally:
            mounts.unmount_below(Path(name))


async def test_mount_propagation(runtime: Runtime, shared: Path) -> None:
    """None, from the host, and both ways: what is mounted on either side after the start."""
    for folder in ("before", "later", "back"):
        (shared / folder).mkdir()
    mounts.mount("none", str(shared / "before"), "tmpfs")
    (shared / "before" / "seen").touch()
    pod = await runtime.pod(linux={"security_context": {"privileged": True}})
    made = {}
    for propagation in (
        pb.PROPAGATION_PRIVATE, pb.PROPAGATION_HOST_TO_CONTAINER, pb.PROPAGATION_BIDIRECTIONAL,
    ):  # fmt: skip
        mount = {"host_path": str(shared), "container_path": "/data", "propagation": propagation}
        made[propagation] = await runtime.container(
            pod, "sleep", "1000", mounts=[mount], linux={"security_context": {"privileged": True}}
        )
    mounts.mount("none", str(shared / "later"), "tmpfs")
    (shared / "later" / "seen").touch()
    for propagation, container in made.items():
        said = await runtime.exec(container, "ls", "/data/before", "/data/later")
        assert said.stdout.count(b"seen") == (1 if propagation == pb.PROPAGATION_PRIVATE else 2)
        mounted = await runtime.exec(
            container, "sh", "-c", "mount -t tmpfs none /data/back && touch /data/back/mine"
        )
        assert mounted.exit_code == 0, mounted.stderr
        outside = (shared / "back" / "mine").exists()
        assert outside == (propagation == pb.PROPAGATION_BIDIRECTIONAL)
    # What both ways brought out is the host's business, and goes with its directory.
    await runtime.clean()
    assert (shared / "back" / "mine").exists()


async def test_devices(runtime: Runtime) -> None:
    """By name in the container, with as many rights as were given; no other can be made."""
    devices = [
        {"host_path": "/dev/full", "container_path": "/dev/reads", "permissions": "r"},
        {"host_path": "/dev/full", "container_path": "/dev/writes", "permissions": "w"},
    ]
    pod = await runtime.pod()
    reads = await runtime.container(
        pod, "sleep", "1000", devices=devices[:1], linux=RUNTIME_DEFAULT
    )
    writes = await runtime.container(
        pod, "sleep", "1000", devices=devices[1:], linux=RUNTIME_DEFAULT
    )
    missing = [{"host_path": "/dev/nothing", "container_path": "/dev/x", "permissions": "r"}]
    # /dev/zero may be used by all, so its like is what shows the rights of another: /dev/full is 1:7, and usual.
    assert (await runtime.exec(reads, "head", "-c1", "/dev/reads")).stdout == b"\0"
    full = await runtime.exec(writes, "sh", "-c", "echo x >/dev/writes")
    assert b"No space left" in full.stderr
    assert b"reads" not in (await runtime.exec(writes, "ls", "/dev")).stdout
    memory = await runtime.exec(writes, "sh", "-c", "mknod /tmp/mem c 1 1; head -c1 /tmp/mem")
    assert memory.exit_code != 0 and b"not permitted" in memory.stderr
    with pytest.raises(CRIError, match="device /dev/nothing: No such file"):
        bad = await runtime.container(pod, "true", devices=missing, start=False)
        await runtime.client.start_container(container_id=bad)


@either
async def test_open_files_do_not_depend_on_who_started_the_runtime(runtime: Runtime) -> None:
    """A shell with a low soft limit is not handed on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    alone = runtime.handler == "microvm"  # a kernel that bounds nobody else
    most = 1 << 20 if alone or hard == resource.RLIM_INFINITY else min(hard, 1 << 20)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1000, hard))
    try:
        container = await runtime.container(await runtime.pod(), "sleep", "1000")
        said = await runtime.exec(container, "grep", "Max open files", "/proc/1/limits")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert said.stdout.split()[3:5] == [str(most).encode()] * 2


@either
async def test_shared_memory_is_the_pods(runtime: Runtime) -> None:
    """64 MiB in /dev/shm, which its containers share and no other pod does."""
    pod, other = await runtime.pod(), await runtime.pod()
    one, two = [await runtime.container(pod, "sleep", "1000") for _ in range(2)]
    stranger = await runtime.container(other, "sleep", "1000")
    size = (await runtime.exec(one, "busybox", "df", "-k", "/dev/shm")).stdout.split()
    assert b"65536" in size
    await runtime.exec(one, "sh", "-c", "echo chest >/dev/shm/found")
    assert (await runtime.exec(two, "cat", "/dev/shm/found")).stdout == b"chest\n"
    assert (await runtime.exec(stranger, "cat", "/dev/shm/found")).exit_code == 1
