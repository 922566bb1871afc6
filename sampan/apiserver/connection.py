"""One client connection: who is behind it, its requests one after another, and errors worded as Kubernetes words them.

aiohttp's protocol object reads HTTP and watches over the connection (limits, idle time, pipelining, shutdown). The loop over
requests is ours, in place of `RequestHandler.start`, which makes a task, a request object, a response object and a writer for
each, which took 23 µs of processor more. Here requests run in the connection's own task. When the client goes, a read is
cancelled with it; a write runs to its end. That stands on attributes of aiohttp's which it promises nobody: `pyproject.toml` holds
its version, and `test_apiserver_aiohttp_private.py` names each of them.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from typing import TYPE_CHECKING, Any

from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.http_writer import StreamWriter
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from sampan.apiserver.answers import Answer, whole
from sampan.apiserver.auth import user_of_certificate
from sampan.apiserver.present import respond_error
from sampan.client.transport import User
from sampan.kube import errors
from sampan.kube.errors import ApiError

if TYPE_CHECKING:
    from sampan.apiserver.exchange import Exchange

log = logging.getLogger(__name__)

ONE_PIECE = 64 * 1024  # bodies up to this size are written together with their head
WATCHED = 7 * 86400.0  # seconds; a certificate that is good for longer outlives its connection
LIMITS: dict[str, Any] = {
    "max_line_size": 256 * 1024,  # `kubectl exec` sends its command in the query
    "max_field_size": 16 * 1024,
    "max_headers": 100,
    "keepalive_timeout": 90.0,  # seconds for the next whole head
    "lingering_time": 2.0,  # seconds in which the rest of a refused body is read: the client shall see the answer
    "auto_decompress": False,  # a small body must not become a large one; see `exchange.body_of`
    "access_log": None,
    "logger": log,
}


class Connection(RequestHandler):
    """Made by `http.Door`."""

    exchange: Exchange
    user: User | None = None
    remote = ""
    reading: StreamReader | None = None  # a body that is not here in full yet
    ends_with_client = False  # is the request that runs cancelled when the client goes?
    pieces: StreamWriter | None = None  # of an answer that is a stream
    # Of the client's certificate, and so of what it was let in for.
    end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        certificate = transport.get_extra_info("peercert")
        if certificate:
            der = transport.get_extra_info("ssl_object").getpeercert(True)
            self.user = user_of_certificate(certificate, der)
            left = ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()
            self.exchange.api.metrics.certificates.observe(left)
            if left < WATCHED:
                self.end = self._loop.call_later(left, transport.abort)  # type: ignore[attr-defined]
        peer = transport.get_extra_info("peername")
        self.remote = peer[0] if isinstance(peer, tuple) else ""

    def connection_lost(self, exc: BaseException | None) -> None:
        if self.end is not None:
            self.end.cancel()
        running = self._task_handler if self.ends_with_client else None
        super().connection_lost(exc)
        self._break_off()
        if running is not None:
            running.cancel()

    async def shutdown(self, timeout: float | None = 15.0) -> None:
        """What runs gets so long to its end, and then as long again without the rest of its body."""
        patience = self._loop.call_later(timeout or 0.0, self._break_off)
        try:
            await super().shutdown(timeout)
        finally:
            patience.cancel()

    def _break_off(self) -> None:
        """The rest of a body will not come."""
        if self.reading is not None:
            self.reading.set_exception(ConnectionResetError("the client closed the connection"))

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # What is queued behind a body that has not ended can only be that the body cannot be read. aiohttp would tell
        # so after the request that waits for it.
        if self.reading is not None and self._messages and not self.reading.is_eof():
            self.reading.set_exception(malformed("the body is malformed"))

    def resume_reading(self, resume_parser: bool = True) -> None:
        # Asked after each body that was read, paused or not: aiohttp would parse nothing and call the transport, for 6 µs.
        if self._reading_paused:
            super().resume_reading(resume_parser)

    # Requests, one after another

    async def start(self) -> None:
        """The connection's task. Cancelled by `connection_lost` during a read, and at the end of a shutdown."""
        try:
            while not self._force_close:
                message, payload = await self._next()
                self._request_in_progress = True
                try:
                    answer = await self._answer(message, payload)
                    await self._send(answer)
                    if not payload.is_eof():  # it was refused before it was read
                        await self._linger(payload)
                finally:
                    self._request_in_progress = False
                    self.ends_with_client, self.pieces = False, None
                    if self._handler_waiter is not None and not self._handler_waiter.done():
                        self._handler_waiter.set_result(None)  # `shutdown` waits
                if answer.close or self._close:
                    break
                self._rest()
        except ConnectionError:
            log.debug("%s went before its answer", self.remote)
        except asyncio.CancelledError:
            self.force_close()
            raise
        except Exception:
            log.exception("connection of %s", self.remote)
        if self.transport is not None and not self._force_close:
            self._task_handler = None
            self.transport.close()

    async def _next(self) -> tuple[Any, StreamReader]:
        """The next request's head and its body, which may still be on its way."""
        if not self._messages:
            self._waiter = self._loop.create_future()  # done by `data_received`
            try:
                await self._waiter
            finally:
                self._waiter = None
        message, payload = self._messages.popleft()
        if self._parser is not None:
            self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()
        return message, payload

    async def _answer(self, message: Any, payload: StreamReader) -> Answer:
        if not isinstance(message, RawRequestMessage):  # what the parser could not read
            return refusal(unreadable(message.exc))
        try:
            return await self.exchange.answer(self, message, payload)
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:
            log.exception("%s %s from %s", message.method, message.path, self.remote)
            if self.pieces is not None and self.pieces.output_size:
                raise ConnectionError("an answer broke off") from error
            return refusal(errors.internal(type(error).__name__))

    async def _send(self, answer: Answer) -> None:
        """Raises ConnectionError when the client has gone."""
        if not answer.head:
            return
        transport = self.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client closed the connection")
        if len(answer.body) < ONE_PIECE:
            transport.write(answer.head + answer.body)
        else:
            transport.write(answer.head)
            transport.write(answer.body)
        if self._paused:
            await self._drain_helper()

    async def _linger(self, payload: StreamReader) -> None:
        """Read on for a while, so that the client sees the answer before it sees the end."""
        try:
            async with asyncio.timeout(self._lingering_time):
                while not payload.is_eof():
                    await payload.readany()
        except (TimeoutError, ApiError):
            pass
        self.close()

    def _rest(self) -> None:
        """Until the next request, which may not come."""
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(
                self._next_keepalive_close_time, self._process_keepalive
            )

    def writer(self) -> StreamWriter:
        """For an answer in pieces."""
        self.pieces = StreamWriter(self, self._loop)
        return self.pieces


def unreadable(error: BaseException) -> ApiError:
    """For what is not HTTP."""
    assert isinstance(error, HttpProcessingError)
    why = error.message.partition("\n")[0].rstrip(":. ")
    return malformed(why, 431 if isinstance(error, LineTooLong) else 400)


def malformed(why: str, code: int = 400) -> ApiError:
    """For what cannot be answered in its own terms."""
    return ApiError(code, "BadRequest", f"malformed HTTP request: {why}")


def refusal(error: ApiError) -> Answer:
    """The last answer of a connection."""
    return whole(respond_error(error), close=True)
