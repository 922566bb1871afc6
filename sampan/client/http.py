"""HTTPTransport: requests over the network to any Kubernetes, on kept connections.

A credential that was renewed with another client certificate gets a pool of its own; what is under way ends on the old
one. Every failure without an answer is `Unreachable` with the address.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
import socket
import ssl
import zlib
from urllib.parse import quote, urlencode, urlsplit

from sampan.client.connection import Broken, Connection
from sampan.client.credentials import Credential, Credentials
from sampan.client.errors import Unreachable
from sampan.client.kubeconfig import Kubeconfig
from sampan.client.pool import Pool
from sampan.client.transport import Request, Response

ANSWER_TIMEOUT = 75.0  # above the 60 s that a server gives a request itself
RETIRED = 2  # pools with an older client certificate whose streams may go on
# RFC 9110 §9.2.2: asked again when a kept connection turns out to have been closed by the server.
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._~:@!$&'()*+,;=%-]*")
_PATH_SAFE = "/:@!$&'()*+,;=%"
_GZIP = 16 + zlib.MAX_WBITS


class HTTPTransport:
    """Made from a `Kubeconfig` (`kubeconfig.load`, `kubeconfig.in_cluster`)."""

    def __init__(self, config: Kubeconfig) -> None:
        self.config = config
        self.credentials = Credentials(config)
        parts = urlsplit(config.server)
        self._base = parts.path.rstrip("/")
        self._local = _is_loopback(parts.hostname or "")
        self._pool: Pool | None = None
        self._pool_key: tuple[bytes, bytes] | None = None
        self._retired: list[Pool] = []
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
        pools, self._retired = self._retired, []
        if self._pool is not None:
            pools.append(self._pool)
            self._pool = None
        for pool in pools:
            pool.close()
        if pools:
            await asyncio.sleep(0)  # the loop closes the sockets

    async def _send_once(self, request: Request, credential: Credential) -> Response:
        pool = self._pool_for(credential)
        message = self._message(request, credential, pool.host)
        try:
            connection = await self._ask(pool, request, message)
        except (TimeoutError, OSError) as error:
            raise Unreachable(self.config.server, _why(error)) from error
        status, headers = connection.status, connection.headers
        packed = headers.get("content-encoding", "") == "gzip"
        if request.stream and status < 400:
            stream = _Stream(self.config.server, pool, connection, packed=packed)
            return Response(status, headers, stream)
        body = connection.body()
        pool.give_back(connection)
        if packed and body:
            try:
                body = zlib.decompress(body, _GZIP)
            except zlib.error as error:
                raise Unreachable(self.config.server, f"the answer is not gzip: {error}") from error
        return Response(status, headers, body)

    async def _ask(self, pool: Pool, request: Request, message: bytes) -> Connection:
        connection = await pool.take()
        while True:
            reused = connection.answers > 0
            try:
                await connection.ask(
                    message,
                    bodiless=request.method == "HEAD",
                    stream=request.stream,
                    timeout=None if request.stream else ANSWER_TIMEOUT,
                )
            except (ConnectionError, ssl.SSLError):
                if not reused or connection.begun or request.method not in IDEMPOTENT:
                    raise
                connection = await pool.take(fresh=True)
            else:
                return connection

    def _message(self, request: Request, credential: Credential, host: str) -> bytes:
        headers = dict(request.headers)
        if credential.authorization:
            headers.setdefault("authorization", credential.authorization)
        # Compressing costs more than copying inside of one machine.
        headers.setdefault("accept-encoding", "identity" if self._local else "gzip")
        body = request.body
        if body or request.method in ("POST", "PUT", "PATCH"):
            headers["content-length"] = str(len(body))
        path = self._base + request.path
        if _PLAIN_PATH.fullmatch(path) is None:
            path = quote(path, safe=_PATH_SAFE)
        if request.query:
            path += "?" + urlencode(list(request.pairs()))
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        if lines.count("\n") != len(headers) or lines.count("\r") != len(headers):
            raise ValueError("a header holds a line break")
        head = f"{request.method} {path} HTTP/1.1\r\nhost: {host}\r\n{lines}\r\n"
        return head.encode() + body

    def _pool_for(self, credential: Credential) -> Pool:
        if self._closed:
            raise Unreachable(self.config.server, "the client was closed")
        key = (credential.certificate, credential.key)
        if self._pool is not None and self._pool_key == key:
            return self._pool
        config, tls = self.config, None
        if config.server.startswith("https:"):
            from sampan.client.tls import client_context

            tls = client_context(config.ca, *key, insecure=config.insecure)
        if self._pool is not None:
            self._pool.retire()
            self._retired.append(self._pool)
        self._pool = Pool(config.server, tls, name=config.tls_server_name, proxy=config.proxy)
        self._pool_key = key
        while len(self._retired) > RETIRED:
            self._retired.pop(0).close()
        return self._pool


class _Stream:
    """A body that is read while it comes. Closed early, it ends the connection: the server must notice."""

    def __init__(self, server: str, pool: Pool, connection: Connection, *, packed: bool) -> None:
        self._server = server
        self._pool = pool
        self._connection: Connection | None = connection
        self._unpack = zlib.decompressobj(_GZIP) if packed else None

    def __aiter__(self) -> _Stream:
        return self

    async def __anext__(self) -> bytes:
        if self._connection is None:
            raise StopAsyncIteration
        piece = b""
        try:
            while not piece:
                piece = await self._connection.piece()
                if not piece:
                    raise StopAsyncIteration
                if self._unpack is not None:
                    piece = self._unpack.decompress(piece)
        except (TimeoutError, OSError, zlib.error) as error:
            raise Unreachable(self._server, _why(error)) from error
        finally:
            if not piece:
                await self.aclose()
        return piece

    async def aclose(self) -> None:
        if self._connection is not None:
            self._pool.give_back(self._connection)
            self._connection = None


def _why(error: BaseException) -> str:
    """The cause in words: asyncio words it as its own call."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, socket.gaierror):
        return f"no such host: {error.strerror}"
    if isinstance(error, OSError) and error.errno and not isinstance(error, (ssl.SSLError, Broken)):
        return os.strerror(error.errno)
    return str(error) or type(error).__name__


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
