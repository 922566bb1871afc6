"""Roles, quotas, limits, priorities, flow control, leases, devices: one thing changed, and what Kubernetes answers."""

from __future__ import annotations

from typing import Any

import pytest
from kube_tables import (
    DUPLICATE,
    FORBIDDEN,
    GONE,
    INVALID,
    LONG,
    MANY,
    REQUIRED,
    UNSUPPORTED,
    Object,
    Row,
    check,
    of_create,
    of_update,
)

from sampan.apiserver import flowschemas

RBAC = "rbac.authorization.k8s.io/v1"
FLOW = "flowcontrol.apiserver.k8s.io/v1"
DEVICES = "resource.k8s.io/v1"


def of(
    api_version: str, kind: str, name: str = "x", *, namespaced: bool = False, **more: Any
) -> Object:
    metadata = {"name": name, **({"namespace": "default"} if namespaced else {})}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **more}


READ = {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}
ROLE = of(RBAC, "Role", namespaced=True, rules=[READ])
ROLES: list[Row] = [
    ({"metadata.name": "system:x"}, []),
    ({"metadata.name": "a/b"}, [("metadata.name", INVALID)]),
    ({"rules[0].verbs": []}, [("rules[0].verbs", REQUIRED)]),
    ({"rules[0].apiGroups": []}, [("rules[0].apiGroups", REQUIRED)]),
    ({"rules[0].resources": []}, [("rules[0].resources", REQUIRED)]),
    ({"rules[0]": {"verbs": ["get"], "nonResourceURLs": ["/a"]}},
     [("rules[0].nonResourceURLs", INVALID)]),
]  # fmt: skip
CLUSTER_ROLE = of(RBAC, "ClusterRole", rules=[READ])
CLUSTER_ROLES: list[Row] = [
    ({"rules[0]": {"verbs": ["get"], "nonResourceURLs": ["/a"]}}, []),
    ({"rules[0].nonResourceURLs": ["/a"]}, [("rules[0].nonResourceURLs", INVALID)]),
    ({"aggregationRule": {}}, [("aggregationRule.clusterRoleSelectors", REQUIRED)]),
    (
        {
            "aggregationRule": {
                "clusterRoleSelectors": [{"matchExpressions": [{"key": "a", "operator": "x"}]}]
            }
        },
        [
            ("aggregationRule.clusterRoleSelectors[0].matchExpressions[0].operator", INVALID),
            ("aggregationRule.clusterRoleSelectors[0]", INVALID),
        ],
    ),
]
SUBJECT = {"kind": "User", "name": "u"}
BINDING = of(RBAC, "RoleBinding", namespaced=True, roleRef={"kind": "Role", "name": "r"},
             subjects=[SUBJECT])  # fmt: skip
BINDINGS: list[Row] = [
    ({}, []),
    ({"roleRef.apiGroup": "x"}, [("roleRef.apiGroup", UNSUPPORTED)]),
    ({"roleRef.kind": "x"}, [("roleRef.kind", UNSUPPORTED)]),
    ({"roleRef.name": ""}, [("roleRef.name", REQUIRED)]),
    ({"subjects[0].name": ""}, [("subjects[0].name", REQUIRED), ("subjects[0].name", INVALID)]),
    ({"subjects[0].kind": "x"}, [("subjects[0].kind", UNSUPPORTED)]),
    ({"subjects[0]": {"kind": "ServiceAccount", "name": "A"}}, [("subjects[0].name", INVALID)]),
    ({"subjects[0]": {"kind": "ServiceAccount", "name": "a", "apiGroup": "x"}},
     [("subjects[0].apiGroup", UNSUPPORTED)]),
]  # fmt: skip
CLUSTER_BINDING = {**BINDING, "kind": "ClusterRoleBinding", "metadata": {"name": "x"},
                   "roleRef": {"kind": "ClusterRole", "name": "r"}}  # fmt: skip
CLUSTER_BINDINGS: list[Row] = [
    ({"roleRef.kind": "Role"}, [("roleRef.kind", UNSUPPORTED)]),
    (
        {"subjects[0]": {"kind": "ServiceAccount", "name": "a"}},
        [("subjects[0].namespace", REQUIRED)],
    ),
]

