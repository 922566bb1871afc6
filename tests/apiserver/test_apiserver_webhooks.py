"""Admission webhooks, asked over HTTPS: who is asked, with what, and what the answers do."""

from __future__ import annotations

import asyncio
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
    deployment,
    pod,
    service_account,
)
from webhook_harness import (
    ALLOW,
    VALIDATING,
    Object,
    hook,
    mutating,
    refused,
    rule,
    validating,
    webhook,
)
from webhook_server import WebhookServer, answering, patch_of

from sampan.client.transport import User

__all__ = ["api", "hook"]


async def test_nothing_is_asked_where_nothing_is_configured(api: Harness) -> None:
    await api.call("POST", MAPS, config_map("a"))
    row = api.server.table.lookup("", "v1", "configmaps")
    assert row is not None
    for plugin in api.server.registry.admission.plugins:
        if type(plugin).__name__.endswith("AdmissionWebhook"):
            assert not plugin.concerns(row, "")


async def test_a_webhook_sees_the_request_and_refuses_it(api: Harness, hook: WebhookServer) -> None:
    status = {"code": 422, "message": "not like this", "reason": "Invalid"}
    hook.handlers["/deny"] = answering({"allowed": False, "status": status})
    await validating(api, webhook(hook, "/deny"))
    user = User("eve", ("devs", "system:authenticated"), "u1", {"k": ["v"]})
    found = await refused(api, "POST", MAPS + "?fieldManager=me", config_map("a"), user=user)
    assert found["code"] == 422
    assert found["reason"] == "Invalid"
    assert found["message"] == (
        'admission webhook "deny.example.com" denied the request: not like this'
    )
    (asked,) = hook.asked
    assert asked["kind"] == {"group": "", "version": "v1", "kind": "ConfigMap"}
    assert asked["resource"] == {"group": "", "version": "v1", "resource": "configmaps"}
    assert asked["requestKind"] == asked["kind"]
    assert asked["requestResource"] == asked["resource"]
    assert (asked["name"], asked["namespace"], asked["operation"]) == ("a", "default", "CREATE")
    assert asked["userInfo"] == {
        "username": "eve",
        "uid": "u1",
        "groups": ["devs", "system:authenticated"],
        "extra": {"k": ["v"]},
    }
    assert asked["dryRun"] is False
    assert asked["options"] == {
        "kind": "CreateOptions",
        "apiVersion": "meta.k8s.io/v1",
        "fieldManager": "me",
    }
    assert asked["object"]["data"] == {"a": "b"}
    assert asked["object"]["metadata"]["uid"]
    assert asked["oldObject"] is None
    assert hook.reviews[0]["apiVersion"] == "admission.k8s.io/v1"
    await api.call("GET", MAPS + "/a", status=404)


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        ({}, 400, 'admission webhook "deny.example.com" denied the request without explanation'),
        ({"reason": "Nope", "code": 200}, 400, "denied the request: Nope"),
        ({"message": "m", "code": 403, "reason": "Forbidden"}, 403, "denied the request: m"),
    ],
)
async def test_refusals_are_worded(
    api: Harness, hook: WebhookServer, status: Object, code: int, message: str
) -> None:
    hook.handlers["/deny"] = answering({"allowed": False, "status": status})
    await validating(api, webhook(hook, "/deny"))
    found = await refused(api, "POST", MAPS, config_map("a"))
    assert found["code"] == code
    assert message in found["message"]


