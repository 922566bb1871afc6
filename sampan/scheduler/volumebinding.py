"""Binding volumes before their pod: volumes that were chosen are given to their claims, others are asked for on the node, and
the pod waits until the binder (and a provisioner) have done the rest.

Watches tell when they have; nothing is polled. While a pod waits, what it was promised counts as taken for all others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from sampan.client.client import Client
from sampan.client.resources import PERSISTENTVOLUMECLAIMS, PERSISTENTVOLUMES
from sampan.kube import objects, persistent
from sampan.scheduler.volumes import ClaimKey, Plan, Volumes, key_of

Object = dict[str, Any]
LONGEST = 600.0  # seconds that volumes may take; kube-scheduler's bindTimeoutSeconds


class VolumesNotBound(Exception):
    """Why the pod cannot be bound to this node after all, as a sentence."""


class VolumeBinder:
    def __init__(self, client: Client, volumes: Volumes) -> None:
        self.client = client
        self.volumes = volumes
        self._waiting: dict[ClaimKey, set[asyncio.Event]] = {}

    def changed(self, claims: Iterable[ClaimKey]) -> None:
        """Something moved that pods with these claims may be waiting for."""
        for claim in claims:
            for moved in self._waiting.get(claim, ()):
                moved.set()

    async def bind(self, plan: Plan, place: persistent.Place, wanted: Callable[[], bool]) -> None:
        """All claims of the plan are bound to volumes that the node reaches on return. Raises VolumesNotBound, ApiError.

        `wanted`: whether there still is a pod that needs them.
        """
        for claim, volume in plan.match:
            present = volume["spec"].get("claimRef")
            if present is None or present.get("uid") != claim["metadata"]["uid"]:
                await self.client.update(PERSISTENTVOLUMES, persistent.named_for(volume, claim))
        asked: dict[str, int] = {}  # uid of a claim → version that has the node's name
        for claim in plan.provision:
            if objects.annotations(claim).get(persistent.SELECTED_NODE) != place[0]:
                marked = persistent.annotated(claim, {persistent.SELECTED_NODE: place[0]})
                claim = await self.client.update(PERSISTENTVOLUMECLAIMS, marked)
            asked[objects.uid(claim)] = int(objects.resource_version(claim))
        moved = asyncio.Event()
        keys = [key_of(claim) for claim in plan.claims()]
        for key in keys:
            self._waiting.setdefault(key, set()).add(moved)
        try:
            async with asyncio.timeout(LONGEST):
                while not self.bound(plan, asked, place):
                    await moved.wait()
                    moved.clear()
                    if not wanted():
                        raise VolumesNotBound("the pod does not wait for them any more")
        except TimeoutError:
            raise VolumesNotBound("context deadline exceeded") from None
        finally:
            for key in keys:
                self._waiting[key].discard(moved)
                if not self._waiting[key]:
                    del self._waiting[key]

    def bound(self, plan: Plan, asked: dict[str, int], place: persistent.Place) -> bool:
        """Whether all are; raises VolumesNotBound when one will not be."""
        return not [claim for claim in plan.claims() if not self.claim_bound(claim, asked, place)]

    def claim_bound(self, claim: Object, asked: dict[str, int], place: persistent.Place) -> bool:
        (namespace, name), uid = key_of(claim), objects.uid(claim)
        shown = self.volumes.claim(namespace, name)
        if shown is None or objects.uid(shown) != uid:
            raise VolumesNotBound(f'persistentvolumeclaim "{name}" not found')
        if persistent.is_bound(shown):
            volume = self.volumes.volume(shown["spec"]["volumeName"])
            if volume is not None and not persistent.reachable(volume, place):
                text = f'pv "{objects.name(volume)}" node affinity doesn\'t match node "{place[0]}"'
                raise VolumesNotBound(text)
            return volume is not None
        if uid in asked and int(objects.resource_version(shown)) >= asked[uid]:
            if objects.annotations(shown).get(persistent.SELECTED_NODE) != place[0]:
                raise VolumesNotBound(f'provisioning failed for PVC "{name}"')
        return False