PRIORITY = of("scheduling.k8s.io/v1", "PriorityClass", value=5)
PRIORITIES: list[Row] = [
    ({}, []),
    ({"value": 1_000_000_001}, [("value", FORBIDDEN)]),
    ({"metadata.name": "system-x"}, [("metadata.name", FORBIDDEN)]),
    ({"metadata.name": "system-node-critical", "value": 2_000_001_000}, []),
    ({"metadata.name": "system-node-critical"}, [("metadata.name", FORBIDDEN)]),
    ({"metadata.name": "system-node-critical", "value": 2_000_001_000, "globalDefault": True},
     [("metadata.name", FORBIDDEN)]),
    ({"preemptionPolicy": "x"}, [("preemptionPolicy", UNSUPPORTED)]),
]  # fmt: skip
PRIORITY_UPDATES: list[Row] = [
    ({"value": 6}, [("value", FORBIDDEN)]),
    ({"preemptionPolicy": "Never"}, [("preemptionPolicy", INVALID)]),
    ({"globalDefault": True, "description": "d"}, []),
]
RUNTIME = of("node.k8s.io/v1", "RuntimeClass", handler="wasm")
RUNTIMES: list[Row] = [
    ({}, []),
    ({"handler": "A"}, [("handler", INVALID)]),
    ({"overhead.podFixed": {"cpu": "-1"}}, [("overhead.limits[cpu]", INVALID)]),
    ({"overhead.podFixed": {"hugepages-2Mi": "2Mi"}}, [("overhead", FORBIDDEN)]),
    ({"overhead": {}}, []),
]
RUNTIME_UPDATES: list[Row] = [({"handler": "other"}, [("handler", INVALID)])]
LEASE = of("coordination.k8s.io/v1", "Lease", namespaced=True, spec={})
LEASES: list[Row] = [
    ({}, []),
    ({"spec.leaseDurationSeconds": 0}, [("spec.leaseDurationSeconds", INVALID)]),
    ({"spec.leaseTransitions": -1}, [("spec.leaseTransitions", INVALID)]),
    ({"spec.strategy": "OldestEmulationVersion", "spec.preferredHolder": "h"}, []),
    ({"spec.strategy": "example.com/mine"}, []),
    ({"spec.strategy": "Mine"}, [("spec.strategy.strategy", UNSUPPORTED)]),
    ({"spec.strategy": "a/b/c"}, [("spec.strategy.strategy", INVALID)]),
    ({"spec.preferredHolder": "h"}, [("spec.preferredHolder", FORBIDDEN)]),
]

QUOTA = of("v1", "ResourceQuota", namespaced=True, spec={"hard": {"pods": "5"}})
QUOTAS: list[Row] = [
    ({}, []),
    ({"spec.hard": {"pods": "-1"}}, [("spec.hard[pods]", INVALID)]),
    ({"spec.hard": {"pods": "1500m"}}, [("spec.hard[pods]", INVALID)]),
    ({"spec.scopes": ["x"]}, [("spec.scopes", INVALID), ("spec.scopes", INVALID)]),
    ({"spec.scopes": ["BestEffort", "NotBestEffort"]}, [("spec.scopes", INVALID)]),
]
QUOTA_UPDATES: list[Row] = [({"spec.scopes": ["BestEffort"]}, [("spec.scopes", INVALID)])]
LIMIT = of("v1", "LimitRange", namespaced=True, spec={"limits": [{"type": "Container"}]})
L = "spec.limits[0]"
LIMITS: list[Row] = [
    ({}, []),
    ({f"{L}.min": {"cpu": "2"}, f"{L}.max": {"cpu": "1"}},
     [(f"{L}.min[cpu]", INVALID), (f"{L}.default[cpu]", INVALID), (f"{L}.defaultRequest[cpu]", INVALID)]),
    ({f"{L}.type": "x"}, [(f"{L}.type", INVALID)]),
    ({"spec.limits[1]": {"type": "Container"}}, [("spec.limits[1].type", DUPLICATE)]),
    ({"spec.limits[0]": {"type": "Pod", "default": {"cpu": "1"}}}, [(f"{L}.default", FORBIDDEN)]),
    ({f"{L}.max": {"cpu": "1"}, f"{L}.default": {"cpu": "2"}},
     [(f"{L}.default[cpu]", INVALID), (f"{L}.defaultRequest[cpu]", INVALID)]),
    ({f"{L}.maxLimitRequestRatio": {"cpu": "500m"}}, [(f"{L}.maxLimitRequestRatio[cpu]", INVALID)]),
]  # fmt: skip

