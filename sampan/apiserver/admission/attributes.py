"""What webhooks and policies are shown of a request: its operation, its objects in the version that they asked for, who asks.

An object comes to admission in the version in which it is stored (a custom one in the request's). `Attributes` keeps that one
object, shows it in any version of its kind, and takes a changed one back: fitted to its schema and defaulted, as
if the user had sent it. Built-in plug-ins see the stored form and have no use for this.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import orjson

from sampan.apiserver import conversion, scale
from sampan.apiserver.call import Call
from sampan.apiserver.crd.scale import CustomScale
from sampan.apiserver.resources import Resource, Table
from sampan.apiserver.reviews import user_info
from sampan.kube import errors
from sampan.kube.errors import ApiError
from sampan.kube.objects import clone
from sampan.kube.types import GVK

Object = dict[str, Any]

CREATE, UPDATE, DELETE, CONNECT = "CREATE", "UPDATE", "DELETE", "CONNECT"
# Written by the server itself after the request's own object was admitted.
CREATE_ONLY = frozenset({"binding", "eviction", "token"})
SCALE = GVK("autoscaling", "v1", "Scale")
# Set by the server when the object is stored, which is after it was mutated.
SYSTEM_FIELDS = ("uid", "creationTimestamp", "generation")
# What no webhook or policy can change.
KEPT_FIELDS = (
    *SYSTEM_FIELDS,
    "resourceVersion",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "namespace",
    "managedFields",
)
DELETE_OPTIONS = (
    "gracePeriodSeconds",
    "preconditions",
    "orphanDependents",
    "propagationPolicy",
)


class Attributes:
    def __init__(
        self,
        call: Call,
        operation: str,
        obj: Object | None,
        old: Object | None,
        table: Table,
        *,
        mutating: bool = False,
    ) -> None:
        """`obj` is the live object: `replace` changes it in place."""
        self.call = call
        self.operation = operation
        self.obj = obj
        self.old = old
        self.table = table
        self.row = call.resource
        self.subresource = call.info.subresource
        self.mutating = mutating
        self._seen: dict[tuple[Resource, bool], Object | None] = {}

    @property
    def namespace(self) -> str:
        """Of the request; that of a Namespace is its own name, as Kubernetes has it."""
        if self.row.storage == "core/namespaces":
            return self.name
        return self.call.info.namespace

    @property
    def name(self) -> str:
        if self.call.info.name:
            return self.call.info.name
        metadata = (self.obj or {}).get("metadata") or {}
        return "" if self.mutating and _generated(metadata) else metadata.get("name") or ""

    @property
    def kind(self) -> GVK:
        """Of the request's object."""
        return self.kind_of(self.row)

    def kind_of(self, row: Resource) -> GVK:
        sub = self.row.subresource(self.subresource) if self.subresource else None
        if sub is not None and sub.kind != row.kind:
            return GVK(sub.group, sub.version or "v1", sub.kind)
        return GVK(row.group, row.version, row.kind)

    @cached_property
    def equivalents(self) -> list[Resource]:
        """The other rows of the same stored kind."""
        return [
            each
            for each in self.table.rows.values()
            if each.storage == self.row.storage and each is not self.row
        ]

    # Objects in a version

    async def show(self, row: Resource, *, old: bool = False) -> Object | None:
        """The object (or the old one) in a row's version; the same dict until the object is replaced."""
        key = (row, old)
        if key not in self._seen:
            self._seen[key] = await self._shown(row, self.old if old else self.obj)
        return self._seen[key]

    async def _shown(self, row: Resource, obj: Object | None) -> Object | None:
        if obj is None or self.operation == CONNECT or self.subresource in CREATE_ONLY:
            return obj
        if self.subresource == "scale":
            found: Object = self._scale.of(obj)
            return found
        if row.custom is not None:
            if obj["apiVersion"] != row.api_version:
                [obj] = await row.custom.definition.converter.convert([obj], row.api_version)
        else:
            obj = conversion.from_storage(row, obj)
        if self.mutating and self.operation == CREATE and obj is not self.old:
            metadata = {
                key: value for key, value in obj["metadata"].items() if key not in SYSTEM_FIELDS
            }
            if _generated(metadata):
                metadata.pop("name")
            obj = {**obj, "metadata": metadata}
        return obj

    @property
    def _scale(self) -> Any:
        custom = self.row.custom
        return scale if custom is None else CustomScale(custom.scale or {})

    async def replace(self, row: Resource, new: Any) -> bool:
        """Take a changed object of a row's version; whether it differs from what was. Raises ApiError 500."""
        assert self.obj is not None
        before = clone(self.obj)
        if self.operation == CONNECT or self.subresource in CREATE_ONLY:
            made = new
        elif self.subresource == "scale":
            made = self._scale.apply(clone(self.obj), self._fitted(SCALE, new, self.row))
        else:
            gvk = GVK(row.group, row.version, row.kind)
            fitted = self._fitted(gvk, new, row)
            if row.custom is not None:
                if fitted["apiVersion"] != self.obj["apiVersion"]:
                    [fitted] = await row.custom.definition.converter.convert(
                        [fitted], self.obj["apiVersion"]
                    )
                made = fitted
            else:
                made = conversion.to_storage(row, fitted)
            self._keep_system_fields(made)
        metadata = self.obj.get("metadata")
        self._seen = {key: value for key, value in self._seen.items() if key[1]}
        self.obj.clear()
        self.obj.update(made)
        if metadata is not None and isinstance(self.obj.get("metadata"), dict):
            # Whoever wrote this request still holds the metadata: it stays the same dict.
            fresh = self.obj["metadata"]
            metadata.clear()
            metadata.update(fresh)
            self.obj["metadata"] = metadata
        return before != self.obj

    def _fitted(self, gvk: GVK, new: Any, row: Resource) -> Object:
        """What a webhook or policy made, as if a user had sent it; fields that are unknown are dropped."""
        from sampan.apiserver.body import conforming  # which knows the registry, which knows us

        call = self.call
        quiet = Call(call.request, call.info, row, call.user, field_validation="Ignore")
        try:
            return conforming(quiet, gvk, new)
        except ApiError as error:
            raise errors.internal(error.message) from error

    def _keep_system_fields(self, made: Object) -> None:
        assert self.obj is not None
        before, after = self.obj["metadata"], made["metadata"]
        for key in KEPT_FIELDS:
            if key in before:
                after[key] = before[key]
            else:
                after.pop(key, None)
        if before.get("name"):
            after["name"] = before["name"]

    # What is told of the request

    def request(self, matched: Resource) -> Object:
        """An AdmissionRequest without its objects, for a rule that matched this row."""
        call = self.call
        kind = self.kind_of(matched)
        request: Object = {
            "kind": _gvk(kind),
            "resource": _gvr(matched),
            "requestKind": _gvk(self.kind),
            "requestResource": _gvr(self.row),
            "operation": self.operation,
            "userInfo": user_info(call.user),
            "dryRun": call.dry_run,
            "options": self.options,
        }
        if self.subresource:
            request["subResource"] = request["requestSubResource"] = self.subresource
        if self.name:
            request["name"] = self.name
        if self.namespace:
            request["namespace"] = self.namespace
        return request

    @cached_property
    def options(self) -> Object | None:
        """CreateOptions, UpdateOptions, PatchOptions or DeleteOptions, as the request gave them."""
        if self.operation == CONNECT:
            return None
        call, request = self.call, self.call.request
        verb = "Delete" if self.operation == DELETE else "Create"
        if self.operation == UPDATE:
            verb = "Patch" if request.method == "PATCH" else "Update"
        found: Object = {"kind": f"{verb}Options", "apiVersion": "meta.k8s.io/v1"}
        if call.dry_run:
            found["dryRun"] = ["All"]
        if self.operation == DELETE:
            return found | _delete_options(call)
        for key in ("fieldManager", "fieldValidation"):
            if value := request.param(key):
                found[key] = value
        if request.param("force") in ("true", "1"):
            found["force"] = True
        return found


