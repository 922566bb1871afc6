"""The streaming server with real clients of both wire protocols, and with garbage."""

from __future__ import annotations

import asyncio
import json
import os
import struct

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spdy_client import SpdyClient, dial, upgrade

from sampan.cri.streaming import frames
from sampan.cri.streaming.server import Attach, Exec, PortForward, StreamingServer
from sampan.cri.streaming.spdy import Connection


@pytest.fixture
async def server():
    server = StreamingServer()
    await server.start()
    yield server
    await server.close()


async def cat(streams) -> int:
    """Copies stdin to stdout, says bye on stderr, ends with 3."""
    while data := await streams.stdin.read(4096):
        streams.stdout.write(data)
        await streams.stdout.drain()
    if streams.stderr:
        streams.stderr.write(b"bye")
    return 3


async def echo_port(port: int):
    """A connection to an echo server that lives as long as the connection."""
    if port == 81:
        raise OSError("connection refused")

    async def serve(reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    connection = await asyncio.open_connection(*listener.sockets[0].getsockname())
    listener.close()
    return connection


def exec_session(run=cat, tty=False) -> Exec:
    return Exec(run, True, True, not tty, tty)


async def websocket(url: str, *protocols: str):
    session = aiohttp.ClientSession()
    return session, await session.ws_connect(url, protocols=protocols)


async def test_exec_over_websocket_v5_ends_stdin_alone(server):
    session, ws = await websocket(
        server.url(exec_session()), "v5.channel.k8s.io", "v4.channel.k8s.io"
    )
    assert ws.protocol == "v5.channel.k8s.io"
    await ws.send_bytes(b"\x00ahoy")
    await ws.send_bytes(b"\xff\x00")
    got = {1: b"", 2: b"", 3: b""}
    async for message in ws:
        got[message.data[0]] += message.data[1:]
    assert (got[1], got[2]) == (b"ahoy", b"bye")
    status = json.loads(got[3])
    assert status["reason"] == "NonZeroExitCode"
    assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "3"}]
    assert ws.close_code == 1000
    await session.close()


async def test_resize_and_ping_over_websocket_v4(server):
    async def size(streams) -> int:
        assert streams.stderr is None
        streams.stdout.write(repr(await streams.resize.get()).encode())
        return 0

    session, ws = await websocket(server.url(exec_session(size, tty=True)), "v4.channel.k8s.io")
    await ws.ping(b"x")
    await ws.send_bytes(b"\x04not json")
    await ws.send_bytes(b'\x04{"Width": 120, "Height": 40}')
    messages = [message.data async for message in ws]
    assert b"\x01(120, 40)" in messages
    assert json.loads(messages[-1][1:])["status"] == "Success"
    await session.close()


async def test_a_client_that_leaves_cancels_the_session(server):
    cancelled = asyncio.Event()
    started = asyncio.Event()

    async def run(streams) -> int:
        started.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cancelled.set()
        return 0

    session, _ = await websocket(server.url(exec_session(run)), "v5.channel.k8s.io")
    await asyncio.wait_for(started.wait(), 10)
    await session.close()
    await asyncio.wait_for(cancelled.wait(), 10)


async def test_the_first_websocket_protocol_tells_failures_in_words(server):
    """`channel.k8s.io`, which conformance's clients speak: a failure is text, and nothing follows success."""

    def ending(code: int):
        async def run(streams) -> int:
            streams.stdout.write(b"said")
            return code

        return run

    for code, word in ((0, b""), (3, b"command terminated with non-zero exit code: exit status 3")):
        session, ws = await websocket(server.url(exec_session(ending(code))), "channel.k8s.io")
        async with asyncio.timeout(10):
            messages = [message.data async for message in ws]
        assert ws.protocol == "channel.k8s.io"
        assert messages == [b"\x01", b"\x01said", b"\x03" + word]
        await session.close()