CONFIG = of("v1", "ConfigMap", namespaced=True, data={"a": "b"})
CONFIGS: list[Row] = [
    ({}, []),
    ({"data": {"a b": "c"}}, [("data[a b]", INVALID)]),
    ({"binaryData": {"a": "YQ=="}}, [("data[a]", INVALID)]),
    ({"data": {"a": "x" * (1024 * 1024 + 1)}}, [("[]", LONG)]),
]
FROZEN = {**CONFIG, "immutable": True}
FROZEN_UPDATES: list[Row] = [
    ({"metadata.labels": {"a": "b"}}, []),
    ({"data": {"a": "c"}}, [("data", FORBIDDEN)]),
    ({"immutable": False}, [("immutable", FORBIDDEN)]),
]
SECRET = of("v1", "Secret", namespaced=True, data={"a": "YQ=="})
SECRETS: list[Row] = [
    ({}, []),
    ({"data": {"a b": "YQ=="}}, [("data[a b]", INVALID)]),
    ({"type": "kubernetes.io/tls"}, [("data[tls.crt]", REQUIRED), ("data[tls.key]", REQUIRED)]),
    ({"type": "kubernetes.io/dockerconfigjson"}, [("data[.dockerconfigjson]", REQUIRED)]),
    ({"type": "kubernetes.io/basic-auth"},
     [("data[username]", REQUIRED), ("data[password]", REQUIRED)]),
    ({"type": "kubernetes.io/ssh-auth"}, [("data[ssh-privatekey]", REQUIRED)]),
]  # fmt: skip
NODE = of("v1", "Node", status={"nodeInfo": {"swap": {"capacity": 1}}})
AVOID = "scheduler.alpha.kubernetes.io/preferAvoidPods"
AVOIDED = f"metadata.annotations.{AVOID}[0].PodSignature"
NODES: list[Row] = [
    ({}, []),
    ({"metadata.annotations": {AVOID: "x"}}, [("metadata.annotations.AvoidPods", INVALID)]),
    ({"metadata.annotations": {AVOID: '{"preferAvoidPods": [7]}'}}, [(AVOIDED, REQUIRED)]),
    ({"metadata.annotations": {AVOID:
        '{"preferAvoidPods": [{"podSignature": {"podController": {"controller": false}}}]}'}},
     [(f"{AVOIDED}.PodController.Controller", INVALID)]),
    ({"status.nodeInfo.swap.capacity": 0}, [("metadata.nodeSwapStatus.capacity", INVALID)]),
    ({"status.declaredFeatures": ["A", "B/c"]}, []),
    ({"status.declaredFeatures": ["b", "B", "B"]},
     [("status.declaredFeatures[0]", INVALID), ("status.declaredFeatures[1]", INVALID),
      ("status.declaredFeatures[2]", DUPLICATE)]),
]  # fmt: skip
SECRET_UPDATES: list[Row] = [({"type": "other"}, [("type", INVALID)])]

