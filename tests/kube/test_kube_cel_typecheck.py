"""The type check of policies against the kinds that they name."""

from __future__ import annotations

from typing import Any

import pytest

from sampan.kube.cel import builtin, schema, typecheck
from sampan.kube.types import GVK

DEPLOYMENT = GVK("apps", "v1", "Deployment")
POD = GVK("", "v1", "Pod")


def policy(*expressions: str, **spec: Any) -> dict[str, Any]:
    return {"spec": {"validations": [{"expression": each} for each in expressions], **spec}}


def checked(given: dict[str, Any], *kinds: GVK, params: Any = None) -> list[dict[str, Any]]:
    types = {kind: builtin.type_of(kind) for kind in kinds or (DEPLOYMENT,)}
    return typecheck.warnings(given, types, params)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "expression",
    [
        "object.spec.replicas > 1 && object.metadata.labels.all(k, k != '')",
        "object.spec.template.spec.containers.all(c, c.image.startsWith('x'))",
        "object.metadata.creationTimestamp < timestamp('2100-01-01T00:00:00Z')",
        "object.spec.strategy.rollingUpdate.maxSurge == 1",
        "quantity(object.spec.template.spec.containers[0].resources.limits['cpu']).isInteger()",
        "oldObject == null || oldObject.spec.paused == object.spec.paused",
        "request.name == object.metadata.name && namespaceObject.metadata.name != ''",
        "object.metadata.__namespace__ == 'x' && has(object.status.conditions)",
    ],
)
def test_what_fits(expression: str) -> None:
    assert checked(policy(expression)) == []


def test_what_does_not_fit() -> None:
    (warning,) = checked(policy("true", "object.spec.replica > 1"))
    assert warning == {
        "fieldRef": "spec.validations[1].expression",
        "warning": "apps/v1, Kind=Deployment: compilation failed: ERROR: <input>:1:12: undefined field "
        "'replica'\n | object.spec.replica > 1\n | ...........^\n",
    }


def test_each_kind_and_messages_and_variables() -> None:
    given = policy(
        "object.spec.replicas > 1", variables=[{"name": "n", "expression": "object.spec.x"}]
    )
    (warning,) = checked(given, DEPLOYMENT, POD)
    assert warning["warning"].startswith("/v1, Kind=Pod: ")
    assert "apps/v1" not in warning["warning"]
    spec = {
        "validations": [{"expression": "true", "messageExpression": "object.spec.replicas + 'x'"}]
    }
    (warning,) = checked({"spec": spec})
    assert warning["fieldRef"] == "spec.validations[0].messageExpression"
    assert "'_+_' applied to '(int, string)'" in warning["warning"]


def test_params() -> None:
    custom = {"type": "object", "properties": {"limit": {"type": "integer"}}}
    params = schema.from_schema(custom, root=True)
    given = policy("object.spec.replicas < params.limit", paramKind={"kind": "X"})
    assert checked(given, params=params) == []
    given = policy("object.spec.replicas < params.limits", paramKind={"kind": "X"})
    (warning,) = checked(given, params=params)
    assert "undefined field 'limits'" in warning["warning"]


def test_wildcards_say_too_little() -> None:
    rules = [
        {"apiGroups": ["*"], "apiVersions": ["v1"], "resources": ["pods"]},
        {
            "apiGroups": ["apps"],
            "apiVersions": ["v1"],
            "resources": ["deployments", "*/scale", "x/y"],
        },
    ]
    given = {"spec": {"matchConstraints": {"resourceRules": rules}}}
    assert typecheck.resources_of(given) == [("apps", "v1", "deployments")]
