"""The batch group: Job and CronJob. A Job's selector is generated, its template and completions stay as they are."""

from __future__ import annotations

from typing import Any, Final

from sampan.kube import names, selectors
from sampan.kube.errors import (
    ApiError,
    Cause,
    duplicate,
    invalid_value,
    not_supported,
    required,
    too_long,
    too_many,
)
from sampan.kube.objects import name as name_of
from sampan.kube.objects import uid as uid_of
from sampan.kube.validation import job_status, pods, rules
from sampan.kube.validation.cron import cron_error, time_zone
from sampan.kube.validation.job_status import count_indexes
from sampan.kube.validation.rules import Causes, Object, Rules

CRON_NAME_MAX: Final = 52  # the Job's suffix takes the other 11 of 63
_PREFIX: Final = "batch.kubernetes.io/"
_MODES: Final = ("Indexed", "NonIndexed")
_REPLACEMENT: Final = ("Failed", "TerminatingOrFailed")
_CONCURRENCY: Final = ("Allow", "Forbid", "Replace")
_ACTIONS: Final = ("Count", "FailIndex", "FailJob", "Ignore")
_STATUSES: Final = ("False", "True", "Unknown")
_MAX_RULES: Final = 20
_MAX_CODES: Final = 255
_MAX_INDEXES: Final = 100_000
_MAX_INDEXES_TEXT: Final = 64 * 1024
_MANY_PARALLEL: Final = 10_000
_MANY_TEXT: Final = (
    f"must be less than or equal to {_MANY_PARALLEL} when completions are above {_MAX_INDEXES} "
    "and used with backoff limit per index"
)
_COUNTS: Final = (
    "parallelism",
    "completions",
    "activeDeadlineSeconds",
    "backoffLimit",
    "ttlSecondsAfterFinished",
    "backoffLimitPerIndex",
    "maxFailedIndexes",
)


def _without_value(path: str, detail: str) -> Cause:
    """An invalid object whose value says nothing."""
    return Cause(path, "FieldValueInvalid", f"Invalid value: {detail}")


def _above(value: int | None, limit: int) -> bool:
    return value is not None and value > limit


def _job(job: Object, causes: Causes, *, prefixed: bool = True) -> None:
    """`prefixed`: the template must bear the labels that are named batch.kubernetes.io/, too."""
    spec = job.get("spec") or {}
    _generated_selector(job, spec, causes, prefixed)
    _job_spec(spec, causes, "spec")
    selector = spec.get("selector")
    if selector is None:
        causes.append(required("spec.selector"))
    else:
        rules.label_selector(causes, "spec.selector", selector)
        labels = _template_labels(spec)
        if not _matches(selector, labels):
            text = "`selector` does not match template `labels`"
            causes.append(invalid_value("spec.template.metadata.labels", labels, text))
    _last_pod_name(job, spec, causes)


def _template_labels(spec: Object) -> dict[str, str]:
    metadata = (spec.get("template") or {}).get("metadata") or {}
    return metadata.get("labels") or {}


def _matches(selector: Object, labels: dict[str, str]) -> bool:
    try:
        return selectors.from_object(selector).matches(labels)
    except ApiError:
        return True  # the selector itself is reported


def _generated_selector(job: Object, spec: Object, causes: Causes, prefixed: bool) -> None:
    """Unless it is the user's affair, the template bears the Job's uid and name, and the selector selects them."""
    if spec.get("manualSelector") or spec.get("selector") is None:
        return
    labels, uid, name = _template_labels(spec), uid_of(job), name_of(job)
    if not uid:
        causes.append(required("metadata.uid"))
    expected = {"controller-uid": uid, "job-name": name}
    if prefixed:
        expected |= {f"{_PREFIX}{key}": value for key, value in expected.items()}
    for key, wanted in expected.items():
        where = f"spec.template.metadata.labels[{key}]"
        if key not in labels:
            causes.append(required(where, f"must be '{wanted}'"))
        elif labels[key] != wanted:
            causes.append(invalid_value(where, labels, f"must be '{wanted}'"))
    if not _matches(spec["selector"], expected):
        text = "`selector` not auto-generated"
        causes.append(invalid_value("spec.selector", spec["selector"], text))


def _last_pod_name(job: Object, spec: Object, causes: Causes) -> None:
    """The last pod of an indexed Job is named after it and must fit a label."""
    count = spec.get("completions") or 0
    if spec.get("completionMode") == "Indexed" and count > 0 and name_of(job):
        pod = f"{name_of(job)}-{count - 1}"
        if names.dns1123_label(pod):
            text = f"will not able to create pod with invalid DNS label: {pod}"
            causes.append(invalid_value("metadata.name", name_of(job), text))


