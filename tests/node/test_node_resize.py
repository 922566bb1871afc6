"""In-place resize (KEP-1287): what is changed, what restarts, what has to wait, and what the status says meanwhile."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Harbour, Pods
from node_pods import NOW, container, make_pod, running, view_of

from sampan.client.resources import PODS
from sampan.cri import api_pb2 as pb
from sampan.cri.errors import Internal
from sampan.node import resize, status
from sampan.node.cgroups import Groups
from sampan.node.config import NodeConfig
from sampan.node.environment import NodeFacts
from sampan.node.plan import Resized
from sampan.node.resize import Resizing

ALLOCATABLE = {"cpu": "2", "memory": "1Gi"}


def amounts(cpu: str, memory: str) -> dict[str, Any]:
    return {"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}}


class Runtime:
    """Takes what it is told, and says how much memory is used."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.used = 0
        self.failure: Exception | None = None

    async def update_container_resources(self, *, container_id: str, linux: Any) -> None:
        if self.failure:
            raise self.failure
        self.told.append((container_id, linux))

    async def container_stats(self, *, container_id: str) -> Any:
        answer = pb.ContainerStatsResponse()
        answer.stats.memory.usage_bytes.value = self.used
        return answer


class Worker:
    """As much of a pod's worker as a resize sees."""

    def __init__(self, pod: dict[str, Any]) -> None:
        self.pod = pod
        self.stopped: list[str] = []
        self.woken_at = 0.0
        self.events: list[str] = []
        self.ending = self
        self.observed = self
        self.containers: dict[str, Any] = {}

    async def stop(self, action: Any) -> bool:
        self.stopped.append(action.id)
        return True

    def wake_at(self, at: float) -> None:
        self.woken_at = at

    def event(self, kind: str, reason: str, message: str) -> None:
        self.events.append(reason)


class Context:
    def __init__(self, *others: dict[str, Any]) -> None:
        self.cri = Runtime()
        self.node_facts = NodeFacts(("10.0.0.1",), ALLOCATABLE)
        self.machine = type("Machine", (), {"memory": 1 << 30})
        self.pods = lambda: others
        self.config = NodeConfig("boat", Path("/none"), Path("/none"), Path("/none"))
        self.cgroups = Groups("", 1)


def resizing(was: dict[str, Any], wanted: dict[str, Any], *others: Any, **fields: Any) -> Any:
    pod = make_pod(container(resources=wanted, **fields))
    worker, context = Worker(pod), Context(*others)
    found = Resizing(worker, context)
    found.started("web-id", container(resources=was))
    return found, worker, context, pod


def shown(pod: dict[str, Any], found: Resizing) -> dict[str, Any]:
    view = view_of(running(), resized=found.told())
    return status.pod_status(pod, view, status.Facts(("10.0.0.1",)), NOW)


async def test_limits_of_a_running_container_change():
    found, worker, context, pod = resizing(amounts("500m", "64Mi"), amounts("1", "128Mi"))
    assert await found.attend(pod, view_of(running()))
    ((identifier, linux),) = context.cri.told
    assert identifier == "web-id"
    assert (linux.cpu_quota, linux.cpu_shares) == (100_000, 1024)
    assert linux.memory_limit_in_bytes == 128 << 20
    assert worker.events == ["ResizeCompleted"]
    told = shown(pod, found)["containerStatuses"][0]
    assert told["resources"] == amounts("1", "128Mi")
    assert told["allocatedResources"] == {"cpu": "1", "memory": "128Mi"}
    assert not await found.attend(pod, view_of(running()))
    assert len(context.cri.told) == 1


async def test_another_spelling_is_no_resize():
    found, _, context, pod = resizing(amounts("1000m", "1024Mi"), amounts("1", "1Gi"))
    assert not await found.attend(pod, view_of(running()))
    assert context.cri.told == []


async def test_a_limit_that_is_gone_is_lifted():
    found, _, context, pod = resizing(
        amounts("1", "64Mi"), {"requests": {"cpu": "1", "memory": "64Mi"}}
    )
    await found.attend(pod, view_of(running()))
    assert context.cri.told[0][1].cpu_quota == -1
    assert context.cri.told[0][1].memory_limit_in_bytes == -1


async def test_a_policy_restarts_the_container_and_only_for_its_resource():
    policy = [{"resourceName": "memory", "restartPolicy": "RestartContainer"}]
    found, worker, context, pod = resizing(
        amounts("1", "64Mi"), amounts("1", "128Mi"), resizePolicy=policy
    )
    await found.attend(pod, view_of(running()))
    assert worker.stopped == ["web-id"]
    assert context.cri.told == []
    found, worker, context, pod = resizing(
        amounts("500m", "64Mi"), amounts("1", "64Mi"), resizePolicy=policy
    )
    await found.attend(pod, view_of(running()))
    assert worker.stopped == []
    assert len(context.cri.told) == 1


