"""HTTP/1.1 requests out of bytes (RFC 9112): heads, and bodies with a length or in chunks. Pure: no I/O.

Why not aiohttp's parser: importing it brings in the whole client (0.2 s and 12 MB, a third of what the server may take to
start), and a Kubernetes client sends the same header block with every request, so one parsed once is remembered whole and
the next costs one dictionary look-up. What is ambiguous is refused: bare line feeds, folded or malformed header
lines, two lengths, a length beside chunks (RFC 9112 §6.3; request smuggling lives there).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

HEAD_LIMIT = 64 * 1024  # bytes of a whole head
HEADERS_LIMIT = 200
REMEMBERED = 1024  # header blocks
_JOINED_BY_LINES = "impersonate-"  # whose values may hold commas

_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}) ([!-~]+) HTTP/1\.([01])")
_HEADER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n\x00]*)?")


class Malformed(Exception):
    """Not a request that can be answered in its own terms; `code` is 400, 431 or 501."""

    def __init__(self, why: str, code: int = 400) -> None:
        super().__init__(why)
        self.code = code


@dataclass(slots=True)
class Block:
    """A header block and what follows from it."""

    headers: dict[str, str]  # names in lower case, repeats joined
    length: int  # of the body; -1: chunked
    close: bool  # the connection ends after the answer, when the request is HTTP/1.1
    keep: bool  # it goes on, when the request is HTTP/1.0
    waits: bool  # the client waits for "100 Continue"


@dataclass(slots=True)
class Head:
    method: str
    target: str
    block: Block
    close: bool


class Heads:
    """Parses heads; remembers header blocks."""

    def __init__(self) -> None:
        self.blocks: dict[bytes, Block] = {}

    def parse(self, head: bytes) -> Head:
        """`head` is everything before the blank line. Raises Malformed."""
        line, _, raw = head.partition(b"\r\n")
        match = _REQUEST_LINE.fullmatch(line)
        if match is None:
            raise Malformed("the request line is malformed")
        block = self.blocks.get(raw)
        if block is None:
            block = parse_block(raw)
            if len(self.blocks) >= REMEMBERED:
                self.blocks.clear()
            self.blocks[raw] = block
        method, target, minor = match.groups()
        if minor == b"1":
            if "host" not in block.headers:
                raise Malformed("the Host header is missing")
            close = block.close
        else:
            close = not block.keep
        return Head(method.decode(), target.decode(), block, close)


def parse_block(raw: bytes) -> Block:
    """Header lines, without the blank one. Raises Malformed."""
    headers: dict[str, str] = {}
    lines = raw.split(b"\r\n") if raw else []
    if len(lines) > HEADERS_LIMIT:
        raise Malformed("there are too many headers", 431)
    for line in lines:
        match = _HEADER.fullmatch(line)
        if match is None:
            raise Malformed("a header line is malformed")
        name = match[1].decode().lower()
        value = match[2].rstrip(b" \t").decode("utf-8", "replace")
        if name not in headers:
            headers[name] = value
        elif name == "host" or (name == "content-length" and headers[name] != value):
            raise Malformed(f"the {name} header is given twice")
        elif name != "content-length":
            headers[name] += ("\n" if name.startswith(_JOINED_BY_LINES) else ", ") + value
    connection = {part.strip() for part in headers.get("connection", "").lower().split(",")}
    return Block(
        headers,
        _length(headers),
        "close" in connection,
        "keep-alive" in connection,
        headers.get("expect", "").lower() == "100-continue",
    )


def _length(headers: dict[str, str]) -> int:
    coding = headers.get("transfer-encoding")
    length = headers.get("content-length")
    if coding is not None:
        if length is not None:
            raise Malformed("both a length and a transfer encoding are given")
        if coding.lower() != "chunked":
            raise Malformed("the transfer encoding is not supported", 501)
        return -1
    if length is None:
        return 0
    if not length.isascii() or not length.isdigit() or len(length) > 18:
        raise Malformed("the content length is malformed")
    return int(length)


class Chunks:
    """A chunked body as it comes. `feed` takes bytes until `done`; trailers are read and dropped."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0
        self.done = False
        self._left = -1  # bytes of the present chunk; -1: its size line is next; -2: trailers
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """What is left over behind the body's end. Raises Malformed."""
        data = self._rest + data
        self._rest = b""
        while not self.done:
            if self._left > 0:
                part = data[: self._left]
                self.parts.append(part)
                self.size += len(part)
                data = data[len(part) :]
                self._left -= len(part)
                if self._left:
                    return b""
                self._left = 0
            if self._left == 0:  # the line end behind a chunk
                if len(data) < 2:
                    self._rest = data
                    return b""
                if data[:2] != b"\r\n":
                    raise Malformed("a chunk is malformed")
                data, self._left = data[2:], -1
            line, mark, behind = data.partition(b"\r\n")
            if not mark:
                if len(data) > HEAD_LIMIT:
                    raise Malformed("a chunk is malformed")
                self._rest = data
                return b""
            data = behind
            if self._left == -2:
                self.done = not line
                continue
            match = _CHUNK.fullmatch(line)
            if match is None:
                raise Malformed("a chunk is malformed")
            size = int(match[1], 16)
            self._left = size or -2
        return data
