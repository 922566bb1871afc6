"""A SPDY/3.1 client as Kubernetes' own is: no flow control, streams answered by SYN_REPLY, FIN as half close."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from sampan.cri.streaming import frames


class Stream:
    def __init__(self, client: SpdyClient, number: int) -> None:
        self.client = client
        self.number = number
        self.reader = asyncio.StreamReader()
        self.replied = asyncio.Event()
        self.reset = False

    def write(self, data: bytes, fin: bool = False) -> None:
        for start in range(0, len(data), 16384):
            self.client.write(frames.data_frame(self.number, data[start : start + 16384]))
        if fin:
            self.client.write(frames.data_frame(self.number, b"", frames.FIN))

    async def read(self) -> bytes:
        return await self.reader.read(-1)


class SpdyClient:
    """Speaks over anything with `readexactly` and `write`."""

    def __init__(self, carrier) -> None:
        self.carrier = carrier
        self.write = carrier.write
        self.headers = frames.Headers()
        self.streams: dict[int, Stream] = {}
        self.pings = asyncio.Queue()
        self.goaway = asyncio.Event()
        self.task = asyncio.ensure_future(self._run())

    def open(self, **headers: str) -> Stream:
        number = 2 * len(self.streams) + 1
        stream = self.streams[number] = Stream(self, number)
        self.write(frames.syn_stream(number, self.headers.pack(headers)))
        return stream

    async def _run(self) -> None:
        try:
            while True:
                first = await self.carrier.readexactly(8)
                length = frames.head(first)
                payload = await self.carrier.readexactly(length) if length else b""
                self._take(frames.parse(first, payload, self.headers))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.goaway.set()
            for stream in self.streams.values():
                stream.reader.feed_eof()
                stream.replied.set()

    def _take(self, frame: frames.Frame) -> None:
        stream = self.streams.get(frame.stream)
        if frame.kind == 0 and stream:
            stream.reader.feed_data(frame.payload)
            if frame.fin:
                stream.reader.feed_eof()
        elif frame.kind == frames.SYN_REPLY and stream:
            stream.replied.set()
        elif frame.kind == frames.RST_STREAM and stream:
            stream.reset = True
            stream.reader.feed_eof()
            stream.replied.set()
        elif frame.kind == frames.PING:
            self.pings.put_nowait(frame.payload)
        elif frame.kind == frames.GOAWAY:
            self.goaway.set()

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


class Raw:
    def __init__(self, reader, writer) -> None:
        self.readexactly, self.write, self.writer = reader.readexactly, writer.write, writer


async def upgrade(url: str, **headers: str):
    """Send an upgrade request; the response's head, and the connection."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    lines = [f"POST {parts.path} HTTP/1.1", f"Host: {parts.netloc}", "Connection: Upgrade"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    return head, reader, writer


async def dial(url: str, *protocols: str) -> SpdyClient:
    head, reader, writer = await upgrade(
        url, Upgrade="SPDY/3.1", X_Stream_Protocol_Version=", ".join(protocols)
    )
    assert head.startswith("HTTP/1.1 101"), head
    return SpdyClient(Raw(reader, writer))
