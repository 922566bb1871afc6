"""HorizontalPodAutoscalers against the real API server; tests say what the metrics APIs answer."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from conftest import World, workload

from sampan.apiserver.auth import User
from sampan.client.resources import DEPLOYMENTS, EVENTS, HORIZONTALPODAUTOSCALERS, PODS
from sampan.client.transport import Request, Response
from sampan.controllers.base import stamp
from sampan.kube.errors import ApiError
from sampan.kube.objects import condition
from sampan.kube.types import GVR

Object = dict[str, Any]
V1 = GVR("autoscaling", "v1", "horizontalpodautoscalers")
FAST = ("horizontal-pod-autoscaler-sync-period=100ms",)
HALF = {"type": "Utilization", "averageUtilization": 50}
CPU = {"type": "Resource", "resource": {"name": "cpu", "target": HALF}}


class Told:
    """A metrics API of this process: answers with the items of a path, 404 for others."""

    def __init__(self, group: str, version: str) -> None:
        self.group, self.version = group, version
        self.items: dict[str, list[Object]] = {}

    def resources(self) -> Object:
        return {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": f"{self.group}/{self.version}",
            "resources": [],
        }

    def openapi(self) -> Object:
        return {"openapi": "3.0.0", "info": {"title": self.group, "version": "1"}, "paths": {}}

    async def respond(self, request: Request, info: Any, user: User) -> Response:
        path = request.path.removeprefix(f"/apis/{self.group}/{self.version}/")
        if path not in self.items:
            raise ApiError(404, "NotFound", f"nothing is told of {path}")
        body = {"kind": "List", "apiVersion": "v1", "items": self.items[path]}
        return Response(200, {"Content-Type": "application/json"}, orjson.dumps(body))


def told(world: World, group: str, version: str = "v1beta1") -> Told:
    made = Told(group, version)
    world.server.aggregator.extensions[group, version] = made
    return made


def use(world: World, metrics: Told, **cpu: str) -> None:
    """What each pod uses."""
    metrics.items["namespaces/default/pods"] = [
        {
            "metadata": {"name": name, "namespace": "default"},
            "timestamp": stamp(world.clock.wall()),
            "window": "1s",
            "containers": [{"name": "c", "usage": {"cpu": value, "memory": "10Mi"}}],
        }
        for name, value in cpu.items()
    ]


def autoscaler(*metrics: Object, name: str = "web", **spec: Any) -> Object:
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "maxReplicas": 5,
            "metrics": list(metrics or [CPU]),
            **spec,
        },
    }


@pytest.fixture
async def fleet(idle: World):
    """A Deployment `web` of one ready pod that asks for half a processor."""
    await idle.start(arguments=FAST)
    made = workload("Deployment", replicas=1)
    container = made["spec"]["template"]["spec"]["containers"][0]
    container["resources"] = {"requests": {"cpu": "500m"}}
    await idle.client.create(DEPLOYMENTS, made, "default")
    await ready(idle, 1)
    return idle


async def ready(world: World, count: int) -> list[str]:
    """Names of the `count` pods, all made ready an hour ago."""
    pods = await world.until(PODS, lambda items: len(items) == count and items)
    for pod in pods:
        await world.set_pod(pod["metadata"]["name"], startTime=stamp(world.clock.wall() - 3600))
    return [pod["metadata"]["name"] for pod in pods]


def says(kind: str, reason: str, text: str = "") -> Any:
    def holds(found: Object) -> bool:
        told = condition(found, kind) or {}
        return told.get("reason") == reason and text in told.get("message", "")

    return holds


async def size(world: World, count: int) -> Object:
    return await world.get_until(DEPLOYMENTS, "web", lambda o: o["spec"]["replicas"] == count)


async def test_usage_makes_more_and_later_fewer(fleet: World) -> None:
    metrics = told(fleet, "metrics.k8s.io")
    (first,) = await ready(fleet, 1)
    use(fleet, metrics, **{first: "500m"})
    fleet.clock.shift = 3600  # the pod's first minutes are over
    use(fleet, metrics, **{first: "500m"})
    await fleet.client.create(HORIZONTALPODAUTOSCALERS, autoscaler(), "default")
    await size(fleet, 2)
    event = await fleet.until(
        EVENTS, lambda items: [e for e in items if e["reason"] == "SuccessfulRescale"]
    )
    assert event[0]["message"] == (
        "New size: 2; reason: cpu resource utilization (percentage of request) above target"
    )
    names = await ready(fleet, 2)
    use(fleet, metrics, **dict.fromkeys(names, "250m"))
    found = await fleet.get_until(
        HORIZONTALPODAUTOSCALERS, "web",
        lambda o: (o["status"].get("currentMetrics") or [{}])[0].get("resource", {}).get("current")
        == {"averageUtilization": 50, "averageValue": "250m"},
    )  # fmt: skip
    status = found["status"]
    assert (status["currentReplicas"], status["desiredReplicas"]) == (2, 2)
    assert status["lastScaleTime"]
    text = (
        "the HPA was able to successfully calculate a replica count from cpu resource utilization "
        "(percentage of request)"
    )
    assert condition(found, "ScalingActive")["message"] == text
    assert condition(found, "ScalingLimited")["reason"] == "DesiredWithinRange"

    old = await fleet.client.get(V1, "web", "default")
    assert old["spec"]["targetCPUUtilizationPercentage"] == 50
    assert old["status"]["currentCPUUtilizationPercentage"] == 50
    conditions = old["metadata"]["annotations"]["autoscaling.alpha.kubernetes.io/conditions"]
    assert {c["type"] for c in orjson.loads(conditions)} == {
        "AbleToScale", "ScalingActive", "ScalingLimited",
    }  # fmt: skip

    use(fleet, metrics, **dict.fromkeys(names, "10m"))
    await fleet.get_until(
        HORIZONTALPODAUTOSCALERS, "web", says("AbleToScale", "ScaleDownStabilized")
    )
    fleet.clock.shift += 301
    use(fleet, metrics, **dict.fromkeys(names, "10m"))
    await size(fleet, 1)


async def test_without_metrics_nothing_is_scaled_and_it_says_why(fleet: World) -> None:
    told(fleet, "metrics.k8s.io")
    pods = {"metric": {"name": "fish"}, "target": {"type": "AverageValue", "averageValue": "1"}}
    await fleet.client.create(HORIZONTALPODAUTOSCALERS, autoscaler(), "default")
    found = await fleet.get_until(
        HORIZONTALPODAUTOSCALERS, "web", says("ScalingActive", "FailedGetResourceMetric")
    )
    assert condition(found, "ScalingActive")["message"] == (
        "the HPA was unable to compute the replica count: failed to get cpu utilization: unable to get "
        "metrics for resource cpu: unable to fetch metrics from resource metrics API: nothing is told of "
        "namespaces/default/pods"
    )
    assert condition(found, "AbleToScale")["reason"] == "SucceededGetScale"
    changed = autoscaler({"type": "Pods", "pods": pods})
    await fleet.client.patch(HORIZONTALPODAUTOSCALERS, "web", {"spec": changed["spec"]}, "default")
    reason = "no custom metrics API (custom.metrics.k8s.io) registered"
    await fleet.get_until(
        HORIZONTALPODAUTOSCALERS, "web", says("ScalingActive", "FailedGetPodsMetric", reason)
    )
    nobody = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "nobody"}
    await fleet.client.patch(
        HORIZONTALPODAUTOSCALERS, "web", {"spec": {"scaleTargetRef": nobody}}, "default"
    )
    await fleet.get_until(
        HORIZONTALPODAUTOSCALERS, "web",
        says("AbleToScale", "FailedGetScale", 'deployments.apps "nobody" not found'),
    )  # fmt: skip
    events = await fleet.until(
        EVENTS,
        lambda items: {"FailedGetResourceMetric", "FailedGetPodsMetric", "FailedGetScale",
                       "FailedComputeMetricsReplicas"} <= {e["reason"] for e in items} and items,
    )  # fmt: skip
    assert any(
        e["message"].startswith("invalid metrics (1 invalid out of 1), first error is: failed to "
                                "get cpu resource metric value: failed to get cpu utilization")
        for e in events
    )  # fmt: skip
    assert (await fleet.client.get(DEPLOYMENTS, "web", "default"))["spec"]["replicas"] == 1


async def test_metrics_of_objects_and_of_the_world(fleet: World) -> None:
    custom = told(fleet, "custom.metrics.k8s.io", "v1beta2")
    world = told(fleet, "external.metrics.k8s.io")
    (first,) = await ready(fleet, 1)
    value = {"timestamp": stamp(fleet.clock.wall()), "metric": {"name": "fish"}}
    custom.items["namespaces/default/pods/*/fish"] = [
        {**value, "describedObject": {"name": first}, "value": "3"}
    ]
    custom.items["namespaces/default/services/quay/fish"] = [
        {**value, "describedObject": {"name": "quay"}, "value": "2500m"}
    ]
    world.items["namespaces/default/whales"] = [{"value": "9"}, {"value": "1"}]
    quay = {"apiVersion": "v1", "kind": "Service", "name": "quay"}
    metrics = [
        {
            "type": "Pods",
            "pods": {
                "metric": {"name": "fish"},
                "target": {"type": "AverageValue", "averageValue": "1500m"},
            },
        },
        {
            "type": "Object",
            "object": {
                "metric": {"name": "fish"}, "describedObject": quay,
                "target": {"type": "Value", "value": "1"},
            },
        },
        {
            "type": "External",
            "external": {
                "metric": {"name": "whales"},
                "target": {"type": "AverageValue", "averageValue": "2500m"},
            },
        },
    ]  # fmt: skip
    made = autoscaler(*metrics)
    await fleet.client.create(HORIZONTALPODAUTOSCALERS, made, "default")
    await size(fleet, 4)  # pods: 2, object: 3, external: 4
    found = await fleet.get_until(
        HORIZONTALPODAUTOSCALERS, "web", says("AbleToScale", "SucceededRescale")
    )
    current = [m[m["type"].lower()]["current"] for m in found["status"]["currentMetrics"]]
    assert current == [{"averageValue": "3"}, {"value": "2500m"}, {"averageValue": "10"}]
    columns = await fleet.client.raw(
        "GET", "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/web",
        headers={"accept": "application/json;as=Table;g=meta.k8s.io;v=v1"},
    )  # fmt: skip
    cells = columns.json()["rows"][0]["cells"]
    assert cells[:5] == ["web", "Deployment/web", "3/1500m, 2500m/1 + 1 more...", "1", 5]


async def test_bounds_hold_without_metrics_and_zero_is_left_alone(fleet: World) -> None:
    told(fleet, "metrics.k8s.io")
    made = autoscaler(minReplicas=3)
    await fleet.client.create(HORIZONTALPODAUTOSCALERS, made, "default")
    await size(fleet, 3)
    found = await fleet.get_until(
        HORIZONTALPODAUTOSCALERS, "web", says("AbleToScale", "SucceededRescale")
    )
    assert "to 3" in condition(found, "AbleToScale")["message"]
    await fleet.client.patch(DEPLOYMENTS, "web", {"spec": {"replicas": 0}}, "default")
    await fleet.get_until(HORIZONTALPODAUTOSCALERS, "web", says("ScalingActive", "ScalingDisabled"))
    assert (await fleet.client.get(DEPLOYMENTS, "web", "default"))["spec"]["replicas"] == 0


async def test_two_for_the_same_pods_do_nothing(fleet: World) -> None:
    metrics = told(fleet, "metrics.k8s.io")
    (first,) = await ready(fleet, 1)
    use(fleet, metrics, **{first: "250m"})
    for name in ("one", "two"):
        await fleet.client.create(HORIZONTALPODAUTOSCALERS, autoscaler(name=name), "default")
    both = "multiple HPAs: default/one, default/two"
    for name in ("one", "two"):
        await fleet.get_until(
            HORIZONTALPODAUTOSCALERS, name, says("ScalingActive", "AmbiguousSelector", both)
        )


async def test_a_custom_resource_is_scaled(fleet: World) -> None:
    """Anything with a /scale: the definition names the paths."""
    from sampan.client.resources import CUSTOMRESOURCEDEFINITIONS

    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    paths = {"specReplicasPath": ".spec.boats", "statusReplicasPath": ".status.boats",
             "labelSelectorPath": ".status.selector"}  # fmt: skip
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "fleets.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "fleets", "kind": "Fleet", "singular": "fleet"},
            "versions": [{"name": "v1", "served": True, "storage": True,
                          "schema": {"openAPIV3Schema": schema}, "subresources": {"scale": paths}}],
        },
    }  # fmt: skip
    await fleet.client.create(CUSTOMRESOURCEDEFINITIONS, definition)
    await fleet.until(
        CUSTOMRESOURCEDEFINITIONS,
        lambda items: any((condition(o, "Established") or {}).get("status") == "True" for o in items),
        "*",
    )  # fmt: skip
    fleets = GVR("example.com", "v1", "fleets")
    boats = {
        "apiVersion": "example.com/v1", "kind": "Fleet",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"boats": 1}, "status": {"boats": 1, "selector": "app=web"},
    }  # fmt: skip
    await fleet.client.create(fleets, boats, "default")
    metrics = told(fleet, "metrics.k8s.io")
    (first,) = await ready(fleet, 1)
    fleet.clock.shift = 3600
    use(fleet, metrics, **{first: "750m"})
    reference = {"apiVersion": "example.com/v1", "kind": "Fleet", "name": "web"}
    made = autoscaler(scaleTargetRef=reference)
    await fleet.client.create(HORIZONTALPODAUTOSCALERS, made, "default")
    await fleet.get_until(fleets, "web", lambda o: o["spec"]["boats"] == 3)
