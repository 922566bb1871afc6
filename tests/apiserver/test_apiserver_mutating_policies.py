"""MutatingAdmissionPolicy through the API, and what is refused of policies, bindings and match conditions when they are written."""

from __future__ import annotations

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
from policy_harness import (
    GROUP,
    Object,
    applying,
    binding,
    mutating,
    patching,
    policy,
    refused,
    rule,
    validating,
)

__all__ = ["api"]


# Mutating


async def test_apply_configuration(api: Harness) -> None:
    await mutating(
        api,
        applying(
            "Object{metadata: Object.metadata{labels: {'env': namespaceObject.metadata.name}}, "
            "spec: Object.spec{replicas: object.spec.replicas + 1, template: Object.spec.template{"
            "spec: Object.spec.template.spec{containers: [Object.spec.template.spec.containers{"
            "name: 'side', image: 'x'}]}}}}"
        ),
        matchConstraints={"resourceRules": [rule("deployments", "CREATE", "apps")]},
    )
    made = await api.call("POST", DEPLOYMENTS, deployment("a", 1))
    assert made["metadata"]["labels"] == {"env": "default"}
    assert made["spec"]["replicas"] == 2
    containers = made["spec"]["template"]["spec"]["containers"]
    assert {each["name"] for each in containers} == {"c", "side"}
    assert all(each["imagePullPolicy"] for each in containers)


async def test_json_patch(api: Harness) -> None:
    await mutating(
        api,
        patching(
            "[JSONPatch{op: 'test', path: '/data/a', value: 'b'}, "
            "JSONPatch{op: 'add', path: '/data/' + jsonpatch.escapeKey('x.y'), value: 'z'}, "
            "JSONPatch{op: 'copy', from: '/data/a', path: '/data/c'}]"
        ),
        patching(
            "has(object.metadata.labels) ? [] : "
            "[JSONPatch{op: 'add', path: '/metadata/labels', value: Object.metadata.labels{q: object.data.a}}]"
        ),
    )
    made = await api.call("POST", MAPS, config_map("a"))
    assert made["data"] == {"a": "b", "x.y": "z", "c": "b"}
    assert made["metadata"]["labels"] == {"q": "b"}
    other = await api.call("POST", MAPS, config_map("b", a="other"))
    assert other["data"] == {"a": "other"}


@pytest.mark.parametrize(
    ("mutation", "message"),
    [
        (
            applying("Object{data: Object.wrong{a: 'x'}}"),
            'unexpected type name "Object.wrong", expected "Object.data"',
        ),
        (applying("Object{nonsense: 1}"), "error applying patch"),
        (patching("[JSONPatch{op: 'remove', path: '/none'}]"), "JSON Patch:"),
        (applying("Object{data: {'x': object.data.none}}"), "no such key: none"),
    ],
)
async def test_mutations_that_cannot_be_applied(
    api: Harness, mutation: Object, message: str
) -> None:
    await mutating(api, mutation)
    found = await refused(api, "POST", MAPS, config_map("a"))
    assert found["message"].startswith("policy 'p' with binding 'p-b' denied request: ")
    assert message in found["message"]
    await api.patch(
        "merge", f"{GROUP}/mutatingadmissionpolicies/p", {"spec": {"failurePolicy": "Ignore"}}
    )
    await api.call("POST", MAPS, config_map("a"))


async def test_atomic_lists_are_not_mutated_by_apply(api: Harness) -> None:
    await service_account(api)
    await mutating(
        api,
        applying(
            "Object{spec: Object.spec{tolerations: [Object.spec.tolerations{key: 'x', operator: 'Exists'}]}}"
        ),
        matchConstraints={"resourceRules": [rule("pods")]},
    )
    found = await refused(api, "POST", PODS, pod("a"))
    assert "may not mutate atomic arrays, maps or structs: .spec.tolerations" in found["message"]


async def test_policies_are_asked_again_if_needed(api: Harness) -> None:
    note = (
        "[JSONPatch{op: 'replace', path: '/data/seen', value: string(int(object.data.seen) + 1)}]"
    )
    await mutating(api, patching(note), name="a", reinvocationPolicy="IfNeeded")
    add = "has(object.data.more) ? [] : [JSONPatch{op: 'add', path: '/data/more', value: 'x'}]"
    await mutating(api, patching(add), name="b", reinvocationPolicy="Never")
    made = await api.call("POST", MAPS, config_map("a", seen="0"))
    assert made["data"] == {"seen": "2", "more": "x"}


async def test_mutated_objects_are_validated_by_policies(api: Harness) -> None:
    add = "[JSONPatch{op: 'add', path: '/data/more', value: 'x'}]"
    await mutating(api, patching(add))
    await validating(api, "!has(object.data.more)", name="v")
    found = await refused(api, "POST", MAPS, config_map("a"))
    assert "ValidatingAdmissionPolicy 'v'" in found["message"]