async def test_what_the_node_never_has_is_infeasible():
    found, worker, context, pod = resizing(amounts("1", "64Mi"), amounts("3", "64Mi"))
    assert await found.attend(pod, view_of(running()))
    assert not await found.attend(pod, view_of(running()))  # told once
    assert context.cri.told == []
    assert worker.woken_at == 0
    condition = shown(pod, found)["conditions"][-1]
    assert (condition["type"], condition["reason"]) == ("PodResizePending", "Infeasible")
    assert condition["message"].endswith("cpu, requested: 3000, capacity: 2000")
    told = shown(pod, found)["containerStatuses"][0]
    assert told["allocatedResources"] == {"cpu": "1", "memory": "64Mi"}


async def test_what_is_not_free_is_deferred_until_it_is():
    other = make_pod(container(resources=amounts("1500m", "64Mi")))
    other["metadata"]["uid"] = "other"
    found, worker, context, pod = resizing(amounts("100m", "64Mi"), amounts("1", "64Mi"), other)
    await found.attend(pod, view_of(running()))
    assert shown(pod, found)["conditions"][-1]["reason"] == "Deferred"
    assert worker.woken_at > 0
    before = shown(pod, found)
    context.pods = tuple
    assert await found.attend(pod, view_of(running()))
    after = shown(pod, found)
    assert len(context.cri.told) == 1
    patch = status.changes(before, after)
    assert {"$patch": "delete", "type": "PodResizePending"} in patch["conditions"]


async def test_less_memory_than_is_used_waits_and_says_so():
    found, worker, context, pod = resizing(amounts("1", "128Mi"), amounts("1", "64Mi"))
    context.cri.used = 100 << 20
    await found.attend(pod, view_of(running()))
    assert context.cri.told == []
    condition = shown(pod, found)["conditions"][-1]
    assert (condition["type"], condition["reason"]) == ("PodResizeInProgress", "Error")
    assert "below current usage" in condition["message"]
    assert worker.woken_at > 0
    context.cri.used = 1 << 20
    await found.attend(pod, view_of(running()))
    assert len(context.cri.told) == 1
    assert found.told().conditions == ()


async def test_what_the_runtime_refuses_is_told():
    found, _, context, pod = resizing(amounts("1", "64Mi"), amounts("2", "64Mi"))
    context.cri.failure = Internal("cpu.cfs_quota_us: no")
    await found.attend(pod, view_of(running()))
    assert "cpu.cfs_quota_us: no" in shown(pod, found)["conditions"][-1]["message"]


async def test_a_new_node_agent_knows_from_the_api_what_was_done():
    pod = make_pod(container(resources=amounts("1", "64Mi")))
    pod["status"] = {
        "containerStatuses": [
            {
                "name": "web",
                "containerID": "sampan://web-id",
                "resources": amounts("500m", "64Mi"),
            }
        ]
    }
    context = Context()
    found = Resizing(Worker(pod), context)
    await found.attend(pod, view_of(running()))
    assert len(context.cri.told) == 1


def of_the_pod(was: dict[str, Any], wanted: dict[str, Any]) -> Any:
    """A pod with resources of its own (KEP-5419), and a container without any."""
    pod = make_pod(container(), resources=was)
    worker, context = Worker(pod), Context()
    found = Resizing(worker, context)
    found.started("web-id", container())
    return found, worker, context, pod, {**pod, "spec": {**pod["spec"], "resources": wanted}}


async def test_a_pod_is_resized_as_a_whole():
    found, worker, context, pod, larger = of_the_pod(amounts("1", "64Mi"), amounts("2", "96Mi"))
    assert not await found.attend(pod, view_of(running()))
    assert shown(pod, found)["resources"] == amounts("1", "64Mi")
    assert await found.attend(larger, view_of(running()))
    ((identifier, linux),) = context.cri.told  # its limit is the pod's
    assert (identifier, linux.cpu_quota, linux.memory_limit_in_bytes) == (
        "web-id",
        200_000,
        96 << 20,
    )
    told = shown(larger, found)
    assert told["resources"] == amounts("2", "96Mi")
    assert told["allocatedResources"] == {"cpu": "2", "memory": "96Mi"}
    assert worker.events == ["ResizeCompleted"]


async def test_a_pod_that_uses_more_keeps_its_limit():
    found, worker, context, pod, smaller = of_the_pod(amounts("1", "64Mi"), amounts("1", "10Ki"))
    await found.attend(pod, view_of(running()))
    context.cri.used = 1 << 20
    assert await found.attend(smaller, view_of(running()))
    condition = shown(smaller, found)["conditions"][-1]
    assert (condition["type"], condition["reason"]) == ("PodResizeInProgress", "Error")
    assert condition["message"].endswith("pod memory limit (10240) below current usage (1048576)")
    assert shown(smaller, found)["resources"] == amounts("1", "64Mi")
    assert context.cri.told == [] and worker.woken_at > 0


async def test_a_pod_that_asks_for_more_than_the_node_has_is_infeasible():
    found, _, _, pod, larger = of_the_pod(amounts("1", "64Mi"), amounts("3", "64Mi"))
    await found.attend(pod, view_of(running()))
    assert await found.attend(larger, view_of(running()))
    assert shown(larger, found)["conditions"][-1]["reason"] == "Infeasible"
    assert shown(larger, found)["allocatedResources"] == {"cpu": "1", "memory": "64Mi"}


