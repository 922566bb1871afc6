"""Events of both groups. They are kept as core/v1, so these rules speak of its fields whichever group a request names.

Core events are checked as leniently as they always were; what comes through events.k8s.io/v1 must in addition be an event of the
new kind, and may change afterwards in nothing but its series (pkg/apis/core/validation/events.go).
"""

from __future__ import annotations

from typing import Any, Final

from sampan.kube import names
from sampan.kube.errors import invalid_value, required
from sampan.kube.objects import metadata
from sampan.kube.validation import rules
from sampan.kube.validation.rules import Causes, Object, Rules

GROUP: Final = "events.k8s.io"
_SHORT, _NOTE = 128, 1024
_ZERO_TIME: Final = "0001-01-01T00:00:00"
# field as causes name it, field as it is stored
_FIXED: Final = (
    ("involvedObject", "involvedObject"),
    ("reason", "reason"),
    ("message", "message"),
    ("source", "source"),
    ("firstTimestamp", "firstTimestamp"),
    ("lastTimestamp", "lastTimestamp"),
    ("count", "count"),
    ("reason", "reason"),
    ("type", "type"),
    ("eventTime", "eventTime"),
    ("action", "action"),
    ("related", "related"),
    ("reportingController", "reportingComponent"),
    ("reportingInstance", "reportingInstance"),
)


def _is_set(time: Any) -> bool:
    return bool(time) and not str(time).startswith(_ZERO_TIME)


def _legacy(event: Object, causes: Causes) -> None:
    """An event belongs to its object's namespace; one about a cluster-wide object to default or kube-system."""
    namespace = metadata(event).get("namespace") or ""
    about = (event.get("involvedObject") or {}).get("namespace") or ""
    if _is_set(event.get("eventTime")):
        matches = bool(about) or namespace in ("default", "kube-system")
    else:
        matches = namespace == about or (not about and namespace == "default")
    if not matches:
        text = "does not match event.namespace"
        causes.append(invalid_value("involvedObject.namespace", about, text))
    if _is_set(event.get("eventTime")):
        _reported(event, causes)
    rules.name(causes, "namespace", namespace, names.dns1123_subdomain)


def _reported(event: Object, causes: Causes) -> None:
    """Who reports what, within bounds."""
    controller = event.get("reportingComponent") or ""
    if not controller:
        causes.append(required("reportingComponent"))
    rules.name(causes, "reportingComponent", controller, names.qualified_name)
    for field in ("reportingInstance", "action", "reason"):
        value = event.get(field) or ""
        if not value:
            causes.append(required(field))
        if rules.utf8_size(value) > _SHORT:
            causes.append(invalid_value(field, "", f"can have at most {_SHORT} characters"))
    if rules.utf8_size(event.get("message") or "") > _NOTE:
        causes.append(invalid_value("message", "", f"can have at most {_NOTE} characters"))


def _series(event: Object, causes: Causes) -> None:
    series = event.get("series")
    if series is None:
        return
    if (series.get("count") or 0) < 2:
        causes.append(invalid_value("series.count", "", "should be at least 2"))
    if not _is_set(series.get("lastObservedTime")):
        causes.append(required("series.lastObservedTime"))


def _new_kind(event: Object, causes: Causes) -> None:
    name = metadata(event).get("name") or ""
    rules.name(causes, "metadata.name", name, names.dns1123_subdomain)
    _series(event, causes)
    if not _is_set(event.get("eventTime")):
        causes.append(required("eventTime"))
    if event.get("type") not in ("Normal", "Warning"):
        found = event.get("type") or ""
        causes.append(invalid_value("type", "", f"has invalid value: {found}"))
    source = event.get("source") or {}
    for field, given in (
        ("firstTimestamp", _is_set(event.get("firstTimestamp"))),
        ("lastTimestamp", _is_set(event.get("lastTimestamp"))),
        ("count", event.get("count")),
        ("source", source.get("component") or source.get("host")),
    ):
        if given:
            causes.append(invalid_value(field, "", "needs to be unset"))


def _new_kind_update(new: Object, old: Object, causes: Causes) -> None:
    if new.get("series") != old.get("series"):
        _series(new, causes)
    for shown, field in _FIXED:
        rules.immutable(causes, shown, new.get(field) or None, old.get(field) or None)


RULES = {
    ("", "Event"): Rules(_legacy, name=names.path_segment),
    (GROUP, "Event"): Rules(_legacy, _new_kind_update, names.path_segment, first=_new_kind),
}
