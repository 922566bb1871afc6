"""What expressions of admission may speak of: the variables' types, and the types that mutations build.

https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/#validation-expression
"""

from __future__ import annotations

from collections.abc import Mapping

from sampan.kube.cel.types import (
    BOOL,
    DYN,
    INT,
    STRING,
    TIMESTAMP,
    DynamicObject,
    Field,
    ObjectType,
    Type,
    list_of,
    map_of,
    record,
)

_KIND = record("kubernetes.GroupVersionKind", group=STRING, version=STRING, kind=STRING)
_RESOURCE = record("kubernetes.GroupVersionResource", group=STRING, version=STRING, resource=STRING)
_USER = record(
    "kubernetes.UserInfo",
    username=STRING,
    uid=STRING,
    groups=list_of(STRING),
    extra=map_of(STRING, list_of(STRING)),
)
REQUEST = record(
    "kubernetes.AdmissionRequest",
    kind=_KIND,
    resource=_RESOURCE,
    subResource=STRING,
    requestKind=_KIND,
    requestResource=_RESOURCE,
    requestSubResource=STRING,
    name=STRING,
    namespace=STRING,
    operation=STRING,
    userInfo=_USER,
    dryRun=BOOL,
    options=DYN,
)
NAMESPACE = record(
    "kubernetes.Namespace",
    metadata=record(
        "kubernetes.NamespaceMetadata",
        name=STRING,
        generateName=STRING,
        namespace=STRING,
        labels=map_of(STRING, STRING),
        annotations=map_of(STRING, STRING),
        UID=STRING,
        creationTimestamp=TIMESTAMP,
        deletionGracePeriodSeconds=INT,
        deletionTimestamp=TIMESTAMP,
        generation=INT,
        resourceVersion=STRING,
        finalizers=list_of(STRING),
    ),
    spec=record("kubernetes.NamespaceSpec", finalizers=list_of(STRING)),
    status=record(
        "kubernetes.NamespaceStatus",
        phase=STRING,
        conditions=list_of(
            record(
                "kubernetes.NamespaceCondition",
                status=STRING,
                type=STRING,
                lastTransitionTime=TIMESTAMP,
                message=STRING,
                reason=STRING,
            )
        ),
    ),
)


def declared(*, params: bool = False, authorizer: bool = True) -> dict[str, Type]:
    """The variables of an expression of admission."""
    found: dict[str, Type] = {"object": DYN, "oldObject": DYN, "request": REQUEST}
    found["namespaceObject"] = NAMESPACE
    if params:
        found["params"] = DYN
    if authorizer:
        from sampan.kube.cel.library.authorizer import AUTHORIZER, RESOURCE_CHECK

        found["authorizer"] = AUTHORIZER
        found["authorizer.requestResource"] = RESOURCE_CHECK
    return found


OBJECT = DynamicObject("Object")
JSON_PATCH = record("JSONPatch", op=STRING, path=STRING, from_=STRING, value=DYN)
PATCHES = list_of(JSON_PATCH)


def patch_types(name: str) -> Type | None:
    """The types that a mutation may build: `Object{…}`, `Object.spec{…}` …, `JSONPatch{…}`."""
    if name == "Object" or name.startswith("Object."):
        return DynamicObject(name)
    return JSON_PATCH if name == "JSONPatch" else None


class Variables(ObjectType):
    """`variables`, with those that are declared so far. They are values already when they are read."""

    __slots__ = ()

    def __init__(self, fields: Mapping[str, Field]) -> None:
        super().__init__("kubernetes.variables", fields)
        self.plain = True
