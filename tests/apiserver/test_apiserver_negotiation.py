"""Media types: what a body may be, what an answer can be, and what a client is told that speaks neither."""

from __future__ import annotations

from typing import Any

import pytest
from apiserver_harness import DEPLOYMENTS, MAPS, PODS, Harness, api, config_map
from crd_harness import BOATS, boat, definition, establish

__all__ = ["api"]

PROTOBUF = "application/vnd.kubernetes.protobuf"
CBOR = "application/cbor"
UNKNOWN = "the body of the request was in an unknown format - accepted media types include: "
BUILTIN = f"application/json, application/yaml, {PROTOBUF}"
PLAIN = "application/json, application/yaml"
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


async def refused(
    api: Harness, method: str, path: str, body: bytes, content: str
) -> dict[str, Any]:
    answer: dict[str, Any] = await api.call(method, path, body, 415, content=content)
    assert answer["reason"] == "UnsupportedMediaType"
    return answer


@pytest.mark.parametrize("content", [CBOR, "text/plain", "application/octet-stream"])
async def test_bodies_of_other_types(api: Harness, content: str) -> None:
    for method, path in (
        ("POST", MAPS),
        ("PUT", f"{MAPS}/a"),
        ("DELETE", f"{MAPS}/a"),
        ("POST", REVIEWS),
        ("PUT", f"{DEPLOYMENTS}/x/scale"),
        ("POST", f"{PODS}/x/eviction"),
    ):
        answer = await refused(api, method, path, b"\xa0", content)
        assert answer["message"] == UNKNOWN + BUILTIN, path


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'{"kind":"ConfigMap"}', "does not appear to be a protobuf message"),
        (b"", "does not appear to be a protobuf message"),
        (b"k8s\x00\xff\xff\xff", "cut off"),
        (b"k8s\x00\x0a\x0a\x0a\x02v1\x12\x04Nope\x12\x00", 'no kind "Nope" is registered'),
    ],
)
async def test_protobuf_that_is_not_understood(api: Harness, body: bytes, why: str) -> None:
    for method, path in (("POST", MAPS), ("PUT", f"{MAPS}/a"), ("POST", REVIEWS)):
        answer = await refused(api, method, path, body, PROTOBUF)
        assert answer["message"] == UNKNOWN + PLAIN
        assert why in answer["details"]["causes"][0]["message"]


async def test_custom_resources_have_no_protobuf(api: Harness) -> None:
    await establish(api, definition())
    await api.call("POST", BOATS, boat("a"))
    for content in (PROTOBUF, CBOR):
        for method, path in (("POST", BOATS), ("PUT", f"{BOATS}/a"), ("PUT", f"{BOATS}/a/status")):
            answer = await refused(api, method, path, b"k8s\x00", content)
            assert answer["message"] == UNKNOWN + PLAIN
    answer = await refused(
        api, "PATCH", f"{BOATS}/a", b"{}", "application/strategic-merge-patch+json"
    )
    assert answer["message"] == (
        f"{UNKNOWN}application/json-patch+json, application/merge-patch+json, "
        "application/apply-patch+yaml"
    )


async def test_patches_of_other_types(api: Harness) -> None:
    for content in (PROTOBUF, CBOR, "application/json"):
        answer = await refused(api, "PATCH", f"{MAPS}/a", b"{}", content)
        assert answer["message"] == (
            f"{UNKNOWN}application/json-patch+json, application/merge-patch+json, "
            "application/strategic-merge-patch+json, application/apply-patch+yaml"
        )


async def test_answers_that_we_cannot_give(api: Harness) -> None:
    await api.call("POST", MAPS, config_map("a"))
    for accept in (
        PROTOBUF,
        CBOR,
        "image/png",
        "application/json;q=0",
        f"{PROTOBUF};as=Table;v=v1;g=meta.k8s.io",
    ):
        for path in (MAPS, f"{MAPS}/a", f"{MAPS}?watch=true"):
            answer = await api.call("GET", path, status=406, accept=accept)
            assert answer["reason"] == "NotAcceptable"
            assert answer["message"] == f"only the following media types are accepted: {PLAIN}"


@pytest.mark.parametrize(
    "accept",
    [
        f"{PROTOBUF},application/json",
        f"{PROTOBUF}, */*",
        f"application/json;q=0.1, {PROTOBUF};q=0.9",
        f"{PROTOBUF};as=Table;v=v1;g=meta.k8s.io,application/json",
        "application/*",
    ],
)
async def test_whoever_takes_json_gets_it(api: Harness, accept: str) -> None:
    await api.call("POST", MAPS, config_map("a"))
    for path in (MAPS, f"{MAPS}/a", "/apis", "/version"):
        response = await api.send("GET", path, accept=accept)
        assert response.status == 200
        assert response.headers["Content-Type"] == "application/json"
