"""Controllers of pods, jobs and their budgets: one thing changed, and what Kubernetes answers."""

from __future__ import annotations

from typing import Any

import pytest
from kube_tables import (
    ABSENT,
    DUPLICATE,
    FORBIDDEN,
    GONE,
    INVALID,
    MANY,
    REQUIRED,
    UNSUPPORTED,
    Object,
    Row,
    check,
    of_create,
    of_update,
)

TEMPLATE = {
    "metadata": {"labels": {"a": "b"}},
    "spec": {"containers": [{"name": "c", "image": "x"}]},
}
SELECTOR = {"matchLabels": {"a": "b"}}


def of(api_version: str, kind: str, **spec: Any) -> Object:
    metadata = {"name": "x", "namespace": "default"}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec}


def workload(kind: str, **more: Any) -> Object:
    return of("apps/v1", kind, selector=SELECTOR, template=TEMPLATE, **more)


TEMPLATED: list[Row] = [
    ({}, []),
    ({"spec.selector.matchLabels": {"a": "c"}}, [("spec.template.metadata.labels", INVALID)]),
    ({"spec.template.spec.restartPolicy": "Never"},
     [("spec.template.spec.restartPolicy", UNSUPPORTED)]),
    ({"spec.template.spec.activeDeadlineSeconds": 5},
     [("spec.template.spec.activeDeadlineSeconds", FORBIDDEN)]),
    ({"spec.template.spec.containers": []}, [("spec.template.spec.containers", REQUIRED)]),
    ({"spec.minReadySeconds": -1}, [("spec.minReadySeconds", INVALID)]),
]  # fmt: skip
SELECTOR_CHANGE: list[Row] = [
    ({"spec.selector.matchLabels": {"a": "c"}, "spec.template.metadata.labels": {"a": "c"}},
     [("spec.selector", INVALID)]),
]  # fmt: skip

# A template is looked at no further when its selector cannot be read.
SELECTED: list[Row] = [
    ({"spec.selector": GONE},
     [("spec.selector", REQUIRED), ("spec.template.metadata.labels", INVALID)]),
    ({"spec.selector.matchLabels": {"a b": "c"}, "spec.template.spec.containers": []},
     [("spec.selector.matchLabels", INVALID), ("spec.selector", INVALID)]),
]  # fmt: skip