async def test_exec_over_spdy(server):
    client = await dial(server.url(exec_session()), "v4.channel.k8s.io", "channel.k8s.io")
    streams = {
        name: client.open(streamtype=name) for name in ("error", "stdin", "stdout", "stderr")
    }
    data = os.urandom(500_000)
    streams["stdin"].write(data, fin=True)
    async with asyncio.timeout(20):
        assert await streams["stdout"].read() == data
        assert await streams["stderr"].read() == b"bye"
        assert json.loads(await streams["error"].read())["reason"] == "NonZeroExitCode"
    await client.close()


async def test_a_failing_session_is_an_internal_error(server):
    async def run(streams) -> int:
        raise RuntimeError("no such thing")

    client = await dial(server.url(Attach(run, False, True, False, False)), "v4.channel.k8s.io")
    error, _ = client.open(streamtype="error"), client.open(streamtype="stdout")
    status = json.loads(await asyncio.wait_for(error.read(), 10))
    assert (status["reason"], status["code"]) == ("InternalError", 500)
    assert "no such thing" in status["message"]
    await client.close()


async def forward(client: SpdyClient) -> None:
    data = os.urandom(300_000)
    pairs = [
        (
            client.open(streamtype="error", port="80", requestid=str(number)),
            client.open(streamtype="data", port="80", requestid=str(number)),
        )
        for number in range(3)
    ]
    refused = (
        client.open(streamtype="error", port="81", requestid="x"),
        client.open(streamtype="data", port="81", requestid="x"),
    )
    async with asyncio.timeout(20):
        for error, stream in pairs:
            stream.write(data, fin=True)
            assert await stream.read() == data
            assert await error.read() == b""
        assert b"connection refused" in await refused[0].read()


async def test_port_forward_over_spdy(server):
    client = await dial(server.url(PortForward(echo_port)), "portforward.k8s.io")
    await forward(client)
    await client.close()


async def test_port_forward_tunnelled_in_a_websocket(server):
    session, ws = await websocket(server.url(PortForward(echo_port)), "SPDY/3.1+portforward.k8s.io")

    class Carrier:
        buffer = b""
        sending: asyncio.Queue = asyncio.Queue()

        def write(self, data: bytes) -> None:
            self.sending.put_nowait(data)

        async def pump(self) -> None:
            while True:
                await ws.send_bytes(await self.sending.get())

        async def readexactly(self, count: int) -> bytes:
            while len(self.buffer) < count:
                message = await ws.receive()
                if message.type != aiohttp.WSMsgType.BINARY:
                    raise asyncio.IncompleteReadError(self.buffer, count)
                self.buffer += message.data
            data, self.buffer = self.buffer[:count], self.buffer[count:]
            return data

    carrier = Carrier()
    pump = asyncio.ensure_future(carrier.pump())
    client = SpdyClient(carrier)
    await forward(client)
    pump.cancel()
    await client.close()
    await session.close()


async def test_ping_goaway_and_refusals(server):
    client = await dial(server.url(exec_session()), "v4.channel.k8s.io")
    client.write(frames.control(frames.PING, struct.pack(">I", 1)))
    assert await asyncio.wait_for(client.pings.get(), 10) == struct.pack(">I", 1)
    unknown = client.open(streamtype="cargo")
    await asyncio.wait_for(unknown.replied.wait(), 10)
    assert unknown.reset
    client.write(frames.syn_stream(2, client.headers.pack({})))
    await asyncio.wait_for(client.goaway.wait(), 10)
    await client.close()


async def test_windows_are_kept_with_a_peer_that_grants_them():
    """After a SETTINGS frame, no more than the window is sent before the peer grants more."""
    sent = bytearray()

    class Carrier:
        def write(self, data: bytes) -> None:
            sent.extend(data)

        async def drain(self) -> None:
            return

        readexactly = asyncio.StreamReader().readexactly

    found = []
    connection = Connection(Carrier(), lambda stream: not found.append(stream))
    headers = frames.Headers()
    window = frames.control(frames.SETTINGS, struct.pack(">III", 1, frames.INITIAL_WINDOW_SIZE, 10))
    for data in (window, frames.syn_stream(1, headers.pack({}))):
        await connection._take(frames.parse(data[:8], data[8:], headers_of(connection)))
    sent.clear()
    found[0].write(b"x" * 25)
    assert len(sent) == 8 + 10
    await connection._take(frames.Frame(frames.WINDOW_UPDATE, 0, 1, struct.pack(">I", 15)))
    assert len(sent) == 8 + 10 + 8 + 15


