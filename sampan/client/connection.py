"""One HTTP/1.1 connection (RFC 9112): a request at a time, its answer whole or as a stream.

The bytes are parsed by httptools (llhttp). Why not an HTTP library: a node agent or a CLI speaks to one server in one way,
and importing aiohttp alone costs it a third of its start and 12 MB. A connection whose answer was not read to its end is
never used again, so an answer cannot reach the wrong request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

HEADERS_LIMIT = 256 * 1024  # bytes of names and values
UNREAD_LIMIT = 1 << 20  # bytes of a stream that may wait for their reader


class Broken(ConnectionError):
    """The connection ended, or what came is no HTTP; the text is fit for a user."""


class Connection(asyncio.Protocol):
    """`gone(self)` is called when the connection is lost. Made by `client.pool`."""

    def __init__(self, gone: Callable[[Connection], None]) -> None:
        self._gone = gone
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._paused = False
        self.answers = 0  # that have come over this connection
        self.idle_since = 0.0
        self._reset(stream=False, bodiless=False)
        self._complete = True  # nothing is asked for yet

    def _reset(self, *, stream: bool, bodiless: bool) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.begun = False  # something of the answer has come
        self.keep = False  # known when the answer is complete
        self._stream = stream
        self._bodiless = bodiless
        self._headed = False
        self._complete = False
        self._header_size = 0
        self._parts: list[bytes] = []
        self._unread = 0

    @property
    def usable(self) -> bool:
        """Whether it can take another request."""
        return self._complete and self.keep and self._transport is not None and self._error is None

    # Asking

    async def ask(
        self, message: bytes, *, bodiless: bool, stream: bool, timeout: float | None
    ) -> None:
        """Send a request. Returns when its answer is here; with `stream`, when the head is (of an answer below 400).

        `bodiless`: the answer to HEAD. Raises Broken, OSError or TimeoutError; the connection is of no use then.
        """
        self._reset(stream=stream, bodiless=bodiless)
        if self._transport is None:
            raise self._error or Broken("the connection was closed")
        self._transport.write(message)
        timer = self._loop.call_later(timeout, self._expire) if timeout else None
        try:
            await self._wait()
        except BaseException:
            self.abort()
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def body(self) -> bytes:
        """Of an answer that is complete."""
        parts, self._parts = self._parts, []
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def piece(self) -> bytes:
        """The next part of a streamed body; nothing at its end."""
        while not self._parts:
            if self._complete:
                return b""
            await self._wait()
        self._unread = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return self.body()

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _expire(self) -> None:
        self._fail(TimeoutError())

    def _fail(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(self._error)
        self.abort()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's is no asyncio.Transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if not self._complete:
            if self._headed and exc is None and _ends_with_connection(self.headers):
                self._complete = True
                self._wake()
            else:
                self._fail(exc or Broken("the server closed the connection"))
        self._gone(self)

    def data_received(self, data: bytes) -> None:
        if self._error is not None:
            return
        if self._complete:
            self._fail(Broken("the server sent what nobody had asked for"))
            return
        self.begun = True
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            self._fail(Broken("the server wants to change the protocol"))
        except HttpParserError as error:
            self._fail(error.__context__ or Broken(f"the answer is not HTTP: {error}"))  # type: ignore[arg-type]

    # httptools' side

    def on_message_begin(self) -> None:
        if self._complete:
            raise Broken("the server sent what nobody had asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_size += len(name) + len(value)
        if self._header_size > HEADERS_LIMIT:
            raise Broken("the head of the answer is too large")
        key, text = name.decode("latin-1").lower(), value.decode("utf-8", "replace")
        known = self.headers.get(key)
        self.headers[key] = text if known is None else f"{known}, {text}"

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if self.status < 200:
            return  # an interim answer (RFC 9110 §15.2): the real one follows
        self._headed = True
        if self._bodiless:
            self._complete = True
            self._wake()
            self.close()  # the parser would take what comes next for the body
        elif self._stream and self.status < 400:
            self._wake()

    def on_body(self, part: bytes) -> None:
        self._parts.append(part)
        if self._stream and self.status < 400:
            self._unread += len(part)
            if self._unread > UNREAD_LIMIT and not self._paused and self._transport is not None:
                self._paused = True
                self._transport.pause_reading()
            self._wake()

    def on_message_complete(self) -> None:
        if not self._headed:
            self.headers.clear()
            return
        if self._bodiless:
            return
        self.keep = self._parser.should_keep_alive()
        self._complete = True
        self.answers += 1
        self._wake()


def _ends_with_connection(headers: dict[str, str]) -> bool:
    """RFC 9112 §6.3, rule 8."""
    return "content-length" not in headers and "transfer-encoding" not in headers
