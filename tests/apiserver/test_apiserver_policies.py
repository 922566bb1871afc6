"""ValidatingAdmissionPolicy and MutatingAdmissionPolicy: what applies, what is said, what is changed."""

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
    open_server,
    pod,
    service_account,
)
from metrics_harness import scrape, value
from policy_harness import (
    GROUP,
    Object,
    applying,
    mutating,
    refused,
    rule,
    validating,
)

from sampan.client.transport import User

__all__ = ["api"]


async def test_a_policy_denies_with_its_message(api: Harness) -> None:
    await validating(
        api,
        "object.spec.replicas <= 5",
        matchConstraints={"resourceRules": [rule("deployments", "CREATE UPDATE", "apps")]},
    )
    await api.call("POST", DEPLOYMENTS, deployment("ok", 5))
    found = await refused(api, "POST", DEPLOYMENTS, deployment("a", 6))
    message = (
        "ValidatingAdmissionPolicy 'p' with binding 'p-b' denied request: "
        "failed expression: object.spec.replicas <= 5"
    )
    assert found["message"] == f'deployments.apps "a" is forbidden: {message}'
    assert (found["code"], found["reason"]) == (422, "Invalid")
    assert found["details"] == {
        "name": "a",
        "group": "apps",
        "kind": "deployments",
        "causes": [{"message": message}],
    }


@pytest.mark.parametrize(
    ("validation", "message", "reason", "code"),
    [
        ({"message": "too many"}, "too many", "Invalid", 422),
        ({"message": "x", "reason": "Forbidden"}, "x", "Forbidden", 403),
        (
            {"reason": "RequestEntityTooLarge", "message": "x"},
            "x",
            "RequestEntityTooLarge",
            413,
        ),
        (
            {"messageExpression": "'found ' + string(size(object.data))", "message": "x"},
            "found 1",
            "Invalid",
            422,
        ),
        (
            {"messageExpression": "string(object.data.none)", "message": "fallback"},
            "fallback",
            "Invalid",
            422,
        ),
        ({"messageExpression": "'a\\nb'", "message": "fallback"}, "fallback", "Invalid", 422),
    ],
)
async def test_messages_and_reasons(
    api: Harness, validation: Object, message: str, reason: str, code: int
) -> None:
    given = {"expression": "false", **validation}
    await validating(api, given)
    found = await refused(api, "POST", MAPS, config_map("a"))
    assert found["message"].endswith(f"denied request: {message}")
    assert (found["reason"], found["code"]) == (reason, code)


async def test_what_expressions_see(api: Harness) -> None:
    await validating(
        api,
        "request.operation == 'DELETE' || object.kind == 'ConfigMap'",
        "request.kind.kind == 'ConfigMap' && request.resource.resource == 'configmaps'",
        "request.userInfo.username == 'admin' && 'system:masters' in request.userInfo.groups",
        "request.namespace == 'default' && request.name.startsWith('a') && !request.dryRun",
        "namespaceObject.metadata.name == 'default' && namespaceObject.status.phase == 'Active'",
        "namespaceObject.metadata.creationTimestamp < timestamp('2200-01-01T00:00:00Z')",
        "request.operation != 'UPDATE' || object.data.a != oldObject.data.a",
        "request.operation != 'DELETE' || (object == null && oldObject.metadata.name == 'a')",
        "request.operation != 'CREATE' || oldObject == null",
        "authorizer.group('apps').resource('deployments').check('create').allowed()",
        "variables.double == 2 * variables.size && variables.names.all(n, n == 'a')",
        "!has(object.metadata) || has(object.metadata.uid)",
        variables=[
            {"name": "size", "expression": "request.operation == 'DELETE' ? 1 : size(object.data)"},
            {"name": "double", "expression": "variables.size + variables.size"},
            {"name": "names", "expression": "[request.name]"},
            {"name": "broken", "expression": "object.none.none"},
        ],
    )
    await api.call("POST", MAPS, config_map("a"))
    await api.patch("merge", f"{MAPS}/a", {"data": {"a": "c"}})
    await api.call("DELETE", f"{MAPS}/a")
    found = await refused(api, "POST", MAPS, config_map("b"))
    assert "request.name.startsWith" in found["message"]


async def test_faults_are_judged_by_the_failure_policy(api: Harness) -> None:
    await validating(api, "object.none == 'x'")
    found = await refused(api, "POST", MAPS, config_map("a"))
    assert found["message"].endswith(
        "expression 'object.none == 'x'' resulted in error: no such key: none"
    )
    await validating(
        api,
        "variables.v",
        name="q",
        variables=[{"name": "v", "expression": "object.data.a.contains(object.data.zz)"}],
    )
    await api.call("DELETE", f"{GROUP}/validatingadmissionpolicies/p")
    found = await refused(api, "POST", MAPS, config_map("a"))
    assert 'composited variable "v" fails to evaluate: no such key: zz' in found["message"]
    await api.patch(
        "merge", f"{GROUP}/validatingadmissionpolicies/q", {"spec": {"failurePolicy": "Ignore"}}
    )
    await api.call("POST", MAPS, config_map("a"))


