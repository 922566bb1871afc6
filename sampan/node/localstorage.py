"""Pods that write more to the node's disk than they said they would: ended as Failed, whether or not the node is short.

What bounds a pod (KEP-361): `sizeLimit` of an emptyDir, and `limits.ephemeral-storage` of a container (its log and writable
layer) and of the pod (those, and its emptyDirs). Order and words are kubelet's. `verdict` is pure; `measure` reads the disk,
and only for pods that have such a limit. Memory-backed volumes count against their own limit alone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sampan.cri.errors import CRIError
from sampan.kube import podresources
from sampan.kube.quantity import Quantity, parse
from sampan.linux import trees
from sampan.node import podspec
from sampan.node.plan import Verdict
from sampan.node.podspec import Object

if TYPE_CHECKING:
    from sampan.cri.client import CRIClient
    from sampan.node.worker import PodWorker

log = logging.getLogger(__name__)

RESOURCE = "ephemeral-storage"
GRACE = 1.0  # seconds, as kubelet's immediateEvictionGracePeriodSeconds
LOOK_EVERY, LOOK_LEAST = 2.0, 10.0  # seconds between two looks; kubelet takes ten
PAUSES = 20  # … and at least so many times what a look takes


@dataclass(frozen=True, slots=True)
class Written:
    """Bytes on disk, by volume and by container."""

    volumes: Mapping[str, int] = field(default_factory=dict)
    layers: Mapping[str, int] = field(default_factory=dict)
    logs: Mapping[str, int] = field(default_factory=dict)

    def by(self, container: str) -> int:
        return self.layers.get(container, 0) + self.logs.get(container, 0)


def is_bounded(pod: Object) -> bool:
    """Whether the pod has any limit that its files may exceed."""
    return bool(bounded_volumes(pod)) or RESOURCE in podresources.of_pod(pod["spec"], "limits")


def bounded_volumes(pod: Object) -> dict[str, Quantity]:
    found = {}
    for volume in pod["spec"].get("volumes") or ():
        limit = (volume.get("emptyDir") or {}).get("sizeLimit")
        if limit and (amount := parse(limit)).value() > 0:
            found[volume["name"]] = amount
    return found


def verdict(pod: Object, written: Written) -> Verdict | None:
    """What the pod has exceeded, if anything: a volume first, then the whole, then one container."""
    for name, limit in bounded_volumes(pod).items():
        if written.volumes.get(name, 0) > limit.value():
            return _evicted(f'Usage of EmptyDir volume "{name}" exceeds the limit "{limit}". ')
    whole = podresources.of_pod(pod["spec"], "limits").get(RESOURCE)
    in_memory = {
        volume["name"]
        for volume in pod["spec"].get("volumes") or ()
        if (volume.get("emptyDir") or {}).get("medium") == "Memory"
    }
    used = sum(bytes_ for name, bytes_ in written.volumes.items() if name not in in_memory)
    used += sum(written.layers.values()) + sum(written.logs.values())
    if whole is not None and used > whole.value():
        return _evicted(
            f"Pod ephemeral local storage usage exceeds the total limit of containers {whole}. "
        )
    for container in pod["spec"]["containers"]:
        stated = (container.get("resources") or {}).get("limits") or {}
        own = podresources.amounts(stated).get(RESOURCE)
        if own is not None and 0 < own.value() < written.by(container["name"]):
            name = container["name"]
            return _evicted(
                f'Container {name} exceeded its local ephemeral storage limit "{own}". '
            )
    return None


def _evicted(message: str) -> Verdict:
    return Verdict("Evicted", message)


class LocalStorage:
    """Looks at the pods that have such limits, while there are any; the less often, the longer it takes."""

    def __init__(self, cri: CRIClient, logs: Callable[[Object], Path]) -> None:
        """`logs`: where a pod's logs are."""
        self._cri = cri
        self._logs = logs
        self._bounded: dict[str, PodWorker] = {}
        self._any = asyncio.Event()

    def admit(self, worker: PodWorker) -> None:
        """The pod may run. Idempotent."""
        if is_bounded(worker.pod) and not podspec.is_critical(worker.pod):
            self._bounded[worker.uid] = worker
            self._any.set()

    async def run(self) -> None:
        while True:
            await self._any.wait()
            begun = time.monotonic()
            await self.look()
            spent = time.monotonic() - begun
            await asyncio.sleep(min(max(LOOK_EVERY, spent * PAUSES), LOOK_LEAST))

    async def look(self) -> None:
        """End every pod that has exceeded a limit of its own."""
        for worker in list(self._bounded.values()):
            if not worker.holds_room() or worker.ending.begun.is_set():
                del self._bounded[worker.uid]
                continue
            found = verdict(worker.pod, await self._written(worker))
            if found and worker.holds_room():
                log.warning("evicting pod %s: %s", podspec.full_name(worker.pod), found.message)
                worker.fail(found, grace=GRACE)
        if not self._bounded:
            self._any.clear()

    async def _written(self, worker: PodWorker) -> Written:
        pod = worker.pod
        whole = RESOURCE in podresources.of_pod(pod["spec"], "limits")
        places = worker.volumes.empty_dirs(pod)
        if not whole:
            wanted = bounded_volumes(pod)
            places = {name: path for name, path in places.items() if name in wanted}
        layers: dict[str, int] = {}
        logs: dict[str, Path] = {}
        sandbox = worker.observed.sandbox()
        if whole and sandbox is not None:
            logs = {path.name: path for path in _directories(self._logs(pod))}
            try:
                answer = await self._cri.pod_sandbox_stats(pod_sandbox_id=sandbox.id)
            except CRIError as error:
                log.info("pod %s cannot be measured: %s", podspec.full_name(pod), error)
            else:
                for each in answer.stats.linux.containers:
                    name = each.attributes.metadata.name
                    layers[name] = each.writable_layer.used_bytes.value
        return await asyncio.to_thread(measure, places, logs, layers)


def measure(
    places: Mapping[str, Path], logs: Mapping[str, Path], layers: Mapping[str, int]
) -> Written:
    """Takes a while where there are many files: for a thread. `logs`: directories by container."""
    return Written(
        {name: trees.size(path) for name, path in places.items()},
        layers,
        {name: trees.size(path) for name, path in logs.items()},
    )


def _directories(path: Path) -> list[Path]:
    try:
        return [entry for entry in path.iterdir() if entry.is_dir()]
    except FileNotFoundError:
        return []
