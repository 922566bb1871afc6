"""Store: durable writes a second by number of writers, reads, long ranges, and watch fan-out.

    python -m bench.store [--seconds 2] [--directory DIR]

The value is the size of a small ConfigMap. `--directory` chooses the disk that is measured; by default a temporary directory
under the current one, since /tmp is often memory. The peer is etcd, when it is installed, over gRPC on the loopback.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import tempfile
import time
from pathlib import Path

from bench.peers import Etcd, repeated
from bench.table import Figure, progress, show
from sampan.store.sqlite import SQLiteStore

VALUE = b"x" * 800
WRITERS = (1, 16, 64)  # at once


async def peer_writes(directory: Path, seconds: float) -> dict[int, float]:
    """Creates a second of a stock etcd, by writers at once; empty when there is none."""
    if shutil.which("etcd") is None:
        return {}
    async with Etcd(directory) as etcd:

        async def create(worker: int, number: int) -> None:
            await etcd.put(f"/registry/configmaps/ns/{worker}-{number}", VALUE)

        return {workers: await repeated(seconds, workers, create) for workers in WRITERS}


async def writes(directory: Path, seconds: float, workers: int, peer: float | None) -> Figure:
    store = await SQLiteStore.open(directory / f"w{workers}" / "state.db")

    async def create(worker: int, number: int) -> None:
        await store.put(f"/registry/configmaps/ns/{worker}-{number}", VALUE, expect=0)

    rate = await repeated(seconds, workers, create)
    await store.close()
    budget = 4200 if workers == 16 else None
    return Figure(f"create, {workers} at once", rate, "/s", budget, peer=peer)


async def updates(directory: Path, seconds: float) -> Figure:
    store = await SQLiteStore.open(directory / "u" / "state.db")

    async def update(worker: int, number: int) -> None:
        await store.put(f"/registry/leases/{worker}", VALUE, expect=None)

    rate = await repeated(seconds, 16, update)
    await store.close()
    return Figure("update, 16 at once", rate, "/s")


async def reads(directory: Path, seconds: float) -> list[Figure]:
    store = await SQLiteStore.open(directory / "r" / "state.db")
    keys = [f"/registry/pods/ns/{number:05}" for number in range(10_000)]
    for start in range(0, len(keys), 1000):
        await asyncio.gather(*(store.put(k, VALUE, expect=0) for k in keys[start : start + 1000]))

    async def get(worker: int, number: int) -> None:
        await store.get(keys[number * 7919 % len(keys)])

    async def page(worker: int, number: int) -> None:
        await store.range("/registry/pods/", limit=500)

    async def whole(worker: int, number: int) -> None:
        await store.range("/registry/pods/")

    figures = [
        Figure("get", await repeated(seconds, 1, get), "/s"),
        Figure("range of 500", await repeated(seconds, 1, page), "/s"),
        Figure("range of 10,000", await repeated(seconds, 1, whole), "/s"),
    ]
    await store.close()
    return figures


async def fan_out(directory: Path, watches: int) -> Figure:
    """Changes delivered a second when every watch wants every change."""
    store = await SQLiteStore.open(directory / f"f{watches}" / "state.db")
    total = 2000 if watches < 100 else 200

    async def follow() -> None:
        seen = 0
        async for changes in store.watch("/registry/pods/", 0):
            seen += len(changes)
            if seen == total:
                return

    followers = [asyncio.ensure_future(follow()) for _ in range(watches)]
    await asyncio.sleep(0)
    began = time.perf_counter()
    for start in range(0, total, 16):
        await asyncio.gather(
            *(
                store.put(f"/registry/pods/{number}", VALUE, expect=0)
                for number in range(start, min(start + 16, total))
            )
        )
    await asyncio.gather(*followers)
    rate = total * watches / (time.perf_counter() - began)
    await store.close()
    return Figure(f"watch fan-out, {watches} watches", rate, "changes/s")


async def bystanders(directory: Path, seconds: float) -> Figure:
    """Writes while 1000 watches look at other prefixes: they must cost nothing."""
    store = await SQLiteStore.open(directory / "b" / "state.db")
    watches = [store.watch(f"/registry/pods/ns-{number}/", 0) for number in range(1000)]

    async def create(worker: int, number: int) -> None:
        await store.put(f"/registry/configmaps/ns/{worker}-{number}", VALUE, expect=0)

    rate = await repeated(seconds, 16, create)
    for watch in watches:
        await watch.aclose()
    await store.close()
    return Figure("create, 16 at once, beside 1000 other watches", rate, "/s")


async def main(directory: Path, seconds: float) -> None:
    progress("etcd, when installed")
    peer = await peer_writes(directory, seconds)
    progress("writes")
    figures = [await writes(directory, seconds, workers, peer.get(workers)) for workers in WRITERS]
    figures.append(await updates(directory, seconds))
    figures.append(await bystanders(directory, seconds))
    progress("reads and watches")
    figures += await reads(directory, seconds)
    figures += [await fan_out(directory, watches) for watches in (1, 1000)]
    remark = (
        "Stock is etcd, over gRPC." if peer else "No etcd is installed: nothing to compare with."
    )
    show("Store (SQLite, every write on disk)", figures, [remark])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="per measurement")
    parser.add_argument("--directory", default=".", help="where the disk to measure is mounted")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="store-bench-", dir=arguments.directory) as directory:
        try:
            import uvloop
        except ImportError:
            asyncio.run(main(Path(directory), arguments.seconds))
        else:
            uvloop.run(main(Path(directory), arguments.seconds))
