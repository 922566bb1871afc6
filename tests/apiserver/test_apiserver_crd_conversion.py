"""Conversion by webhook: a real HTTPS server converts, and every failure of it is told as Kubernetes tells it."""

from __future__ import annotations

import asyncio
import base64
import datetime
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from apiserver_harness import Harness, api
from crd_harness import BOATS, GROUP, INTEGER, STRING, boat, definition, establish, version
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["api"]

Object = dict[str, Any]
BETAS = BOATS.replace("/v1/", "/v1beta1/")


def certificate(directory: Path, *names: str) -> tuple[Path, Path]:
    """A self-signed certificate for these DNS names and 127.0.0.1, and its key."""
    import ipaddress

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "webhook")])
    now = datetime.datetime.now(datetime.UTC)
    others: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
    others.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    found = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(others), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    crt, pem = directory / "tls.crt", directory / "tls.key"
    crt.write_bytes(found.public_bytes(serialization.Encoding.PEM))
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return crt, pem


class Webhook:
    """v1 has `crew`, v1beta1 has `hands`; the reviews seen are kept."""

    def __init__(self) -> None:
        self.reviews: list[Object] = []
        self.spoil: Callable[[Object], Object | None] | None = None
        self.bundle = ""
        self.port = 0

    async def handle(self, request: web.Request) -> web.Response:
        review = await request.json()
        self.reviews.append(review)
        asked = review["request"]
        converted = [self.convert(each, asked["desiredAPIVersion"]) for each in asked["objects"]]
        response: Object = {
            "uid": asked["uid"],
            "result": {"status": "Success"},
            "convertedObjects": converted,
        }
        answer: Object | None = {
            "apiVersion": review["apiVersion"],
            "kind": review["kind"],
            "response": response,
        }
        if self.spoil is not None:
            answer = self.spoil(answer)  # type: ignore[arg-type]
        return (
            web.json_response(answer) if answer is not None else web.Response(status=500, text="no")
        )

    @staticmethod
    def convert(obj: Object, api_version: str) -> Object:
        names = ("crew", "hands") if api_version.endswith("beta1") else ("hands", "crew")
        spec = dict(obj["spec"])
        if names[0] in spec:
            spec[names[1]] = spec.pop(names[0])
        return {**obj, "apiVersion": api_version, "spec": spec}

    @property
    def calls(self) -> int:
        return len(self.reviews)


@pytest.fixture
async def webhook(tmp_path: Path) -> AsyncIterator[Webhook]:
    found = Webhook()
    crt, key = certificate(tmp_path, "boats.default.svc")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(crt, key)
    app = web.Application()
    app.router.add_post("/convert", found.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    found.port = runner.addresses[0][1]
    found.bundle = base64.b64encode(crt.read_bytes()).decode()
    yield found
    await runner.cleanup()


def converted_by(config: Object, **spec: Any) -> Object:
    beta = {"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "name": STRING, "hands": {**INTEGER, "maximum": 5}, "rig": {**STRING, "default": "lug"},
    }}}}  # fmt: skip
    plain = {"selectableFields": [{"jsonPath": ".spec.hands"}], "subresources": {"status": {}}}
    conversion = {
        "strategy": "Webhook",
        "webhook": {"clientConfig": config, "conversionReviewVersions": ["v1"]},
    }
    return definition(
        version("v1"),
        version("v1beta1", storage=False, schema={"openAPIV3Schema": beta}, **plain),
        conversion=conversion,
        **spec,
    )


@pytest.fixture
async def boats(api: Harness, webhook: Webhook) -> Harness:
    config = {"url": f"https://127.0.0.1:{webhook.port}/convert", "caBundle": webhook.bundle}
    await establish(api, converted_by(config))
    return api


async def test_objects_are_kept_in_one_version_and_shown_in_both(
    boats: Harness, webhook: Webhook
) -> None:
    made = await boats.call(
        "POST", BETAS, {**boat("a", "v1beta1"), "spec": {"name": "a", "hands": 3}}
    )
    assert made["apiVersion"] == f"{GROUP}/v1beta1"
    assert made["spec"] == {"name": "a", "hands": 3, "rig": "lug"}
    record = await boats.store.get(f"/registry/{GROUP}/boats/default/a")
    assert record is not None and b'"crew":3' in record.value and b'"hands":' not in record.value
    assert (await boats.call("GET", f"{BOATS}/a"))["spec"] == {"name": "a", "crew": 3}
    # The other version's own rules hold, and what it changes arrives in the stored one.
    refused = await boats.call("PATCH", f"{BETAS}/a", {"spec": {"hands": 6}}, 422, content="application/merge-patch+json")  # fmt: skip
    assert "spec.hands in body should be less than or equal to 5" in refused["message"]
    assert (await boats.patch("merge", f"{BETAS}/a", {"spec": {"hands": 4}}))["spec"]["hands"] == 4
    assert (await boats.call("GET", f"{BOATS}/a"))["spec"]["crew"] == 4
    assert (await boats.patch("merge", f"{BOATS}/a", {"spec": {"crew": 2}}))["spec"]["crew"] == 2


