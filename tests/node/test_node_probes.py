"""Probes against real servers, and the prober's verdicts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from node_pods import container

from sampan.cri.errors import Unavailable
from sampan.node.observed import RUNNING, ContainerState
from sampan.node.plan import Health
from sampan.node.probes import runners
from sampan.node.probes.prober import Prober


class Web:
    """A server that answers every request with `answer` and keeps what it was asked."""

    def __init__(self) -> None:
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        self.asked: list[str] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(self.answer)
        await writer.drain()
        writer.close()


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    held = Web()
    server = await asyncio.start_server(held.serve, "127.0.0.1", 0)
    held.port = server.sockets[0].getsockname()[1]
    yield held
    server.close()


async def get(web: Web, **fields: Any) -> runners.Answer:
    handler = {"httpGet": {"port": web.port, **fields}}
    return await runners.ask(handler, container(), "id", "127.0.0.1", 1, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "ok", "text"),
    [
        ("200 OK", True, ""),
        ("404 Not Found", False, "HTTP probe failed with statuscode: 404"),
        ("503 Busy", False, "HTTP probe failed with statuscode: 503"),
    ],
)
async def test_http_status(web: Web, status: str, ok: bool, text: str) -> None:
    web.answer = f"HTTP/1.1 {status}\r\n\r\n".encode()
    assert (await get(web, path="/health?full=1"))[:2] == (ok, text)
    assert web.asked[0].startswith("GET /health?full=1 HTTP/1.1\r\n")
    assert "User-Agent: kube-probe/" in web.asked[0]


@pytest.mark.parametrize(
    ("answer", "ok"),
    [
        (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\n\nfrom a script",
            True,
        ),  # busybox httpd, CGI
        (b"HTTP/1.0 200 OK\n\n", True),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000, False),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000, False),
        (b"nonsense\n\n", False),
    ],
)
async def test_http_heads_as_small_servers_write_them(web: Web, answer: bytes, ok: bool) -> None:
    web.answer = answer
    assert (await get(web)).ok is ok


async def test_http_headers_replace_the_usual_ones(web: Web) -> None:
    headers = [{"name": "host", "value": "boat.example"}, {"name": "X-Y", "value": "z"}]
    assert (await get(web, httpHeaders=headers)).ok
    assert "Host: boat.example\r\n" in web.asked[0] and "X-Y: z\r\n" in web.asked[0]


async def test_redirects(web: Web) -> None:
    """Kubelet's words; a redirect that nobody follows is a warning whatever keeps it from being followed."""
    away = b"Location: http://elsewhere.example/\r\n"
    for fields, body in (
        (away + b"\r\n", b""),
        (away + b"\r\n", b"until the end"),
        (away + b"Content-Length: 4\r\n\r\n", b"over there"),
        (
            away + b"Transfer-Encoding: chunked\r\n\r\n",
            b"4\r\nover\r\n6;x=y\r\n there\r\n0\r\n\r\n",
        ),
        (b"\r\n", b"nowhere"),
    ):
        web.answer = b"HTTP/1.1 302 Found\r\n" + fields + body
        told = {b"over there": b"over"}.get(body, b"over there" if b"x=y" in body else body)
        text = f"Probe terminated redirects, Response body: {told.decode()}"
        assert await get(web) == (True, text, True)
    web.asked.clear()
    web.answer = b"HTTP/1.1 302 Found\r\n" + away + b"\r\n" + b"x" * 20_000
    assert len((await get(web)).text) == len("Probe terminated redirects, Response body: ") + 10240
    web.answer = b"HTTP/1.1 302 Found\r\nLocation: /again\r\n\r\n"
    answer = await get(web)
    assert not answer.ok and "stopped after 10 redirects" in answer.text
    assert len(web.asked) == 11


async def test_nobody_listens() -> None:
    answer = await runners.http_get("http://127.0.0.1:1/", {}, 1)
    assert answer.text == (
        'Get "http://127.0.0.1:1/": dial tcp 127.0.0.1:1: connect: connection refused'
    )
    assert not (await runners.tcp_connect("127.0.0.1", 1, 1)).ok


async def test_silence_is_a_timeout() -> None:
    server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    answer = await runners.http_get(f"http://127.0.0.1:{port}/", {}, 0.05)
    assert "Client.Timeout exceeded while awaiting headers" in answer.text
    assert (await runners.tcp_connect("127.0.0.1", port, 1)).ok
    server.close()


