"""The end of a pod's control groups: what is in them is killed and waited for, then they are removed, in every hierarchy.

A group that cannot be removed is asked for again while there is hope, and then told of in the log: nobody else looks after it
but the next start of the runtime, which removes the groups of all pods that it does not know, whatever their kind.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Set

from sampan.linux import cgroups
from sampan.runtime.processes import kill

LOG = logging.getLogger(__name__)

POD_NAME = 64  # characters of a sandbox's id; other names in there are the node agent's, which removes them
DYING = 5.0  # seconds; a process that waits for a disk or a server may not die at all


async def end(path: str) -> None:
    """The group is gone on return, with all that is in it. Idempotent."""
    if cgroups.remove(path):
        return
    if members := cgroups.inhabitants(path):
        try:
            async with asyncio.timeout(DYING):
                await asyncio.gather(*(kill(pid) for pid in members))
        except TimeoutError:
            pass
    if not await cgroups.remove_soon(path):
        LOG.warning("the cgroup %s stays, with processes %s", path, cgroups.inhabitants(path))


async def collect(instance: str, living: Set[str]) -> None:
    """Groups of pods that are not among the living: a crash left them."""
    tops = cgroups.layout().everywhere(instance)
    found = {path.name for top in tops if top.is_dir() for path in top.iterdir() if path.is_dir()}
    for name in found - living:
        if len(name) == POD_NAME:
            await end(f"/{instance}/{name}")
    cgroups.remove_if_empty(instance)
