"""WAGI services: HTTP/1.1 in front, CGI behind, over real sockets."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from wasm_lab import Lab, artifact, log_lines, logged
from wasm_service import Service, parse

from sampan.image import UnpackedImage
from sampan.runtime.sandbox import CannotStart, Mount


def wagi(module: Path) -> UnpackedImage:
    return artifact(module, labels={"sampan.dev/http": "wagi"})


async def serve(
    lab: Lab, module: Path, annotations: dict[str, str] | None = None, **changes: Any
) -> Service:
    sandbox = await lab.pod(annotations=annotations or {})
    process = await sandbox.start(lab.container("web.wasm", **changes), wagi(module))
    return Service(sandbox.spec.network.addresses[0], process)


@pytest.fixture
async def service(lab: Lab, web: Path) -> AsyncIterator[Service]:
    yield await serve(
        lab,
        web,
        {"sampan.dev/http-timeout": "400ms", "sampan.dev/http-max-body": "64Ki"},
        env={"GREETING": "hi"},
    )


async def test_answers_when_start_returns(service: Service) -> None:
    status, headers, body = await service.get("/")
    assert (status, body) == (200, b"hello\n")
    assert headers["content-type"] == "text/plain"
    assert headers["content-length"] == "6"
    assert headers["date"].endswith(" GMT")


async def test_environment_is_cgi(service: Service) -> None:
    _, _, body = await service.get(
        "/env/../env?a=1&b=%20", X_Name="v", Proxy="http://evil", Content_Type="text/x"
    )
    assert body == b"hello\n", "the path is given as it was sent"
    _, _, body = await service.get(
        "/%65nv?a=1&b=%20", X_Name="v", Proxy="http://evil", Content_Type="text/x"
    )
    env = dict(line.split("=", 1) for line in body.decode().splitlines())
    expected = {
        "GATEWAY_INTERFACE": "CGI/1.1",
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/env",
        "SCRIPT_NAME": "",
        "QUERY_STRING": "a=1&b=%20",
        "SERVER_NAME": "test",
        "SERVER_PORT": "8080",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": env["REMOTE_ADDR"],
        "HTTP_X_NAME": "v",
        "HTTP_HOST": "test:8080",
        "CONTENT_TYPE": "text/x",
        "GREETING": "hi",
    }
    assert expected.items() <= env.items()
    assert env["REMOTE_ADDR"].startswith("127.")
    assert "HTTP_PROXY" not in env
    assert "CONTENT_LENGTH" not in env


async def test_text_that_is_none_costs_no_variable(service: Service) -> None:
    """WASI's environment is UTF-8; what comes after a bad value is there all the same."""
    request = b"GET /env?q HTTP/1.1\r\nHost: test\r\nX-Bad: \xff\r\nX-Good: 1\r\nConnection: close\r\n\r\n"
    _, _, body = parse(await service.raw(request))
    lines = body.decode().splitlines()
    assert {"HTTP_X_BAD=\ufffd", "HTTP_X_GOOD=1", "QUERY_STRING=q", "GREETING=hi"} <= set(lines)
    assert len(lines) == len({line.partition("=")[0] for line in lines})


async def test_a_request_wins_over_the_containers_environment(lab: Lab, web: Path) -> None:
    given = {"HTTP_X_NAME": "container", "SERVER_PORT": "1", "PATH_INFO": "/x", "HTTP_PROXY": "p"}
    service = await serve(lab, web, env=given)
    for sent, expected in (({}, "container"), ({"X_Name": "request"}, "request")):
        _, _, body = await service.get("/env", **sent)
        lines = body.decode().splitlines()
        env = dict(line.split("=", 1) for line in lines)
        assert len(lines) == len(env), "no variable is there twice"
        assert (env["HTTP_X_NAME"], env["SERVER_PORT"]) == (expected, "8080")
        assert (env["PATH_INFO"], env["HTTP_PROXY"]) == ("/env", "p")


@pytest.mark.parametrize("size", [1, 5000, 65536])
async def test_body_goes_through(service: Service, size: int) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    status, _, echoed = await service.get("/echo", "POST", body)
    assert status == 200
    assert echoed == body


async def test_chunked_body(service: Service) -> None:
    head = (
        b"POST /echo HTTP/1.1\r\nHost: t\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    status, _, body = parse(
        await service.raw(head, b"4\r\nwasm\r\n", b"6;x=y\r\n rocks\r\n0\r\nTrailer: 1\r\n\r\n")
    )
    assert (status, body) == (200, b"wasm rocks")


async def test_expect_continue(service: Service) -> None:
    reader, writer = await asyncio.open_connection(service.address, 8080)
    writer.write(
        b"POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    )
    async with asyncio.timeout(10):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"ok")
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(2) == b"ok"
    writer.close()


async def test_keep_alive_and_pipelining(service: Service) -> None:
    request = b"GET /%s HTTP/1.1\r\nHost: t\r\n\r\n"
    last = b"GET /status?201%20x HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"
    answer = await service.raw(
        (request % b"") * 20
        + b"POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\nabc"
        + last
    )
    assert answer.count(b"HTTP/1.1 200 OK") == 21
    assert answer.count(b"hello\n") == 20
    assert answer.index(b"abc") < answer.index(b"HTTP/1.1 500")