async def test_update_delete_and_collections(api: Harness, hook: WebhookServer) -> None:
    hook.handlers["/see"] = answering(ALLOW)
    await api.call("POST", MAPS, config_map("a"))
    await api.call("POST", MAPS, config_map("b"))
    await validating(api, webhook(hook, "/see", rule("configmaps", "UPDATE DELETE")))
    await api.patch("merge", f"{MAPS}/a", {"data": {"a": "c"}})
    await api.call("DELETE", f"{MAPS}/a?propagationPolicy=Background")
    await api.call("DELETE", MAPS)
    await api.call("POST", MAPS, config_map("c"))
    update, delete, other = hook.asked[:3]
    assert len(hook.asked) in (3, 4)  # "kube-root-ca.crt" may be there
    assert update["operation"] == "UPDATE"
    assert update["options"]["kind"] == "PatchOptions"
    assert update["object"]["data"] == {"a": "c"}
    assert update["oldObject"]["data"] == {"a": "b"}
    assert (delete["operation"], delete["object"]) == ("DELETE", None)
    assert delete["oldObject"]["data"] == {"a": "c"}
    assert delete["options"] == {
        "kind": "DeleteOptions",
        "apiVersion": "meta.k8s.io/v1",
        "propagationPolicy": "Background",
    }
    assert {each["name"] for each in hook.asked[2:]} >= {"b"}
    assert other["operation"] == "DELETE"


async def test_a_mutating_webhook_changes_the_object(api: Harness, hook: WebhookServer) -> None:
    async def label(request: Object) -> Object:
        assert "uid" not in request["object"]["metadata"]
        return patch_of(
            {"op": "add", "path": "/metadata/labels", "value": {"by": "hook"}},
            {"op": "add", "path": "/spec/replicas", "value": 3},
            {"op": "add", "path": "/spec/nonsense", "value": 3},
            {"op": "add", "path": "/metadata/uid", "value": "mine"},
        ) | {"warnings": ["look out"], "auditAnnotations": {"k": "v"}}

    hook.handlers["/label"] = label
    await mutating(api, webhook(hook, "/label", rule("deployments", "CREATE", "apps")))
    response = await api.send("POST", DEPLOYMENTS, deployment("a"))
    made = orjson.loads(await response.read())
    assert made["metadata"]["labels"] == {"by": "hook"}
    assert made["metadata"]["uid"] != "mine"
    assert made["spec"]["replicas"] == 3
    assert "nonsense" not in made["spec"]
    assert made["spec"]["template"]["spec"]["restartPolicy"] == "Always"
    assert "look out" in response.headers["Warning"]
    stored = await api.call("GET", f"{DEPLOYMENTS}/a")
    assert stored["metadata"] == made["metadata"]


async def test_a_mutation_that_is_invalid_is_refused(api: Harness, hook: WebhookServer) -> None:
    hook.handlers["/bad"] = answering(
        patch_of({"op": "replace", "path": "/spec/replicas", "value": -1})
    )
    await mutating(api, webhook(hook, "/bad", rule("deployments", "*", "apps")))
    found = await refused(api, "POST", DEPLOYMENTS, deployment("a"))
    assert found["code"] == 422
    assert "spec.replicas: Invalid value: -1" in found["message"]
    hook.handlers["/bad"] = answering(patch_of({"op": "remove", "path": "/none"}))
    found = await refused(api, "POST", DEPLOYMENTS, deployment("a"))
    assert found["code"] == 500


async def test_mutating_ones_are_asked_in_order_of_names_and_again_if_needed(
    api: Harness, hook: WebhookServer
) -> None:
    order: list[str] = []

    def add(name: str) -> Any:
        async def handler(request: Object) -> Object:
            order.append(name)
            data = request["object"]["data"]
            if name in data:
                return dict(ALLOW)
            return patch_of({"op": "add", "path": f"/data/{name}", "value": ",".join(data)})

        return handler

    for name in ("one", "two", "three"):
        hook.handlers[f"/{name}"] = add(name)
    await mutating(api, webhook(hook, "/three"), name="z")
    await mutating(api, webhook(hook, "/one", reinvocationPolicy="IfNeeded"), name="a")
    await mutating(api, webhook(hook, "/two"), name="b")
    made = await api.call("POST", MAPS, config_map("a"))
    assert made["data"] == {"a": "b", "one": "a", "two": "a,one", "three": "a,one,two"}
    assert order == ["one", "two", "three", "one"]


