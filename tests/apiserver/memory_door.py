"""A client connection in memory: the server's own protocol object, without sockets and TLS, so that thousands take seconds."""

from __future__ import annotations

import asyncio

from sampan.apiserver.connection import Connection
from sampan.apiserver.http import Door
from sampan.client.transport import User

PATIENCE = 2.0  # seconds for one answer; a watch is then hung up on


class Memory(asyncio.Transport):
    """What a client would see."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = b""
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.seen += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def quiet(connection: Connection) -> bool:
    """Whether nothing happens until more bytes come."""
    body = connection.reading
    waiter = connection._waiter if body is None else body._waiter
    return waiter is not None and not waiter.done() and not connection._messages


async def exchange(door: Door, pieces: list[bytes], user: User | None = None) -> Memory:
    """What the server says to these pieces, one after another, until it has nothing more to say, and whether it closed."""
    loop = asyncio.get_running_loop()
    connection, transport = door(), Memory()
    connection.connection_made(transport)
    connection.user = user
    task = connection._task_handler
    assert task is not None
    try:
        for piece in [*pieces, b""]:
            end = loop.time() + PATIENCE
            while not (transport.closed or task.done() or quiet(connection)):
                if loop.time() > end:
                    return transport
                await asyncio.sleep(0)
            if not transport.closed and piece:
                connection.data_received(piece)
    finally:
        seen, closed = transport.seen, transport.closed
        connection.connection_lost(None)
        await asyncio.wait([task])
        transport.seen, transport.closed = seen, closed
    return transport
