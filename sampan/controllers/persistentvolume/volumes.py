"""Volume controller: says whether a volume is free, in use or left behind, and gives it back as its policy says.

A volume whose claim is gone is Released. `Retain` leaves it at that, for the administrator; `Delete` removes what is
behind it, where that is a directory that we made, and then the object. Volumes that another provisioner made are that one's
to delete; what nobody here can delete is Failed, and says so.
"""

from __future__ import annotations

from collections.abc import Iterable

from sampan.client.resources import NODES, PERSISTENTVOLUMECLAIMS, PERSISTENTVOLUMES
from sampan.controllers.base import Context, Controller, Key, Object, Requeue, Watch
from sampan.controllers.persistentvolume import localpath
from sampan.controllers.persistentvolume.binding import write_volume_phase
from sampan.kube import objects, persistent
from sampan.kube.errors import ApiError
from sampan.kube.objects import condition_true, finalizers, is_deleting

MISFIT = "Cannot bind PersistentVolume to requested PersistentVolumeClaim {!r} due to incompatible volumeMode."
LEFT = ("Released", "Failed")


def of_claim(controller: VolumeController, claim: Object) -> Iterable[Key]:
    """The volume that a claim names, and those that name it."""
    metadata = claim["metadata"]
    named = claim["spec"].get("volumeName")
    meant = controller.volumes.by_index("claim", f"{metadata['namespace']}/{metadata['name']}")
    return {Key("", name) for name in (named, *(v["metadata"]["name"] for v in meant)) if name}


def left_on(controller: VolumeController, node: Object) -> Iterable[Key]:
    """Volumes that wait for their node to come back, to be removed from it."""
    name = node["metadata"]["name"]
    return [
        Key("", volume["metadata"]["name"])
        for volume in controller.volumes.list()
        if objects.annotations(volume).get(localpath.NODE) == name
        and (volume.get("status") or {}).get("phase") in LEFT
    ]


