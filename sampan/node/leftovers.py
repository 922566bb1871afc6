"""What an agent that was killed left behind: sandboxes, cgroups and volumes of pods that are no more.

A pod may be deleted while no agent runs, or one was killed between two steps of its way. What the runtime has of it is ended
like a deleted pod, from what its sandbox tells of it; a sandbox that was still being made then comes to light by its event.
"""

from __future__ import annotations

import logging
from typing import Any

from sampan.cri.errors import CRIError
from sampan.node.context import Context
from sampan.node.errors import VolumeError
from sampan.node.observed import stranger
from sampan.node.runtimewatch import PodNews
from sampan.node.volumes.pod import PodVolumes
from sampan.node.worker import PodWorker

log = logging.getLogger(__name__)


class Leftovers:
    def __init__(self, context: Context, workers: dict[str, PodWorker]) -> None:
        self._context = context
        self._workers = workers

    def end(self, uid: str, sandbox: Any, news: PodNews) -> None:
        """`sandbox`: one of the pod's, as a listing shows it."""
        worker = self._workers[uid] = PodWorker(self._context, stranger(sandbox, uid))
        worker.observed.replace(*news)
        worker.remove()

    async def look_for(self, uid: str) -> None:
        """A sandbox has come up for a pod that is unknown: a former agent asked for it."""
        runtime = self._context.runtime
        try:
            listed, news = await runtime.listed(uid), await runtime.of_pod(uid)
        except CRIError as error:
            log.info("sandboxes of pod %s: %s", uid, error)  # the next full listing has them
            return
        if listed and uid not in self._workers:
            self.end(uid, listed[0], news)

    def clean(self) -> None:
        """Groups and volumes of pods that are neither wanted nor running any more, and volumes that were being removed."""
        context = self._context
        for uid in context.cgroups.strays(self._workers):
            context.group.create_task(context.cgroups.clear(uid), name=f"cgroup of pod {uid}")
        context.directories.finish()
        for directory in context.config.pods_dir.iterdir():
            if directory.name not in self._workers:
                volatile = context.volatile / directory.name
                try:
                    PodVolumes(directory, volatile, root=context.config.root).remove()
                except (VolumeError, OSError) as error:
                    log.warning("left-over volumes of pod %s: %s", directory.name, error)
