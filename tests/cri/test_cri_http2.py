"""Our HTTP/2 against grpcio's, both ways; flow control, broken frames, and a peer that goes away."""

from __future__ import annotations

import asyncio
import socket
import struct

import grpc
import grpc.aio
import pytest

from sampan.cri import api_pb2 as pb
from sampan.cri import errors, hpack, http2
from sampan.cri.client import CRIClient
from sampan.cri.methods import MESSAGE_LIMIT
from sampan.cri.server import CRIServer

VERSION = "/runtime.v1.RuntimeService/Version"
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Service:
    """Answers with what it was asked, so that one method shows both directions."""

    async def version(self, request):
        return pb.VersionResponse(version=request.version, runtime_name="é 100%\n")

    async def list_images(self, request):
        return pb.ListImagesResponse(images=[pb.Image(id=request.filter.image.image)])

    async def image_status(self, request):
        raise errors.NotFound("größer als 100 %\nnächste Zeile")

    async def stream_containers(self, request):
        for number in range(400):
            yield pb.StreamContainersResponse(
                containers=[pb.Container(id=str(number), image_ref="x" * 20_000)]
            )

    async def get_container_events(self, request):
        await asyncio.get_running_loop().create_future()
        yield pb.ContainerEventResponse()


@pytest.fixture
async def server(tmp_path):
    server = CRIServer(tmp_path / "cri.sock", Service())
    await server.start()
    yield server
    await server.close()


@pytest.fixture
async def channel(server):
    async with grpc.aio.insecure_channel(f"unix://{server.socket}", options=OPTIONS) as channel:
        yield channel


def method(channel, path, request, response, kind="unary_unary"):
    return getattr(channel, kind)(
        path,
        request_serializer=request.SerializeToString,
        response_deserializer=response.FromString,
    )


async def test_a_client_of_grpcio_is_answered(channel):
    version = method(channel, VERSION, pb.VersionRequest, pb.VersionResponse)
    answers = await asyncio.gather(
        *(version(pb.VersionRequest(version=f"v{n}")) for n in range(64))
    )
    assert [answer.version for answer in answers] == [f"v{n}" for n in range(64)]
    assert answers[0].runtime_name == "é 100%\n"
    # Again, with what is by now in the tables of its header compression.
    assert (await version(pb.VersionRequest(version="again"))).version == "again"


async def test_a_client_of_grpcio_gets_statuses(channel):
    status = method(
        channel,
        "/runtime.v1.ImageService/ImageStatus",
        pb.ImageStatusRequest,
        pb.ImageStatusResponse,
    )
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await status(pb.ImageStatusRequest())
    assert failure.value.code() is grpc.StatusCode.NOT_FOUND
    assert failure.value.details() == "größer als 100 %\nnächste Zeile"
    unknown = method(
        channel, "/runtime.v1.RuntimeService/Nothing", pb.VersionRequest, pb.VersionResponse
    )
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await unknown(pb.VersionRequest())
    assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED
    compressed = method(channel, VERSION, pb.VersionRequest, pb.VersionResponse)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await compressed(pb.VersionRequest(version="v" * 9000), compression=grpc.Compression.Gzip)
    assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert (await compressed(pb.VersionRequest(version="v1"))).version == "v1"


async def test_a_client_of_grpcio_streams_through_its_small_windows(channel):
    path = "/runtime.v1.RuntimeService/StreamContainers"
    request, response = pb.StreamContainersRequest, pb.StreamContainersResponse
    stream = method(channel, path, request, response, "unary_stream")
    seen = [item.containers[0].id async for item in stream(request())]
    assert seen == [str(number) for number in range(400)]


async def test_large_messages_both_ways(server, channel):
    large = "x" * (MESSAGE_LIMIT - 4096)
    request = pb.ListImagesRequest(filter=pb.ImageFilter(image=pb.ImageSpec(image=large)))
    images = method(
        channel, "/runtime.v1.ImageService/ListImages", pb.ListImagesRequest, pb.ListImagesResponse
    )
    assert (await images(request)).images[0].id == large
    async with CRIClient(server.socket) as client:
        for _ in range(
            3
        ):  # more than a stream's window in all, so that the connection's is opened again
            assert (await client.list_images(request)).images[0].id == large


