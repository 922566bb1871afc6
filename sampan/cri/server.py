"""CRI server: RuntimeService and ImageService on a unix socket, for the user alone (0600).

The services are plain objects with a coroutine per method, in snake case (`run_pod_sandbox(request) -> response`; an
asynchronous generator where CRI streams). Their `cri.errors` become gRPC codes; any other exception is logged with its
traceback and answered as INTERNAL. A method that no service has answers UNIMPLEMENTED.

A verb that was begun is finished, even if its caller has gone or its deadline has passed: a half-made pod helps nobody. Only
what may last for ever is cancelled with its caller.

gRPC over HTTP/2 (grpc/doc/PROTOCOL-HTTP2.md): every call of CRI has one request, so it can begin when that is whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from sampan.cri.errors import (
    CRIError,
    DeadlineExceeded,
    Internal,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)
from sampan.cri.hpack import encode
from sampan.cri.http2 import DATA, END_STREAM, HEADERS, Connection, Stream
from sampan.cri.methods import MESSAGE_LIMIT, Method, table

LOG = logging.getLogger(__name__)

CANCELLED_WITH_CALLER = {"ExecSync", "PullImage"}

PREFIX = 5  # bytes before a message: whether it is compressed, and its length
BACKLOG = 128
TEXT_LIMIT = (
    4096  # bytes of an error's message on the wire: some clients take no more than 8 KiB of headers
)
# grpc-timeout's units, in seconds
UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
# google.golang.org/grpc/codes
CODES = {
    "CANCELLED": 1, "UNKNOWN": 2, "INVALID_ARGUMENT": 3, "DEADLINE_EXCEEDED": 4, "NOT_FOUND": 5,
    "ALREADY_EXISTS": 6, "RESOURCE_EXHAUSTED": 8, "FAILED_PRECONDITION": 9, "UNIMPLEMENTED": 12,
    "INTERNAL": 13, "UNAVAILABLE": 14,
}  # fmt: skip
OPENING = encode((b":status", b"200"), (b"content-type", b"application/grpc"))
SUCCESS = HEADERS, END_STREAM, encode((b"grpc-status", b"0"))
OPENED = HEADERS, 0, OPENING
NOT_GRPC = HEADERS, END_STREAM, encode((b":status", b"415"))


class Served(NamedTuple):
    method: Method
    implementation: Callable[..., Any]


class CRIServer:
    def __init__(self, socket: Path, *services: object) -> None:
        self.socket = socket
        self._services = services
        self._methods: dict[bytes, Served] = {}  # by path
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._running: dict[asyncio.Task[Any], bool] = {}  # whether it ends with its caller

    async def start(self) -> None:
        """The socket takes connections on return. Raises OSError when it cannot be made."""
        self.socket.parent.mkdir(parents=True, exist_ok=True)
        self.socket.unlink(missing_ok=True)
        for method in table():
            implementation = self._find(method.function)
            if implementation is not None:
                self._methods[method.path.encode()] = Served(method, implementation)
        mask = os.umask(0o177)
        try:
            self._server = await asyncio.get_running_loop().create_unix_server(
                lambda: Connection(self._serve, MESSAGE_LIMIT + PREFIX, self._connections),
                str(self.socket),
                backlog=BACKLOG,
            )
        finally:
            os.umask(mask)

    async def close(self, grace: float = 2.0) -> None:
        """Take no more calls, let those end that do so by themselves. Idempotent."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        for connection in list(self._connections):
            connection.leave()
        for task, endless in self._running.items():
            if endless:
                task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=grace)
        for connection in list(self._connections):
            connection.abort()
        self.socket.unlink(missing_ok=True)

    def _find(self, function: str) -> Callable[..., Any] | None:
        for service in self._services:
            if (implementation := getattr(service, function, None)) is not None:
                return implementation  # type: ignore[no-any-return]
        return None

    # One call

    def _serve(self, stream: Stream) -> None:
        """Begin it; what cannot be begun is answered at once."""
        if not stream.headers.get(b"content-type", b"").startswith(b"application/grpc"):
            stream.send(NOT_GRPC)
            return
        path = stream.headers.get(b":path", b"")
        served = self._methods.get(path)
        try:
            if served is None:
                raise Unimplemented(f"this runtime has no {path.decode('utf-8', 'replace')}")
            request = read(stream, served.method)
            seconds = timeout(stream.headers.get(b"grpc-timeout", b""))
        except CRIError as error:
            stream.send(refusal(error))
            return
        if served.method.streams:
            work: Awaitable[Any] = deliver(served.implementation(request), stream)
        else:
            work = served.implementation(request)
        task = asyncio.ensure_future(work)
        endless = served.method.streams or served.method.name in CANCELLED_WITH_CALLER
        self._running[task] = endless
        if endless:
            stream.on_reset = task.cancel
        timer = None
        if seconds is not None:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(seconds, expire, stream, task if endless else None)
        task.add_done_callback(lambda task: self._finish(task, served.method, stream, timer))

    def _finish(
        self,
        task: asyncio.Task[Any],
        method: Method,
        stream: Stream,
        timer: asyncio.TimerHandle | None,
    ) -> None:
        del self._running[task]
        stream.on_reset = None
        if timer is not None:
            timer.cancel()
        if task.cancelled():
            stream.send(refusal(Unavailable("the runtime is going, or has been told to")))
            return
        error = task.exception()
        if error is None:
            answer = task.result()
            stream.send(*([SUCCESS] if method.streams else [OPENED, message(answer), SUCCESS]))
            return
        if not isinstance(error, CRIError):
            LOG.error("%s failed", method.name, exc_info=error)
            error = Internal(f"{type(error).__name__}: {error}")
        stream.send(refusal(error))


