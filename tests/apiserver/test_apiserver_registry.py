"""Writes: what the generic verbs promise, for any kind."""

from __future__ import annotations

import asyncio
import re

import pytest
from apiserver_harness import DEPLOYMENTS, MAPS, PODS, Harness, api, config_map, deployment, pod

from sampan.apiserver import registry

__all__ = ["api"]


async def make_default_account(api: Harness) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
    await api.call("POST", "/api/v1/namespaces/default/serviceaccounts", account)


async def test_create_fills_metadata(api: Harness) -> None:
    made = await api.call("POST", MAPS, config_map("one"), 201)
    metadata = made["metadata"]
    assert metadata["namespace"] == "default"
    assert re.fullmatch(
        r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", metadata["uid"]
    )
    assert metadata["resourceVersion"] == str(api.store.revision)
    assert await api.call("GET", f"{MAPS}/one") == made
    again = await api.call("POST", MAPS, config_map("one"), 409)
    assert again["message"] == 'configmaps "one" already exists'


async def test_generate_name(api: Harness) -> None:
    body = {**config_map(""), "metadata": {"generateName": "x-"}}
    names = {(await api.call("POST", MAPS, body))["metadata"]["name"] for _ in range(5)}
    assert len(names) == 5
    assert all(re.fullmatch(r"x-[bcdfghjklmnpqrstvwxz2456789]{5}", name) for name in names)


async def test_a_namespace_with_a_generated_name_is_labelled_with_it(api: Harness) -> None:
    body = {"metadata": {"generateName": "x-", "labels": {"a": "b"}}}
    made = (await api.call("POST", "/api/v1/namespaces", body))["metadata"]
    assert made["labels"] == {"a": "b", "kubernetes.io/metadata.name": made["name"]}