async def test_the_stored_version_needs_no_webhook(boats: Harness, webhook: Webhook) -> None:
    await boats.call("POST", BOATS, boat("a"))
    await boats.patch("merge", f"{BOATS}/a", {"spec": {"crew": 2}})
    await boats.call("GET", BOATS)
    await boats.call("DELETE", f"{BOATS}/a")
    assert webhook.calls == 0


async def test_a_list_is_converted_at_once(boats: Harness, webhook: Webhook) -> None:
    for name in "abc":
        await boats.call("POST", BOATS, boat(name))
    before = webhook.calls
    listed = await boats.call("GET", BETAS)
    assert [each["spec"]["hands"] for each in listed["items"]] == [1, 1, 1]
    assert webhook.calls == before + 1 and len(webhook.reviews[-1]["request"]["objects"]) == 3
    await boats.call("GET", BETAS)
    assert webhook.calls == before + 1, "what was converted is remembered"


async def test_watches_show_converted_objects(boats: Harness, webhook: Webhook) -> None:
    await boats.call("POST", BOATS, boat("a"))
    stream = boats.watch(f"{BETAS}?watch=true")
    async with asyncio.timeout(10):
        assert (await anext(stream))["object"]["spec"]["hands"] == 1
        await boats.patch("merge", f"{BOATS}/a", {"spec": {"crew": 2}})
        assert (await anext(stream))["object"]["spec"]["hands"] == 2
        await boats.call("DELETE", f"{BOATS}/a")
        event = await anext(stream)
    assert (event["type"], event["object"]["apiVersion"]) == ("DELETED", f"{GROUP}/v1beta1")


async def test_selectors_speak_of_the_version_that_is_asked(
    boats: Harness, webhook: Webhook
) -> None:
    for name, crew in (("a", 1), ("b", 2)):
        await boats.call("POST", BOATS, boat(name, crew=crew))
    path = f"{BETAS}?fieldSelector=spec.hands=2"
    assert [each["metadata"]["name"] for each in (await boats.call("GET", path))["items"]] == ["b"]
    stream = boats.watch(f"{path}&watch=true")
    async with asyncio.timeout(10):
        seen = [await anext(stream)]
        await boats.patch("merge", f"{BOATS}/a", {"spec": {"crew": 2}})
        seen.append(await anext(stream))
        await boats.patch("merge", f"{BOATS}/b", {"spec": {"crew": 3}})
        seen.append(await anext(stream))
    told = [(each["type"], each["object"]["metadata"]["name"]) for each in seen]
    assert told == [("ADDED", "b"), ("ADDED", "a"), ("DELETED", "b")]
    assert seen[1]["object"]["spec"]["hands"] == 2


SPOILT: dict[str, tuple[Callable[[Object], Object | None], str]] = {
    "refuses": (
        lambda answer: {**answer, "response": {**answer["response"], "result": {"status": "Failure", "message": "not today"}}},
        "failed: not today",
    ),
    "answers another": (
        lambda answer: {**answer, "response": {**answer["response"], "uid": "x"}},
        'got "x"',
    ),
    "loses one": (
        lambda answer: {**answer, "response": {**answer["response"], "convertedObjects": []}},
        "returned 0 objects, expected 1",
    ),
    "does nothing": (
        lambda answer: {**answer, "response": {**answer["response"], "convertedObjects": [
            {**each, "apiVersion": f"{GROUP}/v1"} for each in answer["response"]["convertedObjects"]]}},
        f"invalid groupVersion (expected {GROUP}/v1beta1, received {GROUP}/v1)",
    ),
    "renames": (
        lambda answer: {**answer, "response": {**answer["response"], "convertedObjects": [
            {**each, "metadata": {**each["metadata"], "name": "z"}} for each in answer["response"]["convertedObjects"]]}},
        "must have the same name: a != z",
    ),
    "breaks": (lambda answer: None, 'an error on the server ("no") has prevented the request from succeeding'),
}  # fmt: skip


