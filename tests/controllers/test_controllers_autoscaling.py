"""Autoscaling, decided: how many replicas a measure asks for, and what stabilization, rates and bounds make of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.controllers import flags
from sampan.controllers.autoscaling.limits import History, decide
from sampan.controllers.autoscaling.proposals import tolerance_of
from sampan.controllers.autoscaling.replicas import (
    NoMetric,
    Proposal,
    Sample,
    Tolerance,
    by_average,
    by_share,
    by_utilization,
    by_value,
    requests,
)
from sampan.controllers.autoscaling.settings import Settings
from sampan.controllers.base import stamp
from sampan.kube.flags import BadFlag

NOW = 1_700_000_000.0
SETTINGS = Settings()
TOLERANCE = Tolerance(0.1, 0.1)
LONG_AGO = NOW - 3600


def pod(
    name: str,
    *,
    ready: bool = True,
    phase: str = "Running",
    started: float = LONG_AGO,
    turned: float = LONG_AGO,
    cpu: str | None = "1",
    deleting: bool = False,
) -> dict[str, Any]:
    """`turned`: when its readiness changed last."""
    made: dict[str, Any] = {
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "c"}]},
        "status": {
            "phase": phase,
            "startTime": stamp(started),
            "conditions": [
                {"type": "Ready", "status": str(ready), "lastTransitionTime": stamp(turned)}
            ],
        },
    }
    if cpu:
        made["spec"]["containers"][0]["resources"] = {"requests": {"cpu": cpu}}
    if deleting:
        made["metadata"]["deletionTimestamp"] = stamp(NOW)
    return made


def samples(*values: int | None, at: float = NOW) -> dict[str, Sample]:
    """Of pods 0, 1, 2 …; None: it has none."""
    return {str(i): Sample(value, at) for i, value in enumerate(values) if value is not None}


def pods(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [pod(str(number), **fields) for number in range(count)]


def utilization(
    current: int, target: int, used: Any, among: Any, resource: str = "cpu"
) -> Proposal:
    return by_utilization(current, target, used, among, resource, SETTINGS, TOLERANCE, NOW)


@pytest.mark.parametrize(
    ("current", "target", "used", "expected"),
    [
        (3, 30, (300, 500, 700), 5),  # 50 % of what is asked for: 5/3 of the target
        (3, 50, (100, 300, 500), 2),
        (2, 50, (490, 560), 2),  # within a tenth
        (1, 50, (1000,), 2),
        (4, 100, (1250, 1250, 1250, 1250), 5),
        (3, 50, (0, 0, 0), 0),
    ],
)
def test_usage_against_what_pods_ask_for(current, target, used, expected) -> None:
    found = utilization(current, target, samples(*used), pods(current))
    assert found.replicas == expected
    assert found.utilization == sum(used) // (10 * current)
    assert found.value == sum(used) // current


@pytest.mark.parametrize(
    ("current", "target", "used", "among", "expected"),
    [
        # more is wanted: a pod without a sample counts as idle, and one that is starting, too
        (2, 50, (1000, None), pods(2), 2),
        (4, 100, (None, 5000, 5000, 5000), pods(4), 15),
        (3, 50, (900, 900, 900), [*pods(2), pod("2", ready=False, turned=LONG_AGO)], 4),
        (3, 30, (300, 500, 700), [pod("0"), pod("1"), pod("2", phase="Pending")], 3),
        # fewer is wanted: one without a sample counts as using all that it asks for
        (4, 100, (100, 250, 750, None), pods(4), 3),
        (2, 50, (100, None), pods(2), 2),  # which turns the direction: nothing is done
        # pods that go or have failed are nobody
        (3, 50, (900, 900, 900), [*pods(2), pod("2", phase="Failed")], 4),
        (3, 50, (900, 900, 900), [*pods(2), pod("2", deleting=True)], 4),
    ],
)
def test_pods_that_cannot_be_counted_on(current, target, used, among, expected) -> None:
    assert utilization(current, target, samples(*used), among).replicas == expected


@pytest.mark.parametrize(
    ("started", "turned", "ready", "at", "counts"),
    [
        (NOW - 60, NOW - 50, False, NOW, False),  # starting
        (NOW - 120, NOW - 100, True, NOW, True),
        (NOW - 120, NOW - 30, True, NOW, False),  # the sample's minute began before it was ready
        (LONG_AGO, LONG_AGO + 10, False, NOW, False),  # never was ready
        (LONG_AGO, NOW - 60, False, NOW, True),  # was, and is overloaded perhaps
    ],
)
def test_first_samples_of_a_pod_are_looked_at_twice(started, turned, ready, at, counts) -> None:
    young = pod("0", started=started, turned=turned, ready=ready)
    used = samples(1000, at=at)
    if counts:
        assert utilization(1, 50, used, [young]).replicas == 2
    else:
        with pytest.raises(NoMetric, match="did not receive metrics for targeted pods"):
            utilization(1, 50, used, [young])
    memory = {**young, "spec": {"containers": [{"resources": {"requests": {"memory": "1"}}}]}}
    assert utilization(1, 50, used, [memory], "memory").replicas == 2  # says nothing of a start


def test_what_pods_ask_for() -> None:
    both = pod("0", cpu="250m")
    both["spec"]["containers"].append({"name": "d", "resources": {"requests": {"cpu": "1"}}})
    both["spec"]["initContainers"] = [
        {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1m"}}},
        {"name": "once"},
    ]
    assert requests([both], "cpu") == {"0": 1251}
    assert requests([both], "cpu", "d") == {"0": 1000}
    both["spec"]["resources"] = {"requests": {"cpu": "2"}}
    assert requests([both], "cpu") == {"0": 2000}
    with pytest.raises(NoMetric, match="missing request for cpu in container c of Pod 0"):
        requests([pod("0", cpu=None)], "cpu")
    with pytest.raises(NoMetric, match="no pods returned by selector"):
        utilization(1, 50, samples(1), [])


def test_averages_values_and_shares() -> None:
    def average(current: int, target: int, *used: int | None) -> int:
        found = by_average(
            current, target, samples(*used), pods(len(used)), SETTINGS, TOLERANCE, NOW
        )
        return found.replicas

    assert average(3, 15_000, 20_000, 10_000, 30_000) == 4
    assert average(3, 20_000, 20_000, 21_000, 19_000) == 3
    assert average(3, 20_000, 5_000, 5_000, None) == 2  # a missing one counts as on target
    assert by_value(3, 15_000, 20_000, pods(3), TOLERANCE) == Proposal(4, 20_000)
    assert by_value(3, 20_000, 19_000, pods(3), TOLERANCE) == Proposal(3, 19_000)
    assert by_value(0, 10_000, 25_000, [], TOLERANCE) == Proposal(3, 25_000)
    assert by_value(0, 10_000, 0, [], TOLERANCE) == Proposal(0, 0)
    half = [pod("0"), pod("1", ready=False)]
    assert by_value(2, 10_000, 20_000, half, TOLERANCE).replicas == 2
    assert by_share(3, 2000, 10_000, TOLERANCE) == Proposal(5, 3334)
    assert by_share(5, 2000, 10_500, TOLERANCE) == Proposal(5, 2100)
    assert by_share(0, 2000, 10_000, TOLERANCE) == Proposal(5, 0)


def test_a_direction_may_have_a_tolerance_of_its_own() -> None:
    assert tolerance_of(None, SETTINGS) == TOLERANCE
    own = tolerance_of({"scaleUp": {"tolerance": "50m"}, "scaleDown": {}}, SETTINGS)
    assert own == Tolerance(0.1, 0.05)
    assert own.holds(1.05) and not own.holds(1.06) and own.holds(0.91)


# --- what is done about it ---------------------------------------------------------------------------


def rules(up: dict[str, Any] | None = None, down: dict[str, Any] | None = None) -> dict[str, Any]:
    """Behavior with the API's defaults where nothing is said."""
    percent = {"type": "Percent", "value": 100, "periodSeconds": 15}
    four = {"type": "Pods", "value": 4, "periodSeconds": 15}
    return {
        "scaleUp": {
            "stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [four, percent],
            **(up or {}),
        },
        "scaleDown": {"selectPolicy": "Max", "policies": [percent], **(down or {})},
    }  # fmt: skip


