"""API server figures beside the budgets of docs/architecture.md: GET, create, list over TLS, and memory.

    python bench/apiserver.py [--objects 30000] [--seconds 5]

Starts its own server on a free port. Load comes from wrk when it is installed, else from an asyncio client here (which
then takes most of the processor itself, so its figures are lower bounds). Nothing is asserted.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONNECTIONS = 16
WRITERS = 64

MAP = '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"%s"},"data":{"key":"%s"}}'
PRELUDE = """\
local n = 0
local counter = 0
function setup(thread) counter = counter + 1; thread:set("id", counter) end
"""
CREATE = (
    PRELUDE
    + """\
function request()
  n = n + 1
  local body = string.format('{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{run}-%d-%d"}},"data":{{"key":"{value}"}}}}', id, n)
  return wrk.format("POST", "/api/v1/namespaces/default/configmaps", {{["Content-Type"]="application/json", ["Authorization"]="Bearer {token}"}}, body)
end
""".replace("local n", "local n")
)
GET = """\
wrk.headers["Authorization"] = "Bearer {token}"
"""


def start(data: Path) -> tuple[subprocess.Popen[str], str, float]:
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "sampan.apiserver", "--data-dir", str(data), "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(
                filter(None, (str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH")))
            ),
        },
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    took = time.perf_counter() - began
    if not line:
        raise SystemExit("the server did not start")
    return process, line.split()[0], took


def memory(pid: int) -> float:
    """PSS in MB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)[1]) / 1024  # type: ignore[index]


def processor(pid: int) -> float:
    """Seconds of processor time that the process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def report(name: str, rate: float | None, spent: float, seconds: float, budget: int) -> None:
    """On a busy machine the time per request tells more than the rate."""
    cost = spent / (rate * seconds) * 1e6 if rate else 0.0
    print(
        f"{name:28}{rate or 0:8.0f} /s    budget {budget:6} /s    {cost:6.0f} µs of processor each"
    )


class Client:
    """A minimal HTTPS client: one connection with the admin's certificate, one request at a time."""

    def __init__(self, address: str, data: Path) -> None:
        self.host, _, port = address.removeprefix("https://").rpartition(":")
        self.port = int(port)
        self.context = ssl.create_default_context(cafile=str(data / "pki/ca.crt"))
        self.context.load_cert_chain(data / "pki/admin.crt", data / "pki/admin.key")

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self.host, self.port, ssl=self.context, limit=1 << 24)

    @staticmethod
    async def ask(
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        method: str,
        path: str,
        body: bytes = b"",
    ) -> tuple[int, bytes]:
        reader, writer = streams
        head = f"{method} {path} HTTP/1.1\r\nHost: bench\r\n"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        writer.write(head.encode() + b"\r\n" + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"(?i)content-length: (\d+)", answer)[1])  # type: ignore[index]
        return int(answer[9:12]), await reader.readexactly(length)


async def flood(
    client: Client,
    method: str,
    path: str,
    connections: int,
    seconds: float,
    make: object = None,
    total: int = 0,
) -> float:
    """Requests per second over `connections`."""
    done = 0
    stop = time.perf_counter() + seconds

    async def one(index: int) -> None:
        nonlocal done
        streams = await client.open()
        number = 0
        while time.perf_counter() < stop and (not total or done < total):
            body = make(index, number) if callable(make) else b""
            status, answer = await client.ask(streams, method, path, body)
            if status >= 300:
                raise SystemExit(f"{method} {path}: {status} {answer[:200]!r}")
            number += 1
            done += 1
        streams[1].close()

    began = time.perf_counter()
    await asyncio.gather(*(one(index) for index in range(connections)))
    return done / (time.perf_counter() - began)


def wrk(address: str, path: str, connections: int, seconds: float, script: Path) -> float | None:
    """Requests per second, None when there were errors."""
    result = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "-s", str(script), address + path],
        capture_output=True,
        text=True,
        check=True,
    )
    if "Non-2xx" in result.stdout:
        print(result.stdout, file=sys.stderr)
        return None
    return float(re.search(r"Requests/sec:\s+([\d.]+)", result.stdout)[1])  # type: ignore[index]


