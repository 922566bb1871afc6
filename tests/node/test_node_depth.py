"""Static pods and their mirrors, device plugins over real gRPC, the pod resources API, admission, graceful shutdown."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from conftest import DEADLINE, NODE, Harbour, Pods
from node_plugin import RESOURCE, BoatPlugin, call

from sampan.client.client import ApiError
from sampan.client.resources import NODES, PODS
from sampan.cri.client import CRIClient
from sampan.node.devices import podresources_pb2 as resources_api

pytestmark = pytest.mark.timeout(90)
HASH = "kubernetes.io/config.hash"
MIRROR = "kubernetes.io/config.mirror"


@pytest.fixture(scope="module")
def manifests(harbour: Harbour) -> Path:
    path = harbour.directory / "manifests"
    path.mkdir()
    return path


@pytest.fixture(scope="module")
def flags(manifests: Path) -> list[str]:
    return [
        f"pod-manifest-path={manifests}",
        "shutdown-grace-period=10s",
        "shutdown-grace-period-critical-pods=4s",
    ]


@pytest.fixture(scope="module")
def node(harbour: Harbour, flags: list[str]) -> Iterator[list[Any]]:
    held = [harbour.start_node(*flags)]
    yield held
    harbour.end(held[0])


@pytest.fixture
async def boats(harbour: Harbour, node: list[Any]) -> AsyncIterator[BoatPlugin]:
    plugin = BoatPlugin(harbour.directory / "node" / "device-plugins")
    await plugin.start()
    await plugin.register()
    yield plugin
    await plugin.stop()


def manifest(name: str, image: str = "ticker:1", **spec: Any) -> str:
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"tier": "keel"}},
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "main", "image": image}],
                **spec,
            },
        }
    )


def running(pod: dict[str, Any]) -> bool:
    return bool(pod) and pod.get("status", {}).get("phase") == "Running"


def terminated(pod: dict[str, Any]) -> bool:
    states = pod["status"].get("containerStatuses") or [{"state": {}}]
    return all("terminated" in each["state"] for each in states)


async def appears(
    pods: Pods, name: str, check: Callable[[dict[str, Any]], Any], other_than: str = ""
) -> dict[str, Any]:
    """A pod that somebody else makes, of another uid, as soon as `check` holds."""
    async with asyncio.timeout(DEADLINE):
        items, version = await listed(pods, name)
        for pod in items:
            if pod["metadata"]["uid"] != other_than and check(pod):
                return pod
        async for event in pods.client.watch(
            PODS, "default", resource_version=version, field_selector=f"metadata.name={name}"
        ):
            pod = event.object
            known = event.type in ("ADDED", "MODIFIED")
            if known and pod["metadata"]["uid"] != other_than and check(pod):
                return pod
    raise AssertionError(f"{name} never came")


async def listed(pods: Pods, name: str) -> tuple[list[dict[str, Any]], str]:
    found = await pods.client.list(PODS, "default", field_selector=f"metadata.name={name}")
    items = found["items"] if isinstance(found, dict) else found.items
    version = (
        found["metadata"]["resourceVersion"]
        if isinstance(found, dict)
        else (found.resource_version)
    )
    return items, version


async def node_shows(pods: Pods, capacity: str, allocatable: str) -> None:
    async with asyncio.timeout(DEADLINE):
        shown = await pods.client.get(NODES, NODE)

        def told(node: dict[str, Any]) -> bool:
            status = node["status"]
            return (status["capacity"].get(RESOURCE), status["allocatable"].get(RESOURCE)) == (
                capacity,
                allocatable,
            )

        if told(shown):
            return
        version = shown["metadata"]["resourceVersion"]
        async for event in pods.client.watch(NODES, resource_version=version):
            if event.type == "MODIFIED" and told(event.object):
                return


def asks(count: int) -> dict[str, Any]:
    return {"resources": {"limits": {RESOURCE: count}, "requests": {RESOURCE: count}}}


async def test_a_static_pod_has_a_mirror_that_comes_back_and_goes_with_its_file(
    node: list[Any], manifests: Path, pods: Pods
) -> None:
    name = f"anchor-{NODE}"
    (manifests / "broken.yaml").write_text("kind: Pod\nspec: [")
    (manifests / "anchor.yaml").write_text(manifest("anchor"))
    first = await appears(pods, name, running)
    notes = first["metadata"]["annotations"]
    assert notes["kubernetes.io/config.source"] == "file"
    assert notes[MIRROR] == notes[HASH] != first["metadata"]["uid"]
    assert first["metadata"]["ownerReferences"][0]["kind"] == "Node"
    container = first["status"]["containerStatuses"][0]["containerID"]
    log = await pods.client.raw("GET", f"/api/v1/namespaces/default/pods/{name}/log")
    assert b"ahoy" in (log if isinstance(log, bytes) else log.body)

    await pods.client.delete(PODS, name, "default")
    second = await appears(pods, name, running, other_than=first["metadata"]["uid"])
    assert second["status"]["containerStatuses"][0]["containerID"] == container, "it went on"

    (manifests / "anchor.yaml").write_text(manifest("anchor", "sleeper:1"))
    third = await appears(pods, name, running, other_than=second["metadata"]["uid"])
    assert third["metadata"]["annotations"][HASH] != notes[HASH]
    assert third["spec"]["containers"][0]["image"] == "sleeper:1"

    (manifests / "anchor.yaml").unlink()
    await pods.until(name, lambda pod: not pod, "its end with its file")


async def test_static_pods_run_without_an_api_server(
    harbour: Harbour, node: list[Any], manifests: Path, flags: list[str]
) -> None:
    harbour.end(node[0], kill=True)
    node[0] = harbour.start_node(*flags, api=False)
    (manifests / "rudder.yaml").write_text(manifest("rudder"))
    try:
        async with CRIClient(harbour.directory / "run" / "cri.sock") as cri:
            async with asyncio.timeout(DEADLINE):
                async for event in cri.get_container_events():
                    status = event.pod_sandbox_status.metadata
                    if status.name == f"rudder-{NODE}" and event.container_event_type == 1:
                        break
    finally:
        (manifests / "rudder.yaml").unlink()
        harbour.end(node[0])
        node[0] = harbour.start_node(*flags)


async def test_devices_are_counted_given_and_refused(
    harbour: Harbour, boats: BoatPlugin, pods: Pods
) -> None:
    await node_shows(pods, "3", "3")
    await pods.create("crew", container=asks(2))
    await pods.until("crew", running, "running")
    assert boats.allocated == [["boat-b", "boat-c"]], "as the plug-in preferred"
    assert boats.started == boats.allocated
    assert sorted(boats.asked[0].available_deviceIDs) == ["boat-a", "boat-b", "boat-c"]

    await pods.create("late", container=asks(2))
    late = await pods.until("late", lambda p: p["status"].get("phase") == "Failed", "refused")
    assert late["status"]["reason"] == "UnexpectedAdmissionError"
    assert late["status"]["message"] == (
        "Pod was rejected: Allocate failed due to requested number of devices unavailable for "
        f"{RESOURCE}. Requested: 2, Available: 1, which is unexpected"
    )

    socket = harbour.directory / "node" / "pod-resources" / "kubelet.sock"
    told = await call(
        socket,
        resources_api,
        "PodResourcesLister",
        "List",
        resources_api.ListPodResourcesRequest(),
        resources_api.ListPodResourcesResponse,
    )
    (crew,) = [each for each in told.pod_resources if each.name == "crew"]
    (held,) = crew.containers[0].devices
    assert (held.resource_name, list(held.device_ids)) == (RESOURCE, ["boat-b", "boat-c"])
    assert [n.ID for n in held.topology.nodes] == [0]
    assert "late" not in [each.name for each in told.pod_resources]
    free = await call(
        socket,
        resources_api,
        "PodResourcesLister",
        "GetAllocatableResources",
        resources_api.AllocatableResourcesRequest(),
        resources_api.AllocatableResourcesResponse,
    )
    assert sorted(free.devices[0].device_ids) == ["boat-a", "boat-b", "boat-c"]
    with pytest.raises(grpc.aio.AioRpcError, match="pod ghost in namespace default not found"):
        await call(
            socket,
            resources_api,
            "PodResourcesLister",
            "Get",
            resources_api.GetPodResourcesRequest(pod_name="ghost", pod_namespace="default"),
            resources_api.GetPodResourcesResponse,
        )

    await boats.set_health(a="Unhealthy")
    await node_shows(pods, "3", "2")
    await pods.delete("late")
    await pods.delete("crew")


async def test_devices_stay_with_their_pod_when_the_node_is_killed(
    harbour: Harbour, node: list[Any], boats: BoatPlugin, flags: list[str], pods: Pods
) -> None:
    await node_shows(pods, "3", "3")
    await pods.create("pilot", container=asks(2))
    await pods.until("pilot", running, "running")
    harbour.end(node[0], kill=True)
    node[0] = harbour.start_node(*flags)
    await node_shows(pods, "0", "0")
    await boats.register()
    await node_shows(pods, "3", "3")
    await pods.create("next", container=asks(2))
    refused = await pods.until("next", lambda p: p["status"].get("phase") == "Failed", "refused")
    assert "Requested: 2, Available: 1" in refused["status"]["message"]
    await pods.delete("pilot")
    await pods.create("after", container=asks(3))
    await pods.until("after", running, "running on what came free")
    await boats.stop()
    await node_shows(pods, "3", "0")
    for name in ("next", "after"):
        await pods.delete(name)


async def test_a_registration_that_is_wrong_is_refused(boats: BoatPlugin) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match='"v1" is not supported by kubelet'):
        await boats.register(version="v1")
    for name in ("boat", "kubernetes.io/boat", "harbour.example/-"):
        with pytest.raises(grpc.aio.AioRpcError, match="is invalid"):
            await boats.register(resource=name)


async def test_what_does_not_fit_is_refused(node: list[Any], pods: Pods) -> None:
    for name, resource, amount in (
        ("giant", "cpu", "4000"),
        ("whale", "memory", "900Ti"),
        ("pages", "hugepages-2Mi", "2Mi"),
    ):
        wanted = {resource: amount, **({"cpu": "1m"} if "huge" in resource else {})}
        await pods.create(name, container={"resources": {"requests": wanted, "limits": wanted}})
        pod = await pods.until(name, lambda p: p["status"].get("phase") == "Failed", "refused")
        assert pod["status"]["reason"] == f"OutOf{resource}"
        text = f"Pod was rejected: Node didn't have enough resource: {resource}, requested: "
        assert pod["status"]["message"].startswith(text)
        await pods.delete(name)
    await pods.create("elsewhere", nodeSelector={"shore": "far"})
    pod = await pods.until("elsewhere", lambda p: p["status"].get("phase") == "Failed", "refused")
    assert pod["status"]["reason"] == "NodeAffinity"


async def test_pods_end_before_the_machine_does(
    harbour: Harbour, node: list[Any], flags: list[str], pods: Pods
) -> None:
    await pods.create("deckhand")
    await pods.create("captain", priorityClassName="system-node-critical")
    for name in ("deckhand", "captain"):
        await pods.until(name, running, "running")
    node[0].send_signal(signal.SIGPWR)
    ended = {}
    for name in ("deckhand", "captain"):
        pod = await pods.until(name, terminated, "ended")
        assert (pod["status"]["phase"], pod["status"]["reason"]) == ("Failed", "Terminated")
        assert pod["status"]["message"] == (
            "Pod was terminated in response to imminent node shutdown."
        )
        state = pod["status"]["containerStatuses"][0]["state"]["terminated"]
        ended[name] = state["finishedAt"], int(pod["metadata"]["resourceVersion"])
    assert ended["deckhand"] < ended["captain"]
    shown = await pods.client.get(NODES, NODE)
    (ready,) = [c for c in shown["status"]["conditions"] if c["type"] == "Ready"]
    assert (ready["status"], ready["reason"]) == ("False", "KubeletNotReady")
    assert ready["message"] == "node is shutting down"
    await pods.create("stowaway")
    late = await pods.until("stowaway", lambda p: p["status"].get("phase") == "Failed", "refused")
    assert late["status"]["reason"] == "NodeShutdown"
    try:
        await pods.delete("stowaway")
    except ApiError as error:
        assert error.code == 404
