"""The manifest directory: read whole whenever inotify says that something in it changed. Nothing is polled.

A directory that is not there is waited for by watching its parent. A file that cannot be read or is no pod is told in the
log, once for each content; the pod that it was before goes on until the file is gone or right again.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

from sampan.kube import objects
from sampan.node import linux
from sampan.node.podspec import Object
from sampan.node.static import manifests

log = logging.getLogger(__name__)

IN_CLOSE_WRITE, IN_MOVED_FROM, IN_DELETE = 0x8, 0x40, 0x200
CHANGES = (
    IN_CLOSE_WRITE
    | IN_MOVED_FROM
    | IN_DELETE
    | linux.IN_MOVED_TO
    | linux.IN_CREATE
    | linux.IN_DELETE_SELF
    | linux.IN_MOVE_SELF
)
SETTLE = 0.05  # seconds in which changes come together
CHUNK = 64 * 1024


class Directory:
    def __init__(self, path: Path, node: str) -> None:
        self._path = path
        self._node = node
        self._pods: dict[Path, Object] = {}
        self._told: dict[Path, str] = {}
        self._changed = asyncio.Event()
        self._descriptor = -1

    def read(self) -> list[Object]:
        """The pods that the files describe now; of two with one name the first file's."""
        files = self._files()
        for gone in self._pods.keys() - set(files):
            del self._pods[gone]
        for path in files:
            try:
                seen = objects.micro_now()
                pod = manifests.read(path, self._node, seen)
            except (OSError, manifests.BadManifest) as error:
                self._tell(path, str(error))
                continue
            self._told.pop(path, None)
            known = self._pods.get(path)
            if known is None or objects.uid(known) != objects.uid(pod):
                self._pods[path] = pod
        by_name: dict[tuple[str, str], Object] = {}
        for path, pod in sorted(self._pods.items()):
            name = objects.namespace(pod), objects.name(pod)
            if by_name.setdefault(name, pod) is not pod:
                self._tell(path, f"another file has a pod {name[0]}/{name[1]}")
        return list(by_name.values())

    def _files(self) -> list[Path]:
        try:
            entries = sorted(os.scandir(self._path), key=lambda entry: entry.name)
        except OSError as error:
            self._tell(self._path, str(error))
            return []
        return [Path(e.path) for e in entries if not e.name.startswith(".") and e.is_file()]

    def _tell(self, path: Path, text: str) -> None:
        if self._told.get(path) != text:
            self._told[path] = text
            log.error("static pods: %s: %s", path, text)

    async def changed(self) -> None:
        """Return when the files may be others than at the last `read`."""
        await self._changed.wait()
        await asyncio.sleep(SETTLE)
        self._changed.clear()
        self._watch()

    def open(self) -> None:
        """Changes are seen from now on."""
        self._descriptor = linux.inotify()
        asyncio.get_running_loop().add_reader(self._descriptor, self._on_readable)
        self._watch()

    def _watch(self) -> None:
        try:
            linux.inotify_watch(self._descriptor, self._path, CHANGES)
        except OSError as error:
            log.info("static pods: %s: %s", self._path, error)
            if self._path.parent.is_dir():
                linux.inotify_watch(self._descriptor, self._path.parent, CHANGES)

    def _on_readable(self) -> None:
        try:
            while os.read(self._descriptor, CHUNK):
                self._changed.set()
        except BlockingIOError:
            return

    def close(self) -> None:
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
