"""From what metrics ask for to what is done: stabilization, rates, and the bounds of the spec. Pure but for `History`.

Without `behavior`: fewer only if nothing more was asked for within the stabilization window, more at most doubles (4 at least).
With it: each direction has a window of its own, and policies that say how many pods or per cent may change in a period.
https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#configurable-scaling-behavior
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sampan.controllers.autoscaling.settings import Settings

Object = dict[str, Any]
Reason = tuple[str, str]  # reason, message

READY: Reason = ("ReadyForNewScale", "recommended size matches current size")
UP_STABILIZED: Reason = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
)
DOWN_STABILIZED: Reason = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
)
WITHIN: Reason = ("DesiredWithinRange", "the desired count is within the acceptable range")
TOO_FAST: Reason = (
    "ScaleUpLimit",
    "the desired replica count is increasing faster than the maximum scale rate",
)
TOO_FAST_DOWN: Reason = (
    "ScaleDownLimit",
    "the desired replica count is decreasing faster than the maximum scale rate",
)
TOO_MANY: Reason = (
    "TooManyReplicas",
    "the desired replica count is more than the maximum replica count",
)
TOO_FEW: Reason = (
    "TooFewReplicas",
    "the desired replica count is less than the minimum replica count",
)
DOUBLING, AT_LEAST = 2, 4  # how fast it may grow where nothing is said


@dataclass(slots=True)
class History:
    """What was asked for and done lately, in memory alone: a restart begins with what is."""

    recommendations: list[tuple[float, int]] = field(default_factory=list)  # when, replicas
    ups: list[tuple[float, int]] = field(default_factory=list)  # when, by how many
    downs: list[tuple[float, int]] = field(default_factory=list)

    def rescaled(self, before: int, after: int, behavior: Object | None, now: float) -> None:
        if behavior is None:
            return
        events, rules = (
            (self.ups, behavior["scaleUp"])
            if after > before
            else (self.downs, behavior["scaleDown"])
        )
        longest = max((p["periodSeconds"] for p in rules.get("policies") or ()), default=0)
        events[:] = [each for each in events if each[0] >= now - longest]
        events.append((now, abs(after - before)))


class Decision(NamedTuple):
    replicas: int
    able: Reason  # condition AbleToScale, which is True
    limited: bool
    why: Reason  # condition ScalingLimited


def decide(
    history: History,
    current: int,
    wanted: int,
    least: int,
    most: int,
    behavior: Object | None,
    settings: Settings,
    now: float,
) -> Decision:
    if behavior is None:
        settled = _stabilized(history, wanted, settings.downscale_stabilization, now, max)
        able = READY if settled == wanted else DOWN_STABILIZED
        replicas, why = _bounded(current, settled, least, most)
    else:
        settled, able = _settled(history, current, wanted, behavior, settings, now)
        replicas, why = _paced(history, current, settled, least, most, behavior, now)
    return Decision(replicas, able, replicas != settled, why)


def _stabilized(
    history: History,
    wanted: int,
    window: float,
    now: float,
    better: Callable[[int, int], int],
    kept: float | None = None,
) -> int:
    """The best recommendation of the window; the new one joins them. `kept`: for how long they are remembered."""
    settled = wanted
    for moment, replicas in history.recommendations:
        if moment > now - window:
            settled = better(settled, replicas)
    oldest = now - (window if kept is None else kept)
    recent = [each for each in history.recommendations if each[0] >= oldest]
    history.recommendations = [*recent, (now, wanted)]
    return settled


def _settled(
    history: History,
    current: int,
    wanted: int,
    behavior: Object,
    settings: Settings,
    now: float,
) -> tuple[int, Reason]:
    up = behavior["scaleUp"].get("stabilizationWindowSeconds", 0)
    down = behavior["scaleDown"].get("stabilizationWindowSeconds")
    down = settings.downscale_stabilization if down is None else down
    kept = max(up, down)
    if wanted >= current:
        settled = _stabilized(history, wanted, up, now, min, kept)
        return settled, READY if settled == wanted else UP_STABILIZED
    settled = _stabilized(history, wanted, down, now, max, kept)
    return settled, READY if settled == wanted else DOWN_STABILIZED


def _bounded(current: int, wanted: int, least: int, most: int) -> tuple[int, Reason]:
    fastest = max(DOUBLING * current, AT_LEAST)
    if wanted < least:
        return least, TOO_FEW
    if wanted > min(most, fastest):
        return (fastest, TOO_FAST) if most > fastest else (most, TOO_MANY)
    return wanted, WITHIN


def _paced(
    history: History,
    current: int,
    wanted: int,
    least: int,
    most: int,
    behavior: Object,
    now: float,
) -> tuple[int, Reason]:
    if wanted > current:
        fastest = max(_highest(current, behavior["scaleUp"], history.ups, now), current)
        limit, why = (fastest, TOO_FAST) if most > fastest else (most, TOO_MANY)
        if wanted > limit:
            return limit, why
    elif wanted < current:
        slowest = min(_lowest(current, behavior["scaleDown"], history.downs, now), current)
        limit, why = (slowest, TOO_FAST_DOWN) if least < slowest else (least, TOO_FEW)
        if wanted < limit:
            return limit, why
    return wanted, WITHIN


def _changed(events: list[tuple[float, int]], period: float, now: float) -> int:
    return sum(change for moment, change in events if moment > now - period)


def _highest(current: int, rules: Object, ups: list[tuple[float, int]], now: float) -> int:
    if rules.get("selectPolicy") == "Disabled":
        return current
    limits = []
    for policy in rules.get("policies") or ():
        start = current - _changed(ups, policy["periodSeconds"], now)
        if policy["type"] == "Pods":
            limits.append(start + policy["value"])
        else:  # rounded up, so that a small share still grows
            limits.append(math.ceil(start * (1 + policy["value"] / 100)))
    if not limits:
        return current
    return min(limits) if rules.get("selectPolicy") == "Min" else max(limits)


def _lowest(current: int, rules: Object, downs: list[tuple[float, int]], now: float) -> int:
    if rules.get("selectPolicy") == "Disabled":
        return current
    limits = []
    for policy in rules.get("policies") or ():
        start = current + _changed(downs, policy["periodSeconds"], now)
        if policy["type"] == "Pods":
            limits.append(start - policy["value"])
        else:
            limits.append(int(start * (1 - policy["value"] / 100)))
    if not limits:
        return current
    return max(limits) if rules.get("selectPolicy") == "Min" else min(limits)
