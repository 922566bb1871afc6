"""NodeRestriction: what a node may write into the objects that it may write at all.

The Node authorizer (`authz.py`) has judged by name; here the content is judged: a node whose machine was taken must not be
able to draw other nodes' pods to itself, by a label or by dropping a taint, nor to run pods that read secrets.
https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#noderestriction
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sampan.apiserver.admission.plugin import MIRROR_ANNOTATION, Object, Plugin
from sampan.apiserver.authz import node_name
from sampan.apiserver.call import Call
from sampan.apiserver.nodeauthz import NODE_LEASES
from sampan.kube import objects
from sampan.kube.errors import ApiError

# Labels below kubernetes.io and k8s.io that a node may set on itself (KEP-279).
OWN_LABELS = frozenset(
    {
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/instance-type",
        "beta.kubernetes.io/os",
        "failure-domain.beta.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "kubernetes.io/arch",
        "kubernetes.io/hostname",
        "kubernetes.io/os",
        "node.kubernetes.io/instance-type",
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
    }
)
OWN_LABEL_DOMAINS = ("kubelet.kubernetes.io", "node.kubernetes.io")
RESERVED_DOMAINS = ("kubernetes.io", "k8s.io")


class NodeRestriction(Plugin):
    storages = (
        "core/nodes",
        "core/pods",
        "coordination.k8s.io/leases",
        "storage.k8s.io/csinodes",
        "resource.k8s.io/resourceslices",
    )
    subresources = ("*",)

    async def create(self, call: Call, obj: Object) -> None:
        node = node_name(call.user)
        if not node:
            return
        name = obj["metadata"].get("name") or ""
        kind = call.resource.name
        if kind == "pods":
            await self._create_pod(call, node, obj)
        elif kind == "resourceslices":
            if (obj.get("spec") or {}).get("nodeName") != node:
                text = "can only create ResourceSlice with the same NodeName as the requesting node"
                raise refusal(call, node, text, name)
        elif name != node:
            what = "access lease" if kind == "leases" else f"create {kind[:-1]}"
            raise refusal(call, node, f"is not allowed to {what} {quoted(name)}", name)
        elif kind == "leases" and call.info.namespace != NODE_LEASES:
            text = f"can only access leases in the {quoted(NODE_LEASES)} system namespace"
            raise refusal(call, node, text, name)
        elif kind == "nodes":
            labels = sorted(filter(reserved, objects.labels(obj)))
            if labels:
                text = f"is not allowed to set the following labels: {', '.join(labels)}"
                raise refusal(call, node, text, name)

    async def update(self, call: Call, new: Object, old: Object) -> None:
        node = node_name(call.user)
        kind = call.resource.name
        if not node:
            return
        name = old["metadata"]["name"]
        if kind in ("leases", "csinodes"):
            if name != node:
                raise refusal(call, node, f"is not allowed to access {kind[:-1]} {quoted(name)}")
            return
        if kind == "resourceslices":
            if any((each.get("spec") or {}).get("nodeName") != node for each in (new, old)):
                raise refusal(call, node, "can only update ResourceSlice of its own")
            return
        if kind == "pods":
            if (old.get("spec") or {}).get("nodeName") != node:
                text = "can only update pod status for pods with spec.nodeName set to itself"
                raise refusal(call, node, text)
            if objects.labels(new) != objects.labels(old):
                raise refusal(call, node, "cannot update labels through pod status")
            return
        if name != node:
            raise refusal(call, node, f"is not allowed to modify node {quoted(name)}")
        before, after = old.get("spec") or {}, new.get("spec") or {}
        if (before.get("taints") or []) != (after.get("taints") or []):
            raise refusal(call, node, "is not allowed to modify taints")
        labels = sorted(filter(reserved, changed(objects.labels(new), objects.labels(old))))
        if labels:
            raise refusal(call, node, f"is not allowed to modify labels: {', '.join(labels)}")
        if new["metadata"].get("ownerReferences") != old["metadata"].get("ownerReferences"):
            raise refusal(call, node, "is not allowed to modify ownerReferences")

    async def delete(self, call: Call, obj: Object) -> None:
        node = node_name(call.user)
        if not node:
            return
        name, kind = obj["metadata"]["name"], call.resource.name
        bound = (obj.get("spec") or {}).get("nodeName")
        if kind == "pods" and bound != node:
            verb = "evict" if call.info.subresource == "eviction" else "delete"
            text = f"can only {verb} pods with spec.nodeName set to itself"
            raise refusal(call, node, text)
        if kind == "nodes":
            raise refusal(call, node, f"is not allowed to delete node {quoted(name)}")
        if kind in ("leases", "csinodes") and name != node:
            raise refusal(call, node, f"is not allowed to access {kind[:-1]} {quoted(name)}")
        if kind == "resourceslices" and bound != node:
            raise refusal(call, node, "can only delete ResourceSlice of its own")

    async def _create_pod(self, call: Call, node: str, pod: Object) -> None:
        """Only the mirror of a static pod of its own, which has a secret neither of a namespace nor of an account."""
        name = pod["metadata"].get("name") or ""
        spec = pod.get("spec") or {}
        if MIRROR_ANNOTATION not in objects.annotations(pod):
            text = f"can only create pods with the {quoted(MIRROR_ANNOTATION)} annotation"
            raise refusal(call, node, text, name)
        if spec.get("nodeName") != node:
            raise refusal(call, node, "can only create pods with spec.nodeName set to itself", name)
        for reference in references(spec):
            raise refusal(call, node, f"can not create pods that reference {reference}", name)
        owners = pod["metadata"].get("ownerReferences") or []
        if not owners:
            return
        entry = await self.lookup.entry("", "v1", "nodes", "", node)
        itself = {"kind": "Node", "name": node, "uid": objects.uid(entry.object()) if entry else ""}
        if any({key: owner.get(key) for key in itself} != itself for owner in owners):
            text = "can only create pods with an owner reference set to itself"
            raise refusal(call, node, text, name)


def references(spec: Object) -> Iterator[str]:
    """What a pod would read from the API, of which a mirror pod reads nothing."""
    if spec.get("serviceAccountName"):
        yield "a service account"
    for volume in spec.get("volumes") or ():
        if "secret" in volume:
            yield "secrets"
        if "configMap" in volume:
            yield "configmaps"
        if "persistentVolumeClaim" in volume:
            yield "persistentvolumeclaims"
        if "ephemeral" in volume or "csi" in volume:
            yield "storage drivers"
        for source in (volume.get("projected") or {}).get("sources") or ():
            yield from (f"projected {key}" for key in source if key != "downwardAPI")
    if spec.get("imagePullSecrets"):
        yield "secrets"
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        for container in spec.get(kind) or ():
            for source in container.get("envFrom") or ():
                yield "secrets" if "secretRef" in source else "configmaps"
            for variable in container.get("env") or ():
                source = variable.get("valueFrom") or {}
                if "secretKeyRef" in source:
                    yield "secrets"
                if "configMapKeyRef" in source:
                    yield "configmaps"


def reserved(label: str) -> bool:
    """A label that says what a node is for, and is thus not the node's to say."""
    domain, slash, _ = label.partition("/")
    if not slash or label in OWN_LABELS or _within(domain, OWN_LABEL_DOMAINS):
        return False
    return _within(domain, RESERVED_DOMAINS)


def _within(domain: str, parents: tuple[str, ...]) -> bool:
    return any(domain == parent or domain.endswith("." + parent) for parent in parents)


def changed(new: Mapping[str, Any], old: Mapping[str, Any]) -> set[str]:
    return {key for key in {*new, *old} if new.get(key) != old.get(key)}


def quoted(text: str) -> str:
    return f'"{text}"'


def refusal(call: Call, node: str, text: str, name: str = "") -> ApiError:
    return call.forbidden(f'node "{node}" {text}', name)
