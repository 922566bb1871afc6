"""wasi:http components: a Python one, built by componentize-py unmodified, over real sockets.

Its native code is kept in the cache between runs: compiling 18 MB takes longer than all the tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import time
from pathlib import Path

import pytest
import yaml
from wasm_lab import EXAMPLE, Lab, Mount, artifact, componentized, log_lines, logged
from wasm_service import Service, parse, unchunked

from sampan.runtime.sandbox import CannotStart
from sampan.runtime.wasm import capi, wire
from sampan.runtime.wasm.aot import Cache
from sampan.runtime.wasm.component.command import Setting
from sampan.runtime.wasm.component.exchange import Exchange, RequestBody
from sampan.runtime.wasm.component.names import Names
from sampan.runtime.wasm.component.proxy import ProxyProgram
from sampan.runtime.wasm.engine import NEVER, Engine, Limits, Trap

pytestmark = pytest.mark.timeout(600)  # the first run on a machine builds and compiles for minutes
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a network namespace")


async def serve(
    lab: Lab, module: Path, annotations: dict[str, str] | None = None, **changes: object
) -> Service:
    sandbox = await lab.pod(annotations=annotations or {})
    process = await sandbox.start(lab.container("app", **changes), artifact(module))
    return Service(sandbox.spec.network.addresses[0], process)


@pytest.fixture
async def service(http_lab: Lab, app: Path) -> Service:
    return await serve(
        http_lab,
        app,
        {"sampan.dev/http-timeout": "1500ms", "sampan.dev/http-max-body": "1Mi"},
        env={"GREETING": "hi", "ODD": "\udcff"},
    )


async def fetch(service: Service, target: str, method: str = "GET", body: bytes = b"") -> tuple:
    status, headers, answer = await service.get(target, method, body)
    if headers.get("transfer-encoding") == "chunked":
        answer, _ = unchunked(answer)
    return status, headers, answer


async def test_answers_and_is_fresh_each_time(service: Service) -> None:
    status, headers, body = await fetch(service, "/")
    assert (status, body) == (200, b"hello\n")
    assert headers["content-type"] == "text/plain"
    assert headers["date"].endswith(" GMT")
    for _ in range(3):
        assert (await fetch(service, "/fresh"))[2] == b"1\n", "nothing of the last request is left"


async def test_what_the_request_says(service: Service) -> None:
    raw = (
        b"PATCH /headers?a=%20b HTTP/1.1\r\nHost: pod:8080\r\nX-Two: 2\r\nX-Two: 3\r\n"
        b"Connection: close\r\nContent-Length: 0\r\n\r\n"
    )
    answer = await service.raw(raw)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 201 ")
    assert head.count(b"\r\nx-one: ") == 2
    assert unchunked(body)[0].decode().splitlines() == [
        "Method_Patch pod:8080 a=%20b", "host: pod:8080", "x-two: 2", "x-two: 3",
    ]  # fmt: skip


async def test_one_connection_serves_many(service: Service) -> None:
    reader, writer = await asyncio.open_connection(service.address, 8080)
    one = b"GET /sized HTTP/1.1\r\nHost: t\r\n\r\n"
    writer.write(one * 3)
    for _ in range(3):
        assert b"content-length: 6\r\n" in await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(6) == b"sized\n"
    writer.close()


async def test_bodies_stream_both_ways(service: Service) -> None:
    """The answer to a piece is here before the next piece is sent: nobody waits for the whole."""
    reader, writer = await asyncio.open_connection(service.address, 8080)
    writer.write(b"POST /echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n")
    async with asyncio.timeout(20):
        for piece in (b"one", b"two", b"three"):
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await reader.readuntil(piece + b"\r\n")
        writer.write(b"0\r\nX-Sum: 11\r\nX-More: yes\r\n\r\n")
        assert await reader.readuntil(b"0\r\nx-sum: 11\r\nx-more: yes\r\n\r\n")
        writer.write(b"GET /sized HTTP/1.1\r\nHost: t\r\n\r\n")
        assert await reader.readuntil(b"sized\n"), "the connection goes on"
    writer.close()


async def test_large_bodies_are_whole(service: Service) -> None:
    body = os.urandom(900_000)
    status, _, answer = await fetch(service, "/echo", "POST", body)
    assert (status, answer == body) == (200, True)


async def test_a_host_function_with_two_borrows(service: Service) -> None:
    """wasmtime 50.0.1 traps on the second, unless `concurrency_support` is off (engine.py)."""
    status, _, answer = await fetch(service, "/splice", "POST", b"spliced" * 20_000)
    assert (status, answer) == (200, b"spliced" * 20_000)


async def test_a_slow_reader_holds_up_nobody(service: Service) -> None:
    reader, writer = await asyncio.open_connection(service.address, 8080, limit=1 << 16)
    writer.write(b"GET /big?3000000 HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    assert (await fetch(service, "/"))[0] == 200
    async with asyncio.timeout(20):
        assert unchunked(await reader.read())[0] == b"x" * 3_000_000
    writer.close()


async def test_older_clients_and_head(service: Service) -> None:
    answer = await service.raw(b"GET /drip?0 HTTP/1.0\r\n\r\n")
    assert b"transfer-encoding" not in answer
    assert answer.endswith(b"\r\n\r\n0\n1\n2\n")
    status, _, body = await service.get("/", "HEAD")
    assert (status, body) == (200, b"")
    status, headers, body = await service.get("/empty")
    assert (status, headers["content-length"], body) == (200, "0", b"")


async def test_expect_continue(service: Service) -> None:
    reader, writer = await asyncio.open_connection(service.address, 8080)
    writer.write(
        b"POST /echo HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    )
    async with asyncio.timeout(20):
        await reader.readuntil(b"HTTP/1.1 100 Continue\r\n\r\n")
        writer.write(b"hi")
        assert await reader.readuntil(b"2\r\nhi\r\n0\r\n\r\n")
    writer.close()


@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_a_body_too_large_is_413(service: Service, framing: str) -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: t\r\nConnection: close\r\n"
    if framing == "length":
        answer = await service.raw(head + b"Content-Length: 1048577\r\n\r\n")
        assert parse(answer)[0] == 413
    else:
        answer = await service.raw(
            head + b"Transfer-Encoding: chunked\r\n\r\n", b"110000\r\n" + b"x" * 65536
        )
        assert not answer.endswith(b"0\r\n\r\n"), "what had begun is broken off"
    assert (await fetch(service, "/"))[0] == 200


@pytest.mark.parametrize("target", ["/spin", "/sleep?60"])
async def test_time_out_is_504_and_others_go_on(service: Service, target: str) -> None:
    slow = asyncio.create_task(service.get(target))
    async with asyncio.timeout(30):
        for _ in range(5):
            assert (await fetch(service, "/"))[0] == 200
        status, headers, _ = await slow
    assert (status, headers["connection"]) == (504, "close")
    await logged(service.process, "no answer within 1.5 s")


async def test_failures_are_told(service: Service) -> None:
    assert (await service.get("/trap"))[0] == 500
    await logged(service.process, "a bug in the handler")
    await logged(service.process, "wasm backtrace")
    assert (await service.get("/nothing"))[0] == 500
    await logged(service.process, "GET /nothing: the module gave no answer")
    half = await service.raw(b"GET /half HTTP/1.1\r\nHost: t\r\n\r\n")
    assert half.endswith(b"half of it\r\n"), "no last chunk: the client sees that it is not whole"
    assert (await fetch(service, "/"))[0] == 200


STRANGER = """
(component
  (import "wasi:http/types@0.2.0" (instance $types
    (export "incoming-request" (type (sub resource)))
    (export "response-outparam" (type (sub resource)))))
  (alias export $types "incoming-request" (type $request))
  (alias export $types "response-outparam" (type $out))
  (import "INTERFACE" (instance $strange (export "conjure" (func))))
  (core func $conjure (canon lower (func $strange "conjure")))
  (core module $code
    (import "host" "conjure" (func $conjure))
    (func (export "handle") (param i32 i32) (call $conjure)))
  (core instance $made (instantiate $code
    (with "host" (instance (export "conjure" (func $conjure))))))
  (func $handle (param "request" (own $request)) (param "response-out" (own $out))
    (canon lift (core func $made "handle")))
  (instance $handler (export "handle" (func $handle)))
  (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))
