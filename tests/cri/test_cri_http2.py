"""The server's HTTP/2 and gRPC, frame by frame: what grpcio's client does not do, and what no client should."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.cri import api_pb2 as pb
from sampan.cri import hpack
from sampan.cri.hpack import Decoder, HPACKError
from sampan.cri.http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITIZED,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
)
from sampan.cri.server import CRIServer

DEADLINE = 10


class Service:
    def __init__(self) -> None:
        self.made = 0
        self.leave = asyncio.Event()
        self.ended = asyncio.Event()

    async def version(self, request: Any) -> Any:
        return pb.VersionResponse(version=request.version, runtime_name="x" * 100_000)

    async def status(self, request: Any) -> Any:
        await self.leave.wait()
        return pb.StatusResponse()

    async def stream_containers(self, request: Any) -> AsyncIterator[Any]:
        try:
            while True:
                self.made += 1
                yield pb.StreamContainersResponse(containers=[pb.Container(id="y" * 1000)])
        finally:
            self.ended.set()


class Peer:
    """A client by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.decoder = Decoder()

    def send(self, *frames: bytes) -> None:
        self.writer.write(b"".join(frames))

    async def frame(self, *kinds: int) -> tuple[int, int, int, bytes]:
        """The next of these kinds: kind, flags, stream, payload."""
        while True:
            async with asyncio.timeout(DEADLINE):
                head = await self.reader.readexactly(9)
                payload = await self.reader.readexactly(int.from_bytes(head[:3], "big"))
            if head[3] in kinds:
                return head[3], head[4], int.from_bytes(head[5:], "big"), payload

    async def answer(self) -> tuple[bytes, dict[bytes, bytes]]:
        """Data and trailers of the next stream that ends."""
        data = b""
        while True:
            kind, flags, _, payload = await self.frame(DATA, HEADERS)
            if kind == DATA:
                data += payload
            headers = dict(self.decoder.decode(payload)) if kind == HEADERS else {}
            if flags & END_STREAM:
                return data, headers

    async def sent_away(self) -> int:
        """The code of the GOAWAY, after which the server hangs up."""
        payload = (await self.frame(GOAWAY))[3]
        async with asyncio.timeout(DEADLINE):
            await self.reader.read()
        return int.from_bytes(payload[4:8], "big")


@asynccontextmanager
async def served(base: Path) -> AsyncIterator[tuple[Service, CRIServer]]:
    service = Service()
    server = CRIServer(base / "cri.sock", service)
    await server.start()
    try:
        yield service, server
    finally:
        service.leave.set()
        await server.close()


@asynccontextmanager
async def peer(server: CRIServer, *settings: tuple[int, int]) -> AsyncIterator[Peer]:
    reader, writer = await asyncio.open_unix_connection(str(server.socket))
    try:
        found = Peer(reader, writer)
        packed = b"".join(a.to_bytes(2, "big") + b.to_bytes(4, "big") for a, b in settings)
        found.send(PREFACE, frame(SETTINGS, 0, 0, packed))
        yield found
    finally:
        writer.close()


def block(method: str = "Version", *more: tuple[bytes, bytes]) -> bytes:
    path = f"/runtime.v1.RuntimeService/{method}".encode()
    return hpack.encode((b":path", path), (b"content-type", b"application/grpc"), *more)


def body(message: Any = None, compressed: int = 0) -> bytes:
    data = (message or pb.VersionRequest(version="v1")).SerializeToString()
    return bytes((compressed,)) + len(data).to_bytes(4, "big") + data


def call(stream: int, headers: bytes, data: bytes) -> bytes:
    return frame(HEADERS, END_HEADERS, stream, headers) + frame(DATA, END_STREAM, stream, data)


async def test_an_answer_keeps_to_the_peers_windows(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, server), peer(server, (4, 10)) as it:
        it.send(call(1, block(), body()))
        first = (await it.frame(DATA))[3]
        assert len(first) == 10
        it.send(frame(WINDOW_UPDATE, 0, 1, (5).to_bytes(4, "big")))
        assert len((await it.frame(DATA))[3]) == 5
        # the rest: the stream's window by a setting, then the connection's, which was 65,535
        it.send(frame(SETTINGS, 0, 0, (4).to_bytes(2, "big") + (1 << 20).to_bytes(4, "big")))
        seen = 15
        while seen < 65_535:
            seen += len((await it.frame(DATA))[3])
        assert seen == 65_535
        it.send(frame(WINDOW_UPDATE, 0, 0, (1 << 20).to_bytes(4, "big")))
        data, trailers = await it.answer()
        assert trailers[b"grpc-status"] == b"0"
        answer = pb.VersionResponse(version="v1", runtime_name="x" * 100_000)
        assert seen + len(data) == 5 + answer.ByteSize()


