"""What a patch may do to an object that fits its schema: only what it touches is fitted again, and that as strictly as ever."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from apiserver_harness import CONTENT, DEPLOYMENTS, MAPS, Harness, api, config_map, deployment

__all__ = ["api"]  # a fixture

KINDS = ("json", "merge", "strategic")


def as_json_patch(kind: str, field: str, value: Any) -> Any:
    """`field` of the first level becomes `value`."""
    if kind == "json":
        return [{"op": "add", "path": f"/{field}", "value": value}]
    return {field: value}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("depth", [240, 300, 900, 2000])
async def test_a_patch_deeper_than_can_be_stored_is_refused(
    api: Harness, kind: str, depth: int
) -> None:
    await api.call("POST", MAPS, config_map("one"))
    deep = b'{"a":' * depth + b"1" + b"}" * depth
    body = b'{"data":' + deep + b"}"
    if kind == "json":
        body = b'[{"op":"add","path":"/data/x","value":' + deep + b"}]"
    answer = await api.send("PATCH", f"{MAPS}/one", body, CONTENT[kind])
    assert answer.status in (400, 422)  # who finds it differs by depth and kind


async def test_a_thing_moved_into_itself_again_and_again_is_refused(api: Harness) -> None:
    await api.call("POST", MAPS, config_map("one"))
    deeper = [
        {"op": "add", "path": "/y", "value": {}},
        {"op": "move", "from": "/x", "path": "/y/x"},
        {"op": "move", "from": "/y", "path": "/x"},
    ]
    operations = [{"op": "add", "path": "/x", "value": {}}, *deeper * 300]
    operations.append({"op": "move", "from": "/x", "path": "/data/x"})
    answer = await api.send("PATCH", f"{MAPS}/one", orjson.dumps(operations), CONTENT["json"])
    assert answer.status == 422


@pytest.mark.parametrize("kind", KINDS)
async def test_one_is_not_true(api: Harness, kind: str) -> None:
    made = await api.call("POST", DEPLOYMENTS, deployment("one", replicas=1))
    spec = {**made["spec"], "replicas": True}
    refused = await api.patch(kind, f"{DEPLOYMENTS}/one", as_json_patch(kind, "spec", spec), 422)
    strategic = kind == "strategic"  # fits a map into the type, where the others read JSON
    assert ("unrecognized type" if strategic else "cannot unmarshal bool") in refused["message"]


@pytest.mark.parametrize("kind", KINDS)
async def test_unknown_fields_of_the_first_level_are_dropped_with_a_warning(
    api: Harness, kind: str
) -> None:
    await api.call("POST", MAPS, config_map("one"))
    body = orjson.dumps(as_json_patch(kind, "surprise", {"a": 1}))
    answer = await api.send("PATCH", f"{MAPS}/one", body, CONTENT[kind])
    assert answer.status == 200 and b"surprise" not in await answer.read()
    assert 'unknown field \\"surprise\\"' in answer.headers["Warning"]
