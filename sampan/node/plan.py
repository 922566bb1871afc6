"""What to do next for one pod: a pure function of its spec, of what was observed, and of the time.

`plan` is asked again after everything that happens, and answers only with what can be done now; so it has no memory
and a restarted node continues in the middle. The order is kubelet's: a sandbox; init containers one after another, with
sidecars (KEP-753) among them that must have started before the next; then the main containers; the pod is done when all
main containers ended and none is to be started again. A container whose end restarts them all (KEP-5532) begins a round:
what was made before it ends, without hooks, and then everything is started in that order, init containers too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sampan.kube.objects import is_deleting, parse_time
from sampan.node import podspec
from sampan.node.backoff import Backoff
from sampan.node.observed import CREATED, EXITED, RUNNING, UNKNOWN, ContainerState, SandboxState
from sampan.node.podspec import EPHEMERAL, INIT, MAIN, SIDECAR, Named, Object


@dataclass(frozen=True, slots=True)
class Health:
    """What the probes of a running container say of it."""

    started: bool = True
    ready: bool = True
    failure: str = ""  # why it has to be restarted


@dataclass(frozen=True, slots=True)
class Blocked:
    """The container could not be started; not tried again before `until`."""

    reason: str
    message: str
    since: float
    until: float
    image: str = ""  # that could not be had


@dataclass(frozen=True, slots=True)
class Verdict:
    """The node's own decision to end the pod as Failed."""

    reason: str
    message: str


@dataclass(slots=True)
class Resized:
    """What came of the pod's resources (`resize`), as its status tells them."""

    actual: Mapping[str, Object] = field(default_factory=dict)  # by container id
    allocated: Mapping[str, Object] = field(default_factory=dict)  # agreed to, by container id
    conditions: tuple[Object, ...] = ()  # type, status, reason, message
    pod_actual: Object = field(default_factory=dict)  # of the pod as such (KEP-5419)
    pod_allocated: Object = field(default_factory=dict)


@dataclass(slots=True)
class View:
    """Everything that a decision about one pod may know."""

    sandbox: SandboxState | None = None
    old_sandboxes: Sequence[SandboxState] = ()
    history: Mapping[str, Sequence[ContainerState]] = field(default_factory=dict)  # newest first
    health: Mapping[str, Health] = field(default_factory=dict)  # by container id
    blocked: Mapping[str, Blocked] = field(default_factory=dict)  # by container name
    backoff: Backoff = field(default_factory=Backoff)
    sandbox_after: float = 0.0  # a failed sandbox is not tried again before
    verdict: Verdict | None = None
    disrupted: bool = False  # the verdict is the node's need, not the pod's fault
    removed: bool = False  # the pod is gone from the API
    messages: Mapping[str, str] = field(default_factory=dict)  # termination message by container id
    resized: Resized = field(default_factory=Resized)
    ended_early: Collection[str] = ()  # ids of containers that were ended for a round

    def latest(self, name: str) -> ContainerState | None:
        found = self.history.get(name)
        return found[0] if found else None

    def runs(self, state: ContainerState | None) -> bool:
        """Running, and in the sandbox that counts."""
        return (
            state is not None
            and state.state == RUNNING
            and self.sandbox is not None
            and self.sandbox.ready
            and state.sandbox_id in ("", self.sandbox.id)
        )

    def round_begun(self, pod: Object) -> int:
        """When a container last ended with an exit code that restarts all of the pod's (KEP-5532), in ns; 0: never."""
        if not podspec.may_restart_all(pod):
            return 0
        return max((state.finished_at for state in self._calls(pod)), default=0)

    def calls_round(self, pod: Object, state: ContainerState) -> bool:
        """It is remembered by this container's end."""
        begun = self.round_begun(pod)
        return begun > 0 and state.finished_at == begun and state in self._calls(pod)

    def former(self, pod: Object) -> set[str]:
        """Containers made before the round, or too early for it: one after an init container that is yet to be made."""
        begun = self.round_begun(pod)
        if not begun:
            return set()
        found: set[str] = set()
        for container in podspec.inits(pod):
            state = self.latest(container["name"])
            if state is not None and (found or state.created_at < begun):
                found.add(state.name)
        early = bool(found)
        for container in podspec.mains(pod):
            state = self.latest(container["name"])
            if state is None:
                continue
            if early or state.created_at < begun or state.id in self.ended_early:
                found.add(state.name)
        return found

    def restarts(self, pod: Object, named: Named, ended: ContainerState) -> bool:
        """It is started again: its rules and policies say so, or a round has begun since it was made."""
        return ended.name in self.former(pod) or podspec.restarts_after(pod, named, ended.exit_code)

    def _calls(self, pod: Object) -> Iterator[ContainerState]:
        for container in (*podspec.inits(pod), *podspec.mains(pod)):
            for state in self.history.get(container["name"]) or ():
                if state.state == EXITED and (
                    podspec.rule_action(container, state.exit_code) == podspec.RESTART_ALL
                ):
                    yield state

    def health_of(self, container: Object, state: ContainerState) -> Health:
        """What probes have not judged yet is not started when there is a startup probe, and so on."""
        known = self.health.get(state.id)
        if known is not None:
            return known
        started = "startupProbe" not in container
        return Health(started=started, ready=started and "readinessProbe" not in container)


