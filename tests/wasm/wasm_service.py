"""A served module, and raw HTTP to it."""

from __future__ import annotations

import asyncio

from sampan.runtime.wasm.process import WasmProcess


class Service:
    """A served module, and raw HTTP to it."""

    def __init__(self, address: str, process: WasmProcess | None) -> None:
        self.address = address
        self.process = process

    async def raw(self, *pieces: bytes) -> bytes:
        """All that comes back until the server closes; a test sends `Connection: close` or something malformed."""
        async with asyncio.timeout(20):
            reader, writer = await asyncio.open_connection(self.address, 8080)
            try:
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                return await reader.read()
            finally:
                writer.close()

    async def get(
        self, target: str, method: str = "GET", body: bytes = b"", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        lines = [f"{method} {target} HTTP/1.1", "Host: test:8080", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        return parse(await self.raw("\r\n".join(lines).encode() + b"\r\n\r\n" + body))


def parse(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    return int(first.split()[1]), headers, body


def unchunked(body: bytes) -> tuple[bytes, bytes]:
    """(body, trailers) of a chunked message."""
    found = b""
    while True:
        size, _, body = body.partition(b"\r\n")
        count = int(size, 16)
        if not count:
            return found, body
        found += body[:count]
        assert body[count : count + 2] == b"\r\n"
        body = body[count + 2 :]
