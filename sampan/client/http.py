"""HTTPTransport: requests over the network to any Kubernetes, through aiohttp, which is imported with the first request.

One session with kept connections serves all requests. A credential that was renewed with another client certificate gets
a new session; what is under way ends on the old one. Every failure without an answer is `Unreachable` with the address.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sampan.client.credentials import Credential, Credentials
from sampan.client.errors import Unreachable
from sampan.client.kubeconfig import Kubeconfig
from sampan.client.tls import client_context
from sampan.client.transport import Request, Response

if TYPE_CHECKING:
    import aiohttp

CONNECT_TIMEOUT = 10.0  # seconds
ANSWER_TIMEOUT = 75.0  # above the 60 s that a server gives a request itself
RETIRED = 2  # sessions with an older client certificate that may still end in peace
# A peer that vanished without a word is noticed on an idle watch after about a minute.
KEEPALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))


class HTTPTransport:
    """Made from a `Kubeconfig` (`kubeconfig.load`, `kubeconfig.in_cluster`)."""

    def __init__(self, config: Kubeconfig) -> None:
        self.config = config
        self.credentials = Credentials(config)
        parts = urlsplit(config.server)
        self._local = _is_loopback(parts.hostname or "")
        self._session: aiohttp.ClientSession | None = None
        self._session_key: tuple[bytes, bytes] | None = None
        self._retired: list[aiohttp.ClientSession] = []
        self._closed = False

    async def send(self, request: Request) -> Response:
        credential = await self.credentials.get()
        answer = await self._send_once(request, credential)
        if answer.status == 401 and self.credentials.renewable:
            renewed = await self.credentials.get(refused=credential)
            if renewed is not credential:
                await answer.aclose()
                answer = await self._send_once(request, renewed)
        return answer

    async def close(self) -> None:
        self._closed = True
        sessions, self._retired = self._retired, []
        if self._session is not None:
            sessions.append(self._session)
            self._session = None
        for session in sessions:
            await session.close()

    async def _send_once(self, request: Request, credential: Credential) -> Response:
        import aiohttp
        import yarl

        session = await self._session_for(credential)
        headers = dict(request.headers)
        if credential.authorization:
            headers.setdefault("authorization", credential.authorization)
        if self._local:
            headers.setdefault("accept-encoding", "identity")  # compressing costs more than copying
        url = yarl.URL(self.config.server)
        url = url.with_path(url.path.rstrip("/") + request.path).with_query(list(request.pairs()))
        timeout = aiohttp.ClientTimeout(
            total=None if request.stream else ANSWER_TIMEOUT, sock_connect=CONNECT_TIMEOUT
        )
        options: dict[str, Any] = {"proxy": self.config.proxy} if self.config.proxy else {}
        if self.config.tls_server_name:
            options["server_hostname"] = self.config.tls_server_name
        try:
            answer = await session.request(
                request.method,
                url,
                headers=headers,
                data=request.body or None,
                timeout=timeout,
                allow_redirects=False,
                **options,
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(self.config.server, _why(error)) from error
        lower = {name.lower(): value for name, value in answer.headers.items()}
        if request.stream and answer.status < 400:
            _keep_alive(answer)
            return Response(answer.status, lower, self._pieces(answer))
        try:
            return Response(answer.status, lower, await answer.read())
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(self.config.server, _why(error)) from error
        finally:
            answer.release()

    async def _pieces(self, answer: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
        import aiohttp

        try:
            async for piece in answer.content.iter_any():
                yield piece
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(self.config.server, _why(error)) from error
        finally:
            # Not release(): the rest of a stream is of no use, and the server must notice.
            answer.close()

    async def _session_for(self, credential: Credential) -> aiohttp.ClientSession:
        if self._closed:
            raise Unreachable(self.config.server, "the client was closed")
        key = (credential.certificate, credential.key)
        if self._session is not None and self._session_key == key:
            return self._session
        import aiohttp

        tls: Any = True
        if self.config.server.startswith("https:"):
            tls = client_context(self.config.ca, *key, insecure=self.config.insecure)
        if self._session is not None:
            self._retired.append(self._session)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60, ssl=tls),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Content-Type"),
        )
        self._session_key = key
        session = self._session
        while len(self._retired) > RETIRED:
            await self._retired.pop(0).close()
        return session


def _keep_alive(answer: aiohttp.ClientResponse) -> None:
    connection = answer.connection
    transport = connection.transport if connection is not None else None
    found = transport.get_extra_info("socket") if transport is not None else None
    if found is not None and found.family in (socket.AF_INET, socket.AF_INET6):
        found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE:
            found.setsockopt(socket.IPPROTO_TCP, option, value)


def _why(error: BaseException) -> str:
    """The cause in words: aiohttp wraps it once or twice, asyncio words it as its own call."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    verify = getattr(getattr(error, "certificate_error", error), "verify_message", "")
    if verify:
        return f"its certificate is not trusted: {verify}"
    cause = getattr(error, "os_error", None) or error
    if isinstance(cause, socket.gaierror):
        return f"no such host: {cause.strerror}"
    if isinstance(cause, OSError) and cause.errno and not isinstance(cause, ssl.SSLError):
        return os.strerror(cause.errno)
    return str(error) or type(error).__name__


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
