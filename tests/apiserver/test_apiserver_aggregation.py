"""Aggregation against a real HTTPS server that asks for our front-proxy certificate, as extension API servers do."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from apiserver_harness import Harness, open_server

from sampan.apiserver.aggregation import documents, services
from sampan.apiserver.pki import Leaf, Pair, PKIPaths, ensure_pki, issue

GROUP, VERSION = "harbour.example.com", "v1alpha1"
BASE = f"/apis/{GROUP}/{VERSION}"
REGISTRATION = "/apis/apiregistration.k8s.io/v1/apiservices"
NAME = f"{VERSION}.{GROUP}"
AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
DEADLINE = 20


class Extension:
    """Knows ships, tells who asked, streams a watch, and echoes what is sent over a WebSocket."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, list[str]]]] = []
        self.healthy = True
        self.port = 0
        self.runner: web.AppRunner | None = None

    async def start(self, trust: dict[str, str], pki: PKIPaths, directory: Path) -> None:
        leaf = Leaf(
            Pair(directory / "harbour.crt", directory / "harbour.key"),
            "harbour",
            names=frozenset({"harbour.default.svc"}),
        )
        issue(leaf, pki.ca, datetime.now(UTC))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(leaf.pair.crt, leaf.pair.key)
        context.load_verify_locations(cadata=trust["requestheader-client-ca-file"])
        context.verify_mode = ssl.CERT_REQUIRED
        app = web.Application()
        app.router.add_route("*", "/{rest:.*}", self.answer)
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", self.port, ssl_context=context)
        await site.start()
        self.port = self.runner.addresses[0][1]

    async def stop(self) -> None:
        if self.runner is not None:
            await self.runner.cleanup()
            self.runner = None

    async def answer(self, request: web.Request) -> web.StreamResponse:
        subject = dict(each[0] for each in request.get_extra_info("peercert")["subject"])
        assert subject["commonName"] == "front-proxy-client"
        identity: dict[str, list[str]] = {}
        for name, value in request.headers.items():
            if name.lower().startswith("x-remote-"):
                identity.setdefault(name, []).append(value)
        self.asked.append((f"{request.method} {request.path_qs}", identity))
        if not self.healthy:
            return web.Response(status=500, text="sinking")
        ship = {"apiVersion": f"{GROUP}/{VERSION}", "kind": "Ship", "metadata": {"name": "argo"}}
        if request.path == BASE:
            return web.json_response(self.resources())
        if request.path == "/openapi/v3":
            place = f"apis/{GROUP}/{VERSION}"
            return web.json_response(
                {"paths": {place: {"serverRelativeURL": f"/openapi/v3/{place}?hash=AB"}}}
            )
        if request.path == "/openapi/v2":
            return web.json_response(
                {
                    "swagger": "2.0",
                    "paths": {f"{BASE}/ships": {"get": {}}, "/apis/other/v1/x": {"get": {}}},
                    "definitions": {"com.example.Ship": {"type": "object"}},
                }
            )
        if "watch" in request.query:
            stream = web.StreamResponse()
            await stream.prepare(request)
            for kind in ("ADDED", "MODIFIED"):
                await stream.write(json.dumps({"type": kind, "object": ship}).encode() + b"\n")
            return stream
        if request.headers.get("Upgrade", "").lower() == "websocket":
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            async for message in socket:
                await socket.send_str(message.data.upper())
            return socket
        if request.method == "POST":
            return web.json_response({**ship, "spec": await request.json()}, status=201)
        if request.path.endswith("/none"):
            status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404}
            return web.json_response(status, status=404)
        return web.json_response(ship, headers={"X-Harbour": "yes"})

    @staticmethod
    def resources() -> dict[str, Any]:
        ships = {"name": "ships", "singularName": "ship", "namespaced": True, "kind": "Ship"}
        return {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": f"{GROUP}/{VERSION}",
            "resources": [
                {**ships, "verbs": ["get", "list"], "shortNames": ["sh"]},
                {"name": "ships/crew", "namespaced": True, "kind": "Crew", "verbs": ["get"]},
            ],
        }


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Harness]:
    harness = await open_server(tmp_path, authorization=True)
    await harness.server.start()
    yield harness
    await harness.server.close()
    await harness.store.close()