S = "spec.strategy"
DEPLOYMENTS: list[Row] = [
    *TEMPLATED,
    *SELECTED,
    ({"spec.replicas": -1}, [("spec.replicas", INVALID)]),
    ({S: {"type": "x"}}, [(S, UNSUPPORTED)]),
    ({S: {"type": "Recreate", "rollingUpdate": {}}}, [(f"{S}.rollingUpdate", FORBIDDEN)]),
    ({S: {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 0}}},
     [(f"{S}.rollingUpdate.maxUnavailable", INVALID)]),
    ({S: {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "101%"}}},
     [(f"{S}.rollingUpdate.maxUnavailable", INVALID)]),
    ({S: {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "x"}}},
     [(f"{S}.rollingUpdate.maxUnavailable", INVALID)]),
    ({S: {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": -1}}},
     [(f"{S}.rollingUpdate.maxSurge", INVALID)]),
    ({"spec.revisionHistoryLimit": -1}, [("spec.revisionHistoryLimit", INVALID)]),
    ({"spec.progressDeadlineSeconds": -1},
     [("spec.progressDeadlineSeconds", INVALID), ("spec.progressDeadlineSeconds", INVALID)]),
    ({"spec.progressDeadlineSeconds": 5, "spec.minReadySeconds": 5},
     [("spec.progressDeadlineSeconds", INVALID)]),
]  # fmt: skip
REPLICA_SETS: list[Row] = [*TEMPLATED, ({"spec.replicas": -1}, [("spec.replicas", INVALID)])]

U = "spec.updateStrategy"
DAEMON_SETS: list[Row] = [
    *TEMPLATED,
    ({U: {"type": "x"}}, [(U, UNSUPPORTED)]),
    ({U: {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 0}}},
     [(f"{U}.rollingUpdate.maxUnavailable", REQUIRED)]),
    ({U: {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 1}}},
     [(f"{U}.rollingUpdate.maxSurge", INVALID)]),
]  # fmt: skip
CLAIM = {"metadata": {"name": "d"},
         "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}  # fmt: skip
MOUNTS = "spec.template.spec.containers[0].volumeMounts"
STATEFUL_SETS: list[Row] = [
    *TEMPLATED,
    ({"spec.replicas": -1}, [("spec.replicas", INVALID)]),
    ({"spec.podManagementPolicy": "x"}, [("spec.podManagementPolicy", INVALID)]),
    ({U: {"type": "x"}}, [(U, INVALID)]),
    ({U: {"type": "RollingUpdate", "rollingUpdate": {"partition": -1}}},
     [(f"{U}.rollingUpdate.partition", INVALID)]),
    ({U: {"type": "OnDelete", "rollingUpdate": {"partition": 1}}}, [(f"{U}.rollingUpdate", INVALID)]),
    ({"spec.volumeClaimTemplates": [CLAIM]}, []),
    ({"spec.volumeClaimTemplates": [CLAIM], MOUNTS: [{"name": "d", "mountPath": "/d"}]}, []),
    ({"spec.volumeClaimTemplates": [CLAIM], MOUNTS: [{"name": "e", "mountPath": "/d"}]},
     [(f"{MOUNTS}[0].name", ABSENT)]),
    ({"spec.persistentVolumeClaimRetentionPolicy": {"whenDeleted": "x", "whenScaled": "Retain"}},
     [("spec.persistentVolumeClaimRetentionPolicy.whenDeleted", UNSUPPORTED)]),
    ({"spec.ordinals": {"start": -1}}, [("spec.ordinals.start", INVALID)]),
]  # fmt: skip
STATEFUL_UPDATES: list[Row] = [
    ({"spec.replicas": 3}, []),
    ({"spec.template.spec.containers[0].image": "y"}, []),
    ({"spec.serviceName": "other"}, [("spec", FORBIDDEN)]),
    ({"spec.podManagementPolicy": "Parallel"}, [("spec", FORBIDDEN)]),
    ({"spec.volumeClaimTemplates": [CLAIM]}, [("spec", FORBIDDEN)]),
]

JOB_TEMPLATE = {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]}}
JOB = of("batch/v1", "Job", template={**JOB_TEMPLATE, "metadata": {"labels": {"a": "b"}}},
         selector=SELECTOR, manualSelector=True)  # fmt: skip
F = "spec.podFailurePolicy"
K = "spec.successPolicy"
INDEXED = {"spec.completionMode": "Indexed", "spec.completions": 3, "spec.parallelism": 3}


def rule(**more: Any) -> Object:
    return {"action": "Ignore", **more}


