"""Admission policies as their users meet them: written with kubectl, felt with kubectl."""

from __future__ import annotations

import json
from typing import Any

from cluster import wait_for
from space import Space

GROUP = "admissionregistration.k8s.io"
REPLICAS = {"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]}


def policy(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    rule = {**REPLICAS, "operations": ["CREATE", "UPDATE"]}
    return {
        "apiVersion": f"{GROUP}/v1",
        "kind": f"{kind}AdmissionPolicy",
        "metadata": {"name": name},
        "spec": {"failurePolicy": "Fail", "matchConstraints": {"resourceRules": [rule]}, **spec},
    }


def binding(kind: str, space: Space, of: str, **spec: Any) -> dict[str, Any]:
    """Only where the test is: others share the cluster."""
    labels = {"kubernetes.io/metadata.name": space.name}
    return {
        "apiVersion": f"{GROUP}/v1",
        "kind": f"{kind}AdmissionPolicyBinding",
        "metadata": {"name": of},
        "spec": {
            "policyName": of,
            "matchResources": {"namespaceSelector": {"matchLabels": labels}},
            **spec,
        },
    }


def test_a_policy_denies_what_kubectl_creates(space: Space) -> None:
    name = f"few-{space.name}"
    limit = {
        "expression": "variables.wanted <= 5",
        "messageExpression": "'no more than 5 replicas, not ' + string(variables.wanted)",
    }
    space.apply(
        policy(
            "Validating",
            name,
            variables=[{"name": "wanted", "expression": "object.spec.replicas"}],
            validations=[limit],
        ),
        binding("Validating", space, name, validationActions=["Deny"]),
    )
    said = space.kubectl_fails("create", "deployment", "many", "--image=x", "--replicas=9")
    assert said.strip() == (
        'error: failed to create deployment: deployments.apps "many" is forbidden: '
        f"ValidatingAdmissionPolicy '{name}' with binding '{name}' denied request: "
        "no more than 5 replicas, not 9"
    )
    space.kubectl("create", "deployment", "few", "--image=x", "--replicas=0")
    said = space.kubectl_fails("scale", "deployment/none", "--replicas=9")
    assert "not found" in said
    said = space.kubectl_fails("patch", "deployment/few", "-p", '{"spec":{"replicas":6}}')
    assert "no more than 5 replicas, not 6" in said
    space.kubectl("delete", f"validatingadmissionpolicy/{name}")
    space.kubectl("patch", "deployment/few", "-p", '{"metadata":{"labels":{"x":"y"}}}')
    space.kubectl("delete", f"validatingadmissionpolicybinding/{name}", "deployment/few")


def test_faults_are_told_when_a_policy_is_written(space: Space) -> None:
    faulty = policy(
        "Validating", f"bad-{space.name}", validations=[{"expression": "objekt.x == 1"}]
    )
    said = space.kubectl_fails("apply", "-f", "-", stdin=json.dumps(faulty))
    assert "spec.validations[0].expression: Invalid value" in said
    assert "undeclared reference to 'objekt' (in container '')" in said


def test_types_are_checked_and_told_in_the_status(space: Space) -> None:
    name = f"types-{space.name}"
    checks = [{"expression": "object.spec.replicas > 1"}, {"expression": "object.spec.replica > 1"}]
    space.apply(policy("Validating", name, validations=checks))

    def status() -> Any:
        return space.get(f"validatingadmissionpolicy/{name}").get("status", {}).get("typeChecking")

    wait_for(lambda: status() is not None, what="a checked policy")
    (warning,) = status()["expressionWarnings"]
    assert warning["fieldRef"] == "spec.validations[1].expression"
    assert warning["warning"].startswith(
        "apps/v1, Kind=Deployment: compilation failed: ERROR: <input>:1:12: undefined field 'replica'"
    )
    space.kubectl("delete", f"validatingadmissionpolicy/{name}")


def test_a_policy_changes_what_kubectl_creates(space: Space) -> None:
    name = f"label-{space.name}"
    made = "Object{metadata: Object.metadata{labels: {'made-by': request.userInfo.username}}}"
    mutation = {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": made}}
    space.apply(
        policy("Mutating", name, mutations=[mutation], reinvocationPolicy="Never"),
        binding("Mutating", space, name),
    )
    space.kubectl("create", "deployment", "marked", "--image=x", "--replicas=0")
    labels = space.get("deployment/marked")["metadata"]["labels"]
    assert labels["app"] == "marked"
    assert labels["made-by"]
    for each in ("mutatingadmissionpolicybinding", "mutatingadmissionpolicy"):
        space.kubectl("delete", f"{each}/{name}")
    space.kubectl("delete", "deployment/marked")