# What is refused when it is written


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        (
            {"validations": [{"expression": "foo"}]},
            "spec.validations[0].expression",
            "compilation failed: ERROR: <input>:1:1: undeclared reference to 'foo' (in container '')\n"
            " | foo\n | ^",
        ),
        (
            {"validations": [{"expression": "1"}]},
            "spec.validations[0].expression",
            "must evaluate to bool but got int",
        ),
        (
            {"validations": [{"expression": "request.foo == 1"}]},
            "spec.validations[0].expression",
            "undefined field 'foo'",
        ),
        (
            {"validations": [{"expression": "params.x"}]},
            "spec.validations[0].expression",
            "'params'",
        ),
        ({"validations": [{"expression": " "}]}, "spec.validations[0].expression", "not specified"),
        (
            {"validations": [{"expression": "true", "messageExpression": "1"}]},
            "spec.validations[0].messageExpression",
            "must evaluate to string",
        ),
        (
            {"validations": [{"expression": "true", "messageExpression": "authorizer"}]},
            "spec.validations[0].messageExpression",
            "undeclared reference to 'authorizer'",
        ),
        (
            {"validations": [{"expression": "true", "reason": "Odd"}]},
            "spec.validations[0].reason",
            'Unsupported value: "Odd"',
        ),
        (
            {"validations": [{"expression": "true", "message": "a\nb"}]},
            "spec.validations[0].message",
            "must not contain line breaks",
        ),
        (
            {"matchConstraints": {"resourceRules": [rule("pods */* */x")]}},
            "spec.matchConstraints.resourceRules[0].resources",
            "if '*/*' is present, must not specify other resources",
        ),
        (
            {"matchConstraints": {"resourceRules": [rule("pods", "* CREATE")]}},
            "spec.matchConstraints.resourceRules[0].operations",
            "if '*' is present, must not specify other operations",
        ),
        (
            {
                "variables": [
                    {"name": "a", "expression": "variables.b"},
                    {"name": "b", "expression": "1"},
                ]
            },
            "spec.variables[0].expression",
            "undefined field 'b'",
        ),
        (
            {"variables": [{"name": "a b", "expression": "1"}]},
            "spec.variables[0].name",
            "must be a valid CEL identifier",
        ),
        (
            {"matchConditions": [{"name": "x", "expression": "variables.n > 'a'"}]},
            "spec.matchConditions[0].expression",
            "found no matching overload",
        ),
        (
            {"auditAnnotations": [{"key": "k", "valueExpression": "1"}]},
            "spec.auditAnnotations[0].valueExpression",
            "must evaluate to one of [string null] but got int",
        ),
        ({"paramKind": {"kind": "X"}}, "spec.paramKind.apiVersion", "Required value"),
        ({"matchConstraints": None}, "spec.matchConstraints", "Required value"),
    ],
)
async def test_faulty_validating_policies(
    api: Harness, change: Object, field: str, message: str
) -> None:
    spec: Object = {
        "validations": [{"expression": "variables.n == 1"}],
        "variables": [{"name": "n", "expression": "1"}],
    }
    spec |= change
    if "variables" in change:
        spec["validations"] = [{"expression": "true"}]
    given = policy("Validating", "p", **spec)
    if given["spec"]["matchConstraints"] is None:
        del given["spec"]["matchConstraints"]
    found = await refused(api, "POST", f"{GROUP}/validatingadmissionpolicies", given)
    assert found["code"] == 422
    causes = {each["field"]: each["message"] for each in found["details"]["causes"]}
    assert message in causes[field], causes


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"mutations": []}, "spec.mutations", "at least one item"),
        (
            {"matchConstraints": {"resourceRules": [rule("pods", "DELETE")]}},
            "spec.matchConstraints.resourceRules.operations",
            'Unsupported value: "DELETE": supported values: "*", "CONNECT", "CREATE", "UPDATE"',
        ),
        (
            {"mutations": [applying("1")]},
            "spec.mutations[0].applyConfiguration.expression",
            "must evaluate to Object but got int",
        ),
        (
            {"mutations": [patching("[JSONPatch{op: 1}]")]},
            "spec.mutations[0].jsonPatch.expression",
            "expected type of field 'op' is 'string' but provided type is 'int'",
        ),
        ({"mutations": [{"patchType": "X"}]}, "spec.mutations[0].patchType", "Unsupported value"),
        ({"reinvocationPolicy": "X"}, "spec.reinvocationPolicy", "Unsupported value"),
    ],
)
async def test_faulty_mutating_policies(
    api: Harness, change: Object, field: str, message: str
) -> None:
    spec = {"mutations": [applying("Object{}")]} | change
    given = policy("Mutating", "p", **spec)
    found = await refused(api, "POST", f"{GROUP}/mutatingadmissionpolicies", given)
    assert found["code"] == 422
    causes = {each["field"]: each["message"] for each in found["details"]["causes"]}
    assert message in causes[field], causes


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"validationActions": ["Deny", "Warn"]}, "spec.validationActions"),
        ({"validationActions": ["Deny", "Deny"]}, "spec.validationActions[1]"),
        ({"paramRef": {"parameterNotFoundAction": "Deny"}}, "spec.paramRef"),
        ({"paramRef": {"name": "x"}}, "spec.paramRef.parameterNotFoundAction"),
        (
            {"paramRef": {"name": "x", "selector": {}, "parameterNotFoundAction": "Deny"}},
            "spec.paramRef.name",
        ),
    ],
)
async def test_faulty_bindings(api: Harness, spec: Object, field: str) -> None:
    given = binding("Validating", "b", "p", **spec)
    found = await refused(api, "POST", f"{GROUP}/validatingadmissionpolicybindings", given)
    assert found["code"] == 422
    assert field in [each["field"] for each in found["details"]["causes"]]


async def test_faulty_match_conditions_of_webhooks(api: Harness) -> None:
    webhook = {
        "name": "a.example.com",
        "clientConfig": {"url": "https://127.0.0.1:1/"},
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "rules": [rule("configmaps")],
        "matchConditions": [{"name": "x", "expression": "object.x ="}],
    }
    given = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "v"},
        "webhooks": [webhook],
    }
    found = await refused(api, "POST", f"{GROUP}/validatingwebhookconfigurations", given)
    (cause,) = found["details"]["causes"]
    assert cause["field"] == "webhooks[0].matchConditions[0].expression"
    assert "compilation failed: ERROR: <input>:1:10: Syntax error" in cause["message"]
