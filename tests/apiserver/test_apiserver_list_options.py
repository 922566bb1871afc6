"""What a list, a watch and a delete may ask for: every combination of their options, and the words of refusal."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import orjson
import pytest
from apiserver_harness import (
    DEPLOYMENTS,
    MAPS,
    PODS,
    Harness,
    api,
    config_map,
    pod,
    service_account,
)

__all__ = ["api"]

MATCH = "resourceVersionMatch"
UNLESS_VERSION = "resourceVersionMatch is forbidden unless resourceVersion is provided"
UNLESS_EVENTS = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
WITH_TOKEN = "resourceVersionMatch is forbidden when continue is provided"
WANTS_NOT_OLDER = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
TOKEN = base64.urlsafe_b64encode(b'{"v":"meta.k8s.io/v1","rv":1,"start":"m"}').decode().rstrip("=")
REFUSED: list[tuple[str, list[tuple[str, str]]]] = [
    (f"{MATCH}=Exact", [("FieldValueForbidden", UNLESS_VERSION)]),
    (f"{MATCH}=NotOlderThan", [("FieldValueForbidden", UNLESS_VERSION)]),
    (f"{MATCH}=x&resourceVersion=1",
     [("FieldValueNotSupported", '"x": supported values: "Exact", "NotOlderThan", ""')]),
    (f"{MATCH}=x",
     [("FieldValueForbidden", UNLESS_VERSION),
      ("FieldValueNotSupported", '"x": supported values: "Exact", "NotOlderThan", ""')]),
    (f"{MATCH}=Exact&resourceVersion=0",
     [("FieldValueForbidden", 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"')]),
    (f"{MATCH}=Exact&resourceVersion=1&continue={TOKEN}", [("FieldValueForbidden", WITH_TOKEN)]),
    ("sendInitialEvents=true", [("FieldValueForbidden", "sendInitialEvents is forbidden for list")]),
    ("sendInitialEvents=false", [("FieldValueForbidden", "sendInitialEvents is forbidden for list")]),
    ("watch=1&sendInitialEvents=true", [("FieldValueForbidden", WANTS_NOT_OLDER)]),
    ("watch=1&sendInitialEvents=false", [("FieldValueForbidden", WANTS_NOT_OLDER)]),
    (f"watch=1&sendInitialEvents=true&{MATCH}=Exact",
     [("FieldValueForbidden", WANTS_NOT_OLDER),
      ("FieldValueNotSupported", '"Exact": supported values: "NotOlderThan"')]),
    (f"watch=1&{MATCH}=NotOlderThan", [("FieldValueForbidden", UNLESS_EVENTS)]),
    (f"watch=1&{MATCH}=Exact&resourceVersion=1",
     [("FieldValueForbidden", UNLESS_EVENTS),
      ("FieldValueNotSupported", '"Exact": supported values: "NotOlderThan"')]),
    (f"watch=1&sendInitialEvents=true&{MATCH}=NotOlderThan&continue={TOKEN}",
     [("FieldValueForbidden", WITH_TOKEN)]),
]  # fmt: skip


async def test_combinations_that_mean_nothing(api: Harness) -> None:
    for query, expected in REFUSED:
        answer = await api.call("GET", f"{MAPS}?{query}", status=422)
        assert answer["details"]["group"] == "meta.k8s.io"
        assert answer["details"]["kind"] == "ListOptions"
        found = [(each["reason"], each["message"]) for each in answer["details"]["causes"]]
        assert [reason for reason, _ in found] == [reason for reason, _ in expected], query
        for (_, message), (_, wanted) in zip(found, expected, strict=True):
            assert wanted in message, query


BAD: list[tuple[str, str]] = [
    ("limit=x", 'strconv.ParseInt: parsing "x": invalid syntax'),
    ("resourceVersion=x", 'strconv.ParseUint: parsing "x": invalid syntax'),
    ("resourceVersion=-1", "invalid syntax"),
    ("resourceVersion=99999999999999999999", "value out of range"),
    ("continue=x", "continue key is not valid"),
    (f"continue={TOKEN}&resourceVersion=5",
     "specifying resource version is not allowed when using continue"),
    ("labelSelector=a in (", "unable to parse requirement"),
    ("labelSelector=a=b c", "found 'c', expected: ',' or 'end of string'"),
    ("labelSelector=-a=b", "unable to parse requirement: key: Invalid value: \"-a\""),
    ("labelSelector=a in (b),", "found '', expected: identifier after ','"),
    ("labelSelector=,", "expected"),
    ("fieldSelector=x", "invalid selector: 'x'; can't understand 'x'"),
    ("fieldSelector=data.a=b",
     '"data.a" is not a known field selector: only "metadata.name", "metadata.namespace"'),
]  # fmt: skip


async def test_options_that_cannot_be_read(api: Harness) -> None:
    for query, text in BAD:
        answer = await api.call("GET", f"{MAPS}?{query}", status=400)
        assert (answer["reason"], text in answer["message"]) == ("BadRequest", True), answer


FIELDS: list[tuple[str, str, str]] = [
    (PODS, "spec.nodeName,spec.restartPolicy,spec.schedulerName,spec.serviceAccountName,"
     "spec.hostNetwork,status.phase,status.podIP,status.podIPs,status.nominatedNodeName",
     "field label not supported: spec.x"),
    ("/api/v1/nodes", "spec.unschedulable", "field label not supported: spec.x"),
    ("/api/v1/namespaces", "status.phase", "field label not supported: spec.x"),
    ("/api/v1/secrets", "type", "field label not supported: spec.x"),
    ("/api/v1/services", "spec.clusterIP,spec.type", "field label not supported: spec.x"),
    ("/api/v1/replicationcontrollers", "status.replicas", "field label not supported: spec.x"),
    ("/api/v1/events", "involvedObject.kind,involvedObject.name,involvedObject.uid,reason,"
     "reportingComponent,source,type,involvedObject.fieldPath",
     "field label not supported: spec.x"),
    ("/apis/events.k8s.io/v1/events", "regarding.kind,regarding.name,reason,reportingController,type",
     "field label not supported: spec.x"),
    ("/apis/batch/v1/jobs", "status.successful",
     'field label "spec.x" not supported for batchv1.Job'),
    ("/apis/certificates.k8s.io/v1/certificatesigningrequests", "spec.signerName",
     "field label not supported: spec.x"),
    ("/apis/apps/v1/deployments", "", '"spec.x" is not a known field selector'),
    ("/api/v1/persistentvolumes", "", '"spec.x" is not a known field selector'),
]  # fmt: skip


@pytest.mark.parametrize(("path", "known", "refusal"), FIELDS)
async def test_fields_that_a_kind_selects_on(
    api: Harness, path: str, known: str, refusal: str
) -> None:
    for field in ("metadata.name", *filter(None, known.split(","))):
        await api.call("GET", f"{path}?fieldSelector={field}=x")
        await api.call("GET", f"{path}?fieldSelector={field}!=x")
    answer = await api.call("GET", f"{path}?fieldSelector=spec.x=1", status=400)
    assert refusal in answer["message"]


async def test_fields_of_an_event_by_either_name(api: Harness) -> None:
    """One stored event has two faces, each with its own names and its own order of fields."""
    new, old = (
        "/apis/events.k8s.io/v1/namespaces/default/events",
        "/api/v1/namespaces/default/events",
    )
    event = {
        "metadata": {"name": "e"}, "regarding": {"kind": "Pod", "name": "p", "namespace": "default"},
        "eventTime": "2026-01-01T00:00:00.000000Z", "note": "n", "action": "Do", "reason": "Why",
        "type": "Normal", "reportingController": "x/test", "reportingInstance": "i",
    }  # fmt: skip
    await api.call("POST", new, event, status=201)
    for path, fields in (
        (new, ("reportingController=x/test", "regarding.name=p", "type=Normal", "reason=Why")),
        (
            old,
            ("reportingComponent=x/test", "involvedObject.name=p", "type=Normal", "source=x/test"),
        ),
        (new, ("reportingController=x/test,type=Normal",)),
    ):
        for field in fields:
            answer = await api.call("GET", f"{path}?fieldSelector={field}")
            assert [each["metadata"]["name"] for each in answer["items"]] == ["e"], (path, field)
            head, _, value = field.partition("=")
            assert not (await api.call("GET", f"{path}?fieldSelector={head}=no{value}"))["items"]


async def filled(api: Harness, count: int) -> list[str]:
    """The revisions at which m0, m1, … were made."""
    made = [await api.call("POST", MAPS, config_map(f"m{index}")) for index in range(count)]
    return [each["metadata"]["resourceVersion"] for each in made]


async def test_which_moment_a_list_shows(api: Harness) -> None:
    at = await filled(api, 4)

    async def shown(query: str) -> tuple[int, str]:
        listed = await api.call("GET", f"{MAPS}?{query}")
        return len(listed["items"]), listed["metadata"]["resourceVersion"]

    now = str(api.store.revision)
    assert await shown("") == (4, now)
    assert await shown("resourceVersion=0") == (4, now)
    assert await shown(f"resourceVersion={at[1]}") == (4, now)
    assert await shown(f"resourceVersion={at[1]}&{MATCH}=NotOlderThan&limit=9") == (4, now)
    assert await shown(f"resourceVersion={at[1]}&{MATCH}=Exact") == (2, at[1])
    assert await shown(f"resourceVersion={at[1]}&limit=9") == (2, at[1])  # the old way to say Exact
    assert await shown(f"resourceVersion=0&{MATCH}=NotOlderThan") == (4, now)


async def test_pages_of_what_matches(api: Harness) -> None:
    for index in range(5):
        body = config_map(f"m{index}")
        body["metadata"]["labels"] = {"odd": str(index % 2)}
        await api.call("POST", MAPS, body)
    first = await api.call("GET", f"{MAPS}?labelSelector=odd=0&limit=2")
    assert [each["metadata"]["name"] for each in first["items"]] == ["m0", "m2"]
    assert "remainingItemCount" not in first["metadata"]  # with a selector nobody counts
    token = first["metadata"]["continue"]
    rest = await api.call("GET", f"{MAPS}?labelSelector=odd=0&limit=2&continue={token}")
    assert [each["metadata"]["name"] for each in rest["items"]] == ["m4"]
    assert "continue" not in rest["metadata"]
    for forged in (
        {"v": "meta.k8s.io/v1", "rv": 0, "start": "m"},
        {"v": "meta.k8s.io/v2", "rv": 1, "start": "m"},
        {"v": "meta.k8s.io/v1", "rv": 1, "start": "../../secrets/a"},
        {"v": "meta.k8s.io/v1", "rv": "1", "start": "m"},
        {"v": "meta.k8s.io/v1", "rv": 1},
        [1],
    ):
        text = base64.urlsafe_b64encode(orjson.dumps(forged)).decode().rstrip("=")
        await api.call("GET", f"{MAPS}?continue={text}", status=400)


async def test_a_watch_of_the_future_waits_for_it(api: Harness) -> None:
    (at,) = await filled(api, 1)
    seen = asyncio.create_task(first_event(api, f"{MAPS}?watch=1&resourceVersion={int(at) + 1}"))
    await asyncio.sleep(0)
    await api.call("POST", MAPS, config_map("passed-over"))
    await api.call("POST", MAPS, config_map("seen"))
    async with asyncio.timeout(5):
        event = await seen
    assert event["object"]["metadata"]["name"] == "seen"
    query = f"watch=1&sendInitialEvents=true&{MATCH}=NotOlderThan&resourceVersion=99999"
    late = await api.call("GET", f"{MAPS}?{query}", status=504)
    assert late["reason"] == "Timeout"
    assert late["message"].startswith("Timeout: Too large resource version: 99999, current: ")
    assert late["details"] == {
        "retryAfterSeconds": 1,
        "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
    }


async def first_event(api: Harness, path: str) -> dict[str, Any]:
    watching = api.watch(path)
    try:
        return await anext(watching)
    finally:
        await watching.aclose()  # type: ignore[attr-defined]


async def test_where_a_watch_begins(api: Harness) -> None:
    at = await filled(api, 3)

    async def told(query: str) -> list[str]:
        found = []
        async for event in api.watch(
            f"{MAPS}?watch=1&timeoutSeconds=1&allowWatchBookmarks=1&{query}"
        ):
            metadata = event["object"]["metadata"]
            if event["type"] == "BOOKMARK":
                found.append("end" if metadata.get("annotations") else "bookmark")
            else:
                found.append(metadata["name"])
        return found

    state = ["m0", "m1", "m2"]
    wants = f"sendInitialEvents=true&{MATCH}=NotOlderThan"
    assert await asyncio.gather(
        told(""),
        told("resourceVersion=0"),
        told(f"resourceVersion={at[1]}"),
        told(wants),
        told(f"{wants}&resourceVersion=0"),
        told(f"{wants}&resourceVersion={at[1]}"),
        told(f"sendInitialEvents=false&{MATCH}=NotOlderThan&resourceVersion={at[1]}"),
        told(f"sendInitialEvents=false&{MATCH}=NotOlderThan"),
    ) == [
        [*state, "bookmark"],
        [*state, "bookmark"],
        ["m2", "bookmark"],
        [*state, "end", "bookmark"],
        [*state, "end", "bookmark"],
        [*state, "end", "bookmark"],
        ["m2", "bookmark"],
        ["bookmark"],
    ]  # fmt: skip


async def test_delete_options(api: Harness) -> None:
    await service_account(api)
    await filled(api, 1)
    both = {"orphanDependents": True, "propagationPolicy": "Orphan"}
    answer = await api.call("DELETE", f"{MAPS}/m0", both, 422)
    text = "orphanDependents and deletionPropagation cannot be both set"
    assert answer["details"]["causes"][0]["message"] == f'Invalid value: "Orphan": {text}'
    answer = await api.call("DELETE", f"{MAPS}/m0", {"propagationPolicy": "Up"}, 422)
    assert answer["details"]["causes"][0]["message"] == (
        'Unsupported value: "Up": supported values: "Foreground", "Background", "Orphan", "nil"'
    )
    held = await api.call("DELETE", f"{MAPS}/m0", {"orphanDependents": True})
    assert held["metadata"]["finalizers"] == ["orphan"]

    await api.call("POST", PODS, pod("p", nodeName="n1"))
    leaving = await api.call("DELETE", f"{PODS}/p", {"gracePeriodSeconds": -5})
    assert leaving["metadata"]["deletionGracePeriodSeconds"] == 1
    # Later deletions may shorten what is left, never lengthen it.
    again = await api.call("DELETE", f"{PODS}/p?gracePeriodSeconds=600")
    assert again["metadata"]["deletionGracePeriodSeconds"] == 1
    await api.call("DELETE", f"{PODS}/p", {"gracePeriodSeconds": 0})
    await api.call("GET", f"{PODS}/p", status=404)


async def test_a_collection_is_deleted_by_its_options(api: Harness) -> None:
    await filled(api, 4)
    await api.call("DELETE", f"{MAPS}?{MATCH}=Exact", status=422)
    gone = await api.call("DELETE", f"{MAPS}?fieldSelector=metadata.name=m1")
    assert [each["metadata"]["name"] for each in gone["items"]] == ["m1"]
    await api.call("DELETE", f"{MAPS}?dryRun=All")
    assert len((await api.call("GET", MAPS))["items"]) == 3
    gone = await api.call("DELETE", MAPS, {"propagationPolicy": "Orphan"})
    assert all(each["metadata"]["finalizers"] == ["orphan"] for each in gone["items"])
    await api.call("DELETE", DEPLOYMENTS)
    refused = await api.call("DELETE", "/api/v1/configmaps", status=405)
    assert refused["reason"] == "MethodNotAllowed"
