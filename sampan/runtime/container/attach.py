"""Attaching to a container's live streams through conmon's socket.

The socket is SOCK_SEQPACKET; each packet begins with its stream's number (2 stdout, 3 stderr), what is sent is stdin.
Sizes and log rotation go through the FIFO `ctl` in the bundle, one text line a message: `TYPE HEIGHT WIDTH`.
"""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

from sampan.cri.streams import Streams, Writer
from sampan.runtime.sandbox import ContainerSpec, Gone

STDOUT, STDERR = 2, 3
RESIZE = 1
PACKET = 8193  # conmon's buffer and the stream's number
STDIN_PACKET = 8192


def connect(directory: Path, name: str, kind: int = socket.SOCK_SEQPACKET) -> socket.socket:
    """Connect to the unix socket `name`, however long the directory's path is (a socket's is 107 bytes)."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    connection = socket.socket(socket.AF_UNIX, kind)
    try:
        connection.connect(f"/proc/self/fd/{descriptor}/{name}")
    except OSError:
        connection.close()
        raise
    finally:
        os.close(descriptor)
    connection.setblocking(False)
    return connection


def send_control(bundle: Path, kind: int, rows: int, columns: int) -> None:
    """Raises OSError when conmon is no longer there."""
    descriptor = os.open(bundle / "ctl", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.write(descriptor, f"{kind} {rows} {columns}\n".encode())
    finally:
        os.close(descriptor)


async def attach(spec: ContainerSpec, streams: Streams) -> None:
    """Copy until the container or the client ends."""
    try:
        connection = connect(spec.directory, "attach")
    except OSError as error:
        raise Gone(f"cannot attach to container {spec.id}: {error.strerror}") from error
    with connection:
        async with asyncio.TaskGroup() as group:
            helpers = []
            if streams.stdin is not None and spec.stdin:
                helpers.append(group.create_task(send_stdin(connection, streams.stdin)))
            if streams.resize is not None and spec.tty:
                helpers.append(group.create_task(resize(spec.directory, streams.resize)))
            await receive(connection, streams)
            for helper in helpers:
                helper.cancel()


async def receive(connection: socket.socket, streams: Streams) -> None:
    loop = asyncio.get_running_loop()
    writers: dict[int, Writer | None] = {STDOUT: streams.stdout, STDERR: streams.stderr}
    while True:
        try:
            packet = await loop.sock_recv(connection, PACKET)
        except ConnectionError:
            return
        if not packet:
            return
        writer = writers.get(packet[0])
        if writer is not None:
            writer.write(packet[1:])
            await writer.drain()


async def send_stdin(connection: socket.socket, stdin: asyncio.StreamReader) -> None:
    loop = asyncio.get_running_loop()
    try:
        while data := await stdin.read(STDIN_PACKET):
            await loop.sock_sendall(connection, data)
        connection.shutdown(socket.SHUT_WR)
    except OSError:
        return  # the container has ended; the receiving side says so


async def resize(bundle: Path, sizes: asyncio.Queue[tuple[int, int]]) -> None:
    while True:
        columns, rows = await sizes.get()
        try:
            send_control(bundle, RESIZE, rows, columns)
        except OSError:
            return
