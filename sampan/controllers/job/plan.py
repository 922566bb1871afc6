"""What a Job needs next, decided from the Job, its pods and the time alone.

`examine` sorts the pods; `outcome` says whether the Job is over and why; `wanted` says which pods to make or to stop. Each
is pure. Source: kubernetes.io/docs/concepts/workloads/controllers/job, KEPs 2307 (tracking), 3329, 3850, 3939, 3998.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sampan.controllers.job import failures, indexes
from sampan.controllers.pods import rank_for_deletion
from sampan.kube.objects import condition, finalizers, is_deleting, parse_time, pod_ready

Object = dict[str, Any]

TRACKING = "batch.kubernetes.io/job-tracking"  # the finalizer of a pod that was not counted yet
FAILURES = "batch.kubernetes.io/job-index-failure-count"
IGNORED_FAILURES = "batch.kubernetes.io/job-index-ignored-failure-count"


class Outcome(NamedTuple):
    kind: str  # Complete | Failed
    reason: str
    message: str


@dataclass(slots=True)
class Picture:
    """The pods of one Job by what they are, and what was counted of those that are gone."""

    job: Object
    active: list[Object] = field(default_factory=list)
    terminating: list[Object] = field(default_factory=list)  # being deleted, not ended
    succeeded: list[Object] = field(default_factory=list)  # ended well, and not counted yet
    failed: list[Object] = field(default_factory=list)  # failed, counted against the limit, not yet
    ignored: list[Object] = field(default_factory=list)  # ended, and count for nothing
    all_succeeded: list[Object] = field(default_factory=list)
    all_failed: list[Object] = field(default_factory=list)
    done: set[int] = field(default_factory=set)  # completed indexes
    broken: set[int] = field(default_factory=set)  # failed indexes
    fatal: str = ""  # why the failure policy ends the Job

    @property
    def spec(self) -> Object:
        return self.job["spec"]

    @property
    def status(self) -> Object:
        return self.job.get("status") or {}

    @property
    def indexed(self) -> bool:
        return self.spec.get("completionMode") == "Indexed"

    @property
    def parallelism(self) -> int:
        return self.spec.get("parallelism", 1)

    @property
    def completions(self) -> int | None:
        return self.spec.get("completions")

    @property
    def successes(self) -> int:
        if self.indexed:
            return len(self.done)
        uncounted = (self.status.get("uncountedTerminatedPods") or {}).get("succeeded") or ()
        return self.status.get("succeeded", 0) + len(uncounted) + len(self.succeeded)

    @property
    def failures(self) -> int:
        uncounted = (self.status.get("uncountedTerminatedPods") or {}).get("failed") or ()
        return self.status.get("failed", 0) + len(uncounted) + len(self.failed)

    @property
    def replaces_only_failed(self) -> bool:
        return self.spec.get("podReplacementPolicy") == "Failed"


def examine(job: Object, pods: list[Object]) -> Picture:
    """Sort the Job's pods."""
    found = Picture(job)
    if found.indexed:
        limit = found.completions or 0
        found.done = indexes.parse(found.status.get("completedIndexes"), limit)
        found.broken = indexes.parse(found.status.get("failedIndexes"), limit)
    uncounted = found.status.get("uncountedTerminatedPods") or {}
    known = {*(uncounted.get("succeeded") or ()), *(uncounted.get("failed") or ())}
    for pod in pods:
        fresh = TRACKING in finalizers(pod) and pod["metadata"]["uid"] not in known
        phase = (pod.get("status") or {}).get("phase")
        if phase == "Succeeded":
            _succeeded(found, pod, fresh)
        elif phase == "Failed":
            _failed(found, pod, fresh)
        elif is_deleting(pod):
            found.terminating.append(pod)
        else:
            found.active.append(pod)
    return found


def _succeeded(found: Picture, pod: Object, fresh: bool) -> None:
    found.all_succeeded.append(pod)
    if not found.indexed:
        if fresh:
            found.succeeded.append(pod)
        return
    index = indexes.of_pod(pod)
    if index is None or index >= (found.completions or 0):
        found.ignored.append(pod)
        return
    if fresh:
        found.succeeded.append(pod)
    found.done.add(index)
    found.broken.discard(index)


def _failed(found: Picture, pod: Object, fresh: bool) -> None:
    verdict = failures.judge(found.job, pod)
    if verdict.action == "FailJob" and not found.fatal:
        found.fatal = verdict.message
    if verdict.action == "Ignore":
        found.ignored.append(pod)
        return
    found.all_failed.append(pod)
    if fresh:
        found.failed.append(pod)
    limit = found.spec.get("backoffLimitPerIndex")
    index = indexes.of_pod(pod)
    if limit is not None and index is not None and index not in found.done:
        if verdict.action == "FailIndex" or tries(pod) + 1 > limit:
            found.broken.add(index)


def tries(pod: Object) -> int:
    """How often the index had failed before this pod."""
    text = (pod["metadata"].get("annotations") or {}).get(FAILURES, "0")
    return int(text) if text.isdigit() else 0


# Is it over?


