"""ServiceCIDRs: ready when made, and kept while an address of theirs is in use."""

from __future__ import annotations

from typing import Any

import pytest

from sampan.client.resources import SERVICECIDRS, SERVICES
from sampan.controllers.servicecidrs import FINALIZER, may_go
from sampan.kube.objects import condition, condition_true, is_deleting


def cidr(*cidrs: str) -> dict[str, Any]:
    return {"metadata": {"name": "x"}, "spec": {"cidrs": list(cidrs)}}


@pytest.mark.parametrize(
    ("mine", "others", "addresses", "goes"),
    [
        ("10.0.0.0/24", [], [], True),
        ("10.0.0.0/24", [], ["10.0.0.9"], False),
        ("10.0.0.0/24", ["10.0.0.0/16"], ["10.0.0.9"], True),
        ("10.0.0.0/24", ["10.0.0.0/24"], ["10.0.0.9"], True),
        ("10.0.0.0/16", ["10.0.0.0/24"], ["10.0.0.9"], True),
        ("10.0.0.0/16", ["10.0.0.0/24"], ["10.0.1.9"], False),
        ("fd00::/112", ["10.0.0.0/8"], ["fd00::1"], False),
        ("10.0.0.0/24", [], ["10.0.1.9"], True),
    ],
)
def test_a_range_goes_when_no_address_is_left_alone(
    mine: str, others: list[str], addresses: list[str], goes: bool
) -> None:
    assert may_go(cidr(mine), [cidr(each) for each in others], addresses) is goes


async def test_a_range_in_use_stays(world: Any) -> None:
    await world.client.create(SERVICECIDRS, cidr("10.99.0.0/28"))

    def x(items: list[dict[str, Any]]) -> dict[str, Any] | None:
        return next((each for each in items if each["metadata"]["name"] == "x"), None)

    def ready(items: list[dict[str, Any]]) -> bool:
        found = x(items)
        return bool(
            found
            and FINALIZER in (found["metadata"].get("finalizers") or ())
            and condition_true(found, "Ready")
        )

    await world.until(SERVICECIDRS, ready, "*")
    spec = {"clusterIP": "10.99.0.5", "ports": [{"port": 80}]}
    await world.client.create(SERVICES, {"metadata": {"name": "s"}, "spec": spec}, "default")
    await world.client.delete(SERVICECIDRS, "x")

    def blocked(items: list[dict[str, Any]]) -> bool:
        found = x(items)
        return bool(
            found
            and is_deleting(found)
            and condition(found, "Ready").get("reason") == "Terminating"
        )

    await world.until(SERVICECIDRS, blocked, "*")
    world.clock.shift += 60.0
    await world.client.delete(SERVICES, "s", "default")
    await world.until(SERVICECIDRS, lambda items: x(items) is None, "*")
