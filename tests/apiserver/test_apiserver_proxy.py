"""Log, exec, attach, port-forward and proxy, through a real API server over TLS to a node's endpoint that echoes.

What is asked of which backend is decided in `test_apiserver_backends.py`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from sampan.apiserver.config import ServerConfig
from sampan.apiserver.pki import PKIPaths, ensure_pki
from sampan.apiserver.server import APIServer
from sampan.client.transport import Request, User
from sampan.store.sqlite import SQLiteStore

ADMIN = User("root", ("system:masters",))
JSON = {"content-type": "application/json"}
DEADLINE = 10.0


# --- a node -------------------------------------------------------------------------------------------

Conversation = Callable[["Node", asyncio.StreamReader, asyncio.StreamWriter, str], Awaitable[None]]


@dataclass
class Node:
    """A node's endpoint: asks for our client certificate, keeps what it was asked, answers as each test says."""

    port: int = 0
    heads: list[str] = field(default_factory=list)
    peers: list[Any] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    answer: Conversation | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            self.peers.append(writer.get_extra_info("peercert"))
            assert self.answer is not None
            await self.answer(self, reader, writer, head)
            writer.close()
        except (OSError, asyncio.IncompleteReadError):
            writer.transport.abort()
        finally:
            self.ended.set()


async def echo(
    node: Node, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: str
) -> None:
    """101, then everything back, until the client has no more."""
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello"
    )
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


def saying(status: str, body: bytes, *headers: str) -> Conversation:
    async def answer(
        node: Node, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: str
    ) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await writer.drain()

    return answer


@dataclass
class Cluster:
    server: APIServer
    node: Node
    pki: PKIPaths

    async def make(self, path: str, obj: dict[str, Any]) -> None:
        response = await self.server.handle(
            Request("POST", path, headers=dict(JSON), body=orjson.dumps(obj), user=ADMIN)
        )
        assert response.status == 201, response.body

    async def status(self, path: str, status: dict[str, Any]) -> None:
        headers = {"content-type": "application/merge-patch+json"}
        body = orjson.dumps({"status": status})
        response = await self.server.handle(
            Request("PATCH", f"{path}/status", headers=headers, body=body, user=ADMIN)
        )
        assert response.status == 200, response.body

    async def ask(self, path: str, query: Any = (), method: str = "GET") -> Any:
        return await self.server.handle(Request(method, path, list(query), {}, user=ADMIN))

    async def dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        context = ssl.create_default_context(cafile=str(self.pki.ca.crt))
        context.load_cert_chain(self.pki.admin.crt, self.pki.admin.key)
        return await asyncio.open_connection(
            "127.0.0.1", self.server.port, ssl=context, server_hostname="localhost"
        )

    async def exec(
        self, query: str = "command=sh&stdout=true"
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await self.dial()
        writer.write(
            f"GET {POD}/exec?{query} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Key: abc\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n"
            "Authorization: Bearer secret\r\n\r\n".encode()
        )
        return reader, writer


POD = "/api/v1/namespaces/default/pods/web"
SPEC = {
    "nodeName": "n1",
    "containers": [{"name": "c", "image": "x"}],
    "automountServiceAccountToken": False,
}


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> PKIPaths:
    return ensure_pki(tmp_path_factory.mktemp("pki"), node_name="n1")


@asynccontextmanager
async def running(directory: Path, pki: PKIPaths) -> AsyncIterator[Cluster]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.node_serving.crt, pki.node_serving.key)
    context.load_verify_locations(pki.ca.crt)
    context.verify_mode = ssl.CERT_REQUIRED
    node = Node()
    listener = await asyncio.start_server(node.serve, "127.0.0.1", 0, ssl=context)
    node.port = listener.sockets[0].getsockname()[1]
    store = await SQLiteStore.open(directory / "state.db")
    kubeconfig = directory / "kubeconfig.yaml"
    config = ServerConfig(pki.directory, kubeconfig, port=0, authorization=False)
    server = APIServer(store, config)
    await server.start()
    cluster = Cluster(server, node, pki)
    try:
        await cluster.make(
            "/api/v1/nodes", {"kind": "Node", "apiVersion": "v1", "metadata": {"name": "n1"}}
        )
        endpoint = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": node.port}},
        }
        await cluster.status("/api/v1/nodes/n1", endpoint)
        account = {"kind": "ServiceAccount", "apiVersion": "v1", "metadata": {"name": "default"}}
        await cluster.make("/api/v1/namespaces/default/serviceaccounts", account)
        web = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "web"}, "spec": SPEC}
        await cluster.make("/api/v1/namespaces/default/pods", web)
        yield cluster
    finally:
        await server.close()
        await store.close()
        listener.close()


@pytest.fixture
async def cluster(tmp_path: Path, pki: PKIPaths) -> AsyncIterator[Cluster]:
    async with running(tmp_path, pki) as found, asyncio.timeout(60):
        yield found


