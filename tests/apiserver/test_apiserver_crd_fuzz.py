"""Whatever a definition or a custom object looks like, the answer is never a 500 and the server goes on."""

from __future__ import annotations

import asyncio
import copy
import random
from pathlib import Path
from typing import Any

import orjson
import pytest
from apiserver_harness import open_server
from crd_harness import BOATS, CRDS, GROUP, boat, definition, establish
from fuzz_door import EXAMPLES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

KEYS = st.sampled_from(
    [
        "type",
        "properties",
        "items",
        "additionalProperties",
        "required",
        "enum",
        "default",
        "nullable",
        "pattern",
        "format",
        "minimum",
        "maximum",
        "maxItems",
        "minLength",
        "oneOf",
        "anyOf",
        "allOf",
        "not",
        "x-kubernetes-list-type",
        "x-kubernetes-list-map-keys",
        "x-kubernetes-map-type",
        "x-kubernetes-validations",
        "x-kubernetes-embedded-resource",
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-int-or-string",
        "rule",
        "message",
        "spec",
        "name",
        "crew",
        "a",
    ]
)
LEAVES = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["string", "integer", "object", "array", "self.a > 1", "(", "[", "map", "set", "", "date"])
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=15,
)


def spoilt(value: Any, seed: int, replacement: Any) -> Any:
    """A copy with one part, anywhere, replaced."""
    value = copy.deepcopy(value)
    chance = random.Random(seed)
    holder: Any = value
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key = chance.choice(keys)
        inner = holder[key]
        if not isinstance(inner, dict | list) or not inner or chance.random() < 0.2:
            holder[key] = replacement
            return value
        holder = inner


@pytest.mark.timeout(900)
def test_nothing_breaks_it(tmp_path: Path) -> None:
    loop = asyncio.new_event_loop()
    api = loop.run_until_complete(open_server(tmp_path))
    loop.run_until_complete(api.server.start(serve=False))
    loop.run_until_complete(establish(api, definition()))
    loop.run_until_complete(api.call("POST", BOATS, boat("kept", cargo={"a": 1})))

    async def ask(method: str, path: str, body: Any, content: str) -> None:
        response = await api.send(method, path, body, content=content)
        text = await response.read()
        assert response.status < 500, (response.status, text, body)

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        st.integers(0, 2**32),
        VALUES,
        st.sampled_from(["create", "define", "patch", "status", "judge"]),
    )
    def attempt(seed: int, replacement: Any, what: str) -> None:
        json, merge = "application/json", "application/merge-patch+json"
        if what == "define":
            made = spoilt(definition(plural="ships", kind="Ship"), seed, replacement)
            loop.run_until_complete(ask("POST", CRDS, made, json))
            loop.run_until_complete(api.send("DELETE", f"{CRDS}/ships.{GROUP}"))
        elif what == "create":
            body = spoilt(boat(f"b{seed}", crew=1, sail="lug", cargo={"x": [1]}), seed, replacement)
            loop.run_until_complete(ask("POST", BOATS, body, json))
        elif what == "judge":
            crd = f"{CRDS}/boats.{GROUP}"
            body = spoilt(
                {
                    "status": {
                        "acceptedNames": {"kind": "Boat"},
                        "conditions": [{"type": "Established"}],
                    }
                },
                seed,
                replacement,
            )
            loop.run_until_complete(ask("PATCH", f"{crd}/status", body, merge))
        else:
            path = f"{BOATS}/kept" + ("/status" if what == "status" else "")
            patch = {"spec": replacement} if what == "patch" else {"status": replacement}
            loop.run_until_complete(ask("PATCH", path, patch, merge))

    try:
        attempt()
        deep = b'{"spec":{"cargo":' + b'{"a":' * 5000 + b"1" + b"}" * 5002
        loop.run_until_complete(ask("POST", BOATS, deep, "application/json"))
        nested: Any = {"type": "object"}
        for _ in range(60):
            nested = {"type": "object", "properties": {"a": nested}}
        crd = definition(plural="nests", kind="Nest")
        crd["spec"]["versions"][0] |= {
            "schema": {"openAPIV3Schema": nested},
            "selectableFields": [],
        }
        loop.run_until_complete(establish(api, crd))
        value: Any = {}
        for _ in range(60):
            value = {"a": value}
        body = {**value, "metadata": {"name": "n"}}
        loop.run_until_complete(
            ask("POST", BOATS.replace("boats", "nests"), body, "application/json")
        )
        assert api.server.definitions.served.keys() >= {f"boats.{GROUP}", f"nests.{GROUP}"}
        assert not any(api.server.health.checks("livez").values()), "every task goes on"
        found = loop.run_until_complete(api.send("GET", BOATS))
        assert found.status == 200 and orjson.loads(found.body)
    finally:
        loop.run_until_complete(api.server.close())
        loop.run_until_complete(api.store.close())
        loop.close()
