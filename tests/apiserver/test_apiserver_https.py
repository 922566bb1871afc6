"""The server over TLS: kubectl, the Python client, and bytes that are no proper request."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import shutil
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from apiserver_harness import MAPS, Harness, open_server

from sampan.apiserver import http
from sampan.apiserver.upgrade import Tunnel, Upgrade
from sampan.client.transport import Request, Response

KUBECTL = shutil.which("kubectl") or str(Path(__file__).parents[2] / ".cache/clients/kubectl")
HEAD = b"Host: x\r\n\r\n"


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Harness]:
    harness = await open_server(tmp_path, authorization=True)
    await harness.server.start()
    yield harness
    await harness.server.close()
    await harness.store.close()


async def connect(live: Harness) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    pki = live.server.pki
    context = ssl.create_default_context(cafile=str(pki.ca.crt))
    context.load_cert_chain(pki.admin.crt, pki.admin.key)
    return await asyncio.open_connection("127.0.0.1", live.server.port, ssl=context)


async def answers(live: Harness, wire: bytes, *, cut: int = 0) -> bytes:
    """Everything that the server says to these bytes until it closes or has been silent for a while."""
    reader, writer = await connect(live)
    step = cut or len(wire)
    for start in range(0, len(wire), step):
        writer.write(wire[start : start + step])
        await writer.drain()
    found = b""
    try:
        async with asyncio.timeout(10):
            while part := await reader.read(65536):
                found += part
                if b"the end" in wire and b"HTTP/1.1 404" in found:
                    break
    finally:
        writer.close()
    return found


LAST = (
    b"GET /nowhere?the end".replace(b" end", b"%20end")
    + b" HTTP/1.1\r\nConnection: close\r\n"
    + HEAD
)


@pytest.mark.parametrize("cut", [0, 1, 7])
async def test_pipelined_requests_however_they_are_cut(live: Harness, cut: int) -> None:
    body = b'{"metadata":{"name":"x"}}'
    length = b"Content-Length: %d\r\n" % len(body)
    maps = b"/api/v1/namespaces/default/configmaps"
    wire = (
        b"GET /version HTTP/1.1\r\n" + HEAD
        + b"POST " + maps + b" HTTP/1.1\r\nContent-Type: application/json\r\n" + length
        + HEAD + body
        + b"GET " + maps + b"/x HTTP/1.1\r\n" + HEAD
        + b"HEAD " + maps + b"/x HTTP/1.1\r\n" + HEAD
        + LAST
    )  # fmt: skip
    found = await answers(live, wire, cut=cut)
    assert [part[:3] for part in found.split(b"HTTP/1.1 ")[1:]] == [
        b"200",
        b"201",
        b"200",
        b"200",
        b"404",
    ]


@pytest.mark.parametrize(
    ("wire", "status"),
    [
        (b"\x16\x03\x01 nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /a b HTTP/1.1\r\n" + HEAD, b"400"),
        (b"GET * HTTP/1.1\r\n" + HEAD, b"400"),
        (
            b"POST /api/v1/namespaces HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n"
            + HEAD,
            b"400",
        ),
        (b"POST /api/v1/namespaces HTTP/1.1\r\nContent-Length: 99999999\r\n" + HEAD, b"413"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 70000, b"431"),
    ],
)
async def test_malformed_requests_are_answered_and_closed(
    live: Harness, wire: bytes, status: bytes
) -> None:
    found = await answers(live, wire)
    assert found.startswith(b"HTTP/1.1 " + status)
    assert b'"kind":"Status"' in found


async def test_a_large_body_that_comes_in_full_gets_413(live: Harness) -> None:
    body = b"x" * (4 * 1024 * 1024)
    head = (
        b"POST /api/v1/namespaces HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
        % len(body)
    )
    found = await answers(live, head + HEAD + body)
    assert found.startswith(b"HTTP/1.1 413") and b"RequestEntityTooLarge" in found


async def test_a_client_that_waits_is_told_to_continue(live: Harness) -> None:
    body = b'{"metadata":{"name":"patient"}}'
    reader, writer = await connect(live)
    writer.write(
        b"POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nContent-Type: application/json\r\n"
        b"Expect: 100-continue\r\nContent-Length: %d\r\n" % len(body) + HEAD
    )
    async with asyncio.timeout(10):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await reader.readline())[9:12] == b"201"
    writer.close()


async def test_nonsense_behind_requests_ends_the_connection_with_400(live: Harness) -> None:
    pods = b"GET /api/v1/pods HTTP/1.1\r\n" + HEAD
    reader, writer = await connect(live)
    async with asyncio.timeout(10):
        writer.write(pods + pods)
        for _ in range(2):
            assert (await reader.readline())[9:12] == b"200"
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0])
            await reader.readexactly(length)
        writer.write(b"\x00nonsense\r\n\r\n")
        rest = await reader.read()
    assert rest.startswith(b"HTTP/1.1 400") and b'"kind":"Status"' in rest
    writer.close()


async def test_a_body_that_breaks_off_into_nonsense_gets_400_at_once(live: Harness) -> None:
    head = b"POST " + MAPS.encode() + b" HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + HEAD
    reader, writer = await connect(live)
    writer.write(head + b"2\r\n{}\r\n")
    await writer.drain()
    async with asyncio.timeout(10):
        writer.write(b"nonsense\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400")
    writer.close()


EXEC = (
    b"GET /api/v1/namespaces/default/pods/none/exec?command=x&stdout=1 HTTP/1.1\r\n"
    b"Connection: Upgrade\r\nUpgrade: "
)


async def test_a_declined_upgrade_ends_the_connection(live: Harness) -> None:
    """What a client sent behind it may have been meant for either protocol."""
    for protocol in (b"SPDY/3.1\r\n", b"websocket\r\n"):
        behind = b"GET /version HTTP/1.1\r\n" + HEAD
        found = await answers(live, EXEC + protocol + HEAD + behind)
        assert [part[:3] for part in found.split(b"HTTP/1.1 ")[1:]] == [b"404"]
        assert b"Connection: close" in found


async def test_gzip_of_a_large_list_for_those_who_take_it(live: Harness) -> None:
    obj = {"metadata": {"name": "large"}, "data": {"a": "x" * 300_000}}
    await live.call("POST", MAPS, obj)
    get = b"GET " + MAPS.encode() + b" HTTP/1.1\r\nConnection: close\r\n"
    packed = await answers(live, get + b"Accept-Encoding: gzip\r\n" + HEAD)
    head, _, body = packed.partition(b"\r\n\r\n")
    plain = await answers(live, get + HEAD)
    assert b"Content-Encoding: gzip" in head and b"Vary: Accept-Encoding" in head
    assert len(body) < 10_000
    assert gzip.decompress(body) == plain.partition(b"\r\n\r\n")[2]
    assert b"Content-Encoding" not in plain.partition(b"\r\n\r\n")[0]


async def test_impersonation_with_repeated_headers(live: Harness) -> None:
    body = b'{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}'
    wire = (
        b"POST /apis/authentication.k8s.io/v1/selfsubjectreviews HTTP/1.1\r\nConnection: close\r\n"
        b"Impersonate-User: alice\r\nImpersonate-Group: cn=a,ou=b\r\nImpersonate-Group: dev\r\n"
        b"Impersonate-Uid: 7\r\nImpersonate-Extra-Example.Com%2FScopes: view\r\n"
        b"Content-Type: application/json\r\nContent-Length: " + b"%d\r\n" % len(body) + HEAD + body
    )
    found = json.loads((await answers(live, wire)).partition(b"\r\n\r\n")[2])
    assert found["status"]["userInfo"] == {
        "username": "alice",
        "groups": ["cn=a,ou=b", "dev", "system:authenticated"],
        "uid": "7",
        "extra": {"example.com/scopes": ["view"]},
    }
    # The one who is impersonated is the one who is judged.
    get = b"GET /api/v1/pods HTTP/1.1\r\nConnection: close\r\nImpersonate-User: alice\r\n"
    refused = await answers(live, get + HEAD)
    assert refused.startswith(b"HTTP/1.1 403") and b'User \\"alice\\" cannot list' in refused


async def test_without_a_certificate_only_health_and_version(live: Harness) -> None:
    context = ssl.create_default_context(cafile=str(live.server.pki.ca.crt))
    for path, status in (
        (b"/version", b"200"),
        (b"/readyz?verbose", b"200"),
        (b"/api/v1/pods", b"403"),
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", live.server.port, ssl=context)
        writer.write(b"GET " + path + b" HTTP/1.1\r\n" + HEAD)
        assert (await reader.readline())[9:12] == status
        writer.close()


async def test_how_long_clients_certificates_are_good_for_is_measured(live: Harness) -> None:
    before = sum(live.server.metrics.certificates.counts)
    text = await answers(live, b"GET /metrics HTTP/1.1\r\nConnection: close\r\n" + HEAD)
    name = b"apiserver_client_certificate_expiration_seconds_"
    assert b"\n%scount %d.0\n" % (name, before + 1) in text
    assert b'\n%sbucket{le="86400.0"} 0.0\n' % name in text  # none ends today


async def test_upgrade_gives_the_raw_connection(live: Harness) -> None:
    async def echo(tunnel: Tunnel) -> None:
        tunnel.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        while data := await tunnel.read():
            tunnel.write(data.upper())
            await tunnel.drain()

    handle = live.server.handle

    async def answer(request: Request) -> Response:
        return Upgrade(echo) if request.path == "/echo" else await handle(request)

    live.server.handle = answer  # type: ignore[method-assign]
    reader, writer = await connect(live)
    writer.write(
        b"GET /echo HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" + HEAD + b"early "
    )
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"late")
    assert await reader.readexactly(10) == b"EARLY LATE"
    writer.close()


async def test_stopping_ends_watches(live: Harness) -> None:
    reader, writer = await connect(live)
    writer.write(b"GET /api/v1/namespaces?watch=true&resourceVersion=0 HTTP/1.1\r\n" + HEAD)
    assert b"200" in await reader.readuntil(b"\r\n\r\n")
    async with asyncio.timeout(10):
        await live.server.close()
        rest = await reader.read()
    assert rest.count(b'"type":"ADDED"') == 4
    writer.close()


async def kubectl(live: Harness, *arguments: str, stdin: str = "", fails: bool = False) -> str:
    process = await asyncio.create_subprocess_exec(
        KUBECTL,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={
            **os.environ,
            "KUBECONFIG": str(live.server.config.kubeconfig),
            "HOME": str(live.server.config.pki),
        },
    )
    async with asyncio.timeout(30):
        out, _ = await process.communicate(stdin.encode())
    assert (process.returncode != 0) == fails, out.decode()
    return out.decode()


MANIFEST = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: nginx}]}
"""


