"""Certificates that are replaced while everything runs: the server's own, and a node's through the API."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from apiserver_harness import Harness, open_server

from sampan import controllers
from sampan.apiserver.pki import LEAF_LIFETIME, Leaf, Pair, issue
from sampan.apiserver.signing import sign
from sampan.client.client import Client
from sampan.client.http import HTTPTransport
from sampan.client.inprocess import InProcess
from sampan.client.kubeconfig import load
from sampan.client.transport import Request, User
from sampan.kube.der import read_certificate
from sampan.node.certificates import Own, Rotation, due, granted, replace

ADMIN = User("admin", ("system:masters", "system:authenticated"))


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Harness]:
    harness = await open_server(tmp_path, authorization=True)
    await harness.server.start()
    yield harness
    await harness.server.close()
    await harness.store.close()


def age(live: Harness, pair: Pair, days: int = 300) -> None:
    """The same certificate as if it had been issued so many days ago."""
    old = read_certificate(pair.crt.read_bytes())
    leaf = Leaf(pair, old.common_name, old.organizations, old.names)
    issue(leaf, live.server.pki.ca, datetime.now(UTC) - timedelta(days=days))


async def shown(live: Harness) -> tuple[bytes, asyncio.StreamReader, asyncio.StreamWriter]:
    """The certificate that a new connection is shown (DER), and the connection."""
    context = ssl.create_default_context(cafile=str(live.server.pki.ca.crt))
    reader, writer = await asyncio.open_connection("127.0.0.1", live.server.port, ssl=context)
    return writer.get_extra_info("ssl_object").getpeercert(True), reader, writer


async def test_the_server_renews_its_own(live: Harness) -> None:
    server = live.server
    before, reader, writer = await shown(live)
    config = server.config.kubeconfig.read_bytes()
    assert not await server.renewal.renew()  # nothing is due
    key = server.pki.apiserver.key.read_bytes()
    for pair in (server.pki.apiserver, server.pki.admin, server.pki.kubelet_client):
        age(live, pair)
    assert await server.renewal.renew()
    after, _, other = await shown(live)
    assert after != before
    assert ssl.PEM_cert_to_DER_cert(server.pki.apiserver.crt.read_text()) == after
    assert server.pki.apiserver.key.read_bytes() == key
    writer.write(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")  # the old connection goes on
    assert b" 200 " in await reader.readline()
    for each in (writer, other):
        each.close()
    assert server.config.kubeconfig.read_bytes() != config
    client = Client(HTTPTransport(load(server.config.kubeconfig)))
    assert (await client.raw("GET", "/readyz")).status == 200
    await client.close()
    left = read_certificate(server.pki.admin.crt.read_bytes()).not_after - datetime.now(UTC)
    assert left > timedelta(days=360)


async def test_a_connection_ends_with_the_certificate_that_opened_it(live: Harness) -> None:
    pki = live.server.pki
    pair = Pair(pki.directory / "brief.crt", pki.directory / "brief.key")
    leaf = Leaf(pair, "brief", ("system:masters",))
    issue(leaf, pki.ca, datetime.now(UTC) - LEAF_LIFETIME + timedelta(seconds=2))
    context = ssl.create_default_context(cafile=str(pki.ca.crt))
    context.load_cert_chain(pair.crt, pair.key)
    reader, writer = await asyncio.open_connection("127.0.0.1", live.server.port, ssl=context)
    writer.write(b"GET /api/v1/pods?watch=true HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b" 200 " in await reader.readline()
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionError):
            await reader.read()  # to its end
    assert datetime.now(UTC) >= read_certificate(pair.crt.read_bytes()).not_after
    writer.close()
    with pytest.raises((ssl.SSLError, ConnectionError)):  # and a new one does not begin
        reader, writer = await asyncio.open_connection("127.0.0.1", live.server.port, ssl=context)
        writer.write(b"GET /api/v1/pods HTTP/1.1\r\nHost: x\r\n\r\n")
        if not await reader.readline():
            raise ConnectionResetError


async def test_what_cannot_be_renewed_is_said_and_tried_again(
    live: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    pki = live.server.pki
    age(live, pki.admin)
    pki.ca.key.rename(pki.directory / "away")
    assert not await live.server.renewal.renew()
    assert "certificates cannot be renewed" in caplog.text
    (pki.directory / "away").rename(pki.ca.key)
    assert await live.server.renewal.renew()


async def test_a_node_renews_both_of_its_own(live: Harness) -> None:
    pki, ready = live.server.pki, asyncio.Event()
    name = read_certificate(pki.node.crt.read_bytes()).common_name.removeprefix("system:node:")
    manager = Client(InProcess(live.server, ADMIN))
    running = asyncio.ensure_future(
        controllers.run(manager, sign=partial(sign, pki.ca), ready=ready)
    )
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
    await live.call("POST", "/api/v1/nodes", node)
    status = {"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.7"}]}}
    await live.patch("merge", f"/api/v1/nodes/{name}/status", status)
    for pair in (pki.node, pki.node_serving):
        age(live, pair)
    kubeconfig = load(live.server.config.kubeconfig)
    transport = HTTPTransport(kubeconfig)
    transport.credentials.renew(pki.node.crt.read_bytes(), pki.node.key.read_bytes())
    client = Client(transport)
    first, done = await identity(client), {True: asyncio.Event(), False: asyncio.Event()}

    def use_client() -> None:
        transport.credentials.renew(pki.node.crt.read_bytes(), pki.node.key.read_bytes())
        done[False].set()

    rotation = Rotation(
        client,
        name,
        (
            Own(pki.node.crt, pki.node.key, serving=False, renewed=use_client),
            Own(pki.node_serving.crt, pki.node_serving.key, serving=True, renewed=done[True].set),
        ),
    )
    rotating = asyncio.ensure_future(rotation.run())
    try:
        async with asyncio.timeout(20):
            await ready.wait()
            await asyncio.gather(done[True].wait(), done[False].wait())
        second = await identity(client)
        assert second["username"] == first["username"] == f"system:node:{name}"
        assert second["extra"] != first["extra"]  # another certificate: X509SHA256 differs
        served = read_certificate(pki.node_serving.crt.read_bytes())
        assert served.names == {name, "localhost", "127.0.0.1", "::1", "192.0.2.7"}
        assert due(served) > datetime.now(UTC).timestamp() + 200 * 86400
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pki.node_serving.crt, pki.node_serving.key)
    finally:
        rotating.cancel()
        running.cancel()
        await asyncio.gather(rotating, running, return_exceptions=True)
        await client.close()


async def identity(client: Client) -> dict[str, Any]:
    answer = await client.transport.send(
        Request(
            "POST",
            "/apis/authentication.k8s.io/v1/selfsubjectreviews",
            headers={"content-type": "application/json"},
            body=b'{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}',
        )
    )
    assert answer.status == 201, answer.body
    found: dict[str, Any] = answer.json()["status"]["userInfo"]
    return found


def test_what_was_refused_is_no_certificate(tmp_path: Path) -> None:
    request: dict[str, Any] = {"metadata": {"name": "csr-x"}, "status": {}}
    assert granted(request) == b""
    request["status"] = {"conditions": [{"type": "Denied", "message": "not you"}]}
    with pytest.raises(ValueError, match="not you"):
        granted(request)
    path = tmp_path / "node.crt"
    path.write_bytes(b"old")
    with pytest.raises(ValueError):
        replace(path, b"")
    assert path.read_bytes() == b"old"
