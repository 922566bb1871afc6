"""Tables of every kind but pods, as kubectl's users know them."""

from __future__ import annotations

from typing import Any

import pytest
from tables_harness import (
    NOW,
    TABLE,
    pod,
    running,
    shown,
    stamp,
)

from sampan.apiserver import tables
from sampan.apiserver.tables.model import selector_text

# --- others -------------------------------------------------------------------------------------------

TEMPLATE = {"spec": {"containers": [{"name": "web", "image": "web:1"}]}}

CASES: list[tuple[str, str, str, dict[str, Any], dict[str, Any]]] = [
    (
        "apps",
        "v1",
        "deployments",
        {
            "spec": {
                "replicas": 3,
                "selector": {"matchLabels": {"app": "web"}},
                "template": TEMPLATE,
            },
            "status": {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 2},
        },
        {
            "Ready": "2/3",
            "Up-to-date": 3,
            "Available": 2,
            "Containers": "web",
            "Images": "web:1",
            "Selector": "app=web",
        },
    ),
    (
        "apps",
        "v1",
        "replicasets",
        {"spec": {"replicas": 0}, "status": {"replicas": 1}},
        {"Desired": 0, "Current": 1, "Ready": 0},
    ),
    (
        "",
        "v1",
        "services",
        {
            "spec": {
                "type": "NodePort",
                "clusterIP": "10.43.0.9",
                "ports": [
                    {"port": 80, "nodePort": 30080, "protocol": "TCP"},
                    {"port": 53, "protocol": "UDP"},
                ],
                "selector": {"app": "web"},
            }
        },
        {
            "Type": "NodePort",
            "Cluster-IP": "10.43.0.9",
            "External-IP": "<none>",
            "Port(s)": "80:30080/TCP,53/UDP",
            "Selector": "app=web",
        },
    ),
    ("", "v1", "services", {"spec": {"type": "LoadBalancer"}}, {"External-IP": "<pending>"}),
    (
        "",
        "v1",
        "services",
        {"spec": {"type": "ExternalName", "externalName": "e.org"}},
        {"Cluster-IP": "<none>", "External-IP": "e.org"},
    ),
    (
        "",
        "v1",
        "nodes",
        {
            "metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}},
            "spec": {"unschedulable": True},
            "status": {
                "conditions": [{"type": "Ready", "status": "True"}],
                "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
                "nodeInfo": {"kubeletVersion": "v1.36.0"},
            },
        },
        {
            "Status": "Ready,SchedulingDisabled",
            "Roles": "control-plane",
            "Version": "v1.36.0",
            "Internal-IP": "10.0.0.1",
            "External-IP": "<none>",
            "OS-Image": "<unknown>",
        },
    ),
    (
        "",
        "v1",
        "events",
        {
            "type": "Warning",
            "reason": "BackOff",
            "message": " again ",
            "involvedObject": {"kind": "Pod", "name": "web"},
            "source": {"component": "kubelet", "host": "n1"},
            "firstTimestamp": stamp(minutes=20),
            "lastTimestamp": stamp(seconds=30),
            "count": 4,
        },
        {
            "Last Seen": "30s",
            "Object": "pod/web",
            "Message": "again",
            "First Seen": "20m",
            "Count": 4,
            "Source": "kubelet, n1",
        },
    ),
    (
        "events.k8s.io",
        "v1",
        "events",
        {
            "note": "hello",
            "regarding": {"kind": "Node", "name": "n1"},
            "eventTime": stamp(seconds=10),
            "reportingController": "sampan",
        },
        {
            "Last Seen": "10s",
            "Object": "node/n1",
            "Message": "hello",
            "Count": 1,
            "Source": "sampan",
        },
    ),
    (
        "",
        "v1",
        "endpoints",
        {
            "subsets": [
                {"addresses": [{"ip": f"10.0.0.{i}"} for i in range(1, 6)], "ports": [{"port": 80}]}
            ]
        },
        {"Endpoints": "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more..."},
    ),
    (
        "discovery.k8s.io",
        "v1",
        "endpointslices",
        {
            "addressType": "IPv4",
            "ports": [{"port": 80}],
            "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}],
        },
        {"AddressType": "IPv4", "Ports": "80", "Endpoints": "10.0.0.1,10.0.0.2"},
    ),
    (
        "batch",
        "v1",
        "jobs",
        {
            "spec": {"completions": 3},
            "status": {
                "succeeded": 3,
                "startTime": stamp(seconds=100),
                "completionTime": stamp(seconds=90),
                "conditions": [{"type": "Complete", "status": "True"}],
            },
        },
        {"Status": "Complete", "Completions": "3/3", "Duration": "10s"},
    ),
    (
        "batch",
        "v1",
        "cronjobs",
        {"spec": {"schedule": "* * * * *", "suspend": False}, "status": {"active": [{}]}},
        {
            "Schedule": "* * * * *",
            "Timezone": "<none>",
            "Suspend": "False",
            "Active": 1,
            "Last Schedule": "<none>",
        },
    ),
    (
        "autoscaling",
        "v2",
        "horizontalpodautoscalers",
        {
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
                "minReplicas": 1,
                "maxReplicas": 5,
                "metrics": [
                    {
                        "type": "Resource",
                        "resource": {"name": "cpu", "target": {"averageUtilization": 50}},
                    }
                ],
            },
            "status": {"currentReplicas": 2},
        },
        {
            "Reference": "Deployment/web",
            "Targets": "cpu: <unknown>/50%",
            "MinPods": "1",
            "MaxPods": 5,
            "Replicas": 2,
        },
    ),
    (
        "",
        "v1",
        "persistentvolumeclaims",
        {
            "spec": {"volumeName": "pv1", "storageClassName": "fast"},
            "status": {
                "phase": "Bound",
                "capacity": {"storage": "1Gi"},
                "accessModes": ["ReadWriteOnce"],
            },
        },
        {"Status": "Bound", "Volume": "pv1", "Capacity": "1Gi", "Access Modes": "RWO"},
    ),
    (
        "networking.k8s.io",
        "v1",
        "ingresses",
        {
            "spec": {
                "ingressClassName": "gw",
                "rules": [{"host": "a.org"}, {"host": "b.org"}],
                "tls": [{}],
            },
            "status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}},
        },
        {"Class": "gw", "Hosts": "a.org,b.org", "Address": "1.2.3.4", "Ports": "80, 443"},
    ),
    (
        "",
        "v1",
        "resourcequotas",
        {"status": {"hard": {"pods": "10", "limits.cpu": "4"}, "used": {"pods": "3"}}},
        {"Request": "pods: 3/10", "Limit": "limits.cpu: 0/4"},
    ),
    (
        "rbac.authorization.k8s.io",
        "v1",
        "rolebindings",
        {
            "roleRef": {"kind": "ClusterRole", "name": "view"},
            "subjects": [
                {"kind": "User", "name": "alice"},
                {"kind": "ServiceAccount", "name": "robot", "namespace": "a"},
            ],
        },
        {"Role": "ClusterRole/view", "Users": "alice", "ServiceAccounts": "a/robot", "Groups": ""},
    ),
    (
        "apps",
        "v1",
        "controllerrevisions",
        {
            "metadata": {
                "ownerReferences": [
                    {
                        "apiVersion": "apps/v1",
                        "kind": "StatefulSet",
                        "name": "db",
                        "controller": True,
                    }
                ]
            },
            "revision": 2,
        },
        {"Controller": "statefulset.apps/db", "Revision": 2},
    ),
    (
        "storage.k8s.io",
        "v1",
        "storageclasses",
        {
            "metadata": {
                "name": "fast",
                "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
            },
            "provisioner": "local",
        },
        {"Name": "fast (default)", "Provisioner": "local", "AllowVolumeExpansion": False},
    ),
]


