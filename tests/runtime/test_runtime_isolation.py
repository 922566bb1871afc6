"""Attempts to get out of a container, each of which must fail: by root in it, with every trick that an image or pod may try."""

from __future__ import annotations

import errno
import io
import json
import os
import socket
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import busybox
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runtime_kinds import either
from test_runtime_container import RUNTIME_DEFAULT

from sampan.cri import api_pb2 as pb
from sampan.cri.errors import CRIError, InvalidArgument
from sampan.network.pods import Attachment
from sampan.runtime import imagevolumes, spec
from sampan.runtime.beneath import resolve
from sampan.runtime.container import oci
from sampan.runtime.container.users import identity
from sampan.runtime.sandbox import CannotStart

SECRET = "the host's own words"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "host" / "secret"
    path.parent.mkdir()
    path.write_text(SECRET)
    return path


async def attempt(runtime: Any, script: str, **fields: Any) -> Any:
    """What root of a container with the usual profile gets for its pains."""
    pod = await runtime.pod()
    fields.setdefault("linux", RUNTIME_DEFAULT)
    container = await runtime.container(pod, "sleep", "1000", **fields)
    return await runtime.exec(container, "sh", "-c", script)


REFUSED = (errno.EPERM, errno.EACCES, errno.EROFS, errno.ENOENT, errno.ENOSYS)
WORDS = tuple(os.strerror(number).encode().lower() for number in REFUSED)


@pytest.mark.root
@pytest.mark.parametrize(
    "script",
    [
        "mount -t tmpfs t /tmp",
        "mount -o remount,rw /sys",
        "mount -t proc p /tmp",
        "umount /proc/kcore || umount /proc/sys",
        "busybox unshare -m true",
        "busybox unshare -U true",
        "busybox nsenter -t 1 -m true",
        "busybox chroot /proc/1/root/../../.. mount -t tmpfs t /tmp",
        "echo 1 >/proc/sys/kernel/panic",
        "echo core >/proc/sys/kernel/core_pattern",
        "mkdir /sys/fs/cgroup/memory/out || mkdir /sys/fs/cgroup/unified/out",
        "echo 1 >/sys/fs/cgroup/cgroup.procs || echo 1 >/sys/fs/cgroup/unified/cgroup.procs",
        "ls /sys/kernel/debug | grep . || touch /sys/kernel/debug/out",
        "echo -1 >/sys/fs/cgroup/memory/memory.limit_in_bytes || echo max >/sys/fs/cgroup/memory.max",
        "mknod /tmp/disk b 254 0 && head -c1 /tmp/disk",
        "mknod /tmp/memory c 1 1 && head -c1 /tmp/memory",
        "busybox date -s 2000-01-01; exit 1",
        "busybox insmod /bin/busybox",
        "busybox dmesg | grep -q . && echo out; busybox dmesg",
        "busybox swapoff -a; busybox losetup /dev/loop0 /bin/busybox",
        "busybox hostname pirate",
        "busybox ip link add dummy type dummy || busybox ip link set lo down",
        "busybox chroot /proc/1/cwd true && busybox pivot_root / /tmp",
        "echo -1000 >/proc/self/oom_score_adj",
    ],
)
@either
async def test_what_root_inside_cannot_do(runtime, script):
    answer = await attempt(runtime, script)
    assert answer.exit_code != 0, answer.stdout
    assert any(word in answer.stderr.lower() for word in (*WORDS, b"not permitted", b"denied"))


@pytest.mark.root
@either
async def test_other_processes_are_out_of_reach(runtime):
    """Of another container of the pod, and of the host: not seen, not signalled, not read, not traced."""
    pod = await runtime.pod()
    await runtime.container(pod, "sleep", "4242", linux=RUNTIME_DEFAULT)
    container = await runtime.container(pod, "sleep", "1000", linux=RUNTIME_DEFAULT)
    said = await runtime.exec(
        container,
        "sh",
        "-c",
        "cat /proc/[0-9]*/cmdline; kill -9 -1; cat /proc/[0-9]*/environ | wc -c",
    )
    assert b"4242" not in said.stdout
    assert (
        str(os.getpid()).encode()
        not in (await runtime.exec(container, "ls", "/proc")).stdout.split()
    )
    assert (
        len((await runtime.client.list_containers(filter={"state": {"state": 1}})).containers) == 2
    )


