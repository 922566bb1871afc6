"""ClusterRole aggregation: the `rules` of a ClusterRole with an `aggregationRule` are those of the roles that it selects.

Charts extend `admin`, `edit` and `view` so: they label a role of theirs `rbac.authorization.k8s.io/aggregate-to-edit`. The
authorizer counts such a role at once (`apiserver/rbac.py`); here it becomes visible in the object, and what was written into
`rules` by hand is replaced, as Kubernetes documents.
"""

from __future__ import annotations

from typing import Any

import orjson

from sampan.client.resources import CLUSTERROLES
from sampan.controllers.base import Context, Controller, Key, Object, Requeue, Watch
from sampan.kube.objects import labels
from sampan.kube.selectors import from_object


def selectors(role: Object) -> list[Any]:
    return (role.get("aggregationRule") or {}).get("clusterRoleSelectors") or []


def matters(old: Object, new: Object) -> bool:
    return any(old.get(key) != new.get(key) for key in ("rules", "aggregationRule")) or (
        labels(old) != labels(new)
    )


def aggregated(role: Object, others: list[Object]) -> list[Object]:
    """The rules of all selected roles, by name of the role, each once."""
    wanted = [from_object(selector) for selector in selectors(role)]
    found: dict[bytes, Object] = {}
    for other in sorted(others, key=lambda each: str(each["metadata"]["name"])):
        if other["metadata"]["name"] == role["metadata"]["name"]:
            continue
        if any(selector.matches(labels(other)) for selector in wanted):
            for rule in other.get("rules") or ():
                found.setdefault(identity(rule), rule)
    return list(found.values())


def identity(rule: Object) -> bytes:
    return orjson.dumps(rule, option=orjson.OPT_SORT_KEYS)


class ClusterRoleAggregationController(Controller):
    name = "clusterrole-aggregation-controller"
    watches = (
        Watch(CLUSTERROLES, matters=matters, keys=lambda self, role: self.summed_up_in(role)),
    )
    workers = 1

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.roles = self.informer(CLUSTERROLES)

    def summed_up_in(self, role: Object) -> list[Key]:
        """The roles whose sum may change with `role`: those that select it, and itself."""
        mine = labels(role)
        return [
            Key("", other["metadata"]["name"])
            for other in (role, *self.roles.list())
            if selectors(other)
            and (
                other["metadata"]["name"] == role["metadata"]["name"]
                or any(from_object(selector).matches(mine) for selector in selectors(other))
            )
        ]

    async def reconcile(self, key: Key) -> Requeue | None:
        role = self.roles.get(*key)
        if role is None or not selectors(role):
            return None
        wanted = aggregated(role, self.roles.list())
        if {identity(rule) for rule in wanted} == {identity(r) for r in role.get("rules") or ()}:
            return None
        await self.client.update(CLUSTERROLES, {**role, "rules": wanted})
        return None
