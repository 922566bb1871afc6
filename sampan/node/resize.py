"""In-place resize of pods (KEP-1287): what the spec asks for now is brought to containers that run already.

Three amounts are told apart, as in the API. The spec is what is desired. `allocatedResources` is what this node has agreed
to: a request that exceeds the node is Infeasible for ever, one that exceeds what is free now is Deferred and tried again.
`resources` is what the runtime has been told, container by container; whatever differs is changed through
`UpdateContainerResources`, or by a restart where the container's `resizePolicy` says so. The pod has three of its own when
its spec names resources (KEP-5419): they are its cgroup's, and the limits of containers that have none.

Nothing is kept on disk: a node that starts again reads from the pod's status in the API what it had done.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from sampan.cri import api_pb2 as pb
from sampan.cri.errors import CRIError
from sampan.kube import objects
from sampan.kube.quantity import parse, total
from sampan.node import podspec
from sampan.node.observed import ContainerState
from sampan.node.plan import Resized, Stop, View
from sampan.node.podspec import INIT, MAIN, SIDECAR, Named, Object
from sampan.node.resources import container_resources, requested
from sampan.node.sandboxconfig import cgroup_parent

if TYPE_CHECKING:
    from sampan.node.context import Context
    from sampan.node.worker import PodWorker

log = logging.getLogger(__name__)

PENDING, IN_PROGRESS = "PodResizePending", "PodResizeInProgress"
CONDITIONS = (PENDING, IN_PROGRESS)
DEFERRED_RETRY = (
    10.0  # seconds until what did not fit is tried again, if nothing else happens before
)
FAILED_RETRY = 5.0
RESIZED = ("cpu", "memory")
RESTART = "RestartContainer"


class Resizing:
    def __init__(self, worker: PodWorker, context: Context) -> None:
        self.worker = worker
        self.context = context
        self.actual: dict[str, Object] = {}
        self.allocated: dict[str, Object] = {}
        self.pod_actual: Object | None = None  # None: not looked at yet
        self.pod_allocated: Object = {}
        self._pending: tuple[str, str] | None = None  # reason, message
        self._progress: tuple[str, str] | None = None

    def started(self, container_id: str, container: Object) -> None:
        """The container was made with these resources."""
        self.actual[container_id] = self.allocated[container_id] = resources_of(container)

    def told(self) -> Resized:
        conditions = []
        for kind, said in ((PENDING, self._pending), (IN_PROGRESS, self._progress)):
            if said is not None:
                reason, message = said
                conditions.append(
                    {"type": kind, "status": "True"}
                    | ({"reason": reason} if reason else {})
                    | ({"message": message} if message else {})
                )
        return Resized(
            self.actual,
            self.allocated,
            tuple(conditions),
            self.pod_actual or {},
            self.pod_allocated,
        )

    async def attend(self, pod: Object, view: View) -> bool:
        """Bring the running containers to what the spec says. True when something changed that has to be told."""
        before = self.told()
        differing = self._differing(pod, view)
        whole = self._whole(pod)
        if not differing and not whole:
            self._pending = self._progress = None
            return before.conditions != ()
        verdict = judge(pod, self.context.pods(), self.context.node_facts.allocatable)
        if verdict is not None:
            self._pending, self._progress = verdict, None
            if verdict[0] == "Deferred":
                self.worker.wake_at(time.time() + DEFERRED_RETRY)
            return before.conditions != self.told().conditions
        self._pending = None
        self.pod_allocated = resources_of(pod["spec"])
        if refused := await self._over(pod, view, whole):
            self._fail([refused])
            return before.conditions != self.told().conditions
        heirs = [each for each in self._running(pod, view) if inherits(each[0].container, whole)]
        differing += [each for each in heirs if each not in differing]
        failures = []
        group = cgroup_parent(pod, self.context.config)
        self.context.cgroups.lift(group, pod)
        for named, state in differing:
            desired = resources_of(named.container)
            self.allocated[state.id] = desired
            if restarts(named.container, self.actual[state.id], desired):
                name = named.container["name"]
                message = f"Container {name} resize requires restart"
                await self.worker.ending.stop(Stop(state.id, name, message))
                continue
            try:
                await self._update(pod, named, state)
            except CRIError as error:
                failures.append(f"{named.container['name']}: {error}")
            else:
                self.actual[state.id] = desired
        if failures:
            self._fail(failures)
        else:
            self.pod_actual = self.pod_allocated
            self.context.cgroups.count(pod)
            self.context.cgroups.set_pod(group, pod)
            self._progress = None
            self.worker.event("Normal", "ResizeCompleted", "Pod resize completed")
        return True

    def _fail(self, failures: Iterable[str]) -> None:
        self._progress = ("Error", "; ".join(failures))
        self.worker.wake_at(time.time() + FAILED_RETRY)

    def _whole(self, pod: Object) -> set[str]:
        """Which of the pod's own amounts are not what its cgroup has."""
        desired = resources_of(pod["spec"])
        if self.pod_actual is None:
            # Of a pod that names none they are its containers' sums, which is nothing of its own.
            told = (pod.get("status") or {}).get("resources") if desired else None
            self.pod_actual = self.pod_allocated = desired if told is None else told
        found = changed(self.pod_actual, desired)
        if not found:
            self.pod_allocated = desired
        return found

    async def _over(self, pod: Object, view: View, whole: set[str]) -> str:
        """Why the pod's own limit cannot be lowered so far: "" when it can. Raises CRIError."""
        limit, had = memory_limit(resources_of(pod["spec"])), memory_limit(self.pod_actual or {})
        if "memory" not in whole or not limit or (had and limit >= had):
            return ""
        used = 0
        for _, state in self._running(pod, view):
            used += await self._used(state)
        return over("pod", limit, used) if used >= limit else ""

    async def _used(self, state: ContainerState) -> int:
        answer = await self.context.cri.container_stats(container_id=state.id)
        return int(answer.stats.memory.usage_bytes.value)

    @staticmethod
    def _running(pod: Object, view: View) -> Iterator[tuple[Named, ContainerState]]:
        for named in podspec.containers(pod):
            state = view.latest(named.container["name"])
            if named.kind in (MAIN, SIDECAR, INIT) and state is not None and view.runs(state):
                yield named, state

    def _differing(self, pod: Object, view: View) -> list[tuple[Named, ContainerState]]:
        found, seen = [], set()
        for named, state in self._running(pod, view):
            seen.add(state.id)
            desired = resources_of(named.container)
            if state.id not in self.actual:
                known = podspec.api_status(pod, state.name) or {}
                same = str(known.get("containerID") or "").endswith(f"//{state.id}")
                told = known.get("resources") if same else None
                self.actual[state.id] = desired if told is None else told
                self.allocated[state.id] = self.actual[state.id]
            if equal(self.actual[state.id], desired):
                self.allocated[state.id] = desired  # also when a resize was taken back
            else:
                found.append((named, state))
        for gone in self.actual.keys() - seen - self.worker.observed.containers.keys():
            del self.actual[gone]
            self.allocated.pop(gone, None)
        return found

    async def _update(self, pod: Object, named: Named, state: ContainerState) -> None:
        """Raises CRIError; also when the container uses more memory than it is to have: it would be killed."""
        fields = container_resources(pod, named.container, self.context.machine.memory)
        limit = fields.get("memory_limit_in_bytes", 0)
        had = memory_limit(self.actual[state.id])
        if limit and (not had or limit < had):
            used = await self._used(state)
            if used >= limit:
                raise CRIError(over(f'container "{named.container["name"]}"', limit, used))
        fields.pop("oom_score_adj", None)
        # A limit that is no longer asked for: the runtime leaves alone what is 0.
        fields.setdefault("cpu_quota", -1)
        fields.setdefault("memory_limit_in_bytes", -1)
        await self.context.cri.update_container_resources(
            container_id=state.id, linux=pb.LinuxContainerResources(**fields)
        )


