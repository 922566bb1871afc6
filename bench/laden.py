"""Thirty thousand ConfigMaps: put into a server's store, and taken out again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from bench import processes
from bench.load import Client, Reached, ask
from bench.table import progress

MAPS = "/api/v1/namespaces/default/configmaps"
# With %s for what makes the name unique.
MAP = (
    '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"%s"},"data":{"key":"'
    + "x" * 100
    + '"}}'
)
WRITERS = 64
LONGEST = 180.0  # seconds
LEVEL = 2.0  # seconds for which memory has not become less, after which it is taken for what it is


def maker(body: str, prefix: str) -> Callable[[int, int], bytes]:
    return lambda worker, number: (body % f"{prefix}-{worker}-{number}").encode()


async def load(server: Reached, objects: int) -> float:
    """Creates a second."""
    progress(f"{objects:,} creates")
    return await Client(server).flood(MAPS, WRITERS, LONGEST, maker(MAP, "m"), objects)


async def unload(server: Reached) -> None:
    """All of them in one request. Raises SystemExit when it is refused."""
    progress("and their deletion")
    streams = await Client(server).open()
    status, answer = await ask(streams, "DELETE", MAPS)
    streams[1].close()
    if status != 200:
        raise SystemExit(f"DELETE {MAPS}: {status} {answer[:500]!r}")


async def settled(pid: int) -> float:
    """MB of a process, once it gives nothing back any more."""
    least, since = processes.pss(pid), time.monotonic()
    while time.monotonic() < since + LEVEL:
        await asyncio.sleep(0.1)
        found = processes.pss(pid)
        if found < least - 100:
            least, since = found, time.monotonic()
    return processes.pss(pid) / 1024
