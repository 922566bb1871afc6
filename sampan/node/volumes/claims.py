"""From a pod's volume to the PersistentVolume behind its claim, with everything checked that kubelet checks.

What was found is kept in the node's cache, so that a pod comes up again while the API server is away: a claim that was
bound once never gets another volume.
"""

from __future__ import annotations

from sampan.client.client import Client
from sampan.client.resources import PERSISTENTVOLUMECLAIMS, PERSISTENTVOLUMES
from sampan.kube import persistent
from sampan.kube.errors import ApiError
from sampan.kube.objects import is_deleting
from sampan.node import podspec
from sampan.node.cache import ObjectCache
from sampan.node.errors import ClaimError
from sampan.node.podspec import Object

KIND = "claim"  # in the cache: the claim and its volume


class Claims:
    """`client` None: there is no API server, what the cache has must do."""

    def __init__(self, client: Client | None, cache: ObjectCache) -> None:
        self._client = client
        self._cache = cache

    async def volume_of(self, pod: Object, volume: Object) -> Object:
        """The PersistentVolume. Raises ClaimError."""
        namespace, name = pod["metadata"]["namespace"], persistent.claim_of(pod, volume)
        where = f"error processing PVC {namespace}/{name}: "
        try:
            claim, found = await self._read(namespace, name, where)
        except (OSError, TimeoutError) as error:
            kept = self._cache.get(KIND, namespace, name)
            if kept is None:
                raise ClaimError(f"{where}failed to fetch PVC from API server: {error}") from error
            claim, found = kept["claim"], kept["volume"]
        if why := problem(pod, volume, claim, found):
            raise ClaimError(where + why)
        assert found is not None
        self._cache.put(KIND, namespace, name, {"claim": claim, "volume": found})
        return found

    async def _read(self, namespace: str, name: str, where: str) -> tuple[Object, Object | None]:
        if self._client is None:
            raise ConnectionError("this node has no API server")
        try:
            claim = await self._client.get(PERSISTENTVOLUMECLAIMS, name, namespace)
        except ApiError as error:
            text = f"{where}failed to fetch PVC from API server: {error.message}"
            raise ClaimError(text) from error
        bound = claim["spec"].get("volumeName")
        if not bound or not persistent.is_bound(claim):
            return claim, None
        try:
            return claim, await self._client.get(PERSISTENTVOLUMES, bound)
        except ApiError as error:
            text = f'{where}failed to fetch PV "{bound}" from API server: {error.message}'
            raise ClaimError(text) from error

    def forget(self, pod: Object) -> None:
        """The pod is gone. Another one with the same claim asks again."""
        for name in persistent.claims_of(pod):
            self._cache.put(KIND, pod["metadata"]["namespace"], name, None)


def problem(pod: Object, volume: Object, claim: Object, found: Object | None) -> str | None:
    """Why the pod cannot have this volume."""
    metadata = pod["metadata"]
    if "ephemeral" in volume and not persistent.made_for(claim, pod):
        place = metadata["namespace"]
        return (
            f"PVC {place}/{claim['metadata']['name']} was not created for pod "
            f"{place}/{metadata['name']} (pod is not owner)"
        )
    if is_deleting(claim) and (pod.get("status") or {}).get("phase") == "Pending":
        return "PVC is being deleted"
    if (claim.get("status") or {}).get("phase") == "Lost":
        return "PVC is lost"
    if found is None:
        return "PVC is not bound"
    named = (found["spec"].get("claimRef") or {}).get("uid")
    if named != claim["metadata"]["uid"]:
        return f'PV "{found["metadata"]["name"]}" is not bound to this PVC'
    mode = persistent.mode_of(found)
    wrong = "volumeMounts" if mode == "Block" else "volumeDevices"
    if any(
        use["name"] == volume["name"]
        for named in podspec.containers(pod)
        for use in named.container.get(wrong) or ()
    ):
        return f"volume {volume['name']} has volumeMode {mode}, but is specified in {wrong}"
    return None
