"""The worker of one pod: asks `plan` what to do, does it, publishes the status, and sleeps until something happens.

It has a task only while there is something to do; a pod that just runs costs a few hundred bytes. Whatever happens
(spec, CRI event, probe, timer) ends in `wake`. Everything it knows can be had again from CRI, the API and the disk, so it
may be killed anywhere. How a pod comes up is told in `starting`, how it goes in `ending`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

from sampan.cri.errors import CRIError, NotFound
from sampan.kube import objects
from sampan.node import logtail, podspec, status
from sampan.node.context import Context
from sampan.node.ending import EndBegun, Ending
from sampan.node.environment import CONFIG_ERROR
from sampan.node.observed import (
    EXITED,
    RUNNING,
    ContainerState,
    Observed,
    SandboxState,
    container_state,
)
from sampan.node.plan import (
    Action,
    CreateSandbox,
    Fail,
    HoldBack,
    Plan,
    Remove,
    RemoveSandbox,
    ShowPullBackOff,
    Start,
    Stop,
    StopPod,
    StopSandbox,
    Verdict,
    View,
    plan,
)
from sampan.node.podspec import Named, Object
from sampan.node.probes.prober import Prober
from sampan.node.resize import Resizing
from sampan.node.starting import RETRY, Starting
from sampan.node.statuswriter import Statuses, newer
from sampan.node.volumes.pod import PodVolumes

log = logging.getLogger(__name__)

RUNTIME_RETRY = 1.0
TELL_WITHIN = 5.0  # seconds for the last word to the API
EVENT_PATIENCE = 0.25  # for an event that was sent before the answer; then the runtime is asked
BEGUN = ("Running", "Succeeded", "Failed")  # phases of a pod that had been let in
_META = ("labels", "annotations", "deletionTimestamp", "deletionGracePeriodSeconds")


class PodWorker:
    def __init__(self, context: Context, pod: Object, statuses: Statuses | None = None) -> None:
        """`statuses`: where its status goes, when that is not the API's pod."""
        self.context = context
        self.statuses: Statuses = statuses or context.status
        self.admitted = False
        self.pod = pod
        self.uid: str = pod["metadata"]["uid"]
        self.observed = Observed()
        self.volumes = PodVolumes(
            context.config.pods_dir / self.uid,
            context.volatile / self.uid,
            root=context.config.root,
            storage=context.config.storage_dir,
        )
        self.prober = Prober(context.cri, context.group, self.wake)
        self.starting = Starting(self, context)
        self.ending = Ending(self, context)
        self.resizing = Resizing(self, context)
        self.removed = False  # the API has no such pod any more
        self.unsure = (
            False  # a sandbox may have been made, or may yet be, of which the runtime did not tell
        )
        self.held: set[str] = set()  # containers whose CrashLoopBackOff was reported
        self._messages: dict[str, str] = {}
        self._verdict: Verdict | None = None
        self._disrupted = False
        self._news = asyncio.Event()
        self._dirty = False
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        if objects.is_deleting(pod):
            self.ending.begun.set()

    # News

    def update(self, pod: Object, *, expected: bool = False) -> None:
        """The API shows the pod like this now. `expected`: its status is the one that was written from here."""
        same = objects.resource_version(pod) == objects.resource_version(self.pod)
        if same or not newer(pod, self.pod):
            return  # the answer to a write, which the watch shows again
        old, self.pod = self.pod, pod
        quiet = expected or self.statuses.is_writing(self.uid)  # the answer tells more
        if objects.is_deleting(pod):
            self.ending.begun.set()
            if podspec.termination_grace(pod) < podspec.termination_grace(old):
                self.ending.shorten(podspec.termination_grace(pod))
        if old["metadata"].get("labels") != pod["metadata"].get("labels") or old["metadata"].get(
            "annotations"
        ) != pod["metadata"].get("annotations"):
            self.starting.stale = True
        if not quiet or _matters(old, pod):
            self.wake()

    def remove(self, *, hurry: bool = True) -> None:
        """The API has no such pod any more. `hurry`: nor has it left the pod time to end."""
        if self.removed:
            return
        self.removed = True
        self.ending.begun.set()
        if hurry:
            self.ending.shorten(1)
        self.statuses.forget(self.uid)
        self.wake()

    def fail(
        self, verdict: Verdict, *, disruption: bool = False, grace: float | None = None
    ) -> None:
        """End the pod as Failed, within `grace`. `disruption`: not for what it did, but for what the node needs."""
        if grace is not None:
            self.ending.shorten(grace)
        if self._verdict is not None or self.removed:
            return
        self.ending.begun.set()
        self._verdict = verdict
        self._disrupted = disruption
        self.event("Warning", verdict.reason, verdict.message)
        self.wake()

    def holds_room(self) -> bool:
        """The pod's requests and host ports are taken: it has neither ended, nor been refused, nor gone from the API."""
        ended = podspec.has_finished(self.statuses.latest(self.pod))
        return not (self.removed or self._verdict is not None or ended)

    async def ended(self, seconds: float) -> None:
        """Return when nothing of the pod runs, or after so long."""
        try:
            async with asyncio.timeout(seconds):
                while any(s.state == RUNNING for s in self.observed.containers.values()):
                    await self._news.wait()
        except TimeoutError:
            log.warning("pod %s takes long to end", podspec.full_name(self.pod))

    async def told(self) -> None:
        """Return when the API knows how the pod ended, or cannot be told within a moment."""
        try:
            async with asyncio.timeout(TELL_WITHIN):
                while self._task is not None:
                    await asyncio.wait({self._task})
                await self.statuses.flush(self.uid)
        except TimeoutError:
            log.warning("pod %s: the API does not know its end", podspec.full_name(self.pod))

    def objects_changed(self) -> None:
        """A ConfigMap or Secret of the pod became another."""
        self.starting.stale = True
        self.starting.blocked = {
            k: b for k, b in self.starting.blocked.items() if b.reason != CONFIG_ERROR
        }
        self.starting.forget_volume_failure()
        self.wake()

    def observe(
        self, sandboxes: Iterable[SandboxState], containers: Iterable[ContainerState]
    ) -> None:
        """News from CRI; only what differs wakes."""
        changed = False
        for sandbox in sandboxes:
            changed |= self.observed.merge_sandbox(sandbox)
        for container in containers:
            changed |= self.observed.merge_container(container)
        if changed:
            self.tell()
            self.wake()

    def news(self) -> asyncio.Event:
        """An event that is set when the next thing happens to the pod's containers."""
        return self._news

    async def hear(self, known: Callable[[], bool]) -> bool:
        """Wait a moment for the event that tells it: the answer to a call may overtake it."""
        try:
            async with asyncio.timeout(EVENT_PATIENCE):
                while not known():
                    await self._news.wait()
        except TimeoutError:
            return known()
        return True

    def tell(self) -> None:
        happened, self._news = self._news, asyncio.Event()
        happened.set()

    def wake(self) -> None:
        self._dirty = True
        if self._task is None and self.context.open:
            self._task = self.context.group.create_task(self._run(), name=f"pod {self.uid}")

    def close(self) -> None:
        """Stop looking; the pod keeps running."""
        self.prober.close()
        self.tell()
        if self._timer:
            self._timer.cancel()
            self._timer = None

    # Turning

    async def _run(self) -> None:
        try:
            while self._dirty:
                self._dirty = False
                try:
                    await self._turn()
                except EndBegun:
                    self._dirty = True
                except NotFound:
                    # The runtime lost or removed what we counted on: look again.
                    await self._again(RUNTIME_RETRY)
                except CRIError as error:
                    log.warning("pod %s: %s", podspec.full_name(self.pod), error)
                    self.event("Warning", "FailedSync", f"error syncing pod: {error}")
                    await self._again(RUNTIME_RETRY)
                except Exception:
                    # Root of the pod's task: one pod's trouble is not the others'.
                    log.exception("pod %s", podspec.full_name(self.pod))
                    self.wake_at(time.time() + RETRY)
        finally:
            self._task = None

    async def _again(self, seconds: float) -> None:
        try:
            await self.refresh()
        except CRIError as error:
            log.info("pod %s: %s", podspec.full_name(self.pod), error)
        self.wake_at(time.time() + seconds)

    async def _turn(self) -> None:
        now = time.time()
        self.starting.blocked = {
            name: b
            for name, b in self.starting.blocked.items()
            if now < b.until or b.reason not in ("RunContainerError", "PostStartHookError")
        }
        self._read_messages()
        self._attend_probes()
        pod = self.statuses.latest(self.pod)
        if not self.admitted:
            await self._admit()
        view = self.view()
        todo = plan(pod, view, now)
        if todo.done and self.unsure:
            await self.refresh()
            self._dirty = True
            return
        self._publish(pod, view, now, todo)
        if todo.done:
            await self.ending.finish()
            return
        await self.starting.attend_volumes()
        acted = False
        self.context.active += 1
        try:
            if not self.ending.begun.is_set() and self._verdict is None:
                acted |= await self.resizing.attend(self.pod, view)
            for action in todo.actions:
                acted |= await self._do(action)
        finally:
            self.context.active -= 1
        if acted:
            self._dirty = True
            return
        wake_at = todo.wake_at
        if renewal := self.context.tokens.next_renewal(self.uid):
            wake_at = min(wake_at, renewal) if wake_at else renewal
            if renewal <= now:
                self.starting.stale = True
        if wake_at:
            self.wake_at(max(wake_at, now + 0.01))

    def is_in(self) -> bool:
        """It was let in: by this process, or by the one before, as what there is of it tells."""
        phase = (self.pod.get("status") or {}).get("phase")
        begun = self.observed.sandboxes or self.observed.containers
        return self.admitted or bool(begun) or phase in BEGUN

    async def _admit(self) -> None:
        """Ask whether it may start here. What has begun, or ends anyway, is not asked."""
        if self.is_in() or self._verdict is not None or self.ending.begun.is_set():
            self.admitted = True
        elif refused := await self.context.gate.admit(self.pod):
            self.fail(refused)
        else:
            self.admitted = True
        if self.admitted and self.holds_room():
            self.context.cgroups.count(self.pod)
            self.context.local_storage.admit(self)

    def wake_at(self, at: float) -> None:
        if self._timer:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(0.0, at - time.time()), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        renewal = self.context.tokens.next_renewal(self.uid)
        if renewal and renewal <= time.time():
            self.starting.stale = True
        self.wake()

    def view(self) -> View:
        newest = self.observed.sandbox()
        return View(
            sandbox=newest,
            old_sandboxes=[s for s in self.observed.sandboxes.values() if s is not newest],
            history=self.observed.history(),
            health=self.prober.health(),
            blocked=self.starting.blocked,
            backoff=self.starting.backoff,
            sandbox_after=self.starting.sandbox_after,
            verdict=self._verdict,
            disrupted=self._disrupted,
            removed=self.removed,
            messages=self._messages,
            resized=self.resizing.told(),
            ended_early=self.ending.rounds.ended,
        )

    def _publish(self, pod: Object, view: View, now: float, todo: Plan) -> None:
        if self.removed:
            return
        wanted = status.pod_status(pod, view, self.context.facts, now, done=todo.done)
        coming = any(isinstance(action, (CreateSandbox, Start)) for action in todo.actions)
        busy = not todo.done and (coming or self.prober.has_unasked_readiness())
        self.statuses.submit(self.pod, wanted, busy=busy)

    def event(self, kind: str, reason: str, message: str, named: Named | None = None) -> None:
        if self.context.recorder:
            path = podspec.field_path(named) if named else ""
            self.context.recorder.event(self.pod, kind, reason, message, field_path=path)

    def report_for(self, named: Named) -> Callable[[str, str, str], None]:
        return lambda kind, reason, message: self.event(kind, reason, message, named)

    def _read_messages(self) -> None:
        """Termination messages of containers that have ended since."""
        for state in self.observed.containers.values():
            if state.state != EXITED or state.id in self._messages:
                continue
            text = self.volumes.read_message(state.name, state.restarts)
            if not text and state.message_policy == "FallbackToLogsOnError" and state.exit_code:
                text = logtail.tail(self.log_path(state))
            self._messages[state.id] = text
        for gone in self._messages.keys() - self.observed.containers.keys():
            del self._messages[gone]

    def log_path(self, state: ContainerState) -> Any:
        directory = self.context.config.pod_log_dir(self.pod)
        return directory / state.name / f"{state.restarts}.log"

    def _attend_probes(self) -> None:
        sandbox = self.observed.sandbox()
        running = set()
        if sandbox is not None and sandbox.ready:
            for state in self.observed.containers.values():
                named = podspec.find(self.pod, state.name)
                if state.state == RUNNING and named is not None:
                    running.add(state.id)
                    known = podspec.api_status(self.pod, state.name)
                    self.prober.watch(
                        named.container, state, self.address(), self.report_for(named), known
                    )
        self.prober.keep(running)

    def address(self) -> str:
        """Where the pod is reached."""
        if self.pod["spec"].get("hostNetwork"):
            return self.context.facts.host_ips[0]
        sandbox = self.observed.sandbox()
        return sandbox.addresses[0] if sandbox and sandbox.addresses else "127.0.0.1"

    # Acting: True when something happened that is worth another look

    async def _do(self, action: Action) -> bool:
        if isinstance(action, CreateSandbox):
            return await self.starting.create_sandbox(action.attempt)
        if isinstance(action, Start):
            return await self.starting.start(action)
        if isinstance(action, Stop):
            return await self.ending.stop(action)
        if isinstance(action, StopPod):
            return await self.ending.stop_pod(action.grace)
        if isinstance(action, HoldBack):
            return self._hold_back(action)
        if isinstance(action, ShowPullBackOff):
            return self.starting.show_pull_back_off(action.name)
        if isinstance(action, Remove):
            return await self._remove_container(action.id)
        if isinstance(action, StopSandbox):
            await self.context.cri.stop_pod_sandbox(pod_sandbox_id=action.id)
            await self.refresh()
            return True
        if isinstance(action, RemoveSandbox):
            await self.context.cri.remove_pod_sandbox(pod_sandbox_id=action.id)
            self.observed.sandboxes.pop(action.id, None)
            return True
        assert isinstance(action, Fail)
        self._verdict = action.verdict
        self.event("Normal", action.verdict.reason, action.verdict.message)
        return True

    async def look_at(self, container_id: str, sandbox_id: str = "") -> None:
        answer = await self.context.cri.container_status(container_id=container_id)
        if self.observed.merge_container(container_state(answer.status, sandbox_id)):
            self.tell()

    def _hold_back(self, action: HoldBack) -> bool:
        if action.container_id not in self.held:
            self.held.add(action.container_id)
            named = podspec.find(self.pod, action.name)
            text = f"Back-off restarting failed container {action.name} in pod "
            self.event("Warning", "BackOff", text + podspec.full_name(self.pod), named)
        return False

    async def _remove_container(self, container_id: str) -> bool:
        try:
            await self.context.cri.remove_container(container_id=container_id)
        except NotFound:
            log.debug("container %s is gone already", container_id)
        state = self.observed.containers.pop(container_id, None)
        if state is not None:
            self.log_path(state).unlink(missing_ok=True)
            self.volumes.message(state.name, state.restarts).unlink(missing_ok=True)
        self.held.discard(container_id)
        return True

    async def refresh(self) -> None:
        """Ask CRI for everything of the pod."""
        sandboxes, containers = await self.context.runtime.of_pod(self.uid)
        self.observed.replace(sandboxes, containers)
        self.unsure = False
        self.tell()


def _matters(old: Object, new: Object) -> bool:
    """Whether a pod's next step may depend on what else is different when a status of ours comes back."""
    spec, phase = new["spec"], (new.get("status") or {}).get("phase")
    return (
        any(old["metadata"].get(key) != new["metadata"].get(key) for key in _META)
        or old["spec"] != spec
        or (phase in ("Succeeded", "Failed") and (old.get("status") or {}).get("phase") != phase)
        or bool(spec.get("readinessGates"))
        or spec.get("activeDeadlineSeconds") is not None
    )