@pytest.mark.root
async def test_another_pods_memory_is_out_of_reach(runtime):
    """By its process, by shared memory, by the machine's memory."""
    pod = await runtime.pod()
    owner = await runtime.container(
        pod, "sh", "-c", "echo treasure >/dev/shm/chest; export HELD=treasure; exec sleep 4242",
        linux=RUNTIME_DEFAULT,
    )  # fmt: skip
    pid = (runtime.base / "state" / "containers" / owner / "container.pid").read_text()
    other = await runtime.container(await runtime.pod(), "sleep", "1000", linux=RUNTIME_DEFAULT)
    for reach in (
        f"cat /proc/{pid}/mem", f"cat /proc/{pid}/environ", f"ls /proc/{pid}/root/",
        "cat /dev/shm/chest", "head -c1 /dev/mem", "head -c1 /dev/kmem",
        "head -c4096 /proc/kcore | grep .", "grep -l treasure /proc/*/environ /dev/shm/*",
    ):  # fmt: skip
        answer = await runtime.exec(other, "sh", "-c", reach)
        assert answer.exit_code != 0 and b"treasure" not in answer.stdout, reach
    # The same steps find it from beside it.
    assert (await runtime.exec(owner, "cat", "/dev/shm/chest")).stdout == b"treasure\n"
    found = await runtime.exec(owner, "sh", "-c", "grep -l treasure /proc/*/environ")
    assert b"/proc/1/environ" in found.stdout


@pytest.mark.root
@either
async def test_no_descriptor_of_the_host_leaks(runtime):
    pod = await runtime.pod()
    container = await runtime.container(
        pod, "sh", "-c", "ls /proc/self/fd; sleep 1000", linux=RUNTIME_DEFAULT
    )
    said = await runtime.exec(container, "sh", "-c", "ls -l /proc/1/fd; echo; ls /proc/self/fd")
    first, _, own = said.stdout.decode().partition("\n\n")
    assert [line.split()[-3] for line in first.splitlines()[1:]] == ["0", "1", "2"]
    # The fourth is the directory that `ls` itself reads.
    assert own.split() == ["0", "1", "2", "3"]


@pytest.mark.root
@pytest.mark.parametrize("number", [3, 5, 7, 8, 9, 11])
@either
async def test_a_working_directory_in_a_descriptor(runtime, number):
    """CVE-2024-21626: a directory of the host that the engine has open would be the container's working directory."""
    pod = await runtime.pod()
    container = await runtime.container(
        pod, "sh", "-c", "ls ../../../../../../etc/shadow; pwd; sleep 1000",
        start=False, working_dir=f"/proc/self/fd/{number}",
    )  # fmt: skip
    with pytest.raises(CRIError):
        await runtime.client.start_container(container_id=container)
    assert (await runtime.status(container)).state == pb.CONTAINER_EXITED


@pytest.mark.root
@either
async def test_links_in_an_image_and_a_volume_stay_inside(runtime, secret):
    """The image's own directories lead out by symlinks, and so does what the pod put into its volume."""
    lure = secret.parent.parent / "volume"
    lure.mkdir()
    (lure / "out").symlink_to(secret)
    (lure / "up").symlink_to("../../../../../../.." + str(secret))
    said = await attempt(
        runtime,
        "cat /data/out /data/up /data/../../../.." + str(secret) + f"; cat /proc/1/root{secret}",
        mounts=[{"host_path": str(lure), "container_path": "/data"}],
    )
    assert SECRET.encode() not in said.stdout
    # A mount point below a link of the container's own making must be made inside, not on the host.
    outside = secret.parent / "made"
    pod = await runtime.pod()
    mounts = [
        {"host_path": str(lure), "container_path": "/data"},
        {"host_path": str(lure), "container_path": f"/data/../../../../..{outside}"},
    ]
    container = await runtime.container(pod, "sleep", "1000", mounts=mounts, start=False)
    try:
        await runtime.client.start_container(container_id=container)
    except CRIError as error:
        assert str(outside) not in str(error) or "denied" in str(error)
    assert not outside.exists()


@pytest.mark.root
@either
async def test_a_fork_bomb_stops_at_its_limit(runtime):
    linux = {**RUNTIME_DEFAULT, "resources": {"unified": {"pids.max": "24"}}}
    said = await attempt(
        runtime, "for i in $(seq 200); do sleep 60 & done; ls /proc | grep -c '^[0-9]'", linux=linux
    )
    assert b"fork" in said.stderr or said.exit_code != 0
    (item,) = (await runtime.client.list_pod_sandbox_stats()).stats
    assert item.linux.process.process_count.value <= 24


