"""The plan of a pod: one situation and the actions that it asks for, a row each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from node_pods import NOW, SANDBOX, container, exited, make_pod, running, view_of

from sampan.node.backoff import Backoff
from sampan.node.observed import CREATED, ContainerState, SandboxState
from sampan.node.plan import (
    ROUND,
    Blocked,
    CreateSandbox,
    Fail,
    Health,
    HoldBack,
    Remove,
    RemoveSandbox,
    ShowPullBackOff,
    Start,
    Stop,
    StopPod,
    StopSandbox,
    Verdict,
    plan,
)
from sampan.node.podspec import container_hash
from sampan.node.rounds import Rounds

DEAD = replace(SANDBOX, ready=False)
SIDECAR = container("proxy", restartPolicy="Always")
ALL_AT_42 = [
    {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}},
]
RESTARTING = make_pod(
    container("web", restartPolicy="Never", restartPolicyRules=ALL_AT_42),
    container("log"),
    initContainers=[container("one"), SIDECAR],
    restartPolicy="Never",
)
SINCE = int((NOW - 2) * 1e9)


def backed_off(name: str, since: float = NOW - 20) -> Backoff:
    backoff = Backoff()
    backoff.next(name, since)
    return backoff


CASES = {
    "a new pod gets its sandbox": (make_pod(), view_of(sandbox=None), [CreateSandbox(0)]),
    "then its containers": (
        make_pod(container("a"), container("b")),
        view_of(),
        [Start("a", 0), Start("b", 0)],
    ),
    "one that runs is left alone": (make_pod(), view_of(running()), []),
    "one that failed is started again at once": (
        make_pod(),
        view_of(exited()),
        [Start("web", 1, again=True)],
    ),
    "and held back the second time": (
        make_pod(),
        view_of(exited(restarts=1), backoff=backed_off("web", NOW - 5)),
        [HoldBack("web", "web-id-1", 10.0, NOW - 1 + 10)],
    ),
    "and tried when that time is over": (
        make_pod(),
        view_of(exited(restarts=1, ago=11), backoff=backed_off("web")),
        [Start("web", 2, again=True)],
    ),
    "a new sandbox when the old one died": (
        make_pod(),
        view_of(exited(), sandbox=DEAD),
        [CreateSandbox(1)],
    ),
    "what still runs in the dead sandbox is stopped first": (
        make_pod(),
        view_of(running(), sandbox=DEAD),
        [StopSandbox("sandbox-0"), CreateSandbox(1)],
    ),
    "no new sandbox for a pod that is done": (
        make_pod(restartPolicy="Never"),
        view_of(exited(), sandbox=DEAD),
        [],
    ),
    "OnFailure restarts a failure": (
        make_pod(restartPolicy="OnFailure"),
        view_of(exited(code=2)),
        [Start("web", 1, again=True)],
    ),
    "OnFailure ends after success": (
        make_pod(restartPolicy="OnFailure"),
        view_of(exited(code=0)),
        [StopPod(30)],
    ),
    "Never ends after failure": (
        make_pod(restartPolicy="Never"),
        view_of(exited(code=2)),
        [StopPod(30)],
    ),
    "a container's own rule restarts it": (
        make_pod(
            container(
                restartPolicy="Never",
                restartPolicyRules=[
                    {"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}
                ],
            ),
            restartPolicy="Never",
        ),
        view_of(exited(code=42)),
        [Start("web", 1, again=True)],
    ),
    "a rule that restarts them all ends the others first, without hooks": (
        RESTARTING,
        view_of(exited("one", 0), running("proxy"), exited("web", 42), running("log")),
        [
            Stop("log-id", "log", f"Stopping container log: {ROUND}", hooks=False),
            Stop("proxy-id", "proxy", f"Stopping container proxy: {ROUND}", hooks=False),
        ],
    ),
    "also one that was made just after, before an init container's turn": (
        RESTARTING,
        view_of(
            exited("one", 0),
            exited("proxy", 137),
            exited("web", 42, ago=3),
            running("log", created_at=SINCE),
        ),
        [Stop("log-id", "log", f"Stopping container log: {ROUND}", hooks=False)],
    ),
    "then begins anew with the init containers": (
        RESTARTING,
        view_of(
            exited("one", 0), exited("proxy", 137), exited("web", 42, ago=3), exited("log", 137)
        ),
        [Start("one", 1, again=True)],
    ),
    "and goes on to the end, what began it kept for its end": (
        RESTARTING,
        view_of(
            exited("one", 0, restarts=1, created_at=SINCE),
            running("proxy", restarts=1, created_at=SINCE),
            exited("web", 1, restarts=1, created_at=SINCE),
            exited("web", 42, ago=3),
            exited("log", 137),
        ),
        [Start("log", 1, again=True)],
    ),
    "one that was ended for it is started again, whenever it was made": (
        RESTARTING,
        view_of(
            exited("one", 0, restarts=1, created_at=SINCE),
            running("proxy", restarts=1, created_at=SINCE),
            running("web", restarts=1, created_at=SINCE),
            exited("web", 42, ago=3),
            exited("log", 137, created_at=SINCE),
            ended_early={"log-id-0"},
        ),
        [Start("log", 1, again=True)],
    ),
    "what ended before the round is kept for its last state": (
        RESTARTING,
        view_of(
            exited("one", 0, restarts=1, created_at=SINCE),
            exited("one", 0),
            running("proxy", restarts=1, created_at=SINCE),
            running("web", restarts=1, created_at=SINCE),
            running("log", restarts=1, created_at=SINCE),
            exited("web", 42, ago=3),
        ),
        [],
    ),
    "an init container can begin a round, too": (
        make_pod(
            initContainers=[SIDECAR, container("one", restartPolicyRules=ALL_AT_42)],
            restartPolicy="Never",
        ),
        view_of(running("proxy"), exited("one", 42)),
        [Stop("proxy-id", "proxy", f"Stopping container proxy: {ROUND}", hooks=False)],
    ),
    "init containers come first, one at a time": (
        make_pod(initContainers=[container("one"), container("two")]),
        view_of(),
        [Start("one", 0)],
    ),
    "the next when the one before succeeded": (
        make_pod(initContainers=[container("one"), container("two")]),
        view_of(exited("one", 0)),
        [Start("two", 0)],
    ),
    "a running init container is waited for": (
        make_pod(initContainers=[container("one")]),
        view_of(running("one")),
        [],
    ),
    "a failed init container is tried again": (
        make_pod(initContainers=[container("one")]),
        view_of(exited("one", 1)),
        [Start("one", 1, again=True)],
    ),
    "or ends the pod that never restarts": (
        make_pod(restartPolicy="Never", initContainers=[container("one")]),
        view_of(exited("one", 1)),
        [StopPod(30)],
    ),
    "main containers follow the init containers": (
        make_pod(initContainers=[container("one")]),
        view_of(exited("one", 0)),
        [Start("web", 0)],
    ),
    "init containers are not run again beside main ones": (
        make_pod(initContainers=[container("one")]),
        view_of(running()),
        [],
    ),
    "but again in a new sandbox": (
        make_pod(initContainers=[container("one")]),
        view_of(
            exited("one", 0, sandbox="old"),
            exited(sandbox="old"),
            sandbox=SandboxState("sandbox-1", 1, True, 2),
        ),
        [Start("one", 1, again=True)],
    ),
    "a sidecar starts before what follows it": (
        make_pod(initContainers=[SIDECAR, container("one")]),
        view_of(),
        [Start("proxy", 0)],
    ),
    "and then the rest goes on beside it": (
        make_pod(initContainers=[SIDECAR, container("one")]),
        view_of(running("proxy")),
        [Start("one", 0)],
    ),
    "a sidecar with a startup probe is waited for": (
        make_pod(
            initContainers=[container("proxy", restartPolicy="Always", startupProbe={"x": 1})]
        ),
        view_of(running("proxy")),
        [],
    ),
    "until the probe has succeeded": (
        make_pod(
            initContainers=[container("proxy", restartPolicy="Always", startupProbe={"x": 1})]
        ),
        view_of(running("proxy"), health={"proxy-id": Health(started=True)}),
        [Start("web", 0)],
    ),
    "a sidecar that ended is started again beside running main containers": (
        make_pod(initContainers=[SIDECAR], restartPolicy="Never"),
        view_of(exited("proxy", 0), running()),
        [Start("proxy", 1, again=True)],
    ),
    "a sidecar does not keep a finished pod alive": (
        make_pod(initContainers=[SIDECAR], restartPolicy="Never"),
        view_of(running("proxy"), exited(code=0)),
        [StopPod(30)],
    ),
    "a failed liveness probe ends the container": (
        make_pod(),
        view_of(running(), health={"web-id": Health(True, True, "unwell")}),
        [Stop("web-id", "web", "unwell", liveness=True)],
    ),
    "another image replaces the container": (
        make_pod(container(image="web:2")),
        view_of(running(hash=container_hash(container()))),
        [Stop("web-id", "web", "Container web definition changed, will be restarted")],
    ),
    "one that was made and never started is made anew, and is no restart": (
        make_pod(),
        view_of(ContainerState("c1", "web", "sandbox-0", CREATED)),
        [Remove("c1"), Start("web", 0)],
    ),
    "of the dead ones the last is kept": (
        make_pod(),
        view_of(running(restarts=2), exited(restarts=1), exited(restarts=0)),
        [Remove("web-id-0")],
    ),
    "an old sandbox that holds nothing is removed": (
        make_pod(),
        view_of(running(), old_sandboxes=[SandboxState("old", 0, False, 0)]),
        [RemoveSandbox("old")],
    ),
    "an ephemeral container is started once": (
        make_pod(ephemeralContainers=[container("debug")]),
        view_of(running()),
        [Start("debug", 0)],
    ),
    "and never again": (
        make_pod(ephemeralContainers=[container("debug")]),
        view_of(running(), exited("debug", 1)),
        [],
    ),
    "a blocked container is not tried before its time": (
        make_pod(),
        view_of(blocked={"web": Blocked("CreateContainerConfigError", "no key", NOW, NOW + 5)}),
        [],
    ),
    "a failed pull is shown as the wait for the next": (
        make_pod(),
        view_of(blocked={"web": Blocked("ErrImagePull", "no", NOW - 2, NOW + 5)}),
        [ShowPullBackOff("web")],
    ),
    "the verdict of the node ends the pod": (
        make_pod(),
        view_of(running(), verdict=Verdict("Evicted", "no memory")),
        [StopPod(30)],
    ),
    "a pod that the API forgot ends": (make_pod(), view_of(running(), removed=True), [StopPod(30)]),
}


@pytest.mark.parametrize("name", CASES)
def test_actions(name: str) -> None:
    pod, view, wanted = CASES[name]
    assert plan(pod, view, NOW).actions == wanted


def test_deletion_uses_its_own_grace_and_ends_in_done() -> None:
    pod = make_pod(terminationGracePeriodSeconds=60)
    pod["metadata"] |= {
        "deletionTimestamp": "2026-01-01T00:00:00Z",
        "deletionGracePeriodSeconds": 3,
    }
    assert plan(pod, view_of(running()), NOW).actions == [StopPod(3)]
    after = plan(pod, view_of(exited(), sandbox=DEAD), NOW)
    assert after.done and not after.actions


def test_a_finished_pod_is_not_started_again() -> None:
    pod = make_pod()
    pod["status"] = {"phase": "Failed"}
    assert plan(pod, view_of(sandbox=None), NOW).done


def test_deadline_is_a_timer_and_then_a_verdict() -> None:
    pod = make_pod(activeDeadlineSeconds=10)
    pod["status"] = {"startTime": "2027-01-15T08:00:00Z"}  # NOW
    early = plan(pod, view_of(running()), NOW + 4)
    assert early.actions == [] and early.wake_at == NOW + 10
    late = plan(pod, view_of(running()), NOW + 10)
    assert [type(a) for a in late.actions] == [Fail]


def test_every_wait_has_a_time() -> None:
    held = view_of(exited(restarts=1), backoff=backed_off("web", NOW - 5))
    assert plan(make_pod(), held, NOW).wake_at == NOW + 9
    blocked = view_of(blocked={"web": Blocked("ErrImagePull", "no", NOW, NOW + 10)})
    assert plan(make_pod(), blocked, NOW).wake_at == NOW + 1
    failed = view_of(sandbox=None, sandbox_after=NOW + 2)
    waiting = plan(make_pod(), failed, NOW)
    assert waiting.actions == [] and waiting.wake_at == NOW + 2


def test_restart_count_continues_what_the_api_was_told() -> None:
    """The runtime's records are gone (a new disk), the API's are not."""
    pod = make_pod()
    pod["status"] = {
        "containerStatuses": [{"name": "web", "restartCount": 4, "containerID": "sampan://x"}]
    }
    assert plan(pod, view_of(), NOW).actions == [Start("web", 5)]


def test_backoff_doubles_to_five_minutes_and_forgets_after_ten() -> None:
    backoff, now, seen = Backoff(), NOW, []
    for _ in range(8):
        backoff.next("web", now)
        seen.append(backoff.until("web", now) - now)
        now += seen[-1]
    assert seen == [10, 20, 40, 80, 160, 300, 300, 300]
    assert backoff.until("web", now + 601) == 0


def test_a_round_is_known_to_the_agent_that_takes_over(tmp_path: Path) -> None:
    place = tmp_path / "uid"
    rounds = Rounds(place)
    assert rounds.ended == set() and not place.exists()
    rounds.end("one", known=["one"])
    rounds.end("two", known=["one", "two"])
    assert rounds.ended == Rounds(place).ended == {"one", "two"}
    after = Rounds(place)
    after.end("three", known=["two", "three"])
    assert after.ended == Rounds(place).ended == {"two", "three"}
