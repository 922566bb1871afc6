"""Admission: the rules that look beyond the object itself, run on each write between defaulting and validation.

One table of plug-ins in Kubernetes' order; each is a class with the hooks that it needs. They read other kinds from the
watch cache, never from the store, and change the new object in place or raise ApiError 403.
"""

from __future__ import annotations

import random

from sampan.apiserver.call import Call
from sampan.apiserver.noderestriction import NodeRestriction
from sampan.apiserver.plugin import MIRROR_ANNOTATION, Lookup, Object, Plugin
from sampan.kube import errors, objects

RBAC = "rbac.authorization.k8s.io"
PROTECTED_NAMESPACES = ("default", "kube-system", "kube-public")
SUFFIX_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
TOKEN_MOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"


class NamespaceLifecycle(Plugin):
    """Nothing is made in a namespace that is not there or is going; the first namespaces stay."""

    async def create(self, call: Call, obj: Object) -> None:
        if not call.resource.namespaced:
            return
        namespace = call.info.namespace
        entry = await self.lookup.entry("", "v1", "namespaces", "", namespace)
        if entry is None:
            raise errors.not_found("namespaces", namespace)
        if b'"deletionTimestamp":' in entry.data and objects.is_deleting(entry.object()):
            message = f"unable to create new content in namespace {namespace} because it is being terminated"
            error = call.forbidden(message, obj["metadata"].get("name", ""))
            error.details["causes"] = [
                {
                    "reason": "NamespaceTerminating",
                    "message": f"namespace {namespace} is being terminated",
                    "field": "metadata.namespace",
                }
            ]
            raise error

    async def delete(self, call: Call, obj: Object) -> None:
        if call.resource.storage == "core/namespaces" and call.info.name in PROTECTED_NAMESPACES:
            raise call.forbidden("this namespace may not be deleted")


class ServiceAccount(Plugin):
    """A pod runs as some service account and finds its token, the cluster's CA and its namespace in a volume."""

    storages = ("core/pods",)

    async def create(self, call: Call, obj: Object) -> None:
        if is_mirror(obj):
            return
        spec = obj.setdefault("spec", {})
        namespace = call.info.namespace
        name = spec.get("serviceAccountName") or spec.get("serviceAccount") or "default"
        spec["serviceAccountName"] = spec["serviceAccount"] = name
        entry = await self.lookup.entry("", "v1", "serviceaccounts", namespace, name)
        if entry is None:
            missing = errors.not_found("serviceaccounts", name).message
            text = f"error looking up service account {namespace}/{name}: {missing.replace('serviceaccounts', 'serviceaccount')}"
            raise call.forbidden(text, obj["metadata"].get("name", ""))
        account = entry.object()
        if not spec.get("imagePullSecrets") and account.get("imagePullSecrets"):
            spec["imagePullSecrets"] = account["imagePullSecrets"]
        wanted = spec.get("automountServiceAccountToken")
        if wanted is None:
            wanted = account.get("automountServiceAccountToken")
        if wanted is not False:
            mount_token(spec)


def mount_token(spec: Object) -> None:
    """The projected `kube-api-access-xxxxx` volume, mounted where a container has nothing of its own there."""
    containers = [
        each
        for key in ("initContainers", "containers")
        for each in spec.get(key) or ()
        if isinstance(each, dict)
    ]
    without = [
        each
        for each in containers
        if all(mount.get("mountPath") != TOKEN_MOUNT for mount in each.get("volumeMounts") or ())
    ]
    if not without:
        return
    volume = "kube-api-access-" + "".join(random.choices(SUFFIX_ALPHABET, k=5))
    for container in without:
        mounts = container.setdefault("volumeMounts", [])
        mounts.append({"name": volume, "readOnly": True, "mountPath": TOKEN_MOUNT})
    field = {"apiVersion": "v1", "fieldPath": "metadata.namespace"}
    sources = [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {
            "configMap": {
                "name": "kube-root-ca.crt",
                "items": [{"key": "ca.crt", "path": "ca.crt"}],
            }
        },
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": field}]}},
    ]
    volumes = spec.setdefault("volumes", [])
    volumes.append({"name": volume, "projected": {"sources": sources, "defaultMode": 420}})


def is_mirror(pod: Object) -> bool:
    return MIRROR_ANNOTATION in objects.annotations(pod)


