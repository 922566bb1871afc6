"""Claim controller: finds a claim its volume, has one made, or says what it waits for.

A claim that was bound once is never given another volume: when its volume is gone, so is what was in it, and the claim is
Lost. A claim whose class waits for the first pod is left alone until the scheduler has written the node on it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from sampan.client.resources import (
    NODES,
    PERSISTENTVOLUMECLAIMS,
    PERSISTENTVOLUMES,
    PODS,
    STORAGECLASSES,
)
from sampan.controllers.base import Context, Controller, Key, Object, Requeue, Watch
from sampan.controllers.persistentvolume import growth, localpath
from sampan.controllers.persistentvolume.binding import Written, bind, write_claim_phase
from sampan.kube import objects, persistent
from sampan.kube.errors import ApiError
from sampan.kube.objects import is_deleting, pod_finished

NOTHING_TO_BIND = "no persistent volumes available for this claim and no storage class is set"
LOST_REFERENCE = "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!"
LOST_VOLUME = "Bound claim has lost its PersistentVolume. Data on the volume is lost!"
MISBOUND = "Two claims are bound to the same volume, this one is bound incorrectly"
WAITING = "waiting for first consumer to be created before binding"
EXTERNAL = (
    "Waiting for a volume to be created either by the external provisioner '{}' or manually by the system "
    "administrator. If volume creation is delayed, please verify that the provisioner is running and "
    "correctly registered."
)


def interested(controller: ClaimController, volume: Object) -> Iterable[Key]:
    """Claims for which this volume's change may be news: those that name it, the one it names, or all that still look."""
    name, wanted = volume["metadata"]["name"], volume["spec"].get("claimRef")
    keys = controller.keys_by("volume", name)
    if wanted is not None:
        return {*keys, Key(wanted.get("namespace", ""), wanted.get("name", ""))}
    return {*keys, *controller.keys_by("waiting", persistent.class_of(volume))}


def of_class(controller: ClaimController, storage_class: Object) -> Iterable[Key]:
    name = storage_class["metadata"]["name"]
    return [*controller.keys_by("waiting", name), *controller.keys_by("waiting", "")]


