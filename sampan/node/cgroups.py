"""The pods' cgroups, as kubelet keeps them: `kubepods`, one group for each lower class of service, one for each pod.

A pod's group has the sum of what its containers ask for, and its limits when every container has one, so that what is not a
container (a shell beside it, a process that the engine started) counts too; Burstable pods together have the shares of what
they ask for, BestEffort pods together the smallest there are (kubelet's qos_container_manager). The runtime makes what is
below. Works on cgroup v2 and on each controller of v1. Only empty groups can be removed, so a mistake here ends no process.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from sampan.linux import cgroups
from sampan.linux.cgroups import Limits, Setting, layout
from sampan.node import resources
from sampan.node.podspec import Object
from sampan.node.resources import BEST_EFFORT, BURSTABLE, MIN_SHARES, PERIOD

log = logging.getLogger(__name__)

DEFAULTS = {
    "cpu.cfs_period_us": str(PERIOD),
    "cpu.cfs_quota_us": "-1",
    "memory.limit_in_bytes": "-1",
    "cpu.max": f"max {PERIOD}",
    "memory.max": "max",
}


def settings(wanted: Mapping[str, int], *, unified: bool) -> list[Setting]:
    """The files for fields of CRI's LinuxContainerResources. A limit that is not named is none."""
    limits = Limits(
        cpu_shares=wanted.get("cpu_shares", MIN_SHARES),
        cpu_quota=wanted.get("cpu_quota", -1),
        cpu_period=wanted.get("cpu_period", PERIOD),
        memory=wanted.get("memory_limit_in_bytes", -1),
    )
    return cgroups.settings(limits, unified=unified)


def of_pod(pod: Object) -> dict[str, int]:
    """What the pod's group gets. A sandbox with an overhead is bounded by its runtime, which knows what that is for."""
    fields = dict(resources.pod_resources(pod))
    if pod["spec"].get("overhead"):
        fields.pop("memory_limit_in_bytes", None)
        fields.pop("cpu_quota", None)
    return fields


class Groups:
    """What was set is remembered, and written again only when it changes. Without cgroups (no root) nothing happens."""

    def __init__(self, root: str, cores: int) -> None:
        self.root = root.strip("/")
        self._cores = cores
        self._set: dict[tuple[str, str], str] = {}
        self._asked: dict[str, int] = {}  # thousandths of a processor, by uid of Burstable pods
        self._total = 0

    def set_pod(self, group: str, pod: Object) -> None:
        """Before its sandbox, and when a resize is over."""
        if self.root and group:
            self._write(group, settings(of_pod(pod), unified=layout().unified))

    def lift(self, group: str, pod: Object) -> None:
        """No limits while containers below change theirs: v1 has no child exceed its parent."""
        if self.root and group:
            shares = {"cpu_shares": of_pod(pod)["cpu_shares"]}
            self._write(group, settings(shares, unified=layout().unified), anew=True)

    def count(self, pod: Object) -> None:
        """Keep the classes' shares by the pods that there are. Again for the same pod when what it asks for changes."""
        if not self.root:
            return
        uid, qos = pod["metadata"]["uid"], resources.qos_class(pod)
        if qos == BURSTABLE:
            asked = resources.requested(pod, "cpu")
            self._total += asked - self._asked.get(uid, 0)
            self._asked[uid] = asked
        top, whole = f"{self.root}/kubepods", resources.cpu_shares(self._cores * 1000)
        for group, shares in (
            (self.root, whole),
            (top, whole),
            (f"{top}/{BURSTABLE.lower()}", resources.cpu_shares(self._total)),
            (f"{top}/{BEST_EFFORT.lower()}", MIN_SHARES),
        ):
            self._write(group, settings({"cpu_shares": shares}, unified=layout().unified)[:1])

    def remove(self, group: str, uid: str) -> None:
        self._total -= self._asked.pop(uid, 0)
        for key in [key for key in self._set if key[0] == group]:
            del self._set[key]
        cgroups.remove(group)

    def _write(self, group: str, wanted: Iterable[Setting], *, anew: bool = False) -> None:
        """What a new group has anyway is not written, except `anew`: the group may be older than this process."""
        for controller, name, value in wanted:
            before = self._set.get((group, name), "" if anew else DEFAULTS.get(name, ""))
            root = layout().root(controller)
            if root is None or before == value:
                continue
            try:
                directory = root / group.strip("/")
                cgroups.make(directory, root, unified=layout().unified)
                (directory / name).write_text(value)
            except OSError as error:
                log.warning("%s of cgroup %s cannot be %s: %s", name, group, value, error.strerror)
            else:
                self._set[group, name] = value