async def test_budget(api: Harness) -> None:
    items = ", ".join(str(number) for number in range(120))
    await validating(
        api,
        f"[{items}].all(a, [{items}].all(b, [{items}].all(c, a + b + c >= 0)))",
    )
    found = await refused(api, "POST", MAPS, config_map("a"))
    assert "running out of cost budget" in found["message"]


async def test_an_expensive_policy_holds_up_nobody_else(api: Harness) -> None:
    """It is evaluated off the event loop: others are answered while it is."""
    items = ", ".join(str(number) for number in range(60))
    heavy = f"[{items}].all(a, [{items}].all(b, [{items}].all(c, a + b + c >= 0)))"
    labelled = {"matchLabels": {"slow": "1"}}
    constraints = {"resourceRules": [rule("configmaps")], "objectSelector": labelled}
    await validating(api, f"!({heavy})", matchConstraints=constraints)
    slow = config_map("slow")
    slow["metadata"]["labels"] = {"slow": "1"}
    waiting = asyncio.create_task(refused(api, "POST", MAPS, slow))
    answered = 0
    while not waiting.done():
        await api.call("GET", f"{MAPS}/none", status=404)
        answered += 1
        await asyncio.sleep(0)
    assert "cost budget" in (await waiting)["message"]
    assert answered > 10


async def test_warn_and_audit(api: Harness) -> None:
    noted: dict[str, str] = {}
    api.server.access.lookup.annotate = lambda request, key, value: noted.update({key: value})
    await validating(
        api,
        {"expression": "false", "message": "beware"},
        bound={"validationActions": ["Warn", "Audit"]},
        auditAnnotations=[
            {"key": "who", "valueExpression": "'by ' + request.userInfo.username"},
            {"key": "none", "valueExpression": "null"},
        ],
    )
    response = await api.send("POST", MAPS, config_map("a"))
    assert response.status == 201
    assert (
        "Validation failed for ValidatingAdmissionPolicy 'p' with binding 'p-b': beware"
        in response.headers["Warning"]
    )
    assert noted["p/who"] == "by admin"
    assert "p/none" not in noted
    (failure,) = orjson.loads(noted["validation.policy.admission.k8s.io/validation_failure"])
    assert failure == {
        "message": "beware",
        "policy": "p",
        "binding": "p-b",
        "expressionIndex": 0,
        "validationActions": ["Warn", "Audit"],
    }


async def test_checks_are_counted(api: Harness) -> None:
    await validating(
        api,
        "object.data.a == 'b'",
        "object.data.none == 'b'",
        bound={"validationActions": ["Deny", "Audit"]},
        matchConditions=[{"name": "n", "expression": "object.metadata.name != 'free'"}],
    )
    await validating(api, "object.data.none == 'b'", name="i", failurePolicy="Ignore")
    await mutating(api, applying("Object{data: {'c': 'd'}}"), name="m")
    await refused(api, "POST", MAPS, config_map("a"))
    await api.call("POST", MAPS, config_map("free"))
    found, _ = await scrape(api)
    checks = found["apiserver_validating_admission_policy_check"]
    name = "apiserver_validating_admission_policy_check_total"
    fault = {"policy": "p", "policy_binding": "p-b", "error_type": "invalid_error"}
    for labels, count in (
        ({**fault, "enforcement_action": "deny"}, 1),
        ({**fault, "enforcement_action": "audit"}, 1),
        ({"policy": "i", "enforcement_action": "allow", "error_type": "invalid_error"}, 2),
    ):
        assert value(checks, name, **labels) == count, labels
    mutated = found["apiserver_mutating_admission_policy_check"]
    name = "apiserver_mutating_admission_policy_check_total"
    assert value(mutated, name, policy="m", error_type="no_error") == 2
    left_out = found["apiserver_admission_match_condition_exclusions"]
    name = "apiserver_admission_match_condition_exclusions_total"
    assert value(left_out, name, name="p", kind="policy", type="validate", operation="CREATE") == 1


async def test_where_a_binding_counts(api: Harness) -> None:
    await validating(
        api,
        "false",
        matchConditions=[
            {"name": "guarded", "expression": "object.?metadata.?labels.?guard.hasValue()"}
        ],
        bound={
            "matchResources": {
                "namespaceSelector": {"matchLabels": {"team": "a"}},
                "excludeResourceRules": [
                    rule("configmaps", "CREATE") | {"resourceNames": ["free"]}
                ],
            }
        },
    )
    space = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "n", "labels": {"team": "a"}},
    }
    await api.call("POST", "/api/v1/namespaces", space)
    guarded = config_map("a")
    guarded["metadata"]["labels"] = {"guard": "on"}
    maps = "/api/v1/namespaces/n/configmaps"
    await api.call("POST", MAPS, guarded)
    await api.call("POST", maps, config_map("a"))
    free = config_map("free")
    free["metadata"]["labels"] = {"guard": "on"}
    await api.call("POST", maps, free)
    guarded["metadata"]["name"] = "b"
    await refused(api, "POST", maps, guarded)


