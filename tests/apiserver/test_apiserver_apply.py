"""Server-side apply and managed fields through the API: who may, who owns, what is refused and in which words."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

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
from apply_harness import (
    MAP,
    REPLICAS,
    WEB,
    managers,
    owned,
    partial,
    web,
)
from test_apiserver_crd_conversion import boats, webhook

__all__ = ["api", "boats", "webhook"]


# --- every write has managers -----------------------------------------------------------------------


async def test_a_create_is_managed_by_its_maker(api: Harness) -> None:
    made = await api.call("POST", MAPS, config_map("m", a="b"), user_agent="kubectl/v1.36 (linux)")
    (entry,) = made["metadata"]["managedFields"]
    assert entry == {
        "manager": "kubectl",
        "operation": "Update",
        "apiVersion": "v1",
        "time": made["metadata"]["creationTimestamp"],
        "fieldsType": "FieldsV1",
        "fieldsV1": {"f:data": {".": {}, "f:a": {}}},
    }
    assert (await api.call("GET", MAP))["metadata"] == made["metadata"]
    named = await api.call("POST", f"{MAPS}?fieldManager=me", config_map("n"))
    assert managers(named) == [("me", "Update", "v1")]
    unknown = await api.call("POST", MAPS, config_map("o"))
    assert managers(unknown) == [("unknown", "Update", "v1")]
    for name in ("default", "kube-system"):
        space = await api.call("GET", f"/api/v1/namespaces/{name}")
        assert managers(space) == [("kube-apiserver", "Update", "v1")]


async def test_a_pod_is_owned_as_kubernetes_tells_it(api: Harness) -> None:
    await service_account(api)
    made = await api.call("POST", PODS, {**pod("p"), "status": {"phase": "Running"}})
    (entry,) = made["metadata"]["managedFields"]
    container = entry["fieldsV1"]["f:spec"]["f:containers"]['k:{"name":"c"}']
    assert {".", "f:name", "f:image", "f:imagePullPolicy"} <= set(container)
    assert {"f:dnsPolicy", "f:restartPolicy", "f:schedulerName"} <= set(entry["fieldsV1"]["f:spec"])
    assert "f:status" not in entry["fieldsV1"], "a create does not set status"
    assert "f:serviceAccountName" not in entry["fieldsV1"]["f:spec"], "admission owns nothing"


async def test_a_client_that_writes_a_set_again_writes_the_same(api: Harness) -> None:
    """client-go compares FieldsV1 as bytes, and writes maps sorted: upstream's test of /resize does both."""
    await service_account(api)
    made = await api.call("POST", PODS, pod("p"))
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    await api.call("PUT", f"{PODS}/p/status", {**made, "status": status})
    read = await api.call("GET", f"{PODS}/p")
    entries = read["metadata"]["managedFields"]
    assert [e.get("subresource", "") for e in entries] == ["", "status"]
    for entry in entries:
        assert json.dumps(entry["fieldsV1"]) == json.dumps(entry["fieldsV1"], sort_keys=True)


async def test_updates_move_fields_from_owner_to_owner(api: Harness) -> None:
    await api.call("POST", f"{MAPS}?fieldManager=one", config_map("m", a="1", b="1"))
    changed = await api.call("PUT", f"{MAP}?fieldManager=two", config_map("m", a="1", b="2"))
    assert owned(changed, "one") == {"f:data": {".": {}, "f:a": {}}}
    assert owned(changed, "two") == {"f:data": {"f:b": {}}}
    changed = await api.call(
        "PATCH",
        f"{MAP}?fieldManager=three",
        {"data": {"a": None, "c": "3"}, "metadata": {"labels": {"x": "y"}}},
        content="application/merge-patch+json",
    )
    assert owned(changed, "one") == {"f:data": {}}, "the map itself is still its own"
    assert owned(changed, "three") == {
        "f:data": {"f:c": {}},
        "f:metadata": {"f:labels": {".": {}, "f:x": {}}},
    }


