"""The streaming server: one-time URLs on loopback for sessions that were asked for over CRI.

A URL carries a token of 256 bits; it works once, within a minute. Whoever has it has the session, so it is told only to
CRI's caller, and connections are taken from this host alone. The connection is upgraded here by hand: an HTTP server
library would cost the runtime more memory than all of this.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets

from sampan.cri.errors import ResourceExhausted
from sampan.cri.streaming import channels, portforward, remotecommand
from sampan.cri.streaming.http import HEAD_LIMIT, BadRequest, Head, read_head, response
from sampan.cri.streaming.session import Attach, Exec, PortForward, Session
from sampan.cri.streaming.websocket import Tunnel, WebSocket, accept_key

LOG = logging.getLogger(__name__)

LIFETIME = 60.0  # of an unused token, seconds
UNUSED_LIMIT = 1000  # tokens
VERBS: dict[type[Session], str] = {Exec: "exec", Attach: "attach", PortForward: "portforward"}


class StreamingServer:
    def __init__(self, host: str = "127.0.0.1") -> None:
        self._host = host
        self._server: asyncio.Server | None = None
        self._waiting: dict[str, tuple[Session, asyncio.TimerHandle]] = {}
        self._connections: set[asyncio.Task[None]] = set()
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._connected, self._host, 0, limit=HEAD_LIMIT)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """End every session. Idempotent."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        for _, timer in self._waiting.values():
            timer.cancel()
        self._waiting.clear()

    def url(self, session: Session) -> str:
        """A new URL for the session. Raises ResourceExhausted when too many are unused."""
        if len(self._waiting) >= UNUSED_LIMIT:
            raise ResourceExhausted("too many streaming sessions were asked for and not used")
        token = secrets.token_urlsafe(32)
        timer = asyncio.get_running_loop().call_later(LIFETIME, self._waiting.pop, token, None)
        self._waiting[token] = (session, timer)
        return f"http://{self._host}:{self.port}/{VERBS[type(session)]}/{token}"

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._serve(reader, writer)
        except (ConnectionError, TimeoutError, asyncio.CancelledError):
            pass
        except Exception:
            LOG.exception("streaming session")
        finally:
            self._connections.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await read_head(reader)
            if head is None:
                return
            upgrade = chosen_upgrade(head)
            session = self._take(head.path)
            if upgrade == "websocket":
                await serve_websocket(reader, writer, head, session)
            else:
                await serve_spdy(reader, writer, head, session)
        except BadRequest as error:
            writer.write(response(error.status, {}, f"{error}\n".encode()))
            await writer.drain()

    def _take(self, path: str) -> Session:
        verb, _, token = path.strip("/").partition("/")
        session, timer = self._waiting.get(token, (None, None))
        if session is None or timer is None or VERBS[type(session)] != verb:
            raise BadRequest("no such session: its URL was used, or is too old", 404)
        del self._waiting[token]
        timer.cancel()
        return session


def chosen_upgrade(head: Head) -> str:
    if head.method not in ("GET", "POST"):
        raise BadRequest("GET or POST", 405)
    upgrades = [word.lower() for word in head.words("upgrade")]
    if "upgrade" in (word.lower() for word in head.words("connection")):
        for name in ("websocket", "spdy/3.1"):
            if name in upgrades:
                return name
    raise BadRequest(
        "unable to upgrade: missing upgrade headers (websocket or SPDY/3.1) in the request"
    )


def negotiate(offered: list[str], known: tuple[str, ...]) -> str:
    """The first of ours that the client offers. Raises BadRequest (403, as Kubernetes' servers answer)."""
    for protocol in known:
        if protocol in offered:
            return protocol
    raise BadRequest(
        f"unable to upgrade: the client offers {offered}, this server has {list(known)}", 403
    )


async def serve_websocket(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: Head, session: Session
) -> None:
    key = head.first("sec-websocket-key")
    if not key or head.first("sec-websocket-version") != "13":
        raise BadRequest("a WebSocket needs Sec-WebSocket-Key and version 13")
    known = (portforward.TUNNELLED,) if isinstance(session, PortForward) else channels.PROTOCOLS
    protocol = negotiate(head.words("sec-websocket-protocol"), known)
    writer.write(
        response(
            101,
            {
                "Upgrade": "websocket",
                "Connection": "Upgrade",
                "Sec-WebSocket-Accept": accept_key(key),
                "Sec-WebSocket-Protocol": protocol,
            },
        )
    )
    await writer.drain()
    socket = WebSocket(reader, writer)
    if isinstance(session, PortForward):
        await portforward.serve(Tunnel(socket), session)
        socket.close()
        await writer.drain()
    else:
        await channels.serve(socket, session, protocol)


class Raw:
    """A socket as a SPDY carrier."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.readexactly = reader.readexactly
        self.write = writer.write
        self.drain = writer.drain


async def serve_spdy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: Head, session: Session
) -> None:
    offered = head.words("x-stream-protocol-version")
    if isinstance(session, PortForward):
        protocol = negotiate(offered, (portforward.PROTOCOL,)) if offered else portforward.PROTOCOL
    else:
        protocol = (
            negotiate(offered, remotecommand.PROTOCOLS) if offered else remotecommand.PROTOCOLS[-1]
        )
    headers = {"Upgrade": "SPDY/3.1", "Connection": "Upgrade"}
    if offered:
        headers["X-Stream-Protocol-Version"] = protocol
    writer.write(response(101, headers))
    await writer.drain()
    carrier = Raw(reader, writer)
    if isinstance(session, PortForward):
        await portforward.serve(carrier, session)
    else:
        await remotecommand.serve(carrier, session, protocol)


__all__ = ["Attach", "Exec", "PortForward", "StreamingServer"]