def _job_spec(spec: Object, causes: Causes, path: str) -> None:
    get = spec.get
    for field in _COUNTS:
        rules.not_negative(causes, f"{path}.{field}", get(field))
    if get("maxFailedIndexes") is not None and get("backoffLimitPerIndex") is None:
        text = "when maxFailedIndexes is specified"
        causes.append(required(f"{path}.backoffLimitPerIndex", text))
    if (manager := get("managedBy")) is not None:
        rules.name(causes, f"{path}.managedBy", manager, names.domain_prefixed_path)
        if len(manager) > 63:
            causes.append(too_long(f"{path}.managedBy", manager, 63))
    mode = get("completionMode")
    if mode is not None and mode not in _MODES:
        causes.append(not_supported(f"{path}.completionMode", mode, ("NonIndexed", "Indexed")))
    if mode == "Indexed":
        _indexed(spec, causes, path)
    elif mode in (None, "NonIndexed"):
        for field in ("backoffLimitPerIndex", "maxFailedIndexes"):
            if (value := get(field)) is not None:
                text = "requires indexed completion mode"
                causes.append(invalid_value(f"{path}.{field}", value, text))
    if (policy := get("podFailurePolicy")) is not None:
        _failure_policy(policy, spec, causes, f"{path}.podFailurePolicy")
    if (success := get("successPolicy")) is not None:
        where = f"{path}.successPolicy"
        if mode == "Indexed":
            _success_policy(success, get("completions") or 0, causes, where)
        else:
            causes.append(invalid_value(where, success, "requires indexed completion mode"))
    replacement = get("podReplacementPolicy")
    if replacement is not None:
        where = f"{path}.podReplacementPolicy"
        if policy is not None and replacement != "Failed":
            causes.append(not_supported(where, replacement, ("Failed",)))
        elif replacement not in _REPLACEMENT:
            causes.append(not_supported(where, replacement, _REPLACEMENT))
    pods.pod_template(get("template"), causes, f"{path}.template")
    restart = ((get("template") or {}).get("spec") or {}).get("restartPolicy") or ""
    where = f"{path}.template.spec.restartPolicy"
    if restart in ("", "Always"):
        causes.append(required(where, 'valid values: "OnFailure", "Never"'))
    elif restart not in ("OnFailure", "Never"):
        causes.append(not_supported(where, restart, ["OnFailure", "Never"]))
    elif policy is not None and restart != "Never":
        text = 'only "Never" is supported when podFailurePolicy is specified'
        causes.append(invalid_value(where, restart, text))


def _indexed(spec: Object, causes: Causes, path: str) -> None:
    completions, parallelism = spec.get("completions"), spec.get("parallelism")
    failed = spec.get("maxFailedIndexes")
    if completions is None:
        causes.append(required(f"{path}.completions", "when completion mode is Indexed"))
    if _above(parallelism, _MAX_INDEXES):
        text = f"must be less than or equal to {_MAX_INDEXES} when completion mode is Indexed"
        causes.append(invalid_value(f"{path}.parallelism", parallelism, text))
    if failed is not None and completions is not None and failed > completions:
        text = "must be less than or equal to completions"
        causes.append(invalid_value(f"{path}.maxFailedIndexes", failed, text))
    if _above(failed, _MAX_INDEXES):
        text = f"must be less than or equal to {_MAX_INDEXES}"
        causes.append(invalid_value(f"{path}.maxFailedIndexes", failed, text))
    if _above(completions, _MAX_INDEXES) and spec.get("backoffLimitPerIndex") is not None:
        if failed is None:
            text = f"must be specified when completions is above {_MAX_INDEXES}"
            causes.append(required(f"{path}.maxFailedIndexes", text))
        if _above(parallelism, _MANY_PARALLEL):
            causes.append(invalid_value(f"{path}.parallelism", parallelism, _MANY_TEXT))
        if _above(failed, _MANY_PARALLEL):
            causes.append(invalid_value(f"{path}.maxFailedIndexes", failed, _MANY_TEXT))


def _valid_values(allowed: tuple[str, ...]) -> str:
    quoted = " ".join(f'"{each}"' for each in allowed)
    return f"valid values: [{quoted}]"


def _choice(causes: Causes, path: str, value: Any, allowed: tuple[str, ...]) -> None:
    if not value:
        causes.append(required(path, _valid_values(allowed)))
    elif value not in allowed:
        causes.append(not_supported(path, value, allowed))