# Actions, in the words of the worker that carries them out.


@dataclass(frozen=True, slots=True)
class CreateSandbox:
    attempt: int


@dataclass(frozen=True, slots=True)
class StopSandbox:
    id: str


@dataclass(frozen=True, slots=True)
class RemoveSandbox:
    id: str


@dataclass(frozen=True, slots=True)
class Start:
    """Pull if needed, create, start. `again`: a container of this name has run before."""

    name: str
    restarts: int
    again: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    id: str
    name: str
    message: str
    reason: str = ""
    liveness: bool = False
    hooks: bool = True  # preStop is run


@dataclass(frozen=True, slots=True)
class HoldBack:
    """CrashLoopBackOff: shown to the user until `until`."""

    name: str
    container_id: str
    delay: float
    until: float


@dataclass(frozen=True, slots=True)
class ShowPullBackOff:
    """The failed pull was shown long enough; from now on the wait for the next try is."""

    name: str


@dataclass(frozen=True, slots=True)
class Remove:
    """A dead container that nobody asks for any more."""

    id: str


@dataclass(frozen=True, slots=True)
class Fail:
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class StopPod:
    """End every container and the sandbox, main containers first, then sidecars backwards."""

    grace: int


Action = (
    CreateSandbox
    | StopSandbox
    | RemoveSandbox
    | Start
    | Stop
    | HoldBack
    | ShowPullBackOff
    | Remove
    | Fail
    | StopPod
)

ROUND = "container exited with restart policy rule"  # that restarts them all
PULL_FAILURE_SHOWN = 1.0  # seconds of ErrImagePull before it becomes ImagePullBackOff


@dataclass(slots=True)
class Plan:
    actions: list[Action] = field(default_factory=list)
    wake_at: float = 0.0  # 0: nothing to wait for by the clock
    done: bool = False  # nothing of the pod runs and nothing will

    def wake(self, at: float) -> None:
        self.wake_at = min(self.wake_at, at) if self.wake_at else at


def plan(pod: Object, view: View, now: float) -> Plan:
    """The next actions. Empty and without `wake_at`: wait for news."""
    result = Plan()
    if view.removed or is_deleting(pod) or podspec.has_finished(pod) or view.verdict:
        _end(pod, view, result)
        return result
    if verdict := _overdue(pod, now, result):
        result.actions.append(Fail(verdict))
        return result
    _clean(pod, view, result)
    sandbox = view.sandbox
    if sandbox is None or not sandbox.ready:
        _new_sandbox(pod, view, now, result)
        return result
    if former := _former(pod, view):
        result.actions.extend(former)
        return result
    if _initialize(pod, view, now, result):
        _run(pod, view, now, result)
    for container in podspec.ephemerals(pod):
        if view.latest(container["name"]) is None:
            _start(Named(EPHEMERAL, container), pod, view, now, result)
    return result


