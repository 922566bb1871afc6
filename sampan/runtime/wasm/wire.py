"""HTTP/1.1 on one side and CGI on the other, as pure functions over bytes.

RFC 9112 for the message syntax (strict where leniency lets two parties see different messages: bare line feeds, folded
lines, space before a colon, two lengths), RFC 9110 for semantics, RFC 3875 for the environment and answer of a script.
"""

from __future__ import annotations

HEAD_LIMIT = 32 * 1024
_TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_TOKEN_BYTES = bytes(_TOKEN)
_HEX = b"0123456789abcdefABCDEF"
HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"content-length",
        b"transfer-encoding",
        b"keep-alive",
        b"upgrade",
        b"trailer",
        b"te",
    )
)
REASONS = {
    100: b"Continue", 200: b"OK", 201: b"Created", 202: b"Accepted", 204: b"No Content", 206: b"Partial Content",
    301: b"Moved Permanently", 302: b"Found", 303: b"See Other", 304: b"Not Modified", 307: b"Temporary Redirect",
    308: b"Permanent Redirect", 400: b"Bad Request", 401: b"Unauthorized", 403: b"Forbidden", 404: b"Not Found",
    405: b"Method Not Allowed", 408: b"Request Timeout", 409: b"Conflict", 413: b"Content Too Large",
    417: b"Expectation Failed", 422: b"Unprocessable Content", 429: b"Too Many Requests",
    431: b"Request Header Fields Too Large", 500: b"Internal Server Error", 501: b"Not Implemented",
    502: b"Bad Gateway", 503: b"Service Unavailable", 504: b"Gateway Timeout", 505: b"HTTP Version Not Supported",
}  # fmt: skip


