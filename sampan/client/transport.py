"""What travels between a client and an API server: plain dataclasses and the `Transport` protocol.

The same `Request` and `Response` are used on both sides of the door. `client.http` puts them on the wire, `client.inprocess`
hands them straight to our own API server, and `apiserver.http` makes them out of what a stranger sent. Nothing here does
I/O, so a role that needs only the types imports only this file.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson


@dataclass(frozen=True, slots=True)
class User:
    """Who asks. Hashable, so that an authorizer can remember its answers by user.

    `extra` is given as a mapping or as pairs, and kept as sorted pairs: `(("scopes", ("a", "b")),)`.
    """

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Any = ()  # tuple[tuple[str, tuple[str, ...]], ...] after construction

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", tuple(self.groups))
        if self.extra:
            pairs = self.extra.items() if isinstance(self.extra, Mapping) else self.extra
            frozen = tuple(sorted((key, tuple(values)) for key, values in pairs))
            object.__setattr__(self, "extra", frozen)
        else:
            object.__setattr__(self, "extra", ())

    def __hash__(self) -> int:
        return hash(
            self.name
        )  # a string keeps its hash; the rest differs for few users of one name

    def extra_map(self) -> dict[str, list[str]]:
        """`extra` as UserInfo objects show it."""
        return {key: list(values) for key, values in self.extra}


@dataclass(slots=True)
class Request:
    """One request. Header names are in lower case; `query` keeps order and repeats when given as pairs.

    `user` None: not authenticated yet (the server finds out from what the transport carries). `stream` asks for a body
    that is read while it comes (watch, log follow). `remote` is the caller's address, for logs and audit; `waited` are the
    seconds that the server spent on it in a queue or waiting for webhooks.
    """

    method: str
    path: str
    query: list[tuple[str, str]] | dict[str, str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    user: User | None = None
    stream: bool = False
    remote: str = ""
    waited: float = 0.0

    def pairs(self) -> Iterable[tuple[str, str]]:
        return self.query.items() if isinstance(self.query, dict) else self.query

    def param(self, name: str, default: str = "") -> str:
        """The first value of a query parameter."""
        if isinstance(self.query, dict):
            return self.query.get(name, default)
        for key, value in self.query:
            if key == name:
                return value
        return default

    def params(self, name: str) -> list[str]:
        """Every value of a query parameter (`command` of exec is repeated)."""
        return [value for key, value in self.pairs() if key == name]

    def header(self, name: str, default: str = "") -> str:
        return self.headers.get(name.lower(), default)


@dataclass(slots=True)
class Response:
    """One answer. `body` is bytes, or an async iterator of bytes for a stream.

    A stream that is not read to its end must be closed (`aclose`), which frees what the server holds for it.
    """

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | AsyncIterator[bytes] = b""

    @property
    def streaming(self) -> bool:
        return not isinstance(self.body, (bytes, bytearray, memoryview))

    async def read(self) -> bytes:
        """The whole body, whichever form it has."""
        if isinstance(self.body, bytes):
            return self.body
        parts = [part async for part in self.body]
        self.body = b"".join(parts)
        return self.body

    def json(self) -> Any:
        """The body decoded; only for one that is not a stream."""
        if not isinstance(self.body, bytes):
            raise TypeError("the body is a stream; read() it first")
        return orjson.loads(self.body)

    async def aclose(self) -> None:
        """Free the server side of a stream. Idempotent; nothing happens for plain bytes."""
        close = getattr(self.body, "aclose", None)
        if close is not None:
            await close()


class Transport(Protocol):
    async def send(self, request: Request) -> Response:
        """The answer, whatever its status. The body is read fully unless `request.stream`.

        Raises ConnectionError (client.errors.Unreachable) when no answer could be had, naming the address.
        """
        ...

    async def close(self) -> None:
        """Release connections. Idempotent."""
        ...