def _generated(metadata: Object) -> bool:
    """Was the name made by the server? Webhooks that mutate are asked before that is done."""
    base, name = metadata.get("generateName") or "", metadata.get("name") or ""
    return bool(base) and len(name) > 5 and base.startswith(name[:-5])


def _delete_options(call: Call) -> Object:
    """Those of the body, or of the query where there is no body."""
    request = call.request
    try:
        body = orjson.loads(request.body) if request.body else None
    except orjson.JSONDecodeError:
        body = None  # protobuf or YAML, which was understood before
    if isinstance(body, dict):
        return {key: body[key] for key in DELETE_OPTIONS if body.get(key) is not None}
    found: Object = {}
    if (seconds := request.param("gracePeriodSeconds")).isdecimal():
        found["gracePeriodSeconds"] = int(seconds)
    if policy := request.param("propagationPolicy"):
        found["propagationPolicy"] = policy
    return found


def _gvk(kind: GVK) -> Object:
    return {"group": kind.group, "version": kind.version, "kind": kind.kind}


def _gvr(row: Resource) -> Object:
    return {"group": row.group, "version": row.version, "resource": row.name}


def why(error: ApiError) -> str:
    """What is wrong with a patch: its cause says more than its message."""
    causes = error.details.get("causes") or [{}]
    return str(causes[0].get("message") or error.message)
