"""Media types: what a body may be, what an answer can be, and what a client is told that speaks neither."""

from __future__ import annotations

from typing import Any

import pytest
from apiserver_harness import DEPLOYMENTS, MAPS, PODS, Harness, api, config_map
from crd_harness import BOATS, CRDS, GROUP, boat, definition, establish

from sampan.apiserver import protobuf

__all__ = ["api"]

PROTOBUF = "application/vnd.kubernetes.protobuf"
DEFINITION = "CustomResourceDefinition"
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


def varint(value: int) -> bytes:
    low, high = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(high) if high else bytes([low])


def field(number: int, kind: str, value: Any) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if kind[0] == "{":
        pairs = (field(1, "s", key) + field(2, kind[1:], each) for key, each in value.items())
        return b"".join(field(number, "y", pair) for pair in pairs)
    if isinstance(value, str):
        value = value.encode()
    if kind == "Raw":
        value = field(1, "y", value)
    content = value if isinstance(value, bytes) else message(kind, value)
    return varint(number << 3 | 2) + varint(len(content)) + content


def message(name: str, value: dict[str, Any]) -> bytes:
    """`value` has the shape of the message, in which a choice is a message of its own."""
    return b"".join(
        field(number, kind.lstrip("*["), each)
        for number, (key, kind) in protobuf._fields_of(name).items()
        if key in value
        for each in (value[key] if kind[0] == "[" else [value[key]])
    )


def enveloped(api_version: str, kind: str, content: bytes) -> bytes:
    unknown = field(1, "y", field(1, "s", api_version) + field(2, "s", kind))
    return b"k8s\0" + unknown + field(2, "y", content)


async def test_moments_long_ago_in_protobuf(api: Harness) -> None:
    """Go counts from the year 1, and writes two seconds after it with all four digits."""
    long_ago = field(1, "i", (1 << 64) - 62_135_596_798)
    lease = {"metadata": {"name": "old"}, "spec": {"renewTime": long_ago}}
    body = enveloped(
        "coordination.k8s.io/v1", "Lease", message("io.k8s.api.coordination.v1.Lease", lease)
    )
    path = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
    made = await api.call("POST", path, body, 201, content=PROTOBUF)
    assert made["spec"]["renewTime"] == "0001-01-01T00:00:02.000000Z"
    again = await api.call("PUT", f"{path}/old", made)
    assert again["spec"] == made["spec"]


async def test_a_definition_in_protobuf(api: Harness) -> None:
    """Go's clients of apiextensions.k8s.io send it so, when told to use protobuf for everything."""
    text = {"type": "string"}
    spec = {
        "type": "object",
        "required": ["sail"],
        "properties": {
            "sail": {**text, "default": '"lug"', "enum": ['"lug"', '"gaff"']},
            "crew": {"type": "array", "items": {"schema": text}, "x-kubernetes-list-type": "set"},
            "cargo": {"type": "object", "additionalProperties": {"schema": text}},
            "any": {"type": "object", "additionalProperties": {"allows": 1}},
        },
        "x-kubernetes-validations": [{"rule": "self.sail != 'x'", "message": "no"}],
    }
    root = {"type": "object", "properties": {"spec": spec}}
    version = {"name": "v1", "served": 1, "storage": 1, "schema": {"openAPIV3Schema": root}}
    names = {"plural": "boats", "kind": "Boat", "singular": "boat", "listKind": "BoatList"}
    crd = {
        "metadata": {"name": f"boats.{GROUP}"},
        "spec": {"group": GROUP, "scope": "Namespaced", "names": names, "versions": [
            {**version, "subresources": {"status": {}}}]},
    }  # fmt: skip
    name = f"io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.{DEFINITION}"
    body = enveloped("apiextensions.k8s.io/v1", DEFINITION, message(name, crd))
    made = await api.call("POST", CRDS, body, 201, content=PROTOBUF)
    (found,) = made["spec"]["versions"]
    assert found["subresources"] == {"status": {}}
    properties = found["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    assert properties == {
        "sail": {**text, "default": "lug", "enum": ["lug", "gaff"]},
        "crew": {"type": "array", "items": text, "x-kubernetes-list-type": "set"},
        "cargo": {"type": "object", "additionalProperties": text},
        "any": {"type": "object", "additionalProperties": True},
    }


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
