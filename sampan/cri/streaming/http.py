"""Just enough HTTP/1.1 for a server that only upgrades connections: a request's head in, a response's head out."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

HEAD_LIMIT = 32 << 10
HEAD_TIME = 10.0  # seconds

REASONS = {
    101: "Switching Protocols",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
}


class BadRequest(Exception):
    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Head:
    method: str
    path: str  # without the query
    headers: dict[str, list[str]]  # by lower-case name

    def words(self, name: str) -> list[str]:
        """A header's comma-separated values over all its lines."""
        return [
            word.strip()
            for line in self.headers.get(name, ())
            for word in line.split(",")
            if word.strip()
        ]

    def first(self, name: str) -> str:
        return self.headers.get(name, [""])[0]


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """None when the client left without a word. Raises BadRequest, TimeoutError."""
    try:
        async with asyncio.timeout(HEAD_TIME):
            raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if not error.partial:
            return None
        raise BadRequest("the request is cut off") from None
    except asyncio.LimitOverrunError:
        raise BadRequest("the request's head is too large", 431) from None
    return parse_head(raw)


def parse_head(raw: bytes) -> Head:
    lines = raw.decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise BadRequest("malformed request line")
    headers: dict[str, list[str]] = {}
    for line in lines[1:]:
        if not line:
            continue
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise BadRequest("malformed header")
        headers.setdefault(name.lower(), []).append(value.strip())
    return Head(words[0], words[1].partition("?")[0], headers)


def response(status: int, headers: dict[str, str], body: bytes = b"") -> bytes:
    lines = [f"HTTP/1.1 {status} {REASONS.get(status, '')}"]
    if status != 101:
        headers = {
            "Content-Type": "text/plain; charset=utf-8",
            "Content-Length": str(len(body)),
            "Connection": "close",
            **headers,
        }
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace") + body
