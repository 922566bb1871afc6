"""The pods' cgroups, as kubelet keeps them: `kubepods`, one group for each lower class of service, one for each pod.

A pod's group has the sum of what its containers ask for, and its limits when every container has one, so that what is not a
container (a shell beside it, a process that the engine started) counts too; Burstable pods together have the shares of what
they ask for, BestEffort pods together the smallest there are (kubelet's qos_container_manager). The runtime makes what is
below. Works on cgroup v2 and on each controller of v1.

A group goes when nothing of its pod runs, and goes for certain: one that is busy still (a program takes its time to end, or a
runtime was killed before it wrote down what it had begun) is tried again, and what stays in it is killed, as kubelet does.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Container, Iterable, Mapping

from sampan.linux import cgroups
from sampan.linux.cgroups import Limits, Setting, layout
from sampan.node import resources
from sampan.node.podspec import Object
from sampan.node.resources import BEST_EFFORT, BURSTABLE, MIN_SHARES, PERIOD

log = logging.getLogger(__name__)

RULES = {"memory.oom.group": "1", "memory.swap.max": "0"}
DEFAULTS = {
    "cpu.cfs_period_us": str(PERIOD),
    "cpu.cfs_quota_us": "-1",
    "memory.limit_in_bytes": "-1",
    "cpu.max": f"max {PERIOD}",
    "memory.max": "max",
}
CLASSES = (
    "",
    BURSTABLE.lower(),
    BEST_EFFORT.lower(),
)  # of service: Guaranteed pods are beside the others' groups
AGAIN, SELDOM = 0.02, 2.0  # seconds until a busy group is tried again, at first and at last
STAY = 1.0  # seconds; what is in the group of an ended pod for longer is nobody's


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

    def rules(self) -> dict[str, str]:
        """What every container gets besides its amounts, where cgroup v2 has it, by kubelet's defaults: its processes end
        together when one is killed for want of memory (KEP-2400's NoSwap beside it: none of them is swapped out instead).
        """
        if not self.root or not layout().unified:
            return {}
        directory = layout().hierarchies[""] / self.root
        return {name: value for name, value in RULES.items() if (directory / name).exists()}

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

    def remove(self, uid: str) -> bool:
        """False: something is in it still, and `clear` is to be awaited. Of a pod without a spec the class is not known."""
        if not self.root:
            return True
        self._total -= self._asked.pop(uid, 0)
        groups = [group.strip("/") for group in self._groups(uid)]
        for key in [key for key in self._set if key[0].strip("/") in groups]:
            del self._set[key]
        clean = [cgroups.remove(group) for group in groups]
        return all(clean)

    async def clear(self, uid: str) -> None:
        """Remove the groups of a pod of which the runtime has nothing. Returns when they are gone."""
        waited, pause = 0.0, AGAIN
        while True:
            await asyncio.sleep(pause)
            if self.remove(uid):
                return
            waited += pause
            pause = min(pause * 2, SELDOM)
            if waited > STAY:
                for pid in {
                    pid for group in self._groups(uid) for pid in cgroups.inhabitants(group)
                }:
                    log.warning("process %d is left of pod %s and is killed", pid, uid)
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        continue

    def strays(self, wanted: Container[str]) -> set[str]:
        """Uids of other pods that have a group: the agent that made it was killed before it wrote down anything else."""
        found = set()
        for top in layout().everywhere(f"{self.root}/kubepods") if self.root else ():
            for name in CLASSES:
                found |= {path.name.removeprefix("pod") for path in (top / name).glob("pod*")}
        return {uid for uid in found if uid not in wanted}

    def _groups(self, uid: str) -> list[str]:
        return [f"{self.root}/kubepods/{name}/pod{uid}" for name in CLASSES]

    def _write(self, group: str, wanted: Iterable[Setting], *, anew: bool = False) -> None:
        """What a new group has anyway is not written, except `anew`: the group may be older than this process.

        A runtime may remove a group that is empty between two sandboxes: then what was written before is no more.
        """
        for controller, name, value in wanted:
            before = self._set.get((group, name))
            root = layout().root(controller)
            if root is None or (before is None and not anew and value == DEFAULTS.get(name)):
                continue
            directory = root / group.strip("/")
            if before == value and directory.is_dir():
                continue
            try:
                cgroups.make(directory, root, unified=layout().unified)
                (directory / name).write_text(value)
            except OSError as error:
                log.warning("%s of cgroup %s cannot be %s: %s", name, group, value, error.strerror)
            else:
                self._set[group, name] = value
