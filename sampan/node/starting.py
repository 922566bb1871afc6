"""The way up of one pod: its sandbox, volumes, images and containers, made through CRI as `plan` asks for them.

Sandbox and volumes are made side by side. What fails is noted (`blocked`, `sandbox_after`) with the time until which the
pod waits, which `plan` reads; nothing is retried here. The end of the pod interrupts what may take long (pulls, hooks),
never a call that makes something.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sampan.cri.errors import CRIError
from sampan.network import resolv
from sampan.network.resolv import ResolvConf
from sampan.node import containerconfig, environment, hooks, podspec, references, sandboxconfig
from sampan.node.backoff import Backoff
from sampan.node.context import Context
from sampan.node.errors import (
    ContainerError,
    HookError,
    ImageError,
    NodeError,
    SandboxError,
    VolumeError,
)
from sampan.node.images import Report, pull_policy
from sampan.node.observed import RUNNING, SandboxState, sandbox_state
from sampan.node.plan import Blocked, Start
from sampan.node.podspec import EPHEMERAL, Named, Object
from sampan.node.references import NamespaceLookup, Ref
from sampan.node.userranges import UserRange, range_of

if TYPE_CHECKING:
    from sampan.node.worker import PodWorker

RETRY = 10.0  # seconds until a container that could not be configured is tried again
RUN_ERROR_SHOWN = 1.0
VOLUME_RETRY, VOLUME_RETRY_MAX = 0.5, 122.0
IMAGE_OS = "sampan.dev/image-os"


class Starting:
    """Each action returns True when something happened that is worth another look."""

    def __init__(self, worker: PodWorker, context: Context) -> None:
        self.worker = worker
        self.context = context
        self.blocked: dict[str, Blocked] = {}  # by container
        self.backoff = Backoff()  # of containers that end again and again
        self.sandbox_after = 0.0  # when the next sandbox may be made
        self.stale = True  # volumes have to be looked after
        self._sandbox_backoff = Backoff(initial=1.0, maximum=60.0)
        self._image_backoff = Backoff()
        self._volume_pause = VOLUME_RETRY
        self._looked_up: dict[str, containerconfig.ImageFacts] = {}  # before the sandbox was made
        self._doubted: set[str] = set()  # containers whose image was asked for again
        self._config: Any = None  # PodSandboxConfig

    async def create_sandbox(self, attempt: int) -> bool:
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
                self.prepare_volumes(),
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
            self.worker.unsure = isinstance(made, CRIError)
            return self._sandbox_failed(made)
        return True

    def _sandbox_failed(self, error: Exception) -> bool:
        text = f"Failed to create pod sandbox: {error}"
        self.worker.event("Warning", "FailedCreatePodSandBox", text)
        now = time.time()
        self._sandbox_backoff.next("sandbox", now)
        self.sandbox_after = now + self._sandbox_backoff.delay("sandbox")
        return True

    async def _handler(self) -> tuple[str, str]:
        """(runtime handler, operating system of the image where it decides).

        Without a RuntimeClass the image says what it is, so it has to be here first.
        """
        name = self.worker.pod["spec"].get("runtimeClassName")
        if name:
            return await self.context.runtime_handler(name), ""
        named = next(n for n in podspec.containers(self.worker.pod) if n.kind == podspec.MAIN)
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
                self.worker.pod, attempt, context.config, self._names(), self._users()
            )
        return self._config

    def _names(self) -> ResolvConf:
        """The pod's resolv.conf; what does not fit into it is told."""
        config, pod = self.context.config, self.worker.pod
        names, cut = resolv.for_pod(
            pod["spec"],
            pod["metadata"]["namespace"],
            cluster_dns=(config.cluster_dns,) if config.cluster_dns else (),
            cluster_domain=config.cluster_domain,
            host=self.context.resolv_conf,
        )
        for text in cut:
            self.worker.event("Warning", "DNSConfigForming", text)
        return names

    def _hosts(self, addresses: tuple[str, ...]) -> str:
        """Its /etc/hosts; "" for the node's own, which a pod on the node's network has when it asks for no aliases."""
        pod = self.worker.pod
        if not pod["spec"].get("hostNetwork"):
            return sandboxconfig.hosts_file(pod, self.context.config, addresses)
        if not pod["spec"].get("hostAliases"):
            return ""
        return sandboxconfig.host_hosts_file(pod, Path("/etc/hosts").read_text("utf-8", "replace"))

    def _users(self) -> UserRange | None:
        """The pod's own ids, None when its users are the host's. Raises SandboxError."""
        if self.worker.pod["spec"].get("hostUsers") is not False:
            return None
        return range_of(self.context.config.pods_dir, self.worker.uid)

    async def _run_sandbox(self, attempt: int, handler: str, platform: str) -> None:
        config = self._sandbox_config(attempt)
        if platform:
            config.annotations[IMAGE_OS] = platform
        cri = self.context.cri
        self.context.cgroups.set_pod(config.linux.cgroup_parent, self.worker.pod)
        answer = await cri.run_pod_sandbox(config=config, runtime_handler=handler)
        at_host = self.worker.pod["spec"].get("hostNetwork")

        def known() -> bool:
            seen = self.worker.observed.sandboxes.get(answer.pod_sandbox_id)
            return seen is not None and (at_host or bool(seen.addresses))

        if not await self.worker.hear(known):
            told = await cri.pod_sandbox_status(pod_sandbox_id=answer.pod_sandbox_id)
            self.worker.observed.merge_sandbox(sandbox_state(told.status))
        self._sandbox_backoff.forget("sandbox")

    async def prepare_volumes(self) -> None:
        self.stale = False
        try:
            context = self.context
            await context.references.hold(
                self.worker.uid, references.of_pod(self.worker.pod), context.group
            )
            await self.worker.volumes.prepare(
                self.worker.pod,
                NamespaceLookup(context.references, self.worker.pod["metadata"]["namespace"]),
                context.node_facts,
                context.tokens.token,
                context.claims.volume_of,
            )
        except BaseException:
            self.stale = True
            raise
        self._volume_pause = VOLUME_RETRY

    def _volume_failed(self, error: VolumeError) -> None:
        """The pod's containers wait; the volume is tried again, less and less often."""
        self.worker.event("Warning", "FailedMount", str(error))
        now = time.time()
        reason = "PodInitializing" if podspec.inits(self.worker.pod) else "ContainerCreating"
        for named in podspec.containers(self.worker.pod):
            self.blocked[named.container["name"]] = Blocked(
                reason, "", now, now + self._volume_pause
            )
        self._volume_pause = min(self._volume_pause * 2, VOLUME_RETRY_MAX)

    async def _image(self, named: Named, handler: str) -> containerconfig.ImageFacts:
        """Raises ImageError after it was noted on the container."""
        image = environment.expand(named.container.get("image", ""), {})
        report = self.worker.report_for(named)
        return await self._ensure(named, image, pull_policy(named.container), handler, report)

    async def _image_volumes(self, named: Named, handler: str) -> dict[str, str]:
        """Volumes of the container that are images (KEP-4639), and these images' ids. Raises as `_image`.

        As kubelet tells it: pulls are events of the pod, the container that has to wait for one has its reason.
        """
        mounted = {mount["name"] for mount in named.container.get("volumeMounts") or ()}
        found = {}
        for volume in self.worker.pod["spec"].get("volumes") or ():
            source = volume.get("image")
            if source is not None and volume["name"] in mounted:
                image = source.get("reference") or ""
                # A local build may have moved the name since another container was told of it.
                self.context.images.forget(image)
                given = {"image": image, "imagePullPolicy": source.get("pullPolicy")}
                facts = await self._ensure(
                    named, image, pull_policy(given), handler, self.worker.event
                )
                found[volume["name"]] = facts.ref
        return found

    async def _ensure(
        self, named: Named, image: str, policy: str, handler: str, report: Report
    ) -> containerconfig.ImageFacts:
        container = named.container
        namespace = self.worker.pod["metadata"]["namespace"]
        pull_secrets = self.worker.pod["spec"].get("imagePullSecrets") or ()
        context = self.context
        if pull_secrets:
            await context.references.hold(
                self.worker.uid, references.of_pod(self.worker.pod), context.group
            )
        secrets = [
            found
            for item in pull_secrets
            if (found := context.references.get(Ref("secret", namespace, item["name"])))
        ]
        try:
            facts = await self.worker.ending.unless_ending(
                context.images.ensure(image, policy, handler, secrets, report)
            )
        except ImageError as error:
            name, now = container["name"], time.time()
            self.worker.event("Warning", "Failed", f"Error: {error.reason}", named)
            self._image_backoff.next(image, now)
            until = now + self._image_backoff.delay(image)
            self.blocked[name] = Blocked(error.reason, str(error), now, until, image)
            self.sandbox_after = until if self.worker.observed.sandbox() is None else 0.0
            raise
        self._image_backoff.forget(image)
        self.sandbox_after = 0.0
        return facts

    async def start(self, action: Start) -> bool:
        named = podspec.find(self.worker.pod, action.name)
        sandbox = self.worker.observed.sandbox()
        if named is None or sandbox is None or self.worker.ending.begun.is_set():
            return True
        if (blocked := self.blocked.get(action.name)) and time.time() < blocked.until:
            return True  # a container before it in the same plan found the volumes missing
        try:
            if self.stale:
                await self.prepare_volumes()
            image = self._looked_up.pop(action.name, None)
            if image is None:
                image = await self._image(named, sandbox.handler)
            volumes = await self._image_volumes(named, sandbox.handler)
            self.blocked.pop(action.name, None)
            if action.again:
                self.backoff.next(action.name, time.time())
            await self._run_container(named, sandbox, action.restarts, image, volumes)
        except VolumeError as error:
            self._volume_failed(error)
        except ImageError:
            return True
        except ContainerError as error:
            self.worker.event("Warning", "Failed", f"Error: {error}", named)
            now = time.time()
            shown = RUN_ERROR_SHOWN if error.reason == "RunContainerError" else RETRY
            self.blocked[action.name] = Blocked(error.reason, str(error), now, now + shown)
        return True

    async def _run_container(
        self,
        named: Named,
        sandbox: SandboxState,
        restarts: int,
        image: containerconfig.ImageFacts,
        images: dict[str, str],
    ) -> None:
        """`images`: volumes that are images."""
        context, container, name = self.context, named.container, named.container["name"]
        lookup = NamespaceLookup(context.references, self.worker.pod["metadata"]["namespace"])
        addresses = sandbox.addresses
        if self.worker.pod["spec"].get("hostNetwork"):
            addresses = context.facts.host_ips
        await context.policies.admit(self.worker.pod, addresses)
        services = environment.service_variables(self.worker.pod, context.services())
        env = environment.make(
            self.worker.pod, container, lookup, services, context.node_facts, addresses
        )
        mounts = self.worker.volumes.mounts(container, env, images)
        taken = {mount.target for mount in mounts}
        if "/etc/hosts" not in taken and (text := self._hosts(addresses)):
            mounts.append(self.worker.volumes.hosts(text))
        mounts.append(self.worker.volumes.message_mount(container, restarts))
        target = ""
        if named.kind == EPHEMERAL and container.get("targetContainerName"):
            found = self.worker.view().latest(container["targetContainerName"])
            target = found.id if found else ""
        config = containerconfig.make(
            self.worker.pod,
            named,
            restarts,
            image,
            env,
            mounts,
            context.machine.memory,
            target,
            self._users(),
            context.cgroups.rules(),
        )
        config.devices.extend(self.worker.volumes.devices(container))
        await context.devices.give(self.worker.pod, container, config)
        (context.config.pod_log_dir(self.worker.pod) / name).mkdir(parents=True, exist_ok=True)
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
        self.worker.event("Normal", "Created", f"Created container: {name}", named)
        self.worker.resizing.started(made.container_id, container)
        try:
            await cri.start_container(container_id=made.container_id)
        except CRIError as error:
            await self.worker.look_at(made.container_id, sandbox.id)
            raise ContainerError(str(error), "RunContainerError") from error
        self.worker.event("Normal", "Started", f"Started container {name}", named)

        def known() -> bool:
            seen = self.worker.observed.containers.get(made.container_id)
            return seen is not None and bool(seen.started_at)

        if not await self.worker.hear(known):
            await self.worker.look_at(made.container_id, sandbox.id)
        if handler := (container.get("lifecycle") or {}).get("postStart"):
            await self._post_start(handler, named, made.container_id)

    async def _post_start(self, handler: Object, named: Named, container_id: str) -> None:
        try:
            await self.worker.ending.unless_ending(
                hooks.run(
                    handler, named.container, container_id, self.worker.address(), self.context.cri
                )
            )
        except HookError as error:
            self.worker.event(
                "Warning", "FailedPostStartHook", f"PostStartHook failed: {error}", named
            )
            message = f"FailedPostStartHook: container {named.container['name']}"
            await self.worker.ending.stop_container(
                self.worker.observed.containers[container_id], message, 30.0
            )
            raise ContainerError(f"PostStartHook failed: {error}", "PostStartHookError") from error

    def show_pull_back_off(self, name: str) -> bool:
        blocked = self.blocked[name]
        named = podspec.find(self.worker.pod, name)
        text = f'Back-off pulling image "{blocked.image}"'
        own = named is not None and blocked.image == named.container.get("image")
        self.worker.event("Normal", "BackOff", text, named if own else None)
        self.worker.event("Warning", "Failed", "Error: ImagePullBackOff", named)
        message = f"{text}: ErrImagePull: {blocked.message}"
        self.blocked[name] = replace(blocked, reason="ImagePullBackOff", message=message)
        return True

    def forget_volume_failure(self) -> None:
        self._volume_pause = VOLUME_RETRY
        self.blocked = {k: b for k, b in self.blocked.items() if b.message}

    async def attend_volumes(self) -> None:
        """Bring volumes of running containers up to date when an object, a label or a token changed."""
        running = any(s.state == RUNNING for s in self.worker.observed.containers.values())
        if self.stale and running and not self.worker.ending.begun.is_set():
            try:
                await self.prepare_volumes()
            except VolumeError as error:
                self.worker.event("Warning", "FailedMount", str(error))
                self.stale = False