async def test_a_message_beyond_the_limit_is_refused_and_the_connection_lives(server):
    async with CRIClient(server.socket) as client:
        with pytest.raises(errors.InvalidArgument, match="a message of"):
            await client.version(version="x" * (MESSAGE_LIMIT + 1))
        assert (await client.version(version="v1")).version == "v1"


async def test_our_client_and_a_server_of_grpcio(tmp_path):
    async def version(request, context):
        return pb.VersionResponse(
            version=request.version, runtime_name=str(context.time_remaining())
        )

    async def status(request, context):
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "nicht möglich: 5 %")

    async def containers(request, context):
        for number in range(300):
            yield pb.StreamContainersResponse(
                containers=[pb.Container(id=str(number), image_ref="y" * 50_000)]
            )

    handlers = {
        "Version": grpc.unary_unary_rpc_method_handler(
            version, pb.VersionRequest.FromString, pb.VersionResponse.SerializeToString
        ),
        "ContainerStatus": grpc.unary_unary_rpc_method_handler(
            status,
            pb.ContainerStatusRequest.FromString,
            pb.ContainerStatusResponse.SerializeToString,
        ),
        "StreamContainers": grpc.unary_stream_rpc_method_handler(
            containers,
            pb.StreamContainersRequest.FromString,
            pb.StreamContainersResponse.SerializeToString,
        ),
    }
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("runtime.v1.RuntimeService", handlers)]
    )
    server.add_insecure_port(f"unix://{tmp_path}/other.sock")
    await server.start()
    async with CRIClient(tmp_path / "other.sock") as client:
        answer = await client.version(version="v1", rpc_timeout=30)
        assert answer.version == "v1" and 0 < float(answer.runtime_name) <= 30
        with pytest.raises(errors.FailedPrecondition, match="nicht möglich: 5 %"):
            await client.container_status()
        with pytest.raises(errors.Unimplemented):
            await client.status()
        seen = [item.containers[0].id async for item in client.stream_containers()]
        assert seen == [str(number) for number in range(300)]
        large = "z" * (3 << 20)
        assert (await client.version(version=large)).version == large
    await server.stop(None)


async def test_a_stream_ends_with_its_server_and_the_client_connects_again(tmp_path):
    server = CRIServer(tmp_path / "cri.sock", Service())
    await server.start()
    async with CRIClient(server.socket) as client:
        assert (await client.version(version="v1")).version == "v1"
        events = asyncio.create_task(anext(client.get_container_events()))
        async with asyncio.timeout(10):
            while not server.running:
                await asyncio.sleep(0)
            await server.close(grace=60)  # a stream without an end is not waited for
            with pytest.raises(errors.Unavailable):
                await events
        server = CRIServer(tmp_path / "cri.sock", Service())
        await server.start()
        assert (await client.version(version="v2", wait=True)).version == "v2"
        await server.close()


def frames(data: bytes) -> list[tuple[int, int, int, bytes]]:
    found, at = [], 0
    while at + 9 <= len(data):
        size = int.from_bytes(data[at : at + 3], "big")
        number = int.from_bytes(data[at + 5 : at + 9], "big")
        found.append((data[at + 3], data[at + 4], number, data[at + 9 : at + 9 + size]))
        at += 9 + size
    return found


REQUEST = hpack.render(
    [
        (":method", "POST"),
        (":path", VERSION),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]
)
GREETING = http2.PREFACE + http2.frame(http2.SETTINGS, 0, 0, b"")


