"""What a kubelet chooses by and measures with: handlers and their features, OCI runtimes by name, metrics, host ports."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from runtime_fixture import Runtime

from sampan.cri.errors import CRIError, FailedPrecondition
from sampan.network import nftables
from sampan.runtime import hostports
from sampan.runtime.hostports import HostPorts
from sampan.runtime.sandbox import PortMapping


@pytest.fixture
async def named(images):
    """A runtime with two more handlers: one that is installed, and one that is not."""
    if shutil.which("runc") is None:
        pytest.skip("needs runc")
    with tempfile.TemporaryDirectory(prefix="sampan-runtime-") as directory:
        engines = {"plain": "runc", "absent": "/no/such/runtime", "kata": "kata-runtime"}
        runtime = Runtime(Path(directory), images, engines=engines)
        async with runtime.running():
            yield runtime


@pytest.mark.root
async def test_an_oci_runtime_by_its_name(named):
    answer = await named.client.status(verbose=True)
    handlers = {item.name for item in answer.runtime_handlers}
    assert {"", "container", "plain"} <= handlers
    assert "absent" not in handlers
    kinds = json.loads(answer.info["config"])["kinds"]
    assert kinds["absent"]["why"] == "the OCI runtime /no/such/runtime is not installed"
    assert kinds["absent"]["install"].startswith(
        "the program runtime, anywhere in /usr/local/sbin:"
    )
    assert "no OCI command line since 2.0" in kinds["kata"]["install"]
    pod = await named.pod("plain")
    container = await named.container(pod, "sleep", "1000")
    assert (await named.exec(container, "echo", "there")).stdout == b"there\n"
    state = named.base / "run" / "plain" / "runc"
    assert (state / container).is_dir()
    (item,) = (await named.client.list_pod_sandbox()).items
    assert item.runtime_handler == "plain"
    # A runtime that starts again finds it under the same engine.
    await named.stop()
    await named.start()
    assert (await named.exec(container, "echo", "still")).stdout == b"still\n"
    with pytest.raises(CRIError, match="not installed"):
        await named.pod("absent")
    with pytest.raises(CRIError, match='"other"'):
        await named.pod("other")


@pytest.mark.root
@pytest.mark.skipif(shutil.which("runsc") is None, reason="needs runsc")
async def test_a_runtime_that_is_a_kernel_of_its_own(images):
    """gVisor, called with options of the user's. Its network stack asks more of the host than every kernel gives."""
    with tempfile.TemporaryDirectory(prefix="sampan-runtime-") as directory:
        engines = {"gvisor": "runsc --network=none --ignore-cgroups"}
        runtime = Runtime(Path(directory), images, engines=engines)
        await runtime.start()
        try:
            pod = await runtime.pod("gvisor")
            ended = await runtime.container(pod, "sh", "-c", "busybox dmesg; exit 7")
            status = await runtime.ended(ended)
            assert (status.exit_code, status.reason) == (7, "Error")
            assert "Starting gVisor" in await runtime.log(ended)
            living = await runtime.container(pod, "sleep", "1000")
            said = await runtime.exec(living, "sh", "-c", "cat /proc/version; exit 3")
            assert said.stdout.startswith(b"Linux version 4.4.0 ") and said.exit_code == 3
            await runtime.client.stop_container(container_id=living, timeout=0)
            assert (await runtime.status(living)).exit_code == 137
        finally:
            await runtime.clean()
            await runtime.stop()
            await runtime.client.close()
        assert directory not in Path("/proc/mounts").read_text()


@pytest.mark.root
@pytest.mark.skipif(shutil.which("runc") is None, reason="needs runc")
async def test_an_oci_runtime_is_a_handler_without_being_configured(runtime):
    """Manifests that were written for containerd or CRI-O name runc or crun."""
    pod = await runtime.pod("runc")
    # As a kubelet asks, whether or not the machine counts huge pages.
    none = [{"page_size": size, "limit": 0} for size in ("2MB", "1GB")]
    limits = {"resources": {"hugepage_limits": none, "cpu_shares": 2}}
    container = await runtime.container(pod, "sleep", "1000", linux=limits)
    assert (runtime.base / "run" / "runc" / "runc" / container).is_dir()
    told = {item.name for item in (await runtime.client.status()).runtime_handlers}
    assert "runc" in told, "who looks up a pod's handler finds it"
    await runtime.stop()
    await runtime.start()
    assert (await runtime.exec(container, "echo", "still")).stdout == b"still\n"
    with pytest.raises(CRIError, match='no runtime for "gvisor" is configured'):
        await runtime.pod("gvisor")


