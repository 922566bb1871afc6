"""The /scale of anything: which resource a kind is, and its Scale."""

from __future__ import annotations

from sampan.client.client import Client
from sampan.client.resources import (
    DEPLOYMENTS,
    REPLICASETS,
    REPLICATIONCONTROLLERS,
    STATEFULSETS,
)
from sampan.controllers.discovery import discover
from sampan.kube.types import GVR, split_api_version

SCALED: dict[tuple[str, str], GVR] = {
    ("apps", "ReplicaSet"): REPLICASETS,
    ("apps", "StatefulSet"): STATEFULSETS,
    ("apps", "Deployment"): DEPLOYMENTS,
    ("", "ReplicationController"): REPLICATIONCONTROLLERS,
}


class NotServed(Exception):
    """No resource is of this kind."""


async def resource_of(client: Client, api_version: str, kind: str) -> GVR:
    """Raises NotServed. Kinds beyond Kubernetes' own are looked up each time: they come and go."""
    group, version = split_api_version(api_version)
    known = SCALED.get((group, kind))
    if known is not None:
        return known
    for each in await discover(client):
        if each.gvr.group == group and each.kind == kind:
            return GVR(group, version or each.gvr.version, each.gvr.resource)
    raise NotServed(f'no matches for kind "{kind}" in group "{group}"')