def config_map(prefix: str, size: int) -> object:
    value = "x" * size

    def make(index: int, number: int) -> bytes:
        return (MAP % (f"{prefix}-{index}-{number}", value)).encode()

    return make


async def measure(
    arguments: argparse.Namespace, address: str, data: Path, pid: int, scratch: Path
) -> None:
    client = Client(address, data)
    streams = await client.open()

    async def post(path: str, text: str) -> bytes:
        status, answer = await client.ask(streams, "POST", path, text.encode())
        if status >= 300 and status != 409:
            raise SystemExit(f"POST {path}: {status} {answer!r}")
        return answer

    # wrk shows no client certificate: it speaks as a service account that may do everything.
    await post(
        "/api/v1/namespaces/default/serviceaccounts",
        '{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"bench"}}',
    )
    await post(
        "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
        '{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRoleBinding","metadata":{"name":"bench"},"roleRef":'
        '{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"cluster-admin"},"subjects":'
        '[{"kind":"ServiceAccount","name":"bench","namespace":"default"}]}',
    )
    answer = await post(
        "/api/v1/namespaces/default/serviceaccounts/bench/token",
        '{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{}}',
    )
    token = re.search(rb'"token":"([^"]+)"', answer)[1].decode()  # type: ignore[index]
    await post(
        "/api/v1/namespaces/default/configmaps",
        '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"one"},"data":{"a":"b"}}',
    )
    await post(
        "/api/v1/namespaces", '{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"list"}}'
    )
    for index in range(500):
        await post(
            "/api/v1/namespaces/list/configmaps",
            MAP % (f"c{index}", "x" * 100),
        )
    print(f"memory with 500 objects       {memory(pid):10.1f} MB PSS")
    script = scratch / "wrk.lua"
    has_wrk = shutil.which("wrk") is not None
    one, listing = "/api/v1/namespaces/default/configmaps/one", "/api/v1/namespaces/list/configmaps"
    maps = "/api/v1/namespaces/default/configmaps"
    print(
        f"load from {'wrk' if has_wrk else 'asyncio clients'}, {CONNECTIONS} connections, {WRITERS} for writes, TLS"
    )
    for name, path, budget in (
        ("GET one ConfigMap", one, 10000),
        ("LIST 500 ConfigMaps", listing, 450),
    ):
        before = processor(pid)
        if has_wrk:
            script.write_text(GET.format(token=token))
            rate = await asyncio.to_thread(
                wrk, address, path, CONNECTIONS, arguments.seconds, script
            )
        else:
            rate = await flood(client, "GET", path, CONNECTIONS, arguments.seconds)
        report(name, rate, processor(pid) - before, arguments.seconds, budget)
    before = processor(pid)
    if has_wrk:
        script.write_text(CREATE.format(run="w", value="x" * 100, token=token))
        rate = await asyncio.to_thread(wrk, address, maps, WRITERS, arguments.seconds, script)
    else:
        rate = await flood(client, "POST", maps, WRITERS, arguments.seconds, config_map("w", 100))
    report("create ConfigMap, durable", rate, processor(pid) - before, arguments.seconds, 4200)
    if arguments.objects:
        rate = await flood(
            client, "POST", maps, WRITERS, 120.0, config_map("m", 100), arguments.objects
        )
        print(
            f"memory after {arguments.objects} more creates {memory(pid):7.1f} MB PSS    budget 200 MB"
        )
    streams[1].close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--objects", type=int, default=30000)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sampan-bench-") as scratch:
        data = Path(scratch) / "data"
        process, address, first = start(data)
        process.send_signal(signal.SIGTERM)
        process.wait()
        process, address, again = start(data)
        print(
            f"start, empty data directory   {first * 1000:10.0f} ms    start again {again * 1000:.0f} ms, budget 700 ms"
        )
        print(f"memory, idle                  {memory(process.pid):10.1f} MB PSS")
        try:
            asyncio.run(measure(arguments, address, data, process.pid, Path(scratch)))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(10)


if __name__ == "__main__":
    main()
