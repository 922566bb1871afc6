"""Server-side apply and managed fields through the API: who may, who owns, what is refused and in which words."""

from __future__ import annotations

import asyncio
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from apiserver_harness import (
    ADMIN,
    DEPLOYMENTS,
    MAPS,
    PODS,
    Harness,
    api,
    config_map,
    deployment,
    open_server,
    pod,
    service_account,
)
from crd_harness import BOATS
from test_apiserver_crd_conversion import Webhook, boats, webhook

from sampan.client.transport import User
from sampan.kube.apply.last_applied import ANNOTATION

__all__ = ["api", "boats", "webhook"]

Object = dict[str, Any]

WEB = f"{DEPLOYMENTS}/web"
MAP = f"{MAPS}/m"
REPLICAS = {"f:spec": {"f:replicas": {}}}
SCALERS = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers"


def managers(obj: Object) -> list[tuple[str, ...]]:
    """(manager, operation, version[, subresource]) of each entry, by name: the entries stand in order of time."""
    found = []
    for entry in obj["metadata"].get("managedFields") or ():
        names = (entry["manager"], entry["operation"], entry["apiVersion"])
        found.append((*names, entry["subresource"]) if "subresource" in entry else names)
    return sorted(found)


def owned(obj: Object, manager: str) -> Any:
    (found,) = (
        entry["fieldsV1"]
        for entry in obj["metadata"]["managedFields"]
        if entry["manager"] == manager
    )
    return found


def web(**spec: Any) -> Object:
    """A Deployment's configuration as someone applies it, with only what `spec` says beside what it must have."""
    found = deployment("web")
    del found["spec"]["replicas"]
    found["spec"].update(spec)
    return found


def partial(
    kind: str = "Deployment", version: str = "apps/v1", name: str = "web", **rest: Any
) -> Object:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **rest}


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


async def test_status_is_applied_at_its_own_path(api: Harness) -> None:
    await api.apply(WEB, {**web(), "status": {"replicas": 9}}, status=201)
    assert (await api.call("GET", WEB))["status"].get("replicas", 0) == 0
    config = partial(status={"replicas": 2}, spec={"paused": True})
    applied = await api.apply(f"{WEB}/status", config, "reporter")
    assert applied["status"]["replicas"] == 2 and "paused" not in applied["spec"]
    assert ("reporter", "Apply", "apps/v1", "status") in managers(applied)
    assert owned(applied, "reporter") == {"f:status": {"f:replicas": {}}}
    refused = await api.apply(f"{WEB}/status", partial(status={"replicas": 3}), "b", 409)
    assert (
        'conflict with "reporter" with subresource "status": .status.replicas' in refused["message"]
    )
    await api.apply(f"{DEPLOYMENTS}/none/status", partial(name="none"), status=404)