@pytest.mark.parametrize(
    ("target", "status", "header", "body"),
    [
        ("/status?404 Not Found", 404, ("x-made-by", "guest"), b""),
        ("/status?204", 204, ("x-made-by", "guest"), b""),
        ("/redirect", 302, ("location", "/elsewhere"), b""),
        ("/big?300000", 200, ("content-length", "300000"), b"b" * 300000),
    ],
)
async def test_cgi_answers(
    service: Service, target: str, status: int, header: tuple[str, str], body: bytes
) -> None:
    got, headers, content = await service.get(target.replace(" ", "+") if status == 404 else target)
    if status == 404:
        assert got == 500  # "404+Not" is no status; the next request says it right
        got, headers, content = await service.get("/status?404")
    assert got == status
    assert headers[header[0]] == header[1]
    assert content == body


async def test_head_has_no_body(service: Service) -> None:
    status, headers, body = await service.get("/big?1000", "HEAD")
    assert (status, headers["content-length"], body) == (200, "1000", b"")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\nx", 400),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 65537\r\n\r\n" + b"x" * 65537, 413),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n20000\r\n", 413),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 40000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n", 417),
    ],
)
async def test_malformed_requests(service: Service, request_bytes: bytes, status: int) -> None:
    got, headers, body = parse(await service.raw(request_bytes))
    assert got == status, body
    assert headers["connection"] == "close"
    assert body.strip(), "it says what is wrong"


async def test_trap_is_500_and_a_log_line(service: Service) -> None:
    status, _, body = await service.get("/trap")
    assert (status, body) == (500, b"the module failed\n")
    await logged(service.process, "GET /trap")
    assert "unreachable" in "".join(text for _, _, text in log_lines(service.process))
    assert (await service.get("/"))[0] == 200


async def test_no_header_is_500(service: Service) -> None:
    assert (await service.get("/headless"))[0] == 500
    await logged(service.process, "no empty line")


async def test_stderr_goes_to_the_log(service: Service) -> None:
    assert (await service.get("/stderr"))[0] == 200
    await logged(service.process, "a complaint")
    assert ("stderr", "F", "a complaint") in log_lines(service.process)


@pytest.mark.parametrize("target", ["/spin", "/sleep?3000"])
async def test_time_out_is_504_and_others_go_on(service: Service, target: str) -> None:
    slow = asyncio.create_task(service.get(target))
    async with asyncio.timeout(10):
        for _ in range(20):
            assert (await service.get("/"))[0] == 200
        status, headers, _ = await slow
    assert status == 504
    assert headers["connection"] == "close"
    await logged(service.process, "no answer within 0.4 s")
    assert (await service.get("/"))[0] == 200


async def test_slow_requests_run_side_by_side(service: Service) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    answers = await asyncio.gather(*(service.get("/sleep?200") for _ in range(10)))
    assert [status for status, _, _ in answers] == [200] * 10
    assert loop.time() - began < 10 * 0.2, "one after the other would take two seconds"


async def test_answer_larger_than_the_socket_buffer(service: Service) -> None:
    reader, writer = await asyncio.open_connection(service.address, 8080, limit=1 << 16)
    writer.write(b"GET /big?5000000 HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
    assert (await service.get("/"))[0] == 200, "a reader that is slow does not hold up others"
    async with asyncio.timeout(20):
        status, _, body = parse(await reader.read())
    assert (status, len(body)) == (200, 5_000_000)
    writer.close()


async def test_sigterm_finishes_what_is_under_way(service: Service) -> None:
    slow = asyncio.create_task(service.get("/sleep?300"))
    idle_reader, idle_writer = await asyncio.open_connection(service.address, 8080)
    idle_writer.write(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
    assert b"200" in await idle_reader.readuntil(b"hello\n")
    await service.process.signal(signal.SIGTERM)
    async with asyncio.timeout(10):
        assert await idle_reader.read() == b"", "an idle connection is closed"
        assert (await slow)[0] == 200
        ended = await service.process.wait()
    assert (ended.code, ended.reason) == (0, "Completed")
    idle_writer.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(service.address, 8080)


async def test_port_and_address_in_use(lab: Lab, web: Path) -> None:
    sandbox = await lab.pod(annotations={"sampan.dev/http-port": "9091"})
    process = await sandbox.start(lab.container("web.wasm"), wagi(web))
    reader, writer = await sandbox.port(9091)
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    assert (await reader.read()).endswith(b"hello\n")
    writer.close()
    with pytest.raises(CannotStart, match="port 9091: Address already in use"):
        await sandbox.start(lab.container("web.wasm"), wagi(web))
    assert process.running


async def test_annotations_win_and_bad_ones_are_named(lab: Lab, web: Path) -> None:
    plain = await lab.pod(annotations={"sampan.dev/http": "none"})
    process = await plain.start(lab.container("web.wasm", env={"PATH_INFO": "/x"}), wagi(web))
    assert (await process.wait()).code == 0, "run once, as a command"
    for name, value in (
        ("http", "fcgi"),
        ("http-port", "x"),
        ("http-timeout", "soon"),
        ("http-max-body", "1Q"),
    ):
        sandbox = await lab.pod(
            annotations={"sampan.dev/http": "wagi", f"sampan.dev/{name}": value}
        )
        with pytest.raises(CannotStart, match=f"sampan.dev/{name}"):
            await sandbox.start(lab.container("web.wasm"), wagi(web))


async def test_a_service_reads_its_volumes(lab: Lab, web: Path, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    volume.chmod(0o755)
    (volume / "file").write_text("from a volume\n")
    service = await serve(lab, web, mounts=(Mount(volume, "/v", readonly=True),))
    assert (await service.get("/file?/v/file"))[2] == b"from a volume\n"
    assert (await service.get("/file?/0"))[2] == b"unreadable\n", "the scratch file is out of reach"
    (volume / "file").write_text("updated\n")
    assert (await service.get("/file?/v/file"))[2] == b"updated\n"
