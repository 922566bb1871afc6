"""HPACK (RFC 7541): header blocks of HTTP/2. Reads all of it; writes without tables, which needs no state.

What we send is a handful of short headers, the same for each call: rendered once, they cost nothing. What others send is
compressed as they like: static and dynamic table, Huffman codes.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from sampan.cri.errors import CRIError

TABLE_SIZE = 4096
ENTRY_OVERHEAD = 32

# Appendix A
STATIC: tuple[tuple[str, str], ...] = (
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    *((name, "") for name in (
        "accept-language", "accept-ranges", "accept", "access-control-allow-origin", "age", "allow", "authorization",
        "cache-control", "content-disposition", "content-encoding", "content-language", "content-length",
        "content-location", "content-range", "content-type", "cookie", "date", "etag", "expect", "expires", "from",
        "host", "if-match", "if-modified-since", "if-none-match", "if-range", "if-unmodified-since", "last-modified",
        "link", "location", "max-forwards", "proxy-authenticate", "proxy-authorization", "range", "referer",
        "refresh", "retry-after", "server", "set-cookie", "strict-transport-security", "transfer-encoding",
        "user-agent", "vary", "via", "www-authenticate",
    )),
)  # fmt: skip

# Appendix B: how long the code of each byte is; the codes follow from that, since they are canonical.
LENGTHS = (
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28,
    28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12,
    10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6,
    5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22,
    22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20,
    22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28,
    27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28,
    27, 27, 27, 27, 27, 26,
)  # fmt: skip


class BadHeaders(CRIError):
    """A header block that cannot be read: the connection is lost, as its tables no longer agree."""

    code = "INTERNAL"


@lru_cache(maxsize=1)
def codes() -> dict[tuple[int, int], int]:
    """The byte by length and value of its code; made when the first compressed text comes."""
    found = {}
    code = length = 0
    for size, symbol in sorted((size, symbol) for symbol, size in enumerate(LENGTHS)):
        code <<= size - length
        length = size
        found[length, code] = symbol
        code += 1
    return found


@lru_cache(maxsize=256)
def expand(data: bytes) -> str:
    """Huffman-coded text. Cached: a client says the same in every call."""
    table, text = codes(), bytearray()
    code = length = 0
    for byte in data:
        for shift in range(7, -1, -1):
            code, length = code << 1 | (byte >> shift & 1), length + 1
            symbol = table.get((length, code))
            if symbol is not None:
                text.append(symbol)
                code = length = 0
    if length > 7 or code != (1 << length) - 1:  # the rest is the beginning of a code of ones
        raise BadHeaders("a Huffman code that ends nowhere")
    return text.decode("latin-1")


class Decoder:
    """One for each direction of a connection: its table grows with what it has read."""

    def __init__(self) -> None:
        self._table: list[tuple[str, str]] = []  # newest first
        self._size = 0
        self._limit = TABLE_SIZE

    def read(self, block: bytes) -> list[tuple[str, str]]:
        """Raises BadHeaders."""
        headers, at = [], 0
        try:
            while at < len(block):
                first = block[at]
                if first & 0x80:
                    index, at = integer(block, at, 7)
                    headers.append(self._entry(index))
                elif first & 0x40:
                    header, at = self._literal(block, at, 6)
                    self._add(header)
                    headers.append(header)
                elif first & 0x20:
                    self._limit, at = integer(block, at, 5)
                    if self._limit > TABLE_SIZE:
                        raise BadHeaders("a table larger than agreed")
                    self._evict()
                else:
                    header, at = self._literal(block, at, 4)
                    headers.append(header)
        except IndexError:
            raise BadHeaders("a header block that ends too early") from None
        return headers

    def _entry(self, index: int) -> tuple[str, str]:
        if not 0 < index <= len(STATIC) + len(self._table):
            raise BadHeaders(f"no header has the index {index}")
        if index <= len(STATIC):
            return STATIC[index - 1]
        return self._table[index - len(STATIC) - 1]

    def _literal(self, block: bytes, at: int, bits: int) -> tuple[tuple[str, str], int]:
        index, at = integer(block, at, bits)
        if index:
            name = self._entry(index)[0]
        else:
            name, at = text(block, at)
        value, at = text(block, at)
        return (name, value), at

    def _add(self, header: tuple[str, str]) -> None:
        self._table.insert(0, header)
        self._size += len(header[0]) + len(header[1]) + ENTRY_OVERHEAD
        self._evict()

    def _evict(self) -> None:
        while self._size > self._limit:
            name, value = self._table.pop()
            self._size -= len(name) + len(value) + ENTRY_OVERHEAD


def integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    """An integer that begins in the low `bits` of a byte; with the place behind it."""
    limit = (1 << bits) - 1
    value, at = block[at] & limit, at + 1
    if value < limit:
        return value, at
    for shift in range(0, 35, 7):
        byte, at = block[at], at + 1
        value += (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
    raise BadHeaders("an integer that does not end")


def text(block: bytes, at: int) -> tuple[str, int]:
    compressed = block[at] & 0x80
    size, at = integer(block, at, 7)
    data = block[at : at + size]
    if len(data) < size:
        raise BadHeaders("a header block that ends too early")
    return (expand(data) if compressed else data.decode("latin-1")), at + size


def render(headers: Iterable[tuple[str, str]]) -> bytes:
    """A header block that touches no table."""
    return b"".join(b"\0" + string(name) + string(value) for name, value in headers)


def string(value: str) -> bytes:
    data = value.encode("latin-1")
    if len(data) < 127:
        return bytes((len(data),)) + data
    rest, head = len(data) - 127, bytearray((127,))
    while rest > 127:
        head.append(rest & 0x7F | 0x80)
        rest >>= 7
    head.append(rest)
    return bytes(head) + data