async def test_replicas_change_owners_through_scale(api: Harness) -> None:
    """The steps of Kubernetes' own scale test (test/integration/apiserver/apply/scale_test.go)."""

    def owners(obj: Object) -> set[str]:
        return {
            entry["manager"]
            for entry in obj["metadata"]["managedFields"]
            if "f:replicas" in entry["fieldsV1"].get("f:spec", {})
        }

    def scale(replicas: int) -> Object:
        metadata = {"name": "web", "namespace": "default"}
        spec = {"replicas": replicas}
        return {"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec}

    path = f"{WEB}/scale"
    await api.apply(WEB, web(replicas=1), "apply_test", 201)
    merge = "application/merge-patch+json"
    patch = {"spec": {"replicas": 5}}
    await api.call("PATCH", f"{path}?fieldManager=scale_test", patch, content=merge)
    obj = await api.call("GET", WEB)
    assert obj["spec"]["replicas"] == 5 and owners(obj) == {"scale_test"}
    assert ("scale_test", "Update", "apps/v1", "scale") in managers(obj)
    await api.apply(WEB, web(replicas=1), "apply_test", 409)
    obj = await api.apply(WEB, web(replicas=1), "apply_test", force=True)
    assert owners(obj) == {"apply_test"}
    refused = await api.apply(path, scale(17), "apply_scale", 409)
    assert '"apply_test"' in refused["message"] and ".spec.replicas" in refused["message"]
    shown = await api.apply(path, scale(17), "apply_scale", force=True)
    assert shown["spec"] == {"replicas": 17} and "managedFields" not in shown["metadata"]
    assert owners(await api.call("GET", WEB)) == {"apply_scale"}
    await api.call("PUT", f"{path}?fieldManager=replace_test", scale(7))
    assert owners(await api.call("GET", WEB)) == {"replace_test"}
    await api.apply(path, scale(7), "co_owner")
    assert owners(await api.call("GET", WEB)) == {"replace_test", "co_owner"}
    await api.call("PATCH", f"{path}?fieldManager=scale_test", patch, content=merge)
    assert owners(await api.call("GET", WEB)) == {"scale_test"}
    status = {"status": {"replicas": 42}}
    await api.call("PATCH", f"{path}?fieldManager=other", status, content=merge)
    obj = await api.call("GET", WEB)
    assert obj["spec"]["replicas"] == 5 and owners(obj) == {"scale_test"}
    await api.apply(path, {**scale(1), "kind": "Skale"}, status=400)


async def test_managers_follow_versions(api: Harness) -> None:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
    v1 = partial(
        "HorizontalPodAutoscaler",
        "autoscaling/v1",
        "h",
        spec={"scaleTargetRef": target, "maxReplicas": 3, "targetCPUUtilizationPercentage": 50},
    )
    await api.apply(f"{SCALERS}/h", v1, "old", 201)
    newer = f"{SCALERS.replace('v1', 'v2', 1)}/h"
    assert newer.startswith("/apis/autoscaling/v2/")
    v2 = partial("HorizontalPodAutoscaler", "autoscaling/v2", "h", spec={"maxReplicas": 5})
    refused = await api.apply(newer, v2, "new", 409)
    assert refused["message"].endswith('conflict with "old": .spec.maxReplicas')
    forced = await api.apply(newer, v2, "new", force=True)
    assert managers(forced) == [
        ("new", "Apply", "autoscaling/v2"),
        ("old", "Apply", "autoscaling/v1"),
    ]
    assert "f:maxReplicas" not in owned(forced, "old")["f:spec"]
    # The same applier in the other version: its entry moves along, and what it drops goes.
    moved = partial(
        "HorizontalPodAutoscaler", "autoscaling/v2", "h", spec={"scaleTargetRef": target}
    )
    after = await api.apply(newer, moved, "old")
    assert ("old", "Apply", "autoscaling/v2") in managers(after)
    assert after["spec"]["maxReplicas"] == 5
    one = {**after["metadata"]["managedFields"][0], "apiVersion": "autoscaling/v2beta1"}
    gone = [{**one, "manager": "gone"}, *after["metadata"]["managedFields"]]
    kept = await api.patch("merge", newer, {"metadata": {"managedFields": gone}})
    assert sorted(name for name, *_ in managers(kept)) == ["new", "old"]


async def test_client_side_apply_is_taken_over(api: Harness) -> None:
    last = (
        '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"annotations":{},"name":"m"},'
        '"data":{"a":"1"}}'
    )
    body = config_map("m", a="1")
    body["metadata"]["annotations"] = {ANNOTATION: last}
    await api.call("POST", f"{MAPS}?fieldManager=kubectl-client-side-apply", body)
    config = config_map("m", a="2")
    await api.apply(MAP, config, "somebody", 409)
    taken = await api.apply(MAP, config, "kubectl")
    assert taken["data"] == {"a": "2"}
    kept = taken["metadata"]["annotations"][ANNOTATION]
    assert kept.endswith("\n") and '"data":{"a":"2"}' in kept


async def test_managers_that_a_webhook_broke_are_put_back(api: Harness) -> None:
    changes: list[Any] = [
        [{"manager": "x", "operation": "Own", "apiVersion": "v1"}],
        ["nonsense"],
    ]

    class Broken:
        """Stands where the mutating webhooks do."""

        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        async def create(self, call: Any, obj: Object) -> None:
            await self.inner.create(call, obj)
            obj["metadata"]["managedFields"] = changes.pop()

        async def update(self, call: Any, new: Object, old: Object) -> None:
            await self.inner.update(call, new, old)
            new["metadata"]["managedFields"] = changes.pop()

    api.server.registry.admission = Broken(api.server.registry.admission)  # type: ignore[assignment]
    response = await api.send("POST", f"{MAPS}?fieldManager=me", config_map("m"))
    assert "invalid state after admission" in response.headers["Warning"]
    assert managers(await api.call("GET", MAP)) == [("me", "Update", "v1")]
    again = await api.apply(MAP, config_map("m", more="x"), "other")
    assert {name for name, *_ in managers(again)} == {"me", "other"}


async def test_managers_of_a_custom_resource_follow_its_webhook(
    boats: Harness, webhook: Webhook
) -> None:
    """v1 has `crew`, v1beta1 has `hands`; the webhook knows that they are one field."""

    def said(version: str, **spec: Any) -> Object:
        return partial("Boat", f"shop.example.com/{version}", "b", spec=spec)

    beta = BOATS.replace("/v1/", "/v1beta1/")
    await boats.apply(f"{BOATS}/b", said("v1", name="b", crew=2), "one", 201)
    refused = await boats.apply(f"{beta}/b", said("v1beta1", hands=3), "two", 409)
    assert refused["message"].endswith('conflict with "one": .spec.crew')
    assert webhook.calls > 0
    forced = await boats.apply(f"{beta}/b", said("v1beta1", hands=3), "two", force=True)
    assert owned(forced, "one") == {"f:spec": {"f:name": {}}}
    assert owned(forced, "two") == {"f:spec": {"f:hands": {}}}
    patched = await boats.patch("merge", f"{BOATS}/b?fieldManager=x", {"spec": {"crew": 4}})
    assert "two" not in {name for name, *_ in managers(patched)}
    # Moved to the other version, the applier's entry is still its own to drop.
    await boats.apply(f"{beta}/b", said("v1beta1", name="b", hands=4, rig="gaff"), "one")
    after = await boats.apply(f"{beta}/b", said("v1beta1", name="b", hands=4), "one")
    assert after["spec"] == {"name": "b", "hands": 4, "rig": "lug"}, "dropped, and defaulted"


async def test_items_without_their_keys_are_told_by_validation(api: Harness) -> None:
    await service_account(api)
    body = pod(
        "p", topologySpreadConstraints=[{}], initContainers=[{}], volumes=[{}], tolerations=[{}]
    )
    body["metadata"]["ownerReferences"] = [{}]
    refused = await api.call("POST", PODS, body, 422)
    assert "spec.initContainers[0].name: Required value" in refused["message"]
    assert "metadata.ownerReferences[0].uid" in refused["message"]
    made = await api.call("POST", PODS, pod("p"))
    made["status"]["conditions"] = [{"status": "True"}, {"status": "True"}]
    made["status"]["podIPs"] = [{}, {}]
    response = await api.send("PUT", f"{PODS}/p/status", made)
    assert response.status in (200, 422)


# --- rights, races, others --------------------------------------------------------------------------


async def test_apply_needs_patch_and_create_to_create(tmp_path: Path) -> None:
    harness = await open_server(tmp_path, authorization=True)
    await harness.server.start(serve=False)
    try:
        group = "/apis/rbac.authorization.k8s.io/v1/namespaces/default"
        meta = {"name": "patcher"}
        role = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": meta,
            "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["patch"]}],
        }
        ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "patcher"}
        subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "eve"}
        binding = {**role, "kind": "RoleBinding", "roleRef": ref, "subjects": [subject]}
        del binding["rules"]
        await harness.call("POST", f"{group}/roles", role)
        await harness.call("POST", f"{group}/rolebindings", binding)
        eve = User("eve", ("system:authenticated",))
        refused = await harness.apply(MAP, config_map("m"), status=403, user=eve)
        assert 'cannot create resource "configmaps"' in refused["message"]
        await harness.apply(MAP, config_map("m"), status=201)
        await harness.apply(MAP, config_map("m", more="x"), "eve", 200, user=eve)
        refused = await harness.apply(WEB, web(), status=403, user=eve)
        assert 'cannot patch resource "deployments"' in refused["message"]
    finally:
        await harness.server.close()
        await harness.store.close()