def _overdue(pod: Object, now: float, result: Plan) -> Verdict | None:
    limit = pod["spec"].get("activeDeadlineSeconds")
    begun = (pod.get("status") or {}).get("startTime")
    if limit is None or not begun:
        return None
    due = parse_time(begun).timestamp() + limit
    if now >= due:
        return Verdict(
            "DeadlineExceeded", "Pod was active on the node longer than the specified deadline"
        )
    result.wake(due)
    return None


def _end(pod: Object, view: View, result: Plan) -> None:
    alive = any(
        state.state in (RUNNING, UNKNOWN) for states in view.history.values() for state in states
    )
    ready = [s for s in (view.sandbox, *view.old_sandboxes) if s is not None and s.ready]
    if alive or ready:
        result.actions.append(StopPod(podspec.termination_grace(pod)))
    else:
        result.done = True


def _former(pod: Object, view: View) -> list[Stop]:
    """Nothing of a new round is started while something of the one before runs."""
    former = view.former(pod)
    latest = (view.latest(c["name"]) for c in (*podspec.mains(pod), *podspec.inits(pod)))
    return [
        Stop(state.id, state.name, f"Stopping container {state.name}: {ROUND}", hooks=False)
        for state in latest
        if state is not None and state.name in former and view.runs(state)
    ]


def _clean(pod: Object, view: View, result: Plan) -> None:
    """Of each container the newest stays, one dead before it for its logs and last state, and what began a round.

    After a round has begun an init container that succeeded tells its last state, too.
    """
    told = (RUNNING, CREATED, EXITED) if view.round_begun(pod) else (RUNNING, CREATED)
    for states in view.history.values():
        newest = states[0]
        keep = 2 if newest.state in told else 1
        result.actions.extend(
            Remove(old.id)
            for old in states[keep:]
            if old.state in (EXITED, CREATED) and not view.calls_round(pod, old)
        )
    in_use = {state.sandbox_id for states in view.history.values() for state in states}
    for old in view.old_sandboxes:
        if old.ready:
            result.actions.append(StopSandbox(old.id))
        elif old.id not in in_use:
            result.actions.append(RemoveSandbox(old.id))


def _new_sandbox(pod: Object, view: View, now: float, result: Plan) -> None:
    old = view.sandbox
    if old is not None:
        alive = any(s.state == RUNNING for states in view.history.values() for s in states)
        wanted = any(_wanted(pod, Named(MAIN, c), view) for c in podspec.mains(pod))
        if not wanted or _init_failed(pod, view):
            if alive:
                result.actions.append(StopPod(podspec.termination_grace(pod)))
            result.done = not alive
            return
        if alive:
            result.actions.append(StopSandbox(old.id))
    if now < view.sandbox_after:
        for name, blocked in view.blocked.items():
            _show_pull(name, blocked, now, result)
        result.wake(view.sandbox_after)
        return
    result.actions.append(CreateSandbox(old.attempt + 1 if old else 0))


def _wanted(pod: Object, named: Named, view: View) -> bool:
    """A container that does not run now has to be started (again)."""
    last = view.latest(named.container["name"])
    if last is None:
        known = podspec.api_status(pod, named.container["name"])
        ended = ((known or {}).get("state") or {}).get("terminated")
        # The runtime lost its records (a new disk, another runtime): what the API was told still holds.
        return ended is None or podspec.restarts_after(pod, named, ended.get("exitCode", 0))
    if last.state in (CREATED, UNKNOWN) or last.name in view.former(pod):
        return True
    return podspec.restarts_after(pod, named, last.exit_code if last.state == EXITED else 137)


def _init_failed(pod: Object, view: View) -> bool:
    for container in podspec.inits(pod):
        named = Named(INIT, container)
        last = view.latest(container["name"])
        if podspec.is_sidecar(container) or last is None or last.state != EXITED:
            continue
        if last.exit_code != 0 and not view.restarts(pod, named, last):
            return True
    return False


