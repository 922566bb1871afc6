"""What a failed pod means to its Job: the pod failure policy (KEP-3329), and how long to wait before the next try."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from sampan.kube.objects import parse_time

Object = dict[str, Any]

FIRST_DELAY, LONGEST_DELAY = 10.0, 600.0  # seconds before a failed pod is replaced; doubles


class Verdict(NamedTuple):
    """`FailJob`, `FailIndex`, `Ignore` or `Count`, and for the first two why, in words."""

    action: str
    message: str = ""


def judge(job: Object, pod: Object) -> Verdict:
    """The first rule of the policy that matches decides; without one the failure counts."""
    policy = job["spec"].get("podFailurePolicy") or {}
    for number, rule in enumerate(policy.get("rules") or ()):
        found = _by_exit_code(rule, pod) if rule.get("onExitCodes") else _by_condition(rule, pod)
        if found:
            text = f"{found} matching {rule['action']} rule at index {number}"
            return Verdict(rule["action"], text)
    return Verdict("Count")


def _by_exit_code(rule: Object, pod: Object) -> str:
    wanted = rule["onExitCodes"]
    status, metadata = pod.get("status") or {}, pod["metadata"]
    for key in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(key) or ():
            ended = (container.get("state") or {}).get("terminated")
            if ended is None or wanted.get("containerName") not in (None, container["name"]):
                continue
            code = ended.get("exitCode", 0)
            listed = code in (wanted.get("values") or ())
            # Success is never a failure, whatever a rule with NotIn says of it.
            if code != 0 and listed == (wanted["operator"] == "In"):
                where = f"{metadata['namespace']}/{metadata['name']}"
                return f"Container {container['name']} for pod {where} failed with exit code {code}"
    return ""


def _by_condition(rule: Object, pod: Object) -> str:
    metadata = pod["metadata"]
    conditions = (pod.get("status") or {}).get("conditions") or ()
    for pattern in rule.get("onPodConditions") or ():
        for condition in conditions:
            if condition["type"] == pattern["type"] and (
                condition["status"] == pattern.get("status", "True")
            ):
                where = f"{metadata['namespace']}/{metadata['name']}"
                return f"Pod {where} has condition {condition['type']}"
    return ""


def finished_at(pod: Object) -> datetime:
    """When the last container ended; for a pod without one, when it was marked for deletion or became not ready."""
    status, metadata = pod.get("status") or {}, pod["metadata"]
    moments = [
        ended["finishedAt"]
        for container in status.get("containerStatuses") or ()
        if (ended := (container.get("state") or {}).get("terminated")) and ended.get("finishedAt")
    ]
    if not moments:
        moments = [
            condition["lastTransitionTime"]
            for condition in status.get("conditions") or ()
            if condition["type"] == "Ready" and condition.get("lastTransitionTime")
        ]
    found = moments or [metadata.get("deletionTimestamp") or metadata["creationTimestamp"]]
    return max(parse_time(text) for text in found)


def retry_at(succeeded: list[Object], failed: list[Object]) -> float:
    """When, in seconds since the epoch, a new pod may start: later with each failure since the last success."""
    last_success = max((finished_at(pod).timestamp() for pod in succeeded), default=0.0)
    recent = [moment for pod in failed if (moment := finished_at(pod).timestamp()) > last_success]
    if not recent:
        return 0.0
    return max(recent) + min(FIRST_DELAY * 2.0 ** (len(recent) - 1), LONGEST_DELAY)
