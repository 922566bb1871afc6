"""The apps group. A workload's selector must match its template's labels, and never changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sampan.kube import names, selectors
from sampan.kube.errors import (
    forbidden_field,
    invalid_value,
    not_supported,
    required,
)
from sampan.kube.validation import pods, rules
from sampan.kube.validation.persistent import claim_spec
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
        if what != "daemonset":
            causes.append(required("spec.selector"))
        return
    rules.label_selector(causes, "spec.selector", selector)
    if rules.is_empty_selector(selector):
        text = _EMPTY_SELECTOR.format(what)
        causes.append(invalid_value("spec.selector", selector, text))


def _template(
    spec: Object, causes: Causes, kind: str = "ReplicaSet", *, whole: bool = True
) -> None:
    """Labels match the selector, the pods always restart, and no deadline ends them.

    A template is looked at no further when its selector cannot be read; `whole` False: nor are the pods in it.
    """
    template = spec.get("template") or {}
    metadata = template.get("metadata") or {}
    labels = metadata.get("labels") or {}
    selector = spec.get("selector")
    unreadable: Causes = []
    rules.label_selector(unreadable, "", selector)
    if unreadable:
        if kind != "DaemonSet":
            text = "" if kind == "StatefulSet" else "invalid label selector"
            causes.append(invalid_value("spec.selector", selector, text))
            if kind == "StatefulSet":
                whole = False
            else:
                return
    else:
        is_checked = (
            selector is None or kind == "DaemonSet" or not rules.is_empty_selector(selector)
        )
        if is_checked and not selectors.from_object(selector).matches(labels):
            shown = labels or None
            causes.append(invalid_value("spec.template.metadata.labels", shown, _MISMATCH))
    if whole:
        pods.pod_template(template, causes, "spec.template")
    if kind == "StatefulSet" and not unreadable:
        _checked_twice(metadata, causes)
    pod_spec = (spec.get("template") or {}).get("spec") or {}
    policy = pod_spec.get("restartPolicy")
    if policy and policy != "Always":
        path = "spec.template.spec.restartPolicy"
        causes.append(not_supported(path, policy, ["Always"]))
    if pod_spec.get("activeDeadlineSeconds") is not None:
        path = "spec.template.spec.activeDeadlineSeconds"
        causes.append(forbidden_field(path, f"activeDeadlineSeconds in {kind} is not Supported"))


def _checked_twice(metadata: Object, causes: Causes) -> None:
    """Of a StatefulSet's template, what is wrong with labels and annotations is said a second time."""
    rules.labels(causes, "spec.template.labels", metadata.get("labels"))
    rules.annotations(causes, "spec.template.annotations", metadata.get("annotations"))


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
    return value in (0, None) or (isinstance(value, str) and not rules.percent_of(value))


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
        causes.append(not_supported("spec.strategy", strategy, ["Recreate", "RollingUpdate"]))
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
    _stateful_spec(stateful_set.get("spec") or {}, causes)


def _stateful_spec(
    spec: Object, causes: Causes, *, is_new: bool = True, whole: bool = True
) -> None:
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
        if value not in ("Retain", "Delete"):
            causes.append(not_supported(path, value, ("Retain", "Delete")))
    for index, claim in enumerate(spec.get("volumeClaimTemplates") or ()) if is_new else ():
        claim_spec(claim.get("spec") or {}, causes, f"spec.volumeClaimTemplates[{index}].spec")
    _counts(spec, causes, "replicas", "minReadySeconds")
    rules.not_negative(causes, "spec.ordinals.start", (spec.get("ordinals") or {}).get("start"))
    if is_new and (service := spec.get("serviceName")):
        rules.name(causes, "spec.serviceName", service, names.dns1123_label)
    _selector(spec, causes, "statefulset")
    _template(_as_run(spec), causes, "StatefulSet", whole=whole)


def _as_run(spec: Object) -> Object:
    """The spec with what each pod gets in its template: volumes for its claims; a host name, so none is looked at."""
    template = spec.get("template") or {}
    pod_spec = template.get("spec") or {}
    volumes = pod_spec.get("volumes") or []
    listed = [each.get("metadata") or {} for each in spec.get("volumeClaimTemplates") or ()]
    claimed = [
        {"name": name, "persistentVolumeClaim": {"claimName": name}}
        for name in dict.fromkeys(each.get("name") or "" for each in listed)
    ]
    filled = {key: pod_spec[key] for key in pod_spec if key not in ("hostname", "subdomain")}
    if claimed:
        own = {each["name"] for each in claimed}
        kept = [each for each in volumes if each.get("name") not in own]
        filled["volumes"] = [*claimed, *kept]
    return {**spec, "template": {**template, "spec": filled}}


def _stateful_set_update(new: Object, old: Object, causes: Causes) -> None:
    """What was stored before a rule may stay: names and claims cannot change, and a bad template stays updatable."""
    before, after = old.get("spec") or {}, new.get("spec") or {}
    found: Causes = []
    _stateful_spec(before, found, is_new=False)
    _stateful_spec(after, causes, is_new=False, whole=not found)
    changed = {field for field in {*before, *after} if before.get(field) != after.get(field)}
    if changed - _STATEFUL_MUTABLE:
        causes.append(forbidden_field("spec", _STATEFUL_UPDATE))


def _daemon_set(daemon_set: Object, causes: Causes) -> None:
    spec = daemon_set.get("spec") or {}
    _selector(spec, causes, "daemonset")
    _template(spec, causes, "DaemonSet")
    _counts(spec, causes, "minReadySeconds", "revisionHistoryLimit")
    strategy = spec.get("updateStrategy") or {}
    kind = strategy.get("type") or ""
    if kind == "RollingUpdate":
        _daemon_rolling(strategy.get("rollingUpdate"), causes, "spec.updateStrategy.rollingUpdate")
    elif kind != "OnDelete":
        allowed = ["RollingUpdate", "OnDelete"]
        causes.append(not_supported("spec.updateStrategy", strategy, allowed))


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


def _new_revision(revision: Object, causes: Causes) -> None:
    if (data := revision.get("data")) is None:
        causes.append(required("data", "data is mandatory"))
    elif not isinstance(data, dict):
        causes.append(required("data", "data must be a valid JSON object"))


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
            now = status.get("collisionCount") or 0
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
        update_is_whole=True,
    ),
    ("apps", "DaemonSet"): Rules(_daemon_set, _same_selector, status=status_of("DaemonSet")),
    ("apps", "ControllerRevision"): Rules(_revision, _revision_update, first=_new_revision),
}