@pytest.mark.parametrize("how", SPOILT)
async def test_failures(boats: Harness, webhook: Webhook, how: str) -> None:
    await boats.call("POST", BOATS, boat("a"))
    webhook.spoil, expected = SPOILT[how]
    answer = await boats.call("GET", f"{BETAS}/a", None, 500)
    assert answer["message"].startswith(f"conversion webhook for {GROUP}/v1, Kind=Boat ")
    assert expected in answer["message"]
    webhook.spoil = None
    assert (await boats.call("GET", f"{BETAS}/a"))["spec"]["hands"] == 1


async def test_a_watch_tells_that_it_cannot_go_on(boats: Harness, webhook: Webhook) -> None:
    stream = boats.watch(f"{BETAS}?watch=true&resourceVersion=0")
    webhook.spoil = lambda answer: None
    async with asyncio.timeout(10):
        first = asyncio.ensure_future(anext(stream))
        await boats.call("POST", BOATS, boat("a"))
        event = await first
    assert event["type"] == "ERROR" and event["object"]["code"] == 500
    assert [each async for each in stream] == []


async def test_metadata_is_not_the_webhooks(boats: Harness, webhook: Webhook) -> None:
    def meddle(answer: Object) -> Object:
        for each in answer["response"]["convertedObjects"]:
            each["metadata"] = {**each["metadata"], "generation": 99, "labels": {"seen": "yes"}}
        return answer

    webhook.spoil = meddle
    await boats.call("POST", BOATS, boat("a"))
    found = await boats.call("GET", f"{BETAS}/a")
    assert found["metadata"]["generation"] == 1 and found["metadata"]["labels"] == {"seen": "yes"}


async def test_nobody_there_and_nobody_trusted(api: Harness, webhook: Webhook) -> None:
    config = {"url": f"https://127.0.0.1:{webhook.port}/convert"}
    await establish(api, converted_by(config))
    await api.call("POST", BOATS, boat("a"))
    answer = await api.call("GET", f"{BETAS}/a", None, 500)
    assert "x509: certificate signed by unknown authority" in answer["message"]


async def test_a_service_of_the_cluster(api: Harness, webhook: Webhook) -> None:
    service = {"namespace": "default", "name": "boats", "path": "/convert"}
    await establish(api, converted_by({"service": service, "caBundle": webhook.bundle}))
    await api.call("POST", BOATS, boat("a"))
    answer = await api.call("GET", f"{BETAS}/a", None, 500)
    assert 'service "boats" not found' in answer["message"]
    await api.call("POST", "/api/v1/namespaces/default/services", {
        "metadata": {"name": "boats"}, "spec": {"ports": [{"port": 443, "targetPort": webhook.port}]},
    })  # fmt: skip
    row = api.server.table.lookup("discovery.k8s.io", "v1", "endpointslices")
    assert row is not None
    # As its controller writes it; loopback is no endpoint that a client may write.
    await api.server.registry.place(row, {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "boats-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "boats"}},
        "addressType": "IPv4", "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": True}}],
        "ports": [{"name": "", "port": webhook.port, "protocol": "TCP"}],
    })  # fmt: skip
    assert (await api.call("GET", f"{BETAS}/a"))["spec"]["hands"] == 1


async def test_objects_of_the_former_storage_version(boats: Harness, webhook: Webhook) -> None:
    """They are converted as they are read, until somebody writes them."""
    await boats.call("POST", BOATS, boat("a"))
    crds = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/boats.{GROUP}"
    crd = await boats.call("GET", crds)
    crd["spec"]["versions"][0]["storage"], crd["spec"]["versions"][1]["storage"] = False, True
    await boats.call("PUT", crds, crd)
    assert (await boats.call("GET", f"{BETAS}/a"))["spec"]["hands"] == 1
    assert (await boats.call("GET", BETAS))["items"][0]["apiVersion"] == f"{GROUP}/v1beta1"
    await boats.patch("merge", f"{BETAS}/a", {"spec": {"hands": 2}})
    record = await boats.store.get(f"/registry/{GROUP}/boats/default/a")
    assert record is not None and b'"hands":2' in record.value
    assert (await boats.call("GET", f"{BOATS}/a"))["spec"]["crew"] == 2