async def test_a_validating_webhook_sees_what_was_mutated(
    api: Harness, hook: WebhookServer
) -> None:
    hook.handlers["/set"] = answering(patch_of({"op": "add", "path": "/data/x", "value": "y"}))

    async def check(request: Object) -> Object:
        return {"allowed": request["object"]["data"].get("x") == "y"}

    hook.handlers["/check"] = check
    await mutating(api, webhook(hook, "/set"))
    await validating(api, webhook(hook, "/check"))
    await api.call("POST", MAPS, config_map("a"))


async def test_equivalent_versions(api: Harness, hook: WebhookServer) -> None:
    path = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers"
    scaler = {
        "apiVersion": "autoscaling/v1",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "a"},
        "spec": {
            "scaleTargetRef": {"kind": "Deployment", "name": "x", "apiVersion": "apps/v1"},
            "maxReplicas": 2,
            "targetCPUUtilizationPercentage": 50,
        },
    }
    hook.handlers["/two"] = answering(
        patch_of(
            {
                "op": "replace",
                "path": "/spec/metrics/0/resource/target/averageUtilization",
                "value": 70,
            }
        )
    )
    hook.handlers["/exact"] = answering({"allowed": False})
    second = rule("horizontalpodautoscalers", "*", "autoscaling", "v2")
    await mutating(api, webhook(hook, "/two", second))
    await validating(api, webhook(hook, "/exact", second, matchPolicy="Exact"))
    made = await api.call("POST", path, scaler)
    assert made["apiVersion"] == "autoscaling/v1"
    assert made["spec"]["targetCPUUtilizationPercentage"] == 70
    (asked,) = hook.asked
    assert asked["kind"]["version"] == asked["resource"]["version"] == "v2"
    assert asked["requestKind"]["version"] == asked["requestResource"]["version"] == "v1"
    assert asked["object"]["apiVersion"] == "autoscaling/v2"


async def test_selectors_scope_and_subresources(api: Harness, hook: WebhookServer) -> None:
    names: list[str] = []

    def note(path: str) -> None:
        async def handler(request: Object) -> Object:
            names.append(f"{path}:{request['name']}:{request.get('subResource', '')}")
            return dict(ALLOW)

        hook.handlers[path] = handler

    for path in ("/object", "/namespace", "/cluster", "/sub", "/all"):
        note(path)
    every = rule("*", "*", "*")
    await validating(
        api,
        webhook(hook, "/object", objectSelector={"matchLabels": {"x": "y"}}),
        webhook(hook, "/namespace", namespaceSelector={"matchLabels": {"team": "a"}}),
        webhook(hook, "/cluster", {**every, "scope": "Cluster"}),
        webhook(hook, "/sub", rule("deployments/scale deployments/status", "*", "apps")),
        webhook(
            hook, "/all", rule("*/*", "UPDATE", "*"), objectSelector={"matchLabels": {"q": "q"}}
        ),
    )
    labelled = config_map("a")
    labelled["metadata"]["labels"] = {"x": "y"}
    await api.call("POST", MAPS, labelled)
    await api.call("POST", MAPS, config_map("b"))
    assert names == ["/object:a:"]
    names.clear()
    # An update is shown also when only the old object has the label.
    await api.patch("merge", f"{MAPS}/a", {"metadata": {"labels": None}})
    assert names == ["/object:a:"]
    names.clear()
    space = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "n", "labels": {"team": "a"}},
    }
    await api.call("POST", "/api/v1/namespaces", space)
    await api.call("POST", "/api/v1/namespaces/n/configmaps", config_map("c"))
    assert names == ["/cluster:n:", "/namespace:c:"]
    names.clear()
    body = deployment("d")
    await api.call("POST", DEPLOYMENTS, body)
    await api.patch("merge", f"{DEPLOYMENTS}/d/scale", {"spec": {"replicas": 2}})
    assert names == ["/sub:d:scale"]
    asked = hook.asked[-1]
    assert asked["object"]["kind"] == "Scale"
    assert asked["kind"] == {"group": "autoscaling", "version": "v1", "kind": "Scale"}
    assert asked["object"]["spec"] == {"replicas": 2}


