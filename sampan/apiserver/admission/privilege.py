"""Privilege: escalation and bind checks on roles and bindings."""

from __future__ import annotations

from sampan.apiserver.admission.plugin import Object, Plugin
from sampan.apiserver.call import Call

RBAC = "rbac.authorization.k8s.io"


class Privilege(Plugin):
    """Nobody grants by a role or a binding what they do not hold."""

    storages = tuple(
        f"{RBAC}/{kind}"
        for kind in ("roles", "rolebindings", "clusterroles", "clusterrolebindings")
    )

    async def create(self, call: Call, obj: Object) -> None:
        await self.lookup.check_grant(call.user, call.resource.name, obj, None)

    async def update(self, call: Call, new: Object, old: Object) -> None:
        await self.lookup.check_grant(call.user, call.resource.name, new, old)
