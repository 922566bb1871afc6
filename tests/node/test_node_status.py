"""The status of a pod: phases, conditions, reasons, and the patch that writes them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from node_pods import NOW, SANDBOX, container, exited, make_pod, running, view_of

from sampan.kube.objects import condition
from sampan.node.backoff import Backoff
from sampan.node.plan import Blocked, Health, Verdict, View
from sampan.node.status import Facts, changes, duration, is_urgent, pod_status

FACTS = Facts(("192.0.2.1",))
DEAD = replace(SANDBOX, ready=False)


def status_of(pod: dict[str, Any], view: View, *, done: bool = False) -> dict[str, Any]:
    return pod_status(pod, view, FACTS, NOW, done=done)


PHASES = [
    ("Pending", make_pod(), view_of(sandbox=None), False),
    ("Pending", make_pod(), view_of(), False),
    ("Running", make_pod(), view_of(running()), False),
    ("Running", make_pod(), view_of(exited(), backoff=Backoff()), False),
    ("Pending", make_pod(container("a"), container("b")), view_of(running("a")), False),
    ("Running", make_pod(restartPolicy="Never"), view_of(exited(code=0)), False),
    ("Succeeded", make_pod(restartPolicy="Never"), view_of(exited(code=0), sandbox=DEAD), True),
    ("Failed", make_pod(restartPolicy="Never"), view_of(exited(code=3), sandbox=DEAD), True),
    ("Failed", make_pod(), view_of(exited(code=143), sandbox=DEAD), True),
    ("Pending", make_pod(initContainers=[container("i")]), view_of(running("i")), False),
    (
        "Failed",
        make_pod(initContainers=[container("i")], restartPolicy="Never"),
        view_of(exited("i", 1)),
        False,
    ),
]

RESTARTS_ALL = container(
    "i",
    restartPolicyRules=[
        {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}
    ],
)


@pytest.mark.parametrize(("phase", "pod", "view", "done"), PHASES)
def test_phase(phase: str, pod: dict[str, Any], view: View, done: bool) -> None:
    assert status_of(pod, view, done=done)["phase"] == phase


def test_an_exit_that_restarts_all_does_not_fail_the_pod() -> None:
    """KEP-5532: a condition tells, until the first container is made again."""
    pod = make_pod(initContainers=[RESTARTS_ALL], restartPolicy="Never")

    def told(view: View) -> tuple[str, str, str | None]:
        status = status_of(pod, view)
        found = condition({"status": status}, "AllContainersRestarting") or {}
        return status["phase"], found["status"], found.get("reason")

    assert told(view_of(running("i"))) == ("Pending", "False", None)
    ended = exited("i", 42)
    assert told(view_of(ended)) == ("Pending", "True", "RestartAllContainersStarted")
    again = running("i", restarts=1, created_at=int(NOW * 1e9))
    assert told(view_of(ended, again)) == ("Pending", "False", None)


def test_a_ready_pod() -> None:
    status = status_of(make_pod(), view_of(running(image_id="sha256:1")))
    assert {c["type"]: c["status"] for c in status["conditions"]} == {
        "PodReadyToStartContainers": "True",
        "Initialized": "True",
        "Ready": "True",
        "ContainersReady": "True",
        "PodScheduled": "True",
    }
    (web,) = status["containerStatuses"]
    assert web["ready"] and web["started"] and web["containerID"] == "sampan://web-id"
    assert status["podIP"] == "10.0.0.7" and status["hostIPs"] == [{"ip": "192.0.2.1"}]
    assert status["qosClass"] == "BestEffort" and status["observedGeneration"] == 1


def test_an_unready_container_is_named() -> None:
    pod = make_pod(container(readinessProbe={"httpGet": {"port": 80}}))
    status = status_of(pod, view_of(running()))
    ready = condition({"status": status}, "Ready")
    assert ready and ready["status"] == "False"
    assert ready["message"] == "containers with unready status: [web]"
    good = status_of(pod, view_of(running(), health={"web-id": Health()}))
    assert condition({"status": good}, "Ready")["status"] == "True"  # type: ignore[index]


def test_readiness_gates_hold_the_pod_back() -> None:
    pod = make_pod(readinessGates=[{"conditionType": "sampan.dev/loaded"}])
    ready = condition({"status": status_of(pod, view_of(running()))}, "Ready")
    assert ready and ready["reason"] == "ReadinessGatesNotReady"
    pod["status"] = {"conditions": [{"type": "sampan.dev/loaded", "status": "True"}]}
    assert condition({"status": status_of(pod, view_of(running()))}, "Ready")["status"] == "True"  # type: ignore[index]


def test_crash_loop_is_worded_as_users_know_it() -> None:
    backoff = Backoff()
    backoff.next("web", NOW - 5)
    (web,) = status_of(make_pod(), view_of(exited(restarts=1), backoff=backoff))[
        "containerStatuses"
    ]
    assert web["state"]["waiting"] == {
        "reason": "CrashLoopBackOff",
        "message": "back-off 10s restarting failed container=web "
        "pod=boat_harbour(11111111-2222-3333-4444-555555555555)",
    }
    assert web["lastState"]["terminated"]["exitCode"] == 1 and web["restartCount"] == 1


def test_what_blocks_a_container_is_shown() -> None:
    blocked = {"web": Blocked("ImagePullBackOff", "Back-off pulling", NOW, NOW + 9)}
    (web,) = status_of(make_pod(), view_of(blocked=blocked))["containerStatuses"]
    assert web["state"] == {
        "waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling"}
    }
    plain = status_of(make_pod(), view_of())["containerStatuses"][0]
    assert plain["state"] == {"waiting": {"reason": "ContainerCreating"}}


def test_termination_message_and_last_state() -> None:
    view = view_of(running(restarts=1), exited(restarts=0), messages={"web-id-0": "no wind"})
    (web,) = status_of(make_pod(), view)["containerStatuses"]
    assert web["lastState"]["terminated"]["message"] == "no wind"
    assert "running" in web["state"]


def test_a_container_that_a_reboot_took_is_restarted_once() -> None:
    pod = make_pod()
    pod["status"] = status_of(pod, view_of(running()))
    assert pod["status"]["containerStatuses"][0]["restartCount"] == 0
    for _ in range(2):  # the status is written, read again, and computed once more
        pod["status"] = status_of(pod, view_of(sandbox=None))
        (web,) = pod["status"]["containerStatuses"]
        assert web["restartCount"] == 1
        assert web["lastState"]["terminated"]["reason"] == "ContainerStatusUnknown"
        assert "waiting" in web["state"]


def test_verdict_fails_the_pod_with_its_reason() -> None:
    status = status_of(make_pod(), view_of(verdict=Verdict("Evicted", "no memory")), done=True)
    assert (status["phase"], status["reason"], status["message"]) == (
        "Failed",
        "Evicted",
        "no memory",
    )


def test_a_pod_that_the_node_ends_is_failed_only_when_nothing_of_it_runs() -> None:
    """kubelet's status manager delays a terminal phase, its reason, and DisruptionTarget (mergePodStatus)."""
    verdict = Verdict("Terminated", "shutdown")
    pod = make_pod()
    ending = status_of(pod, view_of(running(), verdict=verdict, disrupted=True))
    assert (ending["phase"], ending.get("reason")) == ("Running", None)
    assert "DisruptionTarget" not in {each["type"] for each in ending["conditions"]}
    over = status_of(pod, view_of(exited(code=143), verdict=verdict, disrupted=True))
    assert (over["phase"], over["reason"], over["message"]) == ("Failed", "Terminated", "shutdown")
    assert "DisruptionTarget" in {each["type"] for each in over["conditions"]}


