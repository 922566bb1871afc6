"""The batch group: Job and CronJob. A Job's selector is generated, its template and completions stay as they are."""

from __future__ import annotations

import re
from typing import Final

from sampan.kube import names, selectors
from sampan.kube.errors import forbidden_field, invalid_value, not_supported, required
from sampan.kube.objects import name as name_of
from sampan.kube.validation import pods, rules
from sampan.kube.validation.rules import Causes, Object, Rules

CRON_NAME_MAX: Final = 52  # the Job's suffix takes the other 11 of 63
_MODES: Final = frozenset(("Indexed", "NonIndexed"))
_REPLACEMENT: Final = frozenset(("Failed", "TerminatingOrFailed"))
_CONCURRENCY: Final = frozenset(("Allow", "Forbid", "Replace"))
_ACTIONS: Final = frozenset(("Count", "FailIndex", "FailJob", "Ignore"))


def _job(job: Object, causes: Causes) -> None:
    spec = job.get("spec") or {}
    _job_spec(spec, causes, "spec")
    if spec.get("selector") is None:
        # Made by the strategy from the Job's uid; absent only when the object never passed it.
        if spec.get("manualSelector"):
            causes.append(required("spec.selector"))
        return
    rules.label_selector(causes, "spec.selector", spec["selector"])
    labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels") or {}
    if not selectors.from_object(spec["selector"]).matches(labels):
        text = "`selector` does not match template `labels`"
        causes.append(invalid_value("spec.template.metadata.labels", labels, text))


def _job_spec(spec: Object, causes: Causes, path: str) -> None:
    for field in (
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ):
        rules.not_negative(causes, f"{path}.{field}", spec.get(field))
    mode = spec.get("completionMode")
    if mode is not None and mode not in _MODES:
        causes.append(not_supported(f"{path}.completionMode", mode, sorted(_MODES)))
    if mode == "Indexed" and spec.get("completions") is None:
        text = "when completion mode is Indexed"
        causes.append(required(f"{path}.completions", text))
    replacement = spec.get("podReplacementPolicy")
    rules.optional_choice(causes, f"{path}.podReplacementPolicy", replacement, _REPLACEMENT)
    if (policy := spec.get("podFailurePolicy")) is not None:
        _failure_policy(policy, spec, causes, path)
    pods.pod_template(spec.get("template"), causes, f"{path}.template")
    restart = ((spec.get("template") or {}).get("spec") or {}).get("restartPolicy") or ""
    where = f"{path}.template.spec.restartPolicy"
    if restart in ("", "Always"):
        text = 'valid values: "OnFailure", "Never"'
        causes.append(required(where, text))
    elif restart not in ("OnFailure", "Never"):
        causes.append(not_supported(where, restart, ["OnFailure", "Never"]))
    elif policy is not None and restart != "Never":
        text = 'only "Never" is supported when podFailurePolicy is specified'
        causes.append(invalid_value(where, restart, text))


def _failure_policy(policy: Object, spec: Object, causes: Causes, path: str) -> None:
    for index, rule in enumerate(policy.get("rules") or ()):
        where = f"{path}.podFailurePolicy.rules[{index}]"
        action = rule.get("action") or ""
        rules.choice(causes, f"{where}.action", action, _ACTIONS)
        if action == "FailIndex" and spec.get("backoffLimitPerIndex") is None:
            text = "requires the backoffLimitPerIndex to be set"
            causes.append(invalid_value(f"{where}.action", action, text))
        codes, conditions = rule.get("onExitCodes"), rule.get("onPodConditions")
        if not codes and not conditions:
            text = "specifying one of OnExitCodes and OnPodConditions is required"
            causes.append(invalid_value(where, "", text))
        if codes and conditions:
            text = "specifying both OnExitCodes and OnPodConditions is not supported"
            causes.append(invalid_value(where, "", text))
        if codes:
            operator = codes.get("operator") or ""
            rules.choice(causes, f"{where}.onExitCodes.operator", operator, ("In", "NotIn"))
            if operator == "In" and 0 in (codes.get("values") or ()):
                text = "must not be 0 for the In operator"
                causes.append(invalid_value(f"{where}.onExitCodes.values", 0, text))


_JOB_FIXED: Final = ("selector", "podFailurePolicy", "completionMode", "backoffLimitPerIndex")
# While a Job is suspended and has not started, a queue may still place its pods.
_PLACEMENT: Final = ("nodeSelector", "tolerations", "affinity", "schedulingGates")


def _job_update(new: Object, old: Object, causes: Causes) -> None:
    before, after = old.get("spec") or {}, new.get("spec") or {}
    for field in _JOB_FIXED:
        rules.immutable(causes, f"spec.{field}", after.get(field), before.get(field))
    if after.get("completions") != before.get("completions"):
        elastic = (
            after.get("completionMode") == "Indexed"
            and after.get("completions") == after.get("parallelism")
            and before.get("completions") == before.get("parallelism")
        )
        if not elastic:
            text = rules.IMMUTABLE
            causes.append(invalid_value("spec.completions", after.get("completions"), text))
    unstarted = before.get("suspend") and not (old.get("status") or {}).get("startTime")
    if _template(before, bool(unstarted)) != _template(after, bool(unstarted)):
        causes.append(invalid_value("spec.template", after.get("template"), rules.IMMUTABLE))


def _template(spec: Object, movable: bool) -> Object:
    template = dict(spec.get("template") or {})
    if movable:
        pod_spec = template.get("spec") or {}
        template["spec"] = {key: pod_spec[key] for key in pod_spec if key not in _PLACEMENT}
        template.pop("metadata", None)
    return template