CODES = {"operator": "In", "values": [1]}
JOBS: list[Row] = [
    ({}, []),
    ({"spec.parallelism": -1}, [("spec.parallelism", INVALID)]),
    ({"spec.completions": -1}, [("spec.completions", INVALID)]),
    ({"spec.backoffLimit": -1}, [("spec.backoffLimit", INVALID)]),
    ({"spec.activeDeadlineSeconds": -1}, [("spec.activeDeadlineSeconds", INVALID)]),
    ({"spec.ttlSecondsAfterFinished": -1}, [("spec.ttlSecondsAfterFinished", INVALID)]),
    ({"spec.template.spec.restartPolicy": "Always"},
     [("spec.template.spec.restartPolicy", REQUIRED)]),
    ({"spec.completionMode": "x"}, [("spec.completionMode", UNSUPPORTED)]),
    ({"spec.completionMode": "Indexed", "spec.completions": GONE, "spec.parallelism": 1},
     [("spec.completions", REQUIRED)]),
    ({**INDEXED, "spec.parallelism": 100_001}, [("spec.parallelism", INVALID)]),
    ({"spec.backoffLimitPerIndex": 1}, [("spec.backoffLimitPerIndex", INVALID)]),
    ({**INDEXED, "spec.backoffLimitPerIndex": 1}, []),
    ({**INDEXED, "spec.maxFailedIndexes": 1}, [("spec.backoffLimitPerIndex", REQUIRED)]),
    ({**INDEXED, "spec.backoffLimitPerIndex": 1, "spec.maxFailedIndexes": 4},
     [("spec.maxFailedIndexes", INVALID)]),
    ({"spec.podReplacementPolicy": "x"}, [("spec.podReplacementPolicy", UNSUPPORTED)]),
    ({F: {"rules": [rule(onExitCodes=CODES)]}}, []),
    ({F: {"rules": [rule(onExitCodes=CODES)]}, "spec.podReplacementPolicy": "TerminatingOrFailed"},
     [("spec.podReplacementPolicy", UNSUPPORTED)]),
    ({F: {"rules": [rule(onExitCodes=CODES)]}, "spec.template.spec.restartPolicy": "OnFailure"},
     [("spec.template.spec.restartPolicy", INVALID)]),
    ({F: {"rules": [rule()]}}, [(f"{F}.rules[0]", INVALID)]),
    ({F: {"rules": [{"action": "x", "onExitCodes": CODES}]}}, [(f"{F}.rules[0].action", UNSUPPORTED)]),
    ({F: {"rules": [rule(onExitCodes={"operator": "x", "values": [1]})]}},
     [(f"{F}.rules[0].onExitCodes.operator", UNSUPPORTED)]),
    ({F: {"rules": [rule(onExitCodes={"operator": "In", "values": [0]})]}},
     [(f"{F}.rules[0].onExitCodes.values[0]", INVALID)]),
    ({F: {"rules": [rule(onExitCodes={"operator": "In", "values": [2, 1]})]}},
     [(f"{F}.rules[0].onExitCodes.values", INVALID)]),
    ({F: {"rules": [rule(onExitCodes={"operator": "In", "values": [1, 1]})]}},
     [(f"{F}.rules[0].onExitCodes.values[1]", DUPLICATE)]),
    ({F: {"rules": [rule(onExitCodes={**CODES, "containerName": "z"})]}},
     [(f"{F}.rules[0].onExitCodes.containerName", INVALID)]),
    ({F: {"rules": [rule(onExitCodes=CODES)] * 21}}, [(f"{F}.rules", MANY)]),
    ({**INDEXED, K: {"rules": [{"succeededIndexes": "0-1"}]}}, []),
    ({**INDEXED, K: {"rules": []}}, [(f"{K}.rules", REQUIRED)]),
    ({**INDEXED, K: {"rules": [{}]}}, [(f"{K}.rules[0]", REQUIRED)]),
    ({**INDEXED, K: {"rules": [{"succeededIndexes": "0-9"}]}},
     [(f"{K}.rules[0].succeededIndexes", INVALID)]),
    ({**INDEXED, K: {"rules": [{"succeededCount": 4}]}}, [(f"{K}.rules[0].succeededCount", INVALID)]),
    ({K: {"rules": [{"succeededCount": 1}]}}, [(K, INVALID)]),
    ({"spec.managedBy": "a"}, [("spec.managedBy", INVALID)]),
    ({"spec.managedBy": "a.b/c"}, []),
]  # fmt: skip
JOB_UPDATES: list[Row] = [
    ({"spec.parallelism": 4}, []),
    ({"spec.suspend": True}, []),
    ({"spec.completions": 4}, [("spec.completions", INVALID)]),
    ({"spec.completionMode": "Indexed", "spec.completions": 1},
     [("spec.completionMode", INVALID)]),
    ({"spec.template.spec.containers[0].image": "y"}, [("spec.template", INVALID)]),
    ({"spec.template.spec.nodeSelector": {"a": "b"}}, [("spec.template", INVALID)]),
    ({F: {"rules": [rule(onExitCodes=CODES)]}, "spec.podReplacementPolicy": "Failed"},
     [(F, INVALID)]),
    ({"spec.ttlSecondsAfterFinished": 4}, []),
    ({"spec.managedBy": "a.b/c"}, [("spec.managedBy", INVALID)]),
]  # fmt: skip
SUSPENDED = {**JOB, "spec": {**JOB["spec"], "suspend": True}}
SUSPENDED_UPDATES: list[Row] = [
    ({"spec.template.spec.nodeSelector": {"a": "b"}}, []),
    ({"spec.template.spec.tolerations": [{"key": "a", "operator": "Exists"}]}, []),
    ({"spec.template.metadata.labels": {"a": "b", "c": "d"}}, []),
    ({"spec.template.spec.containers[0].name": "y"}, [("spec.template.spec", INVALID)]),
]  # fmt: skip

