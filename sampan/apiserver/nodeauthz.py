"""The Node authorizer: a node may do what a kubelet has to, to itself and to what its pods need, and nothing else.

    node ← pod ← secret, configmap, service account, claim ← volume ← secret

What is related is found by walking from the node's pods, of which there are few, when a node asks; nothing is kept but which
pods are on which node, and what each of them names once it was looked at. A relation counts as soon as the write that made it
was answered. What nodes write is judged by NodeRestriction (`admission/noderestriction.py`).
https://kubernetes.io/docs/reference/access-authn-authz/node/
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sampan.apiserver.bootstrap_rbac import NODE_RULES
from sampan.apiserver.entries import Entry
from sampan.apiserver.feed import Feed
from sampan.apiserver.rbac import Attributes
from sampan.apiserver.resources import Resource, Table
from sampan.apiserver.watchcache import WatchCache
from sampan.kube import objects

NODE_LEASES = "kube-node-lease"
NODE_NAME = "spec.nodeName"

Object = dict[str, Any]
Names = frozenset[tuple[str, str]]  # (kind's plural, name), in the pod's namespace

# Kinds whose relation to a node depends on other kinds, which must be there before one asks.
STORAGE = ("persistentvolumeclaims", "persistentvolumes")
NEEDS: dict[tuple[str, str], tuple[tuple[str, str], ...]] = {
    ("", "secrets"): (("", "pods"), *(("", each) for each in STORAGE)),
    ("", "configmaps"): (("", "pods"),),
    ("", "serviceaccounts"): (("", "pods"),),
    ("", "pods"): (("", "pods"),),
    ("", "persistentvolumeclaims"): (("", "pods"),),
    ("", "persistentvolumes"): (("", "pods"), ("", "persistentvolumeclaims")),
    ("resource.k8s.io", "resourceclaims"): (("", "pods"),),
    ("resource.k8s.io", "resourceslices"): (("resource.k8s.io", "resourceslices"),),
    ("storage.k8s.io", "volumeattachments"): (("storage.k8s.io", "volumeattachments"),),
}


class NodeGraph:
    """What belongs to a node. `prepare` loads what a question needs; the rest answers without waiting."""

    def __init__(self, caches: WatchCache, table: Table) -> None:
        self.caches = caches
        self.table = table
        self._pods: dict[str, dict[str, Entry]] | None = None  # by node, by key
        self._names: dict[str, tuple[Entry, Names]] = {}  # by pod's key

    async def prepare(self, group: str, resource: str) -> None:
        for needed in NEEDS.get((group, resource), ()):
            row = self._row(*needed)
            if row is None:
                continue
            cache = self.caches.ready(row) or await self.caches.get(row)
            if needed == ("", "pods") and self._pods is None:
                self._pods = {}
                self._names = {}
                Feed(cache, self._apply, self._forget)

    def _row(self, group: str, plural: str) -> Resource | None:
        return self.table.lookup(group, "v1", plural)

    def _apply(self, entry: Entry | None, previous: Entry | None) -> None:
        row = self._row("", "pods")
        assert row is not None and self._pods is not None
        node = entry.field(row, NODE_NAME) if entry is not None else ""
        if previous is not None:
            before = previous.field(row, NODE_NAME)
            if before and before != node:
                self._pods.get(before, {}).pop(previous.key, None)
            if entry is None:
                self._names.pop(previous.key, None)
        if entry is not None and node:
            self._pods.setdefault(node, {})[entry.key] = entry

    def _forget(self) -> None:
        self._pods = None

    # Questions

    def pods(self, node: str, namespace: str) -> Iterator[tuple[str, Names]]:
        """(name, what it refers to) of the node's pods in the namespace."""
        prefix = f"/registry/core/pods/{namespace}/"
        for key, entry in ((self._pods or {}).get(node) or {}).items():
            if key.startswith(prefix):
                known = self._names.get(key)
                if known is None or known[0] is not entry:
                    known = self._names[key] = (entry, frozenset(named_by(entry.object())))
                yield entry.name, known[1]

    def related(self, node: str, plural: str, namespace: str, name: str) -> bool:
        if plural == "pods":
            key = f"/registry/core/pods/{namespace}/{name}"
            return key in ((self._pods or {}).get(node) or {})
        if plural == "persistentvolumes":
            return self._volume_of(node, name)
        if any((plural, name) in names for _, names in self.pods(node, namespace)):
            return True
        return plural == "secrets" and self._secret_of_volume(node, namespace, name)

    def _volume_of(self, node: str, name: str) -> bool:
        """Is this volume bound to a claim of one of the node's pods?"""
        return any(volume == name for _, volume in self._volumes(node))

    def _volumes(self, node: str) -> Iterator[tuple[str, str]]:
        """(namespace of the claim, volume) of all claims of the node's pods."""
        namespaces = {key.split("/")[4] for key in (self._pods or {}).get(node) or {}}
        for namespace in namespaces:
            for _, names in self.pods(node, namespace):
                for plural, name in names:
                    if plural != "persistentvolumeclaims":
                        continue
                    claim = self.find("", plural, namespace, name)
                    volume = ((claim or {}).get("spec") or {}).get("volumeName")
                    if volume:
                        yield namespace, volume

    def _secret_of_volume(self, node: str, namespace: str, name: str) -> bool:
        """Secrets that a volume names for its driver, when it is bound for one of the node's pods."""
        for claimed_in, volume in self._volumes(node):
            found = self.find("", "persistentvolumes", "", volume)
            for reference in secret_references((found or {}).get("spec") or {}):
                place = reference.get("namespace") or reference.get("secretNamespace") or claimed_in
                if (place, reference.get("name") or reference.get("secretName")) == (
                    namespace,
                    name,
                ):
                    return True
        return False

    def find(self, group: str, plural: str, namespace: str, name: str) -> Object | None:
        """An object out of the cache as it is; None when it is not there or the kind is not loaded."""
        row = self._row(group, plural)
        cache = self.caches.caches.get(row.storage) if row is not None else None
        if row is None or cache is None:
            return None
        entry = cache.entries.get(row.key(namespace, name))
        return entry.object() if entry is not None else None


