"""Volumes, claims, classes and drivers: one thing changed, and what Kubernetes answers."""

from __future__ import annotations

from typing import Any

import pytest
from kube_tables import (
    DUPLICATE,
    FORBIDDEN,
    GONE,
    INVALID,
    REQUIRED,
    UNSUPPORTED,
    Object,
    Row,
    check,
    of_create,
    of_update,
)


def of(api_version: str, kind: str, name: str = "x", **more: Any) -> Object:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": name}, **more}


VOLUME = of("v1", "PersistentVolume", spec={
    "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/data"},
})  # fmt: skip
VOLUMES: list[Row] = [
    ({}, []),
    ({"spec.accessModes": []}, [("spec.accessModes", REQUIRED)]),
    ({"spec.accessModes": ["x"]}, [("spec.accessModes", UNSUPPORTED)]),
    ({"spec.accessModes": ["ReadWriteOncePod", "ReadWriteOnce"]}, [("spec.accessModes", FORBIDDEN)]),
    ({"spec.capacity": {}}, [("spec.capacity", REQUIRED), ("spec.capacity", UNSUPPORTED)]),
    ({"spec.capacity": {"storage": "-1"}},
     [("spec.capacity[storage]", INVALID), ("spec.capacity[storage]", INVALID)]),
    ({"spec.hostPath": GONE}, [("spec", REQUIRED)]),
    ({"spec.nfs": {"server": "a", "path": "/b"}}, [("spec.nfs", FORBIDDEN)]),
    ({"spec.persistentVolumeReclaimPolicy": "x"},
     [("spec.persistentVolumeReclaimPolicy", UNSUPPORTED)]),
    ({"spec.hostPath.path": "/", "spec.persistentVolumeReclaimPolicy": "Recycle"},
     [("spec.persistentVolumeReclaimPolicy", FORBIDDEN)]),
    ({"spec.storageClassName": "A"}, [("spec.storageClassName", INVALID)]),
    ({"spec.volumeMode": "x"}, [("spec.volumeMode", UNSUPPORTED)]),
]  # fmt: skip
VOLUME_UPDATES: list[Row] = [
    ({"spec.capacity.storage": "2Gi"}, []),
    ({"spec.hostPath.path": "/other"}, [("spec.persistentvolumesource", FORBIDDEN)]),
    ({"spec.volumeMode": "Block"}, [("volumeMode", INVALID)]),
]

