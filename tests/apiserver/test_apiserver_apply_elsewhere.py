"""Server-side apply at subresources, across versions, beside webhooks and other writers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from apiserver_harness import (
    ADMIN,
    DEPLOYMENTS,
    MAPS,
    PODS,
    Harness,
    api,
    config_map,
    open_server,
    pod,
    service_account,
)
from apply_harness import (
    MAP,
    SCALERS,
    WEB,
    Object,
    managers,
    owned,
    partial,
    web,
)
from crd_harness import BOATS
from test_apiserver_crd_conversion import Webhook, boats, webhook

from sampan.client.transport import User
from sampan.kube.apply.last_applied import ANNOTATION

__all__ = ["api", "boats", "webhook"]


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
    assert "metadata.ownerReferences.uid" in refused["message"]
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
