"""How many replicas a measure asks for. Pure: pods, samples and a target in, a number out.

    desired = ceil(ready pods × usage / target), unless usage is within the tolerance of the target

Pods that cannot be counted on pull towards no change: one whose sample is missing counts as using all that it asked for when the
others say "fewer", and nothing when they say "more"; one that is not ready yet counts as using nothing when they say "more". If that
turns the direction, nothing is changed.
https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#algorithm-details

Values are thousandths (`100m` of CPU is 100), as the API's own arithmetic has them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from sampan.controllers.autoscaling.settings import Settings
from sampan.kube.objects import condition, is_deleting, parse_time, pod_ready
from sampan.kube.quantity import parse

Object = dict[str, Any]
Values = dict[str, int]  # by pod's name, thousandths


class NoMetric(Exception):
    """A number of replicas cannot be told; why, in words."""


@dataclass(frozen=True, slots=True)
class Sample:
    value: int  # thousandths
    at: float  # seconds since the epoch: the end of the window
    window: float = 60.0  # seconds


Samples = Mapping[str, Sample]  # by pod's name


class Proposal(NamedTuple):
    replicas: int
    value: int  # what a pod uses on average, or the measure itself; thousandths
    utilization: int | None = None  # per cent of what is asked for


class Tolerance(NamedTuple):
    down: float
    up: float

    def holds(self, ratio: float) -> bool:
        return 1.0 - self.down <= ratio <= 1.0 + self.up


class Groups(NamedTuple):
    ready: int  # pods that count
    unready: frozenset[str]
    missing: frozenset[str]  # without a sample
    ignored: frozenset[str]  # on their way out


def group(
    pods: Iterable[Object], samples: Samples, settings: Settings, now: float, *, cpu: bool
) -> Groups:
    """Only samples of CPU depend on readiness: what a start costs says nothing about the load."""
    ready, unready, missing, ignored = 0, set(), set(), set()
    for pod in pods:
        name, status = pod["metadata"]["name"], pod.get("status") or {}
        if is_deleting(pod) or status.get("phase") == "Failed":
            ignored.add(name)
        elif status.get("phase", "Pending") == "Pending":
            unready.add(name)
        elif name not in samples:
            missing.add(name)
        elif cpu and _is_starting(pod, samples[name], settings, now):
            unready.add(name)
        else:
            ready += 1
    return Groups(ready, frozenset(unready), frozenset(missing), frozenset(ignored))


def _is_starting(pod: Object, sample: Sample, settings: Settings, now: float) -> bool:
    found, started = condition(pod, "Ready"), pod["status"].get("startTime")
    if found is None or not started:
        return True
    begun = parse_time(started).timestamp()
    unready = found.get("status") == "False"
    turned = parse_time(found["lastTransitionTime"]).timestamp()
    if now < begun + settings.cpu_initialization_period:
        # a window that began before the pod was ready measures the start
        return unready or sample.at < turned + sample.window
    return unready and turned < begun + settings.initial_readiness_delay


def requests(pods: Iterable[Object], resource: str, container: str = "") -> Values:
    """What each pod asks for, of one container or of all that run side by side. Raises NoMetric where nothing is asked for."""
    found: Values = {}
    for pod in pods:
        spec, name = pod["spec"], pod["metadata"]["name"]
        sidecars = [
            each
            for each in spec.get("initContainers") or ()
            if each.get("restartPolicy") == "Always"
        ]
        chosen = [
            each
            for each in (*spec["containers"], *sidecars)
            if not container or each["name"] == container
        ]
        whole = ((spec.get("resources") or {}).get("requests") or {}).get(resource)
        if whole is not None and not container:
            found[name] = parse(whole).milli()
            continue
        for each in chosen:
            asked = ((each.get("resources") or {}).get("requests") or {}).get(resource)
            if asked is None:
                raise NoMetric(
                    f"missing request for {resource} in container {each['name']} of Pod {name}"
                )
            found[name] = found.get(name, 0) + parse(asked).milli()
    return found


def _settle(
    current: int,
    groups: Groups,
    values: Values,
    ratio: Callable[[Values], float],
    wanted_of: Callable[[str], int],
    tolerance: Tolerance,
) -> int:
    """`wanted_of(pod)`: what a pod without a sample counts as using when there should be fewer."""
    usage = ratio(values)
    rebalance = bool(groups.unready) and usage > 1.0
    if not rebalance and not groups.missing:
        return current if tolerance.holds(usage) else math.ceil(usage * groups.ready)
    filled = dict(values)
    if usage < 1.0:
        filled |= {name: wanted_of(name) for name in groups.missing}
    elif usage > 1.0:
        filled |= dict.fromkeys(groups.missing, 0)
    if rebalance:
        filled |= dict.fromkeys(groups.unready, 0)
    again = ratio(filled)
    if tolerance.holds(again) or (usage < 1.0 < again) or (usage > 1.0 > again):
        return current
    desired = math.ceil(again * len(filled))
    if (again < 1.0 and desired > current) or (again > 1.0 and desired < current):
        return current
    return desired


def _counted(pods: list[Object], groups: Groups, samples: Samples) -> Values:
    if not pods:
        raise NoMetric("no pods returned by selector while calculating replica count")
    left_out = groups.unready | groups.ignored
    values = {name: each.value for name, each in samples.items() if name not in left_out}
    if not values:
        raise NoMetric("did not receive metrics for targeted pods (pods might be unready)")
    return values


def by_utilization(
    current: int,
    target: int,
    samples: Samples,
    pods: list[Object],
    resource: str,
    settings: Settings,
    tolerance: Tolerance,
    now: float,
    container: str = "",
) -> Proposal:
    """`target`: per cent of what pods ask for. Raises NoMetric."""
    groups = group(pods, samples, settings, now, cpu=resource == "cpu")
    values = _counted(pods, groups, samples)
    asked = requests(pods, resource, container)

    def utilization(found: Values) -> int:
        known = [name for name in found if name in asked]
        total = sum(asked[name] for name in known)
        if not total:
            raise NoMetric("no metrics returned matched known pods")
        return sum(found[name] for name in known) * 100 // total

    def ratio(found: Values) -> float:
        return utilization(found) / target

    def most(name: str) -> int:
        return asked.get(name, 0) * max(100, target) // 100

    used = [values[name] for name in values if name in asked]
    replicas = _settle(current, groups, values, ratio, most, tolerance)
    return Proposal(replicas, sum(used) // max(len(used), 1), utilization(values))


def by_average(
    current: int,
    target: int,
    samples: Samples,
    pods: list[Object],
    settings: Settings,
    tolerance: Tolerance,
    now: float,
    *,
    resource: str = "",
) -> Proposal:
    """`target`: thousandths a pod. Raises NoMetric."""
    groups = group(pods, samples, settings, now, cpu=resource == "cpu")
    values = _counted(pods, groups, samples)

    def average(found: Values) -> int:
        return sum(found.values()) // len(found)

    def ratio(found: Values) -> float:
        return average(found) / target

    replicas = _settle(current, groups, values, ratio, lambda name: target, tolerance)
    return Proposal(replicas, average(values))


def by_value(
    current: int, target: int, value: int, pods: list[Object], tolerance: Tolerance
) -> Proposal:
    """One measure for all, against one target for all. From zero replicas it asks for what the measure is worth."""
    ratio = value / target
    if not current:
        return Proposal(math.ceil(ratio), value)
    if tolerance.holds(ratio):
        return Proposal(current, value)
    if not pods:
        raise NoMetric("no pods returned by selector while calculating replica count")
    ready = sum(
        (pod.get("status") or {}).get("phase") == "Running" and pod_ready(pod) for pod in pods
    )
    return Proposal(math.ceil(ratio * ready), value)


def by_share(replicas: int, target: int, value: int, tolerance: Tolerance) -> Proposal:
    """One measure for all, against a target a pod; `replicas` are those that are there."""
    shown = math.ceil(value / replicas) if replicas else 0
    if replicas and tolerance.holds(value / (target * replicas)):
        return Proposal(replicas, shown)
    return Proposal(math.ceil(value / target), shown)
