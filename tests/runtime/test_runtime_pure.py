"""Decisions without a kernel: from CRI's messages to specs, config.json, users, capabilities, seccomp."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.cri import api_pb2 as pb
from sampan.cri.errors import InvalidArgument
from sampan.linux import cgroups
from sampan.network.pods import Attachment
from sampan.runtime import inventory, spec
from sampan.runtime.container import capabilities, elf, oci, seccomp, users
from sampan.runtime.records import ContainerEntry, SandboxEntry, load_all
from sampan.runtime.sandbox import CannotStart, Exit, Mount, SecurityContext

SANDBOX = pb.PodSandboxConfig(
    metadata=pb.PodSandboxMetadata(name="p", uid="u", namespace="n"), log_directory="/logs"
)


@pytest.mark.parametrize(
    ("command", "args", "image", "wanted"),
    [
        ([], [], {"Entrypoint": ["e"], "Cmd": ["c"]}, ("e", "c")),
        ([], ["a"], {"Entrypoint": ["e"], "Cmd": ["c"]}, ("e", "a")),
        (["x"], [], {"Entrypoint": ["e"], "Cmd": ["c"]}, ("x",)),
        (["x"], ["a"], {"Entrypoint": ["e"], "Cmd": ["c"]}, ("x", "a")),
        ([], [], {"Cmd": ["c"]}, ("c",)),
    ],
)
def test_command_and_args_against_the_image(command, args, image, wanted):
    assert spec.arguments(pb.ContainerConfig(command=command, args=args), image) == wanted


def test_environment_pod_wins_over_image():
    config = pb.ContainerConfig(
        envs=[pb.KeyValue(key="A", value="pod"), pb.KeyValue(key="E", value="x=y")]
    )
    got = spec.environment(SANDBOX, config, {"Env": ["A=image", "PATH=/p", "B"]})
    assert got == {"PATH": "/p", "A": "pod", "B": "", "HOSTNAME": "p", "E": "x=y"}


@pytest.mark.parametrize(
    ("name", "number"),
    [("SIGTERM", 15), ("TERM", 15), ("9", 9), ("SIGRTMIN+3", signal.SIGRTMIN + 3),
     ("SIGRTMINPLUS3", signal.SIGRTMIN + 3), ("SIGRTMAXMINUS2", signal.SIGRTMAX - 2), ("nonsense", 15), ("99", 15)],
)  # fmt: skip
def test_signals_by_all_their_names(name, number):
    assert spec.signal_number(name) == number


@given(st.text(max_size=20))
def test_any_text_is_some_signal(name):
    assert 0 < spec.signal_number(name) < 65


def test_user_of_pod_replaces_that_of_the_image():
    def user(image="", **fields):
        context = pb.LinuxContainerSecurityContext(**fields)
        config = pb.ContainerConfig(linux=pb.LinuxContainerConfig(security_context=context))
        return spec.security(config, {"User": image}).username

    assert user("app:grp") == "app:grp"
    assert user("app:grp", run_as_user=pb.Int64Value(value=0)) == "0"
    assert user(run_as_user=pb.Int64Value(value=5), run_as_group=pb.Int64Value(value=6)) == "5:6"
    with pytest.raises(InvalidArgument, match="run_as_group"):
        user(run_as_group=pb.Int64Value(value=6))


def test_users_cannot_lead_out_of_the_image(tmp_path):
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "passwd").symlink_to("../../../../../../etc/passwd")
    assert users.rows(tmp_path, "etc/passwd", 7) == []
    (etc / "passwd").unlink()
    (etc / "real").write_text("me:x:5:6::/home/me:\nbad:x:y:z:::\n:::\n")
    (etc / "passwd").symlink_to("/etc/real")
    found = users.identity(tmp_path, SecurityContext(username="me"))
    assert (found.uid, found.gid, found.groups, found.home) == (5, 6, (6,), "/home/me")
    with pytest.raises(CannotStart, match="bad"):
        users.identity(tmp_path, SecurityContext(username="bad"))
    (etc / "passwd").unlink()
    os.mkfifo(etc / "passwd")
    assert users.identity(tmp_path, SecurityContext(username="7")).uid == 7


@given(st.binary(max_size=300))
def test_any_passwd_file_is_read(tmp_path_factory, text):
    root = tmp_path_factory.mktemp("root")
    (root / "etc").mkdir()
    (root / "etc/passwd").write_bytes(text)
    assert users.identity(root, SecurityContext(username="4000000")).uid == 4000000


def test_capabilities():
    available = capabilities.available()
    if not available >= capabilities.DEFAULT:
        pytest.skip("this process lacks capabilities of the default set")
    assert capabilities.granted(False, (), ()) == [
        f"CAP_{name}" for name in capabilities.NAMES if name in capabilities.DEFAULT
    ]
    assert capabilities.granted(False, ("CAP_NET_RAW",), ("ALL",)) == ["CAP_NET_RAW"]
    assert capabilities.granted(False, (), ("all",)) == []
    assert "CAP_KILL" not in capabilities.granted(False, ("ALL",), ("KILL",))
    assert len(capabilities.granted(True, (), ())) == len(available)


def test_seccomp_opens_with_capabilities():
    def allowed(*names):
        return set(seccomp.profile(names)["syscalls"][0]["names"])

    assert not {"mount", "bpf", "setns", "reboot", "open_by_handle_at"} & allowed()
    assert {"mount", "setns", "clone3"} <= allowed("CAP_SYS_ADMIN")
    assert len(seccomp.ALLOWED) == len(set(seccomp.ALLOWED))


def test_shares_become_weight():
    assert [cgroups.weight_of(value) for value in (2, 1024, 262144)] == [1, 39, 10000]


def container(**fields):
    config = pb.ContainerConfig(command=["x"], **fields)
    return spec.container_spec("c", SANDBOX, config, {}, Path("/c"))


def configuration(item, **place):
    sandbox = spec.sandbox_spec("s", SANDBOX, Path("/s"), Attachment("/net", ("10.0.0.1",)), None)
    where = {"network": "/net", "ipc": "/ipc", "uts": "/uts", "pid": "", "shm": "/shm", **place}
    return oci.configuration(
        sandbox, item, users.Identity(0, 0, (0,), "/root"), oci.Place(**where), Path("/r")
    )


def test_deeper_mounts_come_later_and_replace_the_pods_files():
    mounts = [
        pb.Mount(container_path="/a/b/c", host_path="/3"),
        pb.Mount(container_path="/a", host_path="/1", propagation=pb.PROPAGATION_HOST_TO_CONTAINER),
        pb.Mount(container_path="/etc/hosts/", host_path="/hosts", readonly=True),
    ]
    result = configuration(container(mounts=mounts), files={"/etc/hosts": Path("/ours")})
    targets = [item["destination"] for item in result["mounts"]]
    assert targets.index("/a") < targets.index("/a/b/c")
    assert "/ours" not in [item["source"] for item in result["mounts"]]
    assert result["linux"]["rootfsPropagation"] == "rslave"
    (hosts,) = [item for item in result["mounts"] if item["source"] == "/hosts"]
    assert hosts["options"] == ["rbind", "rprivate", "ro"]


def test_namespaces_and_limits():
    linux = pb.LinuxContainerConfig(
        resources=pb.LinuxContainerResources(
            memory_limit_in_bytes=5, cpu_quota=6, oom_score_adj=-900
        )
    )
    result = configuration(container(linux=linux), cgroup="/g", network=None, least_oom_score=-10)
    assert {item["type"]: item.get("path") for item in result["linux"]["namespaces"]} == {
        "mount": None, "ipc": "/ipc", "uts": "/uts", "pid": None,
    }  # fmt: skip
    assert result["linux"]["resources"]["memory"] == {"limit": 5}
    assert result["process"]["oomScoreAdj"] == -10


def test_what_is_refused():
    with pytest.raises(InvalidArgument, match="absolute"):
        spec.mount(pb.Mount(container_path="relative", host_path="/x"))
    with pytest.raises(InvalidArgument, match="image volume must be readonly"):
        spec.image_mount(pb.Mount(container_path="/x", image=pb.ImageSpec(image="y")), Path("/y"))
    for wrong in ({}, {"readonly": True, "propagation": pb.PROPAGATION_BIDIRECTIONAL}):
        with pytest.raises(InvalidArgument, match="recursive_read_only"):
            spec.mount(pb.Mount(container_path="/x", recursive_read_only=True, **wrong))
    with pytest.raises(CannotStart, match="seccomp"):
        oci.seccomp_profile("localhost//no/such/profile.json", False, [])
    with pytest.raises(InvalidArgument, match="more than one"):
        inventory.find({"aab": 1, "aac": 2}, "aa", "container")
    assert oci.volume(Mount(Path("/x"), "/y", propagation="rshared"))["options"][1] == "rshared"


def test_records_survive(tmp_path):
    directory = tmp_path / "c" / "id"
    directory.mkdir(parents=True)
    (tmp_path / "c" / "half").mkdir()
    entry = ContainerEntry(
        "id", "s", directory, pb.ContainerConfig(tty=True), "i", "r", {"Cmd": ["x"]}, 5
    )
    entry.exit = Exit(3, 7, "Error", "m")
    entry.save()
    (read,), broken = load_all(tmp_path / "c", ContainerEntry.load)
    assert (read.exit, read.config.tty, read.image_config) == (entry.exit, True, {"Cmd": ["x"]})
    assert broken == [tmp_path / "c" / "half"]
    before = (directory / "container.json").stat()
    entry.started_at = time.time_ns()
    entry.save_start()
    (read,), _ = load_all(tmp_path / "c", ContainerEntry.load)
    assert (read.started_at, read.exit, read.created_at) == (entry.started_at, entry.exit, 5)
    after = (directory / "container.json").stat()
    assert (before.st_ino, before.st_size) == (after.st_ino, after.st_size)
    (directory / "container.json").write_text('{"id": ')
    assert load_all(tmp_path / "c", ContainerEntry.load) == (
        [],
        [tmp_path / "c" / "half", directory],
    )
    pod = SandboxEntry(
        "p", tmp_path, SANDBOX, "", "wasm", 1, Attachment("/n", ("1.2.3.4",), "eth0")
    )
    pod.save()
    assert SandboxEntry.load(tmp_path).network == pod.network


@pytest.mark.parametrize(("program", "code"), [(elf.leave(42), 42), (elf.leave(0), 0)])
def test_our_own_program_runs(tmp_path, program, code):
    path = tmp_path / "program"
    path.write_bytes(program)
    path.chmod(0o755)
    assert subprocess.run([path], check=False, timeout=10).returncode == code


def test_pause_waits_for_ever(tmp_path):
    path = tmp_path / "pause"
    path.write_bytes(elf.pause())
    path.chmod(0o755)
    process = subprocess.Popen([path])
    status = Path(f"/proc/{process.pid}/status")
    while (
        "pause" not in status.read_text().splitlines()[0] or "(sleeping)" not in status.read_text()
    ):
        assert process.poll() is None
    ignored = next(line for line in status.read_text().splitlines() if line.startswith("SigIgn"))
    assert int(ignored.split()[1], 16) >> (signal.SIGCHLD - 1) & 1
    process.kill()
    assert process.wait(timeout=10) == -signal.SIGKILL
