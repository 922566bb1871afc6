"""What the API serves, for controllers that act on every kind: the garbage collector and namespace deletion."""

from __future__ import annotations

import logging
from typing import NamedTuple

from sampan.client.client import Client
from sampan.kube.errors import ApiError
from sampan.kube.types import GVR, split_api_version

log = logging.getLogger(__name__)


class Resource(NamedTuple):
    gvr: GVR
    kind: str
    namespaced: bool
    verbs: frozenset[str]


async def discover(client: Client) -> list[Resource]:
    """Every resource in its group's preferred version, subresources left out.

    Events are served by two groups from one storage: the core group's stands for both. A group that does not answer is
    left out with a warning, as its server may only be away.
    """
    groups = (await client.raw("GET", "/apis")).json()["groups"]
    paths = ["/api/v1", *(f"/apis/{g['preferredVersion']['groupVersion']}" for g in groups)]
    found: list[Resource] = []
    for path in paths:
        try:
            document = (await client.raw("GET", path)).json()
        except ApiError as error:
            log.warning("the resources of %s cannot be discovered: %s", path, error.message)
            continue
        group, version = split_api_version(document["groupVersion"])
        for item in document["resources"]:
            name = item["name"]
            if "/" in name or (group, name) == ("events.k8s.io", "events"):
                continue
            gvr = GVR(group, version, name)
            found.append(Resource(gvr, item["kind"], item["namespaced"], frozenset(item["verbs"])))
    return found