@pytest.mark.skipif(
    not os.access(KUBECTL, os.X_OK), reason="kubectl is not there: tools/fetch_clients.py gets it"
)
async def test_kubectl(live: Harness) -> None:
    assert "v1.36.0+sampan" in await kubectl(live, "version")
    assert "created" in await kubectl(live, "apply", "-f", "-", stdin=MANIFEST)
    assert "unchanged" in await kubectl(live, "apply", "-f", "-", stdin=MANIFEST)
    assert "configured" in await kubectl(
        live, "apply", "-f", "-", stdin=MANIFEST.replace("nginx", "nginx:2")
    )
    # Typed commands send protobuf.
    assert "created" in await kubectl(
        live, "create", "deployment", "two", "--image=nginx", "--replicas=2"
    )
    assert "created" in await kubectl(
        live, "create", "secret", "generic", "s", "--from-literal=a=b"
    )
    assert await kubectl(live, "get", "secret", "s", "-o", "jsonpath={.data.a}") == "Yg=="
    assert "scaled" in await kubectl(live, "scale", "deployment/web", "--replicas=3")
    assert await kubectl(live, "get", "deploy", "web", "-o", "jsonpath={.spec.replicas}") == "3"
    assert "READY" in await kubectl(live, "get", "deploy", "-A", "-o", "wide")
    assert "nginx:2" in await kubectl(live, "describe", "deployment", "web")
    unknown = MANIFEST.replace("selector:", "selectr: {}\n  selector:")
    assert 'unknown field "spec.selectr"' in await kubectl(
        live, "apply", "-f", "-", stdin=unknown, fails=True
    )
    assert "yes" in await kubectl(live, "auth", "can-i", "create", "pods")
    assert "NotFound" in await kubectl(live, "get", "pod", "none", fails=True)
    assert "deleted" in await kubectl(live, "delete", "deployment", "web", "two", "--timeout=10s")