CLAIM = of("v1", "PersistentVolumeClaim", spec={
    "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
})  # fmt: skip
CLAIM["metadata"]["namespace"] = "default"
REQUEST = "spec.resources.requests"
CLAIMS: list[Row] = [
    ({}, []),
    ({"spec.accessModes": []}, [("spec.accessModes", REQUIRED)]),
    ({"spec.resources": {}}, [("spec.resources[storage]", REQUIRED)]),
    ({f"{REQUEST}.storage": "0"}, [("spec.resources[storage]", INVALID)]),
    ({"spec.storageClassName": "A"}, [("spec.storageClassName", INVALID)]),
    ({"spec.volumeMode": "x"}, [("spec.volumeMode", UNSUPPORTED)]),
    ({"spec.dataSource": {"kind": "", "name": "", "apiGroup": "a.b"}},
     [("spec.dataSource.kind", REQUIRED), ("spec.dataSource.name", REQUIRED)]),
    ({"spec.dataSource": {"kind": "VolumeSnapshot", "name": "a"}}, [("spec.dataSource", INVALID)]),
]  # fmt: skip
CLAIM_UPDATES: list[Row] = [
    ({"metadata.labels": {"a": "b"}}, []),
    ({"spec.accessModes": ["ReadOnlyMany"]}, [("spec", FORBIDDEN)]),
    ({f"{REQUEST}.storage": "2Gi"}, [("spec", FORBIDDEN)]),
]
BOUND = {**CLAIM, "spec": {**CLAIM["spec"], "volumeName": "v"},
         "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}}  # fmt: skip
BOUND_UPDATES: list[Row] = [
    ({f"{REQUEST}.storage": "2Gi"}, []),
    ({f"{REQUEST}.storage": "1Mi"}, [(f"{REQUEST}.storage", FORBIDDEN)]),
    ({"spec.volumeName": "w"}, [("spec", FORBIDDEN)]),
]

CLASS = of("storage.k8s.io/v1", "StorageClass", provisioner="a.b/c")
CLASSES: list[Row] = [
    ({}, []),
    ({"provisioner": ""}, [("provisioner", REQUIRED)]),
    ({"provisioner": "a b"}, [("provisioner", INVALID)]),
    ({"reclaimPolicy": "Recycle"}, [("reclaimPolicy", UNSUPPORTED)]),
    ({"volumeBindingMode": "x"}, [("volumeBindingMode", UNSUPPORTED)]),
    ({"parameters": {"": "a"}}, [("parameters", INVALID)]),
]
CLASS_UPDATES: list[Row] = [
    ({"provisioner": "a.b/d"}, [("provisioner", FORBIDDEN)]),
    ({"parameters": {"a": "b"}}, [("parameters", FORBIDDEN)]),
    ({"reclaimPolicy": "Retain"}, [("reclaimPolicy", FORBIDDEN)]),
    ({"allowVolumeExpansion": True}, []),
]

DRIVER = of("storage.k8s.io/v1", "CSIDriver", "a.b", spec={})
DRIVERS: list[Row] = [
    ({}, []),
    ({"spec.fsGroupPolicy": "x"}, [("spec.fsGroupPolicy", UNSUPPORTED)]),
    ({"spec.volumeLifecycleModes": ["x"]}, [("spec.volumeLifecycleModes", UNSUPPORTED)]),
    ({"spec.tokenRequests": [{"audience": "a"}, {"audience": "a"}]},
     [("spec.tokenRequests[1].audience", DUPLICATE)]),
    ({"spec.tokenRequests": [{"audience": "a", "expirationSeconds": 599}]},
     [("spec.tokenRequests[0].expirationSeconds", INVALID)]),
]  # fmt: skip

NODE = of("storage.k8s.io/v1", "CSINode", "n", spec={"drivers": [{"name": "a.b", "nodeID": "i"}]})
D = "spec.drivers[0]"
NODES: list[Row] = [
    ({}, []),
    ({f"{D}.name": ""}, [(f"{D}.name", REQUIRED)]),
    ({f"{D}.nodeID": ""}, [(f"{D}.nodeID", REQUIRED)]),
    ({f"{D}.nodeID": "a" * 257}, [(f"{D}.nodeID", INVALID)]),
    ({"spec.drivers[1]": {"name": "a.b", "nodeID": "i"}}, [("spec.drivers[1].name", DUPLICATE)]),
    ({f"{D}.topologyKeys": ["a", "a"]}, [(D, DUPLICATE)]),
    ({f"{D}.allocatable": {"count": -1}}, [(f"{D}.allocatable.count", INVALID)]),
]

ATTACHMENT = of("storage.k8s.io/v1", "VolumeAttachment", spec={
    "attacher": "a.b", "nodeName": "n", "source": {"persistentVolumeName": "v"}
})  # fmt: skip
ATTACHMENTS: list[Row] = [
    ({}, []),
    ({"spec.nodeName": "A"}, [("spec.nodeName", INVALID)]),
    ({"spec.source": {}}, [("spec.source", REQUIRED)]),
    (
        {"spec.source.persistentVolumeName": ""},
        [("spec.source.persistentVolumeName", why) for why in (REQUIRED, INVALID)],
    ),
]
ATTACHMENT_UPDATES: list[Row] = [({"spec.nodeName": "m"}, [("spec", INVALID)])]

CAPACITY = of("storage.k8s.io/v1", "CSIStorageCapacity", storageClassName="c")
CAPACITY["metadata"]["namespace"] = "default"
CAPACITIES: list[Row] = [
    ({}, []),
    ({"storageClassName": "A"}, [("storageClassName", INVALID)]),
    ({"capacity": "-1"}, [("capacity", INVALID)]),
    ({"maximumVolumeSize": "-1"}, [("maximumVolumeSize", INVALID)]),
]
CAPACITY_UPDATES: list[Row] = [({"storageClassName": "d"}, [("storageClassName", INVALID)])]

ATTRIBUTES = of(
    "storage.k8s.io/v1", "VolumeAttributesClass", driverName="a.b", parameters={"a": "b"}
)
ATTRIBUTE_ROWS: list[Row] = [
    ({}, []),
    ({"driverName": ""}, [("driverName", REQUIRED)]),
    ({"parameters": GONE}, [("parameters", REQUIRED)]),
]
ATTRIBUTE_UPDATES: list[Row] = [
    ({"driverName": "c.d"}, [("driverName", FORBIDDEN)]),
    ({"parameters": {"a": "c"}}, [("parameters", FORBIDDEN)]),
]
NEW = [(VOLUME, VOLUMES), (CLAIM, CLAIMS), (CLASS, CLASSES), (DRIVER, DRIVERS), (NODE, NODES),
       (ATTACHMENT, ATTACHMENTS), (CAPACITY, CAPACITIES), (ATTRIBUTES, ATTRIBUTE_ROWS)]  # fmt: skip
CHANGED = [(VOLUME, VOLUME_UPDATES), (CLAIM, CLAIM_UPDATES), (BOUND, BOUND_UPDATES), (CLASS, CLASS_UPDATES),
           (ATTACHMENT, ATTACHMENT_UPDATES), (CAPACITY, CAPACITY_UPDATES), (ATTRIBUTES, ATTRIBUTE_UPDATES)]  # fmt: skip


def kind_of(value: Any) -> str:
    return value["kind"] if isinstance(value, dict) else ""


@pytest.mark.parametrize(("base", "rows"), NEW, ids=kind_of)
def test_new(base: Object, rows: list[Row]) -> None:
    check(rows, of_create, base)


@pytest.mark.parametrize(("base", "rows"), CHANGED, ids=kind_of)
def test_changed(base: Object, rows: list[Row]) -> None:
    check(rows, of_update, base)