def _cron_name(name: str) -> list[str]:
    reasons = names.dns1123_subdomain(name)
    if len(name) > CRON_NAME_MAX:
        reasons.append(f"must be no more than {CRON_NAME_MAX} characters")
    return reasons


def _cron_job(cron_job: Object, causes: Causes) -> None:
    spec = cron_job.get("spec") or {}
    schedule = spec.get("schedule") or ""
    if not schedule:
        causes.append(required("spec.schedule"))
    else:
        if reason := cron_error(schedule):
            causes.append(invalid_value("spec.schedule", schedule, reason))
        if "TZ" in schedule:
            text = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"
            causes.append(invalid_value("spec.schedule", schedule, text))
    _time_zone(spec.get("timeZone"), causes)
    for field in (
        "startingDeadlineSeconds",
        "successfulJobsHistoryLimit",
        "failedJobsHistoryLimit",
    ):
        rules.not_negative(causes, f"spec.{field}", spec.get(field))
    rules.choice(causes, "spec.concurrencyPolicy", spec.get("concurrencyPolicy"), _CONCURRENCY)
    job = (spec.get("jobTemplate") or {}).get("spec") or {}
    _job_spec(job, causes, "spec.jobTemplate.spec")
    for field in ("selector", "manualSelector"):
        if job.get(field):
            path = f"spec.jobTemplate.spec.{field}"
            text = "will be auto-generated" if field == "selector" else "must be unset"
            if field == "selector":
                causes.append(invalid_value(path, job[field], f"`selector` {text}"))
            else:
                causes.append(not_supported(path, job[field], ["nil", "false"]))


def _time_zone(zone: str | None, causes: Causes) -> None:
    if zone is None:
        return
    if not zone:
        text = "timeZone must be nil or non-empty string"
        causes.append(invalid_value("spec.timeZone", zone, text))
        return
    if zone.lower() == "local":
        text = (
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"
        )
        causes.append(invalid_value("spec.timeZone", zone, text))
        return
    import zoneinfo

    try:
        zoneinfo.ZoneInfo(zone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        causes.append(invalid_value("spec.timeZone", zone, f"unknown time zone {zone}"))


_MONTHS: Final = [
    "jan",
    "feb",
    "mar",
    "apr",
    "may",
    "jun",
    "jul",
    "aug",
    "sep",
    "oct",
    "nov",
    "dec",
]
_DAYS: Final = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
# Minute, hour, day of month, month, day of week: bounds, and names for their numbers.
_CRON_FIELDS: Final[tuple[tuple[int, int, list[str]], ...]] = (
    (0, 59, []),
    (0, 23, []),
    (1, 31, []),
    (1, 12, ["", *_MONTHS]),
    (0, 6, _DAYS),
)
_CRON_NAMED: Final = frozenset(
    ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")
)
_CRON_PART = re.compile(r"(?:\*|\?|(\w+)(?:-(\w+))?)(?:/(\d+))?")
_CRON_EVERY = re.compile(r"@every (\d+(\.\d+)?(ns|us|µs|ms|s|m|h))+")


def cron_error(schedule: str) -> str:
    """Why the text is no cron schedule (robfig/cron standard form); empty when it is one."""
    if schedule.startswith("@"):
        known = schedule in _CRON_NAMED or _CRON_EVERY.fullmatch(schedule)
        return "" if known else f"unrecognized descriptor: {schedule}"
    parts = schedule.split()
    if parts and parts[0].startswith(("TZ=", "CRON_TZ=")):
        parts = parts[1:]
    if len(parts) != 5:
        return f"expected exactly 5 fields, found {len(parts)}: [{' '.join(parts)}]"
    for part, bounds in zip(parts, _CRON_FIELDS, strict=True):
        for item in part.split(","):
            if reason := _cron_part_error(item, *bounds):
                return reason
    return ""


def _cron_part_error(item: str, low: int, high: int, words: list[str]) -> str:
    match = _CRON_PART.fullmatch(item)
    if match is None:
        return f"failed to parse int from {item}: invalid syntax"
    numbers = []
    for text in match.group(1, 2):
        if text is None:
            continue
        if text.isdecimal() and len(text) < 9:
            numbers.append(int(text))
        elif text.lower() in words:
            numbers.append(words.index(text.lower()))
        else:
            return (
                f'failed to parse int from {text}: strconv.Atoi: parsing "{text}": invalid syntax'
            )
    for number in numbers:
        if number < low:
            return f"beginning of range ({number}) below minimum ({low}): {item}"
        if number > high:
            return f"end of range ({number}) above maximum ({high}): {item}"
    if len(numbers) == 2 and numbers[0] > numbers[1]:
        return f"beginning of range ({numbers[0]}) beyond end of range ({numbers[1]}): {item}"
    if match[3] is not None and not int(match[3][:9]):
        return f"step of range should be a positive number: {item}"
    return ""


def _job_name(job: Object, causes: Causes) -> None:
    """The last pod of an indexed Job is named after it and must fit a label."""
    _job(job, causes)
    spec = job.get("spec") or {}
    count = spec.get("completions") or 0
    if spec.get("completionMode") == "Indexed" and count > 0 and name_of(job):
        pod = f"{name_of(job)}-{count - 1}"
        if reasons := names.dns1123_label(pod):
            text = f"will not able to create pod with invalid DNS label {pod}: {reasons[0]}"
            causes.append(invalid_value("metadata.name", name_of(job), text))
    if len(((spec.get("template") or {}).get("metadata") or {}).get("name") or "") > 253:
        causes.append(forbidden_field("spec.template.metadata.name", "is too long"))


RULES = {
    ("batch", "Job"): Rules(_job_name, _job_update),
    ("batch", "CronJob"): Rules(_cron_job, name=_cron_name),
}