async def test_match_conditions(api: Harness, hook: WebhookServer) -> None:
    hook.handlers["/deny"] = answering({"allowed": False})
    conditions = [
        {"name": "not-system", "expression": "!request.userInfo.username.startsWith('system:')"},
        {"name": "labelled", "expression": "object.metadata.?labels['guard'] == optional.of('on')"},
        {"name": "may", "expression": "authorizer.requestResource.check('create').allowed()"},
    ]
    await validating(api, webhook(hook, "/deny", matchConditions=conditions))
    await api.call("POST", MAPS, config_map("a"))
    guarded = config_map("b")
    guarded["metadata"]["labels"] = {"guard": "on"}
    await refused(api, "POST", MAPS, guarded)
    await api.call("POST", MAPS, guarded, user=User("system:x", ("system:masters",)))
    faulty = [{"name": "e", "expression": "object.data.none == 'x'"}]
    await api.call("DELETE", f"{VALIDATING}/v")
    await validating(api, webhook(hook, "/deny", matchConditions=faulty))
    found = await refused(api, "POST", MAPS, config_map("c"))
    assert found["code"] == 403
    assert "no such key: none" in found["message"]
    await api.patch(
        "json",
        f"{VALIDATING}/v",
        [{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Ignore"}],
    )
    await api.call("POST", MAPS, config_map("c"))


async def test_the_older_review_version(api: Harness, hook: WebhookServer) -> None:
    hook.handlers["/x"] = answering(ALLOW)
    await validating(api, webhook(hook, "/x", admissionReviewVersions=["v7", "v1beta1", "v1"]))
    await api.call("POST", MAPS, config_map("a"))
    assert hook.reviews[0]["apiVersion"] == "admission.k8s.io/v1beta1"


async def test_configurations_are_exempt(api: Harness, hook: WebhookServer) -> None:
    hook.handlers["/x"] = answering({"allowed": False})
    await validating(api, webhook(hook, "/x", rule("*/*", "*", "*")))
    await validating(api, webhook(hook, "/x"), name="other")
    await api.call("DELETE", f"{VALIDATING}/v")
    assert hook.asked == []


async def test_changes_of_a_configuration_count_at_once(api: Harness, hook: WebhookServer) -> None:
    hook.handlers["/x"] = answering({"allowed": False})
    for number in range(5):
        await api.call("POST", MAPS, config_map(f"a{number}"))
        await validating(api, webhook(hook, "/x"))
        await refused(api, "POST", MAPS, config_map("b"))
        await api.call("DELETE", f"{VALIDATING}/v")


async def test_actions_on_pods(api: Harness, hook: WebhookServer) -> None:
    await service_account(api)
    hook.handlers["/deny"] = answering({"allowed": False})
    await api.call("POST", PODS, pod("p"))
    await validating(
        api, webhook(hook, "/deny", rule("pods/binding pods/eviction pods/exec pods/proxy", "*"))
    )
    binding = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": "p"},
        "target": {"kind": "Node", "name": "n"},
    }
    await refused(api, "POST", f"{PODS}/p/binding", binding)
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}}
    await refused(api, "POST", f"{PODS}/p/eviction", eviction)
    await refused(api, "POST", f"{PODS}/p/exec?command=ls&command=-l&stdout=true&container=c")
    await refused(api, "GET", f"{PODS}/p/proxy/x/y")
    bound, evicted, executed, proxied = hook.asked
    assert [each["operation"] for each in hook.asked] == ["CREATE", "CREATE", "CONNECT", "CONNECT"]
    assert bound["object"]["target"]["name"] == "n"
    assert bound["kind"]["kind"] == "Binding"
    assert evicted["kind"] == {"group": "policy", "version": "v1", "kind": "Eviction"}
    assert executed["object"] == {
        "kind": "PodExecOptions",
        "apiVersion": "v1",
        "stdout": True,
        "container": "c",
        "command": ["ls", "-l"],
    }
    assert executed["subResource"] == "exec"
    assert proxied["object"]["path"] == "/x/y"
    found = await api.call("GET", f"{PODS}/p")
    assert "nodeName" not in found["spec"]


