"""pods/log over a WebSocket (RFC 6455), as clients in browsers and conformance's ask for it: a message for each piece.

The sub-protocols are those of Kubernetes' streams of one direction: none and `binary.k8s.io` send bytes as they are,
`base64.binary.k8s.io` sends text. What the client says is read only to answer pings and to see it go.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator

from sampan.apiserver.upgrade import Tunnel, Upgrade
from sampan.client.transport import Request
from sampan.cri.streaming.websocket import BINARY, TEXT, WebSocket, accept_key
from sampan.kube import errors

PLAIN, BASE64 = "binary.k8s.io", "base64.binary.k8s.io"


class Input:
    """A tunnel's bytes in the counts that are asked for."""

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel
        self._held = b""

    async def readexactly(self, count: int) -> bytes:
        while len(self._held) < count:
            part = await self._tunnel.read()
            if not part:
                raise asyncio.IncompleteReadError(self._held, count)
            self._held += part
        wanted, self._held = self._held[:count], self._held[count:]
        return wanted


class LogSocket(Upgrade):
    def __init__(self, request: Request, pieces: AsyncIterator[bytes]) -> None:
        """Raises ApiError when the client speaks none of the sub-protocols."""
        super().__init__(self._run)
        offered = [each.strip() for each in request.header("sec-websocket-protocol").split(",")]
        known = [each for each in offered if each in (PLAIN, BASE64)]
        if not request.header("sec-websocket-key") or (offered != [""] and not known):
            raise errors.bad_request("unable to upgrade: no WebSocket protocol in common")
        self._protocol = known[0] if known else ""
        self._key = request.header("sec-websocket-key")
        self._pieces = pieces

    async def _run(self, tunnel: Tunnel) -> None:
        tunnel.write(self._head())
        socket = WebSocket(Input(tunnel), tunnel)
        gone = asyncio.create_task(self._listen(socket))
        said = asyncio.create_task(self._tell(socket))
        try:
            await asyncio.wait((gone, said), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (gone, said):
                task.cancel()
            await asyncio.gather(gone, said, return_exceptions=True)
            socket.close()
            await self.aclose()

    async def _listen(self, socket: WebSocket) -> None:
        while await socket.receive() is not None:
            continue

    async def _tell(self, socket: WebSocket) -> None:
        async for piece in self._pieces:
            if self._protocol == BASE64:
                socket.send(base64.b64encode(piece), TEXT)
            else:
                socket.send(piece, BINARY)
            await socket.drain()

    def _head(self) -> bytes:
        lines = [
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {accept_key(self._key)}",
        ]
        if self._protocol:
            lines.append(f"Sec-WebSocket-Protocol: {self._protocol}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    async def aclose(self) -> None:
        """End the node's answer. Idempotent."""
        if close := getattr(self._pieces, "aclose", None):
            await close()