@pytest.fixture
async def extension(live: Harness, tmp_path: Path) -> AsyncIterator[Extension]:
    path = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication"
    trust = (await live.call("GET", path))["data"]
    assert json.loads(trust["requestheader-allowed-names"]) == ["front-proxy-client"]
    assert trust["client-ca-file"] == live.server.pki.ca.crt.read_text()
    extension = Extension()
    await extension.start(trust, live.server.pki, tmp_path)
    yield extension
    await extension.stop()


def service(port: int) -> dict[str, Any]:
    spec = {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]}
    return {"metadata": {"name": "harbour"}, "spec": spec}


def registration(live: Harness, port: int, **spec: Any) -> dict[str, Any]:
    bundle = base64.b64encode(live.server.pki.ca.crt.read_bytes()).decode()
    return {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": NAME},
        "spec": {
            "group": GROUP,
            "version": VERSION,
            "groupPriorityMinimum": 1000,
            "versionPriority": 15,
            "service": {"name": "harbour", "namespace": "default", "port": port},
            "caBundle": bundle,
            **spec,
        },
    }


async def told(live: Harness, reason: str) -> dict[str, Any]:
    """The condition Available, as soon as it gives this reason."""
    async with asyncio.timeout(DEADLINE):
        path = f"{REGISTRATION}?watch=1&fieldSelector=metadata.name={NAME}"
        async for event in live.watch(path):
            for each in event["object"].get("status", {}).get("conditions", ()):
                if each["type"] == "Available" and each["reason"] == reason:
                    return dict(each)
    raise AssertionError(reason)


async def register(live: Harness, extension: Extension) -> None:
    await live.call("POST", "/api/v1/namespaces/default/services", service(extension.port))
    await live.call("POST", REGISTRATION, registration(live, extension.port))
    assert (await told(live, "Passed"))["status"] == "True"


def client(live: Harness) -> aiohttp.ClientSession:
    pki = live.server.pki
    context = ssl.create_default_context(cafile=str(pki.ca.crt))
    context.load_cert_chain(pki.admin.crt, pki.admin.key)
    connector = aiohttp.TCPConnector(ssl=context)
    return aiohttp.ClientSession(live.server.address, connector=connector)


async def test_requests_reach_the_extension_with_the_name_of_who_asks(
    live: Harness, extension: Extension
) -> None:
    await register(live, extension)
    extension.asked.clear()
    async with client(live) as session:
        as_alice = {
            "Impersonate-User": "alice",
            "Impersonate-Group": "system:masters",
            "Impersonate-Extra-Harbour%2fpilot": "yes",
            "X-Remote-User": "root",
            "X-Remote-Group": "thieves",
        }
        path = f"{BASE}/namespaces/default/ships"
        async with session.get(f"{path}/argo?x=1%2B1", headers=as_alice) as answer:
            assert (answer.status, answer.headers["X-Harbour"]) == (200, "yes")
            assert (await answer.json())["kind"] == "Ship"
        asked, identity = extension.asked[-1]
        assert asked == f"GET {path}/argo?x=1%2B1"
        assert identity["X-Remote-User"] == ["alice"]
        assert set(identity["X-Remote-Group"]) == {"system:masters", "system:authenticated"}
        extra = {name.lower(): value for name, value in identity.items()}
        assert extra["x-remote-extra-harbour%2fpilot"] == ["yes"]
        async with session.post(path, json={"sails": 2}) as answer:
            assert answer.status == 201
            assert (await answer.json())["spec"] == {"sails": 2}
        async with session.get(f"{path}/none") as answer:
            assert answer.status == 404
        async with session.get(f"{path}?watch=1") as answer:
            events = [json.loads(line)["type"] async for line in answer.content]
            assert events == ["ADDED", "MODIFIED"]
        async with session.ws_connect(f"{path}/argo/deck") as socket:
            await socket.send_str("ahoy")
            assert await socket.receive_str(timeout=DEADLINE) == "AHOY"
    # RBAC of this server is in front: nobody gets through who may not.
    nobody = {"Impersonate-User": "bob"}
    count = len(extension.asked)
    path = f"{BASE}/namespaces/default/ships"
    async with client(live) as session, session.get(path, headers=nobody) as answer:
        assert answer.status == 403
    assert len(extension.asked) == count


