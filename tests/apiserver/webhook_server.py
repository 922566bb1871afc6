"""A real HTTPS webhook server for the tests, with a certificate of an authority made here."""

from __future__ import annotations

import asyncio
import base64
import datetime
import ipaddress
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Object = dict[str, Any]
Handler = Callable[[Object], Awaitable[Object]]


def _certificate(
    name: str, key: Any, issuer: Any, signer: Any, *, authority: bool
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if not authority:
        names = [
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
            x509.DNSName("localhost"),
            x509.DNSName("hook.default.svc"),
        ]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(signer or key, hashes.SHA256())


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


class WebhookServer:
    """`handlers` by path; each gets the review's request and gives the response's fields. What was asked is kept."""

    def __init__(self, port: int, bundle: str) -> None:
        self.port = port
        self.bundle = bundle
        self.handlers: dict[str, Handler] = {}
        self.asked: list[Object] = []
        self.reviews: list[Object] = []
        self.tls: ssl.SSLContext

    def config(self, path: str) -> Object:
        return {"url": f"https://127.0.0.1:{self.port}{path}", "caBundle": self.bundle}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        review = orjson.loads(await request.read())
        self.reviews.append(review)
        self.asked.append(review["request"])
        handler = self.handlers.get(request.path)
        if handler is None:
            return web.Response(status=404)
        response = await handler(review["request"])
        if "raw" in response:
            return web.Response(status=response.get("status", 200), body=response["raw"])
        body = {
            "apiVersion": review["apiVersion"],
            "kind": review["kind"],
            "response": {"uid": review["request"]["uid"], **response},
        }
        return web.Response(body=orjson.dumps(body), content_type="application/json")


@asynccontextmanager
async def webhook_server() -> AsyncIterator[WebhookServer]:
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = _certificate("test authority", authority_key, None, None, authority=True)
    certificate = _certificate("hook", key, authority.subject, authority_key, authority=False)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "hook.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        path.write_bytes(private + _pem(certificate))
        tls.load_cert_chain(path)
    server = WebhookServer(0, base64.b64encode(_pem(authority)).decode())
    runner = web.ServerRunner(web.Server(server.answer), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    server.port = runner.addresses[0][1]
    try:
        yield server
    finally:
        await runner.cleanup()


def patch_of(*operations: Object) -> Object:
    """The fields of a response that changes the object."""
    return {
        "allowed": True,
        "patchType": "JSONPatch",
        "patch": base64.b64encode(orjson.dumps(list(operations))).decode(),
    }


def answering(response: Object) -> Handler:
    async def handler(request: Object) -> Object:
        return response

    return handler


async def hanging(request: Object) -> Object:
    await asyncio.Event().wait()
    return {}