async def test_a_sidecar_is_resized():
    """A restartable init container, as one beside the others."""
    pod = make_pod(
        container(),
        initContainers=[
            container("proxy", restartPolicy="Always", resources=amounts("1", "128Mi"))
        ],
    )
    context = Context()
    found = Resizing(Worker(pod), context)
    found.started("web-id", container())
    found.started("proxy-id", container("proxy", resources=amounts("500m", "64Mi")))
    assert await found.attend(pod, view_of(running(), running("proxy")))
    assert [identifier for identifier, _ in context.cri.told] == ["proxy-id"]
    assert shown(pod, found)["containerStatuses"][0]["name"] == "web"


@pytest.mark.parametrize(
    ("one", "other", "names"),
    [
        ({}, {}, set()),
        (amounts("1", "1Gi"), {}, {"cpu", "memory"}),
        (amounts("1", "1Gi"), amounts("1", "2Gi"), {"memory"}),
    ],
)
def test_what_differs(one, other, names):
    assert resize.changed(one, other) == names


def test_a_container_without_amounts_tells_that_it_can_be_resized():
    view = view_of(running(), resized=Resized({"web-id": {}}, {"web-id": {}}))
    told = status.pod_status(make_pod(), view, status.Facts(("10.0.0.1",)), NOW)
    assert told["containerStatuses"][0]["resources"] == {}
    assert "allocatedResources" not in told["containerStatuses"][0]


def test_a_pod_tells_what_its_containers_have_together():
    """As kubelet 1.36 does for a pod that names no resources of its own."""
    first, second = container("web"), container("log")
    pod = make_pod(
        first | {"resources": amounts("100m", "32Mi")},
        second | {"resources": {"requests": {"cpu": "50m"}, "limits": {"memory": "64Mi"}}},
        initContainers=[container("one") | {"resources": amounts("1", "16Mi")}],
    )
    told = status.pod_status(pod, view_of(), status.Facts(("10.0.0.1",)), NOW)
    assert told["resources"] == {
        "limits": {"memory": "96Mi"},
        "requests": {"cpu": "1", "memory": "32Mi"},
    }
    assert told["allocatedResources"] == {"cpu": "1", "memory": "32Mi"}
    # While a resize waits, what was agreed and what the runtime has are two things.
    larger = amounts("200m", "64Mi")
    resized = Resized({"web-id": amounts("100m", "32Mi")}, {"web-id": larger})
    waiting = make_pod(first | {"resources": larger})
    told = status.pod_status(
        waiting, view_of(running("web"), resized=resized), status.Facts(("10.0.0.1",)), NOW
    )
    assert told["resources"] == amounts("100m", "32Mi")
    assert told["allocatedResources"] == larger["requests"]
    plain = status.pod_status(make_pod(), view_of(), status.Facts(("10.0.0.1",)), NOW)
    assert not {"resources", "allocatedResources"} & plain.keys()


@pytest.fixture(scope="module")
def node(harbour: Harbour) -> Iterator[subprocess.Popen[str]]:
    process = harbour.start_node()
    yield process
    harbour.end(process)


def told(kind: str, reason: str = "") -> Any:
    def check(pod: dict[str, Any]) -> bool:
        found = {item["type"]: item for item in (pod.get("status") or {}).get("conditions") or ()}
        return (found.get(kind) or {}).get("reason", "") == reason

    return check


async def test_a_pod_is_resized_through_the_api(node: Any, pods: Pods) -> None:
    """Here modules run without cgroups, so the runtime refuses; what is taken back is forgotten."""
    old, new = amounts("100m", "64Mi"), amounts("200m", "128Mi")

    async def ask(wanted: dict[str, Any]) -> None:
        patch = {"spec": {"containers": [{"name": "main", "resources": wanted}]}}
        await pods.client.patch(
            PODS, "swell", patch, "default", kind="strategic", subresource="resize"
        )

    await pods.create("swell", container={"resources": old})
    await pods.until("swell", lambda pod: "podIP" in (pod.get("status") or {}), "its start")
    await ask(new)
    refused = await pods.until("swell", told("PodResizeInProgress", "Error"), "a refusal")
    shown = refused["status"]["containerStatuses"][0]
    assert (shown["resources"], shown["allocatedResources"]) == (old, new["requests"])
    await ask(amounts("100", "64Mi"))
    await pods.until("swell", told("PodResizePending", "Infeasible"), "another refusal")
    await ask(old)
    calm = await pods.until(
        "swell",
        lambda pod: told("PodResizePending")(pod) and told("PodResizeInProgress")(pod),
        "calm",
    )
    shown = calm["status"]["containerStatuses"][0]
    assert (shown["resources"], shown["allocatedResources"]) == (old, old["requests"])
    assert shown["restartCount"] == 0
    await pods.delete("swell")
