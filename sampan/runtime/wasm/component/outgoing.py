"""wasi:http/outgoing-handler: calls out of the pod, under its network's rules.

A guest calls out where its pod has a network of its own; in the host's network every call is denied, as the host's loopback is
nobody's to give.
"""

from __future__ import annotations

from sampan.runtime.wasm.component.client import DONE, FAILED, Call, Upload
from sampan.runtime.wasm.component.guest import Refused, Resource
from sampan.runtime.wasm.component.streams import Pollable
from sampan.runtime.wasm.component.types import METHODS, OutgoingRequest, RequestOptions, error_code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sampan.runtime.wasm.component.guest import Guest

MAX_CALLS = 64  # of one instance
PORTS = {"HTTP": 80, "HTTPS": 443}


class FutureResponse(Resource):
    kind = "future-incoming-response"
    __slots__ = ("call", "taken")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.taken = False

    def ready(self) -> bool:
        self.call.advance()
        return self.call.state in (DONE, FAILED)

    def event(self) -> tuple[int, int, float]:
        return self.call.event()

    def close(self) -> None:
        if not self.taken:
            self.call.release()
            self.call.response = None


def handle(
    guest: Guest, request: OutgoingRequest, options: RequestOptions | None
) -> FutureResponse:
    names = guest.world.setting.names
    if names is None:
        raise Refused(("HTTP-request-denied", None))
    scheme = request.scheme[0] if request.scheme is not None else "HTTP"
    if scheme not in PORTS:
        raise Refused(("HTTP-request-URI-invalid", None))
    if sum(isinstance(one, FutureResponse) for one in guest.handles.values()) >= MAX_CALLS:
        raise Refused(("connection-limit-reached", None))
    host, port = _address(request.authority or "", PORTS[scheme])
    method = request.method[1] if request.method[0] == "other" else request.method[0].upper()
    assert request.method[0] in METHODS or request.method[0] == "other"
    head, length = _head(method, request)
    spans = (options.connect, options.first, options.between) if options else (None, None, None)
    connect, first, between = (1e9 if span is None else span / 1e9 for span in spans)
    call = Call(
        *(names, host, port, head),
        framing=length,
        bodiless=method == "HEAD",
        timeouts=(connect, first, between),
        authorities=guest.world.setting.authorities if scheme == "HTTPS" else None,
    )
    if request.body is not None:
        request.body.bind(Upload(call))
    else:
        call.sent = True
    return FutureResponse(call)


def _address(authority: str, otherwise: int) -> tuple[str, int]:
    """(host, port) of an authority, RFC 3986 section 3.2; `otherwise` is the port that needs no saying. Raises Refused."""
    host, colon, port = authority.rpartition(":")
    if not colon or "]" in port:
        host, port = authority, str(otherwise)
    host = host.removeprefix("[").removesuffix("]")
    if not host or "@" in host or "/" in host or not port.isdigit() or not 0 < int(port) < 65536:
        raise Refused(("HTTP-request-URI-invalid", None))
    return host, int(port)


def _head(method: str, request: OutgoingRequest) -> tuple[bytes, int | None]:
    """The request's head, and its body's length: None for a chunked one."""
    target = request.target or "/"
    if not target.startswith(("/", "*")):
        target = f"/{target}"
    lines = [f"{method} {target} HTTP/1.1\r\nhost: {request.authority}".encode()]
    length: int | None = None if request.body is not None else 0
    for name, value in request.headers.pairs:
        if name.lower() == b"content-length":
            if request.body is not None and value.isdigit() and len(value) < 19:
                length = int(value)
            continue
        lines.append(b"%s: %s" % (name, value))
    if request.body is not None:
        framing = (
            b"transfer-encoding: chunked" if length is None else b"content-length: %d" % length
        )
        lines.append(framing)
    elif method in ("POST", "PUT", "PATCH"):
        lines.append(b"content-length: 0")
    return b"\r\n".join((*lines, b"connection: close", b"", b"")), length


def get(guest: Guest, future: FutureResponse) -> Any:
    if not future.ready():
        return None
    if future.taken:
        return False, None
    future.taken = True
    call = future.call
    response, call.response = call.response, None  # which holds the call
    return True, (True, response) if response is not None else (False, error_code(call.error))


INTERFACES: dict[str, dict[str, Callable[..., Any]]] = {
    "wasi:http/outgoing-handler": {"handle": handle},
    "wasi:http/types": {
        "[method]future-incoming-response.subscribe": lambda _, future: Pollable(future),
        "[method]future-incoming-response.get": get,
    },
}
