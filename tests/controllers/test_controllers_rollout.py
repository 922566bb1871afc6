"""The decisions of a rollout, played to the end: limits hold at every step, and the end is reached."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.controllers import rollout


def deployment(
    replicas: int, surge=1, unavailable=0, kind: str = "RollingUpdate", image: str = "b"
) -> dict:
    strategy: dict = {"type": kind}
    if kind == "RollingUpdate":
        strategy["rollingUpdate"] = {"maxSurge": surge, "maxUnavailable": unavailable}
    return {
        "metadata": {"name": "web", "uid": "d", "generation": 1},
        "spec": {"replicas": replicas, "strategy": strategy, "template": template(image)},
    }


def template(image: str) -> dict:
    return {
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": image}]},
    }


def replica_set(name: str, replicas: int, available: int, image: str, age: int = 0) -> dict:
    return {
        "metadata": {
            "name": name,
            "uid": name,
            "creationTimestamp": f"2026-01-01T00:00:{age:02d}Z",
        },
        "spec": {"replicas": replicas, "template": template(image)},
        "status": {"replicas": replicas, "availableReplicas": available},
    }


@pytest.mark.parametrize(
    ("replicas", "surge", "unavailable", "expected"),
    [
        (10, "25%", "25%", (3, 2)),  # surge rounds up, unavailable down
        (1, "25%", "25%", (1, 0)),
        (4, 0, 0, (0, 1)),  # both zero would never move
        (3, 0, 5, (0, 3)),
        (0, "25%", "25%", (0, 0)),
    ],
)
def test_fences_round_as_documented(replicas, surge, unavailable, expected) -> None:
    assert rollout.fences(deployment(replicas, surge, unavailable)) == expected


@settings(max_examples=150, deadline=None)
@given(
    replicas=st.integers(1, 12),
    surge=st.one_of(st.integers(0, 4), st.sampled_from(["25%", "50%", "100%"])),
    unavailable=st.one_of(st.integers(0, 4), st.sampled_from(["0%", "25%", "50%"])),
    choices=st.lists(st.integers(0, 5), min_size=0, max_size=40),
)
def test_a_rolling_update_keeps_its_limits_and_ends(replicas, surge, unavailable, choices) -> None:
    wanted = deployment(replicas, surge, unavailable)
    most_over, most_under = rollout.fences(wanted)
    old = replica_set("old", replicas, replicas, "a")
    new = replica_set("new", 0, 0, "b", age=1)
    picks = iter(choices)
    for _ in range(200):
        size = rollout.new_replicas(wanted, [old, new], new)
        new["spec"]["replicas"] = size
        for target, count in rollout.scale_down_old(wanted, new, [old]):
            target["spec"]["replicas"] = count
            target["status"]["availableReplicas"] = min(
                target["status"]["availableReplicas"], count
            )
        assert rollout.total([old, new]) <= replicas + most_over
        assert rollout.available(old) + rollout.available(new) >= replicas - most_under
        starting = rollout.replicas(new) - rollout.available(new)
        # Pods become available in any portion; with no more choices, all of them do.
        new["status"]["availableReplicas"] += min(starting, next(picks, starting))
        if rollout.replicas(old) == 0 and rollout.available(new) == replicas:
            return
    pytest.fail("the rollout did not end")


def test_pods_that_never_became_available_are_given_up_first() -> None:
    wanted = deployment(3, 1, 0)
    broken = replica_set("broken", 1, 0, "x", age=1)
    old = replica_set("old", 3, 3, "a")
    new = replica_set("new", 0, 0, "b", age=2)
    assert rollout.new_replicas(wanted, [broken, old, new], new) == 0, "no room yet"
    plan = {
        rs["metadata"]["name"]: n for rs, n in rollout.scale_down_old(wanted, new, [broken, old])
    }
    assert plan == {"broken": 0}


def test_scaling_in_the_middle_of_a_rollout_is_proportional() -> None:
    wanted = deployment(20, 3, 2)
    old = replica_set("old", 8, 8, "a")
    new = replica_set("new", 5, 3, "b", age=1)
    plan = {rs["metadata"]["name"]: n for rs, n in rollout.proportional(wanted, new, [old])}
    assert sum(plan.values()) == 23
    assert plan["old"] > plan["new"] > 5


def test_shares_never_go_below_zero_and_add_up() -> None:
    sets = [
        replica_set("a", 1, 1, "a"),
        replica_set("b", 9, 9, "b", 1),
        replica_set("c", 3, 3, "c", 2),
    ]
    for allowed in range(40):
        plan = {rs["metadata"]["uid"]: n for rs, n in rollout.shares(sets, allowed)}
        sizes = [plan.get(rs["metadata"]["uid"], rollout.replicas(rs)) for rs in sets]
        assert min(sizes) >= 0
        assert sum(sizes) == allowed


def test_the_new_replica_set_is_found_whatever_its_hash_label() -> None:
    wanted = deployment(1)
    found = replica_set("web-abc", 1, 1, "b")
    found["spec"]["template"] = copy.deepcopy(found["spec"]["template"])
    found["spec"]["template"]["metadata"]["labels"][rollout.HASH_LABEL] = "abc"
    assert rollout.find_new(wanted, [replica_set("old", 1, 1, "a"), found]) is found


def test_a_template_hash_is_stable_and_moves_with_collisions() -> None:
    first = rollout.template_hash(template("a"))
    assert first == rollout.template_hash(template("a"))
    assert (
        len({first, rollout.template_hash(template("b")), rollout.template_hash(template("a"), 1)})
        == 3
    )