def outcome(found: Picture, now: float) -> Outcome | None:
    """How the Job ends, as soon as that is settled; pods may still be running then."""
    for kind, target in (("Failed", "FailureTarget"), ("Complete", "SuccessCriteriaMet")):
        settled = condition(found.job, target)
        if settled is not None and settled["status"] == "True":
            return Outcome(kind, settled.get("reason", ""), settled.get("message", ""))
    if found.fatal:
        return Outcome("Failed", "PodFailurePolicy", found.fatal)
    return _policy_success(found) or _failure(found, now) or _success(found)


def _failure(found: Picture, now: float) -> Outcome | None:
    spec = found.spec
    if found.failures > spec.get("backoffLimit", 6) or _restarted_too_often(found):
        text = "Job has reached the specified backoff limit"
        return Outcome("Failed", "BackoffLimitExceeded", text)
    left = deadline_in(found, now)
    if left is not None and left <= 0:
        text = "Job was active longer than specified deadline"
        return Outcome("Failed", "DeadlineExceeded", text)
    most = spec.get("maxFailedIndexes")
    if most is not None and len(found.broken) > most:
        text = "Job has exceeded the specified maximal number of failed indexes"
        return Outcome("Failed", "MaxFailedIndexesExceeded", text)
    if found.broken and len(found.broken) + len(found.done) >= (found.completions or 0):
        return Outcome("Failed", "FailedIndexes", "Job has failed indexes")
    return None


def _restarted_too_often(found: Picture) -> bool:
    if found.spec["template"]["spec"].get("restartPolicy") != "OnFailure":
        return False
    restarts = sum(
        container.get("restartCount", 0)
        for pod in found.active
        for key in ("initContainerStatuses", "containerStatuses")
        for container in (pod.get("status") or {}).get(key) or ()
    )
    limit = found.spec.get("backoffLimit", 6)
    return restarts > 0 if limit == 0 else restarts >= limit


def deadline_in(found: Picture, now: float) -> float | None:
    """Seconds until activeDeadlineSeconds are over; None without a deadline or while suspended."""
    deadline, started = found.spec.get("activeDeadlineSeconds"), found.status.get("startTime")
    if deadline is None or not started or found.spec.get("suspend"):
        return None
    return parse_time(started).timestamp() + deadline - now


def _policy_success(found: Picture) -> Outcome | None:
    policy = found.spec.get("successPolicy") or {}
    for number, rule in enumerate(policy.get("rules") or ()):
        done = found.done
        if rule.get("succeededIndexes"):
            chosen = indexes.parse(rule["succeededIndexes"], found.completions or 0)
            done = done & chosen
            enough = rule.get("succeededCount", len(chosen))
        else:
            enough = rule.get("succeededCount", found.completions or 0)
        if len(done) >= enough:
            return Outcome("Complete", "SuccessPolicy", f"Matched rules at index {number}")
    return None


def _success(found: Picture) -> Outcome | None:
    text = "Reached expected number of succeeded pods"
    if found.completions is None:
        # A work queue: when one pod found it empty the others only have to end.
        over = found.successes > 0 and not found.active and not found.terminating
    else:
        over = found.successes >= found.completions
    return Outcome("Complete", "CompletionsReached", text) if over else None


# What to run?


class Wanted(NamedTuple):
    create: list[int | None]  # an index each; None for pods without one
    stop: list[Object]
    wait: float | None = None  # seconds until more may be made


def wanted(found: Picture, now: float) -> Wanted:
    """The pods to make and to stop while the Job is neither over nor suspended."""
    want = found.parallelism
    if found.completions is None:
        if found.successes > 0:
            want = min(want, len(found.active))
    else:
        want = min(want, found.completions - found.successes - len(found.broken))
    surplus = len(found.active) - max(want, 0)
    if surplus > 0:
        return Wanted([], rank_for_deletion(found.active)[:surplus])
    busy = len(found.active) + (len(found.terminating) if found.replaces_only_failed else 0)
    missing = want - busy
    if missing <= 0:
        return Wanted([], [])
    pause = failures.retry_at(found.all_succeeded, found.all_failed) - now
    if found.spec.get("backoffLimitPerIndex") is None and pause > 0:
        return Wanted([], [], pause)
    if not found.indexed:
        return Wanted([None] * missing, [])
    return _missing_indexes(found, missing, now)


def _missing_indexes(found: Picture, missing: int, now: float) -> Wanted:
    held = {indexes.of_pod(pod) for pod in found.active}
    if found.replaces_only_failed:
        held |= {indexes.of_pod(pod) for pod in found.terminating}
    create: list[int | None] = []
    waits = []
    for index in range(found.completions or 0):
        if len(create) == missing:
            break
        if index in held or index in found.done or index in found.broken:
            continue
        if found.spec.get("backoffLimitPerIndex") is not None:
            failed = [pod for pod in found.all_failed if indexes.of_pod(pod) == index]
            pause = failures.retry_at([], failed) - now
            if pause > 0:
                waits.append(pause)
                continue
        create.append(index)
    return Wanted(create, [], min(waits, default=None))


def failures_of(found: Picture, index: int) -> int:
    """How often this index has failed."""
    return max(
        (tries(pod) + 1 for pod in found.all_failed if indexes.of_pod(pod) == index), default=0
    )


def ready_count(found: Picture) -> int:
    return sum(pod_ready(pod) for pod in found.active)
