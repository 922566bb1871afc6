"""The node's endpoint: kubelet's paths over TLS, for the API server and nobody else.

A caller shows a certificate of the cluster's CA and is either in `system:masters` or one of the names below. Logs are read
here; exec, attach and port-forward are asked of CRI and handed over untouched.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any

from sampan.cri.errors import CRIError, InvalidArgument, NotFound
from sampan.kube.objects import parse_time
from sampan.node import logs, machine, podspec, stats, tunnel
from sampan.node.config import NodeConfig
from sampan.node.http import HTTPServer, Request, Response
from sampan.node.observed import RUNNING, ContainerState
from sampan.node.volumes import usage

if TYPE_CHECKING:
    from sampan.node.context import Context
    from sampan.node.worker import PodWorker

CALLERS = ("kube-apiserver-kubelet-client", "system:kube-apiserver")
MASTERS = "system:masters"
CHECKPOINT_LIMIT = 120  # seconds, as kubelet has for what takes long
STATUS = {NotFound: 404, InvalidArgument: 400}


class Endpoint:
    def __init__(
        self, config: NodeConfig, context: Context, workers: Mapping[str, PodWorker]
    ) -> None:
        self._config = config
        self._context = context
        self._workers = workers
        self._tls = _tls(config)
        self._server = HTTPServer(self.handle, self._tls)

    def reload(self) -> None:
        """Show the certificate that is on disk now, from the next handshake on."""
        self._tls.load_cert_chain(str(self._config.certificate), str(self._config.key))

    async def start(self, group: asyncio.TaskGroup) -> int:
        """Listen until the group is cancelled; the port."""
        port = await self._server.start(self._config.address, self._config.port)
        group.create_task(self._until_cancelled(), name="node endpoint")
        return port

    async def _until_cancelled(self) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await self._server.close()

    async def handle(self, request: Request) -> Response | None:
        if request.path == "/healthz":
            return Response(200, b"ok")
        if not allowed(request.peer()):
            return Response(401 if not request.peer() else 403, b"Unauthorized\n")
        first, *rest = request.path.strip("/").split("/")
        try:
            return await self._route(first, rest, request)
        except CRIError as error:
            return Response(STATUS.get(type(error), 500), f"{error}\n".encode())

    async def _route(self, first: str, rest: list[str], request: Request) -> Response | None:
        if first == "containerLogs" and len(rest) == 3:
            return self._logs(rest[0], rest[1], rest[2], request)
        if first in ("exec", "attach", "run") and len(rest) in (3, 4):
            # kubelet also takes /exec/namespace/pod/uid/container.
            return await self._stream(first, rest[0], rest[1], rest[-1], request)
        if first == "portForward" and len(rest) in (2, 3):
            return await self._port_forward(rest[0], rest[1], request)
        if first == "checkpoint" and len(rest) == 3 and request.method == "POST":
            return await self._checkpoint(rest[0], rest[1], rest[2], request)
        if first == "localVolumes" and len(rest) == 1 and request.method == "DELETE":
            return self._remove_directory(rest[0])
        if first == "pods":
            pods = [worker.pod for worker in self._workers.values()]
            return _json({"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": pods})
        if first == "stats" and rest == ["summary"]:
            measured = await self._stats()
            full = await self._volumes()
            return _json(stats.summary(self._config.name, machine.usage(), measured, full))
        if first == "metrics" and rest == ["resource"]:
            exposition = await asyncio.to_thread(import_module, "sampan.node.exposition")
            measured = await self._stats()
            return Response(200, *exposition.resource_metrics(measured, request.header("accept")))
        if first == "metrics" and not rest:
            running = [
                c
                for worker in self._workers.values()
                for c in worker.observed.containers.values()
                if c.state == RUNNING
            ]
            exposition = await asyncio.to_thread(import_module, "sampan.node.exposition")
            counts, full = (len(self._workers), len(running)), await self._volumes()
            accept = request.header("accept")
            return Response(200, *exposition.own_metrics(*counts, full, accept))
        return Response(404, b"404 page not found\n")

    async def _stats(self) -> list[Any]:
        return list((await self._context.cri.list_pod_sandbox_stats()).stats)

    async def _volumes(self) -> list[usage.VolumeUsage]:
        """How full the volumes of claims are. A file system may hang, which is not to hold up the node."""
        found = [
            usage.ClaimedVolume(worker.uid, volume, worker.pod["metadata"]["namespace"], *claimed)
            for worker in self._workers.values()
            for volume, claimed in worker.volumes.claimed.items()
        ]
        return await asyncio.to_thread(usage.measure, found) if found else []

    def _remove_directory(self, name: str) -> Response:
        """A volume of this node was given back."""
        try:
            self._context.directories.remove(name)
        except ValueError as error:
            return Response(400, f"{error}\n".encode())
        except OSError as error:
            return Response(500, f"{error}\n".encode())
        return Response(200, b"removed\n")

    def _worker(self, namespace: str, name: str) -> PodWorker | None:
        """The pod of that name; of two, the one that is not ending."""
        found = [
            worker
            for worker in self._workers.values()
            if worker.pod["metadata"]["name"] == name
            and worker.pod["metadata"]["namespace"] == namespace
        ]
        return min(
            found, key=lambda w: bool(w.pod["metadata"].get("deletionTimestamp")), default=None
        )

    def _logs(self, namespace: str, name: str, container: str, request: Request) -> Response:
        worker = self._worker(namespace, name)
        if worker is None:
            return Response(404, f'pod "{name}" does not exist\n'.encode())
        if podspec.find(worker.pod, container) is None:
            text = f"container {container!r} not found in pod {name!r}\n"
            return Response(404, text.encode())
        history = worker.observed.history().get(container, [])
        previous = request.flag("previous")
        state = choose(history, previous=previous)
        if state is None:
            what = "previous terminated container" if previous else "container"
            if previous:
                text = f'{what} "{container}" in pod "{name}" not found\n'
            else:
                known = podspec.api_status(worker.pod, container) or {}
                waiting = (known.get("state") or {}).get("waiting") or {}
                reason = waiting.get("message") or waiting.get("reason") or "ContainerCreating"
                text = f'{what} "{container}" in pod "{name}" is waiting to start: {reason}\n'
            return Response(400, text.encode())
        try:
            options = log_options(request)
        except ValueError as error:
            return Response(400, f"{error}\n".encode())
        path = self._config.pod_log_dir(worker.pod) / container / f"{state.restarts}.log"
        if not path.parent.is_dir():
            return Response(404, f"the log of container {container!r} is gone\n".encode())

        def running() -> bool:
            now = worker.observed.containers.get(state.id)
            return now is not None and now.state == RUNNING

        body = logs.read(path, options, running, worker.news)
        return Response(200, body)

    async def _stream(
        self, what: str, namespace: str, name: str, container: str, request: Request
    ) -> Response | None:
        worker = self._worker(namespace, name)
        states = worker.observed.history().get(container, []) if worker else []
        if not states or states[0].state != RUNNING:
            text = f'container not found ("{container}")\n'
            return Response(404, text.encode())
        command = request.params("command") or request.params("cmd")
        if what == "run":
            timeout = int(request.param("timeout") or 0)
            answer = await self._context.cri.exec_sync(
                container_id=states[0].id, cmd=command, timeout=timeout
            )
            return Response(200, answer.stdout + answer.stderr)
        wanted = {
            "stdin": request.flag("input", "stdin"),
            "stdout": request.flag("output", "stdout"),
            "stderr": request.flag("error", "stderr") and not request.flag("tty"),
            "tty": request.flag("tty"),
        }
        call = self._context.cri.exec if what == "exec" else self._context.cri.attach
        fields: dict[str, Any] = {"cmd": command} if what == "exec" else {}
        answer = await call(container_id=states[0].id, **fields, **wanted)
        return await _hand_over(request, answer.url)

    async def _checkpoint(
        self, namespace: str, name: str, container: str, request: Request
    ) -> Response:
        """KEP-2008: a running container as a file of this node, whose path is the answer."""
        worker = self._worker(namespace, name)
        states = worker.observed.history().get(container, []) if worker else []
        if not states or states[0].state != RUNNING:
            return Response(404, f"container {container} of pod {name} is not running\n".encode())
        place = self._config.data_dir / "node" / "checkpoints"
        place.mkdir(exist_ok=True, mode=0o700)
        moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        path = place / f"checkpoint-{name}_{namespace}-{container}-{moment}.tar"
        timeout = request.param("timeout") or ""
        limit = int(timeout) if timeout.isdigit() and int(timeout) else CHECKPOINT_LIMIT
        await self._context.cri.checkpoint_container(
            container_id=states[0].id, location=str(path), timeout=limit, rpc_timeout=limit + 5
        )
        return _json({"items": [str(path)]})

    async def _port_forward(self, namespace: str, name: str, request: Request) -> Response | None:
        worker = self._worker(namespace, name)
        sandbox = worker.observed.sandbox() if worker else None
        if sandbox is None or not sandbox.ready:
            return Response(404, f'pod "{name}" is not running\n'.encode())
        ports = [
            int(p)
            for text in request.params("port") + request.params("ports")
            for p in text.split(",")
            if p.isdigit()
        ]
        answer = await self._context.cri.port_forward(pod_sandbox_id=sandbox.id, port=ports)
        return await _hand_over(request, answer.url)


async def _hand_over(request: Request, url: str) -> Response | None:
    try:
        await tunnel.hand_over(request, url)
    except OSError as error:
        return Response(502, f"the runtime's streaming server: {error}\n".encode())
    return None


def choose(history: list[ContainerState], *, previous: bool) -> ContainerState | None:
    """Whose log is meant: the newest that has one, or with `previous` the one that ended before it."""
    started = [s for s in history if s.state in (RUNNING, "exited")]
    if not previous:
        return started[0] if started else None
    ended = [s for s in started if s.state == "exited"]
    if started and started[0].state == RUNNING:
        return ended[0] if ended else None
    # It waits for its restart: the one that ended last is what the user calls the previous one.
    return ended[0] if ended else None


def log_options(request: Request) -> logs.LogOptions:
    """Raises ValueError naming the parameter."""
    since = ""
    if text := request.param("sinceSeconds"):
        since = logs.since_text(
            datetime.now(UTC) - timedelta(seconds=_number("sinceSeconds", text))
        )
    elif text := request.param("sinceTime"):
        since = logs.since_text(parse_time(text))
    tail, limit = request.param("tailLines"), request.param("limitBytes")
    return logs.LogOptions(
        follow=request.flag("follow"),
        timestamps=request.flag("timestamps"),
        tail=_number("tailLines", tail) if tail else None,
        since=since,
        limit=_number("limitBytes", limit) if limit else None,
        stream=request.param("stream") or "All",
    )


def _number(name: str, text: str) -> int:
    value = int(text) if text.lstrip("-").isdigit() else -1
    if value < 0:
        raise ValueError(f"{name}: must be a number that is not negative, got {text!r}")
    return value


def allowed(subject: list[tuple[str, str]]) -> bool:
    """Whether the owner of a certificate with this subject may use the endpoint."""
    names = [value for key, value in subject if key == "commonName"]
    groups = [value for key, value in subject if key == "organizationName"]
    return MASTERS in groups or any(name in CALLERS for name in names)


def _json(obj: Any) -> Response:
    return Response(200, json.dumps(obj).encode(), "application/json")


def _tls(config: NodeConfig) -> ssl.SSLContext:
    """Client certificates are asked for, not demanded: /healthz is for anybody, and others get an answer they can read."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(str(config.certificate), str(config.key))
    context.load_verify_locations(str(config.client_ca))
    context.verify_mode = ssl.CERT_OPTIONAL
    return context
