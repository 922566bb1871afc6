"""HTTPTransport against servers that say exactly the bytes of the test: framing, kept connections, proxies."""

import asyncio
import gzip
from contextlib import asynccontextmanager

import pytest

from sampan.client.errors import Unreachable
from sampan.client.http import HTTPTransport
from sampan.client.kubeconfig import Kubeconfig
from sampan.client.transport import Request

OK = b"HTTP/1.1 200 OK\r\n"


class Script:
    """A server that answers the n-th request of all connections with the n-th of `answers`.

    An answer is bytes, or a coroutine function that is given the writer. None closes the connection without a word.
    """

    def __init__(self, *answers):
        self.answers = list(answers)
        self.requests = []  # (connection number, head, body)
        self.connections = 0
        self.ended = asyncio.Queue()  # connection numbers

    async def serve(self, reader, writer):
        self.connections += 1
        number = self.connections
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = 0
                for line in head.lower().split(b"\r\n"):
                    if line.startswith(b"content-length:"):
                        length = int(line.partition(b":")[2])
                self.requests.append((number, head, await reader.readexactly(length)))
                answer = self.answers.pop(0)
                if answer is None:
                    return
                if callable(answer):
                    await answer(writer)
                else:
                    writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            self.ended.put_nowait(number)

    @property
    def used(self):
        return [number for number, _, _ in self.requests]


@asynccontextmanager
async def serving(*answers, **config):
    script = Script(*answers)
    server = await asyncio.start_server(script.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    transport = HTTPTransport(Kubeconfig(url, **config))
    try:
        async with asyncio.timeout(10):
            yield script, transport
    finally:
        await transport.close()
        server.close()


def whole(body, *headers, line=OK):
    lines = b"".join(h + b"\r\n" for h in headers)
    return line + lines + b"Content-Length: %d\r\n\r\n" % len(body) + body


async def get(transport, path="/x", **fields):
    return await transport.send(Request("GET", path, **fields))


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (whole(b"abc"), b"abc"),
        (whole(b""), b""),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n", b"abcde"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nTrailer: x\r\n\r\n", b"a"),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + whole(b"abc"), b"abc"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (whole(gzip.compress(b"packed"), b"Content-Encoding: gzip"), b"packed"),
    ],
    ids=["length", "empty", "chunks", "trailers", "interim", "no content", "gzip"],
)
async def test_an_answer_is_read_whole_and_the_connection_used_again(answer, body):
    async with serving(answer, whole(b"next")) as (script, transport):
        first = await get(transport)
        assert first.body == body
        assert (await get(transport)).body == b"next"
        assert script.used == [1, 1]


async def test_an_answer_may_end_with_its_connection():
    async def answer(writer):
        writer.write(OK + b"X-A: 1\r\nx-a: 2\r\n\r\nto the ")
        await writer.drain()
        writer.write(b"end")
        writer.close()

    async with serving(answer, whole(b"next")) as (script, transport):
        got = await get(transport)
        assert (got.body, got.headers["x-a"]) == (b"to the end", "1, 2")
        assert (await get(transport)).body == b"next"
        assert script.used == [1, 2]


async def test_the_answer_to_head_has_no_body():
    async with serving(OK + b"Content-Length: 99\r\n\r\n", whole(b"next")) as (_, transport):
        got = await transport.send(Request("HEAD", "/x"))
        assert (got.status, got.headers["content-length"], got.body) == (200, "99", b"")
        assert (await get(transport)).body == b"next"


@pytest.mark.parametrize(
    "answer",
    [None, b"SSH-2.0-OpenSSH\r\n", OK + b"Content-Length: 5\r\n\r\nab", whole(b"no gzip at all", b"Content-Encoding: gzip"),
     b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
     OK + b"".join(b"h%d: %s\r\n" % (i, b"x" * 8000) for i in range(200)) + b"\r\n"],
    ids=["nothing", "not HTTP", "cut short", "not gzip", "upgrade", "huge head"],
)  # fmt: skip
async def test_what_is_no_answer_is_unreachable_and_names_the_address(answer):
    async def say(writer):
        if answer is not None:
            writer.write(answer)
        writer.close()

    async with serving(say) as (_, transport):
        with pytest.raises(Unreachable, match=transport.config.server):
            await get(transport)