class Malformed(Exception):
    """A message that cannot be served; `status` is the answer, after which the connection is closed."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Request:
    """A request's head, and its body once that has been read."""

    __slots__ = (
        "body",
        "chunked",
        "expects",
        "headers",
        "keep_alive",
        "length",
        "method",
        "path",
        "query",
        "target",
        "version",
    )

    def __init__(self, method: bytes, target: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        self.method = method
        self.target = target
        self.version = b"HTTP/1.1"
        self.headers = headers  # names in lower case
        self.path = target
        self.query = b""
        self.length = 0
        self.chunked = False
        self.keep_alive = True
        self.expects = False
        self.body = b""


def head_end(data: bytes | bytearray) -> int:
    """Where the head in `data` ends, after its empty line; 0 while it is not complete. Raises Malformed."""
    end = data.find(b"\r\n\r\n", 0, HEAD_LIMIT)
    if end >= 0:
        return end + 4
    if len(data) >= HEAD_LIMIT:
        raise Malformed(431, "the request's head is larger than 32 KiB")
    if data.count(b"\n") != data.count(b"\r\n"):
        raise Malformed(400, "a line of the head ends without a carriage return")
    return 0


def parse_head(head: bytes) -> Request:
    """`head` ends with its empty line. Raises Malformed."""
    if (
        head.count(b"\n") != head.count(b"\r\n")
        or head.count(b"\r") != head.count(b"\n")
        or b"\0" in head
    ):
        raise Malformed(400, "a stray control character in the head")
    line, *lines = head[:-4].split(b"\r\n")
    parts = line.split(b" ")
    if len(parts) != 3:
        raise Malformed(400, "the request line is not METHOD TARGET VERSION")
    method, target, version = parts
    if not method or method.translate(None, _TOKEN_BYTES):
        raise Malformed(400, "the method is not a token")
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        status = 505 if version.startswith(b"HTTP/") else 400
        raise Malformed(status, "only HTTP/1.0 and HTTP/1.1 are spoken here")
    request = Request(method, target, _fields(lines))
    request.version = version
    _read_framing(request, version)
    _split_target(request)
    return request


def _fields(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    """(name in lower case, value) of header lines. Raises Malformed."""
    fields = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not name or name.translate(None, _TOKEN_BYTES):
            raise Malformed(400, "a header line is not NAME: VALUE")
        fields.append((name.lower(), value.strip(b" \t")))
    return fields


def parse_fields(section: bytes) -> list[tuple[bytes, bytes]]:
    """Trailers, or the headers of an answer, without the empty line at their end. Raises Malformed."""
    if section.count(b"\n") != section.count(b"\r\n") or b"\0" in section:
        raise Malformed(400, "a stray control character in the fields")
    return _fields(section.split(b"\r\n"))


def is_token(name: bytes) -> bool:
    return bool(name) and not name.translate(None, _TOKEN_BYTES)


def _read_framing(request: Request, version: bytes) -> None:
    hosts = 0
    lengths: set[bytes] = set()
    connection = b""
    for name, value in request.headers:
        if name == b"host":
            hosts += 1
        elif name == b"content-length":
            lengths.update(part.strip() for part in value.split(b","))
        elif name == b"transfer-encoding":
            if value.lower() != b"chunked" or request.chunked:
                raise Malformed(501, "the only transfer coding known is chunked")
            request.chunked = True
        elif name == b"connection":
            connection += b"," + value.lower()
        elif name == b"expect":
            if value.lower() != b"100-continue":
                raise Malformed(417, "the only expectation known is 100-continue")
            request.expects = True
    if hosts > 1 or (hosts == 0 and version == b"HTTP/1.1"):
        raise Malformed(400, "a request has exactly one Host")
    if request.chunked and (lengths or version == b"HTTP/1.0"):
        raise Malformed(400, "a chunked request has no Content-Length and is HTTP/1.1")
    if lengths:
        text = lengths.pop()
        if lengths or not text.isdigit() or len(text) > 18:
            raise Malformed(400, "Content-Length is not one number")
        request.length = int(text)
    options = {part.strip() for part in connection.split(b",")}
    request.keep_alive = b"close" not in options and (
        version == b"HTTP/1.1" or b"keep-alive" in options
    )


def _split_target(request: Request) -> None:
    target = request.target
    if not target or min(target) <= 0x20 or 0x7F in target:
        raise Malformed(400, "the target holds a control character")
    if not target.startswith(b"/"):
        scheme, separator, rest = target.partition(b"://")
        if separator and scheme.lower() in (b"http", b"https"):
            slash = rest.find(b"/")
            target = rest[slash:] if slash >= 0 else b"/" + rest[len(rest.split(b"?")[0]) :]
        elif target != b"*" or request.method != b"OPTIONS":
            raise Malformed(400, "the target is neither a path nor an absolute URI")
    path, _, request.query = target.partition(b"?")
    request.path = unquote(path) if b"%" in path else path


def unquote(path: bytes) -> bytes:
    """Percent-decoding as PATH_INFO wants it. Raises Malformed for a broken escape and for a NUL."""
    first, *pieces = path.split(b"%")
    out = [first]
    for piece in pieces:
        if len(piece) < 2 or piece[0] not in _HEX or piece[1] not in _HEX or piece[:2] == b"00":
            raise Malformed(400, "a broken percent escape in the path")
        out.append(bytes((int(piece[:2], 16),)) + piece[2:])
    return b"".join(out)


def take_chunked(data: bytearray, start: int, limit: int) -> tuple[bytes, int] | None:
    """The chunked body that begins at `start` and where it ends; None while it is not complete. Raises Malformed."""
    pieces: list[bytes] = []
    total, place = 0, start
    while True:
        end = data.find(b"\r\n", place)
        if end < 0:
            if len(data) - place > 1024:
                raise Malformed(400, "a chunk's size line is too long")
            return None
        size_text = bytes(data[place:end]).partition(b";")[0].rstrip(b" \t")
        if not size_text or len(size_text) > 12 or size_text.translate(None, _HEX):
            raise Malformed(400, "a chunk's size is not a hexadecimal number")
        size = int(size_text, 16)
        place = end + 2
        if size == 0:
            return _after_trailers(data, place, b"".join(pieces))
        total += size
        if total > limit:
            raise Malformed(413, f"the body is larger than {limit} bytes")
        if len(data) < place + size + 2:
            return None
        if data[place + size : place + size + 2] != b"\r\n":
            raise Malformed(400, "a chunk is longer than its size")
        pieces.append(bytes(data[place : place + size]))
        place += size + 2


def _after_trailers(data: bytearray, place: int, body: bytes) -> tuple[bytes, int] | None:
    if data[place : place + 2] == b"\r\n":
        return body, place + 2
    end = data.find(b"\r\n\r\n", place)
    if end >= 0:
        return body, end + 4
    if len(data) - place > HEAD_LIMIT:
        raise Malformed(431, "the trailers are larger than 32 KiB")
    return None


def cgi_constants(port: bytes) -> dict[bytes, bytes]:
    """Those variables of RFC 3875 section 4.1 that do not depend on the request."""
    return {
        b"GATEWAY_INTERFACE": b"CGI/1.1",
        b"SERVER_SOFTWARE": b"sampan",
        b"SERVER_PROTOCOL": b"HTTP/1.1",
        b"SERVER_PORT": port,
        b"SCRIPT_NAME": b"",
    }


# What every request sets, whatever its headers are.
VARYING = (
    b"SERVER_NAME", b"REMOTE_ADDR", b"REMOTE_HOST", b"REQUEST_METHOD", b"REQUEST_URI", b"PATH_INFO", b"QUERY_STRING",
)  # fmt: skip


def cgi_environment(request: Request, peer: bytes) -> dict[bytes, bytes]:
    """What RFC 3875 section 4.1 tells a script about its request, but for `cgi_constants`.

    `Proxy` is left out, since HTTP_PROXY steers clients inside the script (httpoxy); so are names with an underscore, which
    would collide with those that have a hyphen there.
    """
    environment = {
        b"SERVER_NAME": b"localhost",
        b"REMOTE_ADDR": peer,
        b"REMOTE_HOST": peer,
        b"REQUEST_METHOD": request.method,
        b"REQUEST_URI": request.target,
        b"PATH_INFO": request.path,
        b"QUERY_STRING": request.query,
    }
    if request.body or request.length:
        environment[b"CONTENT_LENGTH"] = b"%d" % len(request.body)
    for name, value in request.headers:
        if name == b"content-type":
            environment[b"CONTENT_TYPE"] = value
            continue
        if name == b"host":
            server = value if value.endswith(b"]") else value.rpartition(b":")[0] or value
            environment[b"SERVER_NAME"] = server or b"localhost"
        elif name in (b"content-length", b"proxy", b"connection") or b"_" in name:
            continue
        variable = b"HTTP_" + name.upper().replace(b"-", b"_")
        if variable in environment:
            environment[variable] += (b"; " if name == b"cookie" else b", ") + value
        else:
            environment[variable] = value
    return environment


def parse_cgi(output: bytes) -> tuple[int, list[bytes], bytes]:
    """(status, header lines, body) of a script's answer, RFC 3875 section 6. Raises ValueError saying what is wrong."""
    ends = [
        (place, width)
        for mark, width in ((b"\n\n", 2), (b"\r\n\r\n", 4))
        if (place := output.find(mark)) >= 0
    ]
    if not ends:
        raise ValueError("the answer has no empty line after its headers")
    end, width = min(ends)
    status, located, lines = 0, False, []
    for line in output[:end].split(b"\n"):
        line = line.rstrip(b"\r")
        name, colon, value = line.partition(b":")
        lowered = name.lower()
        if (
            not colon
            or not name
            or name.translate(None, _TOKEN_BYTES)
            or b"\r" in value
            or b"\0" in value
        ):
            raise ValueError(f"the answer's header line {line[:80]!r} is not NAME: VALUE")
        value = value.strip(b" \t")
        if lowered == b"status":
            digits = value[:3]
            if (
                not digits.isdigit()
                or not 200 <= int(digits) <= 599
                or value[3:4] not in (b"", b" ")
            ):
                raise ValueError(
                    f"the answer's status {value[:40]!r} is not a number from 200 to 599"
                )
            status = int(digits)
        elif lowered not in HOP_BY_HOP:
            located = located or lowered == b"location"
            lines.append(b"%s: %s" % (name, value))
    return status or (302 if located else 200), lines, output[end + width :]


def response(
    status: int, lines: list[bytes], body: bytes, *, date: bytes, keep_alive: bool, head: bool
) -> bytes:
    """The answer on the wire. `head`: without its body."""
    bodiless = status in (204, 304)
    out = [b"HTTP/1.1 %d %s" % (status, REASONS.get(status, b"Status")), b"date: " + date]
    out += lines
    if not bodiless:
        out.append(b"content-length: %d" % len(body))
    if not keep_alive:
        out.append(b"connection: close")
    out.append(b"\r\n")
    text = b"\r\n".join(out)
    return text if head or bodiless else text + body


def failure(
    status: int, reason: str, *lines: bytes, date: bytes, keep_alive: bool, head: bool
) -> bytes:
    """An answer of ours, in plain text, with more header `lines` if need be."""
    said = [b"content-type: text/plain; charset=utf-8", *lines]
    return response(
        status, said, reason.encode() + b"\n", date=date, keep_alive=keep_alive, head=head
    )