async def test_discovery_and_openapi_tell_of_it(live: Harness, extension: Extension) -> None:
    before = await live.send("GET", "/apis", accept=AGGREGATED)
    await register(live, extension)
    groups = {each["name"]: each for each in (await live.call("GET", "/apis"))["groups"]}
    assert groups[GROUP]["preferredVersion"]["groupVersion"] == f"{GROUP}/{VERSION}"
    assert "apps" in groups and "metrics.k8s.io" in groups
    assert (await live.call("GET", f"/apis/{GROUP}"))["versions"] == groups[GROUP]["versions"]
    assert (await live.call("GET", BASE))["resources"] == Extension.resources()["resources"]
    response = await live.send("GET", "/apis", accept=AGGREGATED)
    assert response.headers["ETag"] != before.headers["ETag"]
    assert "APIGroupDiscoveryList" in response.headers["Content-Type"]
    items = {each["metadata"]["name"]: each for each in response.json()["items"]}
    (version,) = items[GROUP]["versions"]
    (ships,) = version["resources"]
    assert (ships["resource"], ships["scope"], ships["shortNames"]) == (
        "ships",
        "Namespaced",
        ["sh"],
    )
    assert ships["subresources"][0]["subresource"] == "crew"
    assert version["freshness"] == "Current"
    index = (await live.call("GET", "/openapi/v3"))["paths"]
    assert index[f"apis/{GROUP}/{VERSION}"]["serverRelativeURL"].endswith("?hash=AB")
    assert "apis/apps/v1" in index and "apis/metrics.k8s.io/v1beta1" in index
    await live.call("GET", f"/openapi/v3/apis/{GROUP}/{VERSION}?hash=AB")
    assert extension.asked[-1][0] == f"GET /openapi/v3/apis/{GROUP}/{VERSION}?hash=AB"
    swagger = await live.call("GET", "/openapi/v2", accept="application/json")
    assert "com.example.Ship" in swagger["definitions"]
    assert f"{BASE}/ships" in swagger["paths"] and "/apis/other/v1/x" not in swagger["paths"]
    assert "/api/v1/namespaces/{namespace}/pods" in swagger["paths"]
    await live.call("DELETE", f"{REGISTRATION}/{NAME}")
    async with asyncio.timeout(DEADLINE):
        while GROUP in {each["name"] for each in (await live.call("GET", "/apis"))["groups"]}:
            await asyncio.sleep(0)
    assert (await live.send("GET", f"{BASE}/ships")).status == 404


async def test_the_condition_says_why_it_cannot_be_reached(
    live: Harness, extension: Extension
) -> None:
    await live.call("POST", REGISTRATION, registration(live, extension.port))
    condition = await told(live, "ServiceNotFound")
    assert condition["status"] == "False"
    assert condition["message"] == 'service/harbour in "default" is not present'
    refused = await live.send("GET", f"{BASE}/namespaces/default/ships")
    assert (refused.status, refused.body) == (503, b"service unavailable\n")
    items = (await live.send("GET", "/apis", accept=AGGREGATED)).json()["items"]
    stale = next(each for each in items if each["metadata"]["name"] == GROUP)
    assert stale["versions"][0]["freshness"] == "Stale"
    ported = {"metadata": {"name": "harbour"}, "spec": {"ports": [{"port": 1, "name": "a"}]}}
    path = "/api/v1/namespaces/default/services"
    await live.call("POST", path, ported)
    condition = await told(live, "ServicePortError")
    assert condition["message"].endswith(f"is not listening on port {extension.port}")
    await live.call("DELETE", f"{path}/harbour")
    await live.call("POST", path, service(extension.port))
    await told(live, "Passed")
    # An authority that is not its own.
    wrong = base64.b64encode(live.server.pki.front_proxy_ca.crt.read_bytes()).decode()
    await live.patch("merge", f"{REGISTRATION}/{NAME}", {"spec": {"caBundle": wrong}})
    condition = await told(live, "FailedDiscoveryCheck")
    assert f"https://harbour.default.svc:{extension.port}{BASE}" in condition["message"]
    anyone = {"spec": {"caBundle": None, "insecureSkipTLSVerify": True}}
    await live.patch("merge", f"{REGISTRATION}/{NAME}", anyone)
    await told(live, "Passed")
    extension.healthy = False
    priority = {"spec": {"versionPriority": 16}}  # a change, so that it is looked at now
    await live.patch("merge", f"{REGISTRATION}/{NAME}", priority)
    condition = await told(live, "FailedDiscoveryCheck")
    assert "bad status" in condition["message"]


