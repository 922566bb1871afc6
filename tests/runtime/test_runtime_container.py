"""The kind `container`, over CRI, with a real engine and conmon."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from runtime_kinds import either

from sampan.cri import api_pb2 as pb
from sampan.cri import errors
from sampan.runtime import kernel
from sampan.runtime.container import rootfs

pytestmark = pytest.mark.root


@either
async def test_runs_logs_and_ends_with_its_exit_code(runtime):
    pod = await runtime.pod()
    container = await runtime.container(pod, "sh", "-c", "echo out; echo err >&2; exit 7")
    status = await runtime.ended(container)
    assert (status.exit_code, status.reason) == (7, "Error")
    assert status.state == pb.CONTAINER_EXITED
    assert status.started_at <= status.finished_at
    lines = Path(status.log_path).read_text().splitlines()
    assert sorted(line.split(" ", 1)[1] for line in lines) == ["stderr F err", "stdout F out"]


@either
async def test_stop_sends_the_signal_then_kills(runtime):
    pod = await runtime.pod()
    polite = await runtime.container(
        pod, "sh", "-c", "trap 'exit 3' TERM; echo up; while :; do sleep 0.1; done"
    )
    deaf = await runtime.container(
        pod, "sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done"
    )
    for container in (polite, deaf):
        while "up" not in await runtime.log(container):
            await asyncio.sleep(0)
    await runtime.client.stop_container(container_id=polite, timeout=20)
    assert (await runtime.status(polite)).exit_code == 3
    await runtime.client.stop_container(container_id=deaf, timeout=1)
    assert (await runtime.status(deaf)).exit_code == 137
    await runtime.client.stop_container(container_id=deaf, timeout=1)
    await runtime.client.remove_container(container_id=deaf)
    await runtime.client.remove_container(container_id=deaf)
    await runtime.client.stop_container(container_id=deaf, timeout=1)


@either
async def test_exec(runtime):
    pod = await runtime.pod(hostname="boat")
    container = await runtime.container(pod, "sleep", "1000")
    answer = await runtime.exec(container, "sh", "-c", "hostname; echo err >&2; exit 5")
    assert (answer.stdout, answer.stderr, answer.exit_code) == (b"boat\n", b"err\n", 5)
    big = await runtime.exec(container, "sh", "-c", "head -c 300000 /dev/zero")
    assert len(big.stdout) == 300000
    with pytest.raises(errors.DeadlineExceeded):
        await runtime.exec(container, "sleep", "77", timeout=1)
    ps = await runtime.exec(container, "ps")
    assert b"sleep 77" not in ps.stdout


# As a kubelet asks for it; without a profile nothing is filtered.
RUNTIME_DEFAULT = {"security_context": {"seccomp": {"profile_type": "RuntimeDefault"}}}


@either
async def test_isolation(runtime):
    pod = await runtime.pod()
    container = await runtime.container(pod, "sleep", "1000", linux=RUNTIME_DEFAULT)
    answer = await runtime.exec(
        container,
        "sh",
        "-c",
        "grep -E 'Cap(Eff|Bnd)|Seccomp:' /proc/self/status; ps | wc -l; mount -t tmpfs x /tmp; "
        "echo 1 >/proc/sys/kernel/panic; mknod /tmp/disk b 254 0 && head -c1 /tmp/disk; cat /proc/kcore",
    )
    fields = dict(line.split(b":", 1) for line in answer.stdout.splitlines() if b":" in line)
    assert int(fields[b"CapEff"], 16) & ~0xA80425FB == 0
    assert fields[b"Seccomp"].strip() == b"2"
    assert answer.stderr.count(b"ermi") + answer.stderr.count(b"ead-only") >= 3
    assert b"kcore" not in answer.stdout


@either
async def test_user_is_looked_up_in_the_image(runtime):
    pod = await runtime.pod()
    for context, wanted in (
        ({"run_as_username": "sailor"}, b"uid=1234(sailor) gid=1235(sailor) groups=77(crew),1235(sailor)"),
        ({"run_as_user": {"value": 4321}}, b"uid=4321 gid=0(root) groups=0(root)"),
        ({"run_as_user": {"value": 1}, "run_as_group": {"value": 2}, "supplemental_groups": [9]}, b"uid=1 gid=2 groups=2,9"),
        (
            {"run_as_username": "sailor", "supplemental_groups": [9], "supplemental_groups_policy": pb.Strict},
            b"uid=1234(sailor) gid=1235(sailor) groups=9,1235(sailor)",
        ),
    ):  # fmt: skip
        container = await runtime.container(
            pod, "sleep", "1000", linux={"security_context": context}
        )
        answer = await runtime.exec(container, "id")
        got = dict(item.split(b"=") for item in answer.stdout.split())
        for item in wanted.split():
            name, value = item.split(b"=")
            assert sorted(got[name].split(b",")) == sorted(value.split(b","))
    unknown = await runtime.container(
        pod, "id", start=False, linux={"security_context": {"run_as_username": "pirate"}}
    )
    with pytest.raises(errors.CRIError, match="pirate"):
        await runtime.client.start_container(container_id=unknown)


@either
async def test_a_working_directory_that_only_root_may_enter(runtime, tmp_path):
    """As runc and crun have it: it is entered before the user is taken on."""
    (tmp_path / "vault").mkdir(mode=0o700)
    container = await runtime.container(
        await runtime.pod(), "sh", "-c", "busybox pwd; ls . 2>&1; exit 3",
        working_dir="/vault", mounts=[{"host_path": str(tmp_path / "vault"), "container_path": "/vault"}],
        linux={"security_context": {"run_as_user": {"value": 1000}}},
    )  # fmt: skip
    assert (await runtime.ended(container)).exit_code == 3
    assert (await runtime.log(container)).startswith("/vault\n")
    assert "ermission denied" in await runtime.log(container)


@either
async def test_a_signal_that_comes_before_its_handler_is_not_lost(runtime):
    """Process 1 that has just been executed has no handler yet, and the kernel would drop it."""
    pod = await runtime.pod()
    # Longer than any program that was given a processor at once; where processors are emulated, a few.
    turns = 100_000 if runtime.handler == "container" else 100
    command = (
        "sh",
        "-c",
        f"i=0; while [ $i -lt {turns} ]; do i=$((i+1)); done; trap 'exit 7' TERM; while :; do :; done",
    )
    container = await runtime.container(pod, *command)
    async with asyncio.timeout(20):
        await runtime.client.stop_container(container_id=container, timeout=30)
    assert (await runtime.status(container)).exit_code == 7


@either
async def test_what_cannot_start_says_why(runtime):
    pod = await runtime.pod()
    container = await runtime.container(pod, "/no/such/program", start=False)
    with pytest.raises(errors.CRIError, match="no/such/program"):
        await runtime.client.start_container(container_id=container)
    status = await runtime.status(container)
    assert status.state == pb.CONTAINER_EXITED
    assert (status.exit_code, status.reason) == (128, "ContainerCannotRun")
    assert "no/such/program" in status.message
    with pytest.raises(errors.NotFound):
        await runtime.container(pod, "true", image={"image": "no-such-image"})


@either
async def test_mounts(runtime, tmp_path):
    (tmp_path / "file").write_text("cargo")
    pod = await runtime.pod()
    mounts = [
        {"host_path": str(tmp_path), "container_path": "/data"},
        {
            "host_path": str(tmp_path / "file"),
            "container_path": "/deep/down/file",
            "readonly": True,
        },
    ]
    container = await runtime.container(pod, "sleep", "1000", mounts=mounts)
    answer = await runtime.exec(
        container, "sh", "-c", "cat /deep/down/file; echo more >/data/new; echo x >/deep/down/file"
    )
    assert answer.stdout == b"cargo"
    assert b"Read-only" in answer.stderr
    assert (tmp_path / "new").read_text() == "more\n"


@either
async def test_containers_of_a_pod_share_what_a_pod_shares(runtime):
    pod = await runtime.pod(
        hostname="shared",
        dns_config={"servers": ["10.43.0.10"], "searches": ["a.b"], "options": ["ndots:5"]},
    )
    one = await runtime.container(pod, "sleep", "1000")
    two = await runtime.container(pod, "sleep", "1001")
    await runtime.exec(one, "touch", "/dev/shm/here")
    answer = await runtime.exec(two, "sh", "-c", "ls /dev/shm; cat /etc/resolv.conf /etc/hostname")
    assert answer.stdout == (b"here\nsearch a.b\nnameserver 10.43.0.10\noptions ndots:5\nshared\n")
    assert (await runtime.exec(two, "ps")).stdout.count(b"sleep") == 1
    for name in ("ipc", "uts"):
        links = {
            (await runtime.exec(container, "ls", "-l", f"/proc/1/ns/{name}")).stdout.split()[-1]
            for container in (one, two)
        }
        assert len(links) == 1
        if (
            runtime.handler == "container"
        ):  # a guest's first namespaces have the numbers of the host's
            assert links != {os.readlink(f"/proc/self/ns/{name}").encode()}


@either
async def test_shared_process_namespace(runtime):
    linux = {"security_context": {"namespace_options": {"pid": pb.POD}}}
    pod = await runtime.pod(linux=linux)
    one = await runtime.container(pod, "sleep", "1000", linux=linux)
    two = await runtime.container(pod, "sleep", "1001", linux=linux)
    answer = await runtime.exec(one, "ps")
    assert b"sleep 1001" in answer.stdout
    assert b"pause" in answer.stdout
    await runtime.client.stop_container(container_id=two, timeout=0)
    assert b"sleep 1001" not in (await runtime.exec(one, "ps")).stdout


@either
async def test_out_of_memory(runtime):
    pod = await runtime.pod()
    container = await runtime.container(
        pod,
        "sh",
        "-c",
        "exec dd if=/dev/zero of=/dev/null bs=200M count=1",
        linux={"resources": {"memory_limit_in_bytes": 32 << 20}},
    )
    status = await runtime.ended(container)
    assert (status.exit_code, status.reason) == (137, "OOMKilled")


@either
async def test_stats_and_update(runtime):
    pod = await runtime.pod()
    container = await runtime.container(
        pod,
        "sleep",
        "1000",
        linux={"resources": {"memory_limit_in_bytes": 64 << 20, "cpu_shares": 100}},
    )
    stats = (await runtime.client.container_stats(container_id=container)).stats
    assert 0 < stats.memory.usage_bytes.value < 64 << 20
    assert stats.cpu.usage_core_nano_seconds.value > 0
    # A kubelet names the huge pages that it knows, too: with 0, on every machine.
    none = [{"page_size": size, "limit": 0} for size in ("2MB", "1GB")]
    await runtime.client.update_container_resources(
        container_id=container,
        linux={"memory_limit_in_bytes": 128 << 20, "hugepage_limits": none},
    )
    status = await runtime.status(container)
    assert status.resources.linux.memory_limit_in_bytes == 128 << 20
    assert status.resources.linux.cpu_shares == 100
    pods = (await runtime.client.list_pod_sandbox_stats()).stats
    assert pods[0].linux.containers[0].attributes.id == container
    if runtime.handler == "container":
        with pytest.raises(errors.Unimplemented, match="checkpoints are of running microVMs"):
            await runtime.client.checkpoint_container(container_id=container, location="/nowhere")


@either
async def test_log_rotation(runtime):
    pod = await runtime.pod()
    container = await runtime.container(
        pod, "sh", "-c", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done"
    )
    path = Path((await runtime.status(container)).log_path)
    old = path.with_suffix(".old")
    while path.stat().st_size == 0:
        await asyncio.sleep(0)
    path.rename(old)
    await runtime.client.reopen_container_log(container_id=container)
    while path.stat().st_size == 0:
        await asyncio.sleep(0)
    last = int(old.read_text().split()[-1])
    first = int(path.read_text().split()[3])
    assert first == last + 1


@either
async def test_nothing_is_left(runtime):
    pod = await runtime.pod()
    await runtime.container(pod, "sleep", "1000")
    await runtime.client.stop_pod_sandbox(pod_sandbox_id=pod)
    await runtime.client.stop_pod_sandbox(pod_sandbox_id=pod)
    (item,) = (await runtime.client.list_pod_sandbox()).items
    assert item.state == pb.SANDBOX_NOTREADY
    await runtime.client.remove_pod_sandbox(pod_sandbox_id=pod)
    await runtime.client.remove_pod_sandbox(pod_sandbox_id=pod)
    assert list((runtime.base / "state" / "containers").iterdir()) == []
    assert list((runtime.base / "state" / "sandboxes").iterdir()) == []
    assert await runtime.config.network.existing() == {}
    groups = list(Path("/sys/fs/cgroup").glob(f"*/{runtime.config.instance}*"))
    assert groups == []


async def test_an_image_of_many_layers(tmp_path):
    """More options than mount(2) takes, however they are cut: as many layers as Docker allows, far apart."""
    base = tmp_path / ("layers-" + "x" * 80)
    layers = []
    for number in range(127):
        layer = base / f"{number:064d}"
        layer.mkdir(parents=True)
        (layer / f"file{number}").write_text(str(number))
        (layer / "top").write_text(str(number))
        layers.append(layer)
    container = tmp_path / "container"
    container.mkdir()
    root = await kernel.in_thread(lambda: rootfs.mount(container, tuple(layers)))
    try:
        assert (root / "top").read_text() == "126"
        assert len(list(root.iterdir())) == 128
        (root / "new").write_text("x" * 5000)
        assert (container / "upper" / "new").exists()
        assert rootfs.written(container) >= 5000
    finally:
        rootfs.discard(container)
    assert not container.exists()
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
