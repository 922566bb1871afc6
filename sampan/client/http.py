"""HTTPTransport: requests over the network to any Kubernetes, through aiohttp's client session and its kept connections.

aiohttp is imported with the first request, so that a role which speaks in process never pays for it. A credential that was
renewed with another client certificate gets a session of its own; what is under way ends on the old one. Every failure
without an answer is `Unreachable` with the address.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import os
import re
import socket
import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlencode, urlsplit

from sampan.client.credentials import Credential, Credentials
from sampan.client.errors import Unreachable
from sampan.client.kubeconfig import Kubeconfig
from sampan.client.transport import Request, Response

if TYPE_CHECKING:
    import aiohttp

CONNECT_TIMEOUT = 10.0  # seconds, TLS included
ANSWER_TIMEOUT = 75.0  # above the 60 s that a server gives a request itself
IDLE = 60.0  # seconds that a connection is kept
READ_AHEAD = 512 * 1024  # bytes of a stream that may wait for their reader
RETIRED = 2  # sessions with an older client certificate whose streams may go on
# A peer that vanished without a word is noticed on an idle watch after about a minute.
KEEPALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))
_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._~:@!$&'()*+,;=%-]*")
_PATH_SAFE = "/:@!$&'()*+,;=%"


class HTTPTransport:
    """Made from a `Kubeconfig` (`kubeconfig.load`, `kubeconfig.in_cluster`)."""

    def __init__(self, config: Kubeconfig) -> None:
        self.config = config
        self.credentials = Credentials(config)
        self._base = config.server.rstrip("/")
        self._local = _is_loopback(urlsplit(config.server).hostname or "")
        self._session: aiohttp.ClientSession | None = None
        self._session_key: tuple[bytes, bytes] | None = None
        self._retired: list[aiohttp.ClientSession] = []
        self._fixed: dict[str, Any] = {}  # arguments of every request
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
        from aiohttp import ClientError

        session = await self._session_for(credential)
        headers = dict(request.headers)
        if credential.authorization:
            headers.setdefault("authorization", credential.authorization)
        # Compressing costs more than copying inside of one machine.
        headers.setdefault("accept-encoding", "identity" if self._local else "gzip")
        body: bytes | None = request.body
        if not body and request.method not in ("POST", "PUT", "PATCH"):
            body = None
        try:
            async with asyncio.timeout(None if request.stream else ANSWER_TIMEOUT):
                answer = await session.request(
                    request.method, self._url(request), headers=headers, data=body, **self._fixed
                )
                if answer.status == 101:
                    answer.close()
                    raise Unreachable(self.config.server, "it wants to change the protocol")
                found = _headers(answer)
                if request.stream and answer.status < 400:
                    return Response(answer.status, found, _Stream(self.config.server, answer))
                return Response(answer.status, found, await answer.read())
        except (ClientError, TimeoutError, OSError) as error:
            if isinstance(error, Unreachable):
                raise
            raise Unreachable(self.config.server, _why(error)) from error

    def _url(self, request: Request) -> Any:
        from yarl import URL

        path = request.path
        if _PLAIN_PATH.fullmatch(path) is None:
            path = quote(path, safe=_PATH_SAFE)
        if request.query:
            path += "?" + urlencode(list(request.pairs()))
        return URL(self._base + path, encoded=True)

    async def _session_for(self, credential: Credential) -> aiohttp.ClientSession:
        if self._closed:
            raise Unreachable(self.config.server, "the client was closed")
        key = (credential.certificate, credential.key)
        if self._session is not None and self._session_key == key:
            return self._session
        if self._session is not None:
            self._retired.append(self._session)
        self._session, self._session_key = self._open(key), key
        session = self._session
        while len(self._retired) > RETIRED:
            await self._retired.pop(0).close()
        return session

    def _open(self, key: tuple[bytes, bytes]) -> aiohttp.ClientSession:
        import aiohttp

        config, tls = self.config, None
        if config.server.startswith("https:"):
            from sampan.client.tls import client_context

            tls = client_context(config.ca, *key, insecure=config.insecure)
        self._fixed = {"allow_redirects": False}
        if config.tls_server_name:
            self._fixed["server_hostname"] = config.tls_server_name
        if config.proxy:
            proxy = urlsplit(config.proxy)
            if proxy.scheme != "http":
                raise Unreachable(
                    config.server, f"a proxy is reached over http, not {proxy.scheme}"
                )
            self._fixed["proxy"] = f"http://{proxy.netloc.rpartition('@')[2]}"
            if proxy.username:
                pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
                login = f"Basic {base64.b64encode(pair).decode()}"
                self._fixed["proxy_headers"] = {"Proxy-Authorization": login}
        connector = aiohttp.TCPConnector(
            limit=0,
            ssl=tls if tls is not None else True,
            keepalive_timeout=IDLE,
            socket_factory=_socket,
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT),
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
            read_bufsize=READ_AHEAD,
        )


class _Stream:
    """A body that is read while it comes. Closed early, it ends the connection: the server must notice."""

    def __init__(self, server: str, answer: aiohttp.ClientResponse) -> None:
        self._server = server
        self._answer = answer
        self._ended = False

    def __aiter__(self) -> _Stream:
        return self

    async def __anext__(self) -> bytes:
        from aiohttp import ClientError

        if self._ended:
            raise StopAsyncIteration
        piece = b""
        try:
            piece = await self._answer.content.readany()
        except (ClientError, TimeoutError, OSError) as error:
            raise Unreachable(self._server, _why(error)) from error
        finally:
            if not piece:
                await self.aclose()
        if not piece:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        self._ended = True
        self._answer.close()  # nothing happens to a connection that has been given back


def _socket(address: Any) -> socket.socket:
    family, kind, protocol = address[:3]
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE:
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


def _headers(answer: aiohttp.ClientResponse) -> dict[str, str]:
    """Lower-case names, repeats joined."""
    found: dict[str, str] = {}
    for name, value in answer.headers.items():
        key = name.lower()
        found[key] = f"{found[key]}, {value}" if key in found else value
    return found


def _why(error: BaseException) -> str:
    """The cause in words: asyncio words it as its own call."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {cause.verify_message}"
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
