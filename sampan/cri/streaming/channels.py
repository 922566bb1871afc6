"""Exec and attach over WebSocket: `v5.channel.k8s.io`, `v4.channel.k8s.io` and the first, `channel.k8s.io`.

Every message begins with its channel's number. The first version tells a failure in words, the others as a Status.
v5 (KEP-4006) adds channel 255, which says that the channel named by the next byte is closed: so stdin can end while the
session goes on.
"""

from __future__ import annotations

import asyncio

from sampan.cri.streaming import status
from sampan.cri.streaming.inbox import Inbox
from sampan.cri.streaming.session import FAREWELL, Attach, Sizes, conduct, put_size
from sampan.cri.streaming.websocket import WebSocket
from sampan.cri.streams import Streams

STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io")  # best first


class Channel:
    """A cri.streams.Writer into one channel."""

    def __init__(self, socket: WebSocket, number: int) -> None:
        self._socket = socket
        self._prefix = bytes((number,))

    def write(self, data: bytes) -> None:
        self._socket.send(self._prefix + data)

    async def drain(self) -> None:
        await self._socket.drain()

    def write_eof(self) -> None:
        return  # no version has a way to say it to the client


async def serve(socket: WebSocket, session: Attach, protocol: str) -> None:
    inbox = Inbox() if session.stdin else None
    sizes: Sizes | None = asyncio.Queue(8) if session.tty else None
    streams = Streams(
        stdin=inbox,
        stdout=Channel(socket, STDOUT) if session.stdout else None,
        stderr=Channel(socket, STDERR) if session.stderr and not session.tty else None,
        resize=sizes,
    )
    # An empty message tells the client that the session is up, as Kubernetes' own servers do.
    socket.send(bytes((STDOUT if session.stdout else STDERR if session.stderr else ERROR,)))
    reading = asyncio.ensure_future(read(socket, inbox, sizes, protocol == PROTOCOLS[0]))
    try:
        result = await conduct(session, streams, reading)
        if result is not None:
            text = status.plain(result) if protocol == PROTOCOLS[-1] else status.encode(result)
            socket.send(bytes((ERROR,)) + text)
            socket.close()
            if inbox is not None:
                inbox.discard()
            await asyncio.wait({reading}, timeout=FAREWELL)
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def read(socket: WebSocket, inbox: Inbox | None, sizes: Sizes | None, v5: bool) -> None:
    while (message := await socket.receive()) is not None:
        if not message:
            continue
        channel, data = message[0], message[1:]
        if channel == STDIN and inbox is not None:
            await inbox.space.wait()
            inbox.push(data)
        elif channel == RESIZE and sizes is not None:
            put_size(sizes, data)
        elif v5 and channel == CLOSE and data[:1] == bytes((STDIN,)) and inbox is not None:
            inbox.close()
    if inbox is not None:
        inbox.close()