@pytest.mark.parametrize(
    "sent",
    [
        http2.frame(http2.DATA, 0, 1, b"data of no stream"),
        http2.frame(http2.HEADERS, http2.END_HEADERS, 2, REQUEST),
        http2.frame(http2.HEADERS, http2.END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"),
        http2.frame(http2.HEADERS, http2.END_HEADERS | http2.PADDED, 1, b"\xff" + REQUEST[:9]),
        http2.frame(http2.HEADERS, 0, 1, REQUEST) + http2.frame(http2.PING, 0, 0, bytes(8)),
        http2.frame(http2.CONTINUATION, http2.END_HEADERS, 1, REQUEST),
        http2.frame(http2.WINDOW_UPDATE, 0, 0, b"\0"),
        http2.frame(http2.PUSH_PROMISE, 0, 1, bytes(4)),
        http2.frame(http2.SETTINGS, 0, 0, struct.pack("!HI", http2.SETTING_WINDOW, 1 << 31)),
        b"\xff\xff\xff" + bytes(6),
        b"".join(http2.frame(http2.HEADERS if n == 0 else http2.CONTINUATION, 0, 1, bytes(16000)) for n in range(9)),
    ],
)  # fmt: skip
async def test_a_peer_that_breaks_the_protocol_is_told_so_and_left(server, sent):
    reader, writer = await asyncio.open_unix_connection(str(server.socket))
    writer.write(GREETING + sent)
    async with asyncio.timeout(10):
        answer = frames(await reader.read())
    last = [each for each in answer if each[0] == http2.GOAWAY]
    assert len(last) == 1 and struct.unpack("!I", last[0][3][4:8])[0] != http2.NO_ERROR
    writer.close()
    async with CRIClient(server.socket) as client:
        assert (await client.version(version="v1")).version == "v1"


async def test_headers_in_pieces_padding_and_bytes_one_by_one(server):
    body = pb.VersionRequest(version="v1").SerializeToString()
    message = b"\0" + struct.pack("!I", len(body)) + body
    sent = GREETING
    sent += http2.frame(http2.HEADERS, http2.WITH_PRIORITY, 1, bytes(5) + REQUEST[:20])
    sent += http2.frame(http2.CONTINUATION, 0, 1, REQUEST[20:30])
    sent += http2.frame(http2.CONTINUATION, http2.END_HEADERS, 1, REQUEST[30:])
    padded = b"\3" + message + bytes(3)
    sent += http2.frame(http2.DATA, http2.PADDED | http2.END_STREAM, 1, padded)
    sent += http2.frame(http2.PING, 0, 0, b"12345678")
    reader, writer = await asyncio.open_unix_connection(str(server.socket))
    for byte in sent:
        writer.write(bytes((byte,)))
        await writer.drain()
    received = b""
    async with asyncio.timeout(10):
        while not any(each[2] == 1 and each[1] & http2.END_STREAM for each in frames(received)):
            received += await reader.read(65536)
    answer = frames(received)
    assert (http2.PING, http2.ACK, 0, b"12345678") in answer
    data = b"".join(each[3] for each in answer if each[0] == http2.DATA)
    assert pb.VersionResponse.FromString(data[5:]).version == "v1"
    writer.close()


async def test_a_client_with_no_window_gets_nothing_until_it_opens_one(server):
    body = pb.VersionRequest(version="v" * 1000).SerializeToString()
    closed = struct.pack("!HI", http2.SETTING_WINDOW, 0)
    sent = http2.PREFACE + http2.frame(http2.SETTINGS, 0, 0, closed)
    sent += http2.frame(http2.HEADERS, http2.END_HEADERS, 1, REQUEST)
    message = b"\0" + struct.pack("!I", len(body)) + body
    sent += http2.frame(http2.DATA, http2.END_STREAM, 1, message)
    sent += http2.frame(http2.PING, 0, 0, b"marker 1")
    reader, writer = await asyncio.open_unix_connection(str(server.socket))
    writer.write(sent)
    received = b""

    async def until(done) -> list[tuple[int, int, int, bytes]]:
        nonlocal received
        async with asyncio.timeout(10):
            while not done(frames(received)):
                received += await reader.read(65536)
        return frames(received)

    answer = await until(lambda found: any(each[0] == http2.HEADERS for each in found))
    assert not any(each[0] == http2.DATA for each in answer)
    writer.write(http2.frame(http2.WINDOW_UPDATE, 0, 1, struct.pack("!I", 100)))
    answer = await until(lambda found: any(each[0] == http2.DATA for each in found))
    assert sum(len(each[3]) for each in answer if each[0] == http2.DATA) == 100
    writer.write(http2.frame(http2.WINDOW_UPDATE, 0, 1, struct.pack("!I", 1 << 20)))
    answer = await until(lambda found: any(each[1] & 1 and each[2] == 1 for each in found))
    data = b"".join(each[3] for each in answer if each[0] == http2.DATA)
    assert pb.VersionResponse.FromString(data[5:]).version == "v" * 1000
    writer.close()


async def test_new_windows_are_acknowledged_before_they_are_used(server):
    body = pb.VersionRequest(version="v" * 1000).SerializeToString()
    sent = http2.PREFACE
    for window in (100, 1 << 20):
        settings = struct.pack("!HI", http2.SETTING_WINDOW, window)
        sent += http2.frame(http2.SETTINGS, 0, 0, settings)
        if window == 100:
            sent += http2.frame(http2.HEADERS, http2.END_HEADERS, 1, REQUEST)
            message = b"\0" + struct.pack("!I", len(body)) + body
            sent += http2.frame(http2.DATA, http2.END_STREAM, 1, message)
            reader, writer = await asyncio.open_unix_connection(str(server.socket))
            writer.write(sent)
            received = b""
            async with asyncio.timeout(10):
                while not any(each[0] == http2.DATA for each in frames(received)):
                    received += await reader.read(65536)
            sent = b""
    writer.write(sent)
    async with asyncio.timeout(10):
        while not any(each[1] & 1 and each[2] == 1 for each in frames(received)):
            received += await reader.read(65536)
    order = [
        "ack" if each[0] == http2.SETTINGS else "data"
        for each in frames(received)
        if each[0] == http2.DATA or (each[0] == http2.SETTINGS and each[1] & http2.ACK)
    ]
    assert order == ["ack", "data", "ack", "data"]
    writer.close()


async def test_a_runtime_that_dies_in_a_call_is_unavailable(tmp_path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "cri.sock"))
    listener.listen()
    listener.setblocking(False)
    async with CRIClient(tmp_path / "cri.sock") as client:
        call = asyncio.create_task(client.version())
        connection, _ = await asyncio.get_running_loop().sock_accept(listener)
        await asyncio.get_running_loop().sock_recv(connection, 1)
        connection.close()
        with pytest.raises(errors.Unavailable):
            await asyncio.wait_for(call, 10)
    listener.close()


