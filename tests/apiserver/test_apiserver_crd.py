"""Custom resources through the API: from a definition to its objects, and back to nothing."""

from __future__ import annotations

import orjson
from apiserver_harness import Harness, api
from crd_boats import (
    NAME,
    TABLE,
    boats,
    refused,
)
from crd_harness import (
    BOATS,
    CRDS,
    GROUP,
    STRING,
    boat,
    definition,
    establish,
    has_condition,
    seen,
    version,
)

__all__ = ["api", "boats"]
PARTIAL = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"


# --- the definition -----------------------------------------------------------------------------------


async def test_a_definition_is_established(api: Harness) -> None:
    made = await api.call("POST", CRDS, definition())
    assert made["status"] == {
        "conditions": [], "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": ["v1"],
    }  # fmt: skip
    assert made["spec"]["names"]["singular"] == "boat"
    assert made["spec"]["names"]["listKind"] == "BoatList"
    assert made["spec"]["conversion"] == {"strategy": "None"}
    assert made["metadata"]["generation"] == 1
    found = await seen(api, f"{CRDS}/{NAME}", has_condition("Established"), "established")
    accepted, established = found["status"]["conditions"]
    assert (accepted["type"], accepted["reason"]) == ("NamesAccepted", "NoConflicts")
    assert (established["type"], established["reason"]) == ("Established", "InitialNamesAccepted")
    assert found["status"]["acceptedNames"] == found["spec"]["names"]
    # The very next request is served, in discovery and in OpenAPI too.
    assert (await api.call("POST", BOATS, boat("a")))["metadata"]["name"] == "a"
    listed = (await api.call("GET", f"/apis/{GROUP}/v1"))["resources"]
    assert [each["name"] for each in listed] == ["boats", "boats/scale", "boats/status"]
    assert listed[0]["shortNames"] == ["bo"] and listed[0]["categories"] == ["fleet"]
    schemas = (await api.call("GET", f"/openapi/v3/apis/{GROUP}/v1"))["components"]["schemas"]
    assert schemas["com.example.shop.v1.Boat"]["properties"]["spec"]["required"] == ["name"]
    swagger = (await api.call("GET", "/openapi/v2"))["definitions"]
    cargo = swagger["com.example.shop.v1.Boat"]["properties"]["spec"]["properties"]["cargo"]
    assert "type" not in cargo, "kubectl cannot cope with an object of unknown fields"


async def test_an_invalid_definition_is_refused(api: Harness) -> None:
    schema = {"type": "object", "properties": {"spec": {}}}
    bad = definition(version(schema={"openAPIV3Schema": schema}, selectableFields=[]))
    assert await refused(api, "POST", CRDS, bad, 422) == (
        f'CustomResourceDefinition.apiextensions.k8s.io "{NAME}" is invalid: '
        "spec.validation.openAPIV3Schema.properties[spec].type: Required value: "
        "must not be empty for specified object fields"
    )


async def test_names_conflict_until_they_are_free(api: Harness) -> None:
    await establish(api, definition())
    other = definition(plural="ships", kind="Boat")
    await api.call("POST", CRDS, other)
    found = await seen(
        api, f"{CRDS}/ships.{GROUP}", has_condition("NamesAccepted", "False"), "refused"
    )
    condition = found["status"]["conditions"][0]
    assert (condition["reason"], condition["message"]) == (
        "ListKindConflict",
        '"BoatList" is already in use',
    )
    assert has_condition("Established", "False")(found)
    assert (await api.send("GET", f"/apis/{GROUP}/v1/ships")).status == 404
    await api.call("DELETE", f"{CRDS}/{NAME}")
    await seen(api, f"{CRDS}/ships.{GROUP}", has_condition("Established"), "free again")
    await api.call("GET", f"/apis/{GROUP}/v1/ships")