def _initialize(pod: Object, view: View, now: float, result: Plan) -> bool:
    """Bring the init containers and sidecars along; True when the main containers may run."""
    sandbox = view.sandbox
    assert sandbox is not None
    former = view.former(pod)
    begun = any(
        state is not None
        and state.sandbox_id in ("", sandbox.id)
        and state.state != CREATED
        and state.name not in former
        for state in (view.latest(c["name"]) for c in podspec.mains(pod))
    )
    for container in podspec.inits(pod):
        name = container["name"]
        last = view.latest(name)
        here = last is not None and last.sandbox_id in ("", sandbox.id) and name not in former
        if podspec.is_sidecar(container):
            if not _keep(Named(SIDECAR, container), pod, view, now, result) and not begun:
                return False
            continue
        if begun or (here and last is not None and last.state == EXITED and last.exit_code == 0):
            continue
        if last is not None and here and last.state == RUNNING:
            return False
        if last is not None and here and last.state == EXITED:
            if not podspec.restarts_after(pod, Named(INIT, container), last.exit_code):
                result.actions.append(StopPod(podspec.termination_grace(pod)))
                return False
        _start(Named(INIT, container), pod, view, now, result)
        return False
    return True


def _run(pod: Object, view: View, now: float, result: Plan) -> None:
    busy = False
    for container in podspec.mains(pod):
        named = Named(MAIN, container)
        if view.runs(view.latest(container["name"])):
            busy = True
            _keep(named, pod, view, now, result)
        elif _wanted(pod, named, view):
            busy = True
            _start(named, pod, view, now, result)
    if not busy:
        result.actions.append(StopPod(podspec.termination_grace(pod)))


def _keep(named: Named, pod: Object, view: View, now: float, result: Plan) -> bool:
    """Judge a container that should run, start it when it does not; True when it has started."""
    container = named.container
    last = view.latest(container["name"])
    if last is None or not view.runs(last):
        _start(named, pod, view, now, result)
        return False
    health = view.health_of(container, last)
    if health.failure:
        result.actions.append(Stop(last.id, last.name, health.failure, liveness=True))
        return False
    if last.hash and last.hash != podspec.container_hash(container):
        message = f"Container {last.name} definition changed, will be restarted"
        result.actions.append(Stop(last.id, last.name, message))
        return False
    return health.started


def _start(named: Named, pod: Object, view: View, now: float, result: Plan) -> None:
    name = named.container["name"]
    if (blocked := view.blocked.get(name)) and now < blocked.until:
        _show_pull(name, blocked, now, result)
        result.wake(blocked.until)
        return
    last = view.latest(name)
    if last is not None and last.state in (CREATED, UNKNOWN):
        # The node died between creating and starting it: nothing ran, so this is no restart.
        result.actions.append(Remove(last.id))
        result.actions.append(Start(name, last.restarts))
        return
    if last is not None and last.state == EXITED:
        ended = last.finished_at / 1e9
        until = view.backoff.until(name, ended)
        if now < until:
            result.actions.append(HoldBack(name, last.id, view.backoff.delay(name), until))
            result.wake(until)
            return
    result.actions.append(Start(name, _restarts(pod, name, last), again=last is not None))


def _show_pull(name: str, blocked: Blocked, now: float, result: Plan) -> None:
    """A failed pull is shown as such for a moment, then as the wait for the next one."""
    if blocked.reason != "ErrImagePull":
        return
    shown = blocked.since + PULL_FAILURE_SHOWN
    if now >= shown:
        result.actions.append(ShowPullBackOff(name))
    else:
        result.wake(shown)


def _restarts(pod: Object, name: str, last: ContainerState | None) -> int:
    known: dict[str, Any] = podspec.api_status(pod, name) or {}
    told = known.get("restartCount") or 0
    if last is not None:
        return max(last.restarts, told) + 1
    ran = known.get("containerID") or (known.get("state") or {}).get("terminated")
    return told + 1 if ran else told
