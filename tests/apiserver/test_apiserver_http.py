"""Requests out of bytes: what is refused, and what the pipeline is given, however the bytes are cut."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memory_door import Memory, exchange

from sampan.apiserver.connection import LIMITS
from sampan.apiserver.exchange import Exchange
from sampan.apiserver.http import Door
from sampan.client.transport import Request, Response

END = b"\r\n\r\n"
LIMIT = 1 << 20
MANY = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@dataclass
class Recorder:
    """What stands for the API server: it notes each request and answers with its path."""

    asked: list[Request] = field(default_factory=list)
    closing: bool = False
    config: Any = field(
        default_factory=lambda: SimpleNamespace(body_limit=LIMIT, request_timeout=60.0)
    )

    def immediate(self, request: Request) -> Response | None:
        return None

    async def handle(self, request: Request) -> Response:
        self.asked.append(request)
        return Response(200, {}, request.path.encode())


async def send(wire: bytes, step: int = 0) -> tuple[list[Request], bytes, bool]:
    """(the requests in these bytes, what was said to them, whether the connection was closed)"""
    recorder, loop = Recorder(), asyncio.get_running_loop()
    exchanged = Exchange(recorder, loop)  # type: ignore[arg-type]
    pieces = [
        wire[at : at + (step or len(wire))] for at in range(0, len(wire), step or len(wire) or 1)
    ]
    transport = await exchange(Door(exchanged), pieces)
    return recorder.asked, transport.seen, transport.closed


@pytest.fixture(autouse=True)
def no_lingering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIMITS, "lingering_time", 0.0)


async def refused(wire: bytes, step: int = 0) -> int:
    """The status with which the connection was ended."""
    _, seen, closed = await send(wire, step)
    assert closed and b"Connection: close" in seen and b'"kind":"Status"' in seen
    return int(seen[9:12])


async def test_head_and_body() -> None:
    wire = (
        b"POST /a?b=c HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nX:  y \r\nE:\r\nx: z"
        + END
        + b"abc"
    )
    (request,), _, closed = await send(wire)
    assert (request.method, request.path, request.query) == ("POST", "/a", [("b", "c")])
    assert request.headers == {"host": "a", "content-length": "3", "x": "y, z", "e": ""}
    assert request.body == b"abc" and not closed


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "POST"])
async def test_methods(method: str) -> None:
    (request,), _, _ = await send(method.encode() + b" / HTTP/1.1\r\nHost: a" + END)
    assert request.method == method


async def test_the_same_headers_again() -> None:
    get = b"GET /%d HTTP/1.1\r\nHost: a\r\nX: y" + END
    first, second, third = (await send(get % 0 + get % 1 + get.replace(b"X: y", b"X: z") % 2))[0]
    assert first.headers == second.headers == {"host": "a", "x": "y"}
    assert third.headers == {"host": "a", "x": "z"}
    first.headers["x"] = "changed"
    assert second.headers["x"] == "y"


async def test_repeats_of_what_may_hold_commas_are_joined_by_lines() -> None:
    lines = b"Impersonate-Group: a,b\r\nImpersonate-Group: c"
    (request,), _, _ = await send(b"GET / HTTP/1.1\r\nHost: a\r\n" + lines + END)
    assert request.headers["impersonate-group"] == "a,b\nc"


async def test_closing() -> None:
    assert (await send(b"GET / HTTP/1.0" + END))[2]
    assert not (await send(b"GET / HTTP/1.0\r\nConnection: keep-alive" + END))[2]
    assert (await send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x, close" + END))[2]


async def test_a_body_of_no_known_length_goes_to_http_1_0_without_chunks() -> None:
    recorder, loop = Recorder(), asyncio.get_running_loop()

    async def handle(request: Request) -> Response:
        async def parts() -> Any:
            yield b"one "
            yield b"two"

        return Response(200, {}, parts())

    recorder.handle = handle  # type: ignore[method-assign]
    door = Door(Exchange(recorder, loop))  # type: ignore[arg-type]
    old = await exchange(door, [b"GET / HTTP/1.0" + END])
    assert old.closed and old.seen.endswith(END + b"one two")
    new = await exchange(door, [b"GET / HTTP/1.1\r\nHost: a" + END])
    assert not new.closed and new.seen.endswith(END + b"4\r\none \r\n3\r\ntwo\r\n0" + END)


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
async def test_refused(head: bytes, step: int) -> None:
    assert await refused(head + END, step) in (400, 501)


LINE, FIELD, HEADERS = (LIMITS[key] for key in ("max_line_size", "max_field_size", "max_headers"))


@pytest.mark.parametrize("step", [0, 5000])
@pytest.mark.parametrize(
    ("wire", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * (FIELD + 1) + END, 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * (FIELD + 5000), 431),
        (b"GET /" + b"x" * (LINE + 5000), 431),
        (b"GET / HTTP/1.1\r\nHost: a" + b"\r\nX: y" * HEADERS + END, 400),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d" % (LIMIT + 1) + END, 413),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked" + END + b"%x\r\n" % LIMIT + b"x" * LIMIT + b"\r\n1\r\nx\r\n", 413),
    ],
    ids=["field", "open field", "line", "headers", "length", "chunks"],
)  # fmt: skip
async def test_limits(wire: bytes, status: int, step: int) -> None:
    assert await refused(wire, step) == status


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


@given(st.lists(requests, min_size=1, max_size=5), st.integers(1, 50))
@MANY
async def test_pipelined_requests_however_they_are_cut(
    wires: list[tuple[bytes, bytes]], step: int
) -> None:
    """The first with a body in chunks is the last: what its trailer says must not become the next one's header."""
    found, _, closed = await send(b"".join(wire for wire, _ in wires), step)
    chunks = [b"\r\nTransfer-Encoding: chunked" in wire for wire, _ in wires]
    count = chunks.index(True) + 1 if any(chunks) else len(wires)
    assert [request.body for request in found] == [body for _, body in wires[:count]]
    assert all("trailer" not in request.headers for request in found)
    assert closed == any(chunks)