def read(stream: Stream, method: Method) -> Any:
    """The request. Raises a CRIError when it is none."""
    body = stream.body
    if stream.too_large:
        raise ResourceExhausted(f"a request of more than {MESSAGE_LIMIT} bytes")
    if body[:1] == b"\1":
        raise Unimplemented("no compression is known here; grpc-accept-encoding: identity")
    if len(body) < PREFIX or int.from_bytes(body[1:PREFIX], "big") != len(body) - PREFIX:
        raise Internal(f"{method.name}: a call has one message, whole")
    try:
        return method.request.FromString(bytes(memoryview(body)[PREFIX:]))
    except DecodeError as error:
        raise Internal(f"{method.name}: {error}") from error
    finally:
        stream.body = bytearray()


def message(answer: Any) -> tuple[int, int, bytes]:
    data = answer.SerializeToString()
    return DATA, 0, b"\0" + len(data).to_bytes(4, "big") + data


async def deliver(items: AsyncGenerator[Any, None], stream: Stream) -> None:
    """A stream of answers, no faster than they are read."""
    stream.send(OPENED)
    async with contextlib.aclosing(items):
        async for item in items:
            stream.send(message(item))
            await stream.drain()


def timeout(text: bytes) -> float | None:
    """Seconds of a grpc-timeout, None without one. Raises a CRIError."""
    if not text:
        return None
    if text[-1:] not in UNITS or not text[:-1].isdigit() or len(text) > 9:
        raise Internal(f"grpc-timeout: {text.decode('ascii', 'replace')}")
    return int(text[:-1]) * UNITS[text[-1:]]


def expire(stream: Stream, task: asyncio.Task[Any] | None) -> None:
    """The caller waits no longer: it is told so, and `task` need not go on."""
    stream.send(refusal(DeadlineExceeded("the deadline of the call has passed")))
    if task is not None:
        task.cancel()


def refusal(error: CRIError) -> tuple[int, int, bytes]:
    """Trailers alone; where an answer has begun already, a client passes over what it has seen."""
    text = percent_encoded(str(error))
    status = b"%d" % CODES.get(error.code, CODES["UNKNOWN"])
    block = encode((b"grpc-status", status), (b"grpc-message", text))
    return HEADERS, END_STREAM, OPENING + block


def percent_encoded(text: str) -> bytes:
    """grpc-message: printable ASCII but for the percent sign is as it is."""
    out = bytearray()
    for octet in text.encode("utf-8", "replace"):
        out += bytes((octet,)) if 0x20 <= octet <= 0x7E and octet != 0x25 else b"%%%02X" % octet
        if len(out) > TEXT_LIMIT:
            break
    return bytes(out)