async def test_generated_names_that_are_taken(
    api: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = iter(["x-a", "x-a", "x-a", "x-b", *["x-b"] * 8])
    monkeypatch.setattr(registry, "generated_name", lambda base: next(tries))
    body = {**config_map(""), "metadata": {"generateName": "x-"}}
    made = [(await api.call("POST", MAPS, body))["metadata"]["name"] for _ in range(2)]
    assert made == ["x-a", "x-b"]  # another was tried
    refused = await api.call("POST", MAPS, body, 409)
    assert refused["reason"] == "AlreadyExists"
    assert refused["message"] == (
        'configmaps "x-b" already exists, the server was not able to generate a unique name for the object'
    )
    assert refused["details"]["retryAfterSeconds"] == 1


async def test_missing_namespace_and_protected_namespace(api: Harness) -> None:
    missing = await api.call("POST", "/api/v1/namespaces/none/configmaps", config_map("a"), 404)
    assert missing["message"] == 'namespaces "none" not found'
    kept = await api.call("DELETE", "/api/v1/namespaces/default", status=403)
    assert "this namespace may not be deleted" in kept["message"]


async def test_update_conflicts_on_an_old_version(api: Harness) -> None:
    made = await api.call("POST", DEPLOYMENTS, deployment("web"))
    made["spec"]["replicas"] = 2
    new = await api.call("PUT", f"{DEPLOYMENTS}/web", made)
    assert new["metadata"]["generation"] == 2
    error = await api.call("PUT", f"{DEPLOYMENTS}/web", made, 409)
    assert error["message"] == (
        'Operation cannot be fulfilled on deployments.apps "web": the object has been modified; please apply your '
        "changes to the latest version and try again"
    )


async def test_update_that_changes_nothing_writes_nothing(api: Harness) -> None:
    made = await api.call("POST", DEPLOYMENTS, deployment("web"))
    before = api.store.revision
    assert await api.call("PUT", f"{DEPLOYMENTS}/web", made) == made
    assert api.store.revision == before


async def test_status_is_isolated(api: Harness) -> None:
    made = await api.call("POST", DEPLOYMENTS, {**deployment("web"), "status": {"replicas": 7}})
    assert made["status"] == {}
    made["spec"]["replicas"], made["status"] = 5, {"replicas": 3}
    new = await api.call("PUT", f"{DEPLOYMENTS}/web/status", made)
    assert new["status"]["replicas"] == 3
    assert new["spec"]["replicas"] == 1
    assert new["metadata"]["generation"] == 1
    new["spec"]["replicas"], new["status"] = 6, {}
    last = await api.call("PUT", f"{DEPLOYMENTS}/web", new)
    assert (last["spec"]["replicas"], last["status"]["replicas"]) == (6, 3)


async def test_scale(api: Harness) -> None:
    await api.call("POST", DEPLOYMENTS, deployment("web"))
    scale = await api.call("GET", f"{DEPLOYMENTS}/web/scale")
    assert (scale["kind"], scale["spec"]["replicas"], scale["status"]["selector"]) == (
        "Scale",
        1,
        "app=web",
    )
    scale["spec"]["replicas"] = 4
    await api.call("PUT", f"{DEPLOYMENTS}/web/scale", scale)
    await api.patch("merge", f"{DEPLOYMENTS}/web/scale", {"spec": {"replicas": 5}})
    found = await api.call("GET", f"{DEPLOYMENTS}/web")
    assert (found["spec"]["replicas"], found["metadata"]["generation"]) == (5, 3)
    await api.call("PUT", f"{DEPLOYMENTS}/web/scale", scale, 409)


async def test_patches(api: Harness) -> None:
    await api.call("POST", DEPLOYMENTS, deployment("web"))
    path = f"{DEPLOYMENTS}/web"
    await api.patch("json", path, [{"op": "replace", "path": "/spec/replicas", "value": 3}])
    await api.patch("merge", path, {"metadata": {"labels": {"a": "b"}}})
    container = {"name": "second", "image": "nginx"}
    made = await api.patch(
        "strategic", path, {"spec": {"template": {"spec": {"containers": [container]}}}}
    )
    assert [each["name"] for each in made["spec"]["template"]["spec"]["containers"]] == [
        "second",
        "c",
    ]
    assert (made["spec"]["replicas"], made["metadata"]["labels"]) == (3, {"a": "b"})
    refused = await api.call("PATCH", path, {}, 415, content="application/apply-patch+cbor")
    assert refused["message"].endswith("application/apply-patch+yaml")
    await api.call("PATCH", path, b"{", 400, content="application/merge-patch+json")
    await api.patch("json", path, [{"op": "remove", "path": "/spec/nothing"}], 422)


async def test_two_writers_exactly_one_wins(api: Harness) -> None:
    made = await api.call("POST", MAPS, config_map("one"))
    for round_ in range(10):
        bodies = [{**made, "data": {"writer": f"{round_}-{index}"}} for index in range(2)]
        answers = await asyncio.gather(*(api.send("PUT", f"{MAPS}/one", body) for body in bodies))
        assert sorted(each.status for each in answers) == [200, 409]
        made = await api.call("GET", f"{MAPS}/one")


async def test_patches_without_a_version_all_apply(api: Harness) -> None:
    await api.call("POST", MAPS, config_map("one"))
    await asyncio.gather(
        *(api.patch("merge", f"{MAPS}/one", {"data": {f"key{index}": "v"}}) for index in range(5))
    )
    found = await api.call("GET", f"{MAPS}/one")
    assert {f"key{index}" for index in range(5)} <= set(found["data"])


async def test_finalizers_hold_an_object(api: Harness) -> None:
    body = config_map("held")
    body["metadata"]["finalizers"] = ["example.com/hold"]
    await api.call("POST", MAPS, body)
    held = await api.call("DELETE", f"{MAPS}/held")
    assert held["metadata"]["deletionTimestamp"]
    await api.patch("merge", f"{MAPS}/held", {"metadata": {"finalizers": None}})
    await api.call("GET", f"{MAPS}/held", status=404)


async def test_delete_answers_with_a_status(api: Harness) -> None:
    made = await api.call("POST", DEPLOYMENTS, deployment("web"))
    answer = await api.call("DELETE", f"{DEPLOYMENTS}/web")
    assert answer["status"] == "Success"
    assert answer["details"] == {
        "name": "web", "group": "apps", "kind": "deployments", "uid": made["metadata"]["uid"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("policy", "finalizer"), [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")]
)
async def test_propagation_becomes_a_finalizer(api: Harness, policy: str, finalizer: str) -> None:
    await api.call("POST", DEPLOYMENTS, deployment("web"))
    held = await api.call("DELETE", f"{DEPLOYMENTS}/web", {"propagationPolicy": policy})
    assert held["metadata"]["finalizers"] == [finalizer]


async def test_delete_preconditions(api: Harness) -> None:
    made = await api.call("POST", MAPS, config_map("one"))
    await api.call("DELETE", f"{MAPS}/one", {"preconditions": {"uid": "other"}}, 409)
    await api.call("DELETE", f"{MAPS}/one", {"preconditions": {"resourceVersion": "1"}}, 409)
    await api.call("DELETE", f"{MAPS}/one", {"preconditions": {"uid": made["metadata"]["uid"]}})


async def test_dry_run_writes_nothing(api: Harness) -> None:
    before = api.store.revision
    await api.call("POST", f"{MAPS}?dryRun=All", config_map("one"), 201)
    await api.call("GET", f"{MAPS}/one", status=404)
    await api.call("POST", f"{MAPS}?dryRun=Some", config_map("one"), 422)
    assert api.store.revision == before


async def test_delete_collection_by_label(api: Harness) -> None:
    for index in range(4):
        body = config_map(f"m{index}")
        body["metadata"]["labels"] = {"odd": str(index % 2)}
        await api.call("POST", MAPS, body)
    gone = await api.call("DELETE", f"{MAPS}?labelSelector=odd=1")
    assert [each["metadata"]["name"] for each in gone["items"]] == ["m1", "m3"]
    left = await api.call("GET", MAPS)
    assert [each["metadata"]["name"] for each in left["items"]] == ["m0", "m2"]


async def test_pod_gets_token_volume_tolerations_and_priority(api: Harness) -> None:
    refused = await api.call("POST", PODS, pod("p"), 403)
    assert "error looking up service account default/default" in refused["message"]
    await make_default_account(api)
    made = await api.call("POST", PODS, pod("p", priorityClassName="system-node-critical"))
    spec = made["spec"]
    assert spec["priority"] == 2000001000
    (volume,) = spec["volumes"]
    assert re.fullmatch(r"kube-api-access-[a-z0-9]{5}", volume["name"])
    assert spec["containers"][0]["volumeMounts"][0]["name"] == volume["name"]
    assert {each["key"] for each in spec["tolerations"]} == {
        "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable",
    }  # fmt: skip
    assert made["status"] == {"phase": "Pending", "qosClass": "BestEffort"}


async def test_bind_once_then_delete_with_grace(api: Harness) -> None:
    await make_default_account(api)
    await api.call("POST", PODS, pod("p"))
    binding = {"target": {"kind": "Node", "name": "n1"}, "metadata": {"name": "p"}}
    await api.call("POST", f"{PODS}/p/binding", binding, 201)
    again = await api.call("POST", f"{PODS}/p/binding", binding, 409)
    assert 'already assigned to node "n1"' in again["message"]
    leaving = await api.call("DELETE", f"{PODS}/p")
    assert leaving["metadata"]["deletionGracePeriodSeconds"] == 30
    assert (await api.call("GET", f"{PODS}/p"))["spec"]["nodeName"] == "n1"
    await api.call("DELETE", f"{PODS}/p?gracePeriodSeconds=0")
    await api.call("GET", f"{PODS}/p", status=404)


async def test_eviction_honours_the_budget(api: Harness) -> None:
    await make_default_account(api)
    body = pod("p")
    body["metadata"]["labels"] = {"a": "b"}
    await api.call("POST", PODS, body)
    running = {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}
    await api.patch("merge", f"{PODS}/p/status", running)
    budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
    budget = {
        "metadata": {"name": "b"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}},
    }
    await api.call("POST", budgets, budget)
    status = {
        "observedGeneration": 1,
        "disruptionsAllowed": 0,
        "desiredHealthy": 1,
        "currentHealthy": 1,
        "expectedPods": 1,
    }
    await api.patch("merge", f"{budgets}/b/status", {"status": status})
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}}
    refused = await api.call("POST", f"{PODS}/p/eviction", eviction, 429)
    assert refused["details"]["causes"][0]["reason"] == "DisruptionBudget"
    await api.patch("merge", f"{budgets}/b/status", {"status": {"disruptionsAllowed": 1}})
    await api.call("POST", f"{PODS}/p/eviction", eviction, 201)
    assert (await api.call("GET", f"{budgets}/b"))["status"]["disruptionsAllowed"] == 0


