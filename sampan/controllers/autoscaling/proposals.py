"""One metric of an autoscaler's spec: read, and turned into a number of replicas and its line in the status."""

from __future__ import annotations

from typing import Any, NamedTuple

from sampan.controllers.autoscaling.metrics import Metrics
from sampan.controllers.autoscaling.replicas import (
    NoMetric,
    Proposal,
    Tolerance,
    by_average,
    by_share,
    by_utilization,
    by_value,
)
from sampan.controllers.autoscaling.settings import Settings
from sampan.kube.quantity import Quantity, parse

Object = dict[str, Any]


class Target(NamedTuple):
    """What is scaled."""

    namespace: str
    replicas: int  # wanted now
    present: int  # status.replicas of its scale
    selector: str
    pods: list[Object]
    behavior: Object | None


class Measured(NamedTuple):
    replicas: int
    name: str  # for people: "cpu resource utilization (percentage of request)"
    status: Object  # a line of status.currentMetrics


def tolerance_of(behavior: Object | None, settings: Settings) -> Tolerance:
    """KEP-4951: a direction may have one of its own."""

    def of(direction: str) -> float:
        own = ((behavior or {}).get(direction) or {}).get("tolerance")
        return settings.tolerance if own is None else parse(own).milli() / 1000

    return Tolerance(of("scaleDown"), of("scaleUp"))


async def measure(
    metrics: Metrics, metric: Object, target: Target, settings: Settings, now: float
) -> Measured:
    """Raises NoMetric."""
    kind = metric["type"]
    tolerance = tolerance_of(target.behavior, settings)
    if kind in ("Resource", "ContainerResource"):
        return await _resource(metrics, metric, target, settings, tolerance, now)
    if kind == "Pods":
        return await _pods(metrics, metric["pods"], target, settings, tolerance, now)
    if kind == "Object":
        return await _object(metrics, metric["object"], target, tolerance)
    if kind == "External":
        return await _external(metrics, metric["external"], target, tolerance)
    raise NoMetric(f"unknown metric source type {kind!r}")


async def _resource(
    metrics: Metrics,
    metric: Object,
    target: Target,
    settings: Settings,
    tolerance: Tolerance,
    now: float,
) -> Measured:
    kind = metric["type"]
    key = "resource" if kind == "Resource" else "containerResource"
    source = metric[key]
    name, container, wanted = source["name"], source.get("container", ""), source["target"]
    label = f"{name} container resource" if container else f"{name} resource"
    share, average = wanted.get("averageUtilization"), wanted.get("averageValue")
    try:
        if share is None and average is None:
            raise NoMetric(
                "invalid resource metric source: neither an average utilization target nor an average value "
                "(usage) target was set"
            )
        try:
            samples = await metrics.resource(target.namespace, name, target.selector, container)
        except NoMetric as error:
            raise NoMetric(f"unable to get metrics for resource {name}: {error}") from None
        if average is not None:
            found = by_average(
                target.replicas, parse(average).milli(), samples, target.pods, settings, tolerance,
                now, resource=name,
            )  # fmt: skip
        else:
            label += " utilization (percentage of request)"
            found = by_utilization(
                target.replicas, share, samples, target.pods, name, settings, tolerance, now,
                container,
            )  # fmt: skip
    except NoMetric as error:
        what = "usage" if average is not None else "utilization"
        raise NoMetric(f"failed to get {name} {what}: {error}") from None
    shown: Object = {"averageValue": _milli(found.value)}
    if found.utilization is not None:
        shown["averageUtilization"] = found.utilization
    line: Object = {"name": name, "current": shown}
    if container:
        line["container"] = container
    return Measured(found.replicas, label, {"type": kind, key: line})


async def _pods(
    metrics: Metrics,
    source: Object,
    target: Target,
    settings: Settings,
    tolerance: Tolerance,
    now: float,
) -> Measured:
    name = source["metric"]["name"]
    try:
        samples = await metrics.of_pods(target.namespace, source["metric"], target.selector)
    except NoMetric as error:
        raise NoMetric(f"unable to get metric {name}: {error}") from None
    wanted = parse(source["target"]["averageValue"]).milli()
    found = by_average(target.replicas, wanted, samples, target.pods, settings, tolerance, now)
    line = {"metric": source["metric"], "current": {"averageValue": _milli(found.value)}}
    return Measured(found.replicas, f"pods metric {name}", {"type": "Pods", "pods": line})


async def _object(
    metrics: Metrics, source: Object, target: Target, tolerance: Tolerance
) -> Measured:
    described, name = source["describedObject"], source["metric"]["name"]
    try:
        value = await metrics.of_object(target.namespace, source["metric"], described)
    except NoMetric as error:
        place = f"{described['kind']} {target.namespace}/{described['name']}"
        raise NoMetric(f"unable to get metric {name}: {place} {error}") from None
    found, shown = _one(value, source["target"], target, tolerance)
    line = {"metric": source["metric"], "describedObject": described, "current": shown}
    label = f"{described['kind']} metric {name}"
    return Measured(found.replicas, label, {"type": "Object", "object": line})


async def _external(
    metrics: Metrics, source: Object, target: Target, tolerance: Tolerance
) -> Measured:
    name = source["metric"]["name"]
    try:
        value = await metrics.external(target.namespace, source["metric"])
    except NoMetric as error:
        text = f"unable to get external metric {target.namespace}/{name}: {error}"
        raise NoMetric(f"failed to get {name} external metric: {text}") from None
    found, shown = _one(value, source["target"], target, tolerance)
    line = {"metric": source["metric"], "current": shown}
    return Measured(
        found.replicas, f"external metric {name}", {"type": "External", "external": line}
    )


def _one(
    value: int, wanted: Object, target: Target, tolerance: Tolerance
) -> tuple[Proposal, Object]:
    """One measure for all pods, against a value or an average a pod."""
    if wanted.get("averageValue") is not None:
        share = parse(wanted["averageValue"]).milli()
        found = by_share(target.present, share, value, tolerance)
        return found, {"averageValue": _milli(found.value)}
    if wanted.get("value") is None:
        raise NoMetric(
            "invalid metric source: neither a value target nor an average value target was set"
        )
    found = by_value(target.replicas, parse(wanted["value"]).milli(), value, target.pods, tolerance)
    return found, {"value": _milli(found.value)}


def _milli(value: int) -> str:
    return str(Quantity.of_milli(value))
