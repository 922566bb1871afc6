"""The pods' cgroups, as kubelet keeps them: `kubepods`, one group for each lower class of service, one for each pod.

A pod's group has the sum of what its containers ask for, and its limits when every container has one, so that what is not a
container (a shell beside it, a process that the engine started) counts too; Burstable pods together have the shares of what
they ask for, BestEffort pods together the smallest there are (kubelet's qos_container_manager). The runtime makes what is
below. Works on cgroup v2 and on each controller of v1. Only empty groups can be removed, so a mistake here ends no process.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from sampan.node import resources
from sampan.node.podspec import Object
from sampan.node.resources import BEST_EFFORT, BURSTABLE, MIN_SHARES, PERIOD

log = logging.getLogger(__name__)

V2 = "v2"
CONTROLLERS = ("cpu", "memory")  # what is set here
DEFAULTS = {
    "cpu.cfs_period_us": str(PERIOD),
    "cpu.cfs_quota_us": "-1",
    "memory.limit_in_bytes": "-1",
    "cpu.max": f"max {PERIOD}",
    "memory.max": "max",
}
DELEGATED = "+cpu +memory +pids"


@functools.cache
def roots() -> dict[str, Path]:
    """Where cgroup hierarchies are mounted: by v1 controllers, joined by commas, or "v2"."""
    found = {}
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            head, _, tail = line.partition(" - ")
            kind, _, options = tail.split()[:3]
            if kind in ("cgroup", "cgroup2"):
                name = V2 if kind == "cgroup2" else options
                found[name] = Path(head.split(" ", 5)[4])
    return found


@functools.cache
def controllers() -> dict[str, Path]:
    """The hierarchy that governs cpu, and the one that governs memory; on a pure v2 host the same."""
    by_name = {
        name: path for options, path in roots().items() for name in options.split(",")
    }  # of v1's, also options that are no controllers: nobody asks for them
    if "memory" not in by_name and V2 in by_name:
        return dict.fromkeys(CONTROLLERS, by_name[V2])
    return {name: by_name[name] for name in CONTROLLERS if name in by_name}


def settings(wanted: Mapping[str, int], *, unified: bool) -> list[tuple[str, str, str]]:
    """(controller, file, value) for fields of CRI's LinuxContainerResources. A limit that is not named is none."""
    quota, period = wanted.get("cpu_quota", -1), wanted.get("cpu_period", PERIOD)
    shares, memory = wanted.get("cpu_shares", MIN_SHARES), wanted.get("memory_limit_in_bytes", -1)
    if unified:
        weight = 1 + (shares - 2) * 9999 // 262142  # KEP-2254
        return [
            ("cpu", "cpu.weight", str(weight)),
            ("cpu", "cpu.max", f"{quota if quota > 0 else 'max'} {period}"),
            ("memory", "memory.max", str(memory) if memory > 0 else "max"),
        ]
    return [
        ("cpu", "cpu.shares", str(shares)),
        ("cpu", "cpu.cfs_period_us", str(period)),
        ("cpu", "cpu.cfs_quota_us", str(quota)),
        ("memory", "memory.limit_in_bytes", str(memory)),
    ]


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
            self._write(group, settings(of_pod(pod), unified=unified()))

    def lift(self, group: str, pod: Object) -> None:
        """No limits while containers below change theirs: v1 has no child exceed its parent."""
        if self.root and group:
            shares = {"cpu_shares": of_pod(pod)["cpu_shares"]}
            self._write(group, settings(shares, unified=unified()), anew=True)

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
            self._write(group, settings({"cpu_shares": shares}, unified=unified())[:1])

    def remove(self, group: str, uid: str) -> None:
        self._total -= self._asked.pop(uid, 0)
        for key in [key for key in self._set if key[0] == group]:
            del self._set[key]
        remove(group)

    def _write(
        self, group: str, wanted: Iterable[tuple[str, str, str]], *, anew: bool = False
    ) -> None:
        """What a new group has anyway is not written, except `anew`: the group may be older than this process."""
        for controller, name, value in wanted:
            before = self._set.get((group, name), "" if anew else DEFAULTS.get(name, ""))
            root = controllers().get(controller)
            if root is None or before == value:
                continue
            try:
                make(root, group.strip("/"))
                (root / group.strip("/") / name).write_text(value)
            except OSError as error:
                log.warning("%s of cgroup %s cannot be %s: %s", name, group, value, error.strerror)
            else:
                self._set[group, name] = value


@functools.cache
def unified() -> bool:
    return set(controllers().values()) == {roots().get(V2)}


def make(root: Path, group: str) -> None:
    """The group exists on return; on v2 its controllers are handed down to it."""
    directory = root / group
    if directory.is_dir():
        return
    directory.mkdir(parents=True, exist_ok=True)
    if root != roots().get(V2):
        return
    for parent in reversed([p for p in directory.parents if p.is_relative_to(root)]):
        for controller in DELEGATED.split():
            try:
                (parent / "cgroup.subtree_control").write_text(controller)
            except OSError:
                continue  # not here, or the group has members of its own: the setting that is missed says so


def remove(parent: str) -> None:
    """Remove the group and the empty groups in it, in every hierarchy. Idempotent; what is busy stays."""
    if not parent.strip("/"):
        return
    for root in roots().values():
        top = root / parent.strip("/")
        for directory, _, _ in os.walk(top, topdown=False):
            try:
                os.rmdir(directory)
            except OSError:
                continue  # in use, or gone meanwhile
