"""Authorization: may this user do this? A chain of three, first opinion wins.

`system:masters` may do everything. A node (`system:node:NAME` in `system:nodes`) may do what a kubelet has to, and only
to itself and to the pods that are bound to it (the Node authorizer and NodeRestriction, without the graph of secrets).
Everyone else is judged by RBAC. Answers are remembered until a role or a binding changes; a node's answer about a pod
depends on the pod and is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from sampan.apiserver.bootstrap_rbac import NODE_RULES
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
NODE_LEASES = "kube-node-lease"

REMEMBERED = 8192  # answers; all are forgotten when there are more

Find = Callable[[str, str, str], Mapping[str, Any] | None]  # (resource, namespace, name)


class Decision(NamedTuple):
    allowed: bool
    reason: str = ""


NO_OPINION = Decision(False)
MASTER = Decision(True, "")


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
    )


def node_name(user: User) -> str:
    """The node that the user is; "" for anyone else."""
    if NODES in user.groups and user.name.startswith(NODE_PREFIX):
        return user.name[len(NODE_PREFIX) :]
    return ""


class Authorizer:
    """`find` reads a stored object (core group) from the watch cache: (resource, namespace, name)."""

    def __init__(self, index: RBACIndex, find: Find) -> None:
        self.index = index
        self.find = find
        self._remembered: dict[Attributes, Decision] = {}
        self._generation = index.generation

    def authorize(self, asked: Attributes) -> Decision:
        if MASTERS in asked.user.groups:
            return MASTER
        if self._generation != self.index.generation or len(self._remembered) > REMEMBERED:
            self._remembered.clear()
            self._generation = self.index.generation
        decision = self._remembered.get(asked)
        if decision is None:
            node = node_name(asked.user)
            if node and (allowed := self._authorize_node(node, asked)) is not None:
                return allowed
            reason = self.index.allows(asked)
            decision = Decision(bool(reason), reason)
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

    def _authorize_node(self, node: str, asked: Attributes) -> Decision | None:
        """None: no opinion, RBAC decides."""
        if not any(rule.allows(asked) for rule in NODE_RULES):
            return None
        restriction = _RESTRICTIONS.get((asked.group, asked.resource))
        reason = restriction(node, asked, self.find) if restriction else ""
        return Decision(not reason, reason)

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


# --- what a node may do only to what is its own: "" or why not ----------------------------------------

WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


def _own_node(node: str, asked: Attributes, _find: Find) -> str:
    if asked.verb in WRITES and asked.name not in ("", node):
        return f'node "{node}" is not allowed to modify node "{asked.name}"'
    return ""


def _own_lease(node: str, asked: Attributes, _find: Find) -> str:
    if asked.namespace != NODE_LEASES:
        return f'can only access leases in the "{NODE_LEASES}" system namespace'
    if asked.name not in ("", node):
        return f'can only access node lease with the same name as the requesting node "{node}"'
    return ""


def _own_pod(node: str, asked: Attributes, find: Find) -> str:
    if asked.verb not in WRITES or (asked.verb == "create" and not asked.subresource):
        return ""  # NodeRestriction judges the content of a new one
    pod = find("pods", asked.namespace, asked.name)
    bound = ((pod or {}).get("spec") or {}).get("nodeName") or ""
    if pod is not None and bound != node:
        return f'node "{node}" can only change pods with spec.nodeName set to itself'
    return ""


def _named(node: str, asked: Attributes, _find: Find) -> str:
    if not asked.name:
        return f"No Object name found for {asked.verb} by node {node}"
    return ""


_RESTRICTIONS: dict[tuple[str, str], Callable[[str, Attributes, Find], str]] = {
    ("", "nodes"): _own_node,
    ("", "pods"): _own_pod,
    ("", "secrets"): _named,
    ("", "configmaps"): _named,
    ("coordination.k8s.io", "leases"): _own_lease,
}
