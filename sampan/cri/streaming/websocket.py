"""WebSocket (RFC 6455), server side, on a plain stream: messages with bounded size, pings answered, fragments joined."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import struct
from typing import Protocol

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # section 1.3
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
NORMAL, PROTOCOL_ERROR, TOO_BIG, INTERNAL = 1000, 1002, 1009, 1011

MESSAGE_LIMIT = 1 << 20  # kubectl sends at most 32 KiB


class WebSocketError(Exception):
    """The peer broke the protocol; `code` is the close status that it is told."""

    def __init__(self, message: str, code: int = PROTOCOL_ERROR) -> None:
        super().__init__(message)
        self.code = code


def accept_key(key: str) -> str:
    return base64.b64encode(hashlib.sha1(key.encode() + GUID).digest()).decode()


def frame(opcode: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, size)) + payload
    if size < 1 << 16:
        return struct.pack(">BBH", 0x80 | opcode, 126, size) + payload
    return struct.pack(">BBQ", 0x80 | opcode, 127, size) + payload


def unmask(payload: bytes, mask: bytes) -> bytes:
    """One exclusive-or over the whole payload as a number: as fast as it gets without C."""
    size = len(payload)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(key, "little")).to_bytes(
        size, "little"
    )


class Reader(Protocol):
    async def readexactly(self, count: int, /) -> bytes: ...


class Writer(Protocol):
    def write(self, data: bytes, /) -> None: ...

    async def drain(self) -> None: ...


class WebSocket:
    def __init__(self, reader: Reader, writer: Writer) -> None:
        self._reader = reader
        self._writer = writer
        self._closed = False

    async def receive(self) -> bytes | None:
        """The next message; None when the peer closed or went away. A peer that breaks the protocol is told so."""
        try:
            return await self._receive()
        except WebSocketError as error:
            self.close(error.code)
            return None
        except (asyncio.IncompleteReadError, ConnectionError):
            self._closed = True
            return None

    async def _receive(self) -> bytes | None:
        parts: list[bytes] = []
        size = 0
        while True:
            opcode, final, payload = await self._frame()
            if opcode == PING:
                self._send(PONG, payload)
                await self.drain()
            elif opcode == CLOSE:
                self.close(NORMAL)
                return None
            elif opcode in (TEXT, BINARY, CONTINUATION):
                if (opcode == CONTINUATION) != bool(parts):
                    raise WebSocketError("fragments out of order")
                size += len(payload)
                if size > MESSAGE_LIMIT:
                    raise WebSocketError("message too big", TOO_BIG)
                parts.append(payload)
                if final:
                    return b"".join(parts)
            elif opcode != PONG:
                raise WebSocketError(f"opcode {opcode}")

    async def _frame(self) -> tuple[int, bool, bytes]:
        first, second = await self._reader.readexactly(2)
        opcode, size = first & 0x0F, second & 0x7F
        if first & 0x70 or not second & 0x80:
            raise WebSocketError("reserved bits set, or not masked")
        if opcode >= CLOSE and (size > 125 or not first & 0x80):
            raise WebSocketError("control frame is fragmented or too long")
        if size == 126:
            size = int.from_bytes(await self._reader.readexactly(2), "big")
        elif size == 127:
            size = int.from_bytes(await self._reader.readexactly(8), "big")
        if size > MESSAGE_LIMIT:
            raise WebSocketError("frame too big", TOO_BIG)
        mask = await self._reader.readexactly(4)
        payload = await self._reader.readexactly(size)
        return opcode, bool(first & 0x80), unmask(payload, mask)

    def send(self, data: bytes, opcode: int = BINARY) -> None:
        self._send(opcode, data)

    def _send(self, opcode: int, payload: bytes) -> None:
        if not self._closed:
            self._writer.write(frame(opcode, payload))

    async def drain(self) -> None:
        """Raises ConnectionError when the peer is gone."""
        if self._closed:
            raise ConnectionResetError("the websocket is closed")
        await self._writer.drain()

    def close(self, code: int = NORMAL) -> None:
        """Say goodbye. Idempotent."""
        if not self._closed:
            with contextlib.suppress(ConnectionError):
                self._send(CLOSE, code.to_bytes(2, "big"))
            self._closed = True


class Tunnel:
    """A WebSocket's binary messages as one byte stream (`SPDY/3.1+portforward.k8s.io`)."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._buffer = bytearray()

    async def readexactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            message = await self._socket.receive()
            if message is None:
                raise asyncio.IncompleteReadError(bytes(self._buffer), count)
            self._buffer += message
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    def write(self, data: bytes) -> None:
        self._socket.send(data)

    async def drain(self) -> None:
        await self._socket.drain()
