"""/scale: an autoscaling/v1 Scale over `spec.replicas` of a workload."""

from __future__ import annotations

from typing import Any

from sampan.kube import selectors

Object = dict[str, Any]


def of(obj: Object) -> Object:
    """The Scale that shows a Deployment, ReplicaSet, StatefulSet or ReplicationController."""
    metadata = obj["metadata"]
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    selector = spec.get("selector")
    shown: Object = {"replicas": status.get("replicas", 0)}
    if obj["kind"] == "ReplicationController":
        parsed = selectors.from_map(selector)
    else:
        parsed = selectors.from_object(selector)
    if str(parsed):
        shown["selector"] = str(parsed)
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {key: metadata[key] for key in kept if key in metadata},
        "spec": {"replicas": spec["replicas"]} if spec.get("replicas") else {},
        "status": shown,
    }


def apply(obj: Object, scale: Object) -> Object:
    """The workload with the replicas of a Scale, and the Scale's resourceVersion as the precondition."""
    replicas = (scale.get("spec") or {}).get("replicas") or 0
    revision = scale["metadata"].get("resourceVersion")
    metadata = {**obj["metadata"]}
    if revision:
        metadata["resourceVersion"] = revision
    else:
        metadata.pop("resourceVersion", None)
    if scale["metadata"].get("uid"):
        metadata["uid"] = scale["metadata"]["uid"]
    return {**obj, "metadata": metadata, "spec": {**(obj.get("spec") or {}), "replicas": replicas}}


def managed(obj: Object, entries: list[Object] | None) -> Object:
    """The workload with these managers (`metadata.managedFields`)."""
    metadata = {**obj["metadata"]}
    if entries:
        metadata["managedFields"] = entries
    else:
        metadata.pop("managedFields", None)
    return {**obj, "metadata": metadata}
