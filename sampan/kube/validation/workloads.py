"""The apps group. A workload's selector must match its template's labels, and never changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sampan.kube import names, selectors
from sampan.kube.errors import (
    ApiError,
    forbidden_field,
    invalid_value,
    not_supported,
    required,
)
from sampan.kube.validation import pods, rules
from sampan.kube.validation.rules import Causes, Object, Rules

_MISMATCH: Final = "`selector` does not match template `labels`"
_EMPTY_SELECTOR: Final = "empty selector is invalid for {}"
_STATEFUL_UPDATE: Final = (
    "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', "
    "'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and "
    "'minReadySeconds' are forbidden"
)
_STATEFUL_MUTABLE: Final = frozenset(
    (
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    )
)


def _selector(spec: Object, causes: Causes, what: str) -> None:
    selector = spec.get("selector")
    if selector is None:
        causes.append(required("spec.selector"))
        return
    rules.label_selector(causes, "spec.selector", selector)
    if rules.is_empty_selector(selector):
        text = _EMPTY_SELECTOR.format(what)
        causes.append(invalid_value("spec.selector", selector, text))


def _template(spec: Object, causes: Causes) -> None:
    """Labels match the selector, the pods always restart, and no deadline ends them."""
    template = spec.get("template") or {}
    labels = (template.get("metadata") or {}).get("labels") or {}
    selector = spec.get("selector")
    if selector is not None and not rules.is_empty_selector(selector):
        try:
            matches = selectors.from_object(selector).matches(labels)
        except ApiError:  # reported with the selector itself
            matches = True
        if not matches:
            causes.append(invalid_value("spec.template.metadata.labels", labels, _MISMATCH))
    pods.pod_template(template, causes, "spec.template")
    pod_spec = template.get("spec") or {}
    policy = pod_spec.get("restartPolicy")
    if policy and policy != "Always":
        path = "spec.template.spec.restartPolicy"
        causes.append(not_supported(path, policy, ["Always"]))
    if pod_spec.get("activeDeadlineSeconds") is not None:
        path = "spec.template.spec.activeDeadlineSeconds"
        causes.append(forbidden_field(path, "activeDeadlineSeconds in ReplicaSet is not Supported"))


def _counts(spec: Object, causes: Causes, *fields: str) -> None:
    for field in fields:
        rules.not_negative(causes, f"spec.{field}", spec.get(field))


def _rolling(found: Object | None, causes: Causes, path: str) -> None:
    if found is None:
        causes.append(required(path, "this should be defaulted and never be nil"))
        return
    unavailable, surge = found.get("maxUnavailable"), found.get("maxSurge")
    rules.int_or_percent(causes, f"{path}.maxUnavailable", unavailable)
    rules.int_or_percent(causes, f"{path}.maxSurge", surge)
    if _is_zero(unavailable) and _is_zero(surge):
        text = "may not be 0 when `maxSurge` is 0"
        causes.append(invalid_value(f"{path}.maxUnavailable", unavailable, text))
    rules.at_most_hundred_percent(causes, f"{path}.maxUnavailable", unavailable)


def _is_zero(value: object) -> bool:
    return value in (0, None) or rules.percent_of(value) == 0


def _deployment(deployment: Object, causes: Causes) -> None:
    spec = deployment.get("spec") or {}
    _counts(spec, causes, "replicas")
    _selector(spec, causes, "deployment")
    _template(spec, causes)
    strategy = spec.get("strategy") or {}
    kind, rolling = strategy.get("type") or "", strategy.get("rollingUpdate")
    if kind == "Recreate":
        if rolling is not None:
            text = "may not be specified when strategy `type` is 'Recreate'"
            causes.append(forbidden_field("spec.strategy.rollingUpdate", text))
    elif kind == "RollingUpdate":
        _rolling(rolling, causes, "spec.strategy.rollingUpdate")
    else:
        causes.append(not_supported("spec.strategy.type", kind, ["Recreate", "RollingUpdate"]))
    _counts(spec, causes, "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds")
    deadline, ready = spec.get("progressDeadlineSeconds"), spec.get("minReadySeconds") or 0
    if deadline is not None and deadline <= ready:
        text = "must be greater than minReadySeconds"
        causes.append(invalid_value("spec.progressDeadlineSeconds", deadline, text))


def _replica_set(replica_set: Object, causes: Causes) -> None:
    spec = replica_set.get("spec") or {}
    _counts(spec, causes, "replicas", "minReadySeconds")
    if spec.get("selector") is None:
        causes.append(required("spec.selector"))
    else:
        _selector(spec, causes, "replicaset")
    _template(spec, causes)


def _same_selector(new: Object, old: Object, causes: Causes) -> None:
    before, after = old.get("spec") or {}, new.get("spec") or {}
    rules.immutable(causes, "spec.selector", after.get("selector"), before.get("selector"))


def _stateful_set(stateful_set: Object, causes: Causes) -> None:
    spec = stateful_set.get("spec") or {}
    policy = spec.get("podManagementPolicy") or ""
    if not policy:
        causes.append(required("spec.podManagementPolicy"))
    elif policy not in ("OrderedReady", "Parallel"):
        text = "must be 'OrderedReady' or 'Parallel'"
        causes.append(invalid_value("spec.podManagementPolicy", policy, text))
    strategy = spec.get("updateStrategy") or {}
    kind, rolling = strategy.get("type") or "", strategy.get("rollingUpdate")
    if not kind:
        causes.append(required("spec.updateStrategy"))
    elif kind == "OnDelete":
        if rolling is not None:
            text = "only allowed for updateStrategy 'RollingUpdate'"
            causes.append(invalid_value("spec.updateStrategy.rollingUpdate", rolling, text))
    elif kind == "RollingUpdate":
        if rolling is not None:
            path = "spec.updateStrategy.rollingUpdate"
            rules.not_negative(causes, f"{path}.partition", rolling.get("partition"))
            if (unavailable := rolling.get("maxUnavailable")) is not None:
                rules.int_or_percent(causes, f"{path}.maxUnavailable", unavailable)
                rules.at_most_hundred_percent(causes, f"{path}.maxUnavailable", unavailable)
                if _is_zero(unavailable):
                    text = "cannot be 0"
                    causes.append(invalid_value(f"{path}.maxUnavailable", unavailable, text))
    else:
        text = "must be 'RollingUpdate' or 'OnDelete'"
        causes.append(invalid_value("spec.updateStrategy", strategy, text))
    retention = spec.get("persistentVolumeClaimRetentionPolicy") or {}
    for field, value in retention.items():
        path = f"spec.persistentVolumeClaimRetentionPolicy.{field}"
        rules.choice(causes, path, value, ("Delete", "Retain"))
    _counts(spec, causes, "replicas", "minReadySeconds", "revisionHistoryLimit")
    rules.not_negative(causes, "spec.ordinals.start", (spec.get("ordinals") or {}).get("start"))
    if service := spec.get("serviceName"):
        rules.name(causes, "spec.serviceName", service, names.dns1123_subdomain)
    _selector(spec, causes, "statefulset")
    _template(_with_claims(spec), causes)


def _with_claims(spec: Object) -> Object:
    """The spec with the volumes in its template that each pod gets for its claims, so that they can be mounted."""
    template = spec.get("template") or {}
    pod_spec = template.get("spec") or {}
    volumes = pod_spec.get("volumes") or []
    taken = {volume.get("name") for volume in volumes}
    claimed = [
        {"name": name, "persistentVolumeClaim": {"claimName": name}}
        for each in spec.get("volumeClaimTemplates") or ()
        if (name := (each.get("metadata") or {}).get("name")) and name not in taken
    ]
    if not claimed:
        return spec
    filled = {**pod_spec, "volumes": [*volumes, *claimed]}
    return {**spec, "template": {**template, "spec": filled}}


def _stateful_set_update(new: Object, old: Object, causes: Causes) -> None:
    before, after = old.get("spec") or {}, new.get("spec") or {}
    changed = {field for field in {*before, *after} if before.get(field) != after.get(field)}
    if changed - _STATEFUL_MUTABLE:
        causes.append(forbidden_field("spec", _STATEFUL_UPDATE))


def _daemon_set(daemon_set: Object, causes: Causes) -> None:
    spec = daemon_set.get("spec") or {}
    _selector(spec, causes, "daemonset")
    _template(spec, causes)
    _counts(spec, causes, "minReadySeconds", "revisionHistoryLimit")
    strategy = spec.get("updateStrategy") or {}
    kind = strategy.get("type") or ""
    if kind == "RollingUpdate":
        _daemon_rolling(strategy.get("rollingUpdate"), causes, "spec.updateStrategy.rollingUpdate")
    elif kind != "OnDelete":
        allowed = ["OnDelete", "RollingUpdate"]
        causes.append(not_supported("spec.updateStrategy.type", kind, allowed))


def _daemon_rolling(found: Object | None, causes: Causes, path: str) -> None:
    """Here one of the two must be zero: a node has one daemon, old or new, or briefly both."""
    if found is None:
        causes.append(required(path))
        return
    unavailable, surge = found.get("maxUnavailable"), found.get("maxSurge")
    rules.int_or_percent(causes, f"{path}.maxUnavailable", unavailable)
    rules.int_or_percent(causes, f"{path}.maxSurge", surge)
    rules.at_most_hundred_percent(causes, f"{path}.maxUnavailable", unavailable)
    rules.at_most_hundred_percent(causes, f"{path}.maxSurge", surge)
    if _is_zero(unavailable) and _is_zero(surge):
        causes.append(required(f"{path}.maxUnavailable", "cannot be 0 when maxSurge is 0"))
    elif not _is_zero(unavailable) and not _is_zero(surge):
        text = "may not be set when maxUnavailable is non-zero"
        causes.append(invalid_value(f"{path}.maxSurge", surge, text))


def _revision(revision: Object, causes: Causes) -> None:
    if (revision.get("revision") or 0) < 0:
        text = rules.NOT_NEGATIVE
        causes.append(invalid_value("revision", revision["revision"], text))
    if not revision.get("data"):
        causes.append(required("data", "data is mandatory"))


def _revision_update(new: Object, old: Object, causes: Causes) -> None:
    rules.immutable(causes, "data", new.get("data"), old.get("data"))


_GREATER: Final = "cannot be greater than status.replicas"
# Counts of a status; and (count, what it cannot be above, how that is said).
_STATUS: Final[dict[str, tuple[tuple[str, ...], tuple[tuple[str, str, str], ...]]]] = {
    "Deployment": (
        (
            "observedGeneration",
            "replicas",
            "updatedReplicas",
            "readyReplicas",
            "availableReplicas",
            "unavailableReplicas",
            "collisionCount",
        ),
        (
            ("updatedReplicas", "replicas", _GREATER),
            ("readyReplicas", "replicas", _GREATER),
            ("availableReplicas", "replicas", _GREATER),
            ("availableReplicas", "readyReplicas", "cannot be greater than readyReplicas"),
        ),
    ),
    "ReplicaSet": (
        (
            "replicas",
            "fullyLabeledReplicas",
            "readyReplicas",
            "availableReplicas",
            "observedGeneration",
        ),
        (
            ("fullyLabeledReplicas", "replicas", _GREATER),
            ("readyReplicas", "replicas", _GREATER),
            ("availableReplicas", "replicas", _GREATER),
            ("availableReplicas", "readyReplicas", "cannot be greater than readyReplicas"),
        ),
    ),
    "StatefulSet": (
        (
            "replicas",
            "readyReplicas",
            "currentReplicas",
            "updatedReplicas",
            "availableReplicas",
            "observedGeneration",
            "collisionCount",
        ),
        (
            ("readyReplicas", "replicas", _GREATER),
            ("currentReplicas", "replicas", _GREATER),
            ("updatedReplicas", "replicas", _GREATER),
            ("availableReplicas", "replicas", _GREATER),
            ("availableReplicas", "readyReplicas", "cannot be greater than status.readyReplicas"),
        ),
    ),
    "DaemonSet": (
        (
            "currentNumberScheduled",
            "numberMisscheduled",
            "desiredNumberScheduled",
            "numberReady",
            "observedGeneration",
            "updatedNumberScheduled",
            "numberAvailable",
            "numberUnavailable",
            "collisionCount",
        ),
        (),
    ),
}


def status_of(kind: str) -> Callable[[Object, Object, Causes], None]:
    """The check of a status that counts pods."""
    counts, order = _STATUS["ReplicaSet" if kind == "ReplicationController" else kind]

    def check(new: Object, old: Object, causes: Causes) -> None:
        status = new.get("status") or {}
        for field in counts:
            rules.not_negative(causes, f"status.{field}", status.get(field))
        for field, most, text in order:
            value = status.get(field) or 0
            if value > (status.get(most) or 0):
                causes.append(invalid_value(f"status.{field}", value, text))
        before = (old.get("status") or {}).get("collisionCount")
        if before is not None and (status.get("collisionCount") or 0) < before:
            now = status.get("collisionCount")
            causes.append(invalid_value("status.collisionCount", now, "cannot be decremented"))

    return check


RULES = {
    ("apps", "Deployment"): Rules(_deployment, _same_selector, status=status_of("Deployment")),
    ("apps", "ReplicaSet"): Rules(_replica_set, _same_selector, status=status_of("ReplicaSet")),
    ("apps", "StatefulSet"): Rules(
        _stateful_set,
        _stateful_set_update,
        names.dns1123_label,
        status=status_of("StatefulSet"),
    ),
    ("apps", "DaemonSet"): Rules(_daemon_set, _same_selector, status=status_of("DaemonSet")),
    ("apps", "ControllerRevision"): Rules(_revision, _revision_update),
}
