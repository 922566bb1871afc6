"""CRI server: RuntimeService and ImageService on a unix socket, for the user alone (0600).

The services are plain objects with a coroutine per method, in snake case (`run_pod_sandbox(request) -> response`; an
asynchronous generator where CRI streams). Their `cri.errors` become gRPC codes; any other exception is logged with its
traceback and answered as INTERNAL. A method that no service has answers UNIMPLEMENTED.

A verb that was begun is finished, even if its caller has gone: a half-made pod helps nobody. Only what may last for ever
is cancelled with its caller.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from sampan.cri import hpack, http2, status
from sampan.cri.errors import CRIError, Internal, InvalidArgument, Unimplemented
from sampan.cri.methods import Method, table

LOG = logging.getLogger(__name__)

CANCELLED_WITH_CALLER = {"ExecSync", "PullImage"}

# What is said in each answer, rendered once.
OPENING = hpack.render([(":status", "200"), ("content-type", status.CONTENT_TYPE)])
SUCCESS = hpack.render(status.trailers("OK"))
NOT_GRPC = hpack.render([(":status", "415")])


class CRIServer:
    def __init__(self, socket: Path, *services: object) -> None:
        self.socket = socket
        self._services = services
        self._server: asyncio.Server | None = None
        self._methods: dict[str, tuple[Method, Callable[..., Any]]] = {}
        self.connections: set[Caller] = set()
        self.running: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """The socket takes connections on return. Raises OSError when it cannot be made."""
        self.socket.parent.mkdir(parents=True, exist_ok=True)
        self.socket.unlink(missing_ok=True)
        for method in table():
            implementation = self._find(method.function)
            if implementation is not None:
                self._methods[method.path] = method, implementation
        mask = os.umask(0o177)
        try:
            self._server = await asyncio.get_running_loop().create_unix_server(
                lambda: Caller(self), str(self.socket)
            )
        finally:
            os.umask(mask)

    async def close(self, grace: float = 2.0) -> None:
        """Take no more calls, let those that run end. Idempotent."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        self.socket.unlink(missing_ok=True)
        for connection in self.connections:
            connection.leave()
            connection.end_streams()
        if self.running:
            _, late = await asyncio.wait(self.running, timeout=grace)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        for connection in list(self.connections):
            connection.close()

    def _find(self, function: str) -> Callable[..., Any] | None:
        for service in self._services:
            if (implementation := getattr(service, function, None)) is not None:
                return implementation  # type: ignore[no-any-return]
        return None

    def method(self, path: str) -> tuple[Method, Callable[..., Any]]:
        """Raises Unimplemented."""
        try:
            return self._methods[path]
        except KeyError:
            raise Unimplemented(f"unknown method {path}") from None


class Caller(http2.Connection):
    """One client's connection."""

    def __init__(self, server: CRIServer) -> None:
        super().__init__()
        self._server = server
        self._paths: dict[int, str] = {}
        self._tasks: dict[int, tuple[Method, asyncio.Task[None]]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._server.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._server.connections.discard(self)

    def end_streams(self) -> None:
        """Answers without an end, and what its caller would have cancelled, end when the server does."""
        for method, task in self._tasks.values():
            if method.streams or method.name in CANCELLED_WITH_CALLER:
                task.cancel()

    # hooks of the connection

    def on_headers(self, stream: http2.Stream, headers: dict[str, str]) -> None:
        if ":path" not in headers:
            return  # trailers of a request say nothing
        if not headers.get("content-type", "").startswith(status.CONTENT_TYPE):
            stream.finish(NOT_GRPC)
            stream.reset(http2.NO_ERROR)
            return
        self._paths[stream.number] = headers[":path"]
        if stream.ended:
            self.on_data(stream)

    def on_data(self, stream: http2.Stream) -> None:
        if not stream.ended:
            return
        path = self._paths.pop(stream.number, None)
        if path is None:
            return
        try:
            method, implementation = self._server.method(path)
            try:
                request = method.request.FromString(stream.take())
            except (IndexError, DecodeError):
                raise InvalidArgument("the request is not one message of its type") from None
        except CRIError as error:
            refuse(stream, error)
            return
        answer = stream_answer if method.streams else unary_answer
        task = asyncio.create_task(
            answer(stream, method, implementation, request), name=f"CRI {method.name}"
        )
        self._tasks[stream.number] = method, task
        self._server.running.add(task)
        task.add_done_callback(lambda done: self._ended(stream.number, done))

    def on_broken(self, stream: http2.Stream, why: str) -> None:
        self._paths.pop(stream.number, None)
        refuse(stream, Unimplemented(why) if "compressed" in why else InvalidArgument(why))
        stream.reset(http2.NO_ERROR)  # the rest of it need not be sent

    def on_reset(self, stream: http2.Stream, code: int) -> None:
        self._paths.pop(stream.number, None)
        method, task = self._tasks.get(stream.number, (None, None))
        if method is not None and task is not None:
            if method.streams or method.name in CANCELLED_WITH_CALLER:
                task.cancel()

    def _ended(self, number: int, task: asyncio.Task[None]) -> None:
        self._tasks.pop(number, None)
        self._server.running.discard(task)
        if not task.cancelled():
            task.exception()  # logged where it was raised


async def unary_answer(
    stream: http2.Stream,
    method: Method,
    implementation: Callable[[Any], Awaitable[Any]],
    request: Any,
) -> None:
    try:
        body = (await implementation(request)).SerializeToString()
    except asyncio.CancelledError:
        refuse(stream, Internal("the runtime is stopping"))
        raise
    except Exception as error:
        refuse(stream, worded(method, error))
        return
    if not stream.closed:
        stream.connection.send(http2.HEADERS, http2.END_HEADERS, stream.number, OPENING)
        stream.message(body)
        stream.finish(SUCCESS)
        await stream.drained()


async def stream_answer(
    stream: http2.Stream, method: Method, implementation: Callable[[Any], Any], request: Any
) -> None:
    stream.connection.send(http2.HEADERS, http2.END_HEADERS, stream.number, OPENING)
    items = implementation(request)
    try:
        async for item in items:
            stream.message(item.SerializeToString())
            await stream.drained()
    except asyncio.CancelledError:
        stream.finish(hpack.render(status.trailers("UNAVAILABLE", "the runtime is stopping")))
        raise
    except Exception as error:
        failure = worded(method, error)
        stream.finish(hpack.render(status.trailers(failure.code, str(failure))))
        return
    finally:
        await items.aclose()
    stream.finish(SUCCESS)


def worded(method: Method, error: Exception) -> CRIError:
    if isinstance(error, CRIError):
        return error
    LOG.error("%s failed", method.name, exc_info=error)
    return Internal(f"{type(error).__name__}: {error}")


def refuse(stream: http2.Stream, error: CRIError) -> None:
    """An answer that is nothing but a status."""
    if not stream.closed:
        stream.finish(OPENING + hpack.render(status.trailers(error.code, str(error))))