async def test_a_status_that_others_spoilt_is_written_again(boats: Harness) -> None:
    for names in ({}, {"plural": "boats"}, None):
        patch = {"status": {"acceptedNames": names, "conditions": []}}
        await boats.call(
            "PATCH", f"{CRDS}/{NAME}/status", patch, content="application/merge-patch+json"
        )
        whole = {"status": {"acceptedNames": {"kind": None, "plural": None}}}
        await boats.call(
            "PATCH", f"{CRDS}/{NAME}/status", whole, content="application/merge-patch+json"
        )
        found = await seen(
            boats, f"{CRDS}/{NAME}", has_condition("Established"), "established again"
        )
        assert found["status"]["acceptedNames"] == found["spec"]["names"]
    assert (await boats.call("GET", BOATS))["items"] == []


async def test_a_protected_group_shows_its_approval(api: Harness) -> None:
    found = definition()
    found["spec"]["group"] = "x.k8s.io"
    found["metadata"] = {
        "name": "boats.x.k8s.io",
        "annotations": {"api-approved.kubernetes.io": "unapproved, experimental-only"},
    }
    await api.call("POST", CRDS, found)
    kind = "KubernetesAPIApprovalPolicyConformant"
    made = await seen(api, f"{CRDS}/boats.x.k8s.io", has_condition(kind, "False"), "judged")
    assert made["status"]["conditions"][-1]["reason"] == "UnapprovedAnnotation"


async def test_unknown_formats_are_warned_of(api: Harness) -> None:
    schema = {"type": "object", "properties": {"x": {**STRING, "format": "nonsense"}}}
    response = await api.send("POST", CRDS, definition(version(schema={"openAPIV3Schema": schema}, selectableFields=[], subresources={})))  # fmt: skip
    assert response.headers["Warning"] == '299 - "unrecognized format \\"nonsense\\""'


# --- objects ------------------------------------------------------------------------------------------


async def test_defaults_status_and_generation(boats: Harness) -> None:
    made = await boats.call("POST", BOATS, {**boat("a"), "status": {"phase": "x"}})
    assert made["spec"] == {"name": "a", "crew": 1} and "status" not in made
    assert made["metadata"]["generation"] == 1
    path = f"{BOATS}/a"
    changed = await boats.patch("merge", path, {"spec": {"crew": 2}, "status": {"phase": "x"}})
    assert changed["metadata"]["generation"] == 2 and "status" not in changed
    told = await boats.patch("merge", f"{path}/status", {
        "spec": {"crew": 9}, "status": {"phase": "afloat"}, "metadata": {"labels": {"a": "b"}},
    })  # fmt: skip
    assert told["status"] == {"phase": "afloat"} and told["spec"]["crew"] == 2
    assert told["metadata"]["generation"] == 2 and "labels" not in told["metadata"]
    replaced = await boats.call("PUT", path, {**changed, "spec": {"name": "a"}, "metadata": {
        "name": "a", "resourceVersion": told["metadata"]["resourceVersion"],
    }})  # fmt: skip
    assert replaced["spec"] == {"name": "a", "crew": 1} and replaced["status"] == {
        "phase": "afloat"
    }
    assert "must be specified for an update" in await refused(boats, "PUT", path, boat("a"), 422)


async def test_validation_in_the_words_of_kubernetes(boats: Harness) -> None:
    message = await refused(boats, "POST", BOATS, boat("a" * 11, crew=11, sail="square"), 422)
    assert message == (
        f'Boat.{GROUP} "aaaaaaaaaaa" is invalid: ['
        "spec.name: Too long: may not be more than 10 bytes, "
        "spec.crew: Invalid value: 11: spec.crew in body should be less than or equal to 10, "
        'spec.sail: Unsupported value: "square": supported values: "lug", "gaff", '
        '<nil>: Invalid value: "null": some validation rules were not checked because the object was invalid; '
        "correct the existing errors to complete validation]"
    )
    await boats.call("POST", BOATS, boat("a"))
    message = await refused(boats, "PATCH", f"{BOATS}/a", {"spec": {"name": "b"}}, 422, content="application/merge-patch+json")  # fmt: skip
    assert message == f'Boat.{GROUP} "a" is invalid: spec.name: Invalid value: name is fixed'
    wrong_kind = {**boat("a"), "kind": "Ship"}
    assert (await boats.send("POST", BOATS, wrong_kind)).status == 400
    message = await refused(
        boats, "POST", BOATS, {**boat("a"), "metadata": {"name": "a", "labels": 1}}, 400
    )
    assert message.startswith(
        'Boat in version "v1" cannot be handled as a Boat: json: cannot unmarshal'
    )