# RFC 7541, C.3 and C.4 (one table for three requests, plain and in Huffman codes), C.6.1
REQUESTS = [
    ("828684410f7777772e6578616d706c652e636f6d", "828684418cf1e3c2e5f23a6ba0ab90f4ff"),
    ("828684be58086e6f2d6361636865", "828684be5886a8eb10649cbf"),
    (
        "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
        "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
    ),
]


@pytest.mark.parametrize("column", [0, 1])
def test_the_examples_of_the_standard(column):
    decoder = hpack.Decoder()
    found = [dict(decoder.read(bytes.fromhex(row[column]))) for row in REQUESTS]
    assert found[0] == {
        ":method": "GET",
        ":scheme": "http",
        ":path": "/",
        ":authority": "www.example.com",
    }
    assert found[1] == {**found[0], "cache-control": "no-cache"}
    assert found[2] == {
        **found[0],
        ":scheme": "https",
        ":path": "/index.html",
        "custom-key": "custom-value",
    }


def test_what_we_write_we_read():
    headers = [("a" * 130, "b" * 5000), ("c", ""), ("d" * 127, "e" * 126)]
    assert hpack.Decoder().read(hpack.render(headers)) == headers


@pytest.mark.parametrize(
    "block", ["80", "be", "3fe21f", "00", "0001", "7fffffffffffff01", "008500000000ff", "0081fe00"]
)
def test_broken_blocks_are_refused(block):
    with pytest.raises(hpack.BadHeaders):
        hpack.Decoder().read(bytes.fromhex(block))