async def read_head(reader: asyncio.StreamReader) -> str:
    async with asyncio.timeout(DEADLINE):
        return (await reader.readuntil(b"\r\n\r\n")).decode()


# --- upgrades -----------------------------------------------------------------------------------------


async def test_exec_is_a_tunnel(cluster: Cluster) -> None:
    cluster.node.answer = echo
    reader, writer = await cluster.exec("command=sh&command=-c&stdin=true&stdout=true&tty=true")
    head = await read_head(reader)
    assert head.startswith("HTTP/1.1 101 ")
    assert await reader.readexactly(5) == b"hello"
    sent = bytes(range(256)) * 4096  # 1 MB, more than any buffer on the way
    feeding = asyncio.create_task(feed(writer, sent))
    async with asyncio.timeout(DEADLINE):
        assert await reader.readexactly(len(sent)) == sent
    await feeding
    writer.close()
    async with asyncio.timeout(DEADLINE):
        await cluster.node.ended.wait()
    (asked,) = cluster.node.heads
    line, *headers = asked.split("\r\n")
    assert line == "GET /exec/default/web/c?input=1&output=1&tty=1&command=sh&command=-c HTTP/1.1"
    assert "Sec-Websocket-Protocol: v5.channel.k8s.io" in headers
    assert not any(each.lower().startswith("authorization") for each in headers)
    (peer,) = cluster.node.peers
    assert ((("commonName", "kube-apiserver-kubelet-client"),)) in peer["subject"]


async def feed(writer: asyncio.StreamWriter, data: bytes) -> None:
    for at in range(0, len(data), 60000):
        writer.write(data[at : at + 60000])
        await writer.drain()


async def test_the_end_of_the_backend_ends_the_client(cluster: Cluster) -> None:
    async def last_words(
        node: Node, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: str
    ) -> None:
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + b"x" * 300_000)
        await writer.drain()

    cluster.node.answer = last_words
    reader, writer = await cluster.exec()
    await read_head(reader)
    async with asyncio.timeout(DEADLINE):
        assert await reader.read() == b"x" * 300_000
    writer.close()


async def test_refusals_are_statuses(cluster: Cluster) -> None:
    cluster.node.answer = saying("400 Bad Request", b"container not running")
    reader, writer = await cluster.exec()
    head = await read_head(reader)
    assert head.startswith("HTTP/1.1 400 ")
    body = await read_body(reader, head)
    assert body["kind"] == "Status"
    assert body["message"] == "unable to upgrade connection: container not running"
    status = {
        "kind": "Status",
        "apiVersion": "v1",
        "code": 404,
        "reason": "NotFound",
        "message": "gone",
    }
    cluster.node.answer = saying("404 Not Found", orjson.dumps(status))
    reader2, writer2 = await cluster.exec()
    head = await read_head(reader2)
    assert (await read_body(reader2, head))["message"] == "gone"
    for each in (writer, writer2):
        each.close()


async def read_body(reader: asyncio.StreamReader, head: str) -> Any:
    length = int(
        next(line for line in head.split("\r\n") if line.lower().startswith("content-length"))[15:]
    )
    return orjson.loads(await reader.readexactly(length))


async def test_without_upgrade_and_without_node(cluster: Cluster) -> None:
    response = await cluster.ask(f"{POD}/exec", [("command", "sh"), ("stdout", "1")])
    assert (response.status, response.json()["message"]) == (400, "Upgrade request required")
    assert (await cluster.ask("/api/v1/namespaces/default/pods/ghost/exec")).status == 404
    await cluster.status("/api/v1/nodes/n1", {"daemonEndpoints": {"kubeletEndpoint": {"Port": 1}}})
    reader, writer = await cluster.exec()
    head = await read_head(reader)
    assert head.startswith("HTTP/1.1 500 ")
    assert "error dialing backend" in (await read_body(reader, head))["message"]
    writer.close()


# --- logs ---------------------------------------------------------------------------------------------


async def test_log(cluster: Cluster) -> None:
    cluster.node.answer = saying("200 OK", b"one\ntwo\n", "Content-Type: text/plain")
    response = await cluster.ask(f"{POD}/log", [("tailLines", "2")])
    assert response.status == 200
    assert response.headers["Content-Type"] == "text/plain"
    assert await response.read() == b"one\ntwo\n"
    assert cluster.node.heads[0].startswith("GET /containerLogs/default/web/c?tailLines=2 HTTP/1.1")
    cluster.node.answer = saying(
        "400 Bad Request", b'container "c" in pod "web" is waiting to start: ContainerCreating'
    )
    response = await cluster.ask(f"{POD}/log")
    assert (response.status, response.json()["reason"]) == (400, "BadRequest")
    assert response.json()["message"].endswith("is waiting to start: ContainerCreating")


