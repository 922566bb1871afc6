"""policy and autoscaling: how many pods there must be, and how many there may be."""

from __future__ import annotations

from typing import Final

from sampan.kube import names
from sampan.kube.errors import forbidden_field, invalid_value, not_supported, required
from sampan.kube.validation import rules
from sampan.kube.validation.rules import Causes, Object, Rules

_EVICTION: Final = frozenset(("AlwaysAllow", "IfHealthyBudget"))
_METRICS: Final = {
    "ContainerResource": "containerResource",
    "External": "external",
    "Object": "object",
    "Pods": "pods",
    "Resource": "resource",
}
_TARGETS: Final = frozenset(("AverageValue", "Utilization", "Value"))
_SELECT: Final = frozenset(("Disabled", "Max", "Min"))
_POLICIES: Final = frozenset(("Percent", "Pods"))
_MAX_WINDOW: Final = 3600
_MAX_PERIOD: Final = 1800


def _budget(budget: Object, causes: Causes) -> None:
    spec = budget.get("spec") or {}
    least, most = spec.get("minAvailable"), spec.get("maxUnavailable")
    if least is not None and most is not None:
        text = "minAvailable and maxUnavailable cannot be both set"
        causes.append(invalid_value("spec", spec, text))
    for field, value in (("minAvailable", least), ("maxUnavailable", most)):
        if value is not None:
            rules.int_or_percent(causes, f"spec.{field}", value)
            rules.at_most_hundred_percent(causes, f"spec.{field}", value)
    rules.label_selector(causes, "spec.selector", spec.get("selector"))
    policy = spec.get("unhealthyPodEvictionPolicy")
    if policy is not None and policy not in _EVICTION:
        path = "spec.unhealthyPodEvictionPolicy"
        causes.append(not_supported(path, policy, sorted(_EVICTION)))


def _autoscaler(autoscaler: Object, causes: Causes) -> None:
    spec = autoscaler.get("spec") or {}
    least, most = spec.get("minReplicas"), spec.get("maxReplicas") or 0
    if least is not None and least < 1:
        text = "must be greater than or equal to 1"
        causes.append(invalid_value("spec.minReplicas", least, text))
    if most < 1:
        causes.append(invalid_value("spec.maxReplicas", most, "must be greater than 0"))
    if least is not None and most < least:
        text = "must be greater than or equal to `minReplicas`"
        causes.append(invalid_value("spec.maxReplicas", most, text))
    target = spec.get("scaleTargetRef") or {}
    for field in ("kind", "name"):
        path = f"spec.scaleTargetRef.{field}"
        rules.required_name(causes, path, target.get(field), names.path_segment)
    for index, metric in enumerate(spec.get("metrics") or ()):
        _metric(metric, causes, f"spec.metrics[{index}]")
    for direction in ("scaleUp", "scaleDown"):
        if found := (spec.get("behavior") or {}).get(direction):
            _scaling(found, causes, f"spec.behavior.{direction}")


def _metric(metric: Object, causes: Causes, path: str) -> None:
    kind = metric.get("type") or ""
    if not kind:
        causes.append(required(f"{path}.type", "must specify a metric source type"))
        return
    if kind not in _METRICS:
        causes.append(not_supported(f"{path}.type", kind, sorted(_METRICS)))
        return
    field = _METRICS[kind]
    source = metric.get(field)
    if source is None:
        text = "must populate information for the given metric source"
        causes.append(required(f"{path}.{field}", text))
        return
    for other in _METRICS.values():
        if other != field and metric.get(other) is not None:
            text = "must populate the given metric source only"
            causes.append(forbidden_field(f"{path}.{other}", text))
    where = f"{path}.{field}"
    if kind in ("Resource", "ContainerResource"):
        if not source.get("name"):
            causes.append(required(f"{where}.name", "must specify a resource name"))
    else:
        name = (source.get("metric") or {}).get("name")
        if not name:
            causes.append(required(f"{where}.metric.name", "must specify a metric name"))
    _target(source.get("target") or {}, causes, f"{where}.target")


def _target(target: Object, causes: Causes, path: str) -> None:
    kind = target.get("type") or ""
    if not kind:
        causes.append(required(f"{path}.type", "must specify a metric target type"))
    elif kind not in _TARGETS:
        text = "must be either Utilization, Value, or AverageValue"
        causes.append(invalid_value(f"{path}.type", kind, text))
    share = target.get("averageUtilization")
    if share is not None and share < 1:
        text = "must be greater than 0"
        causes.append(invalid_value(f"{path}.averageUtilization", share, text))
    for field in ("value", "averageValue"):
        if (amount := target.get(field)) is not None and rules.parsed(amount).nanos() <= 0:
            causes.append(invalid_value(f"{path}.{field}", amount, "must be positive"))


def _scaling(found: Object, causes: Causes, path: str) -> None:
    window = found.get("stabilizationWindowSeconds")
    if window is not None and not 0 <= window <= _MAX_WINDOW:
        text = (
            "must be greater than or equal to zero"
            if window < 0
            else f"must be less than or equal to {_MAX_WINDOW}"
        )
        causes.append(invalid_value(f"{path}.stabilizationWindowSeconds", window, text))
    select = found.get("selectPolicy")
    if select is not None and select not in _SELECT:
        causes.append(not_supported(f"{path}.selectPolicy", select, sorted(_SELECT)))
    if not found.get("policies"):
        causes.append(required(f"{path}.policies", "must specify at least one Policy"))
    for index, policy in enumerate(found.get("policies") or ()):
        where = f"{path}.policies[{index}]"
        if policy.get("type") not in _POLICIES:
            kind = policy.get("type") or ""
            causes.append(not_supported(f"{where}.type", kind, sorted(_POLICIES)))
        rules.positive(causes, f"{where}.value", policy.get("value") or 0)
        period = policy.get("periodSeconds") or 0
        rules.positive(causes, f"{where}.periodSeconds", period)
        if period > _MAX_PERIOD:
            text = f"must be less than or equal to {_MAX_PERIOD}"
            causes.append(invalid_value(f"{where}.periodSeconds", period, text))


RULES = {
    ("policy", "PodDisruptionBudget"): Rules(_budget),
    ("autoscaling", "HorizontalPodAutoscaler"): Rules(_autoscaler),
}
