"""The embedded registry's port: aiohttp's low-level server, authentication first, then a table of paths.

Everything below /v2/ wants credentials, /v2/ too, as the specification foresees; without them a path says nothing about what is there. On
an address that is not loopback it speaks TLS only: passwords never go over a network in the clear.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

from aiohttp import web
from aiohttp.web_server import Server

from sampan.image import catalog
from sampan.image.content import CHUNK
from sampan.image.hosts import is_loopback
from sampan.image.reference import is_repository
from sampan.image.registryserver.answers import Answers
from sampan.image.registryserver.credentials import Credentials
from sampan.image.registryserver.errors import Refused
from sampan.image.store import ImageStore

log = logging.getLogger(__name__)

SHUTDOWN = 5.0  # seconds that requests get to finish
EXPIRY = 3600.0  # seconds between looks at uploads that nobody continues
_VERSION = {"Docker-Distribution-API-Version": "registry/2.0"}
_ANYONE = {"WWW-Authenticate": 'Basic realm="sampan registry", charset="UTF-8"'}

# Path below /v2/, methods, and the method of Answers. Names hold slashes, so the rest of the path decides.
ROUTES: tuple[tuple[re.Pattern[str], frozenset[str], str], ...] = tuple(
    (re.compile(pattern), frozenset(methods.split()), answer)
    for pattern, methods, answer in (
        (r"_catalog", "GET", "repositories"),
        (r"(.+)/blobs/uploads/?", "POST", "start"),
        (r"(.+)/blobs/uploads/([^/]+)", "GET PATCH PUT DELETE", "upload"),
        (r"(.+)/blobs/([^/]+)", "GET HEAD DELETE", "blob"),
        (r"(.+)/manifests/([^/]+)", "GET HEAD PUT DELETE", "manifest"),
        (r"(.+)/tags/list", "GET", "tags"),
        (r"(.+)/referrers/([^/]+)", "GET", "referrers"),
    )
)


class RegistryServer:
    """`start` takes the port and answers, `close` ends all."""

    def __init__(
        self,
        store: ImageStore,
        credentials: Credentials,
        *,
        address: str = "127.0.0.1",
        port: int = 5000,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Port 0 takes a free one. Raises ValueError for an address beyond this machine without TLS."""
        if tls is None and not is_loopback(address):
            raise ValueError(f"a registry on {address} needs TLS")
        self.store, self.credentials = store, credentials
        self.address, self.port, self._tls = address, port, tls
        self._listener: asyncio.Server | None = None
        self._answers: Answers | None = None
        self._door = Server(self._answer, access_log=None, read_bufsize=CHUNK)  # type: ignore[arg-type]

    @property
    def host(self) -> str:
        """What its images are called: localhost:5000/…"""
        return f"localhost:{self.port}"

    async def start(self) -> None:
        """Raises OSError when the port is taken."""
        self._listener = await asyncio.get_running_loop().create_server(
            self._door, self.address, self.port, ssl=self._tls
        )
        self.port = self._listener.sockets[0].getsockname()[1]
        self._answers = Answers(self.store, self.host)
        await asyncio.to_thread(self._take_over)

    def _take_over(self) -> None:
        with self.store.index() as index:
            catalog.rename(index, self.host)

    async def run(self) -> None:
        """Until cancelled."""
        await self.start()
        log.info("registry listens on %s:%d", self.address, self.port)
        try:
            while True:
                assert self._answers is not None
                await asyncio.to_thread(self._answers.uploads.expire)
                await asyncio.sleep(EXPIRY)
        finally:
            await self.close()

    async def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        self._door.pre_shutdown()
        await self._door.shutdown(SHUTDOWN)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            response = await self._route(request)
        except Refused as refusal:
            response = web.Response(
                status=refusal.status,
                body=refusal.body(),
                headers={"Content-Type": "application/json", **refusal.headers},
            )
        except ConnectionResetError:
            raise
        except Exception:
            log.exception("registry: %s %s", request.method, request.path)
            failure = Refused("UNAVAILABLE", "internal error", status=500)
            response = web.Response(
                status=500, body=failure.body(), content_type="application/json"
            )
        response.headers.update(_VERSION)
        return response

    async def _route(self, request: web.BaseRequest) -> web.StreamResponse:
        if not self.credentials.admit(request.headers.get("Authorization", "")):
            raise Refused("UNAUTHORIZED", "authentication required", headers=_ANYONE)
        path = unquote(request.rel_url.raw_path)
        if path in ("/v2", "/v2/"):
            return web.Response(body=b"{}", content_type="application/json")
        for pattern, methods, answer in ROUTES:
            match = (
                pattern.fullmatch(path.removeprefix("/v2/")) if path.startswith("/v2/") else None
            )
            if match is None:
                continue
            if request.method not in methods:
                allowed = {"Allow": ", ".join(sorted(methods))}
                raise Refused("UNSUPPORTED", "the operation is unsupported", headers=allowed)
            if match.groups() and not is_repository(match[1]):
                raise Refused("NAME_INVALID", f"invalid repository name {match[1]!r}")
            if request.headers.get("Expect", "").lower() == "100-continue":
                await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                request.writer.output_size = 0
            work: Callable[..., Awaitable[web.StreamResponse]] = getattr(self._answers, answer)
            return await work(request, *match.groups())
        raise Refused("UNSUPPORTED", "no such end point", status=404)


def context(certificate: Any, key: Any) -> ssl.SSLContext:
    """TLS for a registry beyond loopback."""
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    found.minimum_version = ssl.TLSVersion.TLSv1_2
    found.load_cert_chain(certificate, key)
    found.set_alpn_protocols(["http/1.1"])
    return found