async def test_thousands_of_requests_at_once_are_all_answered() -> None:
    found, seen, _ = await send((b"GET / HTTP/1.1\r\nHost: a" + END) * 3000)
    assert len(found) == 3000 and seen.count(b"HTTP/1.1 200") == 3000


async def test_continue_is_said_when_the_body_is_waited_for() -> None:
    head = b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2" + END
    found, seen, _ = await send(head + b"ab", len(head))
    assert found[0].body == b"ab" and seen.startswith(
        b"HTTP/1.1 100 Continue" + END + b"HTTP/1.1 2"
    )
    found, seen, _ = await send(head + b"ab")
    assert found[0].body == b"ab" and seen.startswith(b"HTTP/1.1 200")


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
@pytest.mark.parametrize("step", [0, 1])
async def test_malformed_chunks(body: bytes, step: int) -> None:
    assert await refused(chunked([]).partition(END)[0] + END + body, step) == 400


@pytest.mark.parametrize("encoding", [b"gzip", b"x"])
async def test_a_packed_body_is_not_unpacked(encoding: bytes) -> None:
    head = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Encoding: " + encoding
    assert await refused(head + b"\r\nContent-Length: 2" + END + b"ab") == 415


@pytest.mark.parametrize(("method", "ends"), [("GET", "cancelled"), ("PUT", "done")])
async def test_a_read_ends_with_its_client_and_a_write_does_not(method: str, ends: str) -> None:
    recorder, loop = Recorder(), asyncio.get_running_loop()
    begun, go, ended = asyncio.Event(), asyncio.Event(), loop.create_future()

    async def handle(request: Request) -> Response:
        begun.set()
        try:
            await go.wait()
        except asyncio.CancelledError:
            ended.set_result("cancelled")
            raise
        ended.set_result("done")
        return Response(200)

    recorder.handle = handle  # type: ignore[method-assign]
    door = Door(Exchange(recorder, loop))  # type: ignore[arg-type]
    connection = door()
    connection.connection_made(Memory())
    connection.data_received(method.encode() + b" / HTTP/1.1\r\nHost: a" + END)
    async with asyncio.timeout(5):
        await begun.wait()
        connection.connection_lost(None)
        stopping = loop.create_task(door.shutdown(5))
        await asyncio.sleep(0)
        loop.call_soon(go.set)
        assert await ended == ends
        await stopping
    assert not door.connections