def named_by(pod: Object) -> Iterator[tuple[str, str]]:
    """(plural, name) of everything in its namespace that the pod may read from the API through its node."""
    spec = pod.get("spec") or {}
    if spec.get("serviceAccountName"):
        yield "serviceaccounts", spec["serviceAccountName"]
    for reference in spec.get("imagePullSecrets") or ():
        yield "secrets", reference.get("name", "")
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        for container in spec.get(kind) or ():
            yield from _of_container(container)
    for volume in spec.get("volumes") or ():
        yield from _of_volume(objects.name(pod), volume)
    for status in (pod.get("status") or {}).get("resourceClaimStatuses") or ():
        yield "resourceclaims", status.get("resourceClaimName") or ""
    for claim in spec.get("resourceClaims") or ():
        yield "resourceclaims", claim.get("resourceClaimName") or ""


def _of_container(container: Object) -> Iterator[tuple[str, str]]:
    for source in container.get("envFrom") or ():
        for key, plural in (("secretRef", "secrets"), ("configMapRef", "configmaps")):
            if key in source:
                yield plural, source[key].get("name", "")
    for variable in container.get("env") or ():
        source = variable.get("valueFrom") or {}
        for key, plural in (("secretKeyRef", "secrets"), ("configMapKeyRef", "configmaps")):
            if key in source:
                yield plural, source[key].get("name", "")


def _of_volume(pod: str, volume: Object) -> Iterator[tuple[str, str]]:
    if "secret" in volume:
        yield "secrets", volume["secret"].get("secretName", "")
    if "configMap" in volume:
        yield "configmaps", volume["configMap"].get("name", "")
    if "persistentVolumeClaim" in volume:
        yield "persistentvolumeclaims", volume["persistentVolumeClaim"].get("claimName", "")
    if "ephemeral" in volume:  # KEP-1698: the claim that is made for it
        yield "persistentvolumeclaims", f"{pod}-{volume.get('name', '')}"
    for source in (volume.get("projected") or {}).get("sources") or ():
        for key, plural in (("secret", "secrets"), ("configMap", "configmaps")):
            if key in source:
                yield plural, source[key].get("name", "")
    for reference in secret_references(volume):
        yield "secrets", reference.get("name") or reference.get("secretName") or ""


def secret_references(source: Object) -> Iterator[Object]:
    """Secrets that a volume source names for its driver: `secretRef`, `nodePublishSecretRef`, Azure's `secretName` …"""
    for driver in source.values():
        if not isinstance(driver, dict):
            continue
        for key, value in driver.items():
            if key.endswith("ecretRef") and isinstance(value, dict):
                yield value
        if "secretName" in driver and "shareName" in driver:
            yield driver


# --- the rules: "" when allowed, else why not --------------------------------------------------------------


class NodeAuthorizer:
    def __init__(self, graph: NodeGraph) -> None:
        self.graph = graph

    def refusal(self, node: str, asked: Attributes) -> str | None:
        """ "" when the node may, else why not; None when nothing was said about it at all."""
        rule = _RULES.get((asked.group, asked.resource))
        if rule is not None:
            return rule(self.graph, node, asked)
        return "" if any(each.allows(asked) for each in NODE_RULES) else None


def _related(graph: NodeGraph, node: str, asked: Attributes) -> str:
    if not asked.name:
        return "No Object name found"
    if graph.related(node, asked.resource, asked.namespace, asked.name):
        return ""
    return f"no relationship found between node '{node}' and this object"


def _read(graph: NodeGraph, node: str, asked: Attributes) -> str:
    if asked.verb not in ("get", "list", "watch"):
        return "can only read resources of this type"
    if asked.subresource:
        return "cannot read subresource"
    if not asked.namespace:
        return "can only read namespaced object of this type"
    return _related(graph, node, asked)


