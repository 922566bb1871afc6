"""The form of an answer: warnings, negotiation, indentation, the client's patience."""

from __future__ import annotations

import asyncio

import orjson
import pytest
from apiserver_harness import (
    CONTENT,
    DEPLOYMENTS,
    MAPS,
    PODS,
    Harness,
    api,
    config_map,
    deployment,
    pod,
    service_account,
)

from sampan.apiserver.deadlines import seconds
from sampan.apiserver.negotiate import Form, accepted
from sampan.kube.errors import ApiError

__all__ = ["api"]
ENDPOINTS = "/api/v1/namespaces/default/endpoints"
META = "g=meta.k8s.io;v=v1"


async def test_warnings_travel_in_headers(api: Harness) -> None:
    await service_account(api)
    made = await api.send("POST", PODS, pod("one", nodeSelector={"beta.kubernetes.io/os": "linux"}))
    assert made.status == 201
    assert made.headers["Warning"] == (
        '299 - "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; '
        'use \\"kubernetes.io/os\\" instead"'
    )
    assert "Warning" not in (await api.send("GET", f"{PODS}/one")).headers


@pytest.mark.parametrize("method", ["GET", "POST", "WATCH", "DELETE"])
async def test_a_deprecated_version_says_so_in_every_answer(api: Harness, method: str) -> None:
    said = '299 - "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"'
    match method:
        case "WATCH":
            answer = await api.send("GET", f"{ENDPOINTS}?watch=1&resourceVersion=0")
            await answer.aclose()
        case "POST":
            answer = await api.send("POST", ENDPOINTS, {"metadata": {"name": "e"}})
        case "DELETE":
            answer = await api.send("DELETE", f"{ENDPOINTS}/none")
            assert answer.status == 404  # errors carry warnings, too
        case _:
            answer = await api.send("GET", ENDPOINTS)
    assert answer.headers["Warning"] == said


@pytest.mark.parametrize(
    ("header", "form"),
    [
        ("", Form()),
        ("*/*", Form()),
        ("application/vnd.kubernetes.protobuf,application/json", Form()),
        ("application/json;q=0.5,application/yaml;q=0.9", Form(media_type="application/yaml")),
        ("application/yaml;q=0,application/*", Form()),
        (f"application/json;as=Table;{META},application/json", Form("Table")),
        ("application/json;as=Table;g=meta.k8s.io;v=v1beta1", Form("Table", "v1beta1")),
        ("application/json;as=Table;g=meta.k8s.io;v=v9,application/json", Form()),
        (f"application/json;as=PartialObjectMetadata;{META}", Form("PartialObjectMetadata")),
        ("text/html,application/xhtml+xml,*/*;q=0.8", Form()),
    ],
)  # fmt: skip
def test_what_a_client_accepts(header: str, form: Form) -> None:
    assert accepted(header) == form


@pytest.mark.parametrize(
    "header",
    ["application/vnd.kubernetes.protobuf", "application/cbor", "text/html", "application/json;q=0",
     "application/json;as=Table;g=meta.k8s.io;v=v9", "application/json;as=Else;g=meta.k8s.io;v=v1"],
)  # fmt: skip
def test_what_we_do_not_speak(header: str) -> None:
    with pytest.raises(ApiError) as refused:
        accepted(header)
    assert refused.value.code == 406 and refused.value.reason == "NotAcceptable"


