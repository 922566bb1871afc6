"""What a worker may still do once it is locked in: seen from outside in /proc, tried from inside by its guest."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from wasm_lab import Lab, artifact, logged

from sampan.image import UnpackedImage
from sampan.linux import cgroups
from sampan.network.pods import Attachment
from sampan.runtime.sandbox import Mount, Resources, SecurityContext
from sampan.runtime.wasm import seccomp
from sampan.runtime.wasm.cgroups import Cgroup, remove_parent

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces, uids, cgroups")

UNIFIED = next(
    (
        Path(fields[1])
        for fields in map(str.split, Path("/proc/mounts").read_text().splitlines())
        if fields[2] == "cgroup2"
    ),
    None,
)


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def test_a_worker_is_locked_in(lab: Lab, cli: Path) -> None:
    _, process = await lab.run(artifact(cli), "cli.wasm", "sleep", "1000")
    await logged(process, "sleeping")
    seen = status(process.pid)
    assert seen["NoNewPrivs"] == "1"
    assert seen["Seccomp"] == "2"
    assert int(seen["CapEff"], 16) == 0
    assert int(seen["CapPrm"], 16) == 0
    assert os.getsid(process.pid) == process.pid, "signals of our session do not reach it"


def mounts_of(pid: int) -> list[list[str]]:
    """proc(5), mountinfo: root in the file system [3], mount point [4], options [5]."""
    return [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]


@ROOT
@pytest.mark.root
async def test_each_pod_is_its_own_user_in_its_own_tree(
    lab: Lab, cli: Path, tmp_path: Path
) -> None:
    uids = []
    for _ in range(2):
        _, process = await lab.run(artifact(cli), "cli.wasm", "sleep", "1000")
        seen = status(process.pid)
        [uid] = set(seen["Uid"].split())
        assert set(seen["Gid"].split()) == {uid}
        assert seen["Groups"] == ""
        assert int(seen["CapBnd"], 16) == 0
        uids.append(int(uid))
        assert os.readlink(f"/proc/{process.pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt")
        assert os.listdir(f"/proc/{process.pid}/root") == []
        [mount] = mounts_of(process.pid)
        assert mount[5].startswith("ro,"), (
            "one empty file system, and nothing of the host's below it"
        )
    assert uids[0] != uids[1]
    assert min(uids) >= 200_000
    sandbox = await lab.pod()
    security = SecurityContext(user=1234, group=2345, groups=(3456,))
    container = lab.container("cli.wasm", "sleep", "1000", security=security)
    seen = status((await sandbox.start(container, artifact(cli))).pid)
    assert (seen["Uid"].split()[0], seen["Gid"].split()[0], seen["Groups"]) == (
        "1234",
        "2345",
        "3456",
    )


@ROOT
@pytest.mark.root
async def test_a_pod_without_an_image_of_files_holds_its_volumes_alone(
    lab: Lab, cli: Path, tmp_path: Path
) -> None:
    hosts, data = tmp_path / "hosts", tmp_path / "data"
    hosts.write_text("127.0.0.1 localhost\n")
    hosts.chmod(0o644)
    data.mkdir(mode=0o777)
    data.chmod(0o777)
    mounts = (Mount(data, "/var/data"), Mount(hosts, "/etc/hosts", readonly=True))
    sandbox = await lab.pod()

    async def run(*args: str) -> tuple[int, str]:
        container = lab.container("cli.wasm", *args, mounts=mounts)
        process = await sandbox.start(container, artifact(cli))
        if args[0] == "sleep":
            await logged(process, "sleeping")
            found = {entry[4]: entry[5].split(",")[0] for entry in mounts_of(process.pid)}
            assert found == {"/": "ro", "/var/data": "rw", "/etc/hosts": "ro"}
            await process.kill()
        code = (await process.wait()).code
        assert container.log_path is not None
        return code, container.log_path.read_text()

    await run("sleep", "1000")
    assert "localhost" in (await run("read", "/etc/hosts"))[1]
    assert (await run("write", "/etc/hosts"))[0] == 1
    assert (await run("write", "/new"))[0] == 1
    assert (await run("write", "/var/data/new"))[0] == 0
    assert (data / "new").read_text() == "written by the guest\n"


@ROOT
@pytest.mark.root
async def test_file_mounts_and_layers_make_one_tree(lab: Lab, cli: Path, tmp_path: Path) -> None:
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    for layer, text in ((lower, "lower"), (upper, "upper")):
        (layer / "etc").mkdir(parents=True)
        (layer / "etc" / "both").write_text(text + "\n")
        layer.chmod(0o755)
    (lower / "app.wasm").write_bytes(cli.read_bytes())
    outside = tmp_path / "outside"
    outside.mkdir()
    (upper / "trap").symlink_to(outside)
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n")
    hosts.chmod(0o644)
    image = UnpackedImage("sha256:x", "app:1", "wasip1", "wasm", (lower, upper), (), {})
    mounts = (Mount(hosts, "/etc/hosts"), Mount(hosts, "/trap/hosts"))

    async def read(path: str) -> str:
        sandbox = await lab.pod()
        container = lab.container("/app.wasm", "read", path, mounts=mounts)
        process = await sandbox.start(container, image)
        await process.wait()
        assert container.log_path is not None
        return container.log_path.read_text()

    assert "upper" in await read("/etc/both")
    assert "localhost" in await read("/etc/hosts")
    assert list(outside.iterdir()) == [], "a link in the image led a mount point out to the host"


@ROOT
@pytest.mark.root
async def test_cgroup_is_made_limited_counted_and_removed(lab: Lab, cli: Path) -> None:
    parent = f"/sampan-test-{os.getpid()}/pod"
    sandbox = await lab.pod(cgroup_parent=parent)
    container = lab.container(
        "cli.wasm", "spin", resources=Resources(memory=64 << 20, cpu_shares=128)
    )
    process = await sandbox.start(container, artifact(cli))
    await logged(process, "spinning")
    directories = list(process.cgroup.directories.values())
    if not directories:
        pytest.skip("no writable cgroup hierarchy on this machine")
    for directory in directories:
        assert str(process.pid) in (directory / "cgroup.procs").read_text().split()
    stats = (await sandbox.stats()).containers[container.id]
    assert 0 < stats.memory_bytes < 64 << 20
    await sandbox.update(container.id, Resources(memory=96 << 20))
    limits = [d / n for d in directories for n in ("memory.max", "memory.limit_in_bytes")]
    assert [int(path.read_text()) for path in limits if path.exists()] == [96 << 20]
    await sandbox.stop(5)
    assert not any(directory.exists() or directory.parent.exists() for directory in directories)
    for directory in directories:
        directory.parent.parent.rmdir()


@ROOT
@pytest.mark.root
@pytest.mark.skipif(UNIFIED is None, reason="no cgroup v2 hierarchy is mounted")
async def test_in_v2_a_worker_is_born_in_its_cgroup(
    lab: Lab, cli: Path, web: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert UNIFIED is not None
    layout = cgroups.Layout(True, {"": UNIFIED})
    monkeypatch.setattr(cgroups, "layout", lambda: layout)
    parent = f"/sampan-v2-{os.getpid()}/pod"
    sandbox = await lab.pod(cgroup_parent=parent)
    process = await sandbox.start(lab.container("cli.wasm", "sleep", "1000"), artifact(cli))
    await logged(process, "sleeping")
    [directory] = process.cgroup.directories.values()
    assert directory.is_relative_to(UNIFIED)
    assert process.cgroup.processes() == {process.pid}
    assert "clone3" not in lab.zygote_log.read_text(), "it did not have to join by itself"
    trap = await sandbox.start(lab.container("cli.wasm", "trap"), artifact(cli))
    assert (await trap.wait()).code == 134
    served = artifact(web, labels={"sampan.dev/http": "wagi"})
    await sandbox.start(lab.container("web.wasm"), served)
    reader, writer = await sandbox.port(8080)
    for _ in range(3):
        writer.write(b"GET /sleep?40 HTTP/1.1\r\nHost: h\r\n\r\n")
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    async with asyncio.timeout(10):
        assert (await reader.read()).count(b"HTTP/1.1 200 OK") == 4
    writer.close()
    await sandbox.stop(5)
    assert not directory.parent.exists()
    directory.parent.parent.rmdir()


@ROOT
@pytest.mark.root
async def test_a_worker_over_its_pods_memory_is_oom_killed(lab: Lab, cli: Path) -> None:
    """A container's own limit bounds its guest's linear memory; the kernel acts at the pod's."""
    base = f"/sampan-oom-{os.getpid()}"
    pod = Cgroup(base, "pod")
    pod.create(Resources(memory=16 << 20))
    limits = ("memory.max", "memory.limit_in_bytes")
    if not any((path / name).exists() for path in pod.directories.values() for name in limits):
        pytest.skip("no writable memory cgroup on this machine")
    sandbox = await lab.pod(cgroup_parent=f"{base}/pod")
    process = await sandbox.start(lab.container("cli.wasm", "fill"), artifact(cli))
    async with asyncio.timeout(20):
        ended = await process.wait()
    assert (ended.code, ended.reason) == (137, "OOMKilled")
    assert "memory limit" in ended.message
    await sandbox.stop(0)
    remove_parent(base)


