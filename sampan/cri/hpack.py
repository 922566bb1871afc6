"""HPACK (RFC 7541): header blocks of HTTP/2 as a server reads them, and those few that it writes.

What is written has no Huffman code and enters nothing into the reader's table, so it can be made once and sent for ever. What is
read is decoded in full; a block that only points into the tables is remembered until they change, for a client that
calls often sends the same few bytes each time.

The Huffman code is canonical (appendix B): the lengths of its codes tell the codes.
"""

from __future__ import annotations

Header = tuple[bytes, bytes]

TABLE_SIZE = 4096  # SETTINGS_HEADER_TABLE_SIZE, as long as no other is agreed on
ENTRY_OVERHEAD = 32  # section 4.1
LIST_LIMIT = (
    64 * 1024
)  # of a decoded block: a few bytes can point at one long entry again and again
REMEMBERED = 64  # blocks

# Appendix A, from index 1.
_STATIC = (
    ":authority|:method=GET|:method=POST|:path=/|:path=/index.html|:scheme=http|:scheme=https|"
    ":status=200|:status=204|:status=206|:status=304|:status=400|:status=404|:status=500|"
    "accept-charset|accept-encoding=gzip, deflate|accept-language|accept-ranges|accept|"
    "access-control-allow-origin|age|allow|authorization|cache-control|content-disposition|"
    "content-encoding|content-language|content-length|content-location|content-range|"
    "content-type|cookie|date|etag|expect|expires|from|host|if-match|if-modified-since|"
    "if-none-match|if-range|if-unmodified-since|last-modified|link|location|max-forwards|"
    "proxy-authenticate|proxy-authorization|range|referer|refresh|retry-after|server|set-cookie|"
    "strict-transport-security|transfer-encoding|user-agent|vary|via|www-authenticate"
)
STATIC: tuple[Header, ...] = tuple(
    (name, value)
    for name, _, value in (each.encode().partition(b"=") for each in _STATIC.split("|"))
)

# Appendix B: the length in bits of the code of each byte, and of the end of a string.
_LENGTHS = bytes.fromhex(
    "0d171c1c1c1c1c1c1c181e1c1c1e1c1c1c1c1c1c1c1c1e1c1c1c1c1c1c1c1c1c060a0a0c0d06080b0a0a080b08060606"
    "0505050606060606060607080f060c0a0d06070707070707070707070707070707070707070707070807080d130d0e06"
    "0f05060506050606060507070606060506070605050607070707070f0b0e0d1c14161414161616171617171717171817"
    "181816171817171717151617161717181615141616171715171616181516171715151615171617171416161617161617"
    "1a1a1413161716191a1a1a1b1b1a181913151a1b1b1a1b1815151a1a1c1b1b1b14181415161515171616191918181a17"
    "1a1b1a1a1b1b1b1b1b1c1b1b1b1b1b1a1e"
)


class HPACKError(Exception):
    """A block that is none; the connection cannot go on (COMPRESSION_ERROR), for the tables may differ now."""


def _codes() -> dict[int, int]:
    """Byte by its code, which has a 1 before it so that its length counts."""
    found: dict[int, int] = {}
    code = length = 0
    for symbol in sorted(range(257), key=lambda symbol: (_LENGTHS[symbol], symbol)):
        code <<= _LENGTHS[symbol] - length
        length = _LENGTHS[symbol]
        found[1 << length | code] = symbol
        code += 1
    return found


_CODES = _codes()
_END_OF_STRING = 256


def huffman(data: bytes) -> bytes:
    """Section 5.2. Raises HPACKError."""
    out = bytearray()
    code = 1
    for octet in data:
        for shift in (7, 6, 5, 4, 3, 2, 1, 0):
            code = code << 1 | (octet >> shift & 1)
            symbol = _CODES.get(code)
            if symbol is not None:
                if symbol == _END_OF_STRING:
                    raise HPACKError("a string holds its own end")
                out.append(symbol)
                code = 1
    if code >= 1 << 8 or code & (code + 1):
        raise HPACKError("a string ends with what is no padding")
    return bytes(out)


