"""Pods with users of their own (`hostUsers: false`): root inside is nobody outside, and files keep their owners."""

from __future__ import annotations

from pathlib import Path

import pytest

from sampan.cri.errors import CRIError, InvalidArgument
from sampan.runtime.sandbox import USER_NAMESPACES

pytestmark = pytest.mark.root
HOST, LENGTH = 700_000, 65_536
MAPPING = [{"host_id": HOST, "container_id": 0, "length": LENGTH}]
POD, NODE, CONTAINER, TARGET = 0, 2, 1, 3


def options(mode: int = POD, mapping=None, **namespaces):
    mapping = MAPPING if mapping is None else mapping
    users = {"mode": mode, "uids": mapping, "gids": mapping}
    return {
        "linux": {
            "security_context": {"namespace_options": {"userns_options": users, **namespaces}}
        }
    }


@pytest.fixture
async def user_pod(runtime):
    status = await runtime.client.status()
    features = {handler.name: handler.features for handler in status.runtime_handlers}
    if not getattr(features["container"], USER_NAMESPACES):
        pytest.skip("this kernel and engine have no user namespaces")
    return await runtime.pod(hostname="harbour", **options(pid=CONTAINER))


async def test_root_inside_is_not_root_outside(runtime, user_pod, tmp_path):
    (tmp_path / "closed").write_text("secret")
    (tmp_path / "closed").chmod(0o600)
    tmp_path.chmod(0o755)
    container = await runtime.container(
        user_pod, "sleep", "1000", mounts=[{"host_path": str(tmp_path), "container_path": "/host"}]
    )
    said = await runtime.exec(
        container,
        "sh",
        "-c",
        "cat /proc/self/uid_map; id -u; hostname; cat /host/closed; touch /host/new",
    )
    words = said.stdout.split()
    assert words == [b"0", str(HOST).encode(), str(LENGTH).encode(), b"0", b"harbour"]
    assert said.stderr.count(b"ermission denied") == 2
    pid = int((runtime.base / "state" / "containers" / container / "container.pid").read_text())
    owner = next(
        line
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("Uid:")
    )
    assert owner.split()[1] == str(HOST)


async def test_files_of_image_and_volume_keep_their_owners(runtime, user_pod, tmp_path):
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "mine").touch()
    mount = {
        "host_path": str(volume),
        "container_path": "/data",
        "uidMappings": MAPPING,
        "gidMappings": MAPPING,
    }
    container = await runtime.container(user_pod, "sleep", "1000", mounts=[mount])
    said = await runtime.exec(
        container,
        "sh",
        "-c",
        "ls -ln /bin/busybox /data/mine | head -2; echo x >/data/made && echo y >/etc/new; echo $?",
    )
    lines = said.stdout.decode().splitlines()
    assert [line.split()[2:4] for line in lines[:2]] == [["0", "0"], ["0", "0"]]
    assert lines[2] == "0"
    # What root made in the volume is root's outside too: the volume outlives the pod and its range of ids.
    assert (volume / "made").stat().st_uid == 0
    upper = runtime.base / "state" / "containers" / container / "upper" / "etc" / "new"
    assert upper.stat().st_uid == HOST


async def test_shared_processes_and_limits_of_power(runtime, user_pod):
    pod = await runtime.pod(**options(pid=POD))
    first = await runtime.container(
        pod,
        "sleep",
        "1000",
        linux={"security_context": {"capabilities": {"add_capabilities": ["ALL"]}}},
    )
    second = await runtime.container(
        pod, "sleep", "2000", linux={"security_context": {"namespace_options": {"pid": POD}}}
    )
    said = await runtime.exec(second, "sh", "-c", "cat /proc/*/cmdline | tr '\\0' ' '")
    assert b"sleep 1000" in said.stdout or b"sleep 2000" in said.stdout
    # All capabilities, and none of them over the host: no device, no clock, no module.
    said = await runtime.exec(
        first,
        "sh",
        "-c",
        "mknod /tmp/disk b 254 0 || echo refused; mount -t tmpfs t /tmp && echo mounted; echo 1 >/proc/sys/kernel/panic || echo refused",
    )
    assert said.stdout.split() == [b"refused", b"mounted", b"refused"]


@pytest.mark.parametrize(
    ("mode", "mapping"),
    [
        (POD, MAPPING * 2),
        (POD, []),
        (POD, [{"host_id": HOST, "container_id": 1, "length": LENGTH}]),
        (CONTAINER, MAPPING),
        (TARGET, MAPPING),
        (NODE, MAPPING),
    ],
)
async def test_mappings_that_are_refused(runtime, mode, mapping):
    with pytest.raises(InvalidArgument):
        await runtime.pod(**options(mode, mapping))
    assert not (await runtime.client.list_pod_sandbox()).items


async def test_pods_of_other_kinds_have_no_users(runtime):
    with pytest.raises(CRIError, match="user namespaces"):
        await runtime.pod("wasm", **options())
