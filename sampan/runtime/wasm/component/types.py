"""wasi:http/types: messages and bodies as a guest holds them; their fields are in fields.py.

A message is plain data here. What it is on the wire is told by two objects that its makers bring: an incoming body reads
from a `Source` (exchange.py for requests, client.py for answers), an outgoing one writes to a `Sink`, which is bound when
the message is sent; what is written before is kept, up to PERMIT bytes.
"""

from __future__ import annotations

from sampan.runtime.wasm import wire
from sampan.runtime.wasm.component.fields import FIELDS, Fields
from sampan.runtime.wasm.component.framing import TooLarge
from sampan.runtime.wasm.component.guest import Refused, Resource
from sampan.runtime.wasm.component.streams import (
    PERMIT,
    Failure,
    InputStream,
    OutputStream,
    Pollable,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from sampan.runtime.wasm.component.guest import Guest

    Pairs = list[tuple[bytes, bytes]]

    class Source(Protocol):
        """An incoming body: a Reader, and its trailers when it has ended."""

        @property
        def trailers(self) -> Pairs: ...
        def ready(self) -> bool: ...
        def event(self) -> tuple[int, int, float]: ...
        def read(self, size: int) -> bytes | None: ...

    class Sink(Protocol):
        """Where an outgoing body goes: a Writer, and its end."""

        def ready(self) -> bool: ...
        def event(self) -> tuple[int, int, float]: ...
        def room(self) -> int: ...
        def write(self, data: bytes) -> None: ...
        def flush(self) -> None: ...
        def finish(self, trailers: Pairs) -> None: ...
        def abandon(self) -> None: ...


METHODS = ("get", "head", "post", "put", "delete", "connect", "options", "trace", "patch")

# -- what comes in ------------------------------------------------------------------------------------------------


class IncomingRequest(Resource):
    kind = "incoming-request"
    __slots__ = ("authority", "body", "headers", "method", "target")

    def __init__(
        self, method: bytes, target: bytes, authority: bytes, headers: Pairs, body: Source
    ) -> None:
        self.method, self.target, self.authority, self.headers = method, target, authority, headers
        self.body: Source | None = body


class IncomingResponse(Resource):
    kind = "incoming-response"
    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: Pairs, body: Source) -> None:
        self.status, self.headers = status, headers
        self.body: Source | None = body

    def close(self) -> None:
        _let_go(self.body)
        self.body = None


class IncomingBody(Resource):
    kind = "incoming-body"
    __slots__ = ("source", "streamed")

    def __init__(self, source: Source) -> None:
        self.source = source
        self.streamed = False

    def close(self) -> None:
        _let_go(self.source)


class FutureTrailers(Resource):
    """Ready when the body has ended: what of it was not read is read and thrown away for that."""

    kind = "future-trailers"
    __slots__ = ("error", "source", "taken")

    def __init__(self, source: Source) -> None:
        self.source = source
        self.taken = False
        self.error: OSError | None = None

    def ready(self) -> bool:
        try:
            while self.error is None:
                data = self.source.read(PERMIT)
                if data is None:
                    return True
                if not data:
                    return False
        except OSError as error:
            self.error = error.with_traceback(None)
        return True

    def event(self) -> tuple[int, int, float]:
        return self.source.event()

    def close(self) -> None:
        _let_go(self.source)


def _let_go(source: Any) -> None:
    """A guest has no more use for a body; a client's connection ends with it."""
    release = getattr(source, "release", None)
    if release is not None:
        release()


def method_of(text: bytes) -> tuple[str, str | None]:
    name = text.decode("ascii")
    return (name.lower(), None) if name.lower() in METHODS and name.isupper() else ("other", name)


def consume(guest: Guest, message: IncomingRequest | IncomingResponse) -> IncomingBody:
    if message.body is None:
        raise Refused
    body, message.body = message.body, None
    return IncomingBody(body)


def body_stream(guest: Guest, body: IncomingBody) -> InputStream:
    if body.streamed:
        raise Refused
    body.streamed = True
    return InputStream(body.source)


def body_finish(guest: Guest, body: IncomingBody) -> FutureTrailers:
    return FutureTrailers(body.source)


