"""Versions of one stored kind: HorizontalPodAutoscaler v1 ↔ v2, and events.k8s.io/v1 ↔ core v1 Events.

Custom objects are worked on in the version of the request; the registry converts them (`crd/conversion.py`).
Everything else is served in the version in which it is stored. Both directions give new objects and lose nothing: what
v1 cannot say travels in the annotations that Kubernetes itself uses for it.
"""

from __future__ import annotations

from typing import Any

import orjson

from sampan.apiserver.resources import Resource

Object = dict[str, Any]

METRICS_ANNOTATION = "autoscaling.alpha.kubernetes.io/metrics"
CURRENT_ANNOTATION = "autoscaling.alpha.kubernetes.io/current-metrics"
CONDITIONS_ANNOTATION = "autoscaling.alpha.kubernetes.io/conditions"
BEHAVIOR_ANNOTATION = "autoscaling.alpha.kubernetes.io/behavior"

# events.k8s.io/v1 name → core v1 name
_EVENT_NAMES = {
    "regarding": "involvedObject",
    "note": "message",
    "reportingController": "reportingComponent",
    "deprecatedSource": "source",
    "deprecatedFirstTimestamp": "firstTimestamp",
    "deprecatedLastTimestamp": "lastTimestamp",
    "deprecatedCount": "count",
}


def to_storage(resource: Resource, obj: Object) -> Object:
    """A decoded object of `resource`'s version in the version in which it is kept."""
    if resource.storage_version == resource.api_version or resource.custom is not None:
        return obj
    if resource.storage == "core/events":
        return _renamed(obj, _EVENT_NAMES, "v1")
    return _scaler_to_v2(obj)


def from_storage(resource: Resource, obj: Object) -> Object:
    """A stored object in `resource`'s version."""
    if resource.storage_version == resource.api_version or resource.custom is not None:
        return obj
    if resource.storage == "core/events":
        back = {core: modern for modern, core in _EVENT_NAMES.items()}
        return _renamed(obj, back, resource.api_version)
    return _scaler_to_v1(obj)


def _renamed(obj: Object, names: dict[str, str], api_version: str) -> Object:
    found = {names.get(key, key): value for key, value in obj.items()}
    found["apiVersion"] = api_version
    return found


def _scaler_to_v2(obj: Object) -> Object:
    spec, status = dict(obj.get("spec") or {}), dict(obj.get("status") or {})
    metadata = dict(obj["metadata"])
    annotations = dict(metadata.get("annotations") or {})
    metrics = _unpack(annotations, METRICS_ANNOTATION) or []
    percent = spec.pop("targetCPUUtilizationPercentage", None)
    if percent is not None:
        metrics = [_cpu_metric("target", percent), *metrics]
    if metrics:
        spec["metrics"] = metrics
    behavior = _unpack(annotations, BEHAVIOR_ANNOTATION)
    if behavior:
        spec["behavior"] = behavior
    current = _unpack(annotations, CURRENT_ANNOTATION) or []
    used = status.pop("currentCPUUtilizationPercentage", None)
    if used is not None:
        current = [_cpu_metric("current", used), *current]
    if current:
        status["currentMetrics"] = current
    conditions = _unpack(annotations, CONDITIONS_ANNOTATION)
    if conditions:
        status["conditions"] = conditions
    return _assembled(obj, "autoscaling/v2", metadata, annotations, spec, status)


def _scaler_to_v1(obj: Object) -> Object:
    spec, status = dict(obj.get("spec") or {}), dict(obj.get("status") or {})
    metadata = dict(obj["metadata"])
    annotations = dict(metadata.get("annotations") or {})
    others = []
    for metric in spec.pop("metrics", None) or ():
        percent = _cpu_percent(metric, "target")
        if percent is not None and "targetCPUUtilizationPercentage" not in spec:
            spec["targetCPUUtilizationPercentage"] = percent
        else:
            others.append(metric)
    _pack(annotations, METRICS_ANNOTATION, others)
    _pack(annotations, BEHAVIOR_ANNOTATION, spec.pop("behavior", None))
    left = []
    for metric in status.pop("currentMetrics", None) or ():
        percent = _cpu_percent(metric, "current")
        if percent is not None and "currentCPUUtilizationPercentage" not in status:
            status["currentCPUUtilizationPercentage"] = percent
        else:
            left.append(metric)
    _pack(annotations, CURRENT_ANNOTATION, left)
    _pack(annotations, CONDITIONS_ANNOTATION, status.pop("conditions", None))
    return _assembled(obj, "autoscaling/v1", metadata, annotations, spec, status)


def _assembled(
    obj: Object,
    api_version: str,
    metadata: Object,
    annotations: Object,
    spec: Object,
    status: Object,
) -> Object:
    if annotations:
        metadata["annotations"] = annotations
    else:
        metadata.pop("annotations", None)
    found = {**obj, "apiVersion": api_version, "metadata": metadata, "spec": spec}
    if "status" in obj:
        found["status"] = status
    return found


def _cpu_metric(side: str, percent: int) -> Object:
    value = {"averageUtilization": percent}
    if side == "target":
        value = {"type": "Utilization", **value}  # type: ignore[dict-item]
    return {"type": "Resource", "resource": {"name": "cpu", side: value}}


def _cpu_percent(metric: Object, side: str) -> int | None:
    resource = metric.get("resource") or {}
    if metric.get("type") != "Resource" or resource.get("name") != "cpu":
        return None
    found = (resource.get(side) or {}).get("averageUtilization")
    return found if isinstance(found, int) else None


def _pack(annotations: Object, key: str, value: Any) -> None:
    if value:
        annotations[key] = orjson.dumps(value).decode()


def _unpack(annotations: Object, key: str) -> Any:
    text = annotations.pop(key, None)
    if text is None:
        return None
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