@pytest.fixture
def namespace(tmp_path: Path) -> Iterator[Path]:
    """A network namespace with its loopback up, held by a process."""
    code = "import time, sys; print('up', flush=True); time.sleep(600)"
    script = f'ip link set lo up && exec {sys.executable} -c "{code}"'
    holder = subprocess.Popen(["unshare", "-n", "sh", "-c", script], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"up\n"
    yield Path(f"/proc/{holder.pid}/ns/net")
    holder.kill()
    holder.wait()


@ROOT
@pytest.mark.root
async def test_a_service_listens_in_its_own_network(lab: Lab, web: Path, namespace: Path) -> None:
    attachment = Attachment(str(namespace), ("10.1.2.3",))
    sandbox = await lab.pod(network=attachment)
    image = artifact(web, labels={"sampan.dev/http": "wagi"})
    process = await sandbox.start(lab.container("web.wasm"), image)
    assert os.readlink(f"/proc/{process.pid}/ns/net") == os.readlink(namespace)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", 8080)
    reader, writer = await sandbox.port(8080)
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    async with asyncio.timeout(10):
        assert (await reader.read()).endswith(b"hello\n")
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await sandbox.port(8081)
    assert os.readlink("/proc/self/ns/net") != os.readlink(namespace)


FILTERED = """
    import ctypes, os, socket, sys
    sys.path.insert(0, {root!r})
    from sampan.runtime.wasm import linux, seccomp
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    seccomp.install(seccomp.filters()[{files}, {network}])
    def attempt():
        {code}
    try:
        attempt()
    except OSError as error:
        os._exit(error.errno)
    os._exit(0)
"""


def filtered(code: str, *, files: bool = False, network: bool = False) -> int:
    """Exit status of a process that runs `code` under the filter; negative for a signal."""
    root = str(Path(seccomp.__file__).parents[3])
    source = textwrap.dedent(FILTERED).format(root=root, code=code, files=files, network=network)
    return subprocess.run([sys.executable, "-S", "-c", source], timeout=30, check=False).returncode


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("os.execv('/bin/true', ['true'])", -31),
        ("os.fork()", 1),
        ("os.setuid(0)", -31),
        ("linux.mount('a', '/', 'tmpfs', 0)", -31),
        ("linux.unshare(linux.CLONE_NEWNS)", -31),
        ("socket.socket(socket.AF_INET, socket.SOCK_STREAM)", 1),
        ("os.open('/etc/passwd', os.O_RDONLY)", 1),
        ("os.kill(os.getppid(), 0)", 1),
        ("ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0)", -31),
        ("ctypes.CDLL(None).process_vm_readv(os.getppid(), 0, 0, 0, 0, 0)", -31),
        ("__import__('mmap').mmap(-1, 4096, prot=7)", 1),
        ("os.write(2, b'')", 0),
    ],
)
def test_the_filter_refuses(code: str, outcome: int) -> None:

    assert filtered(code, files="mmap" in code) == outcome


def test_the_filter_opens_what_is_asked_for() -> None:
    assert filtered("os.open('/etc/passwd', os.O_RDONLY)", files=True) == 0
    assert filtered("socket.socket(socket.AF_INET, socket.SOCK_STREAM)", network=True) == 0
    assert filtered("socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)", network=True) == 1
    assert filtered("socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)", network=True) == 1
