"""When containers are asked how they are: startup, then liveness and readiness, each on its own timer.

A probe is a timer handle between questions and a task only while one is asked. The first question comes right after the
container's start (and `initialDelaySeconds`), without kubelet's random delay, which spreads a restart of thousands of
pods that a small node does not have. A container that already ran when this node agent started keeps the readiness
that the API knows of it until it is asked.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sampan.cri.client import CRIClient
from sampan.node.observed import ContainerState
from sampan.node.plan import Health
from sampan.node.podspec import Object
from sampan.node.probes.runners import Answer, Unanswered, ask

log = logging.getLogger(__name__)

STARTUP, LIVENESS, READINESS = "Startup", "Liveness", "Readiness"
FIELDS = {STARTUP: "startupProbe", LIVENESS: "livenessProbe", READINESS: "readinessProbe"}

Report = Callable[[str, str, str], None]  # type, reason, message


@dataclass(slots=True)
class _Probe:
    kind: str
    spec: Object
    successes: int = 0
    failures: int = 0
    timer: asyncio.TimerHandle | None = None
    task: asyncio.Task[None] | None = None


@dataclass(slots=True)
class _Watched:
    container: Object
    state: ContainerState
    address: str
    report: Report
    health: Health
    probes: dict[str, _Probe] = field(default_factory=dict)


class Prober:
    """Of one pod. `changed()` is called when any container's health became another."""

    def __init__(
        self, cri: CRIClient, group: asyncio.TaskGroup, changed: Callable[[], None]
    ) -> None:
        self._cri = cri
        self._group = group
        self._changed = changed
        self._watched: dict[str, _Watched] = {}

    def health(self) -> dict[str, Health]:
        return {key: watched.health for key, watched in self._watched.items()}

    def watch(
        self,
        container: Object,
        state: ContainerState,
        address: str,
        report: Report,
        known: Object | None = None,
    ) -> None:
        """Ask about a running container from now on. `known`: its status in the API. Idempotent."""
        if state.id in self._watched:
            return
        specs = {kind: container[name] for kind, name in FIELDS.items() if container.get(name)}
        if not specs:
            return
        same = bool(known and str(known.get("containerID", "")).endswith(state.id))
        started = STARTUP not in specs or bool(same and known and known.get("started"))
        ready = started and (READINESS not in specs or bool(same and known and known.get("ready")))
        watched = _Watched(container, state, address, report, Health(started, ready))
        watched.probes = {kind: _Probe(kind, spec) for kind, spec in specs.items()}
        self._watched[state.id] = watched
        if started:
            self._begin(watched, LIVENESS)
            self._begin(watched, READINESS)
        else:
            self._begin(watched, STARTUP)

    def has_unasked_readiness(self) -> bool:
        """A readiness probe is being asked for the first time: its answer may be here in a moment."""
        return any(
            (probe := watched.probes.get(READINESS)) is not None
            and not probe.successes
            and not probe.failures
            and not probe.spec.get("initialDelaySeconds")
            for watched in self._watched.values()
        )

    def keep(self, running: set[str]) -> None:
        """Stop asking about every container that is not in the set."""
        for gone in self._watched.keys() - running:
            self._end(gone)

    def stop_killing(self, container_id: str) -> None:
        """The container is being stopped: only readiness is still of interest."""
        watched = self._watched.get(container_id)
        if watched:
            for kind in (STARTUP, LIVENESS):
                self._cancel(watched.probes.pop(kind, None))

    def close(self) -> None:
        self.keep(set())

    def _end(self, container_id: str) -> None:
        watched = self._watched.pop(container_id)
        for probe in watched.probes.values():
            self._cancel(probe)

    @staticmethod
    def _cancel(probe: _Probe | None) -> None:
        if probe is None:
            return
        if probe.timer:
            probe.timer.cancel()
        if probe.task:
            probe.task.cancel()

    def _begin(self, watched: _Watched, kind: str) -> None:
        probe = watched.probes.get(kind)
        if probe is None:
            return
        delay = probe.spec.get("initialDelaySeconds") or 0
        ran = time.time() - watched.state.started_at / 1e9
        self._schedule(watched, probe, max(0.0, delay - max(ran, 0.0)))

    def _schedule(self, watched: _Watched, probe: _Probe, delay: float) -> None:
        probe.timer = asyncio.get_running_loop().call_later(delay, self._fire, watched, probe)

    def _fire(self, watched: _Watched, probe: _Probe) -> None:
        probe.timer = None
        probe.task = self._group.create_task(self._ask(watched, probe))

    async def _ask(self, watched: _Watched, probe: _Probe) -> None:
        began = time.monotonic()
        answer = None
        try:
            answer = await self._answer(watched, probe)
        except Unanswered as error:
            # The runtime is away: what was known of the container stays.
            watched.report("Warning", "ProbeError", f"{probe.kind} probe errored: {error}")
        except Exception:
            # The root of this task: a bug in asking must not end the node, or a container.
            log.exception("%s probe of %s", probe.kind, watched.state.name)
        probe.task = None
        period = probe.spec.get("periodSeconds") or 10
        if answer is None or self._judge(watched, probe, answer):
            self._schedule(watched, probe, max(0.0, period - (time.monotonic() - began)))

    async def _answer(self, watched: _Watched, probe: _Probe) -> Answer:
        timeout = probe.spec.get("timeoutSeconds") or 1
        return await ask(
            probe.spec, watched.container, watched.state.id, watched.address, timeout, self._cri
        )

    def _judge(self, watched: _Watched, probe: _Probe, answer: Answer) -> bool:
        """Count the answer; False when this probe has nothing more to ask."""
        if answer.ok:
            probe.successes, probe.failures = probe.successes + 1, 0
            if answer.warning:
                watched.report(
                    "Warning", "ProbeWarning", f"{probe.kind} probe warning: {answer.text}"
                )
        else:
            probe.successes, probe.failures = 0, probe.failures + 1
            watched.report(
                "Warning", "Unhealthy", f"{probe.kind} probe failed: {answer.text}".rstrip()
            )
        enough = probe.successes >= (probe.spec.get("successThreshold") or 1)
        failed = probe.failures >= (probe.spec.get("failureThreshold") or 3)
        health = watched.health
        if probe.kind == READINESS:
            if enough or failed:
                self._set(watched, Health(health.started, enough, health.failure))
            return True
        name = watched.state.name
        if failed:
            text = f"Container {name} failed {probe.kind.lower()} probe, will be restarted"
            self._set(watched, Health(health.started, health.ready, text))
            return False
        if probe.kind == STARTUP and enough:
            ready = READINESS not in watched.probes
            self._set(watched, Health(True, ready, health.failure))
            self._begin(watched, LIVENESS)
            self._begin(watched, READINESS)
            return False
        return True

    def _set(self, watched: _Watched, health: Health) -> None:
        if watched.health != health:
            watched.health = health
            self._changed()


def grace_of(probe_owner: dict[str, Any], default: int) -> int:
    """Seconds given to a container that failed its liveness or startup probe (KEP-2238)."""
    for kind in (LIVENESS, STARTUP):
        own = (probe_owner.get(FIELDS[kind]) or {}).get("terminationGracePeriodSeconds")
        if own is not None:
            return int(own)
    return default
