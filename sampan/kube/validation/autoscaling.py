"""HorizontalPodAutoscaler and Scale: how many pods there may be, and by which measure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sampan.kube import names
from sampan.kube.errors import forbidden_field, invalid_value, not_supported, required
from sampan.kube.validation import resources, rules
from sampan.kube.validation.rules import Causes, Object, Rules

# In the order in which they are looked at.
_METRICS: Final = {
    "Object": "object",
    "External": "external",
    "Pods": "pods",
    "Resource": "resource",
    "ContainerResource": "containerResource",
}
_TARGETS: Final = frozenset(("AverageValue", "Utilization", "Value"))
_SELECT: Final = ("Disabled", "Max", "Min")
_POLICIES: Final = ("Percent", "Pods")
_MAX_WINDOW: Final = 3600
_MAX_PERIOD: Final = 1800


def _autoscaler(autoscaler: Object, causes: Causes) -> None:
    _spec(autoscaler.get("spec") or {}, causes, 1)


def _update(new: Object, old: Object, causes: Causes) -> None:
    """Scaling to zero is a gated feature; who has it keeps it, and so it is with references without a group."""
    before, after = old.get("spec") or {}, new.get("spec") or {}
    was, now = before.get("scaleTargetRef") or {}, after.get("scaleTargetRef") or {}
    same = all((was.get(each) or "") == (now.get(each) or "") for each in ("apiVersion", "kind"))
    bad = any(
        _wrong_version((metric.get("object") or {}).get("describedObject") or {}, group=False)
        for metric in before.get("metrics") or ()
    )
    lowest = 0 if before.get("minReplicas") == 0 else 1
    _spec(after, causes, lowest, kept_target=same, kept_metrics=bad)


def _status(new: Object, old: Object, causes: Causes) -> None:
    status = new.get("status") or {}
    for field in ("currentReplicas", "desiredReplicas"):
        rules.not_negative(causes, f"status.{field}", status.get(field))


def _spec(
    spec: Object,
    causes: Causes,
    lowest: int,
    *,
    kept_target: bool = False,
    kept_metrics: bool = False,
) -> None:
    least, most = spec.get("minReplicas"), spec.get("maxReplicas") or 0
    if least is not None and least < lowest:
        text = f"must be greater than or equal to {lowest}"
        causes.append(invalid_value("spec.minReplicas", least, text))
    if most < 1:
        causes.append(invalid_value("spec.maxReplicas", most, "must be greater than 0"))
    if least is not None and most < least:
        text = "must be greater than or equal to `minReplicas`"
        causes.append(invalid_value("spec.maxReplicas", most, text))
    target = spec.get("scaleTargetRef") or {}
    _reference(target, causes, "spec.scaleTargetRef")
    group = target.get("kind") != "ReplicationController"
    if not kept_target and (text := _wrong_version(target, group=group)):
        version = target.get("apiVersion") or ""
        causes.append(invalid_value("spec.scaleTargetRef.apiVersion", version, text))
    metrics = spec.get("metrics") or []
    for index, metric in enumerate(metrics):
        _metric(metric, causes, f"spec.metrics[{index}]")
        described = (metric.get("object") or {}).get("describedObject") or {}
        if not kept_metrics and (text := _wrong_version(described, group=False)):
            where = f"spec.metrics[{index}].object.describedObject.apiVersion"
            causes.append(invalid_value(where, described["apiVersion"], text))
    if least == 0 and not any(metric.get("type") in ("Object", "External") for metric in metrics):
        text = (
            "must specify at least one Object or External metric to support scaling to zero "
            "replicas"
        )
        causes.append(forbidden_field("spec.metrics", text))
    for direction in ("scaleUp", "scaleDown"):
        if (found := (spec.get("behavior") or {}).get(direction)) is not None:
            _scaling(found, causes, f"spec.behavior.{direction}")


def _reference(found: Object, causes: Causes, path: str) -> None:
    for field in ("kind", "name"):
        value = found.get(field)
        rules.required_name(causes, f"{path}.{field}", value, names.path_segment)


def _wrong_version(reference: Object, *, group: bool) -> str:
    """What is wrong with the apiVersion of a reference, if anything. `group`: it must name one."""
    version = reference.get("apiVersion") or ""
    if version.count("/") > 1:
        return f"unexpected GroupVersion string: {version}"
    return "apiVersion must specify API group" if group and "/" not in version else ""


def _metric(metric: Object, causes: Causes, path: str) -> None:
    kind = metric.get("type") or ""
    if not kind:
        causes.append(required(f"{path}.type", "must specify a metric source type"))
    if kind not in _METRICS:  # said twice
        causes += [not_supported(f"{path}.type", kind, sorted(_METRICS))] * 2
    present = [field for field in _METRICS.values() if metric.get(field) is not None]
    if present:
        first = present[0]
        _SOURCES[first](metric[first], causes, f"{path}.{first}")
    wanted = _METRICS.get(kind)
    if wanted and wanted not in present:
        text = "must populate information for the given metric source"
        causes.append(required(f"{path}.{wanted}", text))
    if len(present) != 1:
        for field in present:
            if field != wanted:
                text = "must populate the given metric source only"
                causes.append(forbidden_field(f"{path}.{field}", text))


def _object(source: Object, causes: Causes, path: str) -> None:
    _reference(source.get("describedObject") or {}, causes, f"{path}.describedObject")
    _identifier(source, causes, path)
    target = _target(source, causes, path)
    if target.get("value") is None and target.get("averageValue") is None:
        text = "must set either a target value or averageValue"
        causes.append(required(f"{path}.target.averageValue", text))


def _external(source: Object, causes: Causes, path: str) -> None:
    _identifier(source, causes, path)
    target = _target(source, causes, path)
    whole, each = target.get("value"), target.get("averageValue")
    if whole is None and each is None:
        text = "must set either a target value for metric or a per-pod target"
        causes.append(required(f"{path}.target.averageValue", text))
    if whole is not None and each is not None:
        text = "may not set both a target value for metric and a per-pod target"
        causes.append(forbidden_field(f"{path}.target.value", text))


def _pods(source: Object, causes: Causes, path: str) -> None:
    _identifier(source, causes, path)
    if _target(source, causes, path).get("averageValue") is None:
        text = "must specify a positive target averageValue"
        causes.append(required(f"{path}.target.averageValue", text))


def _resource(source: Object, causes: Causes, path: str) -> None:
    if not source.get("name"):
        causes.append(required(f"{path}.name", "must specify a resource name"))
    _share_or_value(source, causes, path)


def _container_resource(source: Object, causes: Causes, path: str) -> None:
    if name := source.get("name"):
        resources.container_resource(causes, f"{path}.name", name)
    else:
        causes.append(required(f"{path}.name", "must specify a resource name"))
    container, text = source.get("container"), "must specify a container"
    rules.required_name(causes, f"{path}.container", container, names.dns1123_label, text)
    _share_or_value(source, causes, path)


def _share_or_value(source: Object, causes: Causes, path: str) -> None:
    target = _target(source, causes, path)
    share, value = target.get("averageUtilization"), target.get("averageValue")
    if share is None and value is None:
        text = "must set either a target raw value or a target utilization"
        causes.append(required(f"{path}.target.averageUtilization", text))
    if share is not None and value is not None:
        text = "may not set both a target raw value and a target utilization"
        causes.append(forbidden_field(f"{path}.target.averageValue", text))


_SOURCES: Final[dict[str, Callable[[Object, Causes, str], None]]] = {
    "object": _object,
    "external": _external,
    "pods": _pods,
    "resource": _resource,
    "containerResource": _container_resource,
}


def _identifier(source: Object, causes: Causes, path: str) -> None:
    name, text = (source.get("metric") or {}).get("name"), "must specify a metric name"
    rules.required_name(causes, f"{path}.metric.name", name, names.path_segment, text)


def _target(source: Object, causes: Causes, path: str) -> Object:
    target: Object = source.get("target") or {}
    kind, path = target.get("type") or "", f"{path}.target"
    if not kind:
        causes.append(required(f"{path}.type", "must specify a metric target type"))
    if kind not in _TARGETS:
        text = "must be either Utilization, Value, or AverageValue"
        causes.append(invalid_value(f"{path}.type", kind, text))
    for field in ("value", "averageValue"):
        if (amount := target.get(field)) is not None and rules.parsed(amount).nanos() <= 0:
            causes.append(invalid_value(f"{path}.{field}", amount, "must be positive"))
    share = target.get("averageUtilization")
    if share is not None and share < 1:
        where = f"{path}.averageUtilization"
        causes.append(invalid_value(where, share, "must be greater than 0"))
    return target


def _scaling(found: Object, causes: Causes, path: str) -> None:
    window, where = found.get("stabilizationWindowSeconds"), f"{path}.stabilizationWindowSeconds"
    if window is not None and window < 0:
        causes.append(invalid_value(where, window, "must be greater than or equal to zero"))
    if window is not None and window > _MAX_WINDOW:
        text = f"must be less than or equal to {_MAX_WINDOW}"
        causes.append(invalid_value(where, window, text))
    select = found.get("selectPolicy")
    if select is not None and select not in _SELECT:
        causes.append(not_supported(f"{path}.selectPolicy", select, _SELECT))
    if not found.get("policies"):
        causes.append(required(f"{path}.policies", "must specify at least one Policy"))
    for index, policy in enumerate(found.get("policies") or ()):
        where, kind = f"{path}.policies[{index}]", policy.get("type") or ""
        if kind not in _POLICIES:
            causes.append(not_supported(f"{where}.type", kind, _POLICIES))
        rules.positive(causes, f"{where}.value", policy.get("value") or 0)
        period = policy.get("periodSeconds") or 0
        rules.positive(causes, f"{where}.periodSeconds", period)
        if period > _MAX_PERIOD:
            text = f"must be less than or equal to {_MAX_PERIOD}"
            causes.append(invalid_value(f"{where}.periodSeconds", period, text))
    if (tolerance := found.get("tolerance")) is not None and rules.parsed(tolerance).nanos() < 0:
        text = "must be greater than or equal to 0"
        causes.append(invalid_value(f"{path}.tolerance", tolerance, text))


def _scale(scale: Object, causes: Causes) -> None:
    rules.not_negative(causes, "spec.replicas", (scale.get("spec") or {}).get("replicas"))


RULES = {
    ("autoscaling", "HorizontalPodAutoscaler"): Rules(
        _autoscaler, _update, status=_status, update_is_whole=True
    ),
    ("autoscaling", "Scale"): Rules(_scale, name=names.path_segment),
}
