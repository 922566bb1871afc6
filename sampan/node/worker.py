"""The worker of one pod: asks `plan` what to do, does it, publishes the status, and sleeps until something happens.

It has a task only while there is something to do; a pod that just runs costs a few hundred bytes. Whatever happens
(spec, CRI event, probe, timer) ends in `wake`. Everything it knows can be had again from CRI, the API and the disk, so it
may be killed anywhere. The end of a pod interrupts what may take long (pulls, hooks), never a call that makes something.
"""

from __future__ import annotations

import asyncio
import logging
import math
import shutil
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from sampan.client.resources import PODS
from sampan.cri.errors import CRIError, NotFound
from sampan.kube import objects
from sampan.kube.errors import ApiError
from sampan.node import (
    cgroups,
    containerconfig,
    environment,
    hooks,
    logtail,
    podspec,
    references,
    sandboxconfig,
    status,
)
from sampan.node.backoff import Backoff
from sampan.node.context import Context
from sampan.node.environment import CONFIG_ERROR
from sampan.node.errors import (
    ContainerError,
    HookError,
    ImageError,
    NodeError,
    SandboxError,
    VolumeError,
)
from sampan.node.images import pull_policy
from sampan.node.observed import (
    EXITED,
    RUNNING,
    ContainerState,
    Observed,
    SandboxState,
    container_state,
    sandbox_state,
)
from sampan.node.plan import (
    Action,
    Blocked,
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
from sampan.node.podspec import EPHEMERAL, SIDECAR, Named, Object
from sampan.node.probes.prober import Prober, grace_of
from sampan.node.references import NamespaceLookup, Ref
from sampan.node.statuswriter import newer
from sampan.node.volumes.pod import PodVolumes

log = logging.getLogger(__name__)

T = TypeVar("T")

RETRY = 10.0  # seconds until a container that could not be configured is tried again
RUN_ERROR_SHOWN = 1.0
VOLUME_RETRY, VOLUME_RETRY_MAX = 0.5, 122.0
RUNTIME_RETRY = 1.0
EVENT_PATIENCE = 0.25  # for an event that was sent before the answer; then the runtime is asked
LEAST_GRACE = 2.0  # seconds that a container gets to end, however long its preStop hook took
IMAGE_OS = "sampan.dev/image-os"
_META = ("labels", "annotations", "deletionTimestamp", "deletionGracePeriodSeconds")


class _Ending(Exception):
    """The pod shall end: what was waited for does not matter any more."""


class PodWorker:
    def __init__(self, context: Context, pod: Object) -> None:
        self.context = context
        self.pod = pod
        self.uid: str = pod["metadata"]["uid"]
        self.observed = Observed()
        self.volumes = PodVolumes(
            context.config.pods_dir / self.uid,
            context.volatile / self.uid,
            root=context.config.root,
        )
        self.prober = Prober(context.cri, context.group, self.wake)
        self._backoff = Backoff()
        self._image_backoff = Backoff()
        self._volume_pause = VOLUME_RETRY
        self._sandbox_backoff = Backoff(initial=1.0, maximum=60.0)
        self._sandbox_after = 0.0
        self._blocked: dict[str, Blocked] = {}
        self._messages: dict[str, str] = {}
        self._looked_up: dict[str, containerconfig.ImageFacts] = {}  # before the sandbox was made
        self._config: Any = None  # PodSandboxConfig
        self._doubted: set[str] = set()  # containers whose image was asked for again
        self._held: set[str] = set()  # containers whose CrashLoopBackOff was reported
        self._verdict: Verdict | None = None
        self._removed = False
        self._stale = True  # volumes have to be looked after
        self._settled = False
        self._ending = asyncio.Event()
        self._hurry = asyncio.Event()
        self._news = asyncio.Event()
        self._deadline = math.inf
        self._dirty = False
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        if objects.is_deleting(pod):
            self._ending.set()

    # News

    def update(self, pod: Object, *, expected: bool = False) -> None:
        """The API shows the pod like this now. `expected`: its status is the one that was written from here."""
        same = objects.resource_version(pod) == objects.resource_version(self.pod)
        if same or not newer(pod, self.pod):
            return  # the answer to a write, which the watch shows again
        old, self.pod = self.pod, pod
        quiet = expected or self.context.status.is_writing(self.uid)  # the answer tells more
        if objects.is_deleting(pod):
            self._ending.set()
            if podspec.termination_grace(pod) < podspec.termination_grace(old):
                self._shorten(podspec.termination_grace(pod))
        if old["metadata"].get("labels") != pod["metadata"].get("labels") or old["metadata"].get(
            "annotations"
        ) != pod["metadata"].get("annotations"):
            self._stale = True
        if not quiet or _matters(old, pod):
            self.wake()

    def remove(self) -> None:
        """The API has no such pod any more."""
        if self._removed:
            return
        self._removed = True
        self._ending.set()
        self._shorten(1)
        self.context.status.forget(self.uid)
        self.wake()

    def objects_changed(self) -> None:
        """A ConfigMap or Secret of the pod became another."""
        self._stale = True
        self._blocked = {k: b for k, b in self._blocked.items() if b.reason != CONFIG_ERROR}
        self._forget_volume_failure()
        self.wake()

    def _forget_volume_failure(self) -> None:
        self._volume_pause = VOLUME_RETRY
        self._blocked = {k: b for k, b in self._blocked.items() if b.message}

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
            self._tell()
            self.wake()

    def news(self) -> asyncio.Event:
        """An event that is set when the next thing happens to the pod's containers."""
        return self._news

    async def _hear(self, known: Callable[[], bool]) -> bool:
        """Wait a moment for the event that tells it: the answer to a call may overtake it."""
        try:
            async with asyncio.timeout(EVENT_PATIENCE):
                while not known():
                    await self._news.wait()
        except TimeoutError:
            return known()
        return True

    def _tell(self) -> None:
        happened, self._news = self._news, asyncio.Event()
        happened.set()

    def wake(self) -> None:
        self._dirty = True
        if self._task is None and self.context.open:
            self._task = self.context.group.create_task(self._run(), name=f"pod {self.uid}")

    def close(self) -> None:
        """Stop looking; the pod keeps running."""
        self.prober.close()
        self._tell()
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
                except _Ending:
                    self._dirty = True
                except NotFound:
                    # The runtime lost or removed what we counted on: look again.
                    await self._again(RUNTIME_RETRY)
                except CRIError as error:
                    log.warning("pod %s: %s", podspec.full_name(self.pod), error)
                    self._event("Warning", "FailedSync", f"error syncing pod: {error}")
                    await self._again(RUNTIME_RETRY)
                except Exception:
                    # Root of the pod's task: one pod's trouble is not the others'.
                    log.exception("pod %s", podspec.full_name(self.pod))
                    self._wake_at(time.time() + RETRY)
        finally:
            self._task = None

    async def _again(self, seconds: float) -> None:
        try:
            await self.refresh()
        except CRIError as error:
            log.info("pod %s: %s", podspec.full_name(self.pod), error)
        self._wake_at(time.time() + seconds)

    async def _turn(self) -> None:
        now = time.time()
        self._blocked = {
            name: b
            for name, b in self._blocked.items()
            if now < b.until or b.reason not in ("RunContainerError", "PostStartHookError")
        }
        self._read_messages()
        self._attend_probes()
        view = self.view()
        pod = self.context.status.latest(self.pod)
        todo = plan(pod, view, now)
        self._publish(pod, view, now, todo)
        if todo.done:
            await self._end()
            return
        await self._attend_volumes()
        acted = False
        self.context.active += 1
        try:
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
                self._stale = True
        if wake_at:
            self._wake_at(max(wake_at, now + 0.01))

    def _wake_at(self, at: float) -> None:
        if self._timer:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(0.0, at - time.time()), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        renewal = self.context.tokens.next_renewal(self.uid)
        if renewal and renewal <= time.time():
            self._stale = True
        self.wake()

    def view(self) -> View:
        newest = self.observed.sandbox()
        return View(
            sandbox=newest,
            old_sandboxes=[s for s in self.observed.sandboxes.values() if s is not newest],
            history=self.observed.history(),
            health=self.prober.health(),
            blocked=self._blocked,
            backoff=self._backoff,
            sandbox_after=self._sandbox_after,
            verdict=self._verdict,
            removed=self._removed,
            messages=self._messages,
        )

    def _publish(self, pod: Object, view: View, now: float, todo: Plan) -> None:
        if self._removed:
            return
        wanted = status.pod_status(pod, view, self.context.facts, now, done=todo.done)
        coming = any(isinstance(action, (CreateSandbox, Start)) for action in todo.actions)
        busy = not todo.done and (coming or self.prober.has_unasked_readiness())
        self.context.status.submit(self.pod, wanted, busy=busy)

    def _event(self, kind: str, reason: str, message: str, named: Named | None = None) -> None:
        if self.context.recorder:
            path = podspec.field_path(named) if named else ""
            self.context.recorder.event(self.pod, kind, reason, message, field_path=path)

    def _report_for(self, named: Named) -> Callable[[str, str, str], None]:
        return lambda kind, reason, message: self._event(kind, reason, message, named)

    def _read_messages(self) -> None:
        """Termination messages of containers that have ended since."""
        for state in self.observed.containers.values():
            if state.state != EXITED or state.id in self._messages:
                continue
            text = self.volumes.read_message(state.name, state.restarts)
            if not text and state.message_policy == "FallbackToLogsOnError" and state.exit_code:
                text = logtail.tail(self._log_path(state))
            self._messages[state.id] = text
        for gone in self._messages.keys() - self.observed.containers.keys():
            del self._messages[gone]

    def _log_path(self, state: ContainerState) -> Any:
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
                        named.container, state, self.address(), self._report_for(named), known
                    )
        self.prober.keep(running)

    def address(self) -> str:
        """Where the pod is reached."""
        if self.pod["spec"].get("hostNetwork"):
            return self.context.facts.host_ips[0]
        sandbox = self.observed.sandbox()
        return sandbox.addresses[0] if sandbox and sandbox.addresses else "127.0.0.1"

    async def _attend_volumes(self) -> None:
        """Bring volumes of running containers up to date when an object, a label or a token changed."""
        running = any(s.state == RUNNING for s in self.observed.containers.values())
        if self._stale and running and not self._ending.is_set():
            try:
                await self._prepare_volumes()
            except VolumeError as error:
                self._event("Warning", "FailedMount", str(error))
                self._stale = False

    # Acting: True when something happened that is worth another look

    async def _do(self, action: Action) -> bool:
        if isinstance(action, CreateSandbox):
            return await self._create_sandbox(action.attempt)
        if isinstance(action, Start):
            return await self._start(action)
        if isinstance(action, Stop):
            return await self._stop(action)
        if isinstance(action, StopPod):
            return await self._stop_pod(action.grace)
        if isinstance(action, HoldBack):
            return self._hold_back(action)
        if isinstance(action, ShowPullBackOff):
            return self._show_pull_back_off(action.name)
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
        self._event("Normal", action.verdict.reason, action.verdict.message)
        return True

    async def _create_sandbox(self, attempt: int) -> bool:
        """The sandbox and the volumes are made side by side: neither needs the other."""
        try:
            handler, platform = await self._handler()
        except ImageError:
            return True  # shown on the container that it belongs to
        except SandboxError as error:
            return self._sandbox_failed(error)
        async with self.context.sandbox_slots:
            made, mounted = await asyncio.gather(
                self._run_sandbox(attempt, handler, platform),
                self._prepare_volumes(),
                return_exceptions=True,
            )
        for outcome in (made, mounted):
            if isinstance(outcome, BaseException) and not isinstance(
                outcome, (NodeError, CRIError)
            ):
                raise outcome
        if isinstance(mounted, VolumeError):
            self._volume_failed(mounted)
        if isinstance(made, (SandboxError, CRIError)):
            return self._sandbox_failed(made)
        return True

    def _sandbox_failed(self, error: Exception) -> bool:
        text = f"Failed to create pod sandbox: {error}"
        self._event("Warning", "FailedCreatePodSandBox", text)
        now = time.time()
        self._sandbox_backoff.next("sandbox", now)
        self._sandbox_after = now + self._sandbox_backoff.delay("sandbox")
        return True

    async def _handler(self) -> tuple[str, str]:
        """(runtime handler, operating system of the image where it decides).

        Without a RuntimeClass the image says what it is, so it has to be here first.
        """
        name = self.pod["spec"].get("runtimeClassName")
        if name:
            return await self.context.runtime_handler(name), ""
        named = next(n for n in podspec.containers(self.pod) if n.kind == podspec.MAIN)
        image = await self._image(named, "")
        self._looked_up[named.container["name"]] = image
        if image.platform.startswith("wasi") and "wasm" in self.context.handlers:
            return "wasm", image.platform
        return "", image.platform

    def _sandbox_config(self, attempt: int) -> Any:
        """Made once for each sandbox: every container is created with it, too."""
        if self._config is None or self._config.metadata.attempt != attempt:
            context = self.context
            self._config = sandboxconfig.make(
                self.pod, attempt, context.config, context.resolv_conf
            )
        return self._config

    async def _run_sandbox(self, attempt: int, handler: str, platform: str) -> None:
        config = self._sandbox_config(attempt)
        if platform:
            config.annotations[IMAGE_OS] = platform
        cri = self.context.cri
        answer = await cri.run_pod_sandbox(config=config, runtime_handler=handler)
        at_host = self.pod["spec"].get("hostNetwork")

        def known() -> bool:
            seen = self.observed.sandboxes.get(answer.pod_sandbox_id)
            return seen is not None and (at_host or bool(seen.addresses))

        if not await self._hear(known):
            told = await cri.pod_sandbox_status(pod_sandbox_id=answer.pod_sandbox_id)
            self.observed.merge_sandbox(sandbox_state(told.status))
        self._sandbox_backoff.forget("sandbox")

    async def _prepare_volumes(self) -> None:
        self._stale = False
        try:
            context = self.context
            await context.references.hold(self.uid, references.of_pod(self.pod), context.group)
            await self.volumes.prepare(
                self.pod,
                NamespaceLookup(context.references, self.pod["metadata"]["namespace"]),
                context.node_facts,
                context.tokens.token,
                context.claim,
            )
        except BaseException:
            self._stale = True
            raise
        self._volume_pause = VOLUME_RETRY

    def _volume_failed(self, error: VolumeError) -> None:
        """The pod's containers wait; the volume is tried again, less and less often."""
        self._event("Warning", "FailedMount", str(error))
        now = time.time()
        reason = "PodInitializing" if podspec.inits(self.pod) else "ContainerCreating"
        for named in podspec.containers(self.pod):
            self._blocked[named.container["name"]] = Blocked(
                reason, "", now, now + self._volume_pause
            )
        self._volume_pause = min(self._volume_pause * 2, VOLUME_RETRY_MAX)

    async def _image(self, named: Named, handler: str) -> containerconfig.ImageFacts:
        """Raises ImageError after it was noted on the container."""
        container = named.container
        image = environment.expand(container.get("image", ""), {})
        namespace = self.pod["metadata"]["namespace"]
        pull_secrets = self.pod["spec"].get("imagePullSecrets") or ()
        context = self.context
        if pull_secrets:
            await context.references.hold(self.uid, references.of_pod(self.pod), context.group)
        secrets = [
            found
            for item in pull_secrets
            if (found := context.references.get(Ref("secret", namespace, item["name"])))
        ]
        try:
            facts = await self._unless_ending(
                context.images.ensure(
                    image, pull_policy(container), handler, secrets, self._report_for(named)
                )
            )
        except ImageError as error:
            name, now = container["name"], time.time()
            self._event("Warning", "Failed", f"Error: {error.reason}", named)
            self._image_backoff.next(image, now)
            until = now + self._image_backoff.delay(image)
            self._blocked[name] = Blocked(error.reason, str(error), now, until)
            self._sandbox_after = until if self.observed.sandbox() is None else 0.0
            raise
        self._image_backoff.forget(image)
        self._sandbox_after = 0.0
        return facts

    async def _unless_ending(self, work: Awaitable[T]) -> T:
        """Wait for what may take long, but not beyond the pod's end."""
        if self._ending.is_set():
            if asyncio.iscoroutine(work):
                work.close()
            raise _Ending
        task = asyncio.ensure_future(work)
        ending = asyncio.ensure_future(self._ending.wait())
        try:
            await asyncio.wait({task, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise _Ending
            return task.result()
        finally:
            ending.cancel()
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _start(self, action: Start) -> bool:
        named = podspec.find(self.pod, action.name)
        sandbox = self.observed.sandbox()
        if named is None or sandbox is None or self._ending.is_set():
            return True
        if (blocked := self._blocked.get(action.name)) and time.time() < blocked.until:
            return True  # a container before it in the same plan found the volumes missing
        try:
            if self._stale:
                await self._prepare_volumes()
            image = self._looked_up.pop(action.name, None)
            if image is None:
                image = await self._image(named, sandbox.handler)
            self._blocked.pop(action.name, None)
            if action.again:
                self._backoff.next(action.name, time.time())
            await self._run_container(named, sandbox, action.restarts, image)
        except VolumeError as error:
            self._volume_failed(error)
        except ImageError:
            return True
        except ContainerError as error:
            self._event("Warning", "Failed", f"Error: {error}", named)
            now = time.time()
            shown = RUN_ERROR_SHOWN if error.reason == "RunContainerError" else RETRY
            self._blocked[action.name] = Blocked(error.reason, str(error), now, now + shown)
        return True

    async def _run_container(
        self,
        named: Named,
        sandbox: SandboxState,
        restarts: int,
        image: containerconfig.ImageFacts,
    ) -> None:
        context, container, name = self.context, named.container, named.container["name"]
        lookup = NamespaceLookup(context.references, self.pod["metadata"]["namespace"])
        addresses = sandbox.addresses
        if self.pod["spec"].get("hostNetwork"):
            addresses = context.facts.host_ips
        services = environment.service_variables(self.pod, context.services())
        env = environment.make(self.pod, container, lookup, services, context.node_facts, addresses)
        mounts = self.volumes.mounts(container, env)
        taken = {mount.target for mount in mounts}
        if "/etc/hosts" not in taken and not self.pod["spec"].get("hostNetwork"):
            text = sandboxconfig.hosts_file(self.pod, context.config, addresses)
            mounts.append(self.volumes.hosts(text))
        mounts.append(self.volumes.message_mount(container, restarts))
        target = ""
        if named.kind == EPHEMERAL and container.get("targetContainerName"):
            found = self.view().latest(container["targetContainerName"])
            target = found.id if found else ""
        config = containerconfig.make(
            self.pod, named, restarts, image, env, mounts, context.machine.memory, target
        )
        (context.config.pod_log_dir(self.pod) / name).mkdir(parents=True, exist_ok=True)
        cri = context.cri
        try:
            made = await cri.create_container(
                pod_sandbox_id=sandbox.id,
                config=config,
                sandbox_config=self._sandbox_config(sandbox.attempt),
            )
        except CRIError as error:
            doubt = context.images.forget(environment.expand(container.get("image", ""), {}))
            if doubt and name not in self._doubted:
                self._doubted.add(name)
                return  # the image counted as present and may be gone: the next turn asks
            raise ContainerError(str(error), "CreateContainerError") from error
        self._doubted.discard(name)
        self._event("Normal", "Created", f"Created container: {name}", named)
        try:
            await cri.start_container(container_id=made.container_id)
        except CRIError as error:
            await self._look_at(made.container_id, sandbox.id)
            raise ContainerError(str(error), "RunContainerError") from error
        self._event("Normal", "Started", f"Started container {name}", named)

        def known() -> bool:
            seen = self.observed.containers.get(made.container_id)
            return seen is not None and bool(seen.started_at)

        if not await self._hear(known):
            await self._look_at(made.container_id, sandbox.id)
        if handler := (container.get("lifecycle") or {}).get("postStart"):
            await self._post_start(handler, named, made.container_id)

    async def _post_start(self, handler: Object, named: Named, container_id: str) -> None:
        try:
            await self._unless_ending(
                hooks.run(handler, named.container, container_id, self.address(), self.context.cri)
            )
        except HookError as error:
            self._event("Warning", "FailedPostStartHook", f"PostStartHook failed: {error}", named)
            message = f"FailedPostStartHook: container {named.container['name']}"
            await self._stop_container(self.observed.containers[container_id], message, 30.0)
            raise ContainerError(f"PostStartHook failed: {error}", "PostStartHookError") from error

    async def _look_at(self, container_id: str, sandbox_id: str = "") -> None:
        answer = await self.context.cri.container_status(container_id=container_id)
        if self.observed.merge_container(container_state(answer.status, sandbox_id)):
            self._tell()

    def _hold_back(self, action: HoldBack) -> bool:
        if action.container_id not in self._held:
            self._held.add(action.container_id)
            named = podspec.find(self.pod, action.name)
            text = f"Back-off restarting failed container {action.name} in pod "
            self._event("Warning", "BackOff", text + podspec.full_name(self.pod), named)
        return False

    def _show_pull_back_off(self, name: str) -> bool:
        blocked = self._blocked[name]
        named = podspec.find(self.pod, name)
        image = named.container.get("image", "") if named else ""
        text = f'Back-off pulling image "{image}"'
        self._event("Normal", "BackOff", text, named)
        self._event("Warning", "Failed", "Error: ImagePullBackOff", named)
        message = f"{text}: ErrImagePull: {blocked.message}"
        self._blocked[name] = Blocked("ImagePullBackOff", message, blocked.since, blocked.until)
        return True

    async def _remove_container(self, container_id: str) -> bool:
        try:
            await self.context.cri.remove_container(container_id=container_id)
        except NotFound:
            log.debug("container %s is gone already", container_id)
        state = self.observed.containers.pop(container_id, None)
        if state is not None:
            self._log_path(state).unlink(missing_ok=True)
            self.volumes.message(state.name, state.restarts).unlink(missing_ok=True)
        self._held.discard(container_id)
        return True

    # Ending

    def _shorten(self, grace: float) -> None:
        deadline = time.monotonic() + grace
        if deadline < self._deadline:
            self._deadline = deadline
            self._hurry.set()

    async def _stop(self, action: Stop) -> bool:
        state = self.observed.containers.get(action.id)
        named = podspec.find(self.pod, action.name)
        if state is None:
            return True
        grace = float(podspec.termination_grace(self.pod))
        if action.liveness and named:
            grace = float(grace_of(named.container, int(grace)))
        await self._stop_container(state, action.message, grace)
        return True

    async def _stop_pod(self, grace: int) -> bool:
        self._deadline = min(self._deadline, time.monotonic() + grace)
        running = [s for s in self.observed.containers.values() if s.state != EXITED]
        kinds = {n.container["name"]: n.kind for n in podspec.containers(self.pod)}
        order = [n.container["name"] for n in podspec.containers(self.pod) if n.kind == SIDECAR]
        sidecars = [s for s in running if kinds.get(s.name) == SIDECAR]
        others = [s for s in running if kinds.get(s.name) != SIDECAR and s.state == RUNNING]
        await asyncio.gather(
            *(self._stop_container(s, f"Stopping container {s.name}", None) for s in others)
        )
        for state in sorted(sidecars, key=lambda s: order.index(s.name), reverse=True):
            await self._stop_container(state, f"Stopping container {state.name}", None)
        cri = self.context.cri
        for sandbox in list(self.observed.sandboxes.values()):
            if sandbox.ready:
                try:
                    await cri.stop_pod_sandbox(pod_sandbox_id=sandbox.id)
                except NotFound:
                    log.debug("sandbox %s is gone already", sandbox.id)
        await self.refresh()
        return True

    async def _stop_container(
        self, state: ContainerState, message: str, grace: float | None
    ) -> None:
        """preStop, then the stop signal, then SIGKILL, all within the grace (None: until the pod's deadline)."""
        named = podspec.find(self.pod, state.name)
        self._event("Normal", "Killing", message, named)
        self.prober.stop_killing(state.id)
        deadline = self._deadline if grace is None else time.monotonic() + grace
        handler = ((named.container.get("lifecycle") or {}) if named else {}).get("preStop")
        least = 0.0
        if handler and named and deadline > time.monotonic():
            await self._pre_stop(handler, named, state.id, deadline)
            least = LEAST_GRACE
        while True:
            self._hurry.clear()
            deadline = min(deadline, self._deadline)
            left = max(deadline - time.monotonic(), least if self._deadline > 0 else 0.0)
            stopping = asyncio.ensure_future(
                self.context.cri.stop_container(
                    container_id=state.id, timeout=max(0, math.ceil(left))
                )
            )
            hurry = asyncio.ensure_future(self._hurry.wait())
            try:
                await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
                if stopping.done():
                    stopping.result()
                    break
            except NotFound:
                self.observed.containers.pop(state.id, None)
                return
            finally:
                hurry.cancel()
                if not stopping.done():
                    stopping.cancel()
                    await asyncio.gather(stopping, return_exceptions=True)
            least = 0.0
        await self._look_at(state.id)

    async def _pre_stop(
        self, handler: Object, named: Named, container_id: str, deadline: float
    ) -> None:
        try:
            async with asyncio.timeout(max(deadline - time.monotonic(), 0)):
                await hooks.run(
                    handler, named.container, container_id, self.address(), self.context.cri
                )
        except TimeoutError:
            text = "PreStopHook did not end within the pod's grace period"
            self._event("Warning", "FailedPreStopHook", text, named)
        except HookError as error:
            self._event("Warning", "FailedPreStopHook", f"PreStopHook failed: {error}", named)

    async def _end(self) -> None:
        """Nothing of the pod runs. What it held is released; the last word is the API's."""
        self.prober.close()
        if not self._settled:
            self.volumes.remove_mounts()
            cgroups.remove(sandboxconfig.cgroup_parent(self.pod, self.context.config))
            self.context.references.release(self.uid)
            self.context.tokens.forget(self.uid)
            self._settled = True
        if self._removed:
            await self._erase()
        elif objects.is_deleting(self.pod) and self.context.client is not None:
            await self.context.status.flush(self.uid)
            meta = self.pod["metadata"]
            try:
                await self.context.client.delete(
                    PODS, meta["name"], meta["namespace"], uid=self.uid, grace=0
                )
            except ApiError as error:
                if error.code not in (404, 409):
                    log.warning("pod %s: %s", podspec.full_name(self.pod), error.message)
                    self._wake_at(time.time() + RETRY)
            except (OSError, TimeoutError) as error:
                log.info("pod %s: %s", podspec.full_name(self.pod), error)
                self._wake_at(time.time() + RUNTIME_RETRY)

    async def _erase(self) -> None:
        """The API has forgotten the pod, and so does this node."""
        cri = self.context.cri
        for sandbox_id in list(self.observed.sandboxes):
            try:
                await cri.remove_pod_sandbox(pod_sandbox_id=sandbox_id)
            except NotFound:
                log.debug("sandbox %s is gone already", sandbox_id)
        self.observed.sandboxes.clear()
        self.observed.containers.clear()
        self.volumes.remove()
        shutil.rmtree(self.context.config.pod_log_dir(self.pod), ignore_errors=True)
        self.close()
        self.context.gone(self)

    async def refresh(self) -> None:
        """Ask CRI for everything of the pod."""
        sandboxes, containers = await self.context.runtime.of_pod(self.uid)
        self.observed.replace(sandboxes, containers)
        self._tell()


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