async def test_named_ports() -> None:
    held = container(ports=[{"name": "http", "containerPort": 8080}])
    assert runners.port_number("http", held) == 8080
    answer = await runners.ask(
        {"tcpSocket": {"port": "nope"}},
        held,
        "id",
        "127.0.0.1",
        1,
        None,  # type: ignore[arg-type]
    )
    assert not answer.ok and "couldn't find port: nope" in answer.text


@pytest.mark.parametrize(("state", "ok"), [(1, True), (2, False)])
async def test_grpc_health(state: int, ok: bool) -> None:
    import grpc
    import grpc.aio

    asked: list[bytes] = []

    async def check(request: bytes, context: Any) -> bytes:
        asked.append(request)
        return bytes([0x08, state])

    server = grpc.aio.server()
    handler = grpc.method_handlers_generic_handler(
        "grpc.health.v1.Health", {"Check": grpc.unary_unary_rpc_method_handler(check)}
    )
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        answer = await runners.grpc_health("127.0.0.1", port, "liveness", 2)
        assert answer.ok is ok and asked == [b"\x0a\x08liveness"]
    finally:
        await server.stop(None)


class Watch:
    def __init__(self, prober: Prober, changed: asyncio.Event) -> None:
        self.prober, self.changed = prober, changed

    async def until(self, check: Callable[[Health], bool]) -> Health:
        async with asyncio.timeout(10):
            while True:
                self.changed.clear()
                health = self.prober.health()["id"]
                if check(health):
                    return health
                await self.changed.wait()


def running() -> ContainerState:
    return ContainerState("id", "web", "s", RUNNING, started_at=time.time_ns())


async def test_startup_then_readiness_then_liveness(web: Web) -> None:
    web.answer = b"HTTP/1.1 500 No\r\n\r\n"
    probe = {"httpGet": {"port": web.port}, "periodSeconds": 0.02}
    held = container(
        startupProbe={**probe, "failureThreshold": 100},
        readinessProbe=probe,
        livenessProbe={**probe, "failureThreshold": 2},
    )
    told: list[str] = []
    changed = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        prober = Prober(None, group, changed.set)  # type: ignore[arg-type]
        watch = Watch(prober, changed)
        prober.watch(held, running(), "127.0.0.1", lambda *event: told.append(event[2]))
        assert prober.health()["id"] == Health(False, False)
        web.answer = b"HTTP/1.1 200 OK\r\n\r\n"
        assert await watch.until(lambda h: h.ready) == Health(True, True)
        web.answer = b"HTTP/1.1 500 No\r\n\r\n"
        sick = await watch.until(lambda h: bool(h.failure))
        assert sick.failure == "Container web failed liveness probe, will be restarted"
        prober.close()
    assert "Liveness probe failed: HTTP probe failed with statuscode: 500" in told


async def test_an_adopted_container_keeps_what_the_api_knows() -> None:
    held = container(readinessProbe={"tcpSocket": {"port": 1}, "initialDelaySeconds": 3600})
    async with asyncio.TaskGroup() as group:
        prober = Prober(None, group, lambda: None)  # type: ignore[arg-type]
        known = {"containerID": "sampan://id", "ready": True, "started": True}
        prober.watch(held, running(), "127.0.0.1", lambda *_: None, known)
        assert prober.health()["id"].ready
        prober.close()


async def test_a_runtime_that_is_away_is_no_verdict() -> None:
    """Commands cannot be run while the runtime restarts; no container is to blame for that."""
    asked = asyncio.Event()

    class Away:
        count = 0

        async def exec_sync(self, **_: Any) -> Any:
            self.count += 1
            if self.count > 3:
                asked.set()
            raise Unavailable("connection refused")

    told: list[str] = []
    held = container(
        livenessProbe={
            "exec": {"command": ["true"]},
            "periodSeconds": 0.01,
            "failureThreshold": 1,
        }
    )
    async with asyncio.TaskGroup() as group:
        prober = Prober(Away(), group, lambda: None)  # type: ignore[arg-type]
        prober.watch(held, running(), "127.0.0.1", lambda *event: told.append(event[1]))
        async with asyncio.timeout(5):
            await asked.wait()
        assert prober.health()["id"] == Health(True, True)
        prober.close()
    assert set(told) == {"ProbeError"}
