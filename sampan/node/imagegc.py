"""Unused images are deleted when their disk fills up, the least recently used first, and pinned ones never.

Above the upper threshold so many go that use falls to the lower one, as kubelet does; under disk pressure as many bytes as
are asked for. An image is in use while a container of it exists, running or not. The first look after a start only learns
what is there, so that an image that was just pulled has its time.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sampan.cri import api_pb2 as api
from sampan.cri.client import CRIClient
from sampan.cri.errors import CRIError
from sampan.node.containerconfig import IMAGE_VOLUMES

log = logging.getLogger(__name__)

LOOK_EVERY = 300.0  # seconds
YOUNGEST = 120.0  # seconds that an image stays at least


@dataclass(slots=True)
class Known:
    """What is remembered of one image between two looks."""

    first_seen: float
    last_used: float = 0.0
    size: int = 0
    pinned: bool = False
    used: bool = False


class ImageGC:
    def __init__(
        self,
        cri: CRIClient,
        image_dir: Path,
        *,
        high: int,
        low: int,
        deleted: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`high` and `low` are percentages of the disk; `deleted` is called after images went."""
        self._cri = cri
        self._dir = image_dir
        self._high, self._low = high, low
        self._deleted = deleted
        self._clock = clock
        self._known: dict[str, Known] = {}
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        while True:
            try:
                await self.look()
            except CRIError as error:
                log.info("images are not looked at: %s", error)
            await asyncio.sleep(LOOK_EVERY)

    async def look(self) -> int:
        """Bytes that were freed because the disk is fuller than the upper threshold."""
        async with self._turn:
            await self._learn()
        disk = os.statvfs(self._dir)
        capacity = disk.f_blocks * disk.f_frsize
        free = disk.f_bavail * disk.f_frsize
        if capacity <= 0 or (capacity - free) * 100 < self._high * capacity:
            return 0
        wanted = capacity * (100 - self._low) // 100 - free
        log.info("the images' disk is %d %% full", 100 - 100 * free // capacity)
        return await self.free(wanted)

    async def free(self, wanted: int) -> int:
        """Delete unused images until so many bytes are gone; how many went. Errors of one image spare the others."""
        async with self._turn:
            try:
                await self._learn()
            except CRIError as error:
                log.warning("no image can be deleted: %s", error)
                return 0
            freed = 0
            for name in candidates(self._known, self._clock()):
                if freed >= wanted:
                    break
                try:
                    await self._cri.remove_image(image=api.ImageSpec(image=name))
                except CRIError as error:
                    log.warning("image %s cannot be deleted: %s", name, error)
                    continue
                freed += self._known.pop(name).size
                log.info("deleted unused image %s", name)
        if freed:
            self._deleted()
        return freed

    async def _learn(self) -> None:
        images, containers = await asyncio.gather(
            self._cri.list_images(), self._cri.list_containers()
        )
        now = self._clock()
        used: set[str] = set()
        for container in containers.containers:
            used |= {container.image_ref, container.image_id, container.image.image}
            used.update(container.annotations.get(IMAGE_VOLUMES, "").split(","))
        present: set[str] = set()
        for image in images.images:
            present.add(image.id)
            known = self._known.setdefault(image.id, Known(now))
            known.size, known.pinned = image.size, image.pinned
            known.used = not used.isdisjoint(names_of(image))
            if known.used:
                known.last_used = now
        for gone in self._known.keys() - present:
            del self._known[gone]


def names_of(image: Any) -> set[str]:
    return {image.id, *image.repo_tags, *image.repo_digests}


def candidates(known: dict[str, Known], now: float) -> list[str]:
    """Images that may go, the least recently used first, of those the one seen first."""
    free = [
        (each.last_used, each.first_seen, name)
        for name, each in known.items()
        if not each.used and not each.pinned and now - each.first_seen >= YOUNGEST
    ]
    return [name for _, _, name in sorted(free)]
