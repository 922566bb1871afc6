"""ValidatingAdmissionPolicy status: whether the expressions fit the kinds that the policy names (`status.typeChecking`).

Built-in kinds are known from the schema that every process carries, custom ones from their definitions. The check is made once
for a generation of the policy, loads the expression language with the first policy, and changes nothing about admission.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from sampan.client.resources import CUSTOMRESOURCEDEFINITIONS
from sampan.controllers.base import Context, Controller, Key, Object, Requeue, Watch
from sampan.kube.errors import ApiError
from sampan.kube.types import GVK, GVR, split_api_version

if TYPE_CHECKING:
    from sampan.kube.cel.types import Type

POLICIES = GVR("admissionregistration.k8s.io", "v1", "validatingadmissionpolicies")


def unchecked(policy: Object) -> bool:
    status = policy.get("status") or {}
    return (
        status.get("observedGeneration") != policy["metadata"].get("generation")
        or "typeChecking" not in status
    )


class PolicyStatusController(Controller):
    name = "validatingadmissionpolicy-status-controller"
    watches = (Watch(POLICIES),)
    workers = 1

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.policies = self.informer(POLICIES)

    async def reconcile(self, key: Key) -> Requeue | None:
        policy = self.policies.get(*key)
        if policy is None or not unchecked(policy):
            return None
        from sampan.kube.cel import typecheck

        types: dict[GVK, Type] = {}
        for group, version, resource in typecheck.resources_of(policy):
            kind = await self.kind_of(group, version, resource)
            type_ = None if kind is None else await self.type_of(kind, resource)
            if kind is not None and type_ is not None:
                types[kind] = type_
        found = typecheck.warnings(policy, types, await self.params_of(policy))
        checked = {"expressionWarnings": found} if found else {}
        status = {
            **(policy.get("status") or {}),
            "observedGeneration": policy["metadata"].get("generation", 0),
            "typeChecking": checked,
        }
        await self.client.update(POLICIES, {**policy, "status": status}, "status")
        return None

    async def resources(self, group: str, version: str) -> list[Object]:
        """What discovery says of a group and version; nothing of one that is not served."""
        path = f"/apis/{group}/{version}" if group else f"/api/{version}"
        try:
            response = await self.client.raw("GET", path)
        except ApiError as error:
            if error.code == 404:
                return []
            raise
        found: list[Object] = orjson.loads(await response.read()).get("resources") or []
        return found

    async def kind_of(self, group: str, version: str, resource: str) -> GVK | None:
        for each in await self.resources(group, version):
            if each["name"] == resource:
                return GVK(group, version, each["kind"])
        return None

    async def type_of(self, kind: GVK, resource: str) -> Type | None:
        from sampan.kube.cel import builtin, schema

        found = builtin.type_of(kind)
        if found is not None:
            return found
        try:
            name = f"{resource}.{kind.group}"
            definition = await self.client.get(CUSTOMRESOURCEDEFINITIONS, name)
        except ApiError as error:
            if error.code == 404:
                return None
            raise
        for version in definition["spec"]["versions"]:
            given = (version.get("schema") or {}).get("openAPIV3Schema")
            if version["name"] == kind.version and given:
                return schema.from_schema(given, root=True)
        return None

    async def params_of(self, policy: Object) -> Type | None:
        given = policy["spec"].get("paramKind")
        if not given:
            return None
        group, version = split_api_version(given.get("apiVersion") or "")
        for each in await self.resources(group, version):
            if each["kind"] == given.get("kind") and "/" not in each["name"]:
                return await self.type_of(GVK(group, version, each["kind"]), each["name"])
        return None