class VolumeController(Controller):
    name = "persistentvolume-controller"
    workers = 16  # each waits for the disk, several times for one claim
    watches = (
        Watch(PERSISTENTVOLUMES),
        Watch(PERSISTENTVOLUMECLAIMS, keys=of_claim),
        Watch(
            NODES,
            keys=left_on,
            matters=lambda old, new: condition_true(new, "Ready") > condition_true(old, "Ready"),
        ),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.volumes = self.informer(PERSISTENTVOLUMES)
        self.claims = self.informer(PERSISTENTVOLUMECLAIMS)
        self.events = context.recorder(self.name)

    async def reconcile(self, key: Key) -> Requeue | None:
        volume = self.volumes.get(*key)
        if volume is None:
            return None
        volume = await self.hold(volume)
        wanted = volume["spec"].get("claimRef")
        if wanted is None or not wanted.get("uid"):
            await write_volume_phase(self.client, volume, "Available")
            return None
        claim = await self.claim_of(wanted)
        if claim is None:
            await self.release(volume)
        elif not claim["spec"].get("volumeName"):
            if persistent.mode_of(volume) != persistent.mode_of(claim):
                text = MISFIT.format(claim["metadata"]["name"])
                self.events.event(volume, "Warning", "VolumeMismatch", text)
                self.events.event(claim, "Warning", "VolumeMismatch", text)
        elif claim["spec"]["volumeName"] == volume["metadata"]["name"]:
            await write_volume_phase(self.client, volume, "Bound")
        elif localpath.is_ours(volume) and self.policy(volume) == "Delete":
            await self.release(volume)  # it was made for a claim that found another one meanwhile
        else:
            await self.unbind(volume)
        return None

    def policy(self, volume: Object) -> str:
        return str(volume["spec"].get("persistentVolumeReclaimPolicy") or "Retain")

    async def claim_of(self, reference: Object) -> Object | None:
        """The claim that is meant, None when it is gone: asked of the server before that is believed."""
        place = reference.get("namespace", ""), reference.get("name", "")
        claim = self.claims.get(*place)
        if claim is None or claim["metadata"]["uid"] != reference["uid"]:
            try:
                claim = await self.client.get(PERSISTENTVOLUMECLAIMS, place[1], place[0])
            except ApiError as error:
                if error.code == 404:
                    return None
                raise
        return claim if claim["metadata"]["uid"] == reference["uid"] else None

    async def hold(self, volume: Object) -> Object:
        """Our finalizer is on it as long as `Delete` has to find it (KEP-2644); the policy may change at any time."""
        if not localpath.is_ours(volume) or is_deleting(volume):
            return volume
        present = finalizers(volume)
        kept = [each for each in present if each != localpath.FINALIZER]
        if self.policy(volume) == "Delete":
            kept.append(localpath.FINALIZER)
        if sorted(kept) == sorted(present):
            return volume
        return await self.write_finalizers(volume, kept)

    async def write_finalizers(self, volume: Object, kept: list[str]) -> Object:
        metadata = {**volume["metadata"], "finalizers": kept}
        return await self.client.update(PERSISTENTVOLUMES, {**volume, "metadata": metadata})

    async def unbind(self, volume: Object) -> None:
        """Its claim has another volume. What the administrator wrote into claimRef stays, without the uid."""
        marks = dict(objects.annotations(volume))
        spec = dict(volume["spec"])
        if marks.pop(persistent.BOUND_BY_CONTROLLER, None) is not None:
            del spec["claimRef"]
        else:
            gone = ("uid", "resourceVersion")
            spec["claimRef"] = {k: v for k, v in spec["claimRef"].items() if k not in gone}
        changed = {**volume, "spec": spec, "metadata": {**volume["metadata"], "annotations": marks}}
        volume = await self.client.update(PERSISTENTVOLUMES, changed)
        await write_volume_phase(self.client, volume, "Available")

    # What is left behind

    async def release(self, volume: Object) -> None:
        if (volume.get("status") or {}).get("phase") not in LEFT:
            volume = await write_volume_phase(self.client, volume, "Released")
        policy, name = self.policy(volume), volume["metadata"]["name"]
        if policy == "Recycle":
            text = "No recycler plugin found for the volume!"
            await self.fail(volume, "VolumeFailedRecycle", text)
        elif policy == "Delete" and localpath.is_ours(volume):
            await self.delete(volume)
        elif policy == "Delete" and persistent.PROVISIONED_BY not in objects.annotations(volume):
            text = f'error getting deleter volume plugin for volume "{name}": no deletable volume plugin matched'
            await self.fail(volume, "VolumeFailedDelete", text)
        elif policy == "Retain" and localpath.FINALIZER in finalizers(volume):
            kept = [each for each in finalizers(volume) if each != localpath.FINALIZER]
            await self.write_finalizers(volume, kept)

    async def delete(self, volume: Object) -> None:
        try:
            await localpath.remove(self.client, volume)
        except (ApiError, OSError, TimeoutError) as error:
            said = error.message if isinstance(error, ApiError) else str(error) or "no answer"
            text = f"node {objects.annotations(volume).get(localpath.NODE)}: {said}"
            await self.fail(volume, "VolumeFailedDelete", text)
            raise
        kept = [each for each in finalizers(volume) if each != localpath.FINALIZER]
        if kept != finalizers(volume):
            volume = await self.write_finalizers(volume, kept)
        metadata = volume["metadata"]
        if not is_deleting(volume):
            await self.client.delete(PERSISTENTVOLUMES, metadata["name"], uid=metadata["uid"])

    async def fail(self, volume: Object, reason: str, text: str) -> None:
        if (volume.get("status") or {}).get("message") != text:
            self.events.event(volume, "Warning", reason, text)
        await write_volume_phase(self.client, volume, "Failed", text)