async def test_unknown_fields_by_mode(boats: Harness) -> None:
    odd = boat("a", cargo={"tea": {"chests": 3}}, flag="red")
    odd["metadata"]["colour"] = "blue"
    message = await refused(boats, "POST", f"{BOATS}?fieldValidation=Strict", odd, 400)
    assert message == (
        'Boat in version "v1" cannot be handled as a Boat: strict decoding error: '
        'unknown field "metadata.colour", unknown field "spec.flag"'
    )
    response = await boats.send("POST", f"{BOATS}?fieldValidation=Warn", odd)
    assert response.headers["Warning"].split("\n") == [
        '299 - "unknown field \\"metadata.colour\\""', '299 - "unknown field \\"spec.flag\\""',
    ]  # fmt: skip
    made = orjson.loads(await response.read())
    assert made["spec"] == {"name": "a", "crew": 1, "cargo": {"tea": {"chests": 3}}}
    message = await refused(
        boats, "PATCH", f"{BOATS}/a?fieldValidation=Strict", {"spec": {"flag": "red"}}, 422,
        content="application/merge-patch+json",
    )  # fmt: skip
    assert message.endswith('strict decoding error: unknown field "spec.flag"')
    response = await boats.send("POST", f"{BOATS}?fieldValidation=Ignore", boat("b", flag="red"))
    assert "Warning" not in response.headers
    duplicate = b'{"metadata":{"name":"c"},"spec":{"name":"c","name":"c"}}'
    message = await refused(boats, "POST", f"{BOATS}?fieldValidation=Strict", duplicate, 400)
    assert message.endswith('strict decoding error: duplicate field "spec.name"')


async def test_patches_and_media_types(boats: Harness) -> None:
    await boats.call("POST", BOATS, boat("a"))
    found = await boats.patch(
        "json", f"{BOATS}/a", [{"op": "replace", "path": "/spec/crew", "value": 3}]
    )
    assert found["spec"]["crew"] == 3
    message = await refused(boats, "PATCH", f"{BOATS}/a", {}, 415, content="application/strategic-merge-patch+json")  # fmt: skip
    assert message == (
        "the body of the request was in an unknown format - accepted media types include: "
        "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
    )
    one = f"/apis/{GROUP}/v1/namespaces/{{namespace}}/boats/{{name}}"
    document = await boats.call("GET", f"/openapi/v3/apis/{GROUP}/v1")
    assert list(document["paths"][one]["patch"]["requestBody"]["content"]) == [
        "application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"
    ]  # fmt: skip
    meta = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
    created = document["components"]["schemas"][meta]["properties"]["creationTimestamp"]
    assert created["description"].startswith("CreationTimestamp is a timestamp")
    shown = document["components"]["schemas"][f"{'.'.join(reversed(GROUP.split('.')))}.v1.Boat"]
    assert shown["properties"]["apiVersion"]["description"].startswith("APIVersion defines")
    response = await boats.send("POST", BOATS, b"x", content="application/vnd.kubernetes.protobuf")
    assert response.status == 415
    yaml = b"metadata: {name: y}\nspec: {name: y}\n"
    assert (await boats.call("POST", BOATS, yaml, content="application/yaml"))["kind"] == "Boat"
    applied = await boats.call("PATCH", f"{BOATS}/z?fieldManager=m", boat("z"), 201, content="application/apply-patch+yaml")  # fmt: skip
    assert applied["metadata"]["managedFields"][0]["manager"] == "m"


