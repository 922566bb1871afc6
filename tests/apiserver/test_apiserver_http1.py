"""The HTTP/1.1 reader: what is refused, and requests however they are cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.apiserver.http1 import HEAD_LIMIT, HEADERS_LIMIT, SLICE, Malformed, Message, Reader

END = b"\r\n\r\n"
LIMIT = 1 << 20


def read(wire: bytes, step: int = 0, reader: Reader | None = None) -> list[Message]:
    """Every request in these bytes, fed in pieces of `step`. Raises Malformed."""
    reader = reader or Reader({}, LIMIT)
    found = []
    for start in range(0, len(wire), step or len(wire) or 1):
        reader.feed(wire[start : start + (step or len(wire))])
        while (message := reader.take()) is not None:
            found.append(message)
    return found


def test_head_and_body() -> None:
    wire = (
        b"POST /a?b=c HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nX:  y \r\nE:\r\nx: z"
        + END
        + b"abc"
    )
    (message,) = read(wire)
    assert (message.method, message.target, message.close) == ("POST", "/a?b=c", False)
    assert message.headers == {"host": "a", "content-length": "3", "x": "y, z", "e": ""}
    assert message.body == b"abc"


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "POST"])
def test_methods(method: str) -> None:
    assert read(method.encode() + b" / HTTP/1.1\r\nHost: a" + END)[0].method == method


def test_a_remembered_block_is_shared_and_the_line_is_not() -> None:
    blocks: dict[bytes, dict[str, str]] = {}
    block = b"\r\nHost: a\r\nX: y" + END
    first = read(b"GET / HTTP/1.1" + block, reader=Reader(blocks, LIMIT))[0]
    second = read(b"DELETE /b HTTP/1.1" + block, reader=Reader(blocks, LIMIT))[0]
    assert first.headers is second.headers
    assert (second.method, second.target, second.close) == ("DELETE", "/b", False)
    # HTTP/1.0 ends the connection with the same headers; a malformed line stays malformed.
    assert read(b"GET /b HTTP/1.0" + block, reader=Reader(blocks, LIMIT))[0].close
    for line in (b"GET /\xff HTTP/1.1", b"G T / HTTP/1.1", b" HTTP/1.1", b"GET /\n HTTP/1.1"):
        with pytest.raises(Malformed):
            read(line + block, reader=Reader(blocks, LIMIT))


@pytest.mark.parametrize(
    "lines", [b"Connection: close", b"Connection: Upgrade\r\nUpgrade: x", b"Content-Length: 2"]
)
def test_blocks_that_say_more_than_headers_are_not_remembered(lines: bytes) -> None:
    blocks: dict[bytes, dict[str, str]] = {}
    read(b"GET / HTTP/1.1\r\nHost: a\r\n" + lines + END, reader=Reader(blocks, LIMIT))
    assert not blocks


def test_closing() -> None:
    assert read(b"GET / HTTP/1.0" + END)[0].close
    assert not read(b"GET / HTTP/1.0\r\nConnection: keep-alive" + END)[0].close
    assert read(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x, close" + END)[0].close


@pytest.mark.parametrize(
    "head",
    [
        b"GET /",
        b"GET / HTTP/2.0\r\nHost: a",
        b"GET / HTTP/0.9\r\nHost: a",
        b"PRI * HTTP/2.0\r\n\r\nSM",
        b"GET / HTTP/1.1",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: a",
        b"GET / HTTP/1.1\r\nHost : a",
        b"GET / HTTP/1.1\r\nHost: a\r\n folded",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\nY: b",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rY: b",
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: \x00",
        b"GET / HTTP/1.1\r\nHost: a\r\n: x",
        b"GET / HTTP/1.1\r\nHost: a\r\nX\xc3: x",
        b"GET /\xff HTTP/1.1\r\nHost: a",
        b"NONSENSE / HTTP/1.1\r\nHost: a",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1 1",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 1",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked",
        b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked",
    ],
)
@pytest.mark.parametrize("step", [0, 1])
def test_refused(head: bytes, step: int) -> None:
    with pytest.raises(Malformed) as caught:
        read(head + END, step)
    assert caught.value.code in (400, 501)


def test_limits() -> None:
    for wire, code in (
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * (HEAD_LIMIT + 2 * SLICE) + END, 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * (HEAD_LIMIT + 2 * SLICE), 431),
        (b"GET /" + b"x" * (HEAD_LIMIT + 2 * SLICE), 431),
        (b"GET / HTTP/1.1\r\nHost: a" + b"\r\nX: y" * HEADERS_LIMIT + END, 431),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d" % (LIMIT + 1) + END, 413),
        (chunked([b"x" * (LIMIT // 2)] * 3), 413),
        (chunked([], b"X: " + b"x" * (HEAD_LIMIT + 2 * SLICE)), 431),
        (chunked([], b"X: y\r\n" * (HEADERS_LIMIT + 1)), 431),
        (chunked([b"x"]).replace(b"\n1;", b"\n1;" + b"x" * (HEAD_LIMIT + 2 * SLICE)), 431),
    ):
        for step in (0, 5000):
            with pytest.raises(Malformed) as caught:
                read(wire, step)
            assert caught.value.code == code, wire[:60]


def chunked(parts: list[bytes], trailer: bytes = b"Trailer: x\r\n") -> bytes:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b"".join(b"%x;e=1\r\n%b\r\n" % (len(part), part) for part in parts)
    return head + body + b"0\r\n" + trailer + b"\r\n"


bodies = st.lists(st.binary(min_size=1, max_size=40), max_size=6)
requests = st.one_of(
    bodies.map(lambda parts: (chunked(parts), b"".join(parts))),
    st.binary(max_size=60).map(
        lambda body: (
            b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d%b%b" % (len(body), END, body),
            body,
        )
    ),
    st.just((b"GET / HTTP/1.1\r\nHost: a" + END, b"")),
    st.just((b"\r\nGET / HTTP/1.1\r\nHost: a" + END, b"")),
)


@given(st.lists(requests, max_size=5), st.integers(1, 50))
def test_pipelined_requests_however_they_are_cut(
    wires: list[tuple[bytes, bytes]], step: int
) -> None:
    found = read(b"".join(wire for wire, _ in wires), step)
    assert [message.body for message in found] == [body for _, body in wires]
    assert all("trailer" not in message.headers for message in found)


@given(st.binary(max_size=60), st.integers(1, 99))
def test_what_follows_an_upgrade_is_not_parsed(behind: bytes, step: int) -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nConnection: Upgrade" + END
    reader = Reader({}, LIMIT)
    wire, message = head + behind, None
    for start in range(0, len(wire), step):
        reader.feed(wire[start : start + step])
        message = message or reader.take()
    assert message is not None and message.headers["upgrade"] == "x"
    assert reader.rest == behind


def test_after_an_upgrade_that_was_declined_requests_go_on() -> None:
    head = b"GET /%d HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nConnection: Upgrade" + END
    plain = b"GET /2 HTTP/1.1\r\nHost: a" + END
    found = read(head % 0 + head % 1 + plain)
    assert [message.target for message in found] == ["/0", "/1", "/2"]


def test_what_came_before_an_error_is_given_first() -> None:
    reader = Reader({}, LIMIT)
    reader.feed(b"GET /0 HTTP/1.1\r\nHost: a" + END + b"GET /1 HTTP/1.1\r\nHost: a" + END + b"\x00")
    assert [reader.take().target for _ in range(2)] == ["/0", "/1"]  # type: ignore[union-attr]
    with pytest.raises(Malformed):
        reader.take()


def test_requests_behind_the_first_are_parsed_a_slice_at_a_time() -> None:
    request = b"GET / HTTP/1.1\r\nHost: a" + END
    reader = Reader({}, LIMIT)
    reader.feed(request * 10000)
    assert reader.take() is not None
    assert len(reader.ready) <= SLICE // len(request)


def test_continue_is_wanted_until_the_body_comes() -> None:
    reader = Reader({}, LIMIT)
    reader.feed(b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2" + END)
    assert reader.take() is None and reader.waits
    reader.feed(b"a")
    assert reader.take() is None and not reader.waits
    reader.feed(b"b")
    message = reader.take()
    assert message is not None and message.body == b"ab"


@pytest.mark.parametrize(
    "body",
    [
        b"x\r\n",
        b"1\r\nab\r\n",
        b"-1\r\n",
        b"f" * 17 + b"\r\n",
        b"1 \r\na",
        b"1\na",
        b"0x1\r\na",
        b"\r\n",
    ],
)
def test_malformed_chunks(body: bytes) -> None:
    with pytest.raises(Malformed):
        read(chunked([]).partition(END)[0] + END + body)