class Decoder:
    """Of one direction of one connection."""

    def __init__(self) -> None:
        self._table: list[Header] = []  # newest first
        self._size = 0
        self._limit = TABLE_SIZE
        self._known: dict[bytes, list[Header]] = {}  # what only points into the tables as they are

    def decode(self, block: bytes) -> list[Header]:
        """Names are in lower case, as HTTP/2 wants them sent. Raises HPACKError."""
        known = self._known.get(block)
        if known is not None:
            return known
        try:
            headers, pure = self._decode(block)
        except IndexError:
            raise HPACKError("a header block ends within a field") from None
        if pure:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[block] = headers
        return headers

    def _decode(self, block: bytes) -> tuple[list[Header], bool]:
        headers: list[Header] = []
        at, size, pure = 0, 0, True
        while at < len(block):
            first = block[at]
            if first & 0x80:  # section 6.1
                index, at = integer(block, at, 7)
                header = self._entry(index)
            elif first & 0xE0 == 0x20:  # section 6.3
                limit, at = integer(block, at, 5)
                if headers or limit > TABLE_SIZE:
                    raise HPACKError("a change of the table's size that was not agreed on")
                pure = False
                self._limit = limit
                self._shrink()
                continue
            else:  # section 6.2
                enters = bool(first & 0x40)
                index, at = integer(block, at, 6 if enters else 4)
                if index:
                    name = self._entry(index)[0]
                else:
                    name, at = string(block, at)
                value, at = string(block, at)
                header = (name, value)
                if enters:
                    pure = False
                    self._enter(header)
            size += len(header[0]) + len(header[1]) + ENTRY_OVERHEAD
            if size > LIST_LIMIT:
                raise HPACKError(f"the header list is larger than {LIST_LIMIT} bytes")
            headers.append(header)
        return headers, pure

    def _entry(self, index: int) -> Header:
        if not 0 < index <= len(STATIC) + len(self._table):
            raise HPACKError(f"there is no entry {index}")
        if index <= len(STATIC):
            return STATIC[index - 1]
        return self._table[index - len(STATIC) - 1]

    def _enter(self, header: Header) -> None:
        self._table.insert(0, header)
        self._size += len(header[0]) + len(header[1]) + ENTRY_OVERHEAD
        self._shrink()

    def _shrink(self) -> None:
        self._known.clear()
        while self._size > self._limit:
            name, value = self._table.pop()
            self._size -= len(name) + len(value) + ENTRY_OVERHEAD


def integer(block: bytes, at: int, prefix: int) -> tuple[int, int]:
    """Section 5.1: a number whose first bits are in the last `prefix` bits at `at`, and where it ends."""
    most = (1 << prefix) - 1
    value = block[at] & most
    at += 1
    if value < most:
        return value, at
    for shift in (0, 7, 14, 21):
        octet = block[at]
        at += 1
        value += (octet & 0x7F) << shift
        if not octet & 0x80:
            return value, at
    raise HPACKError("a number that is too large")


def string(block: bytes, at: int) -> tuple[bytes, int]:
    coded = block[at] & 0x80
    length, at = integer(block, at, 7)
    end = at + length
    if end > len(block):
        raise HPACKError("a header block ends within a string")
    data = bytes(block[at:end])
    return (huffman(data) if coded else data), end


def encode(*headers: Header) -> bytes:
    """Literal fields that enter no table, but for those that the static table has whole."""
    out = bytearray()
    for header in headers:
        if header in STATIC:
            out.append(0x80 | STATIC.index(header) + 1)
            continue
        out.append(0)
        for text in header:
            out += _length(len(text)) + text
    return bytes(out)


def _length(number: int) -> bytes:
    if number < 127:
        return bytes((number,))
    out = bytearray((127,))
    number -= 127
    while number >= 128:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