def _failure_policy(policy: Object, spec: Object, causes: Causes, path: str) -> None:
    """KEP-3329: what a failed pod means for its Job, by exit code or condition."""
    found = policy.get("rules") or []
    if len(found) > _MAX_RULES:
        causes.append(too_many(f"{path}.rules", len(found), _MAX_RULES))
    pod = (spec.get("template") or {}).get("spec") or {}
    members = {
        each.get("name")
        for field in ("containers", "initContainers")
        for each in pod.get(field) or ()
    }
    for index, rule in enumerate(found):
        where = f"{path}.rules[{index}]"
        action = rule.get("action") or ""
        if action == "FailIndex" and spec.get("backoffLimitPerIndex") is None:
            text = "requires the backoffLimitPerIndex to be set"
            causes.append(invalid_value(f"{where}.action", action, text))
        _choice(causes, f"{where}.action", action, _ACTIONS)
        codes, conditions = rule.get("onExitCodes"), rule.get("onPodConditions") or []
        if codes is not None:
            _exit_codes(codes, members, causes, f"{where}.onExitCodes")
        if len(conditions) > _MAX_RULES:
            causes.append(too_many(f"{where}.onPodConditions", len(conditions), _MAX_RULES))
        for at, pattern in enumerate(conditions):
            place = f"{where}.onPodConditions[{at}]"
            rules.name(causes, f"{place}.type", pattern.get("type") or "", names.qualified_name)
            _choice(causes, f"{place}.status", pattern.get("status"), _STATUSES)
        if codes is not None and conditions:
            text = "specifying both OnExitCodes and OnPodConditions is not supported"
            causes.append(_without_value(where, text))
        if codes is None and not conditions:
            text = "specifying one of OnExitCodes and OnPodConditions is required"
            causes.append(_without_value(where, text))


def _exit_codes(codes: Object, members: set[Any], causes: Causes, path: str) -> None:
    operator, values = codes.get("operator") or "", codes.get("values") or []
    _choice(causes, f"{path}.operator", operator, ("In", "NotIn"))
    container = codes.get("containerName")
    if container is not None and container not in members:
        text = "must be one of the container or initContainer names in the pod template"
        causes.append(invalid_value(f"{path}.containerName", container, text))
    where = f"{path}.values"
    if not values:
        causes.append(invalid_value(where, values, "at least one value is required"))
    elif len(values) > _MAX_CODES:
        causes.append(too_many(where, len(values), _MAX_CODES))
    for index, value in enumerate(values):
        if operator == "In" and value == 0:
            text = "must not be 0 for the In operator"
            causes.append(invalid_value(f"{where}[{index}]", value, text))
        if value in values[:index]:
            causes.append(duplicate(f"{where}[{index}]", value))
    if values != sorted(values):
        causes.append(invalid_value(where, values, "must be ordered"))


def _success_policy(policy: Object, completions: int, causes: Causes, path: str) -> None:
    """KEP-3998: which indexes make the Job a success before all are done."""
    found, where = policy.get("rules") or [], f"{path}.rules"
    if not found:
        text = "at least one rules must be specified when the successPolicy is specified"
        causes.append(required(where, text))
    if len(found) > _MAX_RULES:
        causes.append(too_many(where, len(found), _MAX_RULES))
    for index, rule in enumerate(found):
        at = f"{where}[{index}]"
        count, indexes = rule.get("succeededCount"), rule.get("succeededIndexes")
        if count is None and indexes is None:
            text = "at least one of succeededCount or succeededIndexes must be specified"
            causes.append(required(at, text))
        total = completions
        if indexes is not None:
            if len(indexes) > _MAX_INDEXES_TEXT:
                causes.append(too_long(f"{at}.succeededIndexes", indexes, _MAX_INDEXES_TEXT))
            try:
                total = count_indexes(indexes, completions)
            except ValueError as error:
                text = f"error parsing succeededIndexes: {error}"
                causes.append(invalid_value(f"{at}.succeededIndexes", indexes, text))
        if count is None:
            continue
        rules.not_negative(causes, f"{at}.succeededCount", count)
        for limit, what in (
            (completions, "the number of specified completions"),
            (total, "the number of indexes in the specified succeededIndexes field"),
        ):
            if count > limit and (what.endswith("completions") or indexes is not None):
                text = f"must be less than or equal to {limit} ({what})"
                causes.append(invalid_value(f"{at}.succeededCount", count, text))


_JOB_FIXED: Final = (
    "completionMode",
    "podFailurePolicy",
    "backoffLimitPerIndex",
    "managedBy",
    "successPolicy",
)


