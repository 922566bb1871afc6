"""The way down of one pod: hooks, signals and the grace period, then everything that it held is given back.

The deadline only ever comes nearer: deleting a pod again with less grace, or removing it from the API, hurries what is
already being stopped. What the pod holds is released when nothing of it runs; its files go when the API forgets it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import shutil
import time
from collections.abc import Awaitable
from typing import TYPE_CHECKING, TypeVar

from sampan.client.resources import PODS
from sampan.cri.errors import NotFound
from sampan.kube import objects
from sampan.kube.errors import ApiError
from sampan.node import hooks, podspec
from sampan.node.context import Context
from sampan.node.errors import HookError
from sampan.node.observed import EXITED, RUNNING, ContainerState
from sampan.node.plan import Stop
from sampan.node.podspec import SIDECAR, Named, Object
from sampan.node.probes.prober import grace_of
from sampan.node.rounds import Rounds

if TYPE_CHECKING:
    from sampan.node.worker import PodWorker

log = logging.getLogger(__name__)

T = TypeVar("T")

DELETE_RETRY = 10.0  # seconds until the API is asked again to forget the pod, when it refused
UNREACHED_RETRY = 1.0  # when it could not be reached
LEAST_GRACE = 2.0  # seconds that a container gets to end, however long its preStop hook took


class EndBegun(Exception):
    """The pod shall end: what was waited for does not matter any more."""


class Ending:
    """Each action returns True when something happened that is worth another look."""

    def __init__(self, worker: PodWorker, context: Context) -> None:
        self.worker = worker
        self.context = context
        self.begun = asyncio.Event()
        self._hurry = asyncio.Event()
        self._deadline = math.inf
        self.rounds = Rounds(context.config.pods_dir / worker.uid)
        self.settled = False  # nothing of the pod runs, and what it held is given back

    async def unless_ending(self, work: Awaitable[T]) -> T:
        """Wait for what may take long, but not beyond the pod's end."""
        if self.begun.is_set():
            if asyncio.iscoroutine(work):
                work.close()
            raise EndBegun
        task = asyncio.ensure_future(work)
        ending = asyncio.ensure_future(self.begun.wait())
        try:
            await asyncio.wait({task, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise EndBegun
            return task.result()
        finally:
            ending.cancel()
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def shorten(self, grace: float) -> None:
        deadline = time.monotonic() + grace
        if deadline < self._deadline:
            self._deadline = deadline
            self._hurry.set()

    async def stop(self, action: Stop) -> bool:
        state = self.worker.observed.containers.get(action.id)
        named = podspec.find(self.worker.pod, action.name)
        if state is None:
            return True
        if not action.hooks:
            self.rounds.end(action.id, self.worker.observed.containers)
        grace = float(podspec.termination_grace(self.worker.pod))
        if action.liveness and named:
            grace = float(grace_of(named.container, int(grace)))
        await self.stop_container(state, action.message, grace, run_hooks=action.hooks)
        return True

    async def stop_pod(self, grace: int) -> bool:
        self._deadline = min(self._deadline, time.monotonic() + grace)
        running = [s for s in self.worker.observed.containers.values() if s.state != EXITED]
        kinds = {n.container["name"]: n.kind for n in podspec.containers(self.worker.pod)}
        order = [
            n.container["name"] for n in podspec.containers(self.worker.pod) if n.kind == SIDECAR
        ]
        sidecars = [s for s in running if kinds.get(s.name) == SIDECAR]
        others = [s for s in running if kinds.get(s.name) != SIDECAR and s.state == RUNNING]
        await asyncio.gather(
            *(self.stop_container(s, f"Stopping container {s.name}", None) for s in others)
        )
        for state in sorted(sidecars, key=lambda s: order.index(s.name), reverse=True):
            await self.stop_container(state, f"Stopping container {state.name}", None)
        cri = self.context.cri
        for sandbox in list(self.worker.observed.sandboxes.values()):
            if sandbox.ready:
                try:
                    await cri.stop_pod_sandbox(pod_sandbox_id=sandbox.id)
                except NotFound:
                    log.debug("sandbox %s is gone already", sandbox.id)
        await self.worker.refresh()
        return True

    async def stop_container(
        self,
        state: ContainerState,
        message: str,
        grace: float | None,
        *,
        run_hooks: bool = True,
    ) -> None:
        """preStop, then the stop signal, then SIGKILL, all within the grace (None: until the pod's deadline)."""
        named = podspec.find(self.worker.pod, state.name)
        self.worker.event("Normal", "Killing", message, named)
        self.worker.prober.stop_killing(state.id)
        deadline = self._deadline if grace is None else time.monotonic() + grace
        handler = ((named.container.get("lifecycle") or {}) if named else {}).get("preStop")
        least = 0.0
        if handler and named and run_hooks and deadline > time.monotonic():
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
                self.worker.observed.containers.pop(state.id, None)
                return
            finally:
                hurry.cancel()
                if not stopping.done():
                    stopping.cancel()
                    await asyncio.gather(stopping, return_exceptions=True)
            least = 0.0
        await self.worker.look_at(state.id)

    async def _pre_stop(
        self, handler: Object, named: Named, container_id: str, deadline: float
    ) -> None:
        try:
            async with asyncio.timeout(max(deadline - time.monotonic(), 0)):
                await hooks.run(
                    handler, named.container, container_id, self.worker.address(), self.context.cri
                )
        except TimeoutError:
            text = "PreStopHook did not end within the pod's grace period"
            self.worker.event("Warning", "FailedPreStopHook", text, named)
        except HookError as error:
            self.worker.event("Warning", "FailedPreStopHook", f"PreStopHook failed: {error}", named)

    async def finish(self) -> None:
        """Nothing of the pod runs. What it held is released; the last word is the API's."""
        self.worker.prober.close()
        if not self.settled:
            self.worker.volumes.remove_mounts()
            self._remove_cgroup()
            self.context.references.release(self.worker.uid)
            self.context.tokens.forget(self.worker.uid)
            self.context.gate.release(self.worker.uid)
            self.settled = True
        if self.worker.removed:
            await self._erase()
        elif objects.is_deleting(self.worker.pod) and self.context.client is not None:
            await self.context.status.flush(self.worker.uid)
            meta = self.worker.pod["metadata"]
            try:
                await self.context.client.delete(
                    PODS, meta["name"], meta["namespace"], uid=self.worker.uid, grace=0
                )
            except ApiError as error:
                if error.code not in (404, 409):
                    log.warning("pod %s: %s", podspec.full_name(self.worker.pod), error.message)
                    self.worker.wake_at(time.time() + DELETE_RETRY)
            except (OSError, TimeoutError) as error:
                log.info("pod %s: %s", podspec.full_name(self.worker.pod), error)
                self.worker.wake_at(time.time() + UNREACHED_RETRY)

    def _remove_cgroup(self) -> None:
        groups, uid = self.context.cgroups, self.worker.uid
        if not groups.remove(uid):
            self.context.group.create_task(groups.clear(uid), name=f"cgroup of pod {uid}")

    async def _erase(self) -> None:
        """The API has forgotten the pod, and so does this node."""
        cri = self.context.cri
        for sandbox_id in list(self.worker.observed.sandboxes):
            try:
                await cri.remove_pod_sandbox(pod_sandbox_id=sandbox_id)
            except NotFound:
                log.debug("sandbox %s is gone already", sandbox_id)
        self.worker.observed.sandboxes.clear()
        self.worker.observed.containers.clear()
        await asyncio.to_thread(
            self.worker.volumes.remove
        )  # as many files as the pod cared to write
        shutil.rmtree(self.context.config.pod_log_dir(self.worker.pod), ignore_errors=True)
        self.worker.close()
        self.context.gone(self.worker)