CRON = of(
    "batch/v1", "CronJob", schedule="0 * * * *", jobTemplate={"spec": {"template": JOB_TEMPLATE}}
)
CRONS: list[Row] = [
    ({}, []),
    ({"metadata.name": "a" * 53}, [("metadata.name", INVALID)]),
    ({"spec.schedule": ""}, [("spec.schedule", REQUIRED)]),
    ({"spec.schedule": "0 * * *"}, [("spec.schedule", INVALID)]),
    ({"spec.schedule": "60 * * * *"}, [("spec.schedule", INVALID)]),
    ({"spec.schedule": "@hourly"}, []),
    ({"spec.schedule": "@sometimes"}, [("spec.schedule", INVALID)]),
    ({"spec.schedule": "*/15 0-6,20 ? JAN-MAR MON"}, []),
    ({"spec.schedule": "TZ=UTC 0 * * * *"}, [("spec.schedule", INVALID)]),
    ({"spec.schedule": "0 0 31 2 *"}, []),
    ({"spec.timeZone": "Europe/Paris"}, []),
    ({"spec.timeZone": "Local"}, [("spec.timeZone", INVALID)]),
    ({"spec.timeZone": "Mars/Base"}, [("spec.timeZone", INVALID)]),
    ({"spec.timeZone": ""}, [("spec.timeZone", INVALID)]),
    ({"spec.concurrencyPolicy": "x"}, [("spec.concurrencyPolicy", UNSUPPORTED)]),
    ({"spec.startingDeadlineSeconds": -1}, [("spec.startingDeadlineSeconds", INVALID)]),
    ({"spec.successfulJobsHistoryLimit": -1}, [("spec.successfulJobsHistoryLimit", INVALID)]),
    ({"spec.failedJobsHistoryLimit": -1}, [("spec.failedJobsHistoryLimit", INVALID)]),
    ({"spec.jobTemplate.spec.manualSelector": True},
     [("spec.jobTemplate.spec.manualSelector", UNSUPPORTED)]),
    ({"spec.jobTemplate.spec.parallelism": -1}, [("spec.jobTemplate.spec.parallelism", INVALID)]),
]  # fmt: skip

RC = {"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "x", "namespace": "d"},
      "spec": {"selector": {"a": "b"}, "template": TEMPLATE}}  # fmt: skip
RCS: list[Row] = [
    ({}, []),
    ({"spec.replicas": -1}, [("spec.replicas", INVALID)]),
    ({"spec.selector": {"a": "c"}}, [("spec.template.metadata.labels", INVALID)]),
    ({"spec.template": GONE}, [("spec.template", REQUIRED)]),
    ({"spec.template.spec.restartPolicy": "Never"},
     [("spec.template.spec.restartPolicy", UNSUPPORTED)]),
]  # fmt: skip