async def test_a_log_over_a_websocket(cluster: Cluster) -> None:
    """As conformance's clients read it: the sub-protocol chosen, a binary message, then the end."""
    cluster.node.answer = saying("200 OK", b"one\n", "Content-Type: text/plain")
    for offered, message in (
        ("binary.k8s.io", b"\x82\x04one\n"),
        ("base64.binary.k8s.io", b"\x81\x08b25lCg=="),
    ):
        reader, writer = await cluster.dial()
        writer.write(
            f"GET {POD}/log HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Protocol: {offered}\r\n\r\n".encode()
        )
        async with asyncio.timeout(DEADLINE):
            head = await read_head(reader)
            assert head.startswith("HTTP/1.1 101 ")
            assert "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head  # RFC 6455, 1.3
            assert f"Sec-WebSocket-Protocol: {offered}" in head
            assert await reader.read() == message + b"\x88\x02\x03\xe8"
        writer.close()


async def test_followed_log_comes_as_it_is_written(cluster: Cluster) -> None:
    async def follow(
        node: Node, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: str
    ) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\none\n\r\n")
        await writer.drain()
        await node.released.wait()
        writer.write(b"4\r\ntwo\n\r\n")
        await writer.drain()
        await reader.read()  # until the API server hangs up

    cluster.node.answer = follow
    response = await cluster.ask(f"{POD}/log", [("follow", "true")])
    parts = response.body
    async with asyncio.timeout(DEADLINE):
        assert await anext(parts) == b"one\n"
        cluster.node.released.set()
        assert await anext(parts) == b"two\n"
        await response.aclose()
        await cluster.node.ended.wait()


# --- proxy --------------------------------------------------------------------------------------------


async def test_node_proxy(cluster: Cluster) -> None:
    cluster.node.answer = saying("200 OK", b"{}", "Content-Type: application/json", "X-Thing: 1")
    response = await cluster.ask("/api/v1/nodes/n1/proxy/stats/summary", [("a", "b c")])
    assert (response.status, response.headers["X-Thing"]) == (200, "1")
    assert await response.read() == b"{}"
    assert cluster.node.heads[0].startswith("GET /stats/summary?a=b+c HTTP/1.1")


async def test_a_page_behind_the_proxy_keeps_its_links(cluster: Cluster) -> None:
    """However it comes in pieces; and a method that has no verb of its own is passed on."""
    asked: list[bytes] = []
    page = b"<p>3 < 4 & \xff<a class='x' HREF = '/in'>href='/not'</a><img src=\"/i/\"><a href=out>"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).partition(b" ")[0])
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=x\r\n")
        writer.write(b"Location: /there\r\nContent-Length: %d\r\n\r\n" % len(page))
        for place in range(0, len(page), 7):
            writer.write(page[place : place + 7])
            await writer.drain()
        writer.close()

    backend = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = backend.sockets[0].getsockname()[1]
    address = {"phase": "Running", "podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}
    await cluster.status(POD, address)
    prefix = f"{POD}:{port}/proxy"
    response = await cluster.ask(f"{prefix}/x", method="OPTIONS")
    expected = page.replace(b"'/in'", f"'{prefix}/in'".encode())
    expected = expected.replace(b'"/i/"', f'"{prefix}/i/"'.encode())
    assert (asked, await response.read()) == ([b"OPTIONS"], expected)
    assert response.headers["Location"] == f"{prefix}/there"
    assert "Content-Length" not in response.headers
    backend.close()


async def test_pod_and_service_proxy(cluster: Cluster) -> None:
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(b"HTTP/1.1 418 Teapot\r\nContent-Length: 5\r\n\r\nshort")
        await writer.drain()
        writer.close()

    backend = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = backend.sockets[0].getsockname()[1]
    try:
        address = {"phase": "Running", "podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}
        await cluster.status(POD, address)
        redirect = await cluster.ask(f"{POD}:{port}/proxy")
        assert (redirect.status, redirect.headers["Location"]) == (301, f"{POD}:{port}/proxy/")
        response = await cluster.ask(f"{POD}:{port}/proxy/a%20b/c/", [("q", "1")])
        assert (response.status, await response.read()) == (418, b"short")
        assert asked[0].startswith("GET /a%20b/c/?q=1 HTTP/1.1")
        service = {
            "kind": "Service",
            "apiVersion": "v1",
            "metadata": {"name": "web"},
            "spec": {"ports": [{"name": "http", "port": 80}]},
        }
        await cluster.make("/api/v1/namespaces/default/services", service)
        empty = await cluster.ask("/api/v1/namespaces/default/services/web:http/proxy/")
        assert empty.status == 503
        piece = {
            "kind": "EndpointSlice",
            "apiVersion": "discovery.k8s.io/v1",
            "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
            "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": True}}],
        }
        path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
        await cluster.make(path, piece)
        response = await cluster.ask("/api/v1/namespaces/default/services/web:http/proxy/x")
        assert (response.status, await response.read()) == (418, b"short")
    finally:
        backend.close()