async def test_status_is_owned_by_who_reports_it(api: Harness) -> None:
    made = await api.call("POST", f"{DEPLOYMENTS}?fieldManager=me", web())
    made["status"] = {"replicas": 1, "conditions": [{"type": "Available", "status": "True"}]}
    made["metadata"]["labels"] = {"not": "through status"}
    made = await api.call("PUT", f"{WEB}/status?fieldManager=controller", made)
    assert managers(made) == [
        ("controller", "Update", "apps/v1", "status"),
        ("me", "Update", "apps/v1"),
    ]
    assert owned(made, "controller") == {
        "f:status": {
            "f:replicas": {},
            "f:conditions": {
                ".": {},
                'k:{"type":"Available"}': {".": {}, "f:status": {}, "f:type": {}},
            },
        }
    }


async def test_writing_what_is_there_writes_nothing(api: Harness) -> None:
    made = await api.call("POST", f"{MAPS}?fieldManager=one", config_map("m"))
    same = await api.call("PUT", f"{MAP}?fieldManager=two", config_map("m"))
    assert same == made
    again = await api.call("PUT", f"{MAP}?fieldManager=two", made)
    assert again == made


async def test_a_client_may_edit_managers_and_clear_them(api: Harness) -> None:
    made = await api.call("POST", f"{MAPS}?fieldManager=one", config_map("m", a="1"))
    entry = made["metadata"]["managedFields"][0]
    for broken in (
        [{**entry, "operation": "Own"}],
        [{**entry, "fieldsType": ""}],
        [{**entry, "fieldsV1": {"nonsense": {}}}],
    ):
        body = deepcopy(made)
        body["metadata"]["managedFields"] = broken
        kept = await api.call("PUT", f"{MAP}?fieldManager=two", body)
        assert kept["metadata"]["managedFields"] == [entry]
    patch = [{"op": "replace", "path": "/metadata/managedFields/0/manager", "value": "renamed"}]
    renamed = await api.patch("json", MAP, patch)
    assert managers(renamed) == [("renamed", "Update", "v1")]
    long = [{"op": "replace", "path": "/metadata/managedFields/0/manager", "value": "x" * 129}]
    refused = await api.patch("json", MAP, long, 422)
    assert "metadata.managedFields[0].manager" in refused["message"]
    for reset in ([], [{}]):
        await api.patch("merge", MAP, {"metadata": {"managedFields": [{**entry}]}})
        cleared = await api.patch("merge", MAP, {"metadata": {"managedFields": reset}})
        assert "managedFields" not in cleared["metadata"]
        untracked = await api.patch("merge", MAP, {"data": {"z": str(len(reset))}})
        assert "managedFields" not in untracked["metadata"]
        await api.apply(MAP, config_map("m", q="1"))


async def test_a_subresource_cannot_write_managers(api: Harness) -> None:
    made = await api.call("POST", f"{DEPLOYMENTS}?fieldManager=me", web())
    patch = {"metadata": {"managedFields": []}, "status": {"replicas": 2}}
    path = f"{WEB}/status?fieldManager=controller"
    changed = await api.call("PATCH", path, patch, content="application/merge-patch+json")
    assert owned(changed, "me") == owned(made, "me")


# --- apply ------------------------------------------------------------------------------------------


async def test_apply_creates_and_then_merges(api: Harness) -> None:
    made = await api.apply(WEB, web(replicas=1), status=201)
    assert managers(made) == [("me", "Apply", "apps/v1")]
    assert made["spec"]["strategy"]["type"] == "RollingUpdate", "defaults are nobody's"
    assert owned(made, "me")["f:spec"].keys() == {"f:replicas", "f:selector", "f:template"}
    same = await api.apply(WEB, web(replicas=1), status=200)
    assert same == made, "nothing was written, not even a time"
    other = await api.apply(WEB, partial(spec={"paused": True}), "other")
    assert other["spec"]["replicas"] == 1 and other["spec"]["paused"] is True
    assert owned(other, "other") == {"f:spec": {"f:paused": {}}}
    without = await api.apply(WEB, web())
    assert "f:replicas" not in owned(without, "me")["f:spec"]
    assert without["spec"]["replicas"] == 1, "removed, and defaulted again"
    gone = await api.apply(WEB, partial(), "other")
    assert "paused" not in gone["spec"] and managers(gone) == [("me", "Apply", "apps/v1")]