def resources_of(container: Object) -> Object:
    """Requests and limits, requests completed by limits as the API does."""
    given = container.get("resources") or {}
    return {kind: dict(given[kind]) for kind in ("limits", "requests") if given.get(kind)}


def inherits(container: Object, changed: Iterable[str]) -> bool:
    """It has no limit of its own for one of these, so the pod's is its limit."""
    limits = (container.get("resources") or {}).get("limits") or {}
    return any(name not in limits for name in changed)


def over(what: str, limit: int, used: int) -> str:
    return f"attempting to set {what} memory limit ({limit}) below current usage ({used})"


def equal(one: Object, other: Object) -> bool:
    return not changed(one, other)


def changed(one: Object, other: Object) -> set[str]:
    """The resources whose request or limit differs, by value and not by spelling."""
    found = set()
    for kind in ("limits", "requests"):
        ours, theirs = one.get(kind) or {}, other.get(kind) or {}
        for name in RESIZED:
            a, b = ours.get(name), theirs.get(name)
            if a is None or b is None:
                differs = a is not b
            else:
                differs = parse(a) != parse(b)
            if differs:
                found.add(name)
    return found


def restarts(container: Object, actual: Object, desired: Object) -> bool:
    policies = {
        item["resourceName"]: item.get("restartPolicy")
        for item in container.get("resizePolicy") or ()
    }
    return any(policies.get(name) == RESTART for name in changed(actual, desired))