async def test_params(api: Harness) -> None:
    limits = config_map("limits", maximum="2")
    await validating(
        api,
        {
            "expression": "object.spec.replicas <= int(params.data.maximum)",
            "messageExpression": "'at most ' + params.data.maximum",
        },
        paramKind={"apiVersion": "v1", "kind": "ConfigMap"},
        matchConstraints={"resourceRules": [rule("deployments", "*", "apps")]},
        bound={"paramRef": {"name": "limits", "parameterNotFoundAction": "Deny"}},
    )
    found = await refused(api, "POST", DEPLOYMENTS, deployment("a", 1))
    assert found["message"].endswith(
        "denied request: failed to configure binding: no params found for policy binding with "
        "`Deny` parameterNotFoundAction"
    )
    await api.call("POST", MAPS, limits)
    await api.call("POST", DEPLOYMENTS, deployment("a", 2))
    found = await refused(api, "POST", DEPLOYMENTS, deployment("b", 3))
    assert found["message"].endswith("denied request: at most 2")
    await api.patch("merge", f"{MAPS}/limits", {"data": {"maximum": "3"}})
    await api.call("POST", DEPLOYMENTS, deployment("b", 3))
    await api.patch(
        "merge",
        f"{GROUP}/validatingadmissionpolicybindings/p-b",
        {
            "spec": {
                "paramRef": {
                    "name": None,
                    "selector": {"matchLabels": {"limit": "yes"}},
                    "parameterNotFoundAction": "Allow",
                }
            }
        },
    )
    await api.call("POST", DEPLOYMENTS, deployment("many", 30))
    for name, most in (("one", "10"), ("two", "20")):
        each = config_map(name, maximum=most)
        each["metadata"]["labels"] = {"limit": "yes"}
        await api.call("POST", MAPS, each)
    found = await refused(api, "POST", DEPLOYMENTS, deployment("c", 15))
    assert found["message"].endswith("at most 10")


async def test_unknown_param_kind(api: Harness) -> None:
    await validating(api, "true", paramKind={"apiVersion": "example.com/v1", "kind": "Limit"})
    found = await refused(api, "POST", MAPS, config_map("a"))
    assert (
        "failed to configure policy: failed to find resource referenced by paramKind: "
        "'example.com/v1, Kind=Limit'" in found["message"]
    )


async def test_authorizer_knows_what_the_user_may(tmp_path: Any) -> None:
    harness = await open_server(tmp_path, authorization=True)
    await harness.server.start(serve=False)
    try:
        role = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "writer"},
            "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"]}],
        }
        await harness.call("POST", "/apis/rbac.authorization.k8s.io/v1/clusterroles", role)
        bound = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "writer"},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": "writer",
            },
            "subjects": [{"kind": "User", "name": "eve", "apiGroup": "rbac.authorization.k8s.io"}],
        }
        await harness.call("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", bound)
        await validating(
            harness,
            {
                "expression": "authorizer.requestResource.check('create').allowed()",
                "message": "one",
            },
            {
                "expression": "!authorizer.group('').resource('secrets').check('get').allowed()",
                "message": "two",
            },
            {
                "expression": "!authorizer.serviceAccount('default', 'x').group('').resource('configmaps')"
                ".namespace('default').check('get').allowed()",
                "message": "three",
            },
        )
        await harness.call(
            "POST", MAPS, config_map("a"), user=User("eve", ("system:authenticated",))
        )
        found = await refused(harness, "POST", MAPS, config_map("b"))
        assert found["message"].endswith("two")
    finally:
        await harness.server.close()
        await harness.store.close()


async def test_policies_are_exempt_and_changes_count_at_once(api: Harness) -> None:
    every = {"resourceRules": [rule("*", "*", "*")]}
    for number in range(3):
        await api.call("POST", MAPS, config_map(f"a{number}"))
        await validating(api, "false", matchConstraints=every)
        await refused(api, "POST", MAPS, config_map("b"))
        await api.call("DELETE", f"{GROUP}/validatingadmissionpolicies/p")
        await api.call("DELETE", f"{GROUP}/validatingadmissionpolicybindings/p-b")


async def test_connect_and_actions(api: Harness) -> None:
    await service_account(api)
    await api.call("POST", PODS, pod("p"))
    await validating(
        api,
        "object.command[0] != 'rm'",
        matchConstraints={"resourceRules": [rule("pods/exec", "CONNECT")]},
    )
    await validating(
        api,
        "false",
        name="q",
        matchConstraints={"resourceRules": [rule("pods/eviction", "CREATE")]},
    )
    found = await refused(api, "POST", f"{PODS}/p/exec?command=rm&container=c")
    assert "denied request" in found["message"]
    found = await refused(api, "POST", f"{PODS}/p/exec?command=ls&container=c")
    assert "denied request" not in found["message"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}}
    await refused(api, "POST", f"{PODS}/p/eviction", eviction)
