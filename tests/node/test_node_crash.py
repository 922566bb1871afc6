"""Crash-only: the node agent is killed, restarted, and started without an API server, while pods run."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from conftest import Harbour, Pods, sweep

from sampan.client.resources import PODS, RUNTIMECLASSES
from sampan.cri import api_pb2 as api
from sampan.cri.client import CRIClient
from sampan.kube.objects import pod_ready
from sampan.node.observed import POD_NAME, POD_NAMESPACE, POD_UID

pytestmark = pytest.mark.timeout(60)
RUNTIMECLASS = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass"}


def containers_of(pod: dict[str, Any]) -> list[tuple[str, int]]:
    return [(s["containerID"], s["restartCount"]) for s in pod["status"]["containerStatuses"]]


async def running_uids(socket: Path) -> dict[str, int]:
    """Pod uid → running containers, as the runtime sees it."""
    found: dict[str, int] = {}
    async with CRIClient(socket) as cri:
        for item in (await cri.list_containers()).containers:
            if item.state == 1:
                uid = item.labels["io.kubernetes.pod.uid"]
                found[uid] = found.get(uid, 0) + 1
    return found


async def test_killed_and_restarted_it_changes_nothing_that_is_right(
    harbour: Harbour, pods: Pods
) -> None:
    node = harbour.start_node()
    await pods.create("steady")
    before = await pods.until("steady", pod_ready, "Ready")
    await pods.create("forgotten")
    await pods.until("forgotten", pod_ready, "Ready")
    harbour.end(node, kill=True)

    forgotten = await pods.client.get(PODS, "forgotten", "default")
    await pods.client.delete(PODS, "forgotten", "default", grace=0)
    assert set(await running_uids(harbour.directory / "run" / "cri.sock")) == {
        before["metadata"]["uid"],
        forgotten["metadata"]["uid"],
    }

    node = harbour.start_node()
    await pods.create("after")
    await pods.until("after", pod_ready, "Ready: the restarted agent works")
    now = await pods.client.get(PODS, "steady", "default")
    assert containers_of(now) == containers_of(before)
    assert now["status"] == before["status"], "not even a timestamp moved"
    await pods.delete("after")

    async with asyncio.timeout(10):
        place = harbour.directory / "node" / "pods" / forgotten["metadata"]["uid"]
        while place.exists():
            await asyncio.to_thread(_wait_for_deletion, place)
    left = await running_uids(harbour.directory / "run" / "cri.sock")
    assert set(left) == {before["metadata"]["uid"]}, "what nobody wants was ended"
    await pods.delete("steady")
    harbour.end(node)


def _wait_for_deletion(place: Path) -> None:
    import os
    import select

    from sampan.node import linux

    descriptor = linux.inotify()
    try:
        linux.inotify_watch(descriptor, place.parent, 0x200)  # IN_DELETE
        if place.exists():
            select.select([descriptor], [], [], 0.2)
    finally:
        os.close(descriptor)


async def test_without_an_api_server_its_pods_start_again(harbour: Harbour, pods: Pods) -> None:
    node = harbour.start_node()
    await pods.create("island")
    pod = await pods.until("island", pod_ready, "Ready")
    harbour.end(node)
    socket = harbour.directory / "run" / "cri.sock"
    await asyncio.to_thread(sweep, socket)  # as after a reboot: nothing runs
    assert await running_uids(socket) == {}

    node = harbour.start_node(api=False)
    async with CRIClient(socket) as cri, asyncio.timeout(15):
        events = cri.get_container_events()
        while not (await running_uids(socket)).get(pod["metadata"]["uid"]):
            await anext(events)
        await events.aclose()
    harbour.end(node)

    node = harbour.start_node()  # the API server is back
    again = await pods.until(
        "island",
        lambda p: pod_ready(p) and containers_of(p) != containers_of(pod),
        "the new container in its status",
    )
    assert again["metadata"]["uid"] == pod["metadata"]["uid"]
    assert again["status"]["containerStatuses"][0]["restartCount"] >= 1
    await pods.delete("island")
    harbour.end(node)


async def ends_a_stranger(socket: Path) -> None:
    """A sandbox comes up for a pod that is no more: an agent asked for it and was killed; the next has seen nothing of it."""
    config = api.PodSandboxConfig(
        metadata=api.PodSandboxMetadata(name="late", namespace="default", uid="late-uid"),
        labels={POD_UID: "late-uid", POD_NAME: "late", POD_NAMESPACE: "default"},
    )
    async with CRIClient(socket) as cri:
        events = cri.get_container_events()
        first = asyncio.ensure_future(anext(events))
        await cri.version()  # the stream that was asked for before it is there
        await cri.run_pod_sandbox(config=config, runtime_handler="wasm")
        async with asyncio.timeout(10):
            event = await first
            while event.container_event_type != api.CONTAINER_DELETED_EVENT:
                event = await anext(events)
        await events.aclose()
        assert not (await cri.list_pod_sandbox()).items


async def test_no_pod_is_forgotten_while_nobody_can_tell_what_there_is_of_it(
    harbour: Harbour, pods: Pods
) -> None:
    """The runtime was killed while it made the sandbox: it may have made it."""
    node = harbour.start_node()
    harbour.end(harbour.runtime, kill=True)
    kind = {"metadata": {"name": "doubtful"}, "handler": "wasm"}
    await pods.client.create(RUNTIMECLASSES, {**RUNTIMECLASS, **kind})
    await pods.create("doubtful", runtimeClassName="doubtful")
    await pods.reported("doubtful", "FailedCreatePodSandBox")
    await pods.client.delete(PODS, "doubtful", "default")
    await pods.reported("doubtful", "FailedSync")
    assert (await pods.client.get(PODS, "doubtful", "default"))["metadata"]["deletionTimestamp"]
    harbour.runtime = harbour.start_runtime()
    await pods.until("doubtful", lambda pod: not pod, "its end")
    await ends_a_stranger(harbour.directory / "run" / "cri.sock")
    harbour.end(node)
