"""Load for the API server: the server as a process of its own, wrk when it is installed, and a minimal HTTPS client of ours.

wrk shows no client certificate, so it speaks with the token of a service account that may do everything. The client here
takes most of a processor itself: rates measured with it are lower bounds.
"""

from __future__ import annotations

import asyncio
import os
import re
import resource
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import orjson

ROOT = Path(__file__).resolve().parents[1]
HAS_WRK = shutil.which("wrk") is not None
JSON = "application/json"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Maker = Callable[[int, int], bytes]  # worker, number -> body


class Server:
    """`python -m sampan.apiserver` on a free port; `ready` is seconds from exec to serving."""

    def __init__(self, data: Path) -> None:
        raise_descriptor_limit()
        began = time.perf_counter()
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sampan.apiserver", "--data-dir", str(data), "--port", "0"],
            stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path},
        )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.ready = time.perf_counter() - began
        if not line:
            raise SystemExit("the API server did not start")
        self.data = data
        self.pid = self.process.pid
        self.address = line.split()[0]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def raise_descriptor_limit() -> None:
    """As far as it goes: a thousand watchers are a thousand descriptors on both sides."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Reached(Protocol):
    """A server that is up: its https URL, and the data directory that has its authority and its admin's certificate."""

    @property
    def address(self) -> str: ...
    @property
    def data(self) -> Path: ...


class Client:
    """Connections with the admin's certificate, one request at a time on each."""

    def __init__(self, server: Reached) -> None:
        self.host, _, port = server.address.removeprefix("https://").rpartition(":")
        self.port = int(port)
        self.context = ssl.create_default_context(cafile=str(server.data / "pki/ca.crt"))
        self.context.load_cert_chain(server.data / "pki/admin.crt", server.data / "pki/admin.key")

    async def open(self) -> Streams:
        return await asyncio.open_connection(self.host, self.port, ssl=self.context, limit=1 << 24)

    async def post(self, streams: Streams, path: str, obj: object) -> bytes:
        """Raises SystemExit when the server refuses; that it exists already is fine."""
        status, answer = await ask(streams, "POST", path, orjson.dumps(obj))
        if status >= 300 and status != 409:
            raise SystemExit(f"POST {path}: {status} {answer[:500]!r}")
        return answer

    async def flood(
        self, path: str, connections: int, seconds: float, make: Maker | None = None, total: int = 0
    ) -> float:
        """Requests a second: GET, or POST of what `make` makes; ends at `total`, when given, or after `seconds`."""
        done = 0
        stop = time.perf_counter() + seconds

        async def one(worker: int) -> None:
            nonlocal done
            streams = await self.open()
            number = 0
            while time.perf_counter() < stop and (not total or done < total):
                body = make(worker, number) if make else b""
                status, answer = await ask(streams, "POST" if make else "GET", path, body)
                if status >= 300:
                    raise SystemExit(f"{path}: {status} {answer[:500]!r}")
                number += 1
                done += 1
            streams[1].close()

        began = time.perf_counter()
        await asyncio.gather(*(one(worker) for worker in range(connections)))
        return done / (time.perf_counter() - began)


async def ask(streams: Streams, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    reader, writer = streams
    head = f"{method} {path} HTTP/1.1\r\nHost: bench\r\n"
    if body:
        head += f"Content-Type: {JSON}\r\nContent-Length: {len(body)}\r\n"
    writer.write(head.encode() + b"\r\n" + body)
    answer = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", answer)
    assert length is not None, answer
    return int(answer[9:12]), await reader.readexactly(int(length[1]))


async def account(client: Client, streams: Streams) -> str:
    """The token of a service account that may do everything."""
    await client.post(
        streams,
        "/api/v1/namespaces/default/serviceaccounts",
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "bench"}},
    )
    group = "rbac.authorization.k8s.io"
    await client.post(
        streams,
        f"/apis/{group}/v1/clusterrolebindings",
        {
            "apiVersion": f"{group}/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "bench"},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "ServiceAccount", "name": "bench", "namespace": "default"}],
        },
    )  # fmt: skip
    answer = await client.post(
        streams,
        "/api/v1/namespaces/default/serviceaccounts/bench/token",
        {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}},
    )
    return str(orjson.loads(answer)["status"]["token"])


# `%s` in a body is where the number goes that makes a name unique.
CREATE = """\
wrk.headers["Authorization"] = "Bearer {token}"
wrk.headers["Content-Type"] = "application/json"
local n = 0
function request()
  n = n + 1
  return wrk.format("POST", nil, nil, string.format('{body}', n))
end
"""
GET = 'wrk.headers["Authorization"] = "Bearer {token}"\n'


def wrk(
    server: Server, path: str, connections: int, seconds: float, token: str, body: str = ""
) -> float:
    """Requests a second over one thread; raises SystemExit when any was refused. With `body` it creates, else it gets."""
    script = server.data.parent / "wrk.lua"
    script.write_text(
        CREATE.replace("{token}", token).replace("{body}", body)
        if body
        else GET.replace("{token}", token)
    )
    result = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "-s", str(script), server.address + path],
        capture_output=True, text=True, check=True, timeout=seconds + 30,
    )  # fmt: skip
    rate = re.search(r"Requests/sec:\s+([\d.]+)", result.stdout)
    if rate is None or "Non-2xx" in result.stdout:
        raise SystemExit(f"wrk {path}: {result.stdout}")
    return float(rate[1])
