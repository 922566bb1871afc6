"""HTTP/1.1 requests out of bytes (RFC 9112), by llhttp in its strict mode (`httptools`). Pure: no I/O.

llhttp says what the bytes are; here is what a server makes of it: whole requests in order, limits on what a client may
make us hold, and the few things that llhttp lets pass and this server does not (other versions of HTTP, a missing or second
Host, transfer codings but `chunked`, chunks in HTTP/1.0). What is ambiguous is refused, not repaired: request smuggling
lives there (RFC 9112 §6.3, §11.2).

A Kubernetes client sends the same header block with every request. One that belongs to a request without a body is
remembered whole; the next such request costs its request line and one dictionary look-up.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

HEAD_LIMIT = 64 * 1024  # bytes of a head, or between the bytes of a body; give or take a slice
HEADERS_LIMIT = 200
REMEMBERED = 1024  # header blocks
SLICE = 16 * 1024  # bytes parsed ahead of the request that is answered
_JOINED_BY_LINES = "impersonate-"  # whose values may hold commas


class Malformed(Exception):
    """Not a request that can be answered in its own terms; `code` is 400, 413, 431 or 501."""

    def __init__(self, why: str, code: int = 400) -> None:
        super().__init__(why)
        self.code = code


@dataclass(slots=True)
class Message:
    """One request as it was sent."""

    method: str = ""
    target: str = ""
    headers: dict[str, str] = field(default_factory=dict)  # lower-case names, repeats joined
    body: bytes = b""
    close: bool = False  # the connection ends after the answer


class Reader:
    """The requests of one connection: `feed` it bytes, `take` what is whole.

    `blocks` are the remembered header blocks, common to all connections.
    """

    def __init__(self, blocks: dict[bytes, dict[str, str]], body_limit: int) -> None:
        self.blocks = blocks
        self.body_limit = body_limit
        self.ready: deque[Message] = deque()
        self.rest = b""  # not parsed yet
        self.failed: Malformed | None = None  # what stands behind the last of `ready`
        self.waits = False  # a client has sent a head and wants to hear "100 Continue"
        self._parser: HttpRequestParser | None = None
        self._upgraded = False
        self._reset()

    def _reset(self) -> None:
        self._begun = False  # somewhere within a request
        self._url = b""
        self._headers: dict[str, str] = {}
        self._count = 0
        self._remembered = False  # the headers are of an earlier request, and were found right
        self._in_body = False
        self._parts: list[bytes] = []
        self._size = 0
        self._since = 0  # bytes fed since something came of them

    def close(self) -> None:
        """Give up what refers back to this object."""
        self._parser = None
        self.rest = b""
        self.ready.clear()

    def take(self) -> Message | None:
        """The next whole request. Raises Malformed when what comes next is none."""
        while not self.ready:
            if self.failed is not None:
                raise self.failed
            if not self.rest:
                return None
            self._parse()
        return self.ready.popleft()

    def feed(self, data: bytes) -> None:
        self.rest = self.rest + data if self.rest else data

    def _parse(self) -> None:
        """Parse one slice of what is there."""
        data = self.rest
        if not self._begun and self._upgraded:
            self._parser, self._upgraded = None, False
        if self._parser is None:
            self._parser = HttpRequestParser(self)
        if (
            not self._begun
            and data.endswith(b"\r\n\r\n")
            and data.find(b"\r\n\r\n") + 4 == len(data)
        ):
            self._parse_whole(self._parser, data)
            return
        part, self.rest = (data[:SLICE], data[SLICE:]) if len(data) > SLICE else (data, b"")
        self._since += len(part)
        self._execute(self._parser, part)
        if self._since > HEAD_LIMIT and self._begun and self.failed is None:
            self.failed = Malformed("the request head is too large", 431)

    def _parse_whole(self, parser: HttpRequestParser, data: bytes) -> None:
        """One head and nothing else: what most reads are."""
        self.rest = b""
        if len(data) > HEAD_LIMIT:
            self.failed = Malformed("the request head is too large", 431)
            return
        line, _, block = data.partition(b"\r\n")
        if not line.endswith(b" HTTP/1.1"):
            self._execute(parser, data)
            return
        headers = self.blocks.get(block)
        if headers is not None:
            self._headers, self._remembered = headers, True
            self._execute(parser, line + b"\r\n\r\n")
            return
        self._execute(parser, data)
        if self.ready and not self.ready[0].close and not self._upgraded and not self._begun:
            if len(self.blocks) >= REMEMBERED:
                self.blocks.clear()
            self.blocks[block] = self.ready[0].headers

    def _execute(self, parser: HttpRequestParser, data: bytes) -> None:
        try:
            parser.feed_data(data)
        except HttpParserUpgrade as upgrade:  # the bytes behind may be of another protocol
            self._upgraded = True
            self.rest = data[upgrade.args[0] :] + self.rest
        except HttpParserError as error:
            if self.failed is None:
                self.failed = Malformed(f"malformed HTTP request: {error}")

    # What llhttp reports. Nothing is raised here: an error is kept until what came before it is answered.

    def on_message_begin(self) -> None:
        self._begun = True

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count += 1
        if self._count > HEADERS_LIMIT:
            self._fail("there are too many headers", 431)
        if self._in_body or self.failed is not None:  # trailers are read and dropped
            return
        key = name.decode("ascii").lower()
        text = value.rstrip(b" \t").decode("utf-8", "replace")
        headers = self._headers
        if key not in headers:
            headers[key] = text
        elif key == "host":
            self._fail("the host header is given twice")
        else:
            headers[key] += ("\n" if key.startswith(_JOINED_BY_LINES) else ", ") + text

    def on_headers_complete(self) -> None:
        if self._remembered:
            return
        parser, headers = self._parser, self._headers
        assert parser is not None
        version = parser.get_http_version()
        if version == "1.1":
            if "host" not in headers:
                self._fail("the Host header is missing")
        elif version != "1.0":
            self._fail(f"HTTP/{version} is not spoken here")
        coding = headers.get("transfer-encoding")
        if coding is not None:
            if version == "1.0":
                self._fail("HTTP/1.0 knows no transfer encoding")
            elif coding.lower() != "chunked":
                self._fail("the transfer encoding is not supported", 501)
        elif int(headers.get("content-length", "0")) > self.body_limit:
            self._fail(f"limit is {self.body_limit}", 413)
        self.waits = headers.get("expect", "").lower() == "100-continue"
        self._in_body = True
        self._since = 0

    def on_chunk_header(self) -> None:
        self._since = 0

    def on_body(self, part: bytes) -> None:
        self.waits = False
        self._since = 0
        self._size += len(part)
        if self._size > self.body_limit:
            self._fail(f"limit is {self.body_limit}", 413)
        if self.failed is None:
            self._parts.append(part)

    def on_message_complete(self) -> None:
        if self.failed is None:
            parser, parts = self._parser, self._parts
            assert parser is not None
            self.ready.append(
                Message(
                    parser.get_method().decode("ascii"),
                    self._url.decode("ascii"),
                    self._headers,
                    parts[0] if len(parts) == 1 else b"".join(parts),
                    not self._remembered and not parser.should_keep_alive(),
                )
            )
        self.waits = False
        self._reset()

    def _fail(self, why: str, code: int = 400) -> None:
        if self.failed is None:
            self.failed = Malformed(why, code)
            self._parts = []