async def test_many_appliers_at_once_lose_nothing(api: Harness) -> None:
    names = [f"w{number}" for number in range(12)]
    await asyncio.gather(*(api.apply(MAP, config_map("m", **{name: name}), name) for name in names))
    found = await api.call("GET", MAP)
    assert found["data"] == {name: name for name in names}
    assert sorted(name for name, *_ in managers(found)) == sorted(names)


async def test_a_binding_and_a_deletion_leave_the_managers_alone(api: Harness) -> None:
    await service_account(api)
    made = await api.call("POST", PODS, pod("p"))
    target = {"apiVersion": "v1", "kind": "Node", "name": "n"}
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": target}
    await api.call("POST", f"{PODS}/p/binding", binding)
    bound = await api.call("GET", f"{PODS}/p")
    assert bound["spec"]["nodeName"] == "n"
    assert bound["metadata"]["managedFields"] == made["metadata"]["managedFields"]
    await api.call("DELETE", f"{PODS}/p")
    left = await api.call("GET", f"{PODS}/p")
    assert left["metadata"]["managedFields"] == made["metadata"]["managedFields"]


async def test_every_kind_can_be_applied_again(api: Harness) -> None:
    """Apply what is there, as it is, for each object that a fresh server has: nobody has a conflict."""
    for row in api.server.table.storages().values():
        path = f"/api{'s/' + row.group if row.group else ''}/{row.version}/{row.name}"
        if "list" not in row.verbs or "patch" not in row.verbs or "endpoint" in row.name:
            continue  # this server has no port, so its own endpoints are not valid
        for item in (await api.call("GET", path))["items"][:3]:
            config = {**item, "apiVersion": row.api_version, "kind": row.kind}
            config["metadata"] = {
                key: value for key, value in item["metadata"].items() if key != "managedFields"
            }
            space = item["metadata"].get("namespace")
            one = path.replace(row.name, f"namespaces/{space}/{row.name}") if space else path
            applied = await api.apply(f"{one}/{item['metadata']['name']}", config, user=ADMIN)
            assert {**applied, "metadata": None} == {**config, "metadata": None}