@pytest.mark.root
@either
async def test_memory_backed_files_are_bounded(runtime):
    said = await attempt(
        runtime,
        "dd if=/dev/zero of=/dev/shm/x bs=1M count=200 || dd if=/dev/zero of=/dev/x bs=1M count=200",
    )
    assert b"No space left" in said.stderr
    assert said.exit_code != 0


@pytest.mark.root
@either
async def test_masked_and_readonly_paths(runtime):
    linux = {
        "security_context": {"masked_paths": ["/etc/passwd", "/home"], "readonly_paths": ["/tmp"]}
    }
    said = await attempt(
        runtime, "cat /etc/passwd; ls /home | wc -l; touch /home/x /tmp/x", linux=linux
    )
    assert said.stdout == b"0\n"
    assert said.stderr.count(b"Read-only") == 2


@pytest.mark.root
@either
async def test_the_runtimes_socket_and_state_are_not_there(runtime):
    said = await attempt(runtime, f"ls {runtime.base} {runtime.config.socket} /run/sampan")
    assert said.stdout == b""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(runtime.config.socket))
    assert (os.stat(runtime.config.socket).st_mode & 0o077) == 0


@pytest.mark.root
async def test_an_image_volume_is_the_image_and_nothing_else(runtime, tmp_path):
    def mount(**fields: Any) -> dict[str, Any]:
        return {
            "container_path": "/image",
            "readonly": True,
            "image": {"image": "busybox"},
            **fields,
        }

    pod = await runtime.pod()
    container = await runtime.container(pod, "sleep", "1000", mounts=[mount()])
    said = await runtime.exec(
        container, "sh", "-c", "ls /image/bin/busybox; touch /image/new; /image/bin/busybox id -u"
    )
    assert said.stdout == b"/image/bin/busybox\n0\n"
    assert b"Read-only" in said.stderr
    part = await runtime.container(
        pod, "sleep", "1000", mounts=[mount(image_sub_path="etc/passwd")]
    )
    assert b"sailor" in (await runtime.exec(part, "cat", "/image")).stdout
    status = await runtime.status(part)
    assert status.mounts[0].image.image_ref == status.image_id
    for wrong in (
        {"image_sub_path": "../../etc"},
        {"image_sub_path": "no/such"},
        {"readonly": False},
    ):
        with pytest.raises(InvalidArgument):
            await runtime.container(pod, "sleep", "1000", mounts=[mount(**wrong)])
    with pytest.raises(CRIError, match="no-such"):
        await runtime.container(pod, "sleep", "1", mounts=[mount(image={"image": "no-such"})])
    # Nothing of those that failed is left, nor of those that are removed.
    assert len(list((runtime.base / "state" / "containers").iterdir())) == 2


@pytest.mark.root
async def test_recursive_read_only(runtime, tmp_path):
    below = tmp_path / "below"
    below.mkdir()
    from sampan.linux import mounts

    mounts.mount("tmpfs", str(below), "tmpfs")
    try:
        pod = await runtime.pod()
        for recursive, code in ((False, 0), (True, 1)):
            mount = {
                "host_path": str(tmp_path), "container_path": "/data",
                "readonly": True, "recursive_read_only": recursive,
            }  # fmt: skip
            container = await runtime.container(pod, "sleep", "1000", mounts=[mount])
            said = await runtime.exec(container, "touch", "/data/below/new")
            assert said.exit_code == code
            assert (await runtime.exec(container, "touch", "/data/new")).exit_code == 1
    finally:
        await runtime.clean()
        mounts.unmount(below)


# Hostile images, as data: nothing but a clear refusal or a harmless specification may come of them.

