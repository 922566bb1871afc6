"""What the tests of server-side apply ask of an object: who manages it, and what they own."""

from __future__ import annotations

from typing import Any

from apiserver_harness import (
    DEPLOYMENTS,
    MAPS,
    deployment,
)

Object = dict[str, Any]

WEB = f"{DEPLOYMENTS}/web"
MAP = f"{MAPS}/m"
REPLICAS = {"f:spec": {"f:replicas": {}}}
SCALERS = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers"


def managers(obj: Object) -> list[tuple[str, ...]]:
    """(manager, operation, version[, subresource]) of each entry, by name: the entries stand in order of time."""
    found = []
    for entry in obj["metadata"].get("managedFields") or ():
        names = (entry["manager"], entry["operation"], entry["apiVersion"])
        found.append((*names, entry["subresource"]) if "subresource" in entry else names)
    return sorted(found)


def owned(obj: Object, manager: str) -> Any:
    (found,) = (
        entry["fieldsV1"]
        for entry in obj["metadata"]["managedFields"]
        if entry["manager"] == manager
    )
    return found


def web(**spec: Any) -> Object:
    """A Deployment's configuration as someone applies it, with only what `spec` says beside what it must have."""
    found = deployment("web")
    del found["spec"]["replicas"]
    found["spec"].update(spec)
    return found


def partial(
    kind: str = "Deployment", version: str = "apps/v1", name: str = "web", **rest: Any
) -> Object:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **rest}
