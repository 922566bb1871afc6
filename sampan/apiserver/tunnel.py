"""Upgraded connections: dial the backend, pass the Upgrade request on, then copy bytes both ways.

What is spoken after the 101 (WebSocket, SPDY) is between the client and the runtime's streaming server; this hop has
authenticated and authorized, and from then on only moves bytes, with back-pressure in both directions. A refusal before
the 101 becomes an ApiError.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterable

import orjson

from sampan.apiserver.backends import Target, refused
from sampan.apiserver.upgrade import Tunnel, Upgrade
from sampan.client.transport import Request
from sampan.kube import errors
from sampan.kube.errors import ApiError

DIAL_TIMEOUT = 10.0  # seconds to connect and to shake hands
ANSWER_TIMEOUT = 30.0  # seconds until the backend says 101 or no
UNUSED_TIMEOUT = 15.0  # seconds that an accepted connection waits for its client
HEAD_LIMIT = 64 * 1024
CHUNK = 64 * 1024
REFUSAL_LIMIT = 64 * 1024

# Headers of the client's request that matter to the backend; everything else stays here.
FORWARDED = (
    "user-agent",
    "origin",
    "x-stream-protocol-version",
    "sec-websocket-key",
    "sec-websocket-version",
    "sec-websocket-protocol",
    "sec-websocket-extensions",
)


class BackendUpgrade(Upgrade):
    """A backend's 101 and the connection that carries it."""

    def __init__(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        super().__init__(self._run)
        self._head = head
        self._reader = reader
        self._writer = writer
        loop = asyncio.get_running_loop()
        self._unused = loop.call_later(UNUSED_TIMEOUT, writer.transport.abort)

    async def _run(self, tunnel: Tunnel) -> None:
        self._unused.cancel()
        try:
            tunnel.write(self._head)
            await splice(tunnel, self._reader, self._writer)
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        self._unused.cancel()
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1.0):
                await self._writer.wait_closed()


async def splice(
    tunnel: Tunnel, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Copy until the backend has said its last, or either side is gone.

    A client that closes its sending side is passed on as such where the transport can (TCP); over TLS there is no half
    of a connection, so that the backend's connection is closed, after what it has already sent was delivered.
    """

    async def down() -> None:
        while data := await reader.read(CHUNK):
            tunnel.write(data)
            await tunnel.drain()

    async def up() -> None:
        while data := await tunnel.read():
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
        else:
            writer.close()

    ups = asyncio.create_task(up())
    downs = asyncio.create_task(down())
    try:
        done, _ = await asyncio.wait((ups, downs), return_when=asyncio.FIRST_COMPLETED)
        if ups in done and ups.exception() is None:
            await downs
        for task in done:
            task.result()
    except (OSError, asyncio.IncompleteReadError):
        return  # one side went without a word: so does the other
    finally:
        for task in (ups, downs):
            task.cancel()
        await asyncio.gather(ups, downs, return_exceptions=True)


def is_upgrade(request: Request) -> bool:
    return bool(request.header("upgrade")) and "upgrade" in request.header("connection").lower()


async def upgrade(
    request: Request,
    target: Target,
    context: ssl.SSLContext | None,
    headers: Iterable[tuple[str, str]] = (),
) -> BackendUpgrade:
    """Pass the client's Upgrade request on to `target`, with further `headers`. Raises ApiError when the backend cannot be
    reached or refuses."""
    try:
        async with asyncio.timeout(DIAL_TIMEOUT):
            reader, writer = await asyncio.open_connection(
                target.host,
                target.port,
                ssl=context,
                server_hostname=(target.server_name or target.host) if context else None,
                limit=max(CHUNK, HEAD_LIMIT),
            )
    except (OSError, TimeoutError) as error:
        raise unreachable(target, error) from error
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT):
            writer.write(upgrade_request(request, target, headers))
            await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
            status = status_of(head)
            if status != 101:
                raise error_of(status, await _refusal(head, reader))
            return BackendUpgrade(head, reader, writer)
    except ApiError:
        writer.close()
        raise
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        writer.transport.abort()
        raise unreachable(target, error) from error
    except BaseException:
        writer.transport.abort()
        raise


def unreachable(target: Target, error: BaseException) -> ApiError:
    why = str(error) or type(error).__name__
    return errors.internal(f"error dialing backend: {target.host}:{target.port}: {why}")


def upgrade_request(
    request: Request, target: Target, headers: Iterable[tuple[str, str]] = ()
) -> bytes:
    host = f"[{target.host}]" if ":" in target.host else target.host
    lines = [
        f"{request.method} {target.target} HTTP/1.1",
        f"Host: {host}:{target.port}",
        "Connection: Upgrade",
        f"Upgrade: {request.header('upgrade')}",
    ]
    if request.method != "GET":
        lines.append("Content-Length: 0")
    lines += [
        f"{name.title()}: {value}"
        for name in FORWARDED
        if name in request.headers
        for value in request.headers[name].split("\n")
    ]
    lines += [f"{name}: {value}" for name, value in headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def status_of(head: bytes) -> int:
    parts = head.split(b" ", 2)
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or not parts[1][:3].isdigit():
        raise errors.internal("the backend's answer is not HTTP")
    return int(parts[1][:3])


def error_of(status: int, body: bytes) -> ApiError:
    """A backend's refusal. A Status object says what it means; anything else is its text."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        found = None
    if isinstance(found, dict) and found.get("kind") == "Status":
        return ApiError.from_status(found)
    text = body.decode("utf-8", "replace")
    return refused(status if status >= 400 else 500, f"unable to upgrade connection: {text}")


async def _refusal(head: bytes, reader: asyncio.StreamReader) -> bytes:
    """The body of an answer that is not a 101."""
    headers = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
    }
    length = headers.get(b"content-length", b"")
    if length.isdigit():
        return await reader.readexactly(min(int(length), REFUSAL_LIMIT))
    if b"chunked" not in headers.get(b"transfer-encoding", b""):
        return await reader.read(REFUSAL_LIMIT)
    body = b""
    while len(body) < REFUSAL_LIMIT:
        size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
        if size == 0:
            break
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    return body
