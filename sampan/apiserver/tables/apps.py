"""apps, batch, autoscaling and policy: workloads and what steers them."""

from __future__ import annotations

from datetime import datetime

from sampan.apiserver.tables.model import (
    AGE,
    NAME,
    NONE,
    UNKNOWN,
    Column,
    Object,
    Printer,
    Value,
    at,
    boolean_text,
    container_columns,
    count,
    has_condition,
    human_duration,
    labels_text,
    number,
    printer,
    selector_column,
    since,
)
from sampan.kube.objects import parse_time

TEMPLATE = container_columns("spec.template.spec.containers")


def _of(ready: str, wanted: str, default: int = 1) -> Value:
    def text(obj: Object, _now: datetime) -> str:
        total = at(obj, wanted)
        return f"{at(obj, ready) or 0}/{default if total is None else total}"

    return text


def _integer(name: str, path: str) -> Column:
    return Column(name, number(path), "integer")


REPLICAS = (
    _integer("Desired", "spec.replicas"),
    _integer("Current", "status.replicas"),
    _integer("Ready", "status.readyReplicas"),
    AGE,
    *TEMPLATE,
)


# --- jobs ---------------------------------------------------------------------------------------------


def _job_status(job: Object, _now: datetime) -> str:
    for kind in ("Complete", "Failed"):
        if has_condition(job, kind):
            return kind
    if at(job, "metadata.deletionTimestamp"):
        return "Terminating"
    for kind in ("Suspended", "FailureTarget", "SuccessCriteriaMet"):
        if has_condition(job, kind):
            return kind
    return "Running"


def _completions(job: Object, _now: datetime) -> str:
    done, wanted = at(job, "status.succeeded") or 0, at(job, "spec.completions")
    if wanted is not None:
        return f"{done}/{wanted}"
    parallel = at(job, "spec.parallelism") or 0
    return f"{done}/1 of {parallel}" if parallel > 1 else f"{done}/1"


def _job_duration(job: Object, now: datetime) -> str:
    start = at(job, "status.startTime")
    if not start:
        return ""
    end = at(job, "status.completionTime")
    for each in at(job, "status.conditions") or ():
        if each.get("type") == "Failed" and each.get("status") == "True":
            end = end or each.get("lastTransitionTime")
    return human_duration((parse_time(end) if end else now) - parse_time(start))


# --- autoscaling --------------------------------------------------------------------------------------

METRIC_SOURCES = {
    "Resource": "resource",
    "ContainerResource": "containerResource",
    "Pods": "pods",
    "Object": "object",
    "External": "external",
}


def _targets(scaler: Object, _now: datetime) -> str:
    metrics = at(scaler, "spec.metrics")
    if metrics is None:  # autoscaling/v1 knows CPU alone
        wanted = at(scaler, "spec.targetCPUUtilizationPercentage")
        if wanted is None:
            return NONE
        current = at(scaler, "status.currentCPUUtilizationPercentage")
        return f"cpu: {UNKNOWN if current is None else f'{current}%'}/{wanted}%"
    statuses = at(scaler, "status.currentMetrics") or []
    texts = [
        _target(spec, statuses[index] if index < len(statuses) else {})
        for index, spec in enumerate(metrics)
    ]
    if not texts:
        return NONE
    more = f" + {len(texts) - 2} more..." if len(texts) > 2 else ""
    return ", ".join(texts[:2]) + more


def _target(spec: Object, status: Object) -> str:
    key = METRIC_SOURCES.get(spec.get("type", ""), "")
    source, current = spec.get(key) or {}, (status.get(key) or {}).get("current") or {}
    wanted = source.get("target") or {}
    prefix = f"{source['name']}: " if "name" in source else ""
    if wanted.get("averageUtilization") is not None:
        now = current.get("averageUtilization")
        return f"{prefix}{UNKNOWN if now is None else f'{now}%'}/{wanted['averageUtilization']}%"
    if wanted.get("averageValue") is not None:
        suffix = " (avg)" if key in ("external", "object") else ""
        return f"{prefix}{current.get('averageValue') or UNKNOWN}/{wanted['averageValue']}{suffix}"
    return f"{prefix}{current.get('value') or UNKNOWN}/{wanted.get('value', UNKNOWN)}"


