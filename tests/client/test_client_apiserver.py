"""The client, informer and event recorder against our own API server: in process and over TLS."""

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest
from client_api import config_map

from sampan.apiserver.config import ServerConfig
from sampan.apiserver.server import APIServer
from sampan.client import kubeconfig
from sampan.client.client import Client
from sampan.client.errors import Unreachable
from sampan.client.events import EventRecorder
from sampan.client.http import HTTPTransport
from sampan.client.informer import Informer
from sampan.client.inprocess import InProcess
from sampan.client.resources import CONFIGMAPS, EVENTS
from sampan.client.transport import User
from sampan.kube.errors import ApiError
from sampan.store.sqlite import SQLiteStore

DEADLINE = 20
ADMIN = User("system:admin", ("system:masters", "system:authenticated"))


@pytest.fixture
async def server(tmp_path):
    store = await SQLiteStore.open(tmp_path / "store" / "state.db")
    config = ServerConfig(tmp_path / "pki", tmp_path / "kubeconfig.yaml", port=0)
    server = APIServer(store, config)
    await server.start()
    yield server
    await server.close()
    await store.close()


@pytest.fixture(params=["in process", "https"])
async def real(request, server):
    if request.param == "https":
        client = Client(HTTPTransport(kubeconfig.load(server.config.kubeconfig)))
    else:
        client = Client(InProcess(server, ADMIN))
    yield client
    await client.close()


async def test_verbs(real):
    made = await real.create(CONFIGMAPS, config_map("a", k="1"))
    made["data"]["k"] = "2"
    updated = await real.update(CONFIGMAPS, made)
    with pytest.raises(ApiError) as conflict:
        await real.update(CONFIGMAPS, made)
    assert conflict.value.reason == "Conflict"
    patched = await real.patch(CONFIGMAPS, "a", {"data": {"l": "3"}}, "default")
    assert patched["data"] == {"k": "2", "l": "3"}
    assert patched["metadata"]["uid"] == updated["metadata"]["uid"]
    page = await real.list(CONFIGMAPS, "default", field_selector="metadata.name=a")
    assert [(obj["kind"], obj["apiVersion"]) for obj in page.items] == [("ConfigMap", "v1")]
    await real.delete(CONFIGMAPS, "a", "default", uid=made["metadata"]["uid"])
    with pytest.raises(ApiError) as missing:
        await real.get(CONFIGMAPS, "a", "default")
    assert missing.value.message == 'configmaps "a" not found'


async def test_watch(real):
    page = await real.list(CONFIGMAPS, "default")
    seen = []
    async with asyncio.timeout(DEADLINE):
        watch = real.watch(CONFIGMAPS, "default", resource_version=page.resource_version)
        async with aclosing(watch) as events:
            await real.create(CONFIGMAPS, config_map("w", k="1"))
            await real.patch(CONFIGMAPS, "w", {"data": {"k": "2"}}, "default")
            await real.delete(CONFIGMAPS, "w", "default")
            async for event in events:
                if event.object["metadata"]["name"] == "w":
                    seen.append(event.type)
                if len(seen) == 3:
                    break
    assert seen == ["ADDED", "MODIFIED", "DELETED"]


async def test_informer_follows(real):
    await real.create(CONFIGMAPS, config_map("before"))
    informer = Informer(real, CONFIGMAPS, "default")
    changed = asyncio.Event()
    informer.add_handler(lambda *_: changed.set())
    running = asyncio.ensure_future(informer.run())
    async with asyncio.timeout(DEADLINE):
        await informer.synced()
        assert informer.get("default", "before") is not None
        assert informer._streamed_list  # the server can
        await real.create(CONFIGMAPS, config_map("after", k="1"))
        while informer.get("default", "after") is None:
            changed.clear()
            await changed.wait()
        await real.delete(CONFIGMAPS, "before", "default")
        while informer.get("default", "before") is not None:
            changed.clear()
            await changed.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_events_are_counted(real):
    made = await real.create(CONFIGMAPS, config_map("a"))
    recorder = EventRecorder(real, "test", "host")
    running = asyncio.ensure_future(recorder.run())
    for _ in range(3):
        recorder.event(made, "Warning", "Broken", "it broke")
    async with asyncio.timeout(DEADLINE):
        await recorder.flush()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    page = await real.list(EVENTS, "default", field_selector="involvedObject.name=a")
    assert [(event["reason"], event["count"]) for event in page.items] == [("Broken", 3)]


async def test_a_proxy_is_asked_for_a_tunnel(server):
    config = kubeconfig.load(server.config.kubeconfig)
    asked = []

    async def pump(reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def proxy(reader, writer):
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
        if "Basic dTpw" not in asked[0]:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            writer.close()
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(
            pump(reader, far_writer), pump(far_reader, writer), return_exceptions=True
        )

    listener = await asyncio.start_server(proxy, "127.0.0.1", 0)
    at = listener.sockets[0].getsockname()[1]
    for login, good in (("u:p@", True), ("", False)):
        asked.clear()
        far = replace(
            config,
            server="https://far.example:6443",
            tls_server_name="localhost",
            proxy=f"http://{login}127.0.0.1:{at}",
        )
        async with asyncio.timeout(DEADLINE):
            client = Client(HTTPTransport(far))
            if good:
                assert (await client.list(CONFIGMAPS, "default")).items is not None
            else:
                with pytest.raises(Unreachable, match="407"):
                    await client.list(CONFIGMAPS, "default")
            await client.close()
        assert asked[0].startswith("CONNECT far.example:6443 HTTP/1.1\r\nHost: far.example:6443")
    listener.close()