def _job_update(new: Object, old: Object, causes: Causes) -> None:
    before, after = old.get("spec") or {}, new.get("spec") or {}
    had = _template_labels(before)
    # Jobs from before Kubernetes 1.27 bear the labels without the prefix only.
    _job(new, causes, prefixed={f"{_PREFIX}job-name", f"{_PREFIX}controller-uid"} <= had.keys())
    completions = after.get("completions")
    if completions != before.get("completions"):
        if after.get("completionMode") != "Indexed":
            causes.append(invalid_value("spec.completions", completions, rules.IMMUTABLE))
        elif completions is not None and completions != after.get("parallelism"):
            text = "can only be modified in tandem with spec.parallelism"
            causes.append(invalid_value("spec.completions", completions, text))
    rules.immutable(causes, "spec.selector", after.get("selector"), before.get("selector"))
    _template_update(after, before, _may_change(before, old.get("status") or {}), causes)
    for field in _JOB_FIXED:
        rules.immutable(causes, f"spec.{field}", after.get(field), before.get(field))


def _may_change(spec: Object, status: Object) -> bool:
    """A suspended Job without pods may be placed and sized anew by a queue (KEP-2926, KEP-5440)."""
    suspended = any(
        each.get("type") == "Suspended" and each.get("status") == "True"
        for each in status.get("conditions") or ()
    )
    return bool(
        spec.get("suspend")
        and (suspended or not status.get("startTime"))
        and not status.get("active")
    )


def _template_update(after: Object, before: Object, may_change: bool, causes: Causes) -> None:
    new, old = after.get("template") or {}, before.get("template") or {}
    if not may_change:
        rules.immutable(causes, "spec.template", new, old)
    elif _fixed(new.get("spec") or {}) != _fixed(old.get("spec") or {}):
        causes.append(invalid_value("spec.template.spec", new.get("spec"), rules.IMMUTABLE))


_PLACEMENT: Final = ("nodeSelector", "tolerations", "schedulingGates")


def _fixed(pod: Object) -> Object:
    """What of a template's pod stays as it is while its placement and its resources change."""
    pod = {key: value for key, value in pod.items() if key not in _PLACEMENT}
    affinity = dict(pod.pop("affinity", None) or {})
    affinity.pop("nodeAffinity", None)
    if affinity:
        pod["affinity"] = affinity
    for field in ("containers", "initContainers"):
        if field in pod:
            pod[field] = [{**each, "resources": None} for each in pod[field]]
    return pod


# --- CronJob ----------------------------------------------------------------------------------------


def _cron_name(name: str) -> list[str]:
    reasons = names.dns1123_subdomain(name)
    if len(name) > CRON_NAME_MAX:
        reasons.append(f"must be no more than {CRON_NAME_MAX} characters")
    return reasons


def _cron_job(cron_job: Object, causes: Causes) -> None:
    _cron_spec(cron_job.get("spec") or {}, causes, zone_in_schedule=False)


def _cron_job_update(new: Object, old: Object, causes: Causes) -> None:
    schedule = (old.get("spec") or {}).get("schedule") or ""
    _cron_spec(new.get("spec") or {}, causes, zone_in_schedule="TZ" in schedule)


def _cron_spec(spec: Object, causes: Causes, *, zone_in_schedule: bool) -> None:
    """`zone_in_schedule`: the schedule named its time zone before that was refused, and still may."""
    schedule, zone = spec.get("schedule") or "", spec.get("timeZone")
    if not schedule:
        causes.append(required("spec.schedule"))
    else:
        if reason := cron_error(schedule):
            causes.append(invalid_value("spec.schedule", schedule, reason))
        text = ""
        if "TZ" in schedule:
            if not zone_in_schedule:
                text = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"
            elif zone is not None:
                text = "cannot use both timeZone field and TZ or CRON_TZ in schedule"
        if text:
            causes.append(invalid_value("spec.schedule", schedule, text))
    for field in (
        "startingDeadlineSeconds",
        "successfulJobsHistoryLimit",
        "failedJobsHistoryLimit",
    ):
        rules.not_negative(causes, f"spec.{field}", spec.get(field))
    rules.listed(causes, "spec.concurrencyPolicy", spec.get("concurrencyPolicy"), _CONCURRENCY)
    time_zone(zone, causes)
    template = spec.get("jobTemplate") or {}
    metadata, job = template.get("metadata") or {}, template.get("spec") or {}
    rules.labels(causes, "spec.jobTemplate.labels", metadata.get("labels"))
    rules.annotations(causes, "spec.jobTemplate.annotations", metadata.get("annotations"))
    _job_spec(job, causes, "spec.jobTemplate.spec")
    if job.get("selector") is not None:
        text = "`selector` will be auto-generated"
        causes.append(invalid_value("spec.jobTemplate.spec.selector", job["selector"], text))
    if job.get("manualSelector"):
        path = "spec.jobTemplate.spec.manualSelector"
        causes.append(not_supported(path, True, ["nil", "false"]))


RULES = {
    ("batch", "Job"): Rules(_job, _job_update, status=job_status.validate, update_is_whole=True),
    ("batch", "CronJob"): Rules(_cron_job, _cron_job_update, _cron_name, update_is_whole=True),
}
