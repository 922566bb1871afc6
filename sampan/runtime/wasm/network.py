"""Into the pod's network: where a service listens, and a connection made from inside."""

from __future__ import annotations

import asyncio
import os
import socket
import threading

from sampan.runtime.sandbox import SandboxSpec
from sampan.runtime.wasm import linux


def bind_address(spec: SandboxSpec) -> str:
    """All addresses of an own namespace or, asked for, of the host; else the pod's loopback address alone."""
    addresses = spec.network.addresses
    if spec.network.namespace or spec.host_network or not addresses:
        return "::" if any(":" in address for address in addresses) else "0.0.0.0"
    return addresses[0]


async def connect(
    spec: SandboxSpec, port: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to `port` of the pod. Raises OSError, ConnectionRefusedError when nobody listens."""
    if not spec.network.namespace:
        host = (
            "127.0.0.1"
            if spec.host_network or not spec.network.addresses
            else spec.network.addresses[0]
        )
        return await asyncio.open_connection(host, port)
    connection = await _socket_in(spec.network.namespace)
    try:
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
        return await asyncio.open_connection(sock=connection)
    except BaseException:
        connection.close()
        raise


async def _socket_in(namespace: str) -> socket.socket:
    """A socket belongs to the namespace of the thread that makes it, for good; so the thread is thrown away."""
    loop = asyncio.get_running_loop()
    made: asyncio.Future[socket.socket] = loop.create_future()

    def resolve(result: socket.socket | OSError) -> None:
        if made.cancelled():
            if isinstance(result, socket.socket):
                result.close()
        elif isinstance(result, OSError):
            made.set_exception(result)
        else:
            made.set_result(result)

    def make() -> None:
        try:
            linux.setns(namespace, linux.CLONE_NEWNET)
            result: socket.socket | OSError = socket.socket(
                socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            )
        except OSError as error:
            result = error
        loop.call_soon_threadsafe(resolve, result)

    threading.Thread(target=make, name=f"netns {os.path.basename(namespace)}", daemon=True).start()
    return await made