"""


@pytest.mark.parametrize("interface", ["example:own/magic@1.0.0", "wasi:cli/exit@0.2.7"])
async def test_a_function_that_is_not_provided_traps(
    http_lab: Lab, tmp_path: Path, interface: str
) -> None:
    """Of an interface that is not here, and of one that is. It starts all the same."""
    from wasmtime import wat2wasm

    module = tmp_path / "stranger.wasm"
    module.write_bytes(wat2wasm(STRANGER.replace("INTERFACE", interface)))
    service = await serve(http_lab, module)
    assert (await service.get("/"))[0] == 500
    await logged(service.process, "conjure")
    assert (await service.get("/"))[0] == 500, "and serves on"


async def test_environment_and_log(service: Service) -> None:
    env = dict(
        line.split("=", 1) for line in (await fetch(service, "/env"))[2].decode().splitlines()
    )
    assert env["GREETING"] == "hi"
    assert env["ODD"] == "\N{REPLACEMENT CHARACTER}"
    assert (await fetch(service, "/say"))[2] == b"said\n"
    await logged(service.process, "to stderr")
    assert {("stderr", "F", "to stdout"), ("stderr", "F", "to stderr")} <= set(
        log_lines(service.process)
    )


async def test_files(http_lab: Lab, app: Path, tmp_path: Path) -> None:
    for name in ("ro", "rw"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o777)
    (tmp_path / "ro" / "file").write_text("from a volume\n")
    (tmp_path / "ro" / "out").symlink_to("/etc/passwd")
    (tmp_path / "ro" / "up").symlink_to("../secret")
    (tmp_path / "secret").write_text("secret\n")
    mounts = (Mount(tmp_path / "ro", "/ro", readonly=True), Mount(tmp_path / "rw", "/rw"))
    service = await serve(http_lab, app, mounts=mounts)
    assert (await fetch(service, "/read?/ro/file"))[2] == b"from a volume\n"
    for escape in ("/ro/../../etc/passwd", "/ro/out", "/ro/up", "/etc/passwd", "/rw/../secret"):
        assert (await fetch(service, f"/read?{escape}"))[0] == 404, escape
    status, _, why = await fetch(service, "/write?/ro/new")
    assert status == 403, why
    assert (await fetch(service, "/write?/rw/new"))[2] == b"8 ['new']"
    assert (tmp_path / "rw" / "new").read_text() == "written\n"
    _, _, said = await fetch(service, "/files?/rw")
    assert said == b"01ab4567 b ['b', 'h', 'l'] 2 2 True"


async def test_503_when_full(http_lab: Lab, app: Path) -> None:
    service = await serve(http_lab, app, {"sampan.dev/http-concurrency": "2"})
    slow = [asyncio.create_task(service.get("/sleep?2")) for _ in range(2)]
    async with asyncio.timeout(20):
        while (answer := await service.get("/"))[0] != 503:
            assert answer[0] == 200
            assert not all(task.done() for task in slow), "it was never full"
        assert answer[1]["retry-after"] == "1"
        assert b"2 requests are being served" in answer[2]
        assert [(await task)[0] for task in slow] == [200, 200]
    assert (await fetch(service, "/"))[0] == 200


async def test_memory_of_an_instance(http_lab: Lab, app: Path) -> None:
    service = await serve(http_lab, app, {"sampan.dev/wasm-memory": "64Mi"})
    assert (await fetch(service, "/memory?1000000"))[2] == b"1000000\n"
    assert (await fetch(service, "/memory?60000000"))[2] == b"MemoryError\n"


async def test_instances_are_counted(http_lab: Lab, app: Path) -> None:
    service = await serve(http_lab, app, {"sampan.dev/wasm-instances": "3"})
    assert (await service.get("/"))[0] == 500
    await logged(service.process, "resource limit exceeded: instance count too high")


async def test_sigterm_finishes_what_is_under_way(service: Service) -> None:
    slow = asyncio.create_task(service.get("/sleep?1"))
    async with asyncio.timeout(20):
        while (await fetch(service, "/"))[0] != 200:
            pass
        await service.process.signal(signal.SIGTERM)
        assert (await slow)[0] == 200
        ended = await service.process.wait()
    assert (ended.code, ended.reason) == (0, "Completed")


async def test_how_it_is_served(http_lab: Lab, app: Path, web: Path, component: Path) -> None:
    for module, how, why in (
        (app, "wagi", "is no CGI program"),
        (web, "wasi", "does not export wasi:http/incoming-handler"),
        (component, "wasi", "does not export wasi:http/incoming-handler"),
    ):
        sandbox = await http_lab.pod(annotations={"sampan.dev/http": how})
        with pytest.raises(CannotStart, match=why):
            await sandbox.start(http_lab.container("app"), artifact(module))
    for name, value in (
        ("http-concurrency", "0"),
        ("http-concurrency", "1000"),
        ("wasm-memory", "lots"),
        ("wasm-tables", "-1"),
    ):
        sandbox = await http_lab.pod(annotations={f"sampan.dev/{name}": value})
        with pytest.raises(CannotStart, match=f"sampan.dev/{name}"):
            await sandbox.start(http_lab.container("app"), artifact(app))


async def test_no_calls_out_of_the_hosts_network(service: Service) -> None:
    status, _, body = await fetch(service, f"/call?{service.address}:8080/")
    assert (status, body) == (502, b"ErrorCode_HttpRequestDenied\n")


async def test_javascript(http_lab: Lab, js: Path) -> None:
    service = await serve(http_lab, js, {"sampan.dev/http-timeout": "2s"})
    assert (await fetch(service, "/"))[2] == b"hello\n"
    body = os.urandom(300_000)
    status, headers, answer = await fetch(service, "/echo", "POST", body)
    assert (status, headers["x-method"], answer == body) == (202, "POST", True)
    assert (await fetch(service, "/text", "POST", b"loud"))[2] == b"LOUD"
    assert (await fetch(service, "/drip"))[2] == b"0\n1\n2\n"
    assert (await fetch(service, "/nowhere"))[0] == 404
    assert (await fetch(service, "/throw"))[0] == 500
    await logged(service.process, "a bug in the handler")
    assert (await fetch(service, "/spin"))[0] == 504


async def test_the_example(http_lab: Lab) -> None:
    """What its page says to build, under what its manifest says."""
    [pod, _] = yaml.safe_load_all((EXAMPLE / "greeter.yaml").read_text())
    module = componentized("python", EXAMPLE)
    service = await serve(http_lab, module, pod["metadata"]["annotations"])
    assert (await fetch(service, "/x", "POST", b"1234"))[
        2
    ] == b"hello from a component: /x, 4 bytes\n"


async def test_a_runaway_neighbour_costs_its_share_only(
    http_lab: Lab, app: Path, web: Path
) -> None:
    """Guests that spin in one pod, and in the same pod, leave others answered."""
    other = await http_lab.pod()
    await other.start(
        http_lab.container("web.wasm"), artifact(web, labels={"sampan.dev/http": "wagi"})
    )
    quiet = Service(other.spec.network.addresses[0], None)
    loud = await serve(http_lab, app, {"sampan.dev/http-timeout": "3s"})
    spinning = [asyncio.create_task(loud.get("/spin")) for _ in range(4)]
    answered = 0
    while not any(task.done() for task in spinning):
        assert (await quiet.get("/"))[0] == 200
        answered += 1
    assert answered > 20, "while four guests spin on two cores"
    assert [(await task)[0] for task in spinning] == [504] * 4


async def test_an_instance_leaves_nothing_behind(app: Path, native: Path) -> None:
    """Workers collect no garbage: whatever a request made must go by itself, also when it fails."""
    compiled = await Cache(native).get(app)
    engine = Engine(capi.library_path())
    program = ProxyProgram(engine, engine.map_component(str(compiled.path)))
    program.world.setting = Setting(["app"], [], [], 2, 2, Names("", ""))
    closed = socket.socket()  # bound and not listening: a connection is refused
    closed.bind(("127.0.0.1", 0))
    port = closed.getsockname()[1]

    def once(target: str) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.setblocking(False)
            request = wire.parse_head(f"GET {target} HTTP/1.1\r\nHost: t\r\n\r\n".encode())
            body = RequestBody(theirs, bytearray(), request, 1000)
            exchange = Exchange(theirs, request, body, b"now")
            with contextlib.suppress(Trap):
                program.handle(
                    exchange, limits=Limits(), ticks=NEVER, deadline=time.monotonic() + 30
                )
            exchange.settle()

    try:
        for target in (
            "/",
            "/echo",
            "/trap",
            "/half",
            "/nothing",
            "/read?/x",
            f"/call?127.0.0.1:{port}/",
        ):
            once(target)  # what is made once and kept is made now
            gc.collect()
            gc.disable()
            once(target)
            assert gc.collect() == 0, target
            assert not program.world.guests
    finally:
        gc.enable()
        closed.close()