async def test_headers_in_pieces_padding_and_priorities(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, server), peer(server, (4, 1 << 20)) as it:
        it.send(frame(WINDOW_UPDATE, 0, 0, (1 << 20).to_bytes(4, "big")))
        head, data = block(), body()
        it.send(
            frame(HEADERS, PADDED | PRIORITIZED, 1, b"\3" + b"\0" * 5 + head[:20] + b"\0" * 3),
            frame(CONTINUATION, 0, 1, head[20:40]),
            frame(CONTINUATION, END_HEADERS, 1, head[40:]),
            frame(0xBE, 0, 1, b"a kind that nobody knows"),
            frame(DATA, PADDED, 1, b"\2" + data[:3] + b"\0\0"),
            frame(DATA, END_STREAM, 1, data[3:]),
        )
        whole, trailers = await it.answer()
        assert trailers[b"grpc-status"] == b"0"
        assert pb.VersionResponse.FromString(whole[5:]).version == "v1"
        it.send(frame(PING, 0, 0, b"12345678"))
        assert (await it.frame(PING))[1:] == (1, 0, b"12345678")


REFUSED = {
    "a method that is not there": (block("Nonesuch"), body(), b"12"),
    "a method that nobody implements": (block("Attach"), body(), b"12"),
    "compressed": (block(), body(compressed=1), b"12"),
    "no message": (block(), b"", b"13"),
    "half a message": (block(), body()[:-1], b"13"),
    "two messages": (block(), body() * 2, b"13"),
    "not protobuf": (block(), b"\0\0\0\0\2\xff\xff", b"13"),
    "a deadline without unit": (block("Version", (b"grpc-timeout", b"100")), body(), b"13"),
    "a deadline that passes": (block("Status", (b"grpc-timeout", b"1m")), body(), b"4"),
}


async def test_what_cannot_be_called_is_refused_by_name(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, server), peer(server) as it:
        for number, (what, (headers, data, code)) in enumerate(REFUSED.items()):
            it.send(call(2 * number + 1, headers, data))
            _, trailers = await it.answer()
            assert trailers[b"grpc-status"] == code, what
            assert trailers[b"grpc-message"], what
        it.send(call(101, hpack.encode((b":path", b"/"), (b"content-type", b"text/html")), b""))
        assert (await it.answer())[1] == {b":status": b"415"}


