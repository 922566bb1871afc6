"""Flow control's objects as pure data: the defaults that every cluster has, and which FlowSchema a request falls under.

The defaults are those of Kubernetes (API priority and fairness, KEP-1040): two that must exist, and the suggested ones.
A request belongs to the first schema, by matchingPrecedence and then name, one of whose rules names its user and what it
does. The schema says its priority level and what tells flows of that level apart: the user, the namespace, or nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sampan.apiserver.routes import RequestInfo
from sampan.client.transport import User

Object = dict[str, Any]
API_VERSION = "flowcontrol.apiserver.k8s.io/v1"
AUTO_UPDATE = "apf.kubernetes.io/autoupdate-spec"
EVERYONE = ("system:unauthenticated", "system:authenticated")
SERVICE_ACCOUNT = "system:serviceaccount:"
EXEMPT, CATCH_ALL = "exempt", "catch-all"

# name → (shares, lendable percent, queues, hand size, queue length); without queues, what is too much is refused.
LEVELS: dict[str, tuple[int, int, int, int, int]] = {
    CATCH_ALL: (5, 0, 0, 0, 0),
    "system": (30, 33, 64, 6, 50),
    "node-high": (40, 25, 64, 6, 50),
    "leader-election": (10, 0, 16, 4, 50),
    "workload-high": (40, 50, 128, 6, 50),
    "workload-low": (100, 90, 128, 6, 50),
    "global-default": (20, 50, 128, 6, 50),
}


def users(*names: str) -> list[Object]:
    return [{"kind": "User", "user": {"name": name}} for name in names]


def groups(*names: str) -> list[Object]:
    return [{"kind": "Group", "group": {"name": name}} for name in names]


def system_accounts(*names: str) -> list[Object]:
    return [
        {"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": name}}
        for name in names
    ]


def on(
    verbs: Sequence[str], group: str, resources: Sequence[str], *, cluster: bool = False
) -> Object:
    """A rule for resources in every namespace, and those without one when `cluster`."""
    rule: Object = {"verbs": list(verbs), "apiGroups": [group], "resources": list(resources)}
    if cluster:
        rule["clusterScope"] = True
    return {**rule, "namespaces": ["*"]}


ALL = on("*", "*", "*", cluster=True)
ALL_PATHS = {"verbs": ["*"], "nonResourceURLs": ["*"]}
PROBES = {"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}
LEASES = on(("get", "create", "update"), "coordination.k8s.io", ("leases",))
USER, NAMESPACE = "ByUser", "ByNamespace"
MANAGER, SCHEDULER = "system:kube-controller-manager", "system:kube-scheduler"

# name → (level, precedence, what tells flows apart, subjects, rules for resources, rules for paths)
SCHEMAS: dict[str, tuple[str, int, str, list[Object], list[Object], list[Object]]] = {
    EXEMPT: (EXEMPT, 1, "", groups("system:masters"), [ALL], [ALL_PATHS]),
    "probes": (EXEMPT, 2, "", groups(*EVERYONE), [], [PROBES]),
    "system-leader-election": (
        "leader-election",
        100,
        USER,
        [*users(MANAGER, SCHEDULER), *system_accounts("*")],
        [LEASES],
        [],
    ),
    "endpoint-controller": (
        "workload-high",
        150,
        USER,
        [
            *users(MANAGER),
            *system_accounts("endpoint-controller", "endpointslicemirroring-controller"),
        ],
        [on(("get", "create", "update"), "", ("endpoints",))],
        [],
    ),
    "workload-leader-election": (
        "leader-election",
        200,
        USER,
        system_accounts("*"),
        [on(("get", "create", "update"), "", ("endpoints", "configmaps")), LEASES],
        [],
    ),
    "system-node-high": (
        "node-high",
        400,
        USER,
        groups("system:nodes"),
        [
            on("*", "", ("nodes", "nodes/status"), cluster=True),
            on("*", "coordination.k8s.io", ("leases",)),
        ],
        [],
    ),
    "system-nodes": ("system", 500, USER, groups("system:nodes"), [ALL], [ALL_PATHS]),
    "kube-controller-manager": (
        "workload-high",
        800,
        NAMESPACE,
        users(MANAGER),
        [ALL],
        [ALL_PATHS],
    ),
    "kube-scheduler": ("workload-high", 800, NAMESPACE, users(SCHEDULER), [ALL], [ALL_PATHS]),
    "kube-system-service-accounts": (
        "workload-high",
        900,
        NAMESPACE,
        system_accounts("*"),
        [ALL],
        [ALL_PATHS],
    ),
    "service-accounts": (
        "workload-low",
        9000,
        USER,
        groups("system:serviceaccounts"),
        [ALL],
        [ALL_PATHS],
    ),
    "global-default": ("global-default", 9900, USER, groups(*EVERYONE), [ALL], [ALL_PATHS]),
    CATCH_ALL: (CATCH_ALL, 10000, USER, groups(*EVERYONE), [ALL], [ALL_PATHS]),
}


def default_levels() -> list[Object]:
    exempt = {"nominalConcurrencyShares": 0, "lendablePercent": 0}
    found = [_object("PriorityLevelConfiguration", EXEMPT, {"type": "Exempt", "exempt": exempt})]
    for name, (shares, lendable, queues, hand, length) in LEVELS.items():
        response: Object = {"type": "Reject"}
        if queues:
            queuing = {"queues": queues, "handSize": hand, "queueLengthLimit": length}
            response = {"type": "Queue", "queuing": queuing}
        limited = {
            "nominalConcurrencyShares": shares,
            "limitResponse": response,
            "lendablePercent": lendable,
        }
        spec = {"type": "Limited", "limited": limited}
        found.append(_object("PriorityLevelConfiguration", name, spec))
    return found


def default_schemas() -> list[Object]:
    found = []
    for name, (level, precedence, distinguisher, subjects, resources, paths) in SCHEMAS.items():
        rules: Object = {"subjects": subjects}
        if resources:
            rules["resourceRules"] = resources
        if paths:
            rules["nonResourceRules"] = paths
        spec: Object = {
            "priorityLevelConfiguration": {"name": level},
            "matchingPrecedence": precedence,
            "rules": [rules],
        }
        if distinguisher:
            spec["distinguisherMethod"] = {"type": distinguisher}
        found.append(_object("FlowSchema", name, spec))
    return found


def _object(kind: str, name: str, spec: Object) -> Object:
    metadata = {"name": name, "annotations": {AUTO_UPDATE: "true"}}
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}


# Which schema


@dataclass(frozen=True, slots=True)
class Schema:
    """A FlowSchema made ready for matching."""

    name: str
    uid: str
    level: str
    precedence: int
    distinguisher: str  # ByUser | ByNamespace | ""
    rules: list[Object] = field(hash=False, compare=False)

    @classmethod
    def of(cls, obj: Object) -> Schema:
        spec = obj["spec"]
        return cls(
            obj["metadata"]["name"],
            obj["metadata"].get("uid", ""),
            spec["priorityLevelConfiguration"]["name"],
            spec.get("matchingPrecedence", 1000),
            (spec.get("distinguisherMethod") or {}).get("type", ""),
            spec.get("rules") or [],
        )

    def flow(self, user: User, info: RequestInfo) -> str:
        """What is served in turn with other flows of the level. Two schemas never share one."""
        if self.distinguisher == USER:
            return f"{self.name}/{user.name}"
        if self.distinguisher == NAMESPACE:
            return f"{self.name}/{info.namespace}"
        return self.name


def ordered(schemas: Iterable[Schema]) -> list[Schema]:
    return sorted(schemas, key=lambda schema: (schema.precedence, schema.name))


def match(schemas: Iterable[Schema], user: User, info: RequestInfo) -> Schema | None:
    """The first of the schemas, which are ordered, that the request falls under."""
    for schema in schemas:
        for rule in schema.rules:
            if any(_is(each, user) for each in rule.get("subjects") or ()) and _covers(rule, info):
                return schema
    return None


def _is(subject: Object, user: User) -> bool:
    kind = subject.get("kind")
    if kind == "User":
        return subject["user"]["name"] in ("*", user.name)
    if kind == "Group":
        name = subject["group"]["name"]
        return name == "*" or name in user.groups
    if kind == "ServiceAccount":
        account = subject["serviceAccount"]
        prefix = f"{SERVICE_ACCOUNT}{account['namespace']}:"
        if account["name"] == "*":
            return user.name.startswith(prefix)
        return user.name == prefix + account["name"]
    return False


def _covers(rule: Object, info: RequestInfo) -> bool:
    if info.is_resource:
        return any(_covers_resource(each, info) for each in rule.get("resourceRules") or ())
    return any(_covers_path(each, info) for each in rule.get("nonResourceRules") or ())


def _covers_resource(rule: Object, info: RequestInfo) -> bool:
    resource = f"{info.resource}/{info.subresource}" if info.subresource else info.resource
    if not (
        _among(rule.get("verbs"), info.verb)
        and _among(rule.get("apiGroups"), info.group)
        and _among(rule.get("resources"), resource)
    ):
        return False
    if not info.namespace:
        return bool(rule.get("clusterScope"))
    return _among(rule.get("namespaces"), info.namespace)


def _covers_path(rule: Object, info: RequestInfo) -> bool:
    if not _among(rule.get("verbs"), info.verb):
        return False
    for pattern in rule.get("nonResourceURLs") or ():
        if pattern in ("*", info.path):
            return True
        if pattern.endswith("*") and info.path.startswith(pattern[:-1]):
            return True
    return False


def _among(names: Iterable[str] | None, name: str) -> bool:
    return any(each in ("*", name) for each in names or ())
