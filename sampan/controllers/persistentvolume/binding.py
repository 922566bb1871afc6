"""The writes by which a claim and a volume become one: the volume names the claim first, then the claim the volume.

Each is made only where it is missing, and carries the version that it was decided on: whoever was faster wins, the other is
told by a conflict and looks again. Killed in between, the next reconcile goes on where this one stopped.
"""

from __future__ import annotations

from collections.abc import Mapping

from sampan.client.client import Client
from sampan.client.resources import PERSISTENTVOLUMECLAIMS, PERSISTENTVOLUMES
from sampan.controllers.base import Object
from sampan.kube import objects, persistent


class Written:
    """Versions that were written here: an informer that does not show them yet is not to be acted on. Its next event
    brings the object back.
    """

    def __init__(self) -> None:
        self._versions: dict[str, int] = {}  # by uid

    def note(self, *objects_: Object) -> None:
        for obj in objects_:
            self._versions[objects.uid(obj)] = int(objects.resource_version(obj))

    def behind(self, obj: Object) -> bool:
        """Whether the informer shows less than was written."""
        uid = objects.uid(obj)
        version = self._versions.get(uid)
        if version is None:
            return False
        if int(objects.resource_version(obj)) < version:
            return True
        del self._versions[uid]
        return False


async def bind(
    client: Client, volume: Object, claim: Object, marks: Mapping[str, str] | None = None
) -> tuple[Object, Object]:
    """Both as they are when they are bound to each other, with these annotations on the claim. Idempotent.

    The volume's phase follows from that, and is the volume controller's to write: each status has one writer.
    """
    volume = await name_claim(client, volume, claim)
    claim = await name_volume(client, volume, claim, marks or {})
    return volume, await write_claim_phase(client, claim, "Bound", volume)


async def name_claim(client: Client, volume: Object, claim: Object) -> Object:
    present = volume["spec"].get("claimRef")
    if present is not None and present.get("uid") == claim["metadata"]["uid"]:
        return volume
    return await client.update(PERSISTENTVOLUMES, persistent.named_for(volume, claim))


async def name_volume(
    client: Client, volume: Object, claim: Object, more: Mapping[str, str]
) -> Object:
    spec, name = claim["spec"], volume["metadata"]["name"]
    chosen = bool(spec.get("volumeName"))
    if chosen and persistent.BIND_COMPLETED in objects.annotations(claim):
        return claim
    marks = {**more, persistent.BIND_COMPLETED: "yes"}
    if not chosen:
        marks[persistent.BOUND_BY_CONTROLLER] = "yes"
    changed = persistent.annotated({**claim, "spec": {**spec, "volumeName": name}}, marks)
    return await client.update(PERSISTENTVOLUMECLAIMS, changed)


async def write_volume_phase(
    client: Client, volume: Object, phase: str, message: str = ""
) -> Object:
    status = volume.get("status") or {}
    if status.get("phase") == phase and message in ("", status.get("message")):
        return volume  # what others say in it is theirs
    wanted = {key: value for key, value in status.items() if key not in ("phase", "message")}
    wanted["phase"] = phase
    if message:
        wanted["message"] = message
    return await client.update(PERSISTENTVOLUMES, {**volume, "status": wanted}, "status")


async def write_claim_phase(
    client: Client, claim: Object, phase: str, volume: Object | None = None
) -> Object:
    """Bound claims tell what they got; the size only at first, later it is `growth`'s to say."""
    status = claim.get("status") or {}
    wanted = {key: value for key, value in status.items() if key not in ("accessModes", "capacity")}
    wanted["phase"] = phase
    if volume is not None:
        wanted["accessModes"] = persistent.modes_of(volume)
        wanted["capacity"] = (
            status.get("capacity") if status.get("phase") == "Bound" else None
        ) or {"storage": volume["spec"]["capacity"]["storage"]}
    elif phase == "Lost":
        wanted |= {key: status[key] for key in ("accessModes", "capacity") if key in status}
    if wanted == status:
        return claim
    return await client.update(PERSISTENTVOLUMECLAIMS, {**claim, "status": wanted}, "status")