async def test_a_service_without_endpoints(live: Harness, extension: Extension) -> None:
    ports = [{"port": 443, "name": "https", "protocol": "TCP"}]
    obj = {"metadata": {"name": "harbour"}, "spec": {"ports": ports}}
    await live.call("POST", "/api/v1/namespaces/default/services", obj)
    await live.call("POST", REGISTRATION, registration(live, 443))
    await told(live, "EndpointsNotFound")
    piece = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "h", "labels": {"kubernetes.io/service-name": "harbour"}},
        "addressType": "IPv4",
        "ports": [{"name": "https", "port": 8443, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["192.0.2.7"], "conditions": {"ready": False}}],
    }
    slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
    await live.call("POST", slices, piece)
    condition = await told(live, "MissingEndpoints")
    assert condition["message"].endswith('have no addresses with port name "https"')


async def test_what_is_served_here_is_local(live: Harness) -> None:
    found = (await live.call("GET", REGISTRATION))["items"]
    names = {each["metadata"]["name"] for each in found}
    assert {"v1.", "v1.apps", "v2.autoscaling", "v1beta1.metrics.k8s.io"} <= names
    for each in found:
        (condition,) = each["status"]["conditions"]
        assert (condition["status"], condition["reason"]) == ("True", "Local")
        assert "service" not in each["spec"]
    await live.call("DELETE", f"{REGISTRATION}/v1.apps")  # it comes back: it is still served
    async with asyncio.timeout(DEADLINE):
        async for event in live.watch(
            f"{REGISTRATION}?watch=1&fieldSelector=metadata.name=v1.apps"
        ):
            if event["type"] == "ADDED":
                break
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "boats.sea.example.com"},
        "spec": {
            "group": "sea.example.com",
            "scope": "Namespaced",
            "names": {"plural": "boats", "kind": "Boat"},
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": {"type": "object"}},
                }
            ],
        },
    }
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    await live.call("POST", path, definition)
    name = "v1.sea.example.com"
    async with asyncio.timeout(DEADLINE):
        async for event in live.watch(f"{REGISTRATION}?watch=1&fieldSelector=metadata.name={name}"):
            if event["type"] == "ADDED":
                assert event["object"]["metadata"]["labels"][services.AUTOMANAGED] == "true"
                break
        await live.call("DELETE", f"{path}/boats.sea.example.com")
        async for event in live.watch(f"{REGISTRATION}?watch=1&fieldSelector=metadata.name={name}"):
            if event["type"] == "DELETED":
                break


def test_versions_are_joined_by_priority() -> None:
    order = {
        ("b", "v1"): (100, 5),
        ("b", "v2"): (100, 9),
        ("a", "v1"): (100, 1),
        ("c", "v1"): (200, 1),
    }
    assert list(documents.by_group(order).items()) == [
        ("c", ["v1"]),
        ("a", ["v1"]),
        ("b", ["v2", "v1"]),
    ]
    base = {"groups": [documents.api_group("b", ["v3"])]}
    groups = documents.group_list(base, order)["groups"]
    assert [each["version"] for each in groups[0]["versions"]] == ["v3", "v2", "v1"]


def test_the_front_proxy_has_an_authority_of_its_own(tmp_path: Path) -> None:
    pki = ensure_pki(tmp_path)
    assert pki.front_proxy_ca.crt.read_bytes() != pki.ca.crt.read_bytes()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(pki.front_proxy_ca.crt)
    context.load_cert_chain(pki.front_proxy_client.crt, pki.front_proxy_client.key)
    before = pki.front_proxy_client.crt.read_bytes()
    assert ensure_pki(tmp_path).front_proxy_client.crt.read_bytes() == before
