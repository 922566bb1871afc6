"""The API server over TLS: reads and durable creates a second, lists, fan-out to a thousand watchers, and memory.

    python -m bench.apiserver [--objects 30000] [--seconds 5] [--watchers 1000]

The server is a process of its own on a free port, the store is on the disk of `--directory`. Load comes from wrk when it is
installed, else from asyncio clients here.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import cast

import orjson
import uvloop

from bench import laden, processes
from bench.laden import MAP, MAPS, WRITERS, maker
from bench.load import HAS_WRK, Client, Server, Streams, account, wrk
from bench.table import Figure, progress, show

CONNECTIONS = 16  # of which the budgets speak
CROWD = WRITERS  # more share each commit
LISTED = 500
EVENTS = 20  # one after another, to see how long each takes to reach the last watcher

PODS = "/api/v1/namespaces/default/pods"
WATCHED = "/api/v1/namespaces/fan/configmaps"
LIST = "/api/v1/namespaces/list/configmaps"
VALUE = "x" * 100
# With %s for what makes the name unique.
POD = (
    '{"apiVersion":"v1","kind":"Pod","metadata":{"name":"%s","labels":{"app":"bench"}},'
    '"spec":{"containers":[{"name":"c","image":"example.org/idle:1","ports":[{"containerPort":8080}],'
    '"resources":{"requests":{"cpu":"10m","memory":"16Mi"}},'
    '"env":[{"name":"POD_NAME","valueFrom":{"fieldRef":{"fieldPath":"metadata.name"}}}]}]}}'
)

CREATES = (("ConfigMap", MAPS, 4200, MAP), ("Pod", PODS, 2500, POD))


class Bench:
    def __init__(self, server: Server, seconds: float) -> None:
        self.server = server
        self.seconds = seconds
        self.client = Client(server)
        self.token = ""

    async def prepare(self, streams: Streams) -> None:
        self.token = await account(self.client, streams)
        await self.client.post(
            streams, "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "list"}}
        )  # fmt: skip
        # Pods are admitted only beside their service account, which a controller would have made.
        await self.client.post(
            streams,
            "/api/v1/namespaces/default/serviceaccounts",
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}},
        )
        for number in range(LISTED):
            found = {"name": f"c{number}", "namespace": "list"}
            body = {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": found,
                "data": {"key": VALUE},
            }
            await self.client.post(streams, LIST, body)

    async def rate(
        self, name: str, path: str, connections: int, budget: float, body: str = ""
    ) -> Figure:
        """On a busy machine the processor time of one request tells more than the rate."""
        progress(name)
        before, began = processes.seconds([self.server.pid]), time.perf_counter()
        if HAS_WRK:
            rate = await asyncio.to_thread(
                wrk, self.server, path, connections, self.seconds, self.token, body % "w-%d" if body else ""
            )  # fmt: skip
        else:
            make = maker(body, "w") if body else None
            rate = await self.client.flood(path, connections, self.seconds, make)
        took = time.perf_counter() - began
        cost = (processes.seconds([self.server.pid]) - before) / (rate * took) * 1e6
        return Figure(name, rate, "/s", budget, note=f"{cost:.0f} µs of processor each")


class Crowd:
    """Many watchers of one collection, and how many events they have seen together."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.seen = 0
        self.goal = 0
        self.reached = asyncio.Event()
        self.transports: list[asyncio.BaseTransport] = []

    async def join(self, client: Client, watchers: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(watchers):
            transport, _ = await loop.create_connection(
                lambda: Watcher(self), client.host, client.port, ssl=client.context
            )
            self.transports.append(transport)

    def count(self, events: int) -> None:
        self.seen += events
        if self.seen >= self.goal:
            self.reached.set()

    async def time(self, events: int, work: Awaitable[object]) -> float:
        """Seconds from the start of `work`, which makes `events`, until every watcher has seen them all."""
        self.reached.clear()
        self.goal = self.seen + events * len(self.transports)
        began = time.perf_counter()
        await work
        async with asyncio.timeout(60):
            await self.reached.wait()
        return time.perf_counter() - began

    def leave(self) -> None:
        for transport in self.transports:
            transport.close()


class Watcher(asyncio.Protocol):
    """One watch, which only counts how often `MARK` goes by."""

    MARK = b'"name":"fan-'

    def __init__(self, crowd: Crowd) -> None:
        self.crowd = crowd
        self.tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        request = f"GET {self.crowd.path} HTTP/1.1\r\nHost: bench\r\n\r\n"
        cast(asyncio.Transport, transport).write(request.encode())  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        data = self.tail + data
        self.crowd.count(data.count(self.MARK))
        self.tail = data[1 - len(self.MARK) :]


async def fan_out(client: Client, streams: Streams, pid: int, watchers: int) -> list[Figure]:
    progress(f"{watchers} watchers")
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "fan"}}
    created = orjson.loads(await client.post(streams, "/api/v1/namespaces", namespace))
    since = created["metadata"]["resourceVersion"]
    crowd = Crowd(f"{WATCHED}?watch=true&resourceVersion={since}")
    writers = [await client.open() for _ in range(WRITERS)]
    before = processes.pss(pid)
    await crowd.join(client, watchers)

    async def create(name: str, streams: Streams = streams) -> None:
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"fan-{name}"}}
        await client.post(streams, WATCHED, body)

    try:
        await crowd.time(1, create("first"))
        memory = (processes.pss(pid) - before) / watchers
        times = [await crowd.time(1, create(f"one-{n}")) * 1e3 for n in range(EVENTS)]
        burst = asyncio.gather(*(create(f"burst-{n}", one) for n, one in enumerate(writers)))
        rate = WRITERS * watchers / await crowd.time(WRITERS, burst)
    finally:
        crowd.leave()
        for _, writer in writers:
            writer.close()
    spread = f"best {min(times):.0f}, worst {max(times):.0f}; from the create to the last watcher"
    return [
        Figure(f"one event to {watchers:,} watchers", statistics.median(times), "ms", least=False, note=spread),
        Figure(f"events to {watchers:,} watchers", rate, "/s", note=f"of {WRITERS} creates at once"),
        Figure("memory of a watcher", memory, "kB", least=False, note="with its TLS connection"),
    ]  # fmt: skip