async def test_an_answer_has_no_table(api: Harness) -> None:
    review = {"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}}
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    answer = await api.send("POST", path, review, accept=f"application/json;as=Table;{META}")
    assert answer.status == 406 and answer.json()["reason"] == "NotAcceptable"


async def test_a_list_is_not_one_object(api: Harness) -> None:
    await api.call("POST", MAPS, config_map("one"))
    for kind, path, status in (
        ("PartialObjectMetadata", MAPS, 406),
        ("PartialObjectMetadata", f"{MAPS}/one", 200),
        ("PartialObjectMetadataList", MAPS, 200),
        ("PartialObjectMetadataList", f"{MAPS}/one", 406),
    ):
        answer = await api.send("GET", path, accept=f"application/json;as={kind};{META}")
        assert answer.status == status, (kind, path)
        if status == 200:
            assert answer.json()["kind"] == kind
    refused = await api.call(
        "GET", MAPS, status=406, accept=f"application/json;as=PartialObjectMetadata;{META}"
    )
    assert refused["message"] == (
        "you requested PartialObjectMetadata, but the requested object is a list (ConfigMapList)"
    )


async def test_indentation(api: Harness) -> None:
    await api.call("POST", MAPS, config_map("one"))
    plain = await api.send("GET", f"{MAPS}/one")
    for path, agent, pretty in (
        (f"{MAPS}/one?pretty=1", "x", True),
        (f"{MAPS}/one?pretty=true", "x", True),
        (f"{MAPS}/one?pretty=false", "curl/8", False),
        (f"{MAPS}/one", "curl/8.1", True),
        (f"{MAPS}/one", "kubectl/v1.36", False),
    ):
        answer = await api.send("GET", path, user_agent=agent)
        assert (b"\n  " in await answer.read()) is pretty, (path, agent)
        assert answer.json() == plain.json()
    short = api.server.immediate
    from sampan.client.transport import Request, User

    admin = User("a", ("system:masters",))
    assert (
        short(Request("GET", f"{MAPS}/one", headers={"user-agent": "curl/8"}, user=admin)) is None
    )
    assert short(Request("GET", f"{MAPS}/one", user=admin)) is not None


async def test_the_clients_patience(api: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = await api.call("POST", f"{MAPS}?timeout=5x", config_map("one"), 400)
    assert bad["message"] == (
        'invalid timeout specified in the request URL - time: invalid duration "5x"'
    )

    async def never(*_: object, **__: object) -> int:
        await asyncio.get_running_loop().create_future()
        return 0

    await api.call("POST", f"{MAPS}?timeout=32s", config_map("two"), 201)
    monkeypatch.setattr(api.store, "put", never)
    late = await api.send("POST", f"{MAPS}?timeout=10ms", config_map("one"))
    status = orjson.loads(await late.read())
    assert (late.status, status["reason"]) == (504, "Timeout")
    assert status["message"] == (
        "Timeout: request did not complete within requested timeout - context deadline exceeded"
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0.0), ("1s", 1.0), ("1m30s", 90.0), ("1.5h", 5400.0), ("10ms", 0.01), ("-1s", -1.0)],
)
def test_durations(text: str, value: float) -> None:
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "1", "s", "1x", "1s ", "٣s", "1..5s"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="time: invalid duration"):
        seconds(text)


async def test_what_the_server_adds_to_a_pod(api: Harness) -> None:
    await service_account(api)
    term = {
        "topologyKey": "zone",
        "labelSelector": {},
        "matchLabelKeys": ["v"],
        "mismatchLabelKeys": ["t"],
    }
    made = pod(
        "one",
        schedulingGates=[{"name": "g/a"}],
        affinity={"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}},
    )
    made["metadata"]["labels"] = {"v": "1", "t": "2"}
    found = await api.call("POST", PODS, made)
    (condition,) = found["status"]["conditions"]
    assert (condition["type"], condition["reason"]) == ("PodScheduled", "SchedulingGated")
    (term,) = found["spec"]["affinity"]["podAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]
    assert term["labelSelector"]["matchExpressions"] == [
        {"key": "v", "operator": "In", "values": ["1"]},
        {"key": "t", "operator": "NotIn", "values": ["2"]},
    ]


async def test_field_validation_of_patches(api: Harness) -> None:
    await api.call("POST", DEPLOYMENTS, deployment("web"))
    path = f"{DEPLOYMENTS}/web"
    twice = b'{"spec":{"foo":1,"paused":true,"paused":false}}'
    operation = b'[{"op":"add","path":"/spec/foo","value":1,"bar":2}]'
    in_twice = ['duplicate field "spec.paused"', 'unknown field "spec.foo"']
    for content, body, found in (
        ("merge", twice, in_twice),
        ("strategic", twice, in_twice),
        ("json", operation, ['json patch unknown field "[0].bar"', 'unknown field "spec.foo"']),
    ):
        kind = CONTENT[content]
        refused = await api.call("PATCH", f"{path}?fieldValidation=Strict", body, 422, content=kind)
        cause = refused["message"].removeprefix(' "" is invalid: patch: Invalid value: ')
        assert cause.endswith(f": strict decoding error: {', '.join(found)}")
        strategic = content == "strategic"  # shows the patch, the others what they left
        shown = "map[spec:map[foo:1 paused:false]]" if strategic else r"{\"apiVersion\":"
        assert cause.startswith(f'"{shown}')
        for query in ("", "?fieldValidation=Warn"):
            warned = await api.send("PATCH", path + query, body, kind)
            told = warned.headers["Warning"].replace("\\", "")
            assert warned.status == 200 and told == "\n".join(f'299 - "{text}"' for text in found)
        ignored = await api.send("PATCH", f"{path}?fieldValidation=Ignore", body, kind)
        assert ignored.status == 200 and "Warning" not in ignored.headers
