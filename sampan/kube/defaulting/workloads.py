"""Defaults of the apps group: Deployment, ReplicaSet, StatefulSet, DaemonSet."""

from __future__ import annotations

from typing import Final

from sampan.kube.defaulting.fill import Object, each, empty, sub, unset
from sampan.kube.defaulting.pods import default_template
from sampan.kube.defaulting.storage import default_claim

HISTORY: Final = 10
PROGRESS_SECONDS: Final = 600


def _deployment(deployment: Object) -> None:
    spec = sub(deployment, "spec")
    unset(spec, replicas=1, revisionHistoryLimit=HISTORY, progressDeadlineSeconds=PROGRESS_SECONDS)
    strategy = sub(spec, "strategy")
    empty(strategy, type="RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        unset(sub(strategy, "rollingUpdate"), maxUnavailable="25%", maxSurge="25%")
    default_template(spec)


def _replica_set(replica_set: Object) -> None:
    spec = sub(replica_set, "spec")
    unset(spec, replicas=1)
    default_template(spec)


def _stateful_set(stateful_set: Object) -> None:
    spec = sub(stateful_set, "spec")
    empty(spec, podManagementPolicy="OrderedReady")
    strategy = sub(spec, "updateStrategy")
    if not strategy.get("type"):
        strategy["type"] = "RollingUpdate"
        sub(strategy, "rollingUpdate")
    if strategy["type"] == "RollingUpdate" and strategy.get("rollingUpdate") is not None:
        unset(strategy["rollingUpdate"], partition=0)
    empty(
        sub(spec, "persistentVolumeClaimRetentionPolicy"), whenDeleted="Retain", whenScaled="Retain"
    )
    unset(spec, replicas=1, revisionHistoryLimit=HISTORY)
    for claim in each(spec, "volumeClaimTemplates"):
        claim.setdefault("apiVersion", "v1")
        claim.setdefault("kind", "PersistentVolumeClaim")
        default_claim(claim)
    default_template(spec)


def _daemon_set(daemon_set: Object) -> None:
    spec = sub(daemon_set, "spec")
    strategy = sub(spec, "updateStrategy")
    empty(strategy, type="RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        unset(sub(strategy, "rollingUpdate"), maxUnavailable=1, maxSurge=0)
    unset(spec, revisionHistoryLimit=HISTORY)
    default_template(spec)


DEFAULTS = {
    ("apps", "Deployment"): _deployment,
    ("apps", "ReplicaSet"): _replica_set,
    ("apps", "StatefulSet"): _stateful_set,
    ("apps", "DaemonSet"): _daemon_set,
}
