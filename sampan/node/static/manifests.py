"""A file of the manifest directory as a pod of this node: read, named, defaulted and validated as kubelet does.

The uid comes from the content, so the same file is the same pod after a restart and a changed file is another pod.
What a static pod may not do: name objects of the API (it has to run without it). Source: pkg/kubelet/config, v1.36.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from sampan.kube import decode, errors, objects
from sampan.kube.defaulting import default
from sampan.kube.types import GVK
from sampan.kube.validation import validate_create
from sampan.node import references
from sampan.node.podspec import Object

POD = GVK("", "v1", "Pod")
SOURCE = "kubernetes.io/config.source"
HASH = "kubernetes.io/config.hash"
SEEN = "kubernetes.io/config.seen"
MIRROR = "kubernetes.io/config.mirror"
PRIORITIES = {"system-node-critical": 2_000_001_000, "system-cluster-critical": 2_000_000_000}
LARGEST = 1024 * 1024  # bytes of a manifest


class BadManifest(ValueError):
    """Not a pod that can be run here."""


def read(path: Path, node: str, seen: str) -> Object:
    """Raises OSError and BadManifest."""
    with open(path, "rb") as file:
        body = file.read(LARGEST + 1)
    if len(body) > LARGEST:
        raise BadManifest(f"larger than {LARGEST} bytes")
    try:
        return make(body, path, node, seen)
    except errors.ApiError as error:
        raise BadManifest(error.message) from error


def make(body: bytes, path: Path, node: str, seen: str) -> Object:
    """Raises ApiError and BadManifest."""
    media_type = "application/json" if body.lstrip()[:1] == b"{" else "application/yaml"
    pod, _ = decode.decode(body, media_type, POD)
    if pod.get("kind") != "Pod" or pod.get("apiVersion") != "v1":
        raise BadManifest("not a v1 Pod")
    pod.pop("status", None)
    content = json.dumps(pod, sort_keys=True)
    meta, spec = pod.setdefault("metadata", {}), pod.setdefault("spec", {})
    if not meta.get("uid"):
        text = f"host:{node}\0file:{path}\0{content}"
        meta["uid"] = hashlib.sha256(text.encode()).hexdigest()[:32]
    if not meta.get("name"):
        raise BadManifest("metadata.name: Required value")
    meta["name"] = f"{meta['name']}-{node.lower()}"
    meta["namespace"] = meta.get("namespace") or "default"
    annotations = dict(meta.get("annotations") or {})
    annotations.pop(MIRROR, None)
    meta["annotations"] = {**annotations, SOURCE: "file", HASH: meta["uid"], SEEN: seen}
    spec["nodeName"] = node
    # Nobody moves it elsewhere, so no taint ends it.
    spec["tolerations"] = [
        *(spec.get("tolerations") or ()),
        {"operator": "Exists", "effect": "NoExecute"},
    ]
    if (priority := PRIORITIES.get(spec.get("priorityClassName") or "")) is not None:
        spec["priority"] = priority
    default(POD, pod)
    if causes := validate_create(POD, pod):
        raise BadManifest("; ".join(f"{cause.field}: {cause.message}" for cause in causes))
    _check_alone(pod)
    return pod


def _check_alone(pod: Object) -> None:
    spec = pod["spec"]
    named = sorted(f"{ref.kind} {ref.name}" for ref in references.of_pod(pod))
    if spec.get("serviceAccountName"):
        named.append(f"service account {spec['serviceAccountName']}")
    for volume in spec.get("volumes") or ():
        if "persistentVolumeClaim" in volume or "ephemeral" in volume:
            named.append(f"the claim of volume {volume['name']}")
        for source in (volume.get("projected") or {}).get("sources") or ():
            if "serviceAccountToken" in source:
                named.append(f"the service account token of volume {volume['name']}")
    if spec.get("ephemeralContainers"):
        raise BadManifest("spec.ephemeralContainers: a static pod may not have any")
    if named:
        raise BadManifest(f"static pods may not reference {', '.join(named)}")


def mirror_of(pod: Object, node: Object) -> Object:
    """The API's picture of the static pod, owned by the Node."""
    meta = pod["metadata"]
    owner = {
        "apiVersion": "v1",
        "kind": "Node",
        "name": objects.name(node),
        "uid": objects.uid(node),
        "controller": True,
    }
    kept = {key: meta[key] for key in ("name", "namespace", "labels", "finalizers") if key in meta}
    annotations = {**meta["annotations"], MIRROR: meta["annotations"][HASH]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**kept, "annotations": annotations, "ownerReferences": [owner]},
        "spec": pod["spec"],
    }


def is_mirror(pod: Object) -> bool:
    return MIRROR in objects.annotations(pod)
