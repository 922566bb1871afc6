"""`metrics.k8s.io/v1beta1`: what nodes and pods use now, for `kubectl top` and autoscalers.

Read from the nodes' `/stats/summary` when somebody asks, and only then. Processor use is a rate between two readings: those
before are remembered; when there is none, or something has begun since, a node is read twice, `WINDOW` apart. So the first
question after a while takes a second, and nothing runs while nobody asks.
(https://kubernetes.io/docs/tasks/debug/debug-cluster/resource-metrics-pipeline/)
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

from sampan.apiserver.routes import RequestInfo
from sampan.client.transport import Request, Response, User
from sampan.kube import errors, objects, selectors
from sampan.kube.errors import ApiError

if TYPE_CHECKING:
    from sampan.apiserver.server import APIServer

log = logging.getLogger(__name__)

GROUP, VERSION = "metrics.k8s.io", "v1beta1"
KINDS = {"nodes": "NodeMetrics", "pods": "PodMetrics"}
WINDOW = 1.0  # seconds between two readings that a rate is made of, at least
LONGEST = 120.0  # and at most
SPAN = 15.0  # what a window grows to while metrics are asked for often
FRESH = 0.5  # seconds for which a reading serves everyone
READ_TIMEOUT = 5.0
AT_ONCE = 32  # nodes read at the same time
JSON = {"Content-Type": "application/json"}

Object = dict[str, Any]
Container = tuple[str, str]  # uid of the pod, name of the container


@dataclass(slots=True)
class Reading:
    """One look at a node: seconds of the monotonic clock and of the epoch; nanoseconds and bytes used."""

    moment: float
    at: float
    node_cpu: int
    node_memory: int
    cpu: dict[Container, int] = field(default_factory=dict)
    memory: dict[Container, int] = field(default_factory=dict)

    @classmethod
    def of(cls, summary: Object, moment: float, at: float) -> Reading:
        node = summary.get("node") or {}
        reading = cls(moment, at, *_used(node))
        for pod in summary.get("pods") or ():
            for container in pod.get("containers") or ():
                key = pod["podRef"]["uid"], container["name"]
                reading.cpu[key], reading.memory[key] = _used(container)
        return reading


def _used(told: Object) -> tuple[int, int]:
    cpu = (told.get("cpu") or {}).get("usageCoreNanoSeconds") or 0
    return int(cpu), int((told.get("memory") or {}).get("workingSetBytes") or 0)


@dataclass(frozen=True, slots=True)
class Readings:
    """The present reading of a node, and those before it that rates can be made with: the oldest first."""

    after: Reading
    before: tuple[Reading, ...]

    def node(self) -> tuple[float, Object]:
        first = self.before[0]
        seconds = self.after.moment - first.moment
        return seconds, _usage(
            self.after.node_cpu - first.node_cpu, seconds, self.after.node_memory
        )

    def container(self, key: Container) -> tuple[float, Object] | None:
        """(seconds looked over, usage), over the longest time for which it ran; None when it was never seen before."""
        if key in self.after.cpu:
            for before in self.before:
                spent = self.after.cpu[key] - before.cpu.get(key, 1 << 63)
                if spent >= 0:  # else it began after that
                    seconds = self.after.moment - before.moment
                    return seconds, _usage(spent, seconds, self.after.memory[key])
        return None

    @property
    def complete(self) -> bool:
        return all(self.container(key) is not None for key in self.after.cpu)

    def times(self, seconds: float) -> Object:
        moment = datetime.fromtimestamp(self.after.at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {"timestamp": moment, "window": f"{seconds:.3f}s"}


def _usage(spent: int, seconds: float, memory: int) -> Object:
    return {"cpu": f"{max(0, round(spent / seconds))}n", "memory": f"{memory // 1024}Ki"}


class MetricsAPI:
    """The add-on that answers for the group version, unless a remote server is registered for it."""

    group, version = GROUP, VERSION

    def __init__(
        self,
        server: APIServer,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.server = server
        self.monotonic = monotonic
        self.sleep = sleep
        self._last: dict[str, Readings] = {}
        self._reading: dict[str, asyncio.Lock] = {}

    # What is served

    def resources(self) -> Object:
        listed = [
            {
                "name": name,
                "singularName": "",
                "namespaced": name == "pods",
                "kind": kind,
                "verbs": ["get", "list"],
            }
            for name, kind in KINDS.items()
        ]
        return {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": f"{GROUP}/{VERSION}",
            "resources": listed,
        }

    def openapi(self) -> Object:
        def schema(kind: str, properties: Object) -> Object:
            gvk = {"group": GROUP, "version": VERSION, "kind": kind}
            common = {
                "apiVersion": {"type": "string"},
                "kind": {"type": "string"},
                "metadata": {"type": "object"},
                "timestamp": {"type": "string", "format": "date-time"},
                "window": {"type": "string"},
            }
            return {
                "type": "object",
                "properties": {**common, **properties},
                "x-kubernetes-group-version-kind": [gvk],
            }

        usage = {"type": "object", "additionalProperties": {"type": "string"}}
        container = {"type": "object", "properties": {"name": {"type": "string"}, "usage": usage}}
        prefix = "io.k8s.metrics.pkg.apis.metrics.v1beta1"
        return {
            "openapi": "3.0.0",
            "info": {"title": "metrics", "version": VERSION},
            "paths": {},
            "components": {
                "schemas": {
                    f"{prefix}.NodeMetrics": schema("NodeMetrics", {"usage": usage}),
                    f"{prefix}.PodMetrics": schema(
                        "PodMetrics", {"containers": {"type": "array", "items": container}}
                    ),
                }
            },
        }

    async def respond(self, request: Request, info: RequestInfo, user: User) -> Response:
        kind = KINDS.get(info.resource)
        if kind is None or info.subresource:
            raise errors.path_not_found()
        if info.verb not in ("get", "list"):
            raise errors.method_not_allowed(f"{info.resource}.{GROUP}", info.verb)
        found = await self._find(request, info)
        measured = await (self._nodes(found) if info.resource == "nodes" else self._pods(found))
        if info.verb == "get":
            if not measured:
                raise errors.not_found(info.resource, info.name, GROUP)
            return Response(200, JSON, orjson.dumps(measured[0]))
        listed = {
            "kind": f"{kind}List",
            "apiVersion": f"{GROUP}/{VERSION}",
            "metadata": {},
            "items": measured,
        }
        return Response(200, JSON, orjson.dumps(listed))

    async def _find(self, request: Request, info: RequestInfo) -> list[Object]:
        """The nodes or pods that are asked for, by path and selectors."""
        row = self.server.table.lookup("", "v1", info.resource)
        assert row is not None
        await self.server.caches.confirm()
        cache = await self.server.caches.get(row)
        prefix = f"{row.prefix}{info.namespace}/" if info.namespace else row.prefix
        labels = selectors.parse_labels(request.param("labelSelector"))
        field_name = field_value = ""
        if fields := request.param("fieldSelector"):
            field_name, _, field_value = fields.partition("=")
            field_value = field_value.removeprefix("=")
        found = []
        for entry in cache.select(prefix):
            if info.verb == "get" and entry.name != info.name:
                continue
            if not labels.matches(entry.labels):
                continue
            if field_name and info.verb == "list" and entry.field(row, field_name) != field_value:
                continue
            found.append(entry.object())
        return found

    async def _nodes(self, nodes: list[Object]) -> list[Object]:
        measured = await self._measure(nodes)
        found = []
        for node in nodes:
            readings = measured.get(objects.name(node))
            if readings is not None:
                seconds, usage = readings.node()
                head = _head("NodeMetrics", node)
                found.append({**head, **readings.times(seconds), "usage": usage})
        return found

    async def _pods(self, pods: list[Object]) -> list[Object]:
        pods = [
            pod
            for pod in pods
            if (pod.get("status") or {}).get("phase") == "Running" and pod["spec"].get("nodeName")
        ]
        row = self.server.table.lookup("", "v1", "nodes")
        assert row is not None
        cache = await self.server.caches.get(row)
        names = {pod["spec"]["nodeName"] for pod in pods}
        nodes = [entry.object() for entry in cache.entries.values() if entry.name in names]
        measured = await self._measure(nodes)
        found = []
        for pod in pods:
            readings = measured.get(pod["spec"]["nodeName"])
            if readings is None:
                continue
            containers, shortest = [], LONGEST
            for container in pod["spec"].get("containers") or ():
                used = readings.container((objects.uid(pod), container["name"]))
                if used is not None:
                    shortest = min(shortest, used[0])
                    containers.append({"name": container["name"], "usage": used[1]})
            if containers:
                head = _head("PodMetrics", pod)
                found.append({**head, **readings.times(shortest), "containers": containers})
        return found

    # Reading nodes

    async def _measure(self, nodes: Iterable[Object]) -> dict[str, Readings]:
        """By name; a node that does not answer is left out."""
        limit = asyncio.Semaphore(AT_ONCE)
        found: dict[str, Readings] = {}

        async def one(node: Object) -> None:
            name = objects.name(node)
            try:
                async with limit, self._reading.setdefault(name, asyncio.Lock()):
                    found[name] = await self._now(name, node)
            except (ApiError, TimeoutError, ConnectionError, ValueError, KeyError) as error:
                log.info("node %s tells no metrics: %s", name, error)

        async with asyncio.TaskGroup() as group:
            for node in nodes:
                group.create_task(one(node))
        return found

    async def _now(self, name: str, node: Object) -> Readings:
        last = self._last.get(name)
        if last is not None and self.monotonic() - last.after.moment < FRESH:
            return last
        known = (*last.before, last.after) if last is not None else ()
        found = self._last[name] = await self._step(node, known)
        if not found.complete:  # something began since: it is seen twice now
            found = self._last[name] = await self._step(node, (*found.before, found.after))
        return found

    async def _step(self, node: Object, known: tuple[Reading, ...]) -> Readings:
        """One more reading, after enough time for a rate."""
        now = self.monotonic()
        known = tuple(each for each in known if now - each.moment <= LONGEST)
        if not known:
            known = (await self._read(node),)
        wait = known[-1].moment + WINDOW - self.monotonic()
        if wait > 0:
            await self.sleep(wait)
        after = await self._read(node)
        # The newest, for what began lately, and the oldest that spans enough, since short windows jump.
        spanning = [each for each in known[:-1] if after.moment - each.moment <= SPAN]
        return Readings(after, (*(spanning[:1] or known[:-1][-1:]), known[-1]))

    async def _read(self, node: Object) -> Reading:
        from sampan.apiserver import backends, proxy  # only a server with nodes needs them

        target = backends.node_target(node, "/stats/summary")
        async with asyncio.timeout(READ_TIMEOUT):
            answer = await proxy.send(self.server, "GET", target, {}, b"")
            if answer.status != 200:
                raise backends.refused(answer.status, await answer.text())
            body = b"".join([part async for part in answer])
        return Reading.of(orjson.loads(body), self.monotonic(), time.time())


def _head(kind: str, obj: Object) -> Object:
    metadata: Object = {"name": objects.name(obj)}
    if objects.namespace(obj):
        metadata["namespace"] = objects.namespace(obj)
    metadata["creationTimestamp"] = objects.now()
    if objects.labels(obj):
        metadata["labels"] = objects.labels(obj)
    return {"kind": kind, "apiVersion": f"{GROUP}/{VERSION}", "metadata": metadata}