async def test_yaml_is_what_apply_is_named_after(api: Harness) -> None:
    body = b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata:\n  a: |\n    long\n"
    made = await api.apply(MAP, body, status=201)
    assert made["data"] == {"a": "long\n"}


async def test_a_conflict_names_manager_and_field(api: Harness) -> None:
    await api.call("POST", f"{DEPLOYMENTS}?fieldManager=kubectl-client-side-apply", web(replicas=1))
    config = partial(spec={"replicas": 3})
    refused = await api.apply(WEB, config, status=409)
    assert refused["reason"] == "Conflict"
    assert refused["message"] == (
        'Apply failed with 1 conflict: conflict with "kubectl-client-side-apply" '
        "using apps/v1: .spec.replicas"
    )
    assert refused["details"] == {
        "causes": [
            {
                "reason": "FieldManagerConflict",
                "message": 'conflict with "kubectl-client-side-apply" using apps/v1',
                "field": ".spec.replicas",
            }
        ]
    }
    forced = await api.apply(WEB, config, force=True)
    assert forced["spec"]["replicas"] == 3 and owned(forced, "me") == REPLICAS
    assert "f:replicas" not in owned(forced, "kubectl-client-side-apply")["f:spec"]


async def test_items_of_lists_are_shared_by_key(api: Harness) -> None:
    ports = "/api/v1/namespaces/default/services/s"
    tcp = {"name": "dns-tcp", "port": 53, "targetPort": 53}
    udp = {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53}
    service = partial("Service", "v1", "s", spec={"ports": [tcp], "selector": {"a": "b"}})
    await api.apply(ports, service, "one", 201)
    both = await api.apply(ports, partial("Service", "v1", "s", spec={"ports": [udp]}), "two")
    assert [(port["port"], port["protocol"]) for port in both["spec"]["ports"]] == [
        (53, "TCP"),
        (53, "UDP"),
    ]
    assert set(owned(both, "two")["f:spec"]["f:ports"]) == {'k:{"port":53,"protocol":"UDP"}'}
    left = await api.apply(ports, partial("Service", "v1", "s", spec={}), "two")
    assert [port["protocol"] for port in left["spec"]["ports"]] == ["TCP"]
    clash = partial("Service", "v1", "s", spec={"selector": {"c": "d"}})
    refused = await api.apply(ports, clash, "two", 409)
    assert refused["details"]["causes"][0]["field"] == ".spec.selector", (
        "an atomic map is one field"
    )


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (
            web(foo=1),
            400,
            "failed to create typed patch object (/web; apps/v1, Kind=Deployment): "
            ".spec.foo: field not declared in schema",
        ),
        (
            partial(spec={"template": {"spec": {"containers": [{"name": "c"}, {"name": "c"}]}}}),
            400,
            "failed to create typed patch object (/web; apps/v1, Kind=Deployment): "
            '.spec.template.spec.containers: duplicate entries for key [name="c"]',
        ),
        (partial("Pod", "v1"), 400, "invalid object type: /v1, Kind=Pod"),
        ({"metadata": {"name": "web"}}, 400, "invalid object type: /, Kind="),
        (
            {**partial(), "metadata": {"managedFields": []}},
            400,
            "metadata.managedFields must be nil",
        ),
        (
            {**web(), "metadata": {"name": "other"}},
            400,
            "the name of the object (other) does not match the name on the URL (web)",
        ),
        (
            {**web(), "metadata": {"name": "web", "uid": "1"}},
            409,
            'Operation cannot be fulfilled on deployments.apps "web": uid mismatch: the provided '
            "object specified uid 1, and no existing object was found",
        ),
        (b"a: b: c", 400, "error decoding patch: "),
        (b"[]", 400, "error decoding patch: "),
        (partial(spec={"replicas": 1}), 422, "Deployment.apps"),
    ],
)
async def test_what_cannot_be_applied(api: Harness, body: Any, code: int, message: str) -> None:
    refused = await api.apply(WEB, body, status=code)
    assert refused["message"].startswith(message)
    await api.call("GET", WEB, status=404)