def test_fewer_only_when_nothing_more_was_wanted_lately() -> None:
    history = History([(NOW - 400, 9)])
    for seconds, wanted, expected, able in (
        (0, 6, 6, "ReadyForNewScale"),
        (100, 3, 6, "ScaleDownStabilized"),
        (200, 4, 6, "ScaleDownStabilized"),
        (301, 2, 4, "ScaleDownStabilized"),
        (600, 2, 2, "ReadyForNewScale"),
    ):
        found = decide(history, 8, wanted, 1, 10, None, SETTINGS, NOW + seconds)
        assert (found.replicas, found.able[0]) == (expected, able), seconds


@pytest.mark.parametrize(
    ("current", "wanted", "expected", "why"),
    [
        (3, 20, 6, "ScaleUpLimit"),  # twice as many
        (1, 20, 4, "ScaleUpLimit"),  # four at least
        (8, 20, 10, "TooManyReplicas"),
        (3, 0, 2, "TooFewReplicas"),
        (3, 5, 5, "DesiredWithinRange"),
    ],
)
def test_bounds_without_a_behavior(current, wanted, expected, why) -> None:
    found = decide(History(), current, wanted, 2, 10, None, SETTINGS, NOW)
    assert (found.replicas, found.why[0]) == (expected, why)
    assert found.limited == (why != "DesiredWithinRange")