def test_a_finished_pod_keeps_its_address() -> None:
    pod = make_pod(restartPolicy="Never")
    pod["status"] = {"podIP": "10.0.0.7", "podIPs": [{"ip": "10.0.0.7"}]}
    assert status_of(pod, view_of(exited(), sandbox=None), done=True)["podIP"] == "10.0.0.7"


def test_transition_time_moves_with_the_status_only() -> None:
    pod = make_pod()
    pod["status"] = status_of(pod, view_of(running()))
    later = pod_status(pod, view_of(running()), FACTS, NOW + 60)
    assert changes(pod["status"], later) == {}
    fallen = pod_status(
        pod, view_of(running(), health={"web-id": Health(True, False)}), FACTS, NOW + 60
    )
    patch = changes(pod["status"], fallen)
    assert {c["type"] for c in patch["conditions"]} == {"Ready", "ContainersReady"}
    assert is_urgent(pod["status"], fallen)


def test_a_patch_clears_reasons_and_replaces_addresses() -> None:
    old = {
        "podIPs": [{"ip": "10.0.0.1"}],
        "conditions": [{"type": "Ready", "status": "False", "reason": "ContainersNotReady"}],
    }
    new = {"podIPs": [{"ip": "10.0.0.2"}], "conditions": [{"type": "Ready", "status": "True"}]}
    assert changes(old, new) == {
        "podIPs": [{"$patch": "replace"}, {"ip": "10.0.0.2"}],
        "conditions": [{"type": "Ready", "status": "True", "reason": None}],
    }


def test_steps_on_the_way_are_not_urgent() -> None:
    pending = status_of(make_pod(), view_of(sandbox=None))
    assert not is_urgent({}, pending)
    assert is_urgent(pending, status_of(make_pod(), view_of(running())))


@pytest.mark.parametrize(
    ("seconds", "text"), [(10, "10s"), (80, "1m20s"), (300, "5m0s"), (3700, "1h1m40s")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
