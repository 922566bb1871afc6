"""Defaults of the batch group: Job and CronJob.

A CronJob's job template gets the defaults of its pods only; those of the Job are applied to each Job that it makes.
"""

from __future__ import annotations

from typing import Final

from sampan.kube import objects
from sampan.kube.defaulting.fill import Object, each, empty, sub, unset
from sampan.kube.defaulting.pods import default_template

BACKOFF: Final = 6
NO_LIMIT: Final = 2**31 - 1


def _job(job: Object) -> None:
    spec = sub(job, "spec")
    if spec.get("completions") is None and spec.get("parallelism") is None:
        spec["completions"] = 1
    per_index = spec.get("backoffLimitPerIndex") is not None
    unset(
        spec,
        parallelism=1,
        backoffLimit=NO_LIMIT if per_index else BACKOFF,
        completionMode="NonIndexed",
        suspend=False,
        podReplacementPolicy="Failed" if spec.get("podFailurePolicy") else "TerminatingOrFailed",
    )
    if labels := objects.labels(spec.get("template") or {}):
        empty(sub(job, "metadata"), labels=labels)
    _failure_policy(spec)
    default_template(spec)


def _failure_policy(spec: Object) -> None:
    for rule in each(spec.get("podFailurePolicy"), "rules"):
        for pattern in each(rule, "onPodConditions"):
            empty(pattern, status="True")


def _cron_job(cron_job: Object) -> None:
    spec = sub(cron_job, "spec")
    empty(spec, concurrencyPolicy="Allow")
    unset(spec, suspend=False, successfulJobsHistoryLimit=3, failedJobsHistoryLimit=1)
    job = sub(sub(spec, "jobTemplate"), "spec")
    _failure_policy(job)
    default_template(job)


DEFAULTS = {("batch", "Job"): _job, ("batch", "CronJob"): _cron_job}