BUDGET = of("policy/v1", "PodDisruptionBudget", selector=SELECTOR, minAvailable=1)
BUDGETS: list[Row] = [
    ({}, []),
    ({"spec.minAvailable": "50%"}, []),
    ({"spec.minAvailable": -1}, [("spec.minAvailable", INVALID)]),
    ({"spec.minAvailable": "101%"}, [("spec.minAvailable", INVALID)]),
    ({"spec.maxUnavailable": 1}, [("spec", INVALID)]),
    ({"spec.unhealthyPodEvictionPolicy": "x"}, [("spec.unhealthyPodEvictionPolicy", UNSUPPORTED)]),
]

SCALER = of("autoscaling/v2", "HorizontalPodAutoscaler", maxReplicas=3,
            scaleTargetRef={"apiVersion": "apps/v1", "kind": "Deployment", "name": "x"})  # fmt: skip
M = "spec.metrics[0]"
B = "spec.behavior.scaleUp"


def metric(kind: str, **source: Any) -> Object:
    return {"type": kind, kind[0].lower() + kind[1:]: source}


VALUE, AVERAGE = {"type": "Value", "value": "1"}, {"type": "AverageValue", "averageValue": "1"}
OWN = {"metric": {"name": "m"}}
SCALERS: list[Row] = [
    ({}, []),
    ({"spec.minReplicas": 0}, [("spec.minReplicas", INVALID), ("spec.metrics", FORBIDDEN)]),
    ({"spec.maxReplicas": 0}, [("spec.maxReplicas", INVALID), ("spec.maxReplicas", INVALID)]),
    ({"spec.minReplicas": 4}, [("spec.maxReplicas", INVALID)]),
    ({"spec.scaleTargetRef": {}},
     [("spec.scaleTargetRef.kind", REQUIRED), ("spec.scaleTargetRef.name", REQUIRED),
      ("spec.scaleTargetRef.apiVersion", INVALID)]),
    ({"spec.scaleTargetRef.name": "a/b"}, [("spec.scaleTargetRef.name", INVALID)]),
    ({M: {}}, [(f"{M}.type", REQUIRED), (f"{M}.type", UNSUPPORTED), (f"{M}.type", UNSUPPORTED)]),
    ({M: {"type": "Resource"}}, [(f"{M}.resource", REQUIRED)]),
    ({M: metric("Resource", name="cpu", target={"type": "Utilization"})},
     [(f"{M}.resource.target.averageUtilization", REQUIRED)]),
    ({M: metric("Resource", name="cpu", target={**AVERAGE, "averageUtilization": 5})},
     [(f"{M}.resource.target.averageValue", FORBIDDEN)]),
    ({M: metric("Resource", target=AVERAGE)}, [(f"{M}.resource.name", REQUIRED)]),
    ({M: metric("ContainerResource", name="cpu", target=AVERAGE)},
     [(f"{M}.containerResource.container", REQUIRED)]),
    ({M: metric("Pods", **OWN, target=VALUE)}, [(f"{M}.pods.target.averageValue", REQUIRED)]),
    ({M: metric("Pods", metric={}, target=AVERAGE)}, [(f"{M}.pods.metric.name", REQUIRED)]),
    ({M: metric("External", **OWN, target={**AVERAGE, "value": "1"})},
     [(f"{M}.external.target.value", FORBIDDEN)]),
    ({M: metric("External", **OWN, target={"type": "Value", "value": "0"})},
     [(f"{M}.external.target.value", INVALID)]),
    ({M: metric("Object", **OWN, target=VALUE, describedObject={"kind": "A"})},
     [(f"{M}.object.describedObject.name", REQUIRED)]),
    ({M: {**metric("Pods", **OWN, target=AVERAGE), "resource": {"name": "cpu", "target": AVERAGE}}},
     [(f"{M}.resource", FORBIDDEN)]),
    ({M: metric("Pods", **OWN, target={"averageValue": "1"})},
     [(f"{M}.pods.target.type", REQUIRED), (f"{M}.pods.target.type", INVALID)]),
    ({f"{B}.stabilizationWindowSeconds": 3601}, [(f"{B}.stabilizationWindowSeconds", INVALID)]),
    ({f"{B}.selectPolicy": "x"}, [(f"{B}.selectPolicy", UNSUPPORTED)]),
    ({f"{B}.policies": [{"type": "x", "value": 0, "periodSeconds": 1801}]},
     [(f"{B}.policies[0].type", UNSUPPORTED), (f"{B}.policies[0].value", INVALID),
      (f"{B}.policies[0].periodSeconds", INVALID)]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("base", "rows"),
    [(workload("Deployment"), DEPLOYMENTS), (workload("ReplicaSet"), REPLICA_SETS),
     (workload("DaemonSet"), DAEMON_SETS), (workload("StatefulSet", serviceName="s"), STATEFUL_SETS),
     (JOB, JOBS), (CRON, CRONS), (RC, RCS), (BUDGET, BUDGETS), (SCALER, SCALERS)],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)  # fmt: skip
def test_new(base: Object, rows: list[Row]) -> None:
    check(rows, of_create, base)


@pytest.mark.parametrize(
    ("base", "rows"),
    [(workload("Deployment"), SELECTOR_CHANGE), (workload("ReplicaSet"), SELECTOR_CHANGE),
     (workload("DaemonSet"), SELECTOR_CHANGE), (workload("StatefulSet", serviceName="s"), STATEFUL_UPDATES),
     (JOB, JOB_UPDATES), (SUSPENDED, SUSPENDED_UPDATES)],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)  # fmt: skip
def test_changed(base: Object, rows: list[Row]) -> None:
    check(rows, of_update, base)


def job_status(*conditions: str, **fields: Any) -> Object:
    found = [{"type": kind, "status": "True"} for kind in conditions]
    return {"status": {"startTime": "2026-01-01T00:00:00Z", "conditions": found, **fields}}


JOB_STATUSES: list[Row] = [
    (job_status("SuccessCriteriaMet", "Complete", completionTime="2026-01-01T00:00:00Z"), []),
    (job_status("FailureTarget", "Failed", failed=1), []),
    (job_status(active=-1, failed=-1, ready=-2),
     [("status.active", INVALID), ("status.failed", INVALID), ("status.ready", INVALID),
      ("status.failed", INVALID)]),
    (job_status(ready=1), [("status.ready", INVALID)]),
    (job_status("Failed"), [("status.conditions", INVALID)]),
    (job_status("Complete"), [("status.completionTime", REQUIRED), ("status.conditions", INVALID)]),
    (job_status("FailureTarget", "Failed", active=1, startTime=None),
     [("status.active", INVALID), ("status.startTime", REQUIRED)]),
    (job_status(completedIndexes="1"),
     [("status.completedIndexes", INVALID), ("status.completedIndexes", INVALID)]),
    (job_status(failedIndexes=""), [("status.failedIndexes", INVALID)]),
    (job_status(uncountedTerminatedPods={"failed": ["a", ""], "succeeded": ["a"]}),
     [("status.uncountedTerminatedPods.failed[0]", DUPLICATE),
      ("status.uncountedTerminatedPods.failed[1]", INVALID)]),
]  # fmt: skip

STATUS: list[tuple[Object, list[Row]]] = [
    (workload("Deployment"), [
        ({"status": {"replicas": 1, "unavailableReplicas": -1}},
         [("status.unavailableReplicas", INVALID)]),
        ({"status": {"replicas": 1, "readyReplicas": 2}}, [("status.readyReplicas", INVALID)]),
    ]),
    (JOB, JOB_STATUSES),
    (SCALER, [({"status": {"currentReplicas": -1, "desiredReplicas": 0}},
               [("status.currentReplicas", INVALID)])]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("base", "rows"), STATUS, ids=["Deployment", "Job", "HorizontalPodAutoscaler"]
)
def test_status(base: Object, rows: list[Row]) -> None:
    check(rows, lambda base, changes: of_update(base, changes, "status"), base)
