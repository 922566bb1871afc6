"""Namespace controllers: emptying a namespace that is being deleted, and what every namespace is given.

Deletion follows the API: everything in the namespace is deleted kind by kind, what still has finalizers is waited for and
named in the conditions, then the finalizer `kubernetes` is removed through `/finalize`.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from sampan.client.resources import CONFIGMAPS, NAMESPACES, PODS, SERVICEACCOUNTS
from sampan.controllers.base import Context, Controller, Key, Object, Requeue, Watch
from sampan.controllers.discovery import discover
from sampan.kube.errors import ApiError
from sampan.kube.objects import is_deleting, now, set_condition
from sampan.kube.types import GVR

ROOT_CA = "kube-root-ca.crt"
RETRY = 1.0  # seconds between looks at what still holds a namespace


class NamespaceController(Controller):
    name = "namespace-controller"
    watches = (
        Watch(NAMESPACES),
        # The last pod to go is what a namespace mostly waits for.
        Watch(PODS, keys=lambda self, pod: self.waiting_for(pod), matters=lambda old, new: False),
    )

    def waiting_for(self, pod: Object) -> list[Key]:
        name = pod["metadata"]["namespace"]
        namespace = self.namespaces.get("", name)
        return [Key("", name)] if namespace is not None and is_deleting(namespace) else []

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.namespaces = self.informer(NAMESPACES)

    async def reconcile(self, key: Key) -> Requeue | None:
        namespace = self.namespaces.get(*key)
        if namespace is None or not is_deleting(namespace):
            return None
        remaining, failures = await self.empty(key.name)
        if remaining or failures:
            await self.report(namespace, remaining, failures)
            return Requeue(RETRY)
        finalizers = [f for f in namespace["spec"].get("finalizers") or () if f != "kubernetes"]
        if finalizers == (namespace["spec"].get("finalizers") or []):
            return None
        changed = {**namespace, "spec": {**namespace["spec"], "finalizers": finalizers}}
        try:
            await self.client.update(NAMESPACES, changed, "finalize")
        except ApiError as error:
            if error.code != 404:
                raise
        return None

    async def empty(self, namespace: str) -> tuple[dict[GVR, list[Object]], list[str]]:
        """Delete all there is; what is still there afterwards by resource, and what could not be deleted.

        Pods go first, and all else only once they are gone: what guards them (a NetworkPolicy) must outlive them (KEP-5080).
        """
        remaining: dict[GVR, list[Object]] = {}
        failures: list[str] = []

        async def one(gvr: GVR) -> None:
            try:
                if not (await self.client.list(gvr, namespace, limit=1)).items:
                    return
                await self.client.delete_collection(gvr, namespace, propagation="Background")
                if left := (await self.client.list(gvr, namespace)).items:
                    remaining[gvr] = left
            except ApiError as error:
                if error.code not in (404, 405):
                    failures.append(f"{gvr}: {error.message}")

        await one(PODS)
        if remaining or failures:
            return remaining, failures
        await asyncio.gather(
            *(
                one(resource.gvr)
                for resource in await discover(self.client)
                if resource.namespaced and "deletecollection" in resource.verbs
            )
        )
        return remaining, failures

    async def report(
        self, namespace: Object, remaining: dict[GVR, list[Object]], failures: list[str]
    ) -> None:
        changed: Object = {
            **namespace,
            "status": {
                **(namespace.get("status") or {}),
                "conditions": [
                    dict(c) for c in (namespace.get("status") or {}).get("conditions") or ()
                ],
            },
        }
        counts = [f"{r.resource}.{r.group} has {len(i)} resource instances"
                  for r, i in sorted(remaining.items())]  # fmt: skip
        held = Counter(
            finalizer
            for items in remaining.values()
            for obj in items
            for finalizer in obj["metadata"].get("finalizers") or ()
        )
        finalizers = [f"{name} in {held[name]} resource instances" for name in sorted(held)]
        moment = now()
        verdicts = (
            ("NamespaceDeletionContentFailure", bool(failures), "ContentDeletionFailed", "ContentDeleted",
             "; ".join(failures), "All content successfully deleted, may be waiting on finalization"),
            ("NamespaceContentRemaining", bool(counts), "SomeResourcesRemain", "ContentRemoved",
             "Some resources are remaining: " + ", ".join(counts), "All content successfully removed"),
            ("NamespaceFinalizersRemaining", bool(finalizers), "SomeFinalizersRemain", "ContentHasNoFinalizers",
             "Some content in the namespace has finalizers remaining: " + ", ".join(finalizers),
             "All content-preserving finalizers finished"),
        )  # fmt: skip
        dirty = False
        for kind, bad, bad_reason, good_reason, bad_text, good_text in verdicts:
            dirty |= set_condition(
                changed, kind, "True" if bad else "False",
                bad_reason if bad else good_reason, bad_text if bad else good_text, moment,
            )  # fmt: skip
        if dirty:
            await self.client.update(NAMESPACES, changed, "status")


class NamespaceContentController(Controller):
    """Every namespace has a `default` service account and the CA certificate that its pods trust."""

    name = "namespace-content-controller"
    watches = (
        Watch(NAMESPACES),
        Watch(
            SERVICEACCOUNTS,
            fields="metadata.name=default",
            keys=lambda self, obj: in_namespace(obj),
        ),
        Watch(
            CONFIGMAPS, fields=f"metadata.name={ROOT_CA}", keys=lambda self, obj: in_namespace(obj)
        ),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.namespaces = self.informer(NAMESPACES)
        self.accounts = self.informer(SERVICEACCOUNTS, "metadata.name=default")
        self.config_maps = self.informer(CONFIGMAPS, f"metadata.name={ROOT_CA}")

    async def reconcile(self, key: Key) -> Requeue | None:
        namespace = self.namespaces.get(*key)
        if namespace is None or is_deleting(namespace):
            return None
        if self.accounts.get(key.name, "default") is None:
            await self.ensure(
                SERVICEACCOUNTS, {"metadata": {"name": "default", "namespace": key.name}}
            )
        data = {"ca.crt": self.context.root_ca}
        present = self.config_maps.get(key.name, ROOT_CA)
        if present is None:
            text = "Contains a CA bundle that can be used to verify the kube-apiserver"
            metadata = {
                "name": ROOT_CA,
                "namespace": key.name,
                "annotations": {"kubernetes.io/description": text},
            }
            await self.ensure(CONFIGMAPS, {"metadata": metadata, "data": data})
        elif present.get("data") != data:
            await self.client.update(CONFIGMAPS, {**present, "data": data})
        return None

    async def ensure(self, gvr: GVR, obj: Object) -> None:
        kinds = {SERVICEACCOUNTS: "ServiceAccount", CONFIGMAPS: "ConfigMap"}
        try:
            await self.client.create(
                gvr, {"apiVersion": "v1", "kind": kinds[gvr], **obj}, obj["metadata"]["namespace"]
            )
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise


def in_namespace(obj: Object) -> list[Key]:
    return [Key("", obj["metadata"]["namespace"])]