async def measure(server: Server, options: argparse.Namespace) -> list[Figure]:
    bench = Bench(server, options.seconds)
    streams = await bench.client.open()
    await bench.prepare(streams)
    figures = [
        await bench.rate("GET one ConfigMap, 16 connections", f"{LIST}/c0", CONNECTIONS, 10000),
        await bench.rate("LIST 500 ConfigMaps, 16 connections", LIST, CONNECTIONS, 450),
        *[
            await bench.rate(
                f"create {kind}, durable, {writers} connections",
                path,
                writers,
                budget,
                body.replace('"%s"', f'"%s-{writers}"', 1),
            )
            for kind, path, budget, body in CREATES
            for writers in (CONNECTIONS, CROWD)
        ],
        *await fan_out(bench.client, streams, server.pid, options.watchers),
    ]  # fmt: skip
    streams[1].close()
    return figures


async def filled(server: Server, objects: int) -> Figure:
    """The memory of a server that has just started, after so many creates."""
    rate = await laden.load(server, objects)
    memory = processes.pss(server.pid) / 1024
    note = f"created at {rate:,.0f} /s by asyncio clients"
    return Figure(f"memory after {objects:,} creates", memory, "MB", 200, False, note=note)


async def emptied(server: Server) -> Figure:
    await laden.unload(server)
    memory = await laden.settled(server.pid)
    return Figure("memory after they were deleted", memory, "MB", 70, False)


def with_many(data: Path, objects: int) -> list[Figure]:
    server = Server(data)
    try:
        figures = [uvloop.run(filled(server, objects)), uvloop.run(emptied(server))]
        uvloop.run(laden.load(server, objects))
    finally:
        server.stop()
    starts = []
    for _ in range(3):
        server = Server(data)
        starts.append(server.ready * 1e3)
        server.stop()
    name = f"start again, {objects:,} objects in the store"
    return [*figures, Figure(name, statistics.median(starts), "ms", 2000, False)]


def main() -> None:
    parser = argparse.ArgumentParser(description="The API server over TLS.")
    parser.add_argument("--objects", type=int, default=30000)
    parser.add_argument("--seconds", type=float, default=5.0, help="per measurement")
    parser.add_argument("--watchers", type=int, default=1000)
    parser.add_argument("--directory", default=".", help="where the disk to measure is mounted")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="apiserver-bench-", dir=options.directory) as scratch:
        data = Path(scratch) / "data"
        starts = []
        for _ in range(4):  # the first makes certificates
            server = Server(data)
            starts.append(server.ready * 1e3)
            idle = processes.pss(server.pid) / 1024
            server.stop()
        figures = [
            Figure("start, alone, with new certificates", starts[0], "ms", 700, False),
            Figure("start again", statistics.median(starts[1:]), "ms", 700, False),
            Figure("memory, idle", idle, "MB", 70, False),
        ]
        server = Server(data)
        try:
            figures += uvloop.run(measure(server, options))
        finally:
            server.stop()
        figures += with_many(Path(scratch) / "more" / "data", options.objects)
    source = "wrk, one thread" if HAS_WRK else "asyncio clients: wrk is not installed"
    remark = f"Load from {source}; TLS, a service account's token, RBAC."
    show("API server", figures, [remark])


if __name__ == "__main__":
    main()