def trailers_get(guest: Guest, future: FutureTrailers) -> Any:
    if not future.ready():
        return None
    if future.taken:
        return False, None
    future.taken = True
    if future.error is not None:
        return True, (False, error_code(future.error))
    trailers = future.source.trailers
    return True, (True, Fields(list(trailers), immutable=True) if trailers else None)


# -- what goes out ------------------------------------------------------------------------------------------------


class OutgoingBody(Resource):
    """A writer that keeps what is written until its message is sent, and then passes it on."""

    kind = "outgoing-body"
    __slots__ = ("finished", "kept", "sink", "size", "streamed", "trailers")

    def __init__(self) -> None:
        self.sink: Sink | None = None
        self.kept: list[bytes] = []
        self.size = 0
        self.streamed = False
        self.finished = False
        self.trailers: Pairs = []

    def bind(self, sink: Sink) -> None:
        """The message is sent: here is where its body goes."""
        self.sink = sink
        for data in self.kept:
            sink.write(data)
        self.kept = []
        if self.finished:
            sink.finish(self.trailers)

    def ready(self) -> bool:
        return self.sink.ready() if self.sink is not None else True

    def event(self) -> tuple[int, int, float]:
        return self.sink.event() if self.sink is not None else (-1, 0, 0.0)

    def room(self) -> int:
        if self.finished:
            raise BrokenPipeError
        return self.sink.room() if self.sink is not None else PERMIT - self.size

    def write(self, data: bytes) -> None:
        if self.finished:
            raise BrokenPipeError
        if self.sink is not None:
            self.sink.write(data)
        else:
            self.kept.append(data)
            self.size += len(data)

    def flush(self) -> None:
        if self.sink is not None:
            self.sink.flush()

    def finish(self, trailers: Pairs) -> None:
        self.finished, self.trailers = True, trailers
        if self.sink is not None:
            self.sink.finish(trailers)

    def close(self) -> None:
        """Dropped without `finish`: what was sent is not whole, and the peer must be able to tell."""
        if not self.finished:
            self.finished = True
            if self.sink is not None:
                self.sink.abandon()


class OutgoingResponse(Resource):
    kind = "outgoing-response"
    __slots__ = ("body", "headers", "status")

    def __init__(self, headers: Fields) -> None:
        self.status = 200
        self.headers = headers
        self.body: OutgoingBody | None = None


class OutgoingRequest(Resource):
    kind = "outgoing-request"
    __slots__ = ("authority", "body", "headers", "method", "scheme", "target")

    def __init__(self, headers: Fields) -> None:
        self.headers = headers
        self.method: tuple[str, Any] = ("get", None)
        self.scheme: tuple[str, Any] | None = None
        self.authority: str | None = None
        self.target: str | None = None
        self.body: OutgoingBody | None = None


class RequestOptions(Resource):
    """Time-outs in ns, None: the guest's own time is the only limit."""

    kind = "request-options"
    __slots__ = ("between", "connect", "first")

    def __init__(self) -> None:
        self.connect: int | None = None
        self.first: int | None = None
        self.between: int | None = None


def make_message(kind: Callable[[Fields], Any]) -> Callable[[Guest, Fields], Any]:
    def make(guest: Guest, headers: Fields) -> Any:
        headers.immutable = True
        return kind(headers)

    return make


def outgoing_body(guest: Guest, message: OutgoingRequest | OutgoingResponse) -> OutgoingBody:
    if message.body is not None:
        raise Refused
    message.body = OutgoingBody()
    return message.body


def body_write(guest: Guest, body: OutgoingBody) -> OutputStream:
    if body.streamed:
        raise Refused
    body.streamed = True
    return OutputStream(body)


def outgoing_finish(guest: Guest, body: OutgoingBody, trailers: Fields | None) -> None:
    try:
        body.finish(trailers.pairs if trailers is not None else [])
    except OSError as error:
        raise Refused(error_code(error)) from error


def set_status(guest: Guest, response: OutgoingResponse, status: int) -> None:
    if not 100 <= status <= 999:
        raise Refused
    response.status = status


def set_method(guest: Guest, request: OutgoingRequest, method: tuple[str, Any]) -> None:
    if method[0] == "other" and not wire.is_token(method[1].encode()):
        raise Refused
    request.method = method


def _clean(text: str | None) -> str | None:
    if text is not None and (
        not text.isascii() or any(ord(c) <= 0x20 or ord(c) == 0x7F for c in text)
    ):
        raise Refused
    return text


