"""Framing of SPDY/3.1: frames to bytes and back, with compressed header blocks. No I/O.

SPDY is what Kubernetes' clients spoke before WebSockets, and what port-forward speaks inside of them to this day. The
draft is https://www.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1/; sections below are its.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

VERSION = 3
SYN_STREAM, SYN_REPLY, RST_STREAM, SETTINGS, PING, GOAWAY, HEADERS, WINDOW_UPDATE = (
    1, 2, 3, 4, 6, 7, 8, 9,
)  # fmt: skip

FIN = 0x01
CLEAR_SETTINGS = 0x01
INITIAL_WINDOW_SIZE = 7

# RST_STREAM status codes (2.6.3)
PROTOCOL_ERROR, INVALID_STREAM, REFUSED_STREAM, UNSUPPORTED_VERSION, CANCEL, INTERNAL_ERROR = range(
    1, 7
)
FLOW_CONTROL_ERROR, STREAM_IN_USE, STREAM_ALREADY_CLOSED = 7, 8, 9

FRAME_LIMIT = 1 << 20  # of what is accepted; ours are smaller
HEADERS_LIMIT = 64 << 10  # uncompressed, of one frame

# 2.6.10.1: the names and values that come often, each with its length before it, then text without lengths.
_WORDS = (
    "options|head|post|put|delete|trace|accept|accept-charset|accept-encoding|accept-language|"
    "accept-ranges|age|allow|authorization|cache-control|connection|content-base|"
    "content-encoding|content-language|content-length|content-location|content-md5|"
    "content-range|content-type|date|etag|expect|expires|from|host|if-match|if-modified-since|"
    "if-none-match|if-range|if-unmodified-since|last-modified|location|max-forwards|pragma|"
    "proxy-authenticate|proxy-authorization|range|referer|retry-after|server|te|trailer|"
    "transfer-encoding|upgrade|user-agent|vary|via|warning|www-authenticate|method|get|status|"
    "200 OK|version|HTTP/1.1|url|public|set-cookie|keep-alive|origin"
)  # fmt: skip
_TEXT = (
    b"100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    b"203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 "
    b"Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 "
    b"Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, "
    b"Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xm"
    b"l,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchc"
    b"harset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)  # fmt: skip
DICTIONARY = (
    b"".join(len(word).to_bytes(4, "big") + word.encode() for word in _WORDS.split("|")) + _TEXT
)


class SpdyError(Exception):
    """The peer broke the protocol: the connection cannot go on."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A control frame (`kind` > 0) or data (`kind` 0, `stream` set)."""

    kind: int
    flags: int = 0
    stream: int = 0
    payload: bytes = b""  # data; for control frames what follows the stream id
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def fin(self) -> bool:
        return bool(self.flags & FIN)


class Headers:
    """Both directions' header compression of one connection: each is a single zlib stream over all its frames."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        # Small window and little memory: the headers are a few dozen bytes, and there is one of these a connection.
        self._deflate = zlib.compressobj(wbits=11, memLevel=1, zdict=DICTIONARY)

    def unpack(self, block: bytes) -> dict[str, str]:
        try:
            data = self._inflate.decompress(block, HEADERS_LIMIT)
        except zlib.error as error:
            raise SpdyError(f"header block: {error}") from None
        if self._inflate.unconsumed_tail:
            raise SpdyError("header block is too large")
        try:
            return dict(_pairs(data))
        except (struct.error, UnicodeDecodeError):
            raise SpdyError("malformed header block") from None

    def pack(self, headers: dict[str, str]) -> bytes:
        parts = [struct.pack(">I", len(headers))]
        for name, value in headers.items():
            for text in (name.lower().encode(), value.encode()):
                parts += [struct.pack(">I", len(text)), text]
        return self._deflate.compress(b"".join(parts)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)


def _pairs(data: bytes) -> list[tuple[str, str]]:
    (count,) = struct.unpack_from(">I", data)
    offset, pairs = 4, []
    for _ in range(min(count, HEADERS_LIMIT)):
        texts = []
        for _ in range(2):
            (length,) = struct.unpack_from(">I", data, offset)
            offset += 4
            if offset + length > len(data):
                raise SpdyError("malformed header block")
            texts.append(data[offset : offset + length].decode("latin-1"))
            offset += length
        pairs.append((texts[0].lower(), texts[1]))
    return pairs


def head(data: bytes) -> int:
    """Length of the payload that follows these eight bytes. Raises SpdyError when it is over the limit."""
    length = int.from_bytes(data[5:8], "big")
    if length > FRAME_LIMIT:
        raise SpdyError(f"frame of {length} bytes")
    return length


def parse(data: bytes, payload: bytes, headers: Headers) -> Frame:
    """From a frame's eight first bytes and the rest. Header blocks must be unpacked in order, whatever becomes of them."""
    first, flags = int.from_bytes(data[:4], "big"), data[4]
    if not first & 0x80000000:
        return Frame(0, flags, first, payload)
    version, kind = first >> 16 & 0x7FFF, first & 0xFFFF
    if version != VERSION:
        raise SpdyError(f"SPDY version {version}")
    needed = {
        SYN_STREAM: 10,
        SYN_REPLY: 4,
        RST_STREAM: 8,
        PING: 4,
        GOAWAY: 8,
        HEADERS: 4,
        WINDOW_UPDATE: 8,
    }
    if len(payload) < needed.get(kind, 0):
        raise SpdyError(f"control frame {kind} is too short")
    if kind in (PING, SETTINGS) or kind not in needed:
        return Frame(kind, flags, 0, payload)
    stream = int.from_bytes(payload[:4], "big") & 0x7FFFFFFF
    if kind == SYN_STREAM:
        return Frame(kind, flags, stream, b"", headers.unpack(payload[10:]))
    if kind in (SYN_REPLY, HEADERS):
        return Frame(kind, flags, stream, b"", headers.unpack(payload[4:]))
    return Frame(kind, flags, stream, payload[4:])


def control(kind: int, payload: bytes, flags: int = 0) -> bytes:
    return struct.pack(">HHI", 0x8000 | VERSION, kind, flags << 24 | len(payload)) + payload


def data_frame(stream: int, payload: bytes, flags: int = 0) -> bytes:
    return struct.pack(">II", stream, flags << 24 | len(payload)) + payload


def syn_stream(stream: int, block: bytes, flags: int = 0) -> bytes:
    return control(SYN_STREAM, struct.pack(">IIH", stream, 0, 0) + block, flags)


def syn_reply(stream: int, block: bytes, flags: int = 0) -> bytes:
    return control(SYN_REPLY, struct.pack(">I", stream) + block, flags)


def rst_stream(stream: int, status: int) -> bytes:
    return control(RST_STREAM, struct.pack(">II", stream, status))


def goaway(last: int, status: int = 0) -> bytes:
    return control(GOAWAY, struct.pack(">II", last, status))


def window_update(stream: int, delta: int) -> bytes:
    return control(WINDOW_UPDATE, struct.pack(">II", stream, delta))


def settings(payload: bytes) -> dict[int, int]:
    """Identifier to value; what is cut off is left out."""
    count = int.from_bytes(payload[:4], "big")
    found = {}
    for offset in range(4, min(len(payload) - 7, 4 + 8 * count), 8):
        identifier, value = struct.unpack_from(">II", payload, offset)
        found[identifier & 0xFFFFFF] = value
    return found
