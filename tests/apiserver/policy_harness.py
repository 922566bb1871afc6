"""Admission policies and their bindings, made and laid down."""

from __future__ import annotations

from typing import Any

import orjson
from apiserver_harness import (
    Harness,
)

Object = dict[str, Any]
GROUP = "/apis/admissionregistration.k8s.io/v1"


def rule(resources: str, operations: str = "*", group: str = "", version: str = "*") -> Object:
    return {
        "apiGroups": [group],
        "apiVersions": [version],
        "resources": resources.split(),
        "operations": operations.split(),
    }


def policy(kind: str, name: str, rules: list[Object] | None = None, **spec: Any) -> Object:
    spec.setdefault("matchConstraints", {"resourceRules": rules or [rule("configmaps")]})
    if kind == "Mutating":
        spec.setdefault("reinvocationPolicy", "Never")
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": f"{kind}AdmissionPolicy",
        "metadata": {"name": name},
        "spec": spec,
    }


def binding(kind: str, name: str, of: str, **spec: Any) -> Object:
    if kind == "Validating":
        spec.setdefault("validationActions", ["Deny"])
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": f"{kind}AdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": of, **spec},
    }


async def validating(
    api: Harness,
    *validations: Object | str,
    name: str = "p",
    bound: Object | None = None,
    **spec: Any,
) -> None:
    given = [{"expression": each} if isinstance(each, str) else each for each in validations]
    made = policy("Validating", name, validations=given, **spec)
    await api.call("POST", f"{GROUP}/validatingadmissionpolicies", made)
    bind = binding("Validating", f"{name}-b", name, **(bound or {}))
    await api.call("POST", f"{GROUP}/validatingadmissionpolicybindings", bind)


async def mutating(api: Harness, *mutations: Object, name: str = "p", **spec: Any) -> None:
    made = policy("Mutating", name, mutations=list(mutations), **spec)
    await api.call("POST", f"{GROUP}/mutatingadmissionpolicies", made)
    bind = binding("Mutating", f"{name}-b", name)
    await api.call("POST", f"{GROUP}/mutatingadmissionpolicybindings", bind)


def applying(expression: str) -> Object:
    return {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}


def patching(expression: str) -> Object:
    return {"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}


async def refused(api: Harness, method: str, path: str, body: Any = None, **more: Any) -> Object:
    response = await api.send(method, path, body, **more)
    found: Object = orjson.loads(await response.read())
    assert response.status >= 400, found
    return found
