"""Two `sampan server` processes on one etcd: one runs the controllers, and the other goes on when it is stopped."""

import asyncio
import shutil
import signal
from contextlib import aclosing

import pytest
from etcd_cluster import BINARY, MISSING, EtcdCluster, free_ports
from test_store_faults import Server

from sampan.client.resources import DEPLOYMENTS, ENDPOINTS, LEASES, PODS

DEADLINE = 40


@pytest.fixture
async def servers(tmp_path, short_directory):
    if BINARY is None:
        pytest.skip(MISSING)
    etcd = EtcdCluster(tmp_path / "etcd")
    etcd.start()
    port = free_ports(1)[0]
    servers = [Server(short_directory, number, port, etcd.endpoints) for number in (5, 6)]
    try:
        servers[0].start()
        await servers[0].ready()
        shutil.copytree(servers[0].data / "pki", servers[1].data / "pki")
        servers[1].start()
        await servers[1].ready()
        yield servers
    finally:
        for server in servers:
            server.kill()
        etcd.stop()


async def until(client, gvr, namespace, name, wanted):
    """The first version of an object that is as `wanted`."""
    watch = client.watch(gvr, namespace, field_selector=f"metadata.name={name}" if name else "")
    async with asyncio.timeout(DEADLINE), aclosing(watch) as events:
        async for event in events:
            if event.type != "BOOKMARK" and wanted(event.object):
                return event.object
    raise AssertionError(name)


def holder(lease):
    return (lease.get("spec") or {}).get("holderIdentity") or ""


def deployment(name):
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "c", "image": "x"}]},
            },
        },
    }


async def works(client, name):
    """The controllers do what a Deployment asks for."""
    await client.create(DEPLOYMENTS, deployment(name))
    for _ in range(2):
        await until(
            client,
            PODS,
            "default",
            "",
            lambda pod: (pod["metadata"].get("labels") or {}).get("app") == name,
        )


async def test_a_server_that_stops_hands_its_work_over(servers):
    clients = [server.client() for server in servers]
    names = ("kube-controller-manager", "kube-scheduler")
    held = [holder(await until(clients[0], LEASES, "kube-system", name, holder)) for name in names]
    pids = [str(server.process.pid) for server in servers]
    (leader,) = [n for n, pid in enumerate(pids) if f"_{pid}_" in held[0]]
    other = 1 - leader
    await works(clients[other], "before")

    def both(endpoints):
        return [each["ip"] for each in endpoints["subsets"][0]["addresses"]] == [
            "127.0.7.5",
            "127.0.7.6",
        ]

    await until(clients[other], ENDPOINTS, "default", "kubernetes", both)
    loop = asyncio.get_running_loop()
    began = loop.time()
    servers[leader].kill(signal.SIGTERM)
    for name in names:
        await until(
            clients[other], LEASES, "kube-system", name,
            lambda lease: f"_{pids[other]}_" in holder(lease),
        )  # fmt: skip
    assert loop.time() - began < 12  # handed over: a Lease that was left behind would last 15 s
    await works(clients[other], "after")
    endpoints = await clients[other].get(ENDPOINTS, "kubernetes", "default")
    assert [each["ip"] for each in endpoints["subsets"][0]["addresses"]] == [servers[other].address]
    for client in clients:
        await client.close()
