"""Port-forward over SPDY/3.1, on a raw connection or inside a WebSocket (`SPDY/3.1+portforward.k8s.io`, KEP-4006).

Each connection to a forwarded port is a pair of streams with one `requestID`: `error` and `data`. Clients that send no
requestID open the error stream first and its data stream next. What cannot be connected is told on the error stream and
breaks nothing else.
"""

from __future__ import annotations

import asyncio
import logging

from sampan.cri.streaming.session import PortForward
from sampan.cri.streaming.spdy import Carrier, Connection, Stream
from sampan.cri.streams import Writer

LOG = logging.getLogger(__name__)

PROTOCOL = "portforward.k8s.io"
TUNNELLED = "SPDY/3.1+portforward.k8s.io"
CHUNK = 32 << 10


class Forwarding:
    def __init__(self, session: PortForward, group: asyncio.TaskGroup) -> None:
        self._session = session
        self._group = group
        self._pairs: dict[str, dict[str, Stream]] = {}

    def opened(self, stream: Stream) -> bool:
        kind = stream.headers.get("streamtype", "")
        port = stream.headers.get("port", "")
        if kind not in ("error", "data") or not port.isdecimal() or not 0 < int(port) < 65536:
            return False
        number = stream.number if kind == "error" else stream.number - 2
        key = stream.headers.get("requestid") or f"#{number}"
        pair = self._pairs.setdefault(key, {})
        if kind in pair:
            return False
        pair[kind] = stream
        if len(pair) == 2:
            del self._pairs[key]
            self._group.create_task(self._forward(int(port), pair["error"], pair["data"]))
        elif len(self._pairs) > 256:
            self._pairs.pop(next(iter(self._pairs)))
        return True

    async def _forward(self, port: int, error: Stream, data: Stream) -> None:
        try:
            reader, writer = await self._session.connect(port)
        except Exception as failure:
            LOG.info("port-forward to %d: %s", port, failure)
            error.write(f"error forwarding port {port} to pod: {failure}".encode())
            error.write_eof()
            data.reset()
            return
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(copy(data.inbox, writer))
                both.create_task(copy(reader, data))
            error.write_eof()
        except* ConnectionError:
            data.reset()
            error.write_eof()
        finally:
            writer.close()


async def copy(reader: asyncio.StreamReader, writer: Writer | asyncio.StreamWriter) -> None:
    while chunk := await reader.read(CHUNK):
        writer.write(chunk)
        await writer.drain()
    try:
        writer.write_eof()
    except OSError as error:
        raise ConnectionResetError(str(error)) from error


async def serve(carrier: Carrier, session: PortForward) -> None:
    """Until the client closes: then its streams end, and with them every forwarded connection."""
    async with asyncio.TaskGroup() as group:
        await Connection(carrier, Forwarding(session, group).opened).run()