class DefaultTolerationSeconds(Plugin):
    """A pod stays 300 s on a node that is not ready or not reachable, unless it says otherwise."""

    storages = ("core/pods",)

    async def create(self, call: Call, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        tolerations = spec.get("tolerations") or []
        for key in (NOT_READY, UNREACHABLE):
            if not any(
                each.get("key") in (key, "", None) and each.get("effect") in ("NoExecute", "", None)
                for each in tolerations
            ):
                tolerations = [
                    *tolerations,
                    {
                        "key": key,
                        "operator": "Exists",
                        "effect": "NoExecute",
                        "tolerationSeconds": 300,
                    },
                ]
        spec["tolerations"] = tolerations


class Priority(Plugin):
    """priorityClassName becomes a number; without a name the cluster's default class counts."""

    storages = ("core/pods",)

    async def create(self, call: Call, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        name = spec.get("priorityClassName") or ""
        classes = ("scheduling.k8s.io", "v1", "priorityclasses")
        value, policy = 0, "PreemptLowerPriority"
        if name:
            entry = await self.lookup.entry(*classes, "", name)
            if entry is None:
                raise call.forbidden(
                    f"no PriorityClass with name {name} was found", obj["metadata"].get("name", "")
                )
            found = entry.object()
            value, policy = found.get("value", 0), found.get("preemptionPolicy") or policy
        else:
            marked = await self.lookup.all(*classes, having=b'"globalDefault":true')
            defaults = [each for each in marked if each.get("globalDefault")]
            if defaults:
                found = min(defaults, key=lambda each: each.get("value", 0))
                spec["priorityClassName"] = found["metadata"]["name"]
                value, policy = found.get("value", 0), found.get("preemptionPolicy") or policy
        given = spec.get("priority")
        if given is not None and given != value:
            raise call.forbidden(
                f"the integer value of priority ({given}) must not be provided in pod spec; "
                f"priority admission controller computed {value} from the given PriorityClass name",
                obj["metadata"].get("name", ""),
            )
        spec["priority"] = value
        asked = spec.get("preemptionPolicy")
        if asked is not None and asked != policy:
            raise call.forbidden(
                f"the string value of PreemptionPolicy ({asked}) must not be provided in pod spec; "
                f"priority admission controller computed {policy} from the given PriorityClass name",
                obj["metadata"].get("name", ""),
            )
        spec["preemptionPolicy"] = policy


class RuntimeClass(Plugin):
    """The pod's runtime class brings its overhead and its constraints on nodes (KEP-688)."""

    storages = ("core/pods",)

    async def create(self, call: Call, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        name = spec.get("runtimeClassName")
        pod = obj["metadata"].get("name", "")
        if not name:
            if spec.get("overhead"):
                raise call.forbidden(
                    "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
                    pod,
                )
            return
        entry = await self.lookup.entry("node.k8s.io", "v1", "runtimeclasses", "", name)
        if entry is None:
            raise call.forbidden(f'pod rejected: RuntimeClass "{name}" not found', pod)
        runtime = entry.object()
        fixed = (runtime.get("overhead") or {}).get("podFixed")
        if fixed:
            if spec.get("overhead") and spec["overhead"] != fixed:
                raise call.forbidden(
                    "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
                    pod,
                )
            spec["overhead"] = dict(fixed)
        elif spec.get("overhead"):
            raise call.forbidden(
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
                pod,
            )
        scheduling = runtime.get("scheduling") or {}
        if scheduling.get("nodeSelector"):
            selector = dict(spec.get("nodeSelector") or {})
            for key, value in scheduling["nodeSelector"].items():
                if selector.setdefault(key, value) != value:
                    raise call.forbidden(
                        f"conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; "
                        f"pod.spec.nodeSelector[{key}] = {selector[key]}",
                        pod,
                    )
            spec["nodeSelector"] = selector
        for toleration in scheduling.get("tolerations") or ():
            if toleration not in (spec.get("tolerations") or ()):
                spec["tolerations"] = [*(spec.get("tolerations") or ()), toleration]


class TaintNodesByCondition(Plugin):
    """A new node is not ready until its conditions say so, and nothing lands on it before."""

    storages = ("core/nodes",)

    async def create(self, call: Call, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        taints = spec.get("taints") or []
        if not any(
            each.get("key") == NOT_READY and each.get("effect") == "NoSchedule" for each in taints
        ):
            spec["taints"] = [*taints, {"key": NOT_READY, "effect": "NoSchedule"}]


class Privilege(Plugin):
    """Nobody grants by a role or a binding what they do not hold."""

    storages = tuple(
        f"{RBAC}/{kind}"
        for kind in ("roles", "rolebindings", "clusterroles", "clusterrolebindings")
    )

    async def create(self, call: Call, obj: Object) -> None:
        await self.lookup.check_grant(call.user, call.resource.name, obj, None)

    async def update(self, call: Call, new: Object, old: Object) -> None:
        await self.lookup.check_grant(call.user, call.resource.name, new, old)


PLUGINS: tuple[type[Plugin], ...] = (
    Privilege,
    NodeRestriction,
    NamespaceLifecycle,
    ServiceAccount,
    TaintNodesByCondition,
    Priority,
    DefaultTolerationSeconds,
    RuntimeClass,
)


class Admission:
    def __init__(self, lookup: Lookup) -> None:
        self.lookup = lookup
        self.plugins = [plugin(lookup) for plugin in PLUGINS]
        self._by_storage: dict[tuple[str, bool], list[Plugin]] = {}

    def _interested(self, call: Call, status: bool = False) -> list[Plugin]:
        key = (call.resource.storage, status)
        found = self._by_storage.get(key)
        if found is None:
            found = [
                each
                for each in self.plugins
                if (not each.storages or key[0] in each.storages) and (each.on_status or not status)
            ]
            self._by_storage[key] = found
        return found

    async def admit_create(self, call: Call, obj: Object) -> None:
        for plugin in self._interested(call):
            await plugin.create(call, obj)

    async def admit_update(
        self, call: Call, new: Object, old: Object, *, status: bool = False
    ) -> None:
        for plugin in self._interested(call, status):
            await plugin.update(call, new, old)

    async def admit_delete(self, call: Call, obj: Object) -> None:
        for plugin in self._interested(call):
            await plugin.delete(call, obj)