class ClaimController(Controller):
    name = "persistentvolume-controller"
    workers = 16  # each waits for the disk, several times for one claim
    watches = (
        Watch(PERSISTENTVOLUMECLAIMS),
        Watch(PERSISTENTVOLUMES, keys=interested),
        Watch(STORAGECLASSES, keys=of_class),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.claims = self.informer(PERSISTENTVOLUMECLAIMS)
        self.volumes = self.informer(PERSISTENTVOLUMES)
        self.classes = self.informer(STORAGECLASSES)
        self.nodes = self.informer(NODES)
        self.pods = self.informer(PODS)
        self.written = Written()
        self.events = context.recorder(self.name)
        self.made = context.recorder(persistent.LOCAL_PATH)

    def keys_by(self, index: str, value: str) -> list[Key]:
        found = self.claims.by_index(index, value)
        return [Key(each["metadata"]["namespace"], each["metadata"]["name"]) for each in found]

    async def reconcile(self, key: Key) -> Requeue | None:
        claim = self.claims.get(*key)
        if claim is None or self.written.behind(claim):
            return None
        if persistent.BIND_COMPLETED in objects.annotations(claim):
            fresh = await self.keep(claim)
        elif claim["spec"].get("volumeName"):
            fresh = await self.bind_to_chosen(claim)
        elif not is_deleting(claim):
            fresh = await self.find_volume(claim)
        else:
            return None
        if fresh is not claim:
            self.written.note(fresh)
        return None

    async def bind(
        self, volume: Object, claim: Object, marks: Mapping[str, str] | None = None
    ) -> tuple[Object, Object]:
        """Both as they are when they are bound; the volume is looked at again once its informer shows that."""
        bound, claim = await bind(self.client, volume, claim, marks)
        if bound is not volume:
            self.written.note(bound)
        return bound, claim

    # Bound before

    async def keep(self, claim: Object) -> Object:
        name = claim["spec"].get("volumeName")
        if not name:
            return await self.lose(claim, "ClaimLost", LOST_REFERENCE)
        volume = self.volumes.get("", name)
        if volume is None and (volume := await self.read_volume(name)) is None:
            return await self.lose(claim, "ClaimLost", LOST_VOLUME)
        if self.written.behind(volume):
            return claim
        if volume["spec"].get("claimRef") and not persistent.is_meant_for(volume, claim):
            return await self.lose(claim, "ClaimMisbound", MISBOUND)
        return await growth.follow(self, *await self.bind(volume, claim))

    async def read_volume(self, name: str) -> Object | None:
        """Asked of the server: the informer may not show yet what was made a moment ago."""
        try:
            return await self.client.get(PERSISTENTVOLUMES, name)
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    async def lose(self, claim: Object, reason: str, text: str) -> Object:
        if (claim.get("status") or {}).get("phase") != "Lost":
            self.events.event(claim, "Warning", reason, text)
        return await write_claim_phase(self.client, claim, "Lost")

    # The user chose

    async def bind_to_chosen(self, claim: Object) -> Object:
        volume = self.volumes.get("", claim["spec"]["volumeName"])
        if volume is not None and self.written.behind(volume):
            return claim
        if volume is not None:
            why = self.hindrance(volume, claim)
            if why is None:
                return (await self.bind(volume, claim))[1]
            self.events.event(claim, "Warning", *why)
        return await write_claim_phase(self.client, claim, "Pending")

    def hindrance(self, volume: Object, claim: Object) -> tuple[str, str] | None:
        """(reason, message) of why the claim cannot have the volume that it names."""
        name = volume["metadata"]["name"]
        if persistent.is_meant_for(volume, claim):
            return None
        if volume["spec"].get("claimRef") is not None:
            return "FailedBinding", f'volume "{name}" already bound to a different claim.'
        if why := persistent.mismatch(volume, claim):
            return "VolumeMismatch", f'Cannot bind to requested volume "{name}": {why}'
        return None

    # Nobody chose yet

    async def find_volume(self, claim: Object) -> Object:
        claim = await self.give_default_class(claim)
        name = persistent.class_of(claim)
        storage_class = self.classes.get("", name) if name else None
        chosen_node = objects.annotations(claim).get(persistent.SELECTED_NODE)
        delayed = persistent.waits_for_pod(storage_class) and not chosen_node
        metadata = claim["metadata"]
        candidates = [
            *self.volumes.by_index("claim", f"{metadata['namespace']}/{metadata['name']}"),
            *self.volumes.by_index("available", name),
        ]
        volume = persistent.best(claim, candidates, delayed=delayed)
        if volume is not None:
            return claim if self.written.behind(volume) else (await self.bind(volume, claim))[1]
        if delayed:
            self.events.event(claim, "Normal", *self.what_is_waited_for(claim))
        elif name:
            claim = await self.provision(claim, name, storage_class)
        else:
            self.events.event(claim, "Normal", "FailedBinding", NOTHING_TO_BIND)
        if claim["spec"].get("volumeName"):
            return claim
        return await write_claim_phase(self.client, claim, "Pending")

    async def give_default_class(self, claim: Object) -> Object:
        """A claim from before there was a default class gets it now (KEP-3333)."""
        if persistent.names_class(claim):
            return claim
        name = persistent.default_class(self.classes.list())
        if not name:
            return claim
        changed = {**claim, "spec": {**claim["spec"], "storageClassName": name}}
        return await self.client.update(PERSISTENTVOLUMECLAIMS, changed)

    def what_is_waited_for(self, claim: Object) -> tuple[str, str]:
        metadata = claim["metadata"]
        for pod in self.pods.list(metadata["namespace"]):
            if pod["spec"].get("volumes") and not pod_finished(pod):
                if metadata["name"] in persistent.claims_of(pod):
                    name = pod["metadata"]["name"]
                    return "WaitForPodScheduled", f"waiting for pod {name} to be scheduled"
        return "WaitForFirstConsumer", WAITING

    async def provision(self, claim: Object, name: str, storage_class: Object | None) -> Object:
        """Have a volume made; the claim as it is then."""
        if storage_class is None:
            text = f'storageclass.storage.k8s.io "{name}" not found'
            self.events.event(claim, "Warning", "ProvisioningFailed", text)
            return claim
        provisioner = str(storage_class["provisioner"])
        marks = dict.fromkeys(persistent.PROVISIONERS, provisioner)
        if provisioner in localpath.PROVISIONERS:
            return await self.make_directory(claim, storage_class, marks)
        if not marks.items() <= objects.annotations(claim).items():
            marked = persistent.annotated(claim, marks)
            claim = await self.client.update(PERSISTENTVOLUMECLAIMS, marked)
        if provisioner.startswith("kubernetes.io/"):
            text = f"no volume plugin matched name: {provisioner}"
            self.events.event(claim, "Warning", "ProvisioningFailed", text)
        else:
            text = EXTERNAL.format(provisioner)
            self.events.event(claim, "Normal", "ExternalProvisioning", text)
        return claim

    async def make_directory(
        self, claim: Object, storage_class: Object, marks: Mapping[str, str]
    ) -> Object:
        metadata = claim["metadata"]
        title = f"{metadata['namespace']}/{metadata['name']}"
        text = f'External provisioner is provisioning volume for claim "{title}"'
        self.made.event(claim, "Normal", "Provisioning", text)
        try:
            node = await self.node_for(claim, storage_class)
            made = localpath.volume_for(claim, storage_class, node)
        except localpath.CannotProvision as error:
            class_name = storage_class["metadata"]["name"]
            text = f'failed to provision volume with StorageClass "{class_name}": {error}'
            self.made.event(claim, "Warning", "ProvisioningFailed", text)
            return await self.send_back(claim, storage_class)
        try:
            volume = await self.client.create(PERSISTENTVOLUMES, made)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            volume = await self.client.get(PERSISTENTVOLUMES, made["metadata"]["name"])
        text = f"Successfully provisioned volume {volume['metadata']['name']}"
        self.made.event(claim, "Normal", "ProvisioningSucceeded", text)
        return (await self.bind(volume, claim, marks))[1]

    async def node_for(self, claim: Object, storage_class: Object) -> Object:
        chosen = objects.annotations(claim).get(persistent.SELECTED_NODE)
        if not chosen:
            used = Counter(
                objects.annotations(v).get(localpath.NODE, "") for v in self.volumes.list()
            )
            return localpath.choose_node(self.nodes.list(), storage_class, used)
        node = self.nodes.get("", chosen)
        if node is None:
            raise localpath.CannotProvision(f'node "{chosen}" not found')
        return node

    async def send_back(self, claim: Object, storage_class: Object) -> Object:
        """The node that the scheduler chose cannot have the volume: it shall choose again."""
        if persistent.SELECTED_NODE not in objects.annotations(claim) or localpath.refusal(
            claim, storage_class
        ):
            return claim
        left = {
            k: v for k, v in objects.annotations(claim).items() if k != persistent.SELECTED_NODE
        }
        metadata = {**claim["metadata"], "annotations": left}
        return await self.client.update(PERSISTENTVOLUMECLAIMS, {**claim, "metadata": metadata})
