"""The HTTP/1.1 parser: what is refused, and bodies however they are cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.apiserver.http1 import Chunks, Heads, Malformed

HOST = b"Host: a\r\n"


def test_head() -> None:
    head = Heads().parse(b"POST /a?b=c HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nX:  y \r\nx: z")
    assert (head.method, head.target, head.close) == ("POST", "/a?b=c", False)
    assert head.block.length == 3
    assert head.block.headers["x"] == "y, z"


def test_remembered_block_is_the_same() -> None:
    heads = Heads()
    first = heads.parse(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close")
    second = heads.parse(b"GET /b HTTP/1.1\r\nHost: a\r\nConnection: close")
    assert first.block is second.block and second.close


def test_http_1_0_closes_unless_told() -> None:
    assert Heads().parse(b"GET / HTTP/1.0").close
    assert not Heads().parse(b"GET / HTTP/1.0\r\nConnection: keep-alive").close


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"GET /",
        b"GET  / HTTP/1.1\r\nHost: a",
        b"GET / HTTP/2.0\r\nHost: a",
        b"GET / HTTP/1.1",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b",
        b"GET / HTTP/1.1\r\nHost : a",
        b"GET / HTTP/1.1\r\nHost: a\r\n folded",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\nY: b",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: \x00",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked",
        b"GET /\xff HTTP/1.1\r\nHost: a",
    ],
)
def test_refused(head: bytes) -> None:
    with pytest.raises(Malformed):
        Heads().parse(head)


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=6),
    st.integers(1, 9),
    st.binary(max_size=8),
)
def test_chunks_however_they_are_cut(parts: list[bytes], step: int, behind: bytes) -> None:
    wire = (
        b"".join(b"%x;e=1\r\n%b\r\n" % (len(part), part) for part in parts)
        + b"0\r\nTrailer: x\r\n\r\n"
        + behind
    )
    chunks = Chunks()
    left = b""
    for start in range(0, len(wire), step):
        piece = wire[start : start + step]
        left += piece if chunks.done else chunks.feed(piece)
    assert chunks.done
    assert b"".join(chunks.parts) == b"".join(parts)
    assert left == behind


@pytest.mark.parametrize("wire", [b"x\r\n", b"1\r\nab\r\n", b"-1\r\n", b"fffffffff\r\n"])
def test_malformed_chunks(wire: bytes) -> None:
    with pytest.raises(Malformed):
        Chunks().feed(wire)
