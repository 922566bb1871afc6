"""Calls to webhooks, for admission and for the conversion of custom resources: JSON out, JSON back, within a time limit.

A webhook is named by a URL or by a Service of the cluster. A Service is reached at one of its ready endpoints, or at its own
address when it has none that we know; its certificate must be for `<name>.<namespace>.svc` either way. Connections are kept,
answers are bounded, and nothing is opened before the first call.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import random
import ssl
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson

from sampan.apiserver import backends
from sampan.kube.errors import ApiError

if TYPE_CHECKING:
    import aiohttp

    from sampan.apiserver.admission.plugin import Lookup

Object = dict[str, Any]

HTTPS = 443
ANSWER_LIMIT = 16 * 1024 * 1024
SERVICE_LABEL = "kubernetes.io/service-name"


class WebhookError(ConnectionError):
    """No usable answer came; worded as client-go words it."""


class WebhookClient:
    def __init__(self, lookup: Lookup) -> None:
        self.lookup = lookup
        self._session: aiohttp.ClientSession | None = None

    async def call(
        self, config: Object, payload: Object, timeout: float, *, path: str = ""
    ) -> Object:
        """The decoded answer of the webhook that `config` (url or service, caBundle) names.

        `path` is where a service is asked when its reference names no path. Raises WebhookError.
        """
        url, address, name = await self._target(config, path, timeout)
        try:
            async with asyncio.timeout(timeout):
                return await self._post(url, address, name, config, payload)
        except TimeoutError:
            raise WebhookError(f'Post "{url}": context deadline exceeded') from None

    async def _post(
        self, url: str, address: str, name: str, config: Object, payload: Object
    ) -> Object:
        import aiohttp
        from yarl import URL

        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=256, limit_per_host=32),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
            )
        where = urlsplit(url)
        try:
            async with self._session.post(
                URL(address, encoded=True),
                data=orjson.dumps(payload),
                headers={
                    "Content-Type": "application/json",
                    "Accept": "application/json, */*",
                    "Host": where.netloc,
                    "User-Agent": "kube-apiserver-admission",
                },
                ssl=context_of(config.get("caBundle") or ""),
                server_hostname=name,
                allow_redirects=False,
            ) as response:
                body = await response.content.read(ANSWER_LIMIT + 1)
                while not response.content.at_eof() and len(body) <= ANSWER_LIMIT:
                    body += await response.content.read(ANSWER_LIMIT + 1 - len(body))
                status = response.status
        except aiohttp.ClientSSLError as error:
            raise WebhookError(f'Post "{url}": {tls_problem(error)}') from error
        except (aiohttp.ClientError, OSError) as error:
            raise WebhookError(f'Post "{url}": {dial_problem(error, where.netloc)}') from error
        return decoded(status, body)

    # Where to

    async def _target(self, config: Object, path: str, timeout: float) -> tuple[str, str, str]:
        """(the URL as it is told, the URL that is dialled, the name in the certificate)."""
        limit = f"timeout={timeout:g}s"
        url = config.get("url")
        if url:
            full = url + ("&" if "?" in url else "?") + limit
            return full, full, urlsplit(url).hostname or ""
        service = config.get("service") or {}
        name, namespace = service.get("name") or "", service.get("namespace") or ""
        port = service.get("port") or HTTPS
        place = service.get("path") or path or "/"
        host = f"{name}.{namespace}.svc"
        rest = (place if place.startswith("/") else f"/{place}") + f"?{limit}"
        told = f"https://{host}:{port}{rest}"
        found = await self._endpoint(namespace, name, port)
        return told, f"https://{found}{rest}", host

    async def _endpoint(self, namespace: str, name: str, port: int) -> str:
        entry = await self.lookup.entry("", "v1", "services", namespace, name)
        if entry is None:
            raise WebhookError(f'service "{name}" not found')
        service = entry.object()
        spec = service.get("spec") or {}
        if spec.get("type") == "ExternalName":
            return f"{spec.get('externalName')}:{port}"
        having = f'"{SERVICE_LABEL}":"{name}"'.encode()
        slices = [
            each
            for each in await self.lookup.all("discovery.k8s.io", "v1", "endpointslices", having)
            if each["metadata"].get("namespace") == namespace
        ]
        try:
            targets = backends.service_targets(service, slices, "https", str(port), "/", "")
        except ApiError as error:
            address = spec.get("clusterIP") or ""
            if slices or address in ("", "None"):
                raise WebhookError(error.message) from error
            return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        target = random.choice(targets)
        host = f"[{target.host}]" if ":" in target.host else target.host
        return f"{host}:{target.port}"

    async def close(self) -> None:
        """End kept connections. Idempotent."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()


def decoded(status: int, body: bytes) -> Object:
    """The answer as an object. Raises WebhookError."""
    if len(body) > ANSWER_LIMIT:
        raise WebhookError(f"the answer is longer than {ANSWER_LIMIT} bytes")
    text = body[:1024].decode("utf-8", "replace").strip()
    if status >= 400:
        if status == 404:
            raise WebhookError("the server could not find the requested resource")
        if status >= 500:
            shown = text or "unknown"
            raise WebhookError(
                f'an error on the server ("{shown}") has prevented the request from succeeding'
            )
        raise WebhookError(f"the server rejected our request for an unknown reason ({status})")
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise WebhookError(f"couldn't get version/kind; json parse error: {error}") from error
    if not isinstance(found, dict):
        raise WebhookError("couldn't get version/kind; json parse error: not an object")
    return found


def tls_problem(error: Exception) -> str:
    """aiohttp wraps what OpenSSL said; the reason is in the innermost error."""
    cause: Any = error
    while cause is not None and not hasattr(cause, "verify_code"):
        cause = getattr(cause, "certificate_error", None) or cause.__cause__
    if cause is None:
        return str(error)
    words = {
        19: "x509: certificate signed by unknown authority",
        20: "x509: certificate signed by unknown authority",
        18: "x509: certificate signed by unknown authority",
        10: "x509: certificate has expired or is not yet valid",
    }
    reason = words.get(cause.verify_code) or f"x509: {cause.verify_message}"
    return f"tls: failed to verify certificate: {reason}"


def dial_problem(error: Exception, address: str) -> str:
    cause = getattr(error, "os_error", error)
    if isinstance(cause, ConnectionRefusedError):
        return f"dial tcp {address}: connect: connection refused"
    return str(error) or type(error).__name__


@lru_cache(maxsize=256)
def context_of(bundle: str) -> ssl.SSLContext:
    """Trusts the authorities in the bundle (base64 of PEM), or the system's. Raises WebhookError."""
    if not bundle:
        return ssl.create_default_context()
    try:
        pem = base64.b64decode(bundle, validate=True).decode("ascii")
        return ssl.create_default_context(cadata=pem)
    except (binascii.Error, UnicodeDecodeError, ssl.SSLError, ValueError) as error:
        raise WebhookError(f"unable to load root certificates: {error}") from error
