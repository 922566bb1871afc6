"""metrics.k8s.io out of what nodes tell: rates between readings, what began lately, what does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from apiserver_harness import Harness, open_server, pod, service_account

from sampan.apiserver.metrics_api import LONGEST, SPAN, WINDOW, MetricsAPI, Reading
from sampan.kube.errors import ApiError

BASE = "/apis/metrics.k8s.io/v1beta1"
SECOND = 10**9


class Node:
    """Stands for the nodes' endpoints: every container uses half a processor, the node two."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.began: dict[tuple[str, str], float] = {}
        self.reads = 0
        self.silent: set[str] = set()

    async def read(self, node: Any) -> Reading:
        if node["metadata"]["name"] in self.silent:
            raise ApiError(500, "InternalError", "no answer")
        self.reads += 1
        reading = Reading(self.now, self.now, round(self.now * 2 * SECOND), 512 << 20)
        for key, began in self.began.items():
            reading.cpu[key] = round((self.now - began) * SECOND / 2)
            reading.memory[key] = 64 << 20
        return reading


@pytest.fixture
async def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Harness]:
    harness = await open_server(tmp_path)
    await harness.server.start(serve=False)
    metrics = harness.server.aggregator.extensions["metrics.k8s.io", "v1beta1"]
    assert isinstance(metrics, MetricsAPI)
    node = Node()
    metrics.monotonic = lambda: node.now

    async def sleep(seconds: float) -> None:
        node.now += seconds

    metrics.sleep = sleep
    monkeypatch.setattr(MetricsAPI, "_read", lambda self, each: node.read(each))
    harness.node = node  # type: ignore[attr-defined]
    await service_account(harness)
    for name in ("n1", "n2"):
        await harness.call("POST", "/api/v1/nodes", {"metadata": {"name": name}})
    yield harness
    await harness.server.close()
    await harness.store.close()


async def run_pod(api: Harness, name: str, node: str = "n1", **labels: str) -> None:
    obj = pod(name, nodeName=node)
    obj["metadata"]["labels"] = labels
    made = await api.call("POST", "/api/v1/namespaces/default/pods", obj)
    await api.patch(
        "merge",
        f"/api/v1/namespaces/default/pods/{name}",
        {"metadata": {"labels": {"seen": "yes"}}},
    )
    path = f"/api/v1/namespaces/default/pods/{name}/status"
    await api.patch("merge", path, {"status": {"phase": "Running"}})
    node_stand_in: Node = api.node  # type: ignore[attr-defined]
    node_stand_in.began[made["metadata"]["uid"], "c"] = node_stand_in.now


async def test_rates_of_nodes_and_pods(api: Harness) -> None:
    node: Node = api.node  # type: ignore[attr-defined]
    await run_pod(api, "a", app="x")
    node.now += 10
    found = await api.call("GET", f"{BASE}/nodes")
    assert found["kind"] == "NodeMetricsList"
    assert [each["metadata"]["name"] for each in found["items"]] == ["n1", "n2"]
    assert found["items"][0]["usage"] == {"cpu": f"{2 * SECOND}n", "memory": "524288Ki"}
    assert found["items"][0]["window"] == f"{WINDOW:.3f}s"
    assert node.reads == 4  # two of each
    node.now += 1
    await api.call("GET", f"{BASE}/nodes/n1")
    reads = node.reads
    listed = await api.call("GET", f"{BASE}/namespaces/default/pods")
    assert node.reads == reads  # what was read just now serves this question too
    (one,) = listed["items"]
    assert one["metadata"]["namespace"] == "default"
    usage = {"cpu": f"{SECOND // 2}n", "memory": "65536Ki"}
    assert one["containers"] == [{"name": "c", "usage": usage}]
    assert (await api.call("GET", f"{BASE}/nodes/n2"))["kind"] == "NodeMetrics"
    assert (await api.call("GET", f"{BASE}/namespaces/default/pods/a"))["kind"] == "PodMetrics"


async def test_what_began_since_is_seen_at_once_and_windows_grow(api: Harness) -> None:
    node: Node = api.node  # type: ignore[attr-defined]
    await api.call("GET", f"{BASE}/pods")
    node.now += 5
    await run_pod(api, "late")
    node.now += 3
    (one,) = (await api.call("GET", f"{BASE}/pods"))["items"]
    assert one["containers"][0]["usage"]["cpu"] == f"{SECOND // 2}n"
    windows = []
    for _ in range(30):
        node.now += 2
        (one,) = (await api.call("GET", f"{BASE}/pods"))["items"]
        windows.append(float(one["window"].removesuffix("s")))
    assert min(windows[10:]) >= 2 and max(windows) <= SPAN + 2
    assert len(node.began) == 1
    # A container that began anew counts from then on.
    key = next(iter(node.began))
    node.began[key] = node.now
    node.now += 1
    (one,) = (await api.call("GET", f"{BASE}/pods"))["items"]
    assert one["containers"][0]["usage"]["cpu"] == f"{SECOND // 2}n"
    node.now += 2 * LONGEST  # nobody asked for long: what was known is too old
    found = await api.call("GET", f"{BASE}/nodes/n1")
    assert found["window"] == f"{WINDOW:.3f}s"


async def test_selectors_and_what_is_not_there(api: Harness) -> None:
    node: Node = api.node  # type: ignore[attr-defined]
    await run_pod(api, "a", "n1", app="x")
    await run_pod(api, "b", "n2", app="y")
    listed = await api.call("GET", f"{BASE}/pods?labelSelector=app=y")
    assert [each["metadata"]["name"] for each in listed["items"]] == ["b"]
    listed = await api.call("GET", f"{BASE}/pods?fieldSelector=metadata.name=a")
    assert [each["metadata"]["name"] for each in listed["items"]] == ["a"]
    node.silent.add("n2")
    node.now += 60
    listed = await api.call("GET", f"{BASE}/pods")
    assert [each["metadata"]["name"] for each in listed["items"]] == ["a"]
    assert len((await api.call("GET", f"{BASE}/nodes"))["items"]) == 1
    error = await api.call("GET", f"{BASE}/nodes/n3", status=404)
    assert error["details"]["group"] == "metrics.k8s.io"
    await api.call("GET", f"{BASE}/ships", status=404)
    await api.call("POST", f"{BASE}/nodes", {}, status=405)
    discovered = await api.call("GET", BASE)
    assert {each["name"] for each in discovered["resources"]} == {"nodes", "pods"}
    assert await asyncio.gather(*(api.call("GET", f"{BASE}/nodes/n1") for _ in range(5)))