async def test_namespace_is_finalized(api: Harness) -> None:
    await api.call("POST", "/api/v1/namespaces", {"metadata": {"name": "x"}})
    going = await api.call("DELETE", "/api/v1/namespaces/x")
    assert going["status"]["phase"] == "Terminating"
    refused = await api.call("POST", "/api/v1/namespaces/x/configmaps", config_map("a"), 403)
    assert refused["details"]["causes"][0]["reason"] == "NamespaceTerminating"
    going["spec"] = {}
    await api.call("PUT", "/api/v1/namespaces/x/finalize", going)
    await api.call("GET", "/api/v1/namespaces/x", status=404)


async def test_service_addresses_are_unique_and_given_back(api: Harness) -> None:
    services = "/api/v1/namespaces/default/services"

    def service(name: str, **spec: object) -> dict[str, object]:
        return {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], **spec}}

    made = await api.call("POST", services, service("a", type="NodePort"))
    address, port = made["spec"]["clusterIP"], made["spec"]["ports"][0]["nodePort"]
    assert address.startswith("10.43.") and 30000 <= port <= 32767
    taken = await api.call("POST", services, service("b", clusterIP=address), 422)
    assert "provided IP is already allocated" in taken["message"]
    ports = [{"port": 80, "nodePort": port}]
    await api.call(
        "POST", services, {**service("c"), "spec": {"type": "NodePort", "ports": ports}}, 422
    )
    await api.patch("merge", f"{services}/a", {"spec": {"selector": {"x": "y"}}})
    assert (await api.call("GET", f"{services}/a"))["spec"]["clusterIP"] == address
    await api.call("DELETE", f"{services}/a")
    await api.call("POST", services, service("b", clusterIP=address), 201)


