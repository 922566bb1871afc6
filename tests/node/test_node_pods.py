"""Pods end to end: API server, node agent and wasm runtime, each a real process; no privilege needed."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import NODE, Harbour, Pods

from sampan.client.resources import CONFIGMAPS, EVENTS, LEASES, NODES
from sampan.cri.client import CRIClient
from sampan.kube.objects import condition_true, pod_ready

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def node(harbour: Harbour) -> Iterator[subprocess.Popen[str]]:
    process = harbour.start_node()
    yield process
    harbour.end(process)


def phase(wanted: str) -> Any:
    return lambda pod: pod.get("status", {}).get("phase") == wanted


def waiting(reason: str) -> Any:
    def check(pod: dict[str, Any]) -> bool:
        statuses = pod.get("status", {}).get("containerStatuses") or [{}]
        return (statuses[0].get("state") or {}).get("waiting", {}).get("reason") == reason

    return check


async def log_of(pods: Pods, name: str, **query: str) -> str:
    path = f"/api/v1/namespaces/default/pods/{name}/log"
    return (await (await pods.client.raw("GET", path, query=query)).read()).decode()


async def test_the_node_is_registered_and_alive(node: Any, pods: Pods) -> None:
    found = await pods.client.get(NODES, NODE)
    assert condition_true(found, "Ready")
    assert found["status"]["allocatable"]["pods"] == "250"
    assert found["metadata"]["labels"]["kubernetes.io/os"] == "linux"
    assert "wasm" in [handler["name"] for handler in found["status"]["runtimeHandlers"]]
    async with asyncio.timeout(5):
        while True:
            leases = (await pods.client.list(LEASES, "kube-node-lease")).items
            if leases:
                break
            async for _ in pods.client.watch(LEASES, "kube-node-lease", resource_version="0"):
                break
    assert leases[0]["spec"]["holderIdentity"] == NODE


async def test_what_somebody_writes_into_the_capacity_may_be_asked_for(
    node: Any, pods: Pods
) -> None:
    """Without a device plug-in: https://kubernetes.io/docs/tasks/administer-cluster/extended-resource-node/"""
    for amount in ("4", None):
        patch = {"status": {"capacity": {"example.com/dongle": amount}}}
        made = await pods.client.patch(NODES, NODE, patch, subresource="status")
        version = made["metadata"]["resourceVersion"]
        async with asyncio.timeout(10):
            async for event in pods.client.watch(NODES, resource_version=version):
                if event.type != "BOOKMARK":
                    status = event.object["status"]
                    if status["allocatable"].get("example.com/dongle") == amount:
                        break
        assert status["capacity"].get("example.com/dongle") == amount


async def test_a_node_that_was_given_up_says_that_it_is_there(node: Any, pods: Pods) -> None:
    """The machine slept. Kubelets look again every ten seconds; here the watch tells."""
    unknown = {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}
    patch = {"status": {"conditions": [unknown]}}
    made = await pods.client.patch(NODES, NODE, patch, kind="strategic", subresource="status")
    assert not condition_true(made, "Ready")
    version = made["metadata"]["resourceVersion"]
    async with asyncio.timeout(10):
        async for event in pods.client.watch(NODES, resource_version=version):
            if event.type != "BOOKMARK" and condition_true(event.object, "Ready"):
                break


async def test_a_pod_runs_and_ends(node: Any, pods: Pods, harbour: Harbour) -> None:
    made = await pods.create("plain")
    pod = await pods.until("plain", pod_ready, "Ready")
    (status,) = pod["status"]["containerStatuses"]
    assert status["started"] and status["containerID"].startswith("sampan://")
    assert pod["status"]["podIP"].startswith("127.42.9.")
    # what it says first may come a moment after it is ready
    assert await log_of(pods, "plain", follow="true", limitBytes="5") == "ahoy\n"
    await pods.delete("plain")
    async with CRIClient(harbour.directory / "run" / "cri.sock") as cri:
        async with asyncio.timeout(10):
            # The runtime's part is cleaned up after the API's; its events tell when.
            while (harbour.directory / "node" / "pods" / made["metadata"]["uid"]).exists():
                await asyncio.to_thread(_next_change, harbour)
        left = (await cri.list_pod_sandbox()).items
    assert made["metadata"]["uid"] not in [item.metadata.uid for item in left]


def _next_change(harbour: Harbour) -> None:
    import os
    import select

    from sampan.node import linux

    descriptor = linux.inotify()
    try:
        linux.inotify_watch(descriptor, harbour.directory / "node" / "pods", 0x200)  # IN_DELETE
        select.select([descriptor], [], [], 0.2)
    finally:
        os.close(descriptor)


async def test_init_containers_then_success(node: Any, pods: Pods) -> None:
    await pods.create(
        "job",
        "worker:1",
        restartPolicy="Never",
        initContainers=[{"name": "first", "image": "worker:1"}],
    )
    pod = await pods.until("job", phase("Succeeded"))
    assert pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"] == 0
    assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["reason"] == "Completed"
    assert await log_of(pods, "job", container="first") == "ahoy\n"
    await pods.delete("job")