def headers_of(connection: Connection) -> frames.Headers:
    return connection._headers


async def test_urls_work_once_and_only_for_their_verb(server):
    url = server.url(exec_session())
    head, _, writer = await upgrade(url.replace("/exec/", "/attach/"), Upgrade="SPDY/3.1")
    assert " 404 " in head.splitlines()[0]
    writer.close()
    client = await dial(url, "v4.channel.k8s.io")
    head, _, writer = await upgrade(url, Upgrade="SPDY/3.1")
    assert " 404 " in head.splitlines()[0]
    writer.close()
    client.carrier.writer.close()
    await client.close()
    for headers in ({}, {"Upgrade": "h2c"}):
        head, _, writer = await upgrade(server.url(exec_session()), **headers)
        assert " 400 " in head.splitlines()[0]
        writer.close()
    head, _, writer = await upgrade(
        server.url(exec_session()), Upgrade="SPDY/3.1", X_Stream_Protocol_Version="v9"
    )
    assert " 403 " in head.splitlines()[0]
    writer.close()


garbage = st.one_of(
    st.binary(max_size=200),
    st.builds(
        lambda kind, flags, body: frames.control(kind, body, flags),
        st.integers(0, 12),
        st.integers(0, 255),
        st.binary(max_size=60),
    ),
    st.builds(frames.data_frame, st.integers(0, 9), st.binary(max_size=60), st.integers(0, 1)),
    st.builds(
        lambda number, name: frames.syn_stream(number, frames.Headers().pack({"streamtype": name})),
        st.integers(0, 9),
        st.sampled_from(["error", "stdin", "stdout", "stderr", "x"]),
    ),
)
FUZZ = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@FUZZ
@given(chunks=st.lists(garbage, max_size=8))
async def test_spdy_garbage_never_raises(chunks):
    class Carrier:
        def __init__(self) -> None:
            self.reader = asyncio.StreamReader()
            self.readexactly = self.reader.readexactly
            self.sent = 0

        def write(self, data: bytes) -> None:
            self.sent += len(data)

        async def drain(self) -> None:
            return

    carrier = Carrier()
    for chunk in chunks:
        carrier.reader.feed_data(chunk)
    carrier.reader.feed_eof()
    streams = []
    connection = Connection(carrier, lambda stream: not streams.append(stream))
    await asyncio.wait_for(connection.run(), 10)
    assert all(stream.inbox.at_end for stream in streams)


@FUZZ
@given(
    protocol=st.sampled_from(["websocket", "spdy", "none"]),
    chunks=st.lists(st.one_of(garbage, st.binary(max_size=300)), max_size=6),
)
async def test_garbage_never_kills_the_server(protocol, chunks):
    server = StreamingServer()
    await server.start()
    try:
        url = server.url(exec_session())
        if protocol == "none":
            port = server.port
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        elif protocol == "spdy":
            _, _, writer = await upgrade(url, Upgrade="SPDY/3.1")
        else:
            _, _, writer = await upgrade(
                url,
                Upgrade="websocket",
                Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==",
                Sec_WebSocket_Version="13",
                Sec_WebSocket_Protocol="v5.channel.k8s.io",
            )
        for chunk in chunks:
            writer.write(chunk)
        writer.close()
        client = await dial(server.url(exec_session()), "v4.channel.k8s.io")
        streams = {
            name: client.open(streamtype=name) for name in ("error", "stdin", "stdout", "stderr")
        }
        streams["stdin"].write(b"still here", fin=True)
        assert await asyncio.wait_for(streams["stdout"].read(), 10) == b"still here"
        client.carrier.writer.close()
        await client.close()
    finally:
        await server.close()
