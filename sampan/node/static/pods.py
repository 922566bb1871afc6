"""The static pods of a node: a worker for each file's pod, and the next one only when the pod before it has ended.

A changed file is another pod (its uid comes from the content) of the same name; kubelet, too, waits for the end of the
first. Workers are the same as for the API's pods, but that their status goes to the mirrors.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from sampan.kube import objects
from sampan.node.context import Context
from sampan.node.podspec import Object
from sampan.node.static.directory import Directory
from sampan.node.static.mirrors import Mirrors, Name, name_of
from sampan.node.worker import PodWorker

log = logging.getLogger(__name__)


class StaticPods:
    def __init__(
        self,
        path: Path,
        context: Context,
        workers: dict[str, PodWorker],
        node: Callable[[], Object | None],
    ) -> None:
        self._directory = Directory(path, context.config.name)
        self._context = context
        self._workers = workers
        self._pods: dict[Name, Object] = {}
        self._own: set[str] = set()  # uids of workers that are static pods'
        self.mirrors = Mirrors(context.client, lambda: self._pods, node, context.status)

    def open(self) -> None:
        """The files' pods have workers on return."""
        self._directory.open()
        self._read()

    def has(self, uid: str) -> bool:
        return uid in self._own

    async def run(self) -> None:
        """Follow the files until cancelled."""
        try:
            while True:
                await self._directory.changed()
                self._read()
        finally:
            self._directory.close()

    def _read(self) -> None:
        self._pods = {name_of(pod): pod for pod in self._directory.read()}
        wanted = {objects.uid(pod) for pod in self._pods.values()}
        for uid in self._own - wanted:
            self._workers[uid].remove(hurry=False)
        for name in self._pods:
            self._start(name)
        self.mirrors.look_again()

    def _start(self, name: Name) -> None:
        pod = self._pods[name]
        uid = objects.uid(pod)
        if uid in self._workers or any(name_of(self._workers[u].pod) == name for u in self._own):
            return  # it has started, or waits for the one before it
        log.info("static pod %s/%s", *name)
        self._own.add(uid)
        worker = self._workers[uid] = PodWorker(self._context, pod, self.mirrors)
        worker.wake()

    def gone(self, worker: PodWorker) -> None:
        """Nothing is left of that pod, and its worker is forgotten."""
        if worker.uid not in self._own:
            return
        self._own.discard(worker.uid)
        name = name_of(worker.pod)
        if name in self._pods:
            self._start(name)