async def test_lease_is_made_by_put(api: Harness) -> None:
    path = "/apis/coordination.k8s.io/v1/namespaces/default/leases/l"
    body = {"metadata": {"name": "l"}, "spec": {"holderIdentity": "me"}}
    made = await api.call("PUT", path, body, 201)
    made["spec"]["holderIdentity"] = "you"
    await api.call("PUT", path, made, 200)


async def test_versions_of_one_storage(api: Harness) -> None:
    scalers = "/apis/autoscaling/{}/namespaces/default/horizontalpodautoscalers"
    target = {"kind": "Deployment", "name": "web", "apiVersion": "apps/v1"}
    spec = {"maxReplicas": 3, "scaleTargetRef": target, "targetCPUUtilizationPercentage": 70}
    await api.call("POST", scalers.format("v1"), {"metadata": {"name": "h"}, "spec": spec})
    second = await api.call("GET", scalers.format("v2") + "/h")
    assert second["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"] == 70
    first = await api.call("GET", scalers.format("v1") + "/h")
    assert first["spec"]["targetCPUUtilizationPercentage"] == 70
    assert first["apiVersion"] == "autoscaling/v1"


GARBAGE: list[tuple[str, str, bytes | None, str, int]] = [
    ("POST", MAPS, b"", "application/json", 400),
    ("POST", MAPS, b"[]", "application/json", 400),
    ("POST", MAPS, b"null", "application/json", 400),
    ("POST", MAPS, b"\xff\xfe", "application/json", 400),
    ("POST", MAPS, b'{"metadata":[]}', "application/json", 400),
    ("POST", MAPS, b'{"metadata":{"name":7}}', "application/json", 400),
    ("POST", MAPS, b"{}", "application/json", 422),
    ("POST", MAPS, b'{"kind":"Pod"}', "application/json", 400),
    ("POST", MAPS, b"a: [", "application/yaml", 400),
    ("POST", MAPS, b"k8s\x00\xff\xff\xff", "application/vnd.kubernetes.protobuf", 415),
    ("POST", MAPS, b"k8s\x00", "application/vnd.kubernetes.protobuf", 422),
    ("POST", MAPS, b"x", "text/plain", 415),
    ("POST", "/api/v1/configmaps", b"{}", "application/json", 405),
    ("POST", f"{MAPS}/x", b"{}", "application/json", 405),
    ("PUT", MAPS, b"{}", "application/json", 405),
    ("PUT", f"{MAPS}/x", b'{"metadata":{"name":"y"}}', "application/json", 400),
    ("PUT", f"{MAPS}/x", b'{"metadata":{"name":"x"}}', "application/json", 404),
    ("PATCH", f"{MAPS}/x", b"[1", "application/json-patch+json", 400),
    ("DELETE", f"{MAPS}/x", b"7", "application/json", 400),
    ("DELETE", f"{MAPS}/x", b'{"gracePeriodSeconds":"a"}', "application/json", 400),
    ("DELETE", f"{MAPS}/x", b'{"propagationPolicy":"Up"}', "application/json", 422),
    ("GET", f"{MAPS}?limit=x", None, "", 400),
    ("GET", f"{MAPS}?resourceVersion=x", None, "", 400),
    ("GET", f"{MAPS}?continue=x", None, "", 400),
    ("GET", f"{MAPS}?labelSelector=a b", None, "", 400),
    ("GET", f"{MAPS}?fieldSelector=spec.x=1", None, "", 400),
    ("GET", f"{MAPS}?resourceVersionMatch=Exact", None, "", 422),
    ("GET", "/apis/none/v1/things", None, "", 404),
    ("GET", "/api/v1/namespaces/default/configmaps/x/none", None, "", 404),
    ("GET", "/nowhere", None, "", 404),
    ("TRACE", MAPS, None, "", 405),
]


async def test_garbage_gets_a_status(api: Harness) -> None:
    for method, path, body, content, status in GARBAGE:
        answer = await api.call(method, path, body, status, content=content)
        assert (answer["kind"], answer["status"], answer["code"]) == ("Status", "Failure", status)
        assert answer["message"], (method, path)


async def test_only_protobuf_is_not_acceptable(api: Harness) -> None:
    await api.call("GET", MAPS, status=406, accept="application/vnd.kubernetes.protobuf")
    await api.call(
        "GET", MAPS, status=200, accept="application/vnd.kubernetes.protobuf,application/json"
    )