def _get(graph: NodeGraph, node: str, asked: Attributes) -> str:
    if asked.verb != "get":
        return "can only get individual resources of this type"
    if asked.subresource:
        return "cannot get subresource"
    return _related(graph, node, asked)


def _claim(graph: NodeGraph, node: str, asked: Attributes) -> str:
    if asked.subresource != "status":
        return _get(graph, node, asked)
    if asked.verb not in ("update", "patch"):
        return "can only get/update/patch this type"
    return _related(graph, node, asked)


def _account(graph: NodeGraph, node: str, asked: Attributes) -> str:
    if asked.verb == "get" and not asked.subresource:
        return _related(graph, node, asked)
    if asked.verb != "create" or not asked.name:
        return "can only create tokens for individual service accounts"
    if asked.subresource != "token":
        return "can only create token subresource of serviceaccount"
    return _related(graph, node, asked)


def _lease(_graph: NodeGraph, node: str, asked: Attributes) -> str:
    if asked.verb not in ("get", "create", "update", "patch", "delete"):
        return "can only get, create, update, patch, or delete a node lease"
    if asked.namespace != NODE_LEASES:
        return f'can only access leases in the "{NODE_LEASES}" system namespace'
    if asked.verb != "create" and asked.name != node:
        return "can only access node lease with the same name as the requesting node"
    return ""


def _csi_node(_graph: NodeGraph, node: str, asked: Attributes) -> str:
    if asked.verb not in ("get", "create", "update", "patch", "delete"):
        return "can only get, create, update, patch, or delete a CSINode"
    if asked.subresource:
        return "cannot authorize CSINode subresources"
    if asked.verb != "create" and asked.name != node:
        return "can only access CSINode with the same name as the requesting node"
    return ""


def _attachment(graph: NodeGraph, node: str, asked: Attributes) -> str:
    if asked.verb != "get" or asked.subresource:
        return "can only get individual resources of this type"
    found = graph.find(asked.group, asked.resource, "", asked.name)
    if ((found or {}).get("spec") or {}).get("nodeName") == node:
        return ""
    return f"no relationship found between node '{node}' and this object"


def _slice(graph: NodeGraph, node: str, asked: Attributes) -> str:
    if asked.subresource:
        return "cannot authorize ResourceSlice subresources"
    if asked.verb == "create":
        return ""  # NodeRestriction sees which node it names
    if asked.verb in ("get", "update", "patch", "delete"):
        found = graph.find(asked.group, asked.resource, "", asked.name)
        if ((found or {}).get("spec") or {}).get("nodeName") == node:
            return ""
        return f"no relationship found between node '{node}' and this object"
    if asked.verb in ("watch", "list", "deletecollection"):
        if selects(asked, NODE_NAME, node):
            return ""
        return "can only list/watch/deletecollection resourceslices with nodeName field selector"
    return (
        "only the following verbs are allowed for a ResourceSlice: "
        "get, watch, list, create, update, patch, delete, deletecollection"
    )


def _node(_graph: NodeGraph, node: str, asked: Attributes) -> str | None:
    if asked.subresource == "status" and asked.verb in ("update", "patch"):
        return ""
    if asked.subresource:
        return None
    if asked.verb in ("create", "update", "patch"):
        return ""
    if asked.verb in ("get", "list", "watch"):
        if asked.name == node:
            return ""
        if not asked.name:
            return f"node '{node}' cannot read all nodes, only its own Node object"
        return f"node '{node}' cannot read '{asked.name}', only its own Node object"
    return None


def _pod(graph: NodeGraph, node: str, asked: Attributes) -> str | None:
    kind = (asked.subresource, asked.verb)
    if kind == ("", "get"):
        return _related(graph, node, asked)
    if kind in (("", "list"), ("", "watch")):
        if selects(asked, NODE_NAME, node):
            return ""
        if asked.name:
            return _related(graph, node, asked)
        return "can only list/watch pods with spec.nodeName field selector"
    allowed = (
        ("", "create"),
        ("", "delete"),
        ("status", "update"),
        ("status", "patch"),
        ("eviction", "create"),
    )
    return "" if kind in allowed else None


def selects(asked: Attributes, field: str, value: str) -> bool:
    """Does the field selector ask for this value, whatever else it asks for?"""
    return any(
        part in (f"{field}={value}", f"{field}=={value}")
        for part in asked.field_selector.split(",")
    )


_RULES: dict[tuple[str, str], Callable[[NodeGraph, str, Attributes], str | None]] = {
    ("", "secrets"): _read,
    ("", "configmaps"): _read,
    ("", "persistentvolumeclaims"): _claim,
    ("", "persistentvolumes"): _get,
    ("", "serviceaccounts"): _account,
    ("", "nodes"): _node,
    ("", "pods"): _pod,
    ("coordination.k8s.io", "leases"): _lease,
    ("resource.k8s.io", "resourceclaims"): _get,
    ("resource.k8s.io", "resourceslices"): _slice,
    ("storage.k8s.io", "csinodes"): _csi_node,
    ("storage.k8s.io", "volumeattachments"): _attachment,
}