async def test_options_of_patches_are_checked(api: Harness) -> None:
    content = "application/apply-patch+yaml"
    refused = await api.call("PATCH", WEB, web(), 422, content=content)
    assert refused["message"] == (
        'PatchOptions.meta.k8s.io "" is invalid: '
        "fieldManager: Required value: is required for apply patch"
    )
    refused = await api.call("PATCH", f"{WEB}?fieldManager=a\x07b", web(), 422, content=content)
    assert "invalid character U+0007 (at position 1)" in refused["message"]
    merge = "application/merge-patch+json"
    refused = await api.call("PATCH", f"{WEB}?force=true", {}, 422, content=merge)
    assert "force: Forbidden: may not be specified for non-apply patch" in refused["message"]
    refused = await api.call("PATCH", WEB, {}, 415, content="application/apply-patch+cbor")
    assert "application/apply-patch+yaml" in refused["message"]


async def test_keys_given_twice_follow_field_validation(api: Harness) -> None:
    body = (
        b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"m"},"data":{"a":"1","a":"2"}}'
    )
    strict = await api.apply(f"{MAP}?fieldValidation=Strict", body, status=400)
    assert strict["message"] == 'error strict decoding patch: duplicate field "data.a"'
    path = f"{MAP}?fieldManager=me&fieldValidation=Warn"
    response = await api.send("PATCH", path, body, content="application/apply-patch+yaml")
    assert response.status == 201 and "duplicate field" in response.headers["Warning"]
    assert (await api.apply(f"{MAP}?fieldValidation=Ignore", body))["data"] == {"a": "2"}


async def test_an_old_resource_version_or_uid_is_refused(api: Harness) -> None:
    made = await api.apply(MAP, config_map("m", a="1"), status=201)
    config = config_map("m", a="2")
    config["metadata"]["resourceVersion"] = "1"
    refused = await api.apply(MAP, config, status=409)
    assert refused["message"].endswith(
        "please apply your changes to the latest version and try again"
    )
    config["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"]
    assert (await api.apply(MAP, config))["data"] == {"a": "2"}
    config = config_map("m", a="3")
    config["metadata"]["uid"] = "another"
    await api.apply(MAP, config, status=409)
    new = config_map("n")
    new["metadata"]["resourceVersion"] = "1"
    await api.apply(f"{MAPS}/n", new, status=201)


async def test_a_dry_run_shows_and_writes_nothing(api: Harness) -> None:
    shown = await api.apply(f"{MAP}?dryRun=All", config_map("m", a="1"), status=201)
    assert managers(shown) == [("me", "Apply", "v1")]
    await api.call("GET", MAP, status=404)
    await api.apply(MAP, config_map("m", a="1"))
    shown = await api.apply(f"{MAP}?dryRun=All", config_map("m", a="2"))
    assert shown["data"] == {"a": "2"}
    assert (await api.call("GET", MAP))["data"] == {"a": "1"}


async def test_an_object_without_managers_gets_them_when_it_is_applied_to(api: Harness) -> None:
    await api.call("POST", MAPS, config_map("m", a="1"))
    await api.patch("merge", MAP, {"metadata": {"managedFields": []}})
    refused = await api.apply(MAP, config_map("m", a="2"), status=409)
    assert 'conflict with "before-first-apply" using v1: .data.a' in refused["message"]
    applied = await api.apply(MAP, config_map("m", a="1", b="2"))
    assert {name for name, *_ in managers(applied)} == {"before-first-apply", "me"}