@pytest.mark.parametrize(("group", "version", "plural", "obj", "wanted"), CASES)
def test_columns(
    group: str, version: str, plural: str, obj: dict[str, Any], wanted: dict[str, Any]
) -> None:
    cells = shown(group, version, plural, obj)
    assert {name: cells[name] for name in wanted} == wanted


def test_wide_columns_have_priority() -> None:
    row = TABLE.lookup("", "v1", "pods")
    assert row is not None
    definitions = tables.to_table(row, [], {})["columnDefinitions"]
    assert [each["name"] for each in definitions if each["priority"] == 0] == [
        "Name",
        "Ready",
        "Status",
        "Restarts",
        "Age",
    ]


@pytest.mark.parametrize(
    ("include", "kind"), [("", "PartialObjectMetadata"), ("Object", "Pod"), ("None", None)]
)
def test_include_object(include: str, kind: str | None) -> None:
    row = TABLE.lookup("", "v1", "pods")
    assert row is not None
    obj = pod(running()) | {"kind": "Pod"}
    (shown_row,) = tables.to_table(row, [obj], {"includeObject": include}, NOW)["rows"]
    assert (shown_row.get("object") or {}).get("kind") == kind


def test_selector_text() -> None:
    selector = {
        "matchLabels": {"b": "2", "a": "1"},
        "matchExpressions": [
            {"key": "c", "operator": "In", "values": ["y", "x"]},
            {"key": "d", "operator": "DoesNotExist"},
        ],
    }
    assert selector_text(selector) == "a=1,b=2,c in (x,y),!d"
    assert selector_text({}) == "<none>"
