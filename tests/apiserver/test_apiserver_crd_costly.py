"""A kind whose rules cost seconds: whoever writes its objects waits, and nobody else does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from apiserver_harness import MAPS, Harness, api, config_map
from crd_harness import BOATS, GROUP, STRING, boat, definition, establish, version

from sampan.apiserver import expressions

__all__ = ["api"]

# Every stop is compared with every other; up to 800 of them fit into a rule's budget.
ROUTE = {"type": "array", "maxItems": 400, "items": {**STRING, "maxLength": 8}}
RULE = "self.route.all(a, self.route.exists(b, b == a))"
SCHEMA = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "properties": {"name": STRING, "route": ROUTE},
            "x-kubernetes-validations": [
                {"rule": RULE, "message": "never"},
                {"rule": "self.name != 'raft'", "message": "is no boat", "fieldPath": ".name"},
            ],
        }
    },
}


def long(name: str) -> dict[str, Any]:
    return boat(name, route=[f"{number:08}" for number in range(400)])


@pytest.fixture
async def routes(api: Harness) -> Harness:
    await establish(
        api, definition(version(schema={"openAPIV3Schema": SCHEMA}, selectableFields=[]))
    )
    await api.call("POST", BOATS, boat("first", route=["a"]))  # the rules are compiled now
    return api


async def test_others_are_answered_while_a_costly_rule_runs(routes: Harness) -> None:
    await routes.call("POST", MAPS, config_map("a"))
    writing = asyncio.create_task(routes.send("POST", BOATS, long("a")))
    answered = 0
    while not writing.done():
        await asyncio.wait_for(routes.call("GET", f"{MAPS}/a"), 5)
        answered += 1
        await asyncio.sleep(0)
    assert (await writing).status == 201
    assert answered > 10, "the loop went round while the rule was evaluated"


@pytest.mark.parametrize("units", [expressions.INLINE, 1])
async def test_the_finding_is_the_same_in_a_thread(
    routes: Harness, monkeypatch: pytest.MonkeyPatch, units: int
) -> None:
    monkeypatch.setattr(expressions, "INLINE", units)
    await routes.call("POST", BOATS, boat("b", route=["a"]))
    refused = await routes.patch("merge", f"{BOATS}/b", {"spec": {"name": "raft"}}, 422)
    assert refused["message"] == (
        f'Boat.{GROUP} "b" is invalid: spec.name: Invalid value: is no boat'
    )
    await routes.patch("merge", f"{BOATS}/b", {"spec": {"route": ["b", "c"]}}, 200)


async def test_what_costs_more_than_a_rule_may_is_refused(api: Harness) -> None:
    spec = {**SCHEMA["properties"]["spec"], "x-kubernetes-validations": [  # type: ignore[index]
        {"rule": "self.route.all(a, self.route.all(b, self.route.exists(c, c != a)))"}
    ]}  # fmt: skip
    schema = {"type": "object", "properties": {"spec": spec}}
    refused = await api.call(
        "POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
        definition(version(schema={"openAPIV3Schema": schema}, selectableFields=[])), 422,
    )  # fmt: skip
    assert "estimated rule cost exceeds budget by factor of" in refused["message"]