async def test_failure_loops_visibly_and_its_last_words_are_kept(node: Any, pods: Pods) -> None:
    await pods.create(
        "crash", "crasher:1", container={"terminationMessagePolicy": "FallbackToLogsOnError"}
    )
    pod = await pods.until("crash", waiting("CrashLoopBackOff"), "CrashLoopBackOff")
    (status,) = pod["status"]["containerStatuses"]
    last = status["lastState"]["terminated"]
    assert (last["exitCode"], last["reason"], last["message"]) == (3, "Error", "ahoy\n")
    assert status["restartCount"] == 1
    assert await log_of(pods, "crash", previous="true") == "ahoy\n"
    await pods.delete("crash")


async def test_an_image_that_does_not_exist(node: Any, pods: Pods) -> None:
    await pods.create("empty", "127.0.0.1:1/none:1")
    await pods.until("empty", waiting("ErrImagePull"), "ErrImagePull")
    pod = await pods.until("empty", waiting("ImagePullBackOff"), "ImagePullBackOff")
    told = pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"]
    assert told.startswith('Back-off pulling image "127.0.0.1:1/none:1": ErrImagePull: ')
    await pods.delete("empty")


async def test_a_missing_configmap_blocks_until_it_comes(node: Any, pods: Pods) -> None:
    source = {"configMapKeyRef": {"name": "late", "key": "k"}}
    await pods.create("patient", container={"env": [{"name": "A", "valueFrom": source}]})
    pod = await pods.until("patient", waiting("CreateContainerConfigError"))
    told = pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"]
    assert told == 'configmap "late" not found'
    await pods.client.create(
        CONFIGMAPS,
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "late", "namespace": "default"},
            "data": {"k": "v"},
        },
    )
    await pods.until("patient", pod_ready, "Ready, by the watch of the ConfigMap")
    await pods.delete("patient")


async def test_a_quick_pod_costs_few_writes(node: Any, pods: Pods) -> None:
    made = await pods.create("quick")
    seen = []
    from sampan.client.resources import PODS

    watch = pods.client.watch(
        PODS,
        "default",
        resource_version=made["metadata"]["resourceVersion"],
        field_selector="metadata.name=quick",
    )
    async with asyncio.timeout(10):
        async for event in watch:
            seen.append(event.object["status"].get("phase"))
            if pod_ready(event.object):
                break
    assert seen.count("Running") == 1 and len(seen) <= 2
    await pods.delete("quick")


async def test_an_active_deadline_fails_the_pod(node: Any, pods: Pods) -> None:
    await pods.create("hasty", activeDeadlineSeconds=1)
    pod = await pods.until("hasty", phase("Failed"))
    assert pod["status"]["reason"] == "DeadlineExceeded"
    await pods.delete("hasty")


async def test_a_pod_that_the_node_has_no_room_for_fails(node: Any, pods: Pods) -> None:
    """Bound by its author and not by the scheduler, so that nobody has looked whether it fits."""
    greedy = {"name": "c", "image": "sleeper:1", "resources": {"requests": {"cpu": "9999"}}}
    await pods.create("greedy", containers=[greedy])
    refused = await pods.until("greedy", phase("Failed"))
    assert refused["status"]["reason"] == "OutOfcpu"
    assert "Node didn't have enough resource: cpu" in refused["status"]["message"]
    await pods.delete("greedy")


async def test_a_sidecar_runs_beside_and_ends_after(node: Any, pods: Pods) -> None:
    await pods.create(
        "pair",
        "worker:1",
        restartPolicy="Never",
        initContainers=[{"name": "side", "image": "sleeper:1", "restartPolicy": "Always"}],
    )
    pod = await pods.until("pair", phase("Succeeded"))
    side = pod["status"]["initContainerStatuses"][0]["state"]["terminated"]
    main = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    assert side["finishedAt"] >= main["finishedAt"]
    await pods.delete("pair")


async def test_events_are_worded_as_kubelets(node: Any, pods: Pods) -> None:
    servers = [f"192.0.2.{number}" for number in (1, 2, 3)]  # and the cluster's own
    made = await pods.create("told", dnsConfig={"nameservers": servers})
    await pods.until("told", pod_ready, "Ready")
    wanted = {
        (
            "DNSConfigForming",
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver "
            "line is: 127.43.0.10 192.0.2.1 192.0.2.2",
        ),
        ("Pulled", 'Container image "sleeper:1" already present on machine'),
        ("Created", "Created container: main"),
        ("Started", "Started container main"),
    }
    uid = made["metadata"]["uid"]
    async with asyncio.timeout(10):
        while True:
            listed = await pods.client.list(
                EVENTS, "default", field_selector=f"involvedObject.uid={uid}"
            )
            if wanted <= {(e["reason"], e["message"]) for e in listed.items}:
                break
            async for _ in pods.client.watch(
                EVENTS, "default", resource_version=listed.resource_version
            ):
                break
    started = next(each for each in listed.items if each["reason"] == "Started")
    assert started["involvedObject"]["fieldPath"] == "spec.containers{main}"
    await pods.delete("told")
