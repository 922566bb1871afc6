"""Exec and attach over SPDY/3.1: one stream each for stdin, stdout, stderr, errors and sizes, opened by the client.

Versions differ in the error stream: text up to v3, a Status from v4 on; sizes came with v3. `v5` over SPDY is v4: its half
close is SPDY's own.
"""

from __future__ import annotations

import asyncio

from sampan.cri.streaming import status
from sampan.cri.streaming.session import FAREWELL, Attach, Sizes, conduct, put_size
from sampan.cri.streaming.spdy import Carrier, Connection, Stream
from sampan.cri.streams import Streams

PROTOCOLS = (
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v3.channel.k8s.io",
    "v2.channel.k8s.io",
    "channel.k8s.io",
)
SINCE_V4, SINCE_V3 = PROTOCOLS[:2], PROTOCOLS[:3]
TYPES = ("error", "stdin", "stdout", "stderr", "resize")

OPENING = 30.0  # seconds for the client to open all its streams
SIZE_LIMIT = 1 << 10


async def serve(carrier: Carrier, session: Attach, protocol: str) -> None:
    expected = {"error"}
    expected |= {name for name in ("stdin", "stdout", "stderr") if getattr(session, name)}
    if session.tty:
        expected.discard("stderr")
        if protocol in SINCE_V3:
            expected.add("resize")
    found: dict[str, Stream] = {}
    complete = asyncio.Event()

    def opened(stream: Stream) -> bool:
        name = stream.headers.get("streamtype", "")
        if name not in expected or name in found:
            return False
        found[name] = stream
        if expected == set(found):
            complete.set()
        return True

    connection = Connection(carrier, opened)
    reading = asyncio.ensure_future(connection.run())
    sizing: asyncio.Task[None] | None = None
    try:
        waiting = asyncio.ensure_future(complete.wait())
        await asyncio.wait({waiting, reading}, timeout=OPENING, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not complete.is_set():
            return
        sizes: Sizes | None = None
        if "resize" in found:
            sizes = asyncio.Queue(8)
            sizing = asyncio.ensure_future(read_sizes(found["resize"], sizes))
        streams = Streams(
            stdin=found["stdin"].inbox if "stdin" in found else None,
            stdout=found.get("stdout"),
            stderr=found.get("stderr"),
            resize=sizes,
        )
        result = await conduct(session, streams, reading)
        if result is not None:
            for name in ("stdout", "stderr"):
                if name in found:
                    found[name].write_eof()
            text = status.encode(result) if protocol in SINCE_V4 else status.plain(result)
            found["error"].write(text)
            found["error"].write_eof()
            for name in ("stdin", "resize"):
                if name in found:
                    found[name].inbox.discard()
            await asyncio.wait({reading}, timeout=FAREWELL)
    finally:
        for task in (reading, sizing):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


async def read_sizes(stream: Stream, sizes: Sizes) -> None:
    """JSON objects one after the other, with or without a line between them; frames need not respect their borders."""
    text = bytearray()
    while data := await stream.inbox.read(SIZE_LIMIT):
        text += data
        while b"}" in text:
            one, _, rest = bytes(text).partition(b"}")
            put_size(sizes, one + b"}")
            text = bytearray(rest)
        if len(text) > SIZE_LIMIT:
            text.clear()