text = st.one_of(
    st.sampled_from(
        [
            "..",
            "/..",
            "../../etc",
            "/proc/self/fd/7",
            "\0",
            "root",
            "0",
            "-1",
            "99999999999",
            "a=b",
            "=",
            "",
        ]
    ),
    st.text(max_size=12),
)
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), text),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(text, inner, max_size=3)),
    max_leaves=4,
)
well_formed = st.fixed_dictionaries(
    {},
    optional={
        "User": text,
        "WorkingDir": text,
        "Env": st.lists(text, max_size=3),
        "Entrypoint": st.lists(text, max_size=3),
        "Cmd": st.lists(text, max_size=3),
        "StopSignal": text,
    },
)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(config=well_formed)
def test_an_image_may_say_what_it_likes_in_its_configuration(config):
    sandbox = pb.PodSandboxConfig(metadata={"name": "p", "uid": "u"})
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory)
        try:
            made = spec.container_spec(
                "c" * 64, sandbox, pb.ContainerConfig(metadata={"name": "c"}), config, base
            )
            who = identity(base, made.security)
        except (InvalidArgument, CannotStart):
            return
        pod = spec.sandbox_spec("s" * 64, sandbox, base, Attachment(None, ()), None)
        place = oci.Place(None, None, None, "", "/dev/shm")
        document = oci.configuration(pod, made, who, place, base / "rootfs")
    assert json.loads(json.dumps(document)) == document
    assert document["root"]["path"] == str(base / "rootfs")
    assert not document["process"]["capabilities"]["ambient"]
    assert 0 < spec.signal_number(made.stop_signal) < 65


names = st.lists(
    st.sampled_from(["a", "b", "..", ".", "etc", "passwd", ""]), min_size=1, max_size=6
)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    links=st.dictionaries(st.sampled_from(["a", "b", "etc"]), names, max_size=3),
    absolute=st.booleans(),
    path=names,
)
def test_no_path_of_an_image_leads_out_of_it(links, absolute, path):
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory, "image")
        (root / "etc" if "etc" not in links else root).mkdir(parents=True)
        Path(directory, "passwd").write_text(SECRET)
        for name, target in links.items():
            (root / name).symlink_to(("/" if absolute else "") + "/".join(target) or ".")
        found = resolve(root, "/".join(path))
        assert found is None or found.resolve() == found
        assert found is None or found.is_relative_to(root)
        try:
            assert imagevolumes.within(root, "/".join(path)).is_relative_to(root)
        except InvalidArgument:
            pass


@pytest.mark.root
async def test_an_image_whose_etc_leads_to_the_host(runtime, tmp_path, monkeypatch):
    """User and group files, and the mount points of /etc/hosts, through a link to a directory of the host."""
    host = tmp_path / "etc"
    host.mkdir()
    (host / "passwd").write_text("sailor:x:0:0::/:/bin/sh\n")
    (host / "hosts").write_text(SECRET)
    usual = busybox.rootfs()

    def lure() -> bytes:
        buffer = io.BytesIO()
        with (
            tarfile.open(fileobj=io.BytesIO(usual)) as source,
            tarfile.open(fileobj=buffer, mode="w") as target,
        ):
            for member in source:
                if not member.name.startswith("etc"):
                    target.addfile(member, source.extractfile(member) if member.isreg() else None)
            for folder in [*reversed(host.parents), host][1:]:
                entry = tarfile.TarInfo(str(folder).lstrip("/"))
                entry.type, entry.mode = tarfile.DIRTYPE, 0o777
                target.addfile(entry)
            link = tarfile.TarInfo("etc")
            link.type, link.linkname = tarfile.SYMTYPE, f"../../../../../../..{host}"
            target.addfile(link)
        return buffer.getvalue()

    monkeypatch.setattr(busybox, "rootfs", lure)
    name = "docker.io/library/lure:latest"
    runtime.config.images.load(busybox.write_layout(tmp_path / "layout", name=name))
    pod = await runtime.pod()
    container = await runtime.container(
        pod, "sleep", "1000", image={"image": "lure"}, working_dir="/../../../../tmp"
    )
    said = await runtime.exec(
        container, "sh", "-c", "pwd; cat /etc/hosts; echo changed >/etc/hosts"
    )
    assert said.stdout.startswith(b"/tmp\n127.0.0.1")
    assert SECRET.encode() not in said.stdout
    assert (host / "hosts").read_text() == SECRET
    assert sorted(path.name for path in host.iterdir()) == ["hosts", "passwd"]
    named = await runtime.container(
        pod, "id", image={"image": "lure"}, start=False,
        linux={"security_context": {"run_as_username": "sailor"}},
    )  # fmt: skip
    with pytest.raises(CRIError, match="sailor"):
        await runtime.client.start_container(container_id=named)