def set_target(guest: Guest, request: OutgoingRequest, target: str | None) -> None:
    request.target = _clean(target)


def set_authority(guest: Guest, request: OutgoingRequest, authority: str | None) -> None:
    request.authority = _clean(authority)


def set_scheme(guest: Guest, request: OutgoingRequest, scheme: tuple[str, Any] | None) -> None:
    request.scheme = scheme


def option(name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    def change(guest: Guest, options: RequestOptions, span: int | None) -> None:
        setattr(options, name, span)

    return lambda _, options: getattr(options, name), change


# -- errors -------------------------------------------------------------------------------------------------------


def error_code(error: BaseException | None) -> tuple[str, Any]:
    """wasi:http's error-code for what went wrong on the wire."""
    if isinstance(error, TooLarge):
        return "HTTP-request-body-size", None
    if isinstance(error, CodedError):
        return error.code
    if isinstance(error, ConnectionRefusedError):
        return "connection-refused", None
    if isinstance(error, ConnectionError):
        return "connection-terminated", None
    if isinstance(error, TimeoutError):
        return "connection-timeout", None
    return "internal-error", str(error)


class CodedError(OSError):
    """An error whose wasi:http code is known where it is made."""

    def __init__(self, code: str, payload: Any = None) -> None:
        super().__init__(code)
        self.code: tuple[str, Any] = code, payload


def http_error_code(guest: Guest, failure: Failure) -> Any:
    return error_code(failure.cause) if isinstance(failure.cause, OSError) else None


_connect, _first, _between = option("connect"), option("first"), option("between")

INTERFACES: dict[str, dict[str, Callable[..., Any]]] = {
    "wasi:http/types": {
        "http-error-code": http_error_code,
        **FIELDS,
        "[method]incoming-request.method": lambda _, request: method_of(request.method),
        "[method]incoming-request.path-with-query": lambda _, request: request.target.decode(
            "latin-1"
        ),
        "[method]incoming-request.scheme": lambda _, request: ("HTTP", None),
        "[method]incoming-request.authority": lambda _, request: (
            request.authority.decode("latin-1") or None
        ),
        "[method]incoming-request.headers": lambda _, request: Fields(
            request.headers, immutable=True
        ),
        "[method]incoming-request.consume": consume,
        "[method]incoming-response.status": lambda _, response: response.status,
        "[method]incoming-response.headers": lambda _, response: Fields(
            response.headers, immutable=True
        ),
        "[method]incoming-response.consume": consume,
        "[method]incoming-body.stream": body_stream,
        "[static]incoming-body.finish": body_finish,
        "[method]future-trailers.subscribe": lambda _, future: Pollable(future),
        "[method]future-trailers.get": trailers_get,
        "[constructor]outgoing-response": make_message(OutgoingResponse),
        "[method]outgoing-response.status-code": lambda _, response: response.status,
        "[method]outgoing-response.set-status-code": set_status,
        "[method]outgoing-response.headers": lambda _, response: response.headers,
        "[method]outgoing-response.body": outgoing_body,
        "[constructor]outgoing-request": make_message(OutgoingRequest),
        "[method]outgoing-request.method": lambda _, request: request.method,
        "[method]outgoing-request.set-method": set_method,
        "[method]outgoing-request.path-with-query": lambda _, request: request.target,
        "[method]outgoing-request.set-path-with-query": set_target,
        "[method]outgoing-request.scheme": lambda _, request: request.scheme,
        "[method]outgoing-request.set-scheme": set_scheme,
        "[method]outgoing-request.authority": lambda _, request: request.authority,
        "[method]outgoing-request.set-authority": set_authority,
        "[method]outgoing-request.headers": lambda _, request: request.headers,
        "[method]outgoing-request.body": outgoing_body,
        "[constructor]request-options": lambda _: RequestOptions(),
        "[method]request-options.connect-timeout": _connect[0],
        "[method]request-options.set-connect-timeout": _connect[1],
        "[method]request-options.first-byte-timeout": _first[0],
        "[method]request-options.set-first-byte-timeout": _first[1],
        "[method]request-options.between-bytes-timeout": _between[0],
        "[method]request-options.set-between-bytes-timeout": _between[1],
        "[method]outgoing-body.write": body_write,
        "[static]outgoing-body.finish": outgoing_finish,
    },
}