@pytest.mark.root
async def test_metrics_are_what_their_descriptors_say(runtime):
    pod = await runtime.pod()
    container = await runtime.container(
        pod, "sleep", "1000", linux={"resources": {"memory_limit_in_bytes": 64 << 20}}
    )
    await runtime.exec(container, "dd", "if=/dev/zero", "of=/tmp/x", "bs=1M", "count=2")
    descriptors = (await runtime.client.list_metric_descriptors()).descriptors
    keys = {item.name: list(item.label_keys) for item in descriptors}
    assert len(keys) == len(descriptors)
    (found,) = (await runtime.client.list_pod_sandbox_metrics()).pod_metrics
    assert found.pod_sandbox_id == pod
    (own,) = found.container_metrics
    for metric in (*found.metrics, *own.metrics):
        assert len(metric.label_values) == len(keys[metric.name])
        labels = dict(zip(keys[metric.name], metric.label_values, strict=True))
        assert labels["namespace"] == "default"
    values = {metric.name: metric.value.value for metric in own.metrics}
    assert values["container_spec_memory_limit_bytes"] == 64 << 20
    assert values["container_fs_usage_bytes"] >= 2 << 20
    assert values["container_processes"] == values["container_threads"] == 1
    assert values["container_memory_max_usage_bytes"] >= values["container_memory_rss"] > 0
    streamed = [item async for item in runtime.client.stream_pod_sandbox_metrics()]
    assert [item.pod_sandbox_metrics[0].pod_sandbox_id for item in streamed] == [pod]


WEB = PortMapping(80, 8080)


def test_host_ports_as_a_table():
    made = hostports.table(
        "inet t", [("10.0.0.2", (WEB, PortMapping(53, 5353, "UDP", "192.0.2.1"))), ("10.0.0.3", ())]
    )
    assert made.maps["anywhere"].elements == {"tcp . 8080": "10.0.0.2 . 80"}
    assert made.maps["bound"].elements == {"192.0.2.1 . udp . 5353": "10.0.0.2 . 53"}
    assert made.maps["own"].elements == {"10.0.0.2 . 10.0.0.2": ""}


async def test_a_host_port_belongs_to_one_pod(tmp_path, monkeypatch):
    scripts: list[str] = []
    monkeypatch.setattr(nftables, "run", scripts.append)
    ports = HostPorts("t", tmp_path / "marker")
    await ports.add("none", "10.0.0.9", (PortMapping(80),))
    assert scripts == []
    await ports.add("a", "10.0.0.2", (WEB,))
    with pytest.raises(FailedPrecondition, match="8080/TCP"):
        await ports.add("b", "10.0.0.3", (PortMapping(81, 8080, "TCP", "192.0.2.1"),))
    await ports.add("b", "10.0.0.3", (PortMapping(53, 8080, "UDP"),))
    again = HostPorts("t", tmp_path / "marker")
    await again.restore([("a", "10.0.0.2", (WEB,))])
    assert "delete table inet t-hostports" in scripts[-1]  # whatever the former one left
    await again.remove("a")
    await again.remove("a")
    assert scripts[-1].endswith("delete table inet t-hostports\n")
    assert not (tmp_path / "marker").exists()


@pytest.mark.root
@pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables")
def test_the_kernel_takes_the_table():
    made = hostports.table("inet t", [("10.0.0.2", (WEB, PortMapping(53, 53, "UDP", "192.0.2.1")))])
    done = subprocess.run(
        ["unshare", "-n", "nft", "-f", "-"],
        input=nftables.transition(None, made).encode(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
