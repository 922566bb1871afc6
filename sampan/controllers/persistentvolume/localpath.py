"""Volumes that are directories of a node, as K3s' local-path: what a cluster of any size has without any storage system.

A node says in an annotation where its directories are; it makes one when a pod first mounts it, and removes it when it is
asked to through the API's node proxy. So a node that joined from elsewhere is served like the server's own, and needs no
right to look at volumes that are not its pods'. A node that is gone took its directories along.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import PurePosixPath
from urllib.parse import quote

from sampan.client.client import Client, path_of
from sampan.client.resources import NODES
from sampan.controllers.base import Object
from sampan.kube import objects, persistent
from sampan.kube.errors import ApiError
from sampan.kube.objects import condition_true
from sampan.kube.persistent import LOCAL_PATH

# Charts that were written for K3s bring classes of this provisioner.
PROVISIONERS = (LOCAL_PATH, "rancher.io/local-path")
NODE = "sampan.dev/node"  # annotation of a volume: where its directory is
# Held while the directory may be there (KEP-2644); the external provisioners' own name, which tools know.
FINALIZER = "external-provisioner.volume.kubernetes.io/finalizer"
HOSTNAME = "kubernetes.io/hostname"
LONGEST_NAME = 255  # bytes of a file name
ASKING = 20.0  # seconds that a node has to answer


class CannotProvision(Exception):
    """Why this claim cannot have a directory, as a sentence for its events."""


def is_ours(volume: Object) -> bool:
    return objects.annotations(volume).get(persistent.PROVISIONED_BY) == LOCAL_PATH


def volume_name(claim: Object) -> str:
    return f"pvc-{claim['metadata']['uid']}"


def refusal(claim: Object, storage_class: Object) -> str | None:
    """What of the claim a directory cannot be; None when it can."""
    if persistent.mode_of(claim) != "Filesystem":
        return "only volumeMode Filesystem is supported: a directory is no block device"
    modes = set(persistent.modes_of(claim)) - {"ReadWriteOnce", persistent.ONE_POD}
    if modes:
        return (
            "only the access modes ReadWriteOnce and ReadWriteOncePod are supported, not "
            + ", ".join(sorted(modes))
        )
    if storage_class.get("mountOptions"):
        return "mount options are not supported: a directory is not mounted"
    if claim["spec"].get("selector") is not None:
        return "claim.spec.selector is not supported"
    if claim["spec"].get("dataSource") or claim["spec"].get("dataSourceRef"):
        return "data sources are not supported"
    return None


def choose_node(nodes: Iterable[Object], storage_class: Object, used: dict[str, int]) -> Object:
    """For a claim that does not wait for its pod: the ready node with the fewest volumes. Raises CannotProvision."""
    fit = [
        node
        for node in nodes
        if LOCAL_PATH in objects.annotations(node)
        and condition_true(node, "Ready")
        and not node["spec"].get("unschedulable")
        and persistent.allows(storage_class, place_of(node))
    ]
    if not fit:
        raise CannotProvision("no node is ready and has room for local volumes")
    return min(
        fit, key=lambda node: (used.get(node["metadata"]["name"], 0), node["metadata"]["name"])
    )


def place_of(node: Object) -> persistent.Place:
    return node["metadata"]["name"], node["metadata"].get("labels") or {}


def volume_for(claim: Object, storage_class: Object, node: Object) -> Object:
    """The volume that a claim gets on this node. Raises CannotProvision."""
    if why := refusal(claim, storage_class):
        raise CannotProvision(why)
    metadata, name = claim["metadata"], node["metadata"]["name"]
    base = objects.annotations(node).get(LOCAL_PATH)
    if base is None:
        raise CannotProvision(f'node "{name}" offers no directories for volumes')
    directory = f"{volume_name(claim)}_{metadata['namespace']}_{metadata['name']}"[:LONGEST_NAME]
    policy = storage_class.get("reclaimPolicy") or "Delete"
    hostname = place_of(node)[1].get(HOSTNAME, name)
    expression = {"key": HOSTNAME, "operator": "In", "values": [hostname]}
    spec: Object = {
        "accessModes": persistent.modes_of(claim),
        "capacity": {"storage": claim["spec"]["resources"]["requests"]["storage"]},
        "claimRef": persistent.reference(claim),
        "local": {"path": str(PurePosixPath(base) / directory)},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}},
        "persistentVolumeReclaimPolicy": policy,
        "storageClassName": storage_class["metadata"]["name"],
        "volumeMode": "Filesystem",
    }
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": volume_name(claim),
            "annotations": {persistent.PROVISIONED_BY: LOCAL_PATH, NODE: name},
            "finalizers": [FINALIZER] if policy == "Delete" else [],
        },
        "spec": spec,
    }


async def remove(client: Client, volume: Object) -> None:
    """The directory is gone on return, with its node if that is gone. Raises ApiError, OSError or TimeoutError."""
    node = objects.annotations(volume).get(NODE, "")
    directory = PurePosixPath(volume["spec"]["local"]["path"]).name
    try:
        await client.get(NODES, node)
    except ApiError as error:
        if error.code == 404:
            return
        raise
    path = path_of(NODES, name=node, subresource=f"proxy/localVolumes/{quote(directory)}")
    async with asyncio.timeout(ASKING):
        answer = await client.raw("DELETE", path)
        await answer.read()
