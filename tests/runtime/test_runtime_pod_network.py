"""Containers in a pod's own network namespace: sharing, port-forward, sysctls, privileges."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path

import pytest
from private_network import PrivateNetwork
from runtime_fixture import Runtime
from spdy_client import dial

from sampan.cri import api_pb2 as pb
from sampan.cri import errors

pytestmark = pytest.mark.root
NODE = {"security_context": {"namespace_options": {"network": pb.NODE, "pid": pb.CONTAINER}}}


@pytest.fixture
async def isolated(images):
    with tempfile.TemporaryDirectory(prefix="sampan-isolated-") as directory:
        runtime = Runtime(Path(directory), images)
        runtime.config.network = PrivateNetwork(Path(directory, "netns"))
        async with runtime.running():
            yield runtime


async def test_containers_share_the_pods_network_and_port_forward_reaches_it(isolated):
    pod = await isolated.pod()
    server = await isolated.container(
        pod, "sh", "-c", "echo up; while :; do nc -l -p 8080 -e cat; done"
    )
    other = await isolated.container(pod, "sleep", "1000")
    own = (await isolated.exec(other, "ls", "-l", "/proc/1/ns/net")).stdout.split()[-1]
    assert own.decode() != os.readlink("/proc/self/ns/net")
    assert own == (await isolated.exec(server, "ls", "-l", "/proc/1/ns/net")).stdout.split()[-1]
    async with asyncio.timeout(20):
        while (
            await isolated.exec(other, "sh", "-c", "echo ahoy | nc -w 1 127.0.0.1 8080")
        ).stdout != b"ahoy\n":
            await asyncio.sleep(0)
        answer = await isolated.client.port_forward(pod_sandbox_id=pod, port=[8080])
        client = await dial(answer.url, "portforward.k8s.io")
        got, number = b"", 0
        while got != b"through":  # between two clients nc does not listen
            number += 1
            client.open(streamtype="error", port="8080", requestid=str(number))
            data = client.open(streamtype="data", port="8080", requestid=str(number))
            data.write(b"through", fin=True)
            got = await data.read()
        error = client.open(streamtype="error", port="9", requestid="refused")
        client.open(streamtype="data", port="9", requestid="refused")
        assert b"9" in await error.read()
        await client.close()


async def test_sysctls_are_the_pods_own(isolated):
    before = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()
    pod = await isolated.pod(
        linux={
            "sysctls": {"net.ipv4.ip_unprivileged_port_start": "77", "kernel.shm_rmid_forced": "1"}
        }
    )
    container = await isolated.container(pod, "sleep", "1000")
    answer = await isolated.exec(
        container,
        "cat",
        "/proc/sys/net/ipv4/ip_unprivileged_port_start",
        "/proc/sys/kernel/shm_rmid_forced",
    )
    assert answer.stdout == b"77\n1\n"
    assert Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text() == before
    with pytest.raises(errors.CRIError, match="swappiness"):
        await isolated.pod(linux={"sysctls": {"vm.swappiness": "1"}})
    assert len((await isolated.client.list_pod_sandbox()).items) == 1


async def test_host_network(isolated):
    pod = await isolated.pod(linux=NODE)
    container = await isolated.container(pod, "sleep", "1000", linux=NODE)
    link = (await isolated.exec(container, "ls", "-l", "/proc/1/ns/net")).stdout.split()[-1]
    assert link.decode() == os.readlink("/proc/self/ns/net")
    status = (await isolated.client.pod_sandbox_status(pod_sandbox_id=pod)).status
    assert status.network.ip == ""


async def test_privileged_and_read_only(isolated):
    pod = await isolated.pod()
    command = (
        "grep CapEff /proc/self/status; ls /dev | wc -l; mount -t tmpfs x /tmp && echo mounted"
    )
    privileged = await isolated.container(
        pod, "sleep", "1000", linux={"security_context": {"privileged": True}}
    )
    answer = await isolated.exec(privileged, "sh", "-c", command)
    own = next(
        line.split()[1]
        for line in Path("/proc/self/status").read_text().splitlines()
        if "CapBnd" in line
    )
    assert int(answer.stdout.split()[1], 16) == int(own, 16)
    assert answer.stdout.endswith(b"mounted\n")
    readonly = await isolated.container(
        pod,
        "sleep",
        "1000",
        linux={"security_context": {"readonly_rootfs": True, "no_new_privs": True}},
    )
    answer = await isolated.exec(
        readonly,
        "sh",
        "-c",
        "grep NoNewPrivs /proc/self/status; touch /file /dev/shm/ok; ls /dev/shm",
    )
    assert b"NoNewPrivs:\t1" in answer.stdout
    assert b"/file: Read-only" in answer.stderr
    assert answer.stdout.endswith(b"ok\n")


async def test_capabilities_are_added_and_dropped(isolated):
    pod = await isolated.pod()
    context = {
        "capabilities": {"drop_capabilities": ["ALL"], "add_capabilities": ["NET_BIND_SERVICE"]}
    }
    container = await isolated.container(pod, "sleep", "1000", linux={"security_context": context})
    answer = await isolated.exec(container, "grep", "CapEff", "/proc/self/status")
    assert int(answer.stdout.split()[1], 16) == 1 << 10
