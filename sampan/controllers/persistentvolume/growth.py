"""A claim that asks for more than it has. A directory has no size of its own, so its volume just says the new one.

Admission lets only those claims grow whose class allows it. Others' volumes are grown by their own resizers, which this
leaves alone but for saying so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.client.resources import PERSISTENTVOLUMECLAIMS, PERSISTENTVOLUMES
from sampan.controllers.base import Object
from sampan.controllers.persistentvolume import localpath
from sampan.kube import persistent
from sampan.kube.quantity import parse

if TYPE_CHECKING:
    from sampan.controllers.persistentvolume.claims import ClaimController

NOT_OURS = "waiting for an external controller to expand this PVC"


async def follow(controller: ClaimController, volume: Object, claim: Object) -> Object:
    """The claim, once its status and the volume say what it asks for. Idempotent."""
    status = claim.get("status") or {}
    asked = persistent.asked_by(claim)
    if asked <= parse((status.get("capacity") or {}).get("storage") or 0):
        return claim
    storage_class = controller.classes.get("", persistent.class_of(claim))
    if storage_class is None or not storage_class.get("allowVolumeExpansion"):
        return claim
    if not localpath.is_ours(volume):
        controller.events.event(claim, "Normal", "ExternalExpanding", NOT_OURS)
        return claim
    size = claim["spec"]["resources"]["requests"]["storage"]
    if persistent.capacity_of(volume) < asked:
        name = volume["metadata"]["name"]
        text = f"External resizer is resizing volume {name}"
        controller.made.event(claim, "Normal", "Resizing", text)
        spec = {**volume["spec"], "capacity": {**volume["spec"]["capacity"], "storage": size}}
        fresh = await controller.client.update(PERSISTENTVOLUMES, {**volume, "spec": spec})
        controller.written.note(fresh)
    wanted = {**status, "capacity": {**(status.get("capacity") or {}), "storage": size}}
    changed = {**claim, "status": wanted}
    claim = await controller.client.update(PERSISTENTVOLUMECLAIMS, changed, "status")
    controller.made.event(claim, "Normal", "VolumeResizeSuccessful", "Resize volume succeeded")
    return claim