async def test_a_kept_connection_that_the_server_closed_is_replaced_without_a_word():
    async with serving(whole(b"1"), None, whole(b"2")) as (script, transport):
        await get(transport)
        assert (await get(transport)).body == b"2"
        assert script.used == [1, 1, 2]


async def test_a_write_is_never_sent_twice():
    async with serving(whole(b"1"), None, whole(b"2")) as (script, transport):
        await get(transport)
        with pytest.raises(Unreachable):
            await transport.send(Request("POST", "/x", body=b"{}"))
        assert [body for _, _, body in script.requests] == [b"", b"{}"]


async def test_an_answer_never_reaches_the_request_after_the_one_that_was_cancelled():
    go = asyncio.Event()

    async def late(writer):
        await go.wait()
        writer.write(whole(b"late"))

    async with serving(late, whole(b"mine")) as (script, transport):
        asked = asyncio.create_task(get(transport))
        while not script.requests:
            await asyncio.sleep(0)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        go.set()
        assert (await get(transport)).body == b"mine"


async def test_what_nobody_asked_for_ends_a_kept_connection():
    planted = whole(b"planted")
    async with serving(whole(b"1") + planted, whole(b"2")) as (script, transport):
        assert (await get(transport)).body == b"1"
        assert (await get(transport)).body == b"2"
        assert script.used == [1, 2]


@pytest.mark.parametrize("read_first", [True, False])
async def test_a_stream_that_is_left_early_ends_its_connection(read_first):
    async def endless(writer):
        writer.write(OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")

    async with serving(endless) as (script, transport):
        answer = await get(transport, stream=True)
        if read_first:
            assert await anext(answer.body) == b"abc"
        await answer.aclose()
        assert await script.ended.get() == 1
        assert [piece async for piece in answer.body] == []


async def test_a_stream_read_to_its_end_keeps_the_connection_and_is_unpacked_on_the_way():
    packed = gzip.compress(b"line\n" * 1000)
    half = len(packed) // 2

    async def answer(writer):
        writer.write(OK + b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n")
        for part in (packed[:half], packed[half:]):
            writer.write(b"%x\r\n%s\r\n" % (len(part), part))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    async with serving(answer, whole(b"next")) as (script, transport):
        got = await get(transport, stream=True)
        assert b"".join([piece async for piece in got.body]) == b"line\n" * 1000
        assert (await get(transport)).body == b"next"
        assert script.used == [1, 1]


async def test_a_slow_reader_holds_the_server_back():
    sent = 0

    async def flood(writer):
        nonlocal sent
        writer.write(OK + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(64):
            writer.write(b"100000\r\n" + bytes(1 << 20) + b"\r\n")
            await writer.drain()
            sent += 1
        writer.write(b"0\r\n\r\n")

    async with serving(flood) as (_, transport):
        got = await get(transport, stream=True)
        await anext(got.body)
        before = -1
        while before != sent:  # until the server cannot send any more
            before = sent
            for _ in range(200):
                await asyncio.sleep(0)
        assert sent < 40
        size = 0
        async for piece in got.body:
            size += len(piece)
        assert sent == 64
        assert size > 60 << 20


async def test_a_refused_stream_is_an_ordinary_answer():
    async with serving(whole(b"no", line=b"HTTP/1.1 403 Forbidden\r\n"), whole(b"next")) as (
        script,
        transport,
    ):
        got = await get(transport, stream=True)
        assert (got.status, got.body) == (403, b"no")
        await get(transport)
        assert script.used == [1, 1]


async def test_paths_and_queries_are_escaped_and_headers_cannot_be_split():
    async with serving(whole(b"")) as (script, transport):
        query = [("fieldSelector", "a=b,c!=d"), ("command", "x y"), ("command", "ü&")]
        await get(transport, "/a b/%41/ü?#", query=query)
        line = script.requests[0][1].split(b"\r\n")[0]
        assert line == (
            b"GET /a%20b/%41/%C3%BC%3F%23?fieldSelector=a%3Db%2Cc%21%3Dd&command=x+y&command=%C3%BC%26 HTTP/1.1"
        )
        with pytest.raises(ValueError, match="header"):
            await get(transport, headers={"x": "1\r\nevil: 2"})
        assert len(script.requests) == 1