def memory_limit(resources: Object) -> int:
    found = (resources.get("limits") or {}).get("memory")
    return parse(found).value() if found is not None else 0


def judge(
    pod: Object, pods: Iterable[Object], allocatable: Mapping[str, str]
) -> tuple[str, str] | None:
    """(reason, message) of why the pod cannot have what it asks for; None when it can."""
    uid = pod["metadata"]["uid"]
    others = [
        other
        for other in pods
        if other["metadata"]["uid"] != uid and not podspec.has_finished(other)
    ]
    for name in RESIZED:
        if name not in allocatable:
            continue
        whole = parse(allocatable[name]).milli()
        wanted = requested(pod, name)
        if wanted > whole:
            return (
                "Infeasible",
                f"Node didn't have enough capacity: {name}, requested: {wanted}, capacity: {whole}",
            )
        used = sum(requested(other, name) for other in others)
        if used + wanted > whole:
            return (
                "Deferred",
                f"Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, "
                f"capacity: {whole}",
            )
    return None


TOLD = ("resources", "allocatedResources")


def into_container(status: Object, container_id: str, resized: Resized, known: Object) -> None:
    """`resources` and `allocatedResources` of a running container's status. `known`: what the API has of it.

    The first is told when it is empty, too: by its absence the API knows nodes that cannot resize. An agent that has just
    started has not looked yet, and tells what was told before.
    """
    actual = resized.actual.get(container_id)
    if actual is None and known.get("containerID") == status["containerID"]:
        status.update({key: known[key] for key in TOLD if key in known})
    elif actual is not None:
        status["resources"] = actual
        if requests := (resized.allocated.get(container_id) or {}).get("requests"):
            status["allocatedResources"] = requests


def into_pod(status: Object, pod: Object, resized: Resized) -> None:
    """The same of the pod: of its own resources, else of its containers' together, as kubelet's pod cgroup has them."""
    if not pod["spec"].get("resources"):
        status.update(together(pod, status))
        return
    if resized.pod_actual:
        status["resources"] = resized.pod_actual
    if requests := resized.pod_allocated.get("requests"):
        status["allocatedResources"] = requests


def together(pod: Object, status: Object) -> Object:
    """What the containers have by their statuses, or by the spec while they do not run; a limit only when each has one."""
    shown = {
        each["name"]: each
        for field in ("containerStatuses", "initContainerStatuses")
        for each in status.get(field) or ()
    }
    amounts: dict[str, list[tuple[str, Object]]] = {"limits": [], "requests": [], "agreed": []}
    for named in podspec.containers(pod):
        if named.kind in (MAIN, SIDECAR, INIT):
            desired, entry = resources_of(named.container), shown.get(named.container["name"]) or {}
            actual = entry.get("resources", desired)
            for kind in ("limits", "requests"):
                amounts[kind].append((named.kind, actual.get(kind) or {}))
            agreed = entry.get("allocatedResources", actual.get("requests") or {})
            amounts["agreed"].append((named.kind, agreed))
    limits = [of for _, of in amounts["limits"]]
    bounded = [name for name in RESIZED if all(name in of for of in limits)]
    requests = summed(amounts["requests"], RESIZED)
    told = {"limits": summed(amounts["limits"], bounded), "requests": requests}
    found: Object = {"resources": {kind: each for kind, each in told.items() if each}}
    found["allocatedResources"] = summed(amounts["agreed"], RESIZED)
    return {field: value for field, value in found.items() if value}


def summed(amounts: Iterable[tuple[str, Object]], names: Iterable[str]) -> dict[str, str]:
    """Main containers and sidecars run beside each other, init containers one after another before them."""
    found = {}
    for name in names:
        beside = [parse(of[name]) for kind, of in amounts if kind != INIT and name in of]
        before = [parse(of[name]) for kind, of in amounts if kind == INIT and name in of]
        if beside or before:
            found[name] = str(max([total(beside), *before]))
    return found


def conditions(pod: Object, resized: Resized, moment: str) -> list[Object]:
    """The conditions of a resize that is under way; none when there is none."""
    generation = objects.generation(pod)
    found = []
    for told in resized.conditions:
        old = objects.condition(pod, told["type"])
        entry = {
            "lastProbeTime": None,
            "lastTransitionTime": (old or {}).get("lastTransitionTime") or moment,
            **told,
        }
        found.append(entry | ({"observedGeneration": generation} if generation else {}))
    return found
