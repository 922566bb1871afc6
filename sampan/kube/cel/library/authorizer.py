"""`authorizer`: what may this user, or a service account, do? https://kubernetes.io/docs/reference/using-api/cel/#kubernetes-authorizer-library

The value bound to the variable is `authorizer(check)`; `check` is asked with a `Question` and gives a `Decision`. It must
answer without waiting: whoever evaluates has loaded what it needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from sampan.kube.cel.errors import EvaluationError
from sampan.kube.cel.functions import Library, method
from sampan.kube.cel.types import BOOL, STRING, Type, opaque
from sampan.kube.cel.values import Opaque

AUTHORIZER = opaque("kubernetes.authorization.Authorizer")
PATH_CHECK = opaque("kubernetes.authorization.PathCheck")
GROUP_CHECK = opaque("kubernetes.authorization.GroupCheck")
RESOURCE_CHECK = opaque("kubernetes.authorization.ResourceCheck")
DECISION = opaque("kubernetes.authorization.Decision")


@dataclass(frozen=True, slots=True)
class Question:
    """What a SubjectAccessReview asks. `account` is (namespace, name) of a service account, else the user asks."""

    account: tuple[str, str] | None = None
    path: str = ""
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    field_selector: str = ""
    label_selector: str = ""
    verb: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    allowed: bool
    reason: str = ""
    error: str = ""


Check = Callable[[Question], Decision]


@dataclass(frozen=True, slots=True)
class _Asked:
    check: Check
    question: Question


def authorizer(check: Check) -> Opaque:
    return Opaque(AUTHORIZER, _Asked(check, Question()))


def resource_check(check: Check, question: Question) -> Opaque:
    """`authorizer.requestResource`: the resource of the request, filled in."""
    return Opaque(RESOURCE_CHECK, _Asked(check, question))


def _with(asked: Opaque, type_: Type, **fields: Any) -> Opaque:
    value: _Asked = asked.value
    return Opaque(type_, _Asked(value.check, replace(value.question, **fields)))


def _path(asked: Opaque, path: str) -> Opaque:
    if not path.strip():
        raise EvaluationError("path must not be empty")
    return _with(asked, PATH_CHECK, path=path)


def _account(asked: Opaque, namespace: str, name: str) -> Opaque:
    from sampan.kube import names

    if wrong := names.dns1123_subdomain(name):
        raise EvaluationError(f"Invalid service account name: {', '.join(wrong)}")
    if wrong := names.dns1123_label(namespace):
        raise EvaluationError(f"Invalid service account namespace: {', '.join(wrong)}")
    return _with(asked, AUTHORIZER, account=(namespace, name))


def _check(asked: Opaque, verb: str) -> Opaque:
    value: _Asked = asked.value
    return Opaque(DECISION, value.check(replace(value.question, verb=verb)))


def _setter(field: str, target: Type = RESOURCE_CHECK) -> Callable[..., Opaque]:
    def set_field(asked: Opaque, text: str) -> Opaque:
        return _with(asked, target, **{field: text})

    return set_field


FUNCTIONS: Library = {
    "path": [method("authorizer_path", (AUTHORIZER, STRING), PATH_CHECK, _path)],
    "group": [
        method("authorizer_group", (AUTHORIZER, STRING), GROUP_CHECK, _setter("group", GROUP_CHECK))
    ],
    "serviceAccount": [
        method("authorizer_serviceaccount", (AUTHORIZER, STRING, STRING), AUTHORIZER, _account)
    ],
    "resource": [
        method("groupcheck_resource", (GROUP_CHECK, STRING), RESOURCE_CHECK, _setter("resource"))
    ],
    **{
        name: [
            method(
                f"resourcecheck_{name}", (RESOURCE_CHECK, STRING), RESOURCE_CHECK, _setter(field)
            )
        ]
        for name, field in (
            ("subresource", "subresource"),
            ("namespace", "namespace"),
            ("name", "name"),
            ("fieldSelector", "field_selector"),
            ("labelSelector", "label_selector"),
        )
    },
    "check": [
        method("pathcheck_check", (PATH_CHECK, STRING), DECISION, _check),
        method("resourcecheck_check", (RESOURCE_CHECK, STRING), DECISION, _check),
    ],
    "allowed": [method("decision_allowed", (DECISION,), BOOL, lambda a: a.value.allowed)],
    "reason": [method("decision_reason", (DECISION,), STRING, lambda a: a.value.reason)],
    "errored": [method("decision_errored", (DECISION,), BOOL, lambda a: bool(a.value.error))],
    "error": [method("decision_error", (DECISION,), STRING, lambda a: a.value.error)],
}
