"""Authorization: may this user do this? A chain of three, first opinion wins.

`system:masters` may do everything. A node (`system:node:NAME` in `system:nodes`) may do what `nodeauthz.py` says. Everyone
is judged by RBAC then. RBAC's answers are remembered until a role or a binding changes; a node's depend on pods and are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from sampan.apiserver.nodeauthz import NodeAuthorizer
from sampan.apiserver.rbac import (
    ALL,
    RBAC_GROUP,
    Attributes,
    RBACIndex,
    Rule,
    missing_rules,
    quoted,
)
from sampan.apiserver.routes import RequestInfo
from sampan.client.transport import User
from sampan.kube import errors
from sampan.kube.errors import ApiError

MASTERS = "system:masters"
NODES = "system:nodes"
NODE_PREFIX = "system:node:"

REMEMBERED = 8192  # answers; all are forgotten when there are more


class Decision(NamedTuple):
    allowed: bool
    reason: str = ""


NO_OPINION = Decision(False)
ALLOWED = Decision(True, "")


def attributes(user: User, info: RequestInfo) -> Attributes:
    if not info.is_resource:
        return Attributes(user, info.verb, path=info.path)
    return Attributes(
        user,
        info.verb,
        info.group,
        info.version,
        info.resource,
        info.subresource,
        info.namespace,
        info.name,
        # Nobody else's answer depends on it, and would else not be remembered.
        field_selector=info.field_selector if info.field_selector and node_name(user) else "",
    )


def node_name(user: User) -> str:
    """The node that the user is; "" for anyone else."""
    if NODES in user.groups and user.name.startswith(NODE_PREFIX):
        return user.name[len(NODE_PREFIX) :]
    return ""


class Authorizer:
    """`nodes` judges nodes before RBAC does; without it they are users like others."""

    def __init__(self, index: RBACIndex, nodes: NodeAuthorizer | None = None) -> None:
        self.index = index
        self.nodes = nodes
        self._remembered: dict[Attributes, Decision] = {}
        self._generation = index.generation

    def authorize(self, asked: Attributes) -> Decision:
        if MASTERS in asked.user.groups:
            return ALLOWED
        if self._generation != self.index.generation or len(self._remembered) > REMEMBERED:
            self._remembered.clear()
            self._generation = self.index.generation
        decision = self._remembered.get(asked)
        if decision is None:
            node = node_name(asked.user)
            wrong = self.nodes.refusal(node, asked) if node and self.nodes else None
            if wrong == "":
                return ALLOWED
            reason = self.index.allows(asked)
            decision = Decision(bool(reason), reason or self.index.problem(asked))
            if node:
                return decision if reason else Decision(False, wrong or decision.reason)
            self._remembered[asked] = decision
        return decision

    def check(self, user: User, info: RequestInfo) -> None:
        """Raises ApiError 403, worded as Kubernetes words it, when the request is not allowed."""
        if MASTERS in user.groups:
            return
        asked = attributes(user, info)
        decision = self.authorize(asked)
        if not decision.allowed:
            raise forbidden(asked, decision.reason)

    # --- granting ------------------------------------------------------------------------------------

    def holds(self, user: User, namespace: str) -> list[Rule]:
        if MASTERS in user.groups:
            return [EVERYTHING, EVERY_PATH]
        return self.index.rules_for(user, namespace)

    def check_role(
        self, user: User, resource: str, new: Mapping[str, Any], old: Mapping[str, Any] | None
    ) -> None:
        """Raises 403 when writing this role would grant what `user` does not hold (verb `escalate` lifts this)."""
        if MASTERS in user.groups or _same(new, old, "rules", "aggregationRule"):
            return
        name = new["metadata"].get("name", "")
        namespace = new["metadata"].get("namespace") or ""
        asked = Attributes(user, "escalate", RBAC_GROUP, "v1", resource, "", namespace, name)
        if self.authorize(asked).allowed:
            return
        wanted = [Rule.of(rule) for rule in new.get("rules") or ()]
        if new.get("aggregationRule") and not _same(new, old, "aggregationRule"):
            lacking = missing_rules(self.holds(user, ""), [EVERYTHING, EVERY_PATH])
            if lacking:
                raise errors.forbidden(
                    resource,
                    name,
                    f"must have cluster-admin privileges to use an aggregationRule: {_grant(user, lacking)}",
                    RBAC_GROUP,
                )
        lacking = missing_rules(self.holds(user, namespace), wanted)
        if lacking:
            raise errors.forbidden(resource, name, _grant(user, lacking), RBAC_GROUP)

    def check_binding(
        self, user: User, resource: str, new: Mapping[str, Any], old: Mapping[str, Any] | None
    ) -> None:
        """Raises 403 when the bound role grants what `user` does not hold (verb `bind` on the role lifts this)."""
        if MASTERS in user.groups or _same(new, old, "subjects", "roleRef"):
            return
        namespace = new["metadata"].get("namespace") or ""
        role = new.get("roleRef") or {}
        cluster = role.get("kind") == "ClusterRole"
        asked = Attributes(
            user,
            "bind",
            RBAC_GROUP,
            "v1",
            "clusterroles" if cluster else "roles",
            "",
            namespace,
            role.get("name", ""),
        )
        if self.authorize(asked).allowed:
            return
        wanted = self.index.rules_of_role(("" if cluster else namespace, role.get("name", "")))
        lacking = missing_rules(self.holds(user, namespace), wanted)
        if lacking:
            name = new["metadata"].get("name", "")
            raise errors.forbidden(resource, name, _grant(user, lacking), RBAC_GROUP)


EVERYTHING = Rule(frozenset((ALL,)), frozenset((ALL,)), frozenset((ALL,)))
EVERY_PATH = Rule(frozenset((ALL,)), urls=frozenset((ALL,)))


def _same(new: Mapping[str, Any], old: Mapping[str, Any] | None, *fields: str) -> bool:
    return old is not None and all(new.get(name) == old.get(name) for name in fields)


def _grant(user: User, lacking: list[Rule]) -> str:
    rules = "\n".join(str(rule) for rule in lacking)
    return (
        f'user "{user.name}" (groups={quoted(user.groups)}) is attempting to grant RBAC permissions '
        f"not currently held:\n{rules}"
    )


def forbidden(asked: Attributes, reason: str = "") -> ApiError:
    """403 as kube-apiserver words it."""
    who = f'User "{asked.user.name}" cannot {asked.verb}'
    if not asked.resource:
        text = f'{who} path "{asked.path}"'
    else:
        text = f'{who} resource "{asked.full_resource}" in API group "{asked.group}"'
        text += (
            f' in the namespace "{asked.namespace}"' if asked.namespace else " at the cluster scope"
        )
    if reason:
        text += f": {reason}"
    return errors.forbidden(asked.resource, asked.name, text, asked.group)