async def test_python_client(live: Harness) -> None:
    from kubernetes import client, config, watch

    def work() -> list[str]:
        configuration = client.Configuration()
        config.load_kube_config(
            str(live.server.config.kubeconfig), client_configuration=configuration
        )
        with client.ApiClient(configuration) as api:
            core = client.CoreV1Api(api)
            body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="a"), data={"x": "y"})
            start = core.create_namespaced_config_map("default", body).metadata.resource_version
            core.patch_namespaced_config_map("a", "default", {"data": {"x": "z"}})
            core.delete_namespaced_config_map("a", "default")
            events = watch.Watch().stream(
                core.list_namespaced_config_map,
                "default",
                resource_version=start,
                timeout_seconds=1,
            )
            return [event["type"] for event in events]

    assert await asyncio.to_thread(work) == ["MODIFIED", "DELETED"]


async def test_a_request_that_takes_too_long_gets_504(tmp_path: Path) -> None:
    harness = await open_server(tmp_path, request_timeout=0.05)
    await harness.server.start()

    async def never(request: Request) -> Response:
        await asyncio.Event().wait()
        raise AssertionError

    harness.server.handle = never  # type: ignore[method-assign]
    for method in (b"GET", b"DELETE"):
        reader, writer = await connect(harness)
        writer.write(method + b" /slow HTTP/1.1\r\n" + HEAD)
        assert b"504" in await reader.readline()
        writer.close()
    await harness.server.close()
    await harness.store.close()


async def test_a_client_that_does_not_finish_its_handshake_is_let_go(
    live: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "HANDSHAKE", 0.2)
    impatient = http.HTTPServer(live.server)
    port = impatient.bind("127.0.0.1", 0)
    await impatient.accept(live.server.pki)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"\x16\x03\x01\x02\x00")  # the head of a ClientHello
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    writer.close()
    await impatient.close()