async def test_a_webhook_behind_a_service(api: Harness, hook: WebhookServer) -> None:
    hook.handlers["/in/cluster"] = answering({"allowed": False})
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "hook"},
        "spec": {"ports": [{"port": 443, "targetPort": hook.port}]},
    }
    await api.call("POST", "/api/v1/namespaces/default/services", service)
    piece = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "hook-1", "labels": {"kubernetes.io/service-name": "hook"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": True}}],
        "ports": [{"port": hook.port, "name": ""}],
    }
    # An EndpointSlice may not name a loopback address through the API; the node's own may.
    row = api.server.table.lookup("discovery.k8s.io", "v1", "endpointslices")
    assert row is not None
    piece["metadata"]["namespace"] = "default"
    await api.server.registry.place(row, piece)
    reference = {"name": "hook", "namespace": "default", "path": "/in/cluster"}
    config = {"service": reference, "caBundle": hook.bundle}
    await validating(api, webhook(hook, "/x") | {"clientConfig": config})
    found = await refused(api, "POST", MAPS, config_map("a"))
    assert "denied the request" in found["message"]
    await api.call("DELETE", "/api/v1/namespaces/default/services/hook")
    found = await refused(api, "POST", MAPS, config_map("a"))
    assert 'service "hook" not found' in found["message"]


# Custom resources

BOATS = "/apis/example.com/{}/namespaces/default/boats"


async def boats(api: Harness) -> None:
    """A kind in two versions, stored as v1."""

    def version(name: str, **more: Any) -> Object:
        spec = {"type": "object", "properties": {"sails": {"type": "integer", "default": 1}}}
        properties = {"spec": spec, "status": {"type": "object"}}
        schema = {"type": "object", "properties": properties}
        return {"name": name, "served": True, "schema": {"openAPIV3Schema": schema}, **more}

    await api.call(
        "POST",
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": "boats.example.com"},
            "spec": {
                "group": "example.com",
                "scope": "Namespaced",
                "names": {"plural": "boats", "kind": "Boat"},
                "versions": [version("v1", storage=True), version("v2", storage=False)],
            },
        },
    )
    row = None
    async with asyncio.timeout(5):
        while row is None:
            row = api.server.table.lookup("example.com", "v1", "boats")
            await asyncio.sleep(0)


def boat(name: str, version: str = "v1", **spec: Any) -> Object:
    return {
        "apiVersion": f"example.com/{version}",
        "kind": "Boat",
        "metadata": {"name": name},
        "spec": spec,
    }


async def test_custom_resources_are_mutated_pruned_and_defaulted(
    api: Harness, hook: WebhookServer
) -> None:
    await boats(api)
    hook.handlers["/paint"] = answering(
        patch_of(
            {"op": "add", "path": "/spec/colour", "value": "red"},
            {"op": "remove", "path": "/spec/sails"},
            {"op": "add", "path": "/metadata/labels", "value": {"painted": "yes"}},
        )
    )
    await mutating(api, webhook(hook, "/paint", rule("boats", "CREATE", "example.com", "v1")))
    made = await api.call("POST", BOATS.format("v1"), boat("a", sails=3))
    assert made["spec"] == {"sails": 1}
    assert made["metadata"]["labels"] == {"painted": "yes"}
    # The other version is shown as the one that the rule names.
    made = await api.call("POST", BOATS.format("v2"), boat("b", "v2", sails=3))
    assert made["apiVersion"] == "example.com/v2"
    assert made["spec"] == {"sails": 1}
    asked = hook.asked[-1]
    assert asked["object"]["apiVersion"] == "example.com/v1"
    assert (asked["kind"]["version"], asked["requestKind"]["version"]) == ("v1", "v2")


async def test_custom_resources_are_refused(api: Harness, hook: WebhookServer) -> None:
    await boats(api)
    hook.handlers["/deny"] = answering({"allowed": False, "status": {"message": "no boats"}})
    await validating(api, webhook(hook, "/deny", rule("*", "CREATE DELETE", "example.com")))
    found = await refused(api, "POST", BOATS.format("v1"), boat("a"))
    assert found["message"].endswith("denied the request: no boats")
