"""CRI client: every method of RuntimeService and ImageService as a coroutine, over a unix socket.

A method takes the fields of its request (`await client.stop_container(container_id=id, timeout=30)`) or a ready request
message, and answers the response message. The `Stream…` methods and `get_container_events` are asynchronous iterators.
All raise `cri.errors.CRIError`. It connects when first used, and again after the runtime was away; a stream that breaks
raises, and reconnecting is its reader's decision.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sampan.cri import errors, hpack, http2, status
from sampan.cri.methods import Method, table

# A restarted runtime is back in a fraction of a second.
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
LONGEST_TIMEOUT = 99_999_999  # of the header: eight digits of milliseconds
RESETS = {http2.REFUSED: "UNAVAILABLE", http2.CANCEL: "CANCELLED"}


class CRIClient:
    """`socket` is a path or `unix:///path`. Methods: see `cri/api.proto`, in snake case.

    Every method takes `rpc_timeout=` (seconds) and `wait=True` (wait for a runtime that is away).
    """

    def __init__(self, socket: str | Path) -> None:
        self._path = str(socket).removeprefix("unix://")
        self._link: Link | None = None
        self._connecting = asyncio.Lock()
        self._closed = False
        for method in table():
            call = _stream(self, method) if method.streams else _unary(self, method)
            setattr(self, method.function, call)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Callable[..., Any]: ...

    async def close(self) -> None:
        self._closed = True
        if self._link is not None:
            self._link.abort()
            self._link = None

    async def __aenter__(self) -> CRIClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def link(self, wait: bool) -> Link:
        """The connection, made anew when there is none. Raises Unavailable; with `wait` it tries until it works."""
        pause = FIRST_PAUSE
        while self._link is None or self._link.leaving or not self._link.alive:
            async with self._connecting:
                if self._link is not None and self._link.alive and not self._link.leaving:
                    break
                if self._closed:
                    raise errors.Cancelled("this client is closed")
                try:
                    _, self._link = await asyncio.get_running_loop().create_unix_connection(
                        Link, self._path
                    )
                    break
                except OSError as error:
                    if not wait:
                        raise errors.Unavailable(
                            f"cannot connect to {self._path}: {error.strerror or error}"
                        ) from None
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        return self._link

    async def begin(self, method: Method, message: Any, timeout: float | None, wait: bool) -> Call:
        link = await self.link(wait)
        headers = [*method_headers(method)]
        if timeout is not None:
            milliseconds = min(max(int(timeout * 1000), 1), LONGEST_TIMEOUT)
            headers.append(("grpc-timeout", f"{milliseconds}m"))
        return link.call(hpack.render(headers), message.SerializeToString())


def method_headers(method: Method) -> list[tuple[str, str]]:
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", method.path),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", status.CONTENT_TYPE),
    ]


class Call:
    """What has come of one call: messages in its stream, and how it ended."""

    def __init__(self, stream: http2.Stream) -> None:
        self.stream = stream
        self.failure: errors.CRIError | None = None
        self.done = False
        self._changed: asyncio.Future[None] | None = None

    def end(self, failure: errors.CRIError | None) -> None:
        if not self.done:
            self.done, self.failure = True, failure
            self.wake()

    def wake(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    async def next(self) -> bytes | None:
        """The next message; None at the end. Raises CRIError."""
        while not self.stream.messages:
            if self.done:
                if self.failure is not None:
                    raise self.failure
                return None
            self._changed = asyncio.get_running_loop().create_future()
            await self._changed
        return self.stream.take()

    def cancel(self) -> None:
        """Idempotent; tells the runtime unless all has come already."""
        if not self.done:
            self.end(errors.Cancelled("the caller has left"))
            self.stream.reset(http2.CANCEL)


class Link(http2.Connection):
    """The connection to a runtime."""

    client = True

    def __init__(self) -> None:
        super().__init__()
        self._calls: dict[int, Call] = {}
        self._next = 1

    def call(self, headers: bytes, body: bytes) -> Call:
        number, self._next = self._next, self._next + 2
        self._highest = number
        if (
            self._next >= http2.LARGEST_WINDOW
        ):  # numbers are used up: the next call makes a new connection
            self.leaving = True
        stream = self.open(number)
        call = self._calls[number] = Call(stream)
        self.send(http2.HEADERS, http2.END_HEADERS, number, headers)
        stream.message(body)
        stream.finish(None)
        return call

    def _end(self, stream: http2.Stream, failure: errors.CRIError | None) -> None:
        if (call := self._calls.pop(stream.number, None)) is not None:
            call.end(failure)
        if self.leaving and not self._calls:
            self.close()

    def on_headers(self, stream: http2.Stream, headers: dict[str, str]) -> None:
        answered = headers.get(":status", "200")
        if answered != "200":
            self._end(stream, errors.CRIError(f"HTTP status {answered}"))
        elif "grpc-status" in headers:
            code = status.name(headers["grpc-status"])
            failure = None if code == "OK" else errors.from_code(code, status.message(headers))
            self._end(stream, failure)
        elif stream.ended:
            self._end(stream, errors.Internal("an answer without a status"))

    def on_data(self, stream: http2.Stream) -> None:
        if stream.ended:
            self._end(stream, errors.Internal("an answer without a status"))
        elif (call := self._calls.get(stream.number)) is not None:
            call.wake()

    def on_broken(self, stream: http2.Stream, why: str) -> None:
        self._end(stream, errors.ResourceExhausted(why))
        stream.reset(http2.CANCEL)

    def on_reset(self, stream: http2.Stream, code: int) -> None:
        name = RESETS.get(code, "INTERNAL")
        why = "the runtime is away" if name == "UNAVAILABLE" else f"the stream was reset ({code})"
        self._end(stream, errors.from_code(name, why))


def _unary(client: CRIClient, method: Method) -> Callable[..., Awaitable[Any]]:
    async def call(
        request: Any = None, *, rpc_timeout: float | None = None, wait: bool = False, **fields: Any
    ) -> Any:
        message = request if request is not None else method.request(**fields)
        begun: Call | None = None
        try:
            async with asyncio.timeout(rpc_timeout):
                begun = await client.begin(method, message, rpc_timeout, wait)
                body = await begun.next()
                if body is None or await begun.next() is not None:
                    raise errors.Internal(f"{method.name} answered no message, or several")
        except TimeoutError:
            raise errors.DeadlineExceeded(f"{method.name}: no answer in {rpc_timeout} s") from None
        finally:
            if begun is not None:
                begun.cancel()
        return method.response.FromString(body)

    call.__name__ = method.function
    return call


def _stream(client: CRIClient, method: Method) -> Callable[..., AsyncIterator[Any]]:
    async def call(
        request: Any = None, *, rpc_timeout: float | None = None, wait: bool = False, **fields: Any
    ) -> AsyncIterator[Any]:
        message = request if request is not None else method.request(**fields)
        begun: Call | None = None
        until = None if rpc_timeout is None else asyncio.get_running_loop().time() + rpc_timeout
        try:
            async with asyncio.timeout_at(until):
                begun = await client.begin(method, message, rpc_timeout, wait)
            while True:
                # Only the waiting is timed: what the reader does between two messages is its own.
                async with asyncio.timeout_at(until):
                    body = await begun.next()
                if body is None:
                    return
                yield method.response.FromString(body)
        except TimeoutError:
            raise errors.DeadlineExceeded(f"{method.name}: not over in {rpc_timeout} s") from None
        finally:
            if begun is not None:
                begun.cancel()

    call.__name__ = method.function
    return call