FAULTS = {
    "a frame that is too large": ((1 << 15).to_bytes(3, "big") + bytes(6), 6),
    "data of no stream": (frame(DATA, 0, 1, b"x"), 1),
    "an even stream": (frame(HEADERS, END_HEADERS, 2, block()), 1),
    "an interrupted block": (frame(HEADERS, 0, 1, block()) + frame(PING, 0, 0, bytes(8)), 1),
    "a continuation of nothing": (frame(CONTINUATION, END_HEADERS, 1, block()), 1),
    "a stream used twice": (call(1, block("Status"), body()) + frame(DATA, 0, 1, b"x"), 5),
    "a block that is none": (frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"), 9),
    "more padding than there is": (frame(HEADERS, END_HEADERS | PADDED, 1, b"\xff"), 1),
    "a push": (frame(5, END_HEADERS, 1, bytes(4)), 1),
    "a window of nothing": (frame(WINDOW_UPDATE, 0, 0, bytes(4)), 1),
    "a window that overflows": (frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"), 3),
    "a short ping": (frame(PING, 0, 0, b"x"), 6),
    "a reset of no stream": (frame(RST_STREAM, 0, 7, bytes(4)), 1),
    "headers without end": (
        frame(HEADERS, 0, 1, b"\0") + frame(CONTINUATION, 0, 1, bytes(16_000)) * 5, 11,
    ),
}  # fmt: skip


async def test_a_peer_that_breaks_the_protocol_is_sent_away_alone(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, server), peer(server) as other:
        for what, (sent, code) in FAULTS.items():
            async with peer(server) as it:
                it.send(sent)
                assert await it.sent_away() == code, what
        other.send(call(1, block("Nonesuch"), body()))
        assert (await other.answer())[1][b"grpc-status"] == b"12"


async def test_a_stream_is_made_no_faster_than_it_is_read_and_ends_with_its_reader(
    tmp_path: Path,
) -> None:
    async with served(tmp_path) as (service, server), peer(server) as it:
        it.send(call(1, block("StreamContainers"), body(pb.StreamContainersRequest())))
        seen = 0
        while seen < 65_535:
            seen += len((await it.frame(DATA))[3])
        assert service.made == 65_535 // 1012 + 1
        it.send(frame(RST_STREAM, 0, 1, (8).to_bytes(4, "big")))
        await asyncio.wait_for(service.ended.wait(), DEADLINE)


async def test_a_stream_ends_with_its_connection_and_with_the_server(tmp_path: Path) -> None:
    async with served(tmp_path) as (service, server):
        async with peer(server) as it:
            it.send(call(1, block("StreamContainers"), body(pb.StreamContainersRequest())))
            await it.frame(DATA)
        await asyncio.wait_for(service.ended.wait(), DEADLINE)
        service.ended.clear()
        async with peer(server) as it:
            it.send(call(1, block("StreamContainers"), body(pb.StreamContainersRequest())))
            await it.frame(DATA)
            began = asyncio.get_running_loop().time()
            await server.close(grace=DEADLINE)
            assert service.ended.is_set()
            assert asyncio.get_running_loop().time() - began < DEADLINE


async def test_a_request_that_is_too_large_is_refused_while_it_comes(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, server):
        options = [("grpc.max_send_message_length", -1), ("grpc.default_authority", "localhost")]
        async with grpc.aio.insecure_channel(f"unix://{server.socket}", options=options) as channel:
            version = channel.unary_unary("/runtime.v1.RuntimeService/Version", None, None)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await version(bytes(17 << 20), timeout=DEADLINE)
            assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            # and the connection is good for the next
            said = await version(pb.VersionRequest(version="v2").SerializeToString())
            assert pb.VersionResponse.FromString(said).version == "v2"


# RFC 7541 appendix C: three requests of one connection, without and with Huffman's code, and a response's strings.
REQUESTS = (
    ("828684410f7777772e6578616d706c652e636f6d", "828684418cf1e3c2e5f23a6ba0ab90f4ff"),
    ("828684be58086e6f2d6361636865", "828684be5886a8eb10649cbf"),
    (
        "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
        "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
    ),
)
ANSWERS = (
    {b":method": b"GET", b":path": b"/", b":authority": b"www.example.com"},
    {b":method": b"GET", b":authority": b"www.example.com", b"cache-control": b"no-cache"},
    {b":path": b"/index.html", b":scheme": b"https", b"custom-key": b"custom-value"},
)


@pytest.mark.parametrize("coding", [0, 1])
def test_the_examples_of_the_rfc(coding: int) -> None:
    decoder = Decoder()
    for request, answer in zip(REQUESTS, ANSWERS, strict=True):
        for _ in range(2 if request is REQUESTS[2] else 1):
            headers = dict(decoder.decode(bytes.fromhex(request[coding])))
            assert headers.items() >= answer.items()
    assert hpack.huffman(bytes.fromhex("6402")) == b"302"
    assert hpack.huffman(bytes.fromhex("9d29ad171863c78f0b97c8e9ae82ae43d3")) == (
        b"https://www.example.com"
    )


def test_entries_leave_the_table_and_take_what_was_remembered_with_them() -> None:
    decoder = Decoder()
    long = (b"x-long", b"v" * 3000)
    enter = b"\x40\x06x-long\x7f\xb9\x16" + b"v" * 3000
    assert decoder.decode(enter) == [long]
    assert decoder.decode(b"\xbe") == decoder.decode(b"\xbe") == [long]
    decoder.decode(b"\x40\x01a\x7f\xd1\x0e" + b"w" * 2000)  # both do not fit
    assert decoder.decode(b"\xbe") == [(b"a", b"w" * 2000)]
    for broken in (b"\xbf", b"\x80", b"\x3f\xe2\x1f"):  # gone, none, a larger table than agreed on
        with pytest.raises(HPACKError):
            Decoder().decode(broken)
    decoder.decode(b"\x20")
    with pytest.raises(HPACKError):
        decoder.decode(b"\xbe")
    with pytest.raises(HPACKError, match="larger"):
        Decoder().decode(enter + b"\xbe" * 30)


@given(st.lists(st.tuples(st.binary(max_size=200), st.binary(max_size=200)), max_size=10))
def test_what_is_written_can_be_read(headers: list[tuple[bytes, bytes]]) -> None:
    assert Decoder().decode(hpack.encode(*headers)) == headers


@given(st.binary(max_size=60))
def test_any_bytes_are_a_block_or_refused(data: bytes) -> None:
    try:
        Decoder().decode(data)
    except HPACKError as error:
        assert str(error)
