"""Tables: the columns that users know, pod status as kubectl computes it, spans of time as kubectl writes them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from tables_harness import (
    TABLE,
    pod,
    running,
    shown,
    stamp,
)

from sampan.apiserver.tables.model import human_duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (303, "5m3s"),
        (599, "9m59s"),
        (600, "10m"),
        (3 * 3600 - 1, "179m"),
        (3 * 3600, "3h"),
        (3 * 3600 + 60, "3h1m"),
        (8 * 3600, "8h"),
        (47 * 3600, "47h"),
        (48 * 3600, "2d"),
        (49 * 3600, "2d1h"),
        (8 * 86400, "8d"),
        (729 * 86400, "729d"),
        (730 * 86400, "2y"),
        (731 * 86400, "2y1d"),
        (8 * 365 * 86400, "8y"),
    ],
)
def test_human_duration(seconds: int, text: str) -> None:
    assert human_duration(timedelta(seconds=seconds)) == text


def test_every_listed_kind_can_be_shown_empty() -> None:
    for row in TABLE.rows.values():
        if "list" in row.verbs:
            cells = shown(row.group, row.version, row.name, {})
            assert "x" in cells.values(), row


def waiting(reason: str, **more: Any) -> dict[str, Any]:
    return {
        "name": "a",
        "ready": False,
        "restartCount": 0,
        "state": {"waiting": {"reason": reason}},
    } | more


def ended(code: int, reason: str = "", **more: Any) -> dict[str, Any]:
    state = {"terminated": {"exitCode": code} | ({"reason": reason} if reason else {})}
    return {"name": "a", "ready": False, "restartCount": 0, "state": state} | more


INIT_SPEC = {"initContainers": [{"name": "i"}, {"name": "j"}]}
SIDECAR_SPEC = {"initContainers": [{"name": "i", "restartPolicy": "Always"}]}


@pytest.mark.parametrize(
    ("given", "ready", "status"),
    [
        (pod(phase="Pending"), "0/1", "Pending"),
        (pod(running()), "1/1", "Running"),
        (pod(running("a"), running("b", ready=False)), "1/2", "Running"),
        (pod(waiting("ContainerCreating"), phase="Pending"), "0/1", "ContainerCreating"),
        (pod(waiting("CrashLoopBackOff")), "0/1", "CrashLoopBackOff"),
        (pod(waiting("ImagePullBackOff"), phase="Pending"), "0/1", "ImagePullBackOff"),
        (pod(ended(0, "Completed"), phase="Succeeded"), "0/1", "Completed"),
        (pod(ended(1, "Error"), phase="Failed"), "0/1", "Error"),
        (pod(ended(3), phase="Failed"), "0/1", "ExitCode:3"),
        (pod(ended(137, "OOMKilled")), "0/1", "OOMKilled"),
        (pod(ended(0, "Completed", name="a"), running("b")), "1/2", "NotReady"),
        (
            pod(ended(0, "Completed", name="a"), running("b"), conditions=("Ready",)),
            "1/2",
            "Running",
        ),
        (pod(running(), deletionTimestamp=stamp(seconds=1)), "1/1", "Terminating"),
        (
            pod(ended(0, "Completed"), phase="Succeeded", deletionTimestamp=stamp()),
            "0/1",
            "Completed",
        ),
        (
            pod(
                waiting("PodInitializing"),
                phase="Pending",
                init=(running("i", ready=False), waiting("PodInitializing") | {"name": "j"}),
                spec=INIT_SPEC,
            ),
            "0/1",
            "Init:0/2",
        ),
        (
            pod(
                waiting("PodInitializing"),
                phase="Pending",
                init=(ended(0, "Completed", name="i"), running("j", ready=False)),
                spec=INIT_SPEC,
            ),
            "0/1",
            "Init:1/2",
        ),
        (
            pod(phase="Pending", init=(ended(1, "Error", name="i"),), spec=INIT_SPEC),
            "0/1",
            "Init:Error",
        ),
        (
            pod(
                phase="Pending", init=(waiting("CrashLoopBackOff") | {"name": "i"},), spec=INIT_SPEC
            ),
            "0/1",
            "Init:CrashLoopBackOff",
        ),
        (
            pod(
                running(),
                init=(running("i", started=True),),
                spec=SIDECAR_SPEC,
                conditions=("Initialized",),
            ),
            "2/2",
            "Running",
        ),
    ],
)
def test_pod_status(given: dict[str, Any], ready: str, status: str) -> None:
    cells = shown("", "v1", "pods", given)
    assert (cells["Ready"], cells["Status"]) == (ready, status)


def test_pod_gated_evicted_and_lost() -> None:
    gated = pod(phase="Pending")
    gated["status"]["conditions"] = [
        {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}
    ]
    assert shown("", "v1", "pods", gated)["Status"] == "SchedulingGated"
    evicted = pod(phase="Failed")
    evicted["status"]["reason"] = "Evicted"
    assert shown("", "v1", "pods", evicted)["Status"] == "Evicted"
    lost = pod(running(), deletionTimestamp=stamp())
    lost["status"]["reason"] = "NodeLost"
    assert shown("", "v1", "pods", lost)["Status"] == "Unknown"


def test_pod_restarts_and_wide() -> None:
    last = {"terminated": {"exitCode": 1, "finishedAt": stamp(seconds=5)}}
    given = pod(running(restartCount=2, lastState=last), spec={"nodeName": "n1"})
    given["status"]["podIP"] = "10.42.0.5"
    cells = shown("", "v1", "pods", given)
    assert cells["Restarts"] == "2 (5s ago)"
    assert (cells["IP"], cells["Node"]) == ("10.42.0.5", "n1")
    assert (cells["Nominated Node"], cells["Readiness Gates"]) == ("<none>", "<none>")
    assert cells["Age"] == "5m3s"
