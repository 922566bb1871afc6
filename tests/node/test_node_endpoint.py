"""The node's endpoint: who may call it, what it answers, and how it hands a connection over."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from node_pods import exited, make_pod, running
from prometheus_client.parser import text_string_to_metric_families

from sampan.apiserver.pki import ensure_pki
from sampan.cri.errors import NotFound
from sampan.node import tunnel
from sampan.node.config import NodeConfig
from sampan.node.http import HTTPServer, Request, Response
from sampan.node.observed import Observed
from sampan.node.server import Endpoint, allowed, choose


class Worker:
    """The part of a pod's worker that the endpoint looks at."""

    def __init__(self) -> None:
        self.pod = make_pod()
        self.observed = Observed()
        self.observed.merge_container(running())
        self.uid = self.pod["metadata"]["uid"]
        self.volumes = SimpleNamespace(claimed={})

    def news(self) -> asyncio.Event:
        return asyncio.Event()


class Place:
    def __init__(self, directory: Path) -> None:
        paths = ensure_pki(directory / "pki", node_name="n1")
        self.pki = directory / "pki"
        self.config = NodeConfig(
            "n1",
            directory,
            directory,
            directory / "s",
            port=0,
            client_ca=paths.ca.crt,
            certificate=paths.node_serving.crt,
            key=paths.node_serving.key,
        )
        self.port = 0

    async def get(self, path: str, who: str = "kubelet-client") -> tuple[int, str]:
        context = ssl.create_default_context(cafile=str(self.pki / "ca.crt"))
        if who:
            context.load_cert_chain(self.pki / f"{who}.crt", self.pki / f"{who}.key")
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=context, server_hostname="n1"
        )
        writer.write(f"GET {path} HTTP/1.1\r\nHost: n1\r\nConnection: close\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        head, _, body = answer.decode().partition("\r\n\r\n")
        return int(head.split()[1]), body


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    held = Place(tmp_path)
    logs = held.config.pod_log_dir(make_pod()) / "web"
    logs.mkdir(parents=True)
    (logs / "0.log").write_text("2026-01-31T09:30:00.000000000Z stdout F ahoy\n")

    async def exec_sync(**_: Any) -> Any:
        raise NotFound("no such container")

    async def list_pod_sandbox_stats(**_: Any) -> Any:
        return SimpleNamespace(stats=[])

    cri = SimpleNamespace(exec_sync=exec_sync, list_pod_sandbox_stats=list_pod_sandbox_stats)
    context = SimpleNamespace(cri=cri)
    endpoint = Endpoint(held.config, context, {"u": Worker()})  # type: ignore[arg-type,dict-item]
    async with asyncio.TaskGroup() as group:
        keeper = group.create_task(asyncio.Event().wait())
        inner = asyncio.TaskGroup()
        async with inner:
            held.port = await endpoint.start(inner)
            yield held
            for task in list(inner._tasks):
                task.cancel()
        keeper.cancel()


@pytest.mark.parametrize(
    ("who", "status"), [("kubelet-client", 200), ("admin", 200), ("node", 403), ("", 401)]
)
async def test_only_the_api_server_and_masters(place: Place, who: str, status: int) -> None:
    assert (await place.get("/pods", who))[0] == status
    assert await place.get("/healthz", who) == (200, "ok")


async def test_metrics(place: Place) -> None:
    for path, name, value in (
        ("/metrics", "kubelet_running_pods", 1),
        ("/metrics", "kubelet_running_containers", 1),
        ("/metrics/resource", "scrape_error", 0),
    ):
        status, body = await place.get(path)
        families = {family.name: family for family in text_string_to_metric_families(body)}
        assert (status, families[name].samples[0].value) == (200, value)
    assert (await place.get("/metrics", "node"))[0] == 403


async def test_logs(place: Place) -> None:
    status, body = await place.get("/containerLogs/harbour/boat/web?tailLines=1")
    assert status == 200 and "ahoy\n" in body
    for path, wanted, words in (
        ("/containerLogs/harbour/none/web", 404, 'pod "none" does not exist'),
        ("/containerLogs/harbour/boat/x", 404, "not found in pod"),
        ("/containerLogs/harbour/boat/web?previous=true", 400, "previous terminated container"),
        ("/containerLogs/harbour/boat/web?tailLines=-1", 400, "tailLines: must be a number"),
        ("/nothing", 404, "404 page not found"),
        ("/run/harbour/boat/web?cmd=ls", 404, "no such container"),
    ):
        status, body = await place.get(path)
        assert (status, words in body) == (wanted, True), (path, body)


@pytest.mark.parametrize(
    ("subject", "may"),
    [
        ([("commonName", "kube-apiserver-kubelet-client")], True),
        ([("commonName", "boss"), ("organizationName", "system:masters")], True),
        ([("commonName", "system:node:n1"), ("organizationName", "system:nodes")], False),
        ([], False),
    ],
)
def test_who_may(subject: list[tuple[str, str]], may: bool) -> None:
    assert allowed(subject) is may


def test_which_container_a_log_is_of() -> None:
    now, before = running(restarts=1), exited(restarts=0)
    assert choose([now, before], previous=False) is now
    assert choose([now, before], previous=True) is before
    assert choose([before], previous=True) is before
    assert choose([now], previous=True) is None
    assert choose([], previous=False) is None


async def test_handing_over_passes_every_byte_both_ways() -> None:
    """The runtime's end sees the upgrade request again, and from then on only bytes."""
    heads: list[str] = []

    async def streaming(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: SPDY/3.1\r\n\r\n")
        while data := await reader.read(1000):
            writer.write(data.upper())
            await writer.drain()
        writer.close()

    far = await asyncio.start_server(streaming, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{far.sockets[0].getsockname()[1]}/exec/token?x=1"

    async def handler(request: Request) -> Response | None:
        await tunnel.hand_over(request, url)
        return None

    near = HTTPServer(handler, None)
    port = await near.start("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"POST /exec/ns/pod/c?command=ls HTTP/1.1\r\nHost: n1\r\nUpgrade: SPDY/3.1\r\n"
        b"Connection: Upgrade\r\nAuthorization: secret\r\n\r\n"
    )
    async with asyncio.timeout(5):
        assert b"101" in await reader.readuntil(b"\r\n\r\n")
        writer.write(b"early")
        assert await reader.readexactly(5) == b"EARLY"
        writer.write(b"late\x00")
        assert await reader.readexactly(5) == b"LATE\x00"
        writer.write_eof()
        assert await reader.read() == b""
    assert heads[0].startswith("POST /exec/token?x=1 HTTP/1.1\r\n")
    assert "Upgrade: SPDY/3.1" in heads[0] and "secret" not in heads[0]
    writer.close()
    await near.close()
    far.close()


@pytest.mark.parametrize(
    "head", [b"nonsense\r\n\r\n", b"GET / HTTP/9\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n"]
)
async def test_what_is_no_request_is_refused(head: bytes) -> None:
    async def handler(request: Request) -> Response | None:
        return Response(200, b"reached")

    server = HTTPServer(handler, None)
    reader, writer = await asyncio.open_connection("127.0.0.1", await server.start("127.0.0.1", 0))
    writer.write(head)
    said = await asyncio.wait_for(reader.read(), 5)
    assert said.startswith(b"HTTP/1.") and said[9:12] == b"400"
    writer.close()
    await server.close()