@pytest.mark.parametrize(
    ("behavior", "current", "wanted", "expected", "why"),
    [
        (rules(), 10, 90, 20, "ScaleUpLimit"),
        (rules(), 2, 90, 6, "ScaleUpLimit"),  # four are more than double
        (rules({"selectPolicy": "Min"}), 2, 90, 4, "ScaleUpLimit"),
        (rules({"selectPolicy": "Disabled"}), 2, 90, 2, "ScaleUpLimit"),
        (rules({"policies": [{"type": "Percent", "value": 10, "periodSeconds": 60}]}), 5, 9, 6, "ScaleUpLimit"),
        (rules(), 60, 110, 100, "TooManyReplicas"),
        (rules(), 10, 0, 1, "TooFewReplicas"),
        (rules(down={"selectPolicy": "Disabled"}), 10, 1, 10, "ScaleDownLimit"),
        (rules(down={"policies": [{"type": "Pods", "value": 3, "periodSeconds": 60}]}), 10, 1, 7, "ScaleDownLimit"),
        (rules(down={"policies": [{"type": "Percent", "value": 25, "periodSeconds": 60}]}), 10, 1, 7, "ScaleDownLimit"),
        (rules(), 10, 12, 12, "DesiredWithinRange"),
    ],
)  # fmt: skip
def test_rates_of_a_behavior(behavior, current, wanted, expected, why) -> None:
    found = decide(History(), current, wanted, 1, 100, behavior, SETTINGS, NOW)
    assert (found.replicas, found.why[0]) == (expected, why)


def test_what_changed_in_a_period_counts_against_its_rate() -> None:
    behavior = rules({"policies": [{"type": "Pods", "value": 4, "periodSeconds": 60}]})
    history, current = History(), 1
    steps = []
    for seconds in (0, 15, 30, 61, 75):
        replicas = decide(history, current, 50, 1, 50, behavior, SETTINGS, NOW + seconds).replicas
        if replicas != current:
            history.rescaled(current, replicas, behavior, NOW + seconds)
        current = replicas
        steps.append(current)
    assert steps == [5, 5, 5, 9, 9]


def test_windows_of_a_behavior() -> None:
    behavior = rules({"stabilizationWindowSeconds": 60}, {"stabilizationWindowSeconds": 0})
    history = History([(NOW, 3)])
    found = decide(history, 3, 8, 1, 10, behavior, SETTINGS, NOW + 15)
    assert (found.replicas, found.able[0]) == (3, "ScaleUpStabilized")
    found = decide(history, 3, 6, 1, 10, behavior, SETTINGS, NOW + 61)
    assert (found.replicas, found.able[0]) == (6, "ReadyForNewScale")
    found = decide(history, 6, 2, 1, 10, behavior, SETTINGS, NOW + 62)
    assert (found.replicas, found.able[0]) == (2, "ReadyForNewScale")
    unset = decide(History([(NOW, 9)]), 9, 2, 1, 10, rules(), SETTINGS, NOW + 299)
    assert (unset.replicas, unset.able[0]) == (9, "ScaleDownStabilized")  # the flag's five minutes


@given(
    st.lists(st.tuples(st.integers(0, 60), st.floats(1, 120)), max_size=20),
    st.integers(1, 5),
    st.integers(5, 40),
    st.sampled_from([None, rules(), rules({"selectPolicy": "Min"}, {"selectPolicy": "Min"})]),
)
def test_never_beyond_the_bounds(steps, least, most, behavior) -> None:
    history, current, now = History(), least, NOW
    for wanted, seconds in steps:
        now += seconds
        found = decide(history, current, wanted, least, most, behavior, SETTINGS, now)
        assert least <= found.replicas <= most
        history.rescaled(current, found.replicas, behavior, now)
        current = found.replicas


def test_flags() -> None:
    found = flags.read(["horizontal-pod-autoscaler-sync-period=1m30s",
                        "--horizontal-pod-autoscaler-tolerance=0.2"])  # fmt: skip
    assert (found.sync_period, found.tolerance) == (90.0, 0.2)
    for wrong in ("nobody=1", "horizontal-pod-autoscaler-sync-period=0s",
                  "horizontal-pod-autoscaler-tolerance=2"):  # fmt: skip
        with pytest.raises(BadFlag, match=wrong.split("=")[0]):
            flags.read([wrong])