SCHEMA = of(FLOW, "FlowSchema", spec={
    "matchingPrecedence": 5, "priorityLevelConfiguration": {"name": "p"},
    "rules": [{"subjects": [{"kind": "User", "user": {"name": "u"}}],
               "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/a"]}]}],
})  # fmt: skip
F = "spec.rules[0]"
SCHEMAS: list[Row] = [
    ({}, []),
    ({"spec.matchingPrecedence": 1}, [("spec.matchingPrecedence", INVALID)]),
    ({"spec.matchingPrecedence": 10_001}, [("spec.matchingPrecedence", INVALID)]),
    ({"spec.priorityLevelConfiguration.name": ""},
     [("spec.priorityLevelConfiguration.name", REQUIRED)]),
    ({"spec.distinguisherMethod": {"type": "x"}}, [("spec.distinguisherMethod.type", UNSUPPORTED)]),
    ({f"{F}.subjects": []}, [(f"{F}.subjects", REQUIRED)]),
    ({f"{F}.subjects[0]": {"kind": "x"}}, [(f"{F}.subjects[0].kind", UNSUPPORTED)]),
    ({f"{F}.subjects[0]": {"kind": "Group"}}, [(f"{F}.subjects[0].group", REQUIRED)]),
    ({f"{F}.subjects[0].group": {"name": "g"}}, [(f"{F}.subjects[0].group", FORBIDDEN)]),
    ({f"{F}.nonResourceRules": []}, [(F, REQUIRED)]),
    ({f"{F}.nonResourceRules[0].verbs": ["x"]}, [(f"{F}.nonResourceRules[0].verbs", UNSUPPORTED)]),
    ({f"{F}.nonResourceRules[0].verbs": ["*", "get"]},
     [(f"{F}.nonResourceRules[0].verbs", INVALID)]),
    ({f"{F}.nonResourceRules[0].nonResourceURLs": ["a"]},
     [(f"{F}.nonResourceRules[0].nonResourceURLs[0]", INVALID)]),
    ({f"{F}.resourceRules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]},
     [(f"{F}.resourceRules[0].namespaces", REQUIRED)]),
    ({"metadata.name": "exempt"}, [("spec", INVALID)]),
]  # fmt: skip
QUEUE = {"type": "Queue", "queuing": {"queues": 8, "handSize": 2, "queueLengthLimit": 5}}
LEVEL = of(FLOW, "PriorityLevelConfiguration",
           spec={"type": "Limited", "limited": {"limitResponse": QUEUE}})  # fmt: skip
Q = "spec.limited.limitResponse.queuing"
LEVELS: list[Row] = [
    ({}, []),
    ({"spec.type": "x"}, [("spec.type", UNSUPPORTED)]),
    ({"spec.limited": GONE}, [("spec.limited", REQUIRED)]),
    ({"spec": {"type": "Exempt"}}, [("spec.type", INVALID)]),
    ({f"{Q}.handSize": 9}, [(f"{Q}.handSize", INVALID)]),
    ({f"{Q}.queues": 1024, f"{Q}.handSize": 7}, [(f"{Q}.handSize", INVALID)]),
    ({"spec.limited.lendablePercent": 101}, [("spec.limited.lendablePercent", INVALID)]),
    ({"spec.limited.limitResponse": {"type": "Queue"}}, [(Q, REQUIRED)]),
    ({"spec.limited.limitResponse.type": "Reject"}, [(Q, FORBIDDEN)]),
]

REQUEST = {"name": "r", "exactly": {"deviceClassName": "gpu"}}
DEVICE_CLAIM = of(
    DEVICES, "ResourceClaim", namespaced=True, spec={"devices": {"requests": [REQUEST]}}
)
C = "spec.devices.requests[0]"
DEVICE_CLAIMS: list[Row] = [
    ({}, []),
    ({f"{C}.name": "A"}, [(f"{C}.name", INVALID)]),
    ({f"{C}.exactly": GONE}, [(C, REQUIRED)]),
    ({f"{C}.firstAvailable": [{"name": "a", "deviceClassName": "b"}]}, [(C, INVALID)]),
    ({f"{C}.exactly.deviceClassName": ""}, [(f"{C}.exactly.deviceClassName", REQUIRED)]),
    ({f"{C}.exactly.allocationMode": "x"}, [(f"{C}.exactly.allocationMode", UNSUPPORTED)]),
    ({f"{C}.exactly.allocationMode": "All", f"{C}.exactly.count": 2}, [(f"{C}.exactly.count", INVALID)]),
    ({f"{C}.exactly.count": -1}, [(f"{C}.exactly.count", INVALID)]),
    ({f"{C}.exactly.selectors": [{}]}, [(f"{C}.exactly.selectors[0].cel", REQUIRED)]),
    ({f"{C}.exactly.selectors": [{"cel": {"expression": "1 +"}}]},
     [(f"{C}.exactly.selectors[0].cel.expression", INVALID)]),
    ({"spec.devices.requests": [REQUEST, REQUEST]}, [("spec.devices.requests[1]", DUPLICATE)]),
    ({"spec.devices.requests": [{**REQUEST, "name": f"r{n}"} for n in range(33)]},
     [("spec.devices.requests", MANY)]),
    ({"spec.devices.constraints": [{"requests": ["other"], "matchAttribute": "a.b/c"}]},
     [("spec.devices.constraints[0].requests[0]", INVALID)]),
    ({"spec.devices.constraints": [{"requests": ["r"], "matchAttribute": "c"}]},
     [("spec.devices.constraints[0].matchAttribute", INVALID)]),
    ({"spec.devices.config": [{}]}, [("spec.devices.config[0].opaque", REQUIRED)]),
]  # fmt: skip
DEVICE_CLAIM_UPDATES: list[Row] = [({f"{C}.exactly.deviceClassName": "b"}, [("spec", INVALID)])]
SLICE = of(DEVICES, "ResourceSlice", spec={
    "driver": "a.b", "nodeName": "n", "pool": {"name": "p", "resourceSliceCount": 1},
    "devices": [{"name": "d", "attributes": {"model": {"string": "x"}}}],
})  # fmt: skip
SLICES: list[Row] = [
    ({}, []),
    ({"spec.nodeName": GONE}, [("spec", REQUIRED)]),
    ({"spec.allNodes": True}, [("spec", INVALID)]),
    ({"spec.pool.resourceSliceCount": 0}, [("spec.pool.resourceSliceCount", INVALID)]),
    ({"spec.pool.name": "A"}, [("spec.pool.name", INVALID)]),
    ({"spec.devices[0].attributes.model": {}}, [("spec.devices[0].attributes[model]", INVALID)]),
    ({"spec.devices[0].attributes.model": {"version": "1"}},
     [("spec.devices[0].attributes[model].version", INVALID)]),
    ({"spec.devices[1]": {"name": "d"}}, [("spec.devices[1]", DUPLICATE)]),
    ({"spec.devices[0].taints": [{"key": "a", "effect": "x"}]},
     [("spec.devices[0].taints[0].effect", UNSUPPORTED)]),
    ({"spec.devices[0].allNodes": True}, [("spec.devices[0]", INVALID)]),
]  # fmt: skip
SLICE_UPDATES: list[Row] = [
    ({"spec.driver": "c.d"}, [("spec.driver", INVALID)]),
    ({"spec.pool.generation": 2}, []),
]
NEW = [
    (ROLE, ROLES), (CLUSTER_ROLE, CLUSTER_ROLES), (BINDING, BINDINGS), (CLUSTER_BINDING, CLUSTER_BINDINGS),
    (PRIORITY, PRIORITIES), (RUNTIME, RUNTIMES), (LEASE, LEASES), (QUOTA, QUOTAS), (LIMIT, LIMITS),
    (CONFIG, CONFIGS), (SECRET, SECRETS), (NODE, NODES), (SCHEMA, SCHEMAS), (LEVEL, LEVELS),
    (DEVICE_CLAIM, DEVICE_CLAIMS), (SLICE, SLICES),
]  # fmt: skip
CHANGED = [
    (BINDING, [({"roleRef.name": "s"}, [("roleRef", INVALID)])]), (PRIORITY, PRIORITY_UPDATES),
    (RUNTIME, RUNTIME_UPDATES), (QUOTA, QUOTA_UPDATES), (FROZEN, FROZEN_UPDATES), (SECRET, SECRET_UPDATES),
    (DEVICE_CLAIM, DEVICE_CLAIM_UPDATES), (SLICE, SLICE_UPDATES),
]  # fmt: skip


def kind_of(value: Any) -> str:
    return value["kind"] if isinstance(value, dict) else ""


@pytest.mark.parametrize(("base", "rows"), NEW, ids=kind_of)
def test_new(base: Object, rows: list[Row]) -> None:
    check(rows, of_create, base)


@pytest.mark.parametrize(("base", "rows"), CHANGED, ids=kind_of)
def test_changed(base: Object, rows: list[Row]) -> None:
    check(rows, of_update, base)


def test_flow_control_that_every_cluster_has_is_valid() -> None:
    for obj in (*flowschemas.default_levels(), *flowschemas.default_schemas()):
        assert not of_create(obj, {}), obj["metadata"]["name"]


# --- events -------------------------------------------------------------------------------------------

NOW = "2026-01-01T00:00:00.000000Z"
ABOUT = {"kind": "Pod", "name": "p", "namespace": "default"}
EVENT = of("v1", "Event", "p.17", namespaced=True, involvedObject=ABOUT)
NEW = {"eventTime": NOW, "reportingComponent": "example.com/x", "reportingInstance": "i",
       "action": "Run", "reason": "Started", "type": "Normal"}  # fmt: skip
EVENTS: list[Row] = [
    ({}, []),
    ({"metadata.name": "A_b"}, []),  # of old, any name that fits into a path
    ({"involvedObject.namespace": "other"}, [("involvedObject.namespace", INVALID)]),
    ({"involvedObject.namespace": GONE}, []),
    ({"involvedObject.namespace": GONE, "metadata.namespace": "kube-system"},
     [("involvedObject.namespace", INVALID)]),
    ({"involvedObject.namespace": GONE, "metadata.namespace": "kube-system", **NEW}, []),
    ({"involvedObject.namespace": "other", **NEW}, []),
    ({"eventTime": NOW}, [
        ("action", REQUIRED), ("reason", REQUIRED), ("reportingComponent", INVALID),
        ("reportingComponent", INVALID), ("reportingComponent", REQUIRED), ("reportingInstance", REQUIRED),
    ]),
    ({**NEW, "reason": "x" * 129, "message": "x" * 1025},
     [("message", INVALID), ("reason", INVALID)]),
    ({"reason": "x" * 129, "message": "x" * 1025}, []),
]  # fmt: skip
NEW_EVENT = {**EVENT, "apiVersion": "events.k8s.io/v1", **NEW}
NEW_EVENTS: list[Row] = [
    ({}, []),
    ({"metadata.name": "A_b"}, [("metadata.name", INVALID)]),
    ({"eventTime": GONE}, [("eventTime", REQUIRED)]),
    ({"type": "Odd"}, [("type", INVALID)]),
    ({"count": 2, "source": {"host": "h"}, "firstTimestamp": NOW, "lastTimestamp": NOW},
     [(field, INVALID) for field in ("count", "source", "firstTimestamp", "lastTimestamp")]),
    ({"series": {"count": 1}}, [("series.count", INVALID), ("series.lastObservedTime", REQUIRED)]),
    ({"series": {"count": 2, "lastObservedTime": NOW}}, []),
]  # fmt: skip
NEW_EVENT_UPDATES: list[Row] = [
    ({"series": {"count": 3, "lastObservedTime": NOW}, "metadata.labels": {"a": "b"}}, []),
    ({"series": {"count": 1, "lastObservedTime": NOW}}, [("series.count", INVALID)]),
    ({"reason": "Other"}, [("reason", INVALID), ("reason", INVALID)]),  # Kubernetes compares it twice
    ({"message": "m"}, [("message", INVALID)]),
    ({"involvedObject.name": "q"}, [("involvedObject", INVALID)]),
    ({"related": {"kind": "Pod"}, "action": "Walk"}, [("related", INVALID), ("action", INVALID)]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "found", "base"),
    [
        (EVENTS, of_create, EVENT),
        (NEW_EVENTS, of_create, NEW_EVENT),
        (NEW_EVENT_UPDATES, of_update, NEW_EVENT),
        ([({"reason": "Other", "message": "m"}, [])], of_update, EVENT),
    ],
)
def test_events(rows: list[Row], found: Any, base: Object) -> None:
    check(rows, found, base)


# --- API services -------------------------------------------------------------------------------------

REMOTE = {"namespace": "default", "name": "s"}
SPEC = {"group": "g.io", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 10,
        "service": REMOTE}  # fmt: skip
API_SERVICE = of("apiregistration.k8s.io/v1", "APIService", "v1.g.io", spec=SPEC)
API_SERVICES: list[Row] = [
    ({}, []),
    ({"spec.service": GONE}, []),
    ({"metadata.name": "x"}, [("metadata.name", INVALID)]),
    ({"metadata.name": "a/b"}, [("metadata.name", INVALID)]),
    ({"spec.group": GONE, "metadata.name": "v1."}, []),
    ({"spec.group": GONE, "spec.version": "v2", "metadata.name": "v2."}, [("spec.group", REQUIRED)]),
    ({"spec.version": "V1", "metadata.name": "V1.g.io"}, [("spec.version", INVALID)]),
    ({"spec.groupPriorityMinimum": 20001, "spec.versionPriority": 0},
     [("spec.groupPriorityMinimum", INVALID), ("spec.versionPriority", INVALID)]),
    ({"spec.service": {"port": 1}},
     [("spec.service.namespace", REQUIRED), ("spec.service.name", REQUIRED)]),
    ({"spec.caBundle": "YWJj", "spec.insecureSkipTLSVerify": True},
     [("spec.insecureSkipTLSVerify", INVALID)]),
    ({"spec.service": GONE, "spec.caBundle": "YWJj", "spec.insecureSkipTLSVerify": True},
     [("spec.caBundle", INVALID), ("spec.insecureSkipTLSVerify", INVALID)]),
]  # fmt: skip


def test_api_services() -> None:
    check(API_SERVICES, of_create, API_SERVICE)
    [size] = of_create(API_SERVICE, {"spec.service": GONE, "spec.caBundle": "YWJjZA=="})
    assert size.message == 'Invalid value: "4 bytes": local APIServices may not have a caBundle'
    odd = {"status": {"conditions": [{"type": "Available", "status": "Perhaps"}]}}
    [cause] = of_update(API_SERVICE, odd, "status")
    assert (cause.field, cause.reason) == ("status.conditions[0].status", UNSUPPORTED)
