"""Ephemeral volume controller: makes the claims of generic ephemeral volumes, which live and die with their pod (KEP-1698).

The claim is called `<pod>-<volume>` and is the pod's, so the garbage collector takes it away. One of that name that is
somebody else's is left alone, and the pod waits.
"""

from __future__ import annotations

from sampan.client.resources import PERSISTENTVOLUMECLAIMS, PODS
from sampan.controllers.base import Context, Controller, Key, Object, Requeue, Watch
from sampan.kube import persistent
from sampan.kube.errors import ApiError
from sampan.kube.objects import clone, is_deleting, owner_reference, pod_finished


def with_ephemeral(controller: EphemeralVolumeController, pod: Object) -> list[Key]:
    if any("ephemeral" in volume for volume in pod["spec"].get("volumes") or ()):
        return [Key(pod["metadata"]["namespace"], pod["metadata"]["name"])]
    return []


class EphemeralVolumeController(Controller):
    name = "ephemeral_volume"
    watches = (
        Watch(PODS, keys=with_ephemeral, matters=lambda old, new: is_deleting(new)),
        Watch(PERSISTENTVOLUMECLAIMS, owner="Pod", matters=lambda old, new: False),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.pods = self.informer(PODS)
        self.claims = self.informer(PERSISTENTVOLUMECLAIMS)
        self.events = context.recorder(self.name)

    async def reconcile(self, key: Key) -> Requeue | None:
        pod = self.pods.get(*key)
        if pod is None or is_deleting(pod) or pod_finished(pod):
            return None
        for volume in pod["spec"].get("volumes") or ():
            if "ephemeral" in volume:
                await self.ensure(pod, volume)
        return None

    async def ensure(self, pod: Object, volume: Object) -> None:
        name, namespace = persistent.claim_of(pod, volume), pod["metadata"]["namespace"]
        present = self.claims.get(namespace, name)
        if present is not None:
            return
        template = clone(volume["ephemeral"].get("volumeClaimTemplate") or {})
        meta = template.get("metadata") or {}
        claim = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": meta.get("labels") or {},
                "annotations": meta.get("annotations") or {},
                "ownerReferences": [owner_reference(pod)],
            },
            "spec": template["spec"],
        }
        try:
            await self.client.create(PERSISTENTVOLUMECLAIMS, claim, namespace)
        except ApiError as error:
            if error.reason == "AlreadyExists":
                return
            text = f"ephemeral volume {volume['name']}: create PVC {name}: {error.message}"
            self.events.event(pod, "Warning", "FailedCreate", text)
            raise
