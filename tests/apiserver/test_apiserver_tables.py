"""Tables: the columns that users know, pod status as kubectl computes it, spans of time as kubectl writes them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sampan.apiserver import tables
from sampan.apiserver.resources import builtin
from sampan.apiserver.tables.model import human_duration, selector_text

NOW = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)
TABLE = builtin()


def stamp(**ago: float) -> str:
    return (NOW - timedelta(**ago)).strftime("%Y-%m-%dT%H:%M:%SZ")


def shown(group: str, version: str, plural: str, obj: dict[str, Any]) -> dict[str, Any]:
    """Cells by column name."""
    row = TABLE.lookup(group, version, plural)
    assert row is not None
    obj.setdefault("metadata", {}).setdefault("name", "x")
    obj["metadata"].setdefault("creationTimestamp", stamp(seconds=303))
    table = tables.to_table(row, [obj], {}, NOW)
    names = [column["name"] for column in table["columnDefinitions"]]
    cells = table["rows"][0]["cells"]
    assert len(names) == len(cells)
    for column, cell in zip(table["columnDefinitions"], cells, strict=True):
        kind = {"integer": int, "boolean": bool}.get(column["type"], str)
        assert isinstance(cell, kind), (column, cell)
    return dict(zip(names, cells, strict=True))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (303, "5m3s"),
        (599, "9m59s"),
        (600, "10m"),
        (3 * 3600 - 1, "179m"),
        (3 * 3600, "3h"),
        (3 * 3600 + 60, "3h1m"),
        (8 * 3600, "8h"),
        (47 * 3600, "47h"),
        (48 * 3600, "2d"),
        (49 * 3600, "2d1h"),
        (8 * 86400, "8d"),
        (729 * 86400, "729d"),
        (730 * 86400, "2y"),
        (731 * 86400, "2y1d"),
        (8 * 365 * 86400, "8y"),
    ],
)
def test_human_duration(seconds: int, text: str) -> None:
    assert human_duration(timedelta(seconds=seconds)) == text


def test_every_listed_kind_can_be_shown_empty() -> None:
    for row in TABLE.rows.values():
        if "list" in row.verbs:
            cells = shown(row.group, row.version, row.name, {})
            assert "x" in cells.values(), row


# --- pods ---------------------------------------------------------------------------------------------


def running(name: str = "a", **more: Any) -> dict[str, Any]:
    state = {"running": {"startedAt": stamp(seconds=60)}}
    return {"name": name, "ready": True, "restartCount": 0, "state": state} | more


def waiting(reason: str, **more: Any) -> dict[str, Any]:
    return {
        "name": "a",
        "ready": False,
        "restartCount": 0,
        "state": {"waiting": {"reason": reason}},
    } | more


def ended(code: int, reason: str = "", **more: Any) -> dict[str, Any]:
    state = {"terminated": {"exitCode": code} | ({"reason": reason} if reason else {})}
    return {"name": "a", "ready": False, "restartCount": 0, "state": state} | more


def pod(
    *statuses: dict[str, Any],
    phase: str = "Running",
    init: tuple[dict[str, Any], ...] = (),
    conditions: tuple[str, ...] = (),
    spec: dict[str, Any] | None = None,
    **metadata: Any,
) -> dict[str, Any]:
    containers = [{"name": name} for name in dict.fromkeys(s["name"] for s in statuses)] or [
        {"name": "a"}
    ]
    return {
        "metadata": {"name": "x", **metadata},
        "spec": {"containers": containers} | (spec or {}),
        "status": {
            "phase": phase,
            "containerStatuses": list(statuses),
            "initContainerStatuses": list(init),
            "conditions": [{"type": kind, "status": "True"} for kind in conditions],
        },
    }


INIT_SPEC = {"initContainers": [{"name": "i"}, {"name": "j"}]}
SIDECAR_SPEC = {"initContainers": [{"name": "i", "restartPolicy": "Always"}]}


@pytest.mark.parametrize(
    ("given", "ready", "status"),
    [
        (pod(phase="Pending"), "0/1", "Pending"),
        (pod(running()), "1/1", "Running"),
        (pod(running("a"), running("b", ready=False)), "1/2", "Running"),
        (pod(waiting("ContainerCreating"), phase="Pending"), "0/1", "ContainerCreating"),
        (pod(waiting("CrashLoopBackOff")), "0/1", "CrashLoopBackOff"),
        (pod(waiting("ImagePullBackOff"), phase="Pending"), "0/1", "ImagePullBackOff"),
        (pod(ended(0, "Completed"), phase="Succeeded"), "0/1", "Completed"),
        (pod(ended(1, "Error"), phase="Failed"), "0/1", "Error"),
        (pod(ended(3), phase="Failed"), "0/1", "ExitCode:3"),
        (pod(ended(137, "OOMKilled")), "0/1", "OOMKilled"),
        (pod(ended(0, "Completed", name="a"), running("b")), "1/2", "NotReady"),
        (
            pod(ended(0, "Completed", name="a"), running("b"), conditions=("Ready",)),
            "1/2",
            "Running",
        ),
        (pod(running(), deletionTimestamp=stamp(seconds=1)), "1/1", "Terminating"),
        (
            pod(ended(0, "Completed"), phase="Succeeded", deletionTimestamp=stamp()),
            "0/1",
            "Completed",
        ),
        (
            pod(
                waiting("PodInitializing"),
                phase="Pending",
                init=(running("i", ready=False), waiting("PodInitializing") | {"name": "j"}),
                spec=INIT_SPEC,
            ),
            "0/1",
            "Init:0/2",
        ),
        (
            pod(
                waiting("PodInitializing"),
                phase="Pending",
                init=(ended(0, "Completed", name="i"), running("j", ready=False)),
                spec=INIT_SPEC,
            ),
            "0/1",
            "Init:1/2",
        ),
        (
            pod(phase="Pending", init=(ended(1, "Error", name="i"),), spec=INIT_SPEC),
            "0/1",
            "Init:Error",
        ),
        (
            pod(
                phase="Pending", init=(waiting("CrashLoopBackOff") | {"name": "i"},), spec=INIT_SPEC
            ),
            "0/1",
            "Init:CrashLoopBackOff",
        ),
        (
            pod(
                running(),
                init=(running("i", started=True),),
                spec=SIDECAR_SPEC,
                conditions=("Initialized",),
            ),
            "2/2",
            "Running",
        ),
    ],
)
def test_pod_status(given: dict[str, Any], ready: str, status: str) -> None:
    cells = shown("", "v1", "pods", given)
    assert (cells["Ready"], cells["Status"]) == (ready, status)


def test_pod_gated_evicted_and_lost() -> None:
    gated = pod(phase="Pending")
    gated["status"]["conditions"] = [
        {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}
    ]
    assert shown("", "v1", "pods", gated)["Status"] == "SchedulingGated"
    evicted = pod(phase="Failed")
    evicted["status"]["reason"] = "Evicted"
    assert shown("", "v1", "pods", evicted)["Status"] == "Evicted"
    lost = pod(running(), deletionTimestamp=stamp())
    lost["status"]["reason"] = "NodeLost"
    assert shown("", "v1", "pods", lost)["Status"] == "Unknown"


def test_pod_restarts_and_wide() -> None:
    last = {"terminated": {"exitCode": 1, "finishedAt": stamp(seconds=5)}}
    given = pod(running(restartCount=2, lastState=last), spec={"nodeName": "n1"})
    given["status"]["podIP"] = "10.42.0.5"
    cells = shown("", "v1", "pods", given)
    assert cells["Restarts"] == "2 (5s ago)"
    assert (cells["IP"], cells["Node"]) == ("10.42.0.5", "n1")
    assert (cells["Nominated Node"], cells["Readiness Gates"]) == ("<none>", "<none>")
    assert cells["Age"] == "5m3s"


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
                "scaleTargetRef": {"kind": "Deployment", "name": "web"},
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