def _minimum(scaler: Object, _now: datetime) -> str:
    return str(at(scaler, "spec.minReplicas") or UNKNOWN)


HORIZONTAL = printer(
    NAME,
    Column(
        "Reference",
        lambda obj, _now: (
            f"{at(obj, 'spec.scaleTargetRef.kind')}/{at(obj, 'spec.scaleTargetRef.name')}"
        ),
    ),
    Column("Targets", _targets),
    Column("MinPods", _minimum),
    _integer("MaxPods", "spec.maxReplicas"),
    _integer("Replicas", "status.currentReplicas"),
    AGE,
)


def _owner(revision: Object, _now: datetime) -> str:
    for each in at(revision, "metadata.ownerReferences") or ():
        if each.get("controller"):
            group = each["apiVersion"].rpartition("/")[0]
            kind = f"{each['kind']}.{group}" if group else each["kind"]
            return f"{kind.lower()}/{each['name']}"
    return NONE


def _budget(path: str) -> Value:
    def text(obj: Object, _now: datetime) -> str:
        value = at(obj, path)
        return "N/A" if value is None else str(value)

    return text


PRINTERS: dict[tuple[str, str], Printer] = {
    ("", "ReplicationController"): printer(
        NAME,
        *REPLICAS,
        Column("Selector", lambda o, _now: labels_text(at(o, "spec.selector")), wide=True),
    ),
    ("apps", "ReplicaSet"): printer(NAME, *REPLICAS, selector_column()),
    ("apps", "Deployment"): printer(
        NAME,
        Column("Ready", _of("status.readyReplicas", "spec.replicas")),
        _integer("Up-to-date", "status.updatedReplicas"),
        _integer("Available", "status.availableReplicas"),
        AGE,
        *TEMPLATE,
        selector_column(),
    ),
    ("apps", "StatefulSet"): printer(
        NAME, Column("Ready", _of("status.readyReplicas", "spec.replicas")), AGE, *TEMPLATE
    ),
    ("apps", "DaemonSet"): printer(
        NAME,
        _integer("Desired", "status.desiredNumberScheduled"),
        _integer("Current", "status.currentNumberScheduled"),
        _integer("Ready", "status.numberReady"),
        _integer("Up-to-date", "status.updatedNumberScheduled"),
        _integer("Available", "status.numberAvailable"),
        Column(
            "Node Selector",
            lambda obj, _now: labels_text(at(obj, "spec.template.spec.nodeSelector")),
        ),
        AGE,
        *TEMPLATE,
        selector_column(),
    ),
    ("apps", "ControllerRevision"): printer(
        NAME, Column("Controller", _owner), _integer("Revision", "revision"), AGE
    ),
    ("batch", "Job"): printer(
        NAME,
        Column("Status", _job_status),
        Column("Completions", _completions),
        Column("Duration", _job_duration),
        AGE,
        *TEMPLATE,
        selector_column(),
    ),
    ("batch", "CronJob"): printer(
        NAME,
        Column("Schedule", "spec.schedule"),
        Column("Timezone", "spec.timeZone", empty=NONE),
        Column("Suspend", boolean_text("spec.suspend")),
        Column("Active", count("status.active"), "integer"),
        Column(
            "Last Schedule",
            lambda obj, now: since(at(obj, "status.lastScheduleTime"), now, NONE),
        ),
        AGE,
        *container_columns("spec.jobTemplate.spec.template.spec.containers"),
        selector_column("spec.jobTemplate.spec.selector"),
    ),
    ("autoscaling", "HorizontalPodAutoscaler"): HORIZONTAL,
    ("autoscaling", "Scale"): printer(
        NAME,
        _integer("Desired", "spec.replicas"),
        _integer("Available", "status.replicas"),
        AGE,
    ),
    ("policy", "PodDisruptionBudget"): printer(
        NAME,
        Column("Min Available", _budget("spec.minAvailable")),
        Column("Max Unavailable", _budget("spec.maxUnavailable")),
        _integer("Allowed Disruptions", "status.disruptionsAllowed"),
        AGE,
    ),
}
