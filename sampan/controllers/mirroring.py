"""EndpointSlice mirroring: Endpoints that somebody made by hand for a Service without a selector, as slices that proxies read.

KEP-752. At most 1,000 addresses of a subset are mirrored. Slices are arranged as those of pods are; labels and annotations
of the Endpoints go with them, and all of it goes when the Endpoints or the Service do, or when the Service gets a selector.
"""

from __future__ import annotations

from typing import Any

from sampan.client.resources import ENDPOINTS, ENDPOINTSLICES, SERVICES
from sampan.controllers.base import Context, Controller, Key, Object, Requeue, Watch
from sampan.controllers.endpoints import (
    MANAGED_BY,
    SERVICE_NAME,
    Group,
    arrange,
    family,
    identity,
    same,
    service_of_slice,
)
from sampan.kube.errors import ApiError
from sampan.kube.objects import annotations as annotations_of
from sampan.kube.objects import is_deleting, labels, owner_reference

MIRROR = "endpointslicemirroring-controller.k8s.io"
SKIP = "endpointslice.kubernetes.io/skip-mirror"
LEADER = "control-plane.alpha.kubernetes.io/leader"
MOST = 1000
NOT_COPIED = {
    "kubectl.kubernetes.io/last-applied-configuration",
    "endpoints.kubernetes.io/last-change-trigger-time",
}


def mirrored_groups(endpoints: Object) -> dict[Group, dict[str, Object]]:
    groups: dict[Group, dict[str, Object]] = {}
    for part in endpoints.get("subsets") or ():
        ports = tuple(
            (p.get("name", ""), p.get("protocol", "TCP"), p["port"], p.get("appProtocol", ""))
            for p in part.get("ports") or ()
        )
        both = [(a, True) for a in part.get("addresses") or ()]
        both += [(a, False) for a in part.get("notReadyAddresses") or ()]
        for address, ready in both[:MOST]:
            made: Object = {"addresses": [address["ip"]], "conditions": {"ready": ready}}
            for field in ("hostname", "nodeName", "targetRef"):
                if address.get(field):
                    made[field] = address[field]
            groups.setdefault((family(address["ip"]), ports), {})[identity(made)] = made
    return groups


def mirrors(service: Object | None, endpoints: Object | None) -> bool:
    return (
        service is not None
        and endpoints is not None
        and not service["spec"].get("selector")
        and not is_deleting(service)
        and labels(endpoints).get(SKIP) != "true"
        and LEADER not in annotations_of(endpoints)
    )


class EndpointSliceMirroringController(Controller):
    name = "endpointslicemirroring-controller"
    watches = (
        Watch(SERVICES, matters=lambda old, new: old["spec"] != new["spec"]),
        Watch(ENDPOINTS),
        Watch(ENDPOINTSLICES, keys=lambda self, obj: mirrored(obj)),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.services = self.informer(SERVICES)
        self.endpoints = self.informer(ENDPOINTS)
        self.slices = self.informer(ENDPOINTSLICES)

    async def reconcile(self, key: Key) -> Requeue | None:
        service, endpoints = self.services.get(*key), self.endpoints.get(*key)
        present = [
            obj
            for obj in self.slices.by_index("service", f"{key.namespace}/{key.name}")
            if labels(obj).get(MANAGED_BY) == MIRROR
        ]
        if not mirrors(service, endpoints):
            for obj in present:
                await self.remove(obj)
            return None
        assert service is not None and endpoints is not None
        writes, stale = arrange(endpoints, mirrored_groups(endpoints), present)
        marks = {k: v for k, v in annotations_of(endpoints).items() if k not in NOT_COPIED}
        for old, wanted in writes:
            metadata = wanted["metadata"]
            metadata["labels"] = {**labels(endpoints), SERVICE_NAME: key.name, MANAGED_BY: MIRROR}
            metadata["ownerReferences"] = [owner_reference(endpoints)]
            if marks:
                metadata["annotations"] = marks
            await self.write(old, wanted)
        for obj in stale:
            await self.remove(obj)
        return None

    async def write(self, old: Object | None, wanted: Object) -> None:
        if old is None:
            try:
                await self.client.create(ENDPOINTSLICES, wanted)
            except ApiError as error:
                if error.reason != "AlreadyExists":  # the informer is late: it tells soon
                    raise
        elif not same(old, wanted, ("endpoints", "ports")) or annotations_of(old) != annotations_of(
            wanted
        ):
            metadata: dict[str, Any] = {
                **wanted["metadata"],
                "uid": old["metadata"]["uid"],
                "resourceVersion": old["metadata"]["resourceVersion"],
            }
            await self.client.update(ENDPOINTSLICES, {**wanted, "metadata": metadata})

    async def remove(self, obj: Object) -> None:
        metadata = obj["metadata"]
        try:
            await self.client.delete(
                ENDPOINTSLICES, metadata["name"], metadata["namespace"], uid=metadata["uid"]
            )
        except ApiError as error:
            if error.code not in (404, 409):
                raise


def mirrored(obj: Object) -> list[Key]:
    return service_of_slice(obj) if labels(obj).get(MANAGED_BY) == MIRROR else []