async def test_tables_lists_and_selectors(boats: Harness) -> None:
    for name, sail in (("a", "lug"), ("b", "gaff"), ("c", "lug")):
        await boats.call("POST", BOATS, boat(name, sail=sail, cargo={"n": 1}))
    table = await boats.call("GET", BOATS, accept=TABLE)
    assert [(c["name"], c["type"], c["priority"]) for c in table["columnDefinitions"]] == [
        ("Name", "string", 0), ("Crew", "integer", 0), ("Cargo", "string", 1),
    ]  # fmt: skip
    assert table["rows"][0]["cells"] == ["a", 1, '{"n":1}']
    listed = await boats.call("GET", f"{BOATS}?fieldSelector=spec.sail=lug")
    assert listed["kind"] == "BoatList" and [i["metadata"]["name"] for i in listed["items"]] == [
        "a",
        "c",
    ]
    partial = await boats.call("GET", f"{BOATS}/a", accept=PARTIAL)
    assert partial["kind"] == "PartialObjectMetadata" and "spec" not in partial
    message = await refused(boats, "GET", f"{BOATS}?fieldSelector=spec.crew=1", None, 400)
    assert "field label not supported: spec.crew" in message
    everywhere = await boats.call("GET", f"/apis/{GROUP}/v1/boats?limit=2")
    assert len(everywhere["items"]) == 2 and everywhere["metadata"]["remainingItemCount"] == 1
    assert (await boats.send("GET", f"/apis/{GROUP}/v1/boats/a")).status in (404, 405)


async def test_scale(boats: Harness) -> None:
    await boats.call("POST", BOATS, boat("a", crew=2))
    await boats.patch("merge", f"{BOATS}/a/status", {"status": {"crew": 1, "selector": "app=boat"}})
    path = f"{BOATS}/a/scale"
    found = await boats.call("GET", path)
    assert (found["kind"], found["spec"], found["status"]) == (
        "Scale", {"replicas": 2}, {"replicas": 1, "selector": "app=boat"},
    )  # fmt: skip
    found["spec"]["replicas"] = 4
    assert (await boats.call("PUT", path, found))["spec"] == {"replicas": 4}
    assert (await boats.call("PUT", path, found, 409))["reason"] == "Conflict"
    assert (await boats.patch("merge", path, {"spec": {"replicas": 5}}))["spec"] == {"replicas": 5}
    now = await boats.call("GET", f"{BOATS}/a")
    assert now["spec"]["crew"] == 5 and now["metadata"]["generation"] == 3
    message = await refused(boats, "PATCH", path, {"spec": {"replicas": 50}}, 422, content="application/merge-patch+json")  # fmt: skip
    assert "spec.crew in body should be less than or equal to 10" in message


async def test_watches_with_bookmarks(boats: Harness) -> None:
    await boats.call("POST", BOATS, boat("a"))
    stream = boats.watch(
        f"{BOATS}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    )
    assert (await anext(stream))["object"]["metadata"]["name"] == "a"
    bookmark = await anext(stream)
    assert bookmark["type"] == "BOOKMARK" and bookmark["object"]["kind"] == "Boat"
    await boats.patch("merge", f"{BOATS}/a", {"spec": {"crew": 5}})
    changed = await anext(stream)
    assert (changed["type"], changed["object"]["spec"]["crew"]) == ("MODIFIED", 5)
    await boats.call("DELETE", f"{BOATS}/a")
    assert (await anext(stream))["type"] == "DELETED"


async def test_finalizer_names_are_warned_of(boats: Harness) -> None:
    odd = boat("a")
    odd["metadata"]["finalizers"] = ["example.com/ok", "example.com.bare"]
    response = await boats.send("POST", BOATS, odd)
    assert response.status == 201, response.body
    assert (
        "prefer a domain-qualified finalizer name including a path (/)"
        in response.headers["Warning"]
    )
